"""Filter pruning: whole filters go, those that a criterion finds least important.

Norms: Li, Kadav, Durdanovic, Samet and Graf 2017, "Pruning filters for efficient ConvNets", arXiv
1608.08710. Geometric median: He, Liu, Wang, Hu and Yang 2019, "Filter pruning via geometric median
for deep convolutional neural networks acceleration", arXiv 1811.00250. Scales of norms: Liu, Li,
Shen, Huang, Yan and Zhang 2017, "Learning efficient convolutional networks through network
slimming", arXiv 1708.06519.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Unpack

import torch
from torch import Tensor, nn

from prunekit import score, select, surgery
from prunekit.knobs import Choice, Count, Fraction, Names, Scope
from prunekit.mask import Mask, prunable
from prunekit.method import method
from prunekit.products import NORMS
from prunekit.rounds import On, in_rounds
from prunekit.steps import Run, Step, derive
from prunekit.train import Tuning

CRITERIA = ("l1", "l2", "median", "scale", "random")


def _check(model: nn.Module, data: Any, *, ignore: Names, criterion: str, **_: object) -> None:
    groups = surgery.groups(model, data.example)
    families = _families(groups, model, data, ignore)
    if not families:
        why = next((family.fixed for family in groups if family.fixed), "it has none")
        raise ValueError(f"filters: {groups.model} has no filters that can go ({why})")
    if criterion == "scale" and not any(_scales(model, groups, name) for name in families):
        raise ValueError(
            f"filters: {groups.model} has no norms whose scales could be the criterion"
        )


@method(check=_check, tuning=dict(epochs=0, lr=0.01), quick=dict(rounds=2, epochs=2))
def filters(
    model: nn.Module,
    data: Any,
    *,
    share: Fraction = 0.5,
    criterion: Annotated[str, Choice(*CRITERIA)] = "l1",
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
    criterion: what a filter is worth: "l1", "l2", the norm of its weights; "median", how far it is
        from the other filters of its layer; "scale", the scale of the norm behind it; "random".
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

    yield from in_rounds(
        model, data, _whole(model, groups, families, data), choose,
        sparsity=share, rounds=rounds, seed=seed, run=run, on=on, recalibrate=recalibrate,
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
