"""Pruning by an optimal threshold: how high can it be, if the network may lose so much accuracy?

A node, a filter or a hidden unit, is important if the loss is sensitive to it and no other node of
its layer says the same. Nodes below a threshold go: one threshold for all layers, or one a layer,
raised in turn where it buys most. Wang, Liu and Pan 2020, "Pruning algorithm of convolutional
neural network based on optimal threshold", ICMAI 2020, doi 10.1145/3395260.3395300.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Unpack

import torch
from torch import Tensor, nn

from prunekit import count, nodes, search, select, surgery
from prunekit.data import Data
from prunekit.judge import SLACK, as_metric, hardest_first
from prunekit.knobs import Choice, Count, Names, Natural, Range, Scope, Useful
from prunekit.mask import Mask
from prunekit.method import method
from prunekit.nodes import Activity, Kept, Nodes
from prunekit.recording import Changes
from prunekit.rounds import On, finetuned, recalibrated
from prunekit.steps import Run, Step, Tried, derive
from prunekit.train import Tuning

WHO = "optimal_threshold"
GRID = 50  # one threshold for all layers rises by 1 / so many
GENTLE = 0.1  # points of accuracy added to what a raise loses, so that none is free


def _check(model: nn.Module, data: Any, *, ignore: Names, **_: object) -> None:
    Nodes(WHO, model, data, ignore)


def _work(epochs: int, stride: float, scope: str, **_: object) -> tuple[int, int]:
    return GRID if scope == "global" else math.ceil(1 / stride), epochs


@method(
    check=_check, work=_work, tuning=dict(epochs=0, lr=0.01),
    quick=dict(tolerance=0.2, stride=0.3, examples=40, images=20, epochs=2),
)  # fmt: skip
def optimal_threshold(
    model: nn.Module,
    data: Any,
    *,
    tolerance: Annotated[select.Share, Useful(0, 0.1)] = 0.02,
    scope: Scope = "layer",
    sensitivity: Annotated[str, Choice(*nodes.SENSITIVITIES, "ablation")] = "taylor",
    correlation: nodes.Correlation = "largest",
    redundancy: select.Share = 0.5,
    combined: nodes.Combined = "product",
    stride: Annotated[float, Range(0, 1, low_open=True), Useful(0.01, 0.3, log=True)] = 1 / 32,
    images: Annotated[Natural, Useful(0, 5_000)] = 0,
    examples: Annotated[Count, Useful(100, 10_000)] = 5_000,
    again: Annotated[Natural, Useful(0, 50)] = 0,
    fold: bool = False,
    on: On = "shrunk",
    recalibrate: bool = False,
    ignore: Names = (),
    seed: int = 0,
    run: Run = Run(),
    **tuning: Unpack[Tuning],
) -> Iterator[Step]:
    """Raise the thresholds as far as the accuracy allows, then fine-tune what is left.

    tolerance: how much of the validation metric may be lost, before fine-tuning; 0.02 is 2 points.
    scope: "global", one threshold for all layers, which rises in steps of 1/50 until too much is
        lost; "layer", one each: of the next raises of all layers the best bargain is taken, the
        multiply-adds it saves over the accuracy it loses, until none is within the tolerance.
    sensitivity: what the network loses with a node: "taylor", to first order, by gradients;
        "deviation", how much it varies times the weights that read it; "ablation", measured, node
        by node.
    correlation: how much a node says what others of its layer say: its "largest" or its "mean"
        absolute correlation with them.
    redundancy: how much correlation counts; 0: sensitivity alone.
    combined: "product", s × (1 − redundancy × c), or "sum", (1 − redundancy) × s + redundancy ×
        (1 − c), s and c as ranks in the layer from 0 to 1.
    stride: the least share of a layer's nodes that a raise removes, at least one.
    images: on how many validation images raises are compared; what is taken is confirmed on all.
        0: on all.
    examples: training examples from which sensitivity and correlation are told.
    again: after so many raises the importance of what is left is found anew; 0: never.
    fold: a node that goes leaves to its twin, the one that is left which it correlates with most,
        what the twin can say of it.
    on: which network is searched and fine-tuned: "shrunk", without the nodes that have gone, or
        "masked", which takes longer.
    recalibrate: estimate the running statistics of norms anew before fine-tuning.
    ignore: names of weights whose filters stay.
    """
    how = _How(sensitivity, correlation, redundancy, combined, examples, run)
    state = _State(model, data, how, ignore, derive(seed, "importance"))
    mask = state.mask(model)
    if scope == "global":
        steps = _all_at_once(model, data, state, tolerance, fold, run)
    else:
        steps = _one_by_one(
            model, data, state, run,
            tolerance=tolerance, stride=stride, images=images, again=again, fold=fold, on=on,
        )  # fmt: skip
    for step in steps:
        mask = step.mask
        yield step
    if recalibrate:
        yield recalibrated(model, data, mask, 1, 1, seed=derive(seed, "norms"), run=run)
    else:
        yield search.cut(model, data, mask, 1, 1, run)
    yield from finetuned(
        model, data, mask, seed=derive(seed, "finetune"), run=run, on=on, ignore=ignore, **tuning
    )


# ----------------------------------------------------------------------------------- importance


@dataclass(frozen=True)
class _How:
    """What importance is made of."""

    sensitivity: str
    correlation: str
    redundancy: float
    combined: str
    examples: int
    run: Run

    def look(
        self, model: nn.Module, data: Any, own: Nodes, seed: int
    ) -> tuple[dict[str, Activity], dict[str, Tensor]]:
        """By layer, what examples tell of its nodes, and how important each is, (n,) in [0, 1]."""
        told: Any = dict(examples=self.examples, seed=seed, run=self.run)
        found = nodes.activity(WHO, model, data, own, **told)
        measured = None
        if self.sensitivity == "ablation":
            measured = nodes.ablation(WHO, model, data, own, **told)
        return found, nodes.importance(
            found,
            sensitivity="taylor" if measured else self.sensitivity,
            correlation=self.correlation,
            redundancy=self.redundancy,
            combined=self.combined,
            measured=measured,
        )


# ---------------------------------------------------------------------------------------- state


class _State:
    """Where the search is: a network, and by layer which of its nodes are kept, how important each
    is, and its place among those that there were at the start."""

    def __init__(self, model: nn.Module, data: Any, how: _How, ignore: Names, seed: int):
        self.data, self.how, self.ignore, self.seed = data, how, ignore, seed
        self.whole = self.nodes = Nodes(WHO, model, data, ignore)
        self.network, self.kept = model, self.nodes.left(self.nodes.start)
        self.at = {name: torch.arange(n) for name, n in self.nodes.sizes.items()}
        self.found, self.worth = how.look(model, data, self.nodes, seed)
        # By name the importance of all nodes at the start, short enough for a record.
        self.importance = {
            name: [round(value, 5) for value in worth.tolist()]
            for name, worth in self.worth.items()
        }

    def below(self, threshold: float) -> Kept:
        """What is kept if each node below a threshold goes; the most important of a layer stays."""
        kept = {}
        for name, keep in self.kept.items():
            best = self.worth[name].masked_fill(~keep, -torch.inf).argmax()
            kept[name] = keep & (self.worth[name] >= threshold)
            kept[name][best] = True
            if self.nodes.empties(name, kept[name]):
                kept[name] = keep
        return kept

    def raised(self, name: str, stride: float) -> Kept | None:
        """What is kept after the smallest raise of a layer's threshold by which enough of its nodes
        go, and with them those that are no more important; None if none would be left."""
        keep, worth = self.kept[name], self.worth[name]
        order = worth[keep].sort().values
        if len(order) < 2:
            return None
        enough = max(math.ceil(stride * self.whole.sizes[name] - 1e-9), 1)
        after = keep & (worth > order[min(enough, len(order) - 1) - 1])
        return None if self.nodes.empties(name, after) else {**self.kept, name: after}

    def macs(self, kept: Kept) -> int:
        """The multiply-adds of the network if only these nodes are kept."""
        mask = self.nodes.mask(self.network, self._own(kept))
        return count.macs(self.network, self.data.example, mask).sparse

    def changes(self, kept: Kept, fold: bool) -> Changes:
        """What changes in the network if only these nodes are kept (see `search.costs`)."""
        own = self._own(kept)
        return (
            nodes.folded(self.network, self.nodes, own, self.found)
            if fold
            else self.nodes.unread(own)
        )

    def _own(self, kept: Kept) -> Kept:
        """Without layers of which no more can go, as of a single node."""
        return {name: kept[name] for name in self.nodes.sizes}

    def mask(self, model: nn.Module) -> Mask:
        """The mask of the whole model."""
        whole = {name: torch.zeros(n, dtype=torch.bool) for name, n in self.whole.sizes.items()}
        for name, keep in self.kept.items():
            whole[name][self.at[name][keep]] = True
        return self.whole.mask(model, whole)

    @torch.no_grad()
    def remove(self, model: nn.Module, kept: Kept, fold: bool) -> Mask:
        """Take the nodes that go from the model, and give its mask."""
        if fold:
            parameters = dict(self.network.named_parameters())
            for name, values in self.changes(kept, fold).items():
                parameters[name].copy_(values)
            if self.network is not model:
                surgery.write_back(self.network, model).eval()
        self.kept = dict(kept)
        mask = self.mask(model)
        mask.apply_(model)
        return mask

    def shrink(self, model: nn.Module, mask: Mask) -> None:
        """Go on with the network that is left of the model."""
        self.network = surgery.shrink(
            model, mask, self.data.example, ignore=self.ignore, partial=True
        )
        # A layer of one group may make nodes of its own, which were those of another.
        self.nodes = Nodes(WHO, self.network, self.data, self.ignore).among(self.kept)
        for name, keep in self.kept.items():
            self.at[name], self.worth[name] = self.at[name][keep], self.worth[name][keep]
            self.found[name] = self.found[name].among(keep)
            self.kept[name] = keep[keep]

    def look(self) -> None:
        """Find how important the nodes are that are left."""
        found, worth = self.how.look(self.network, self.data, self.nodes, self.seed)
        self.found, self.worth = self.found | found, self.worth | worth

    def told(self, number: int, share: float, **more: Any) -> dict[str, Any]:
        """What a raise says: the least importance in each layer, and the multiply-adds that are
        left; the first one the importance of all nodes, too."""
        least = {name: float(self.worth[name][keep].min()) for name, keep in self.kept.items()}
        if number == 1:
            more["importance"] = self.importance
        return {**more, "thresholds": least, "macs": share}


# --------------------------------------------------------------------------------- the searches


def _all_at_once(
    model: nn.Module, data: Data, state: _State, tolerance: float, fold: bool, run: Run
) -> Iterator[Step]:
    """One threshold for all layers rises until too much is lost."""
    unit, start = data.unit("validation"), search.cost(model, data, run)
    allowed, dense = start + (tolerance + SLACK) * unit, state.macs(state.kept)
    taken = 0
    for threshold in (number / GRID for number in range(1, GRID + 1)):
        kept = state.below(threshold)
        if all(torch.equal(keep, state.kept[name]) for name, keep in kept.items()):
            continue
        changes = [state.changes(kept, fold)]
        (cost,) = search.costs(model, data, changes, search.itself, run, [allowed])
        if not cost <= allowed:
            return
        taken += 1
        macs = state.macs(kept) / dense
        mask = state.remove(model, kept, fold)
        # paper: the threshold balances the most sparsity and the least error; here: this difference
        # says how far one outweighs the other, and the tolerance where to stop.
        balance = mask.sparsity - (cost - start) / unit / tolerance if tolerance else mask.sparsity
        told = state.told(taken, macs, threshold=threshold, balance=balance)
        metrics = {data.metric_name: as_metric(cost, data)}
        tried = Tried((cost,), 0, allowed=allowed, unit=data.cost_name)
        yield Step("search", taken, max(taken, GRID), mask, metrics, told, tried)


def _one_by_one(
    model: nn.Module,
    data: Data,
    state: _State,
    run: Run,
    *,
    tolerance: float,
    stride: float,
    images: int,
    again: int,
    fold: bool,
    on: str,
) -> Iterator[Step]:
    """Of the next raises of all layers the best bargain is taken, until none is to be had."""
    few = hardest_first(model, _fewer(data, images), run)
    now, start = (search.cost(model, part, run) for part in (few, data))
    limit, allowed = (
        cost + (tolerance + SLACK) * part.unit("validation")
        for cost, part in ((now, few), (start, data))
    )
    dense, sizes = state.macs(state.kept), state.whole.sizes.values()
    left, taken, planned = dense, 0, sum(math.ceil((n - 1) / max(stride * n, 1)) for n in sizes)
    while True:
        raises = {name: state.raised(name, stride) for name in state.nodes.sizes}
        moves = {name: kept for name, kept in raises.items() if kept is not None}
        changes = [state.changes(kept, fold) for kept in moves.values()]
        costs = search.costs(
            state.network, few, changes, search.itself, run, [limit] * len(moves), together=True
        )
        macs = [state.macs(kept) for kept in moves.values()]
        points = 100 / few.unit("validation")
        bargains = [
            (left - after) / dense / (max(points * (cost - now), 0.0) + GENTLE)
            for after, cost in zip(macs, costs, strict=True)
        ]
        best = math.inf
        for place in sorted(range(len(moves)), key=lambda i: -bargains[i]):
            if costs[place] > limit:
                continue
            best = costs[place]
            if few.size("validation") < data.size("validation"):
                change = [changes[place]]
                (best,) = search.costs(state.network, data, change, search.itself, run, [allowed])
            if best <= allowed:
                break
        if not best <= allowed:
            return
        name, kept = [*moves.items()][place]
        mask = state.remove(model, kept, fold)
        left, now, taken = macs[place], costs[place], taken + 1
        told = state.told(
            taken, left / dense, layer=name, layers=[*moves], macs_of=[m / dense for m in macs]
        )
        metrics = {data.metric_name: as_metric(best, data)}
        tried = Tried(tuple(costs), place, allowed=limit, unit=data.cost_name)
        yield Step("search", taken, max(taken, planned), mask, metrics, told, tried)
        if on == "shrunk":
            state.shrink(model, mask)
        if again and not taken % again:
            state.look()


def _fewer(data: Data, images: int) -> Data:
    """So many of the validation images, spread evenly over the classes; 0: all."""
    if not images or not data.reorderable or images >= data.size("validation"):
        return data
    return data.fewer(validation=images)
