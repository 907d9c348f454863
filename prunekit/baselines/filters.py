"""Filter pruning: whole filters go, those that a criterion finds least important.

Norms: Li, Kadav, Durdanovic, Samet and Graf 2017, "Pruning filters for efficient ConvNets", arXiv
1608.08710. Geometric median: He, Liu, Wang, Hu and Yang 2019, "Filter pruning via geometric median
for deep convolutional neural networks acceleration", arXiv 1811.00250. Scales of norms, trained
with a penalty on their sizes: Liu, Li, Shen, Huang, Yan and Zhang 2017, "Learning efficient
convolutional networks through network slimming", arXiv 1708.06519.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from operator import gt
from typing import Annotated, Any, Unpack

import torch
from torch import Tensor, nn

from prunekit import score, select, surgery
from prunekit.knobs import (
    Choice,
    Count,
    Fraction,
    Names,
    Natural,
    NonNegative,
    Range,
    Scope,
    Several,
)
from prunekit.mask import Mask, prunable
from prunekit.method import method
from prunekit.products import NORMS
from prunekit.rounds import On, in_rounds
from prunekit.steps import Run, Step, derive
from prunekit.train import Tuning, fit

CRITERIA = ("l1", "l2", "median", "scale", "random")

# The weights of residual networks whose filters are added up along the shortcuts, for `ignore`.
TRUNK = ("conv1.weight", "*.conv2.weight")


def _blocks(stages: dict[int, float], whole: set[int]) -> tuple[int, ...]:
    """Widths of the first convolutions of ResNet-56's blocks, which are layers 2, 4, ..., 54: of
    each stage, by its channels, a share goes, of the layers in `whole` nothing."""
    left = [(n, int(n * (1 - share))) for n, share in stages.items() for _ in range(9)]
    pairs = zip(range(2, 56, 2), left, strict=True)
    return tuple(n if layer in whole else kept for layer, (n, kept) in pairs)


# The widths of Li et al. 2017, table 1, for `widths`; those of ResNet-56 leave its `TRUNK` whole.
PLANS = {
    "vgg_16": (32, 64, 128, 128, *[256] * 9),
    "resnet_56 A": _blocks({16: 0.1, 32: 0.1, 64: 0.1}, {16, 20, 38, 54}),
    "resnet_56 B": _blocks({16: 0.6, 32: 0.3, 64: 0.1}, {16, 18, 20, 34, 38, 54}),
}


def _check(
    model: nn.Module,
    data: Any,
    *,
    share: Any,
    widths: tuple[int, ...],
    criterion: str,
    sparse_epochs: int,
    ignore: Names,
    **_: object,
) -> None:
    groups = surgery.groups(model, data.example)
    families = _families(groups, model, data, ignore)
    if not families:
        why = next((family.fixed for family in groups if family.fixed), "it has none")
        raise ValueError(f"filters: {groups.model} has no filters that can go ({why})")
    if criterion == "scale" and not any(_scales(model, groups, name) for name in families):
        raise ValueError(
            f"filters: {groups.model} has no norms whose scales could be the criterion"
        )
    if sparse_epochs and criterion != "scale":
        raise ValueError(
            f"filters: sparse_epochs are for the criterion 'scale', got {sparse_epochs} with "
            f"{criterion!r}"
        )
    if widths and isinstance(share, select.Budget):
        raise ValueError("filters: takes a budget or widths, not both")
    have = {name: len(groups.members[name]) for name in families}
    if widths and (len(widths) != len(have) or any(map(gt, widths, have.values()))):
        raise ValueError(
            f"filters: widths must be one for each of {have}, and no more than there are, "
            f"got {widths}"
        )


def _work(rounds: int, epochs: int, sparse_epochs: int, **_: object) -> tuple[int, int]:
    return rounds, sparse_epochs + rounds * epochs


@method(check=_check, tuning=dict(epochs=0, lr=0.01), quick=dict(rounds=2, epochs=2), work=_work)
def filters(
    model: nn.Module,
    data: Any,
    *,
    share: Fraction = 0.5,
    widths: Annotated[tuple[int, ...], Several(Range(1))] = (),
    criterion: Annotated[str, Choice(*CRITERIA)] = "l1",
    sparse_epochs: Natural = 0,
    penalty: NonNegative = 1e-4,
    rounds: Count = 1,
    scope: Scope = "layer",
    multiple: Count = 1,
    on: On = "shrunk",
    recalibrate: bool = False,
    ignore: Names = (),
    seed: int = 0,
    run: Run = Run(),
    **tuning: Unpack[Tuning],
) -> Iterator[Step]:
    """Remove the filters that matter least, `rounds` times, fine-tuning after each.

    Filters that can only go together (see `prunekit.surgery`) are judged, and go, as one.

    share: of the filters how many are removed at the end; each round removes an equal share of the
        rest.
    widths: instead of `share`, how many filters each layer keeps at the end, one number a family of
        filters that can go, in the order of `surgery.groups`; `PLANS` holds published ones.
    criterion: what a filter is worth: "l1", "l2", the norm of its weights; "median", how far it is
        from the other filters of its layer; "scale", the scale of the norm behind it; "random".
    sparse_epochs: with "scale", epochs of training before the first cut with a penalty on the sizes
        of all scales, so that the network makes small those that it needs least.
    penalty: what a scale of 1 adds to the loss meanwhile.
    rounds: 1 is one-shot, more is iterative.
    scope: whether filters compete in their layer or in the whole model, there by means over their
        weights.
    multiple: each layer keeps a multiple of so many filters, if it has as many.
    on: which network is fine-tuned: "shrunk", without the filters, or "masked", which takes longer.
    recalibrate: estimate the running statistics of norms anew after each cut, before training.
    ignore: names of weights whose filters stay.
    """
    groups = surgery.groups(model, data.example)
    families = _families(groups, model, data, ignore)
    goal: select.Target = share
    if widths:
        goal = {n: 1 - w / len(groups.members[n]) for n, w in zip(families, widths, strict=True)}
        scope = "layer"
    reduce = "mean" if scope == "global" else "norm" if criterion == "l2" else "sum"
    generator = torch.Generator().manual_seed(derive(seed, "filters"))

    def worth() -> dict[str, Tensor]:
        if criterion == "random":
            return {n: torch.rand(len(groups.members[n]), 1, generator=generator) for n in families}
        if criterion == "scale":
            found = {name: _scales(model, groups, name) for name in families}
            return {name: scales[0] for name, scales in found.items() if scales}
        made = {weight for name in families for weight, *_ in groups.filters(name)}
        scores = (score.median if criterion == "median" else score.magnitude)(model, made)
        return select.pool(scores, "filter", reduce, groups)

    def choose(mask: Mask, target: Any) -> Mask:
        values = {name: value for name, value in worth().items() if name in families}
        left = select.pool(
            {name: keep.float() for name, keep in mask.items()}, "filter", groups=groups
        )
        within = Mask({name: left[name] > 0 for name in values})

        def whole(units: Mask) -> Mask:
            gone = {name: mask[name] & keep for name, keep in select.spread(units, groups).items()}
            return surgery.couple(model, Mask({**mask, **gone}), groups, partial=True)

        if isinstance(target, select.Budget):
            target = target.over(whole)
        return whole(select.largest(values, target, scope, within, multiple))

    mask = _whole(model, groups, families, data)
    if sparse_epochs:
        before: Tuning = {**tuning, "epochs": sparse_epochs}
        yield from fit(
            model, data, mask=mask, penalty=partial(_on_scales, cost=penalty),
            seed=derive(seed, "scales"), run=run, **before,
        )  # fmt: skip
    yield from in_rounds(
        model, data, mask, choose,
        sparsity=goal, rounds=rounds, seed=seed, run=run, on=on, recalibrate=recalibrate,
        **tuning,
    )  # fmt: skip


def _families(groups: surgery.Groups, model: nn.Module, data: Any, ignore: Names) -> list[str]:
    """The families whose filters may go: none of them is to be ignored."""
    may = {*prunable(model, False, ignore, data.example)}
    return [n for n in groups.names if all(weight in may for weight, *_ in groups.filters(n))]


def _scales(model: nn.Module, groups: surgery.Groups, name: str) -> list[Tensor]:
    """|scale| of each group of a family, `(n, 1)`, the mean over its norms; [] if it has none."""
    parameters, norms = dict(model.named_parameters()), dict(model.named_modules())
    found = list[Tensor]()
    for scale, _, rows, of in groups.carried(name):
        module, _, own = scale.rpartition(".")
        if own == "weight" and isinstance(norms[module], NORMS):
            values = torch.zeros(len(groups.members[name]), 1)
            values[torch.from_numpy(of), 0] = parameters[scale].detach().cpu().float().abs()[rows]
            found.append(values)
    return [torch.stack(found).mean(0)] if found else []


def _on_scales(model: nn.Module, t: float, cost: float) -> None:
    """Add the slope of cost × |scale| to the gradients of all scales of norms."""
    for scale in (module.weight for module in model.modules() if isinstance(module, NORMS)):
        if scale is not None and scale.grad is not None:
            scale.grad.add_(scale.detach().sign(), alpha=cost)


def _whole(model: nn.Module, groups: surgery.Groups, families: list[str], data: Any) -> Mask:
    """What is there to remove: weights that are left, biases, scales and shifts."""
    whole = Mask.ones(model, example=data.example).left(model)
    others = {
        name: torch.ones(groups.shapes[name], dtype=torch.bool)
        for family in families
        for name, *_ in groups.carried(family)
        if name in groups.parameters
    }
    return Mask({**others, **whole})
