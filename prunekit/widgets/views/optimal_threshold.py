"""The importance of all nodes, a column of bars a layer; and lines that rise over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from prunekit import count, search
from prunekit._arguments import checked
from prunekit.data import wrap
from prunekit.judge import as_metric
from prunekit.knobs import Count, Range
from prunekit.methods import optimal_threshold as method
from prunekit.nodes import Kept, Nodes, activity, importance
from prunekit.prune import prune
from prunekit.select import Share
from prunekit.steps import derive
from prunekit.widgets.thresholds import Found, Thresholds, left, shown_of


@checked
def optimal_threshold(
    model: nn.Module,
    data: Any,
    tolerance: Share = 0.02,
    examples: Count = 1_000,
    stride: Annotated[float, Range(0, 1, low_open=True)] = 0.1,
    *,
    stored: bool = False,
) -> Thresholds:
    """Lines over the nodes' importance: one for all layers, or each its own.

    The text turns red, and the most fragile layer blinks, where more than `tolerance` of the
    validation metric is lost. Each step raises the line that the method raises next; for `stored`
    see `prunekit.widgets.Thresholds`.
    """
    data = wrap(data)
    net = Net(model, data, examples)
    knobs: dict[str, Any] = dict(tolerance=tolerance, examples=examples, stride=stride, bar=False)
    report = prune(method.optimal_threshold, model, data, **knobs)
    path = [
        (step.metrics[data.metric_name], step.info)
        for step in report.history
        if step.phase == "search"
    ]
    grid = [number / method.GRID for number in range(1, method.GRID + 1)]
    together = [net.kept([line] * len(net.worth)) for line in grid]
    apart = [
        {**net.nodes.all(), name: net.kept_of(name, line)} for name in net.worth for line in grid
    ]
    values = net.values([*together, *apart])
    shared = [
        {"line": line, **left(value, net.macs(kept))}
        for line, value, kept in zip(grid, values, together, strict=False)
    ]
    dense, rest = report.before[data.metric_name], values[len(grid) :]
    alone = [
        [dense, *rest[at : at + len(grid)]] for at in range(0, len(rest), len(grid))
    ]  # a layer each
    shown = shown_of(
        "Thresholds", data.metric_name, data.size("validation"), dense, tolerance,
        {name: worth.tolist() for name, worth in net.worth.items()}, shared, path, alone,
    )  # fmt: skip
    return Thresholds(shown, net.found, stored=stored)


class Net:
    """A network, the importance of its nodes, and what is left of it with some lines."""

    def __init__(self, model: nn.Module, data: Any, examples: int):
        self.model, self.data = model, data
        self.nodes = Nodes(method.WHO, model, data)
        # As the method sees it with its default seed.
        told: Any = dict(examples=examples, seed=derive(0, "importance"))
        self.worth = importance(activity(method.WHO, model, data, self.nodes, **told))
        self.dense = count.macs(model, data.example).dense

    def kept(self, lines: Sequence[float]) -> Kept:
        return {
            name: self.kept_of(name, line) for name, line in zip(self.worth, lines, strict=True)
        }

    def kept_of(self, name: str, line: float) -> Tensor:
        """The nodes of a layer that do not lie below a line, (n,); the best stays."""
        keep: Tensor = self.worth[name] >= line
        keep[self.worth[name].argmax()] = True
        return keep

    def values(self, kept: Sequence[Kept]) -> list[float]:
        """The validation metric with these nodes alone; equal ones are judged once."""
        changes = {_key(each): self.nodes.unread(each) for each in kept}
        costs = search.costs(self.model, self.data, changes.values(), search.itself, together=True)
        found = dict(zip(changes, costs, strict=True))
        return [as_metric(found[_key(each)], self.data) for each in kept]

    def macs(self, kept: Kept) -> float:
        """The share of the multiply-adds that is left."""
        mask = self.nodes.mask(self.model, kept)
        return count.macs(self.model, self.data.example, mask).sparse / self.dense

    def found(self, lines: Sequence[float]) -> Found:
        kept = self.kept(lines)
        (value,) = self.values([kept])
        return value, self.macs(kept)


def _key(kept: Kept) -> bytes:
    return torch.cat([*kept.values()]).numpy().tobytes()
