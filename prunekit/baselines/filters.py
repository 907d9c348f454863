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
from typing import Annotated, Any, Unpack

import torch
from torch import Tensor, nn

from prunekit import score, select
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
from prunekit.mask import Mask
from prunekit.method import method
from prunekit.nodes import Nodes
from prunekit.products import NORMS
from prunekit.rounds import On, Rounds, in_rounds
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
    nodes = Nodes("filters", model, data, ignore)
    nodes.check_spare("filters")
    if criterion == "scale" and not any(_scales(model, nodes, name) for name in nodes.sizes):
        raise ValueError(
            f"filters: {nodes.groups.model} has no norms whose scales could be the criterion"
        )
    if sparse_epochs and criterion != "scale":
        raise ValueError(
            f"filters: sparse_epochs are for the criterion 'scale', got {sparse_epochs} with "
            f"{criterion!r}"
        )
    if widths and isinstance(share, select.Budget):
        raise ValueError("filters: takes a budget or widths, not both")
    if widths:
        nodes.widths("filters", widths)


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
    rounds: Rounds = 1,
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
    rounds: in how many cuts: 1 is one-shot, more is iterative.
    scope: whether filters compete in their layer or in the whole model, there by means over their
        weights.
    multiple: each layer keeps a multiple of so many filters, if it has as many.
    on: which network is fine-tuned: "shrunk", without the filters, or "masked", which takes longer.
    recalibrate: estimate the running statistics of norms anew after each cut, before training.
    ignore: names of weights whose filters stay.
    """
    nodes = Nodes("filters", model, data, ignore)
    goal: select.Target = nodes.widths("filters", widths) if widths else share
    scope = "layer" if widths else scope
    reduce = "mean" if scope == "global" else "norm" if criterion == "l2" else "sum"
    generator = torch.Generator().manual_seed(derive(seed, "filters"))

    def worth() -> dict[str, Tensor]:
        if criterion == "random":
            return {name: torch.rand(n, 1, generator=generator) for name, n in nodes.sizes.items()}
        if criterion == "scale":
            found = {name: _scales(model, nodes, name) for name in nodes.sizes}
            return {name: scales[0] for name, scales in found.items() if scales}
        made = {
            weight: dim for name in nodes.sizes for weight, dim, *_ in nodes.groups.filters(name)
        }
        if criterion == "median":
            scores = score.median(model, made, made)
        else:
            scores = score.magnitude(model, made)
        return select.pool(scores, "filter", reduce, nodes.groups)

    def choose(mask: Mask, target: Any) -> Mask:
        values = {name: value for name, value in worth().items() if name in nodes.sizes}
        within = nodes.left(mask)

        def whole(units: Mask) -> Mask:
            return nodes.mask(model, {name: keep[:, 0] for name, keep in units.items()}, mask)

        if isinstance(target, select.Budget):
            target = target.over(whole)
        left = Mask({name: within[name].unsqueeze(1) for name in values})
        return whole(select.largest(values, target, scope, left, multiple))

    if sparse_epochs:
        before: Tuning = {**tuning, "epochs": sparse_epochs}
        yield from fit(
            model, data, mask=nodes.start, penalty=partial(_on_scales, cost=penalty),
            seed=derive(seed, "scales"), run=run, **before,
        )  # fmt: skip
    yield from in_rounds(
        model, data, nodes.start, choose,
        sparsity=goal, rounds=rounds, seed=seed, run=run, on=on, recalibrate=recalibrate,
        ignore=ignore, **tuning,
    )  # fmt: skip


def _scales(model: nn.Module, nodes: Nodes, name: str) -> list[Tensor]:
    """|scale| of each group of a family, `(n, 1)`, the mean over its norms; [] if it has none."""
    parameters, norms = dict(model.named_parameters()), dict(model.named_modules())
    found = list[Tensor]()
    for scale, _, rows, of in nodes.groups.carried(name):
        module, _, own = scale.rpartition(".")
        if own == "weight" and isinstance(norms[module], NORMS):
            values = torch.zeros(nodes.sizes[name], 1)
            values[torch.from_numpy(of), 0] = parameters[scale].detach().cpu().float().abs()[rows]
            found.append(values)
    return [torch.stack(found).mean(0)] if found else []


def _on_scales(model: nn.Module, t: float, cost: float) -> None:
    """Add the slope of cost × |scale| to the gradients of all scales of norms."""
    for scale in (module.weight for module in model.modules() if isinstance(module, NORMS)):
        if scale is not None and scale.grad is not None:
            scale.grad.add_(scale.detach().sign(), alpha=cost)
