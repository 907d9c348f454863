"""Stripes learned while training: a penalty on the filters' skeletons, a threshold for each filter.

Every filter has a skeleton, a number for each place of its kernel. A penalty (CDP) makes the
numbers small, stripe by stripe or filter by filter, after how alike the skeletons of the layer are;
a threshold (DTC), high for weak filters and low for strong ones, takes the small ones out. Li,
Wang, Wu and Kang 2023, AI Communications 36(4), doi 10.3233/AIC-230046; it builds on stripe-wise
pruning (SWP), Meng et al. 2020, arXiv 2009.14410.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Unpack

import torch
from torch import Tensor, nn

from prunekit import search, stripes, surgery
from prunekit.knobs import Choice, Names, NonNegative, Useful
from prunekit.mask import Mask
from prunekit.method import method
from prunekit.steps import Run, Step, derive
from prunekit.stripes import LEAST, Striped, Threshold
from prunekit.train import Tuning, fit

WHO = "cdp_dtc"
PENALTIES = ("cdp", "swp")
MOST = 2.0  # how far a strength may move, up or down


def _check(model: nn.Module, data: Any, *, ignore: Names, skeletons_of: Names, **_: object) -> None:
    surgery.matching(WHO, stripes.convolutions(model, ignore, WHO), skeletons_of)


def _work(epochs: int, **_: object) -> tuple[int, int]:
    return 1, epochs


@method(
    check=_check, work=_work,
    tuning=dict(epochs=30, lr=0.1, batch=64, weight_decay=1e-4, schedule="steps"),
    quick=dict(strength=0.5, delta=0.7, epochs=3, batch=16, lr=0.03),
)  # fmt: skip
def cdp_dtc(
    model: nn.Module,
    data: Any,
    *,
    penalty: Annotated[str, Choice(*PENALTIES)] = "cdp",
    threshold: Threshold = "dtc",
    strength: Annotated[NonNegative, Useful(1e-7, 1e-3, log=True)] = 5e-6,
    delta: Annotated[NonNegative, Useful(0.01, 0.5, log=True)] = 0.05,
    per: Annotated[str, Choice("epoch", "step")] = "epoch",
    skeleton_decay: Annotated[NonNegative, Useful(0, 4)] = 1.0,
    final: Annotated[str, Choice("training", "base")] = "training",
    keep: Annotated[str, Choice("best", "last")] = "best",
    skeletons_of: Names = (),
    ignore: Names = (),
    seed: int = 0,
    run: Run = Run(),
    **tuning: Unpack[Tuning],
) -> Iterator[Step]:
    """Train with skeletons, which lose their stripes meanwhile; what is left is the network.

    penalty: on the skeletons: "swp", 2 × strength × their L1 norm, which is what the authors' code
        computes; "cdp", what they describe: strength × (b × filters + a × stripes), the norms of
        whole skeletons and the L1 norm, with b = 1 / a the change of how alike skeletons are.
    threshold: below which a stripe goes: "fixed", delta for all; "dtc", delta × the mean of the
        filters' norms / the filter's own.
    strength: of the penalty, the λ of the paper.
    delta: the δ of the paper.
    per: how often a and b are told: once an "epoch", or at every "step".
    skeleton_decay: the weight decay of skeletons, in multiples of `weight_decay`.
    final: the rule of the last cut: that of the "training", or the "base" threshold for all
        filters, as in the authors' code.
    keep: whether the epoch that is "best" by validation is cut, or the "last".
    skeletons_of: names of weights whose skeletons each step tells.
    ignore: names of weights whose filters have no skeleton.
    """
    # paper: from scratch, scales of norms 0.5 and a small last layer; here: as the model comes.
    decay = {"*skeleton": skeleton_decay * tuning["weight_decay"]}
    start = Mask.ones(model, example=data.example).left(model)
    stripes.wrap(model, ignore)
    for name, conv in stripes.layers(model).items():
        if name in start:  # what an earlier pruning removed
            conv.alive &= start[name].any(1, keepdim=True).to(conv.alive.device)
    groups, mask = surgery.groups(model, data.example, ignore), start
    shown = sorted(surgery.matching(WHO, stripes.layers(model), skeletons_of))
    try:
        for step in fit(
            model, data, mask=start, seed=derive(seed, "fit"), run=run, keep=keep, decay=decay,
            penalty=partial(
                _press, penalty=penalty, strength=strength, per=per, epochs=tuning["epochs"]
            ),
            remask=partial(
                _cut, delta=delta, threshold=threshold, epochs=tuning["epochs"], groups=groups
            ),
            remask_when="before", every=1, tell=partial(_told, of=shown) if shown else None,
            **tuning,
        ):  # fmt: skip
            mask = step.mask
            yield replace(step, info={**stripes.shares(mask), **step.info})
        for conv in stripes.layers(model).values():
            conv.cut_(delta, threshold if final == "training" else "fixed")
        mask = stripes.left(model, mask, groups)
    finally:
        stripes.unwrap(model)
    yield search.cut(model, data, mask, 1, 1, run, **stripes.shares(mask))


def _told(model: nn.Module, of: Sequence[str]) -> dict[str, Any]:
    """Some skeletons, (n, h × w) each."""
    found = {
        name: conv.skeleton.detach().mul(conv.alive).flatten(1).tolist()
        for name, conv in stripes.layers(model).items()
        if name in of
    }
    rounded = {
        name: [[round(value, 4) for value in row] for row in rows] for name, rows in found.items()
    }
    return {"skeletons": rounded}


def _press(
    model: nn.Module, t: float, *, penalty: str, strength: float, per: str, epochs: int
) -> None:
    """Add the slopes of the penalty to the gradients of the skeletons."""
    epoch = math.ceil(t * epochs - 1e-9)
    for conv in stripes.layers(model).values():
        if conv.skeleton.grad is None:
            continue
        skeletons = (conv.skeleton.detach() * conv.alive).flatten(1)  # (n, k)
        if penalty == "swp":
            # code: sqrt(x²) of a filter's L1 norm is that norm, and the strengths never move.
            slope = 2 * skeletons.sign()
        else:
            if per == "step" or int(conv.epoch) != epoch:
                _tell(conv, skeletons, epoch)
            a, b = conv.strengths
            # √k times the norm, so that at a flat skeleton both terms have the same slope
            norms = skeletons.norm(dim=1, keepdim=True).clamp(min=LEAST)
            slope = a * skeletons.sign() + b * skeletons.shape[1] ** 0.5 * skeletons / norms
        conv.skeleton.grad.add_(slope.reshape(conv.skeleton.shape), alpha=strength)


@torch.no_grad()
def _tell(conv: Striped, skeletons: Tensor, epoch: int) -> None:
    """How alike the living skeletons are in all, and by how much that has changed: (a, b)."""
    alive = conv.alive.flatten(1).any(1)
    # paper: the strengths follow the state; here: without a gradient through them.
    state = stripes.similarity(skeletons[alive]).sum()
    if int(conv.epoch):
        b = (state / conv.state.clamp(min=LEAST)).clamp(1 / MOST, MOST)
        conv.strengths.copy_(torch.stack([1 / b, b]))
    conv.state.copy_(state)
    conv.epoch.fill_(epoch)


def _cut(
    model: nn.Module,
    mask: Mask,
    t: float,
    *,
    delta: float,
    threshold: str,
    epochs: int,
    groups: surgery.Groups,
) -> Mask:
    """Take stripes out of the skeletons; at the end of an epoch, what is left is the mask.

    paper: the norm of a filter without stripes is silenced at once; here: with that mask.
    """
    for conv in stripes.layers(model).values():
        conv.cut_(delta, threshold)
    return stripes.left(model, mask, groups) if round(t * epochs) / epochs == t else mask
