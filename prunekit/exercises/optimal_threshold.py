"""Those of ``03_optimal_threshold``: twins, multiply-adds, bargains; lines of one's own."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from prunekit.datasets import mnist_small
from prunekit.exercises import Challenge, Exercise, answered, numbers
from prunekit.judge import SLACK
from prunekit.methods.optimal_threshold import optimal_threshold
from prunekit.models import pretrained
from prunekit.widgets import views
from prunekit.widgets.views.optimal_threshold import Net

W = torch.tensor([[1.0, 2.0, 3.0], [0.5, -1.0, 0.25]])
TOLERANCE = 0.02


def _without(w: Tensor, j: int) -> Tensor:
    return torch.cat([w[:, :j], w[:, j + 1 :]], 1)


def _folded(w: Tensor, i: int, j: int, s: float) -> Tensor:
    w = w.clone()
    w[:, i] += s * w[:, j]
    return _without(w, j)


def _bargain(gains: list[float], losses: list[float], budget: float, least: float = 0.0) -> int:
    within = [i for i, loss in enumerate(losses) if loss <= budget]
    return max(within, key=lambda i: gains[i] / (max(losses[i], least) + 0.1), default=-1)


EXERCISES = {
    "without_twin": Exercise(
        _folded,
        [(W, 0, 2, 2.0), (W, 2, 1, -0.5)],
        {
            "what j gave to the next layer has to come from i now": lambda w, i, j, s: _without(
                w, j
            ),
            "j answers s times as much as i, not the other way round": lambda w, i, j, s: _folded(
                w, i, j, 1 / s
            ),
            "the factor s is missing": lambda w, i, j, s: _folded(w, i, j, 1.0),
        },
    ),
    "macs_left": Exercise(
        lambda keep: keep * keep,
        [(0.5,), (0.7,), (0.9,)],
        {
            "the layer has fewer filters, but each has fewer inputs, too": lambda keep: keep,
            "that is what is saved": lambda keep: 1 - keep * keep,
        },
    ),
    "best_raise": Exercise(
        _bargain,
        [
            ([0.1, 0.1, 0.9], [0.5, 0.3, 1.2], 1.0),
            ([0.1] * 3, [0.3, 0.2, -1.0], 2.0),
            ([0.1, 0.2], [3.0, 2.5], 2.0),
            ([0.3, 0.2], [0.0, -0.05], 2.0),
            ([0.9, 0.3], [0.5, 0.05], 1.0),
            ([0.5, 0.05], [0.1, 0.001], 1.0),
            ([0.2], [1.0], 1.0),
        ],
        {
            "a raise may lose at most the budget": lambda g, d, b: _bargain(g, d, float("inf")),
            "a raise may lose the budget itself": lambda g, d, b: _bargain(g, d, b - 1e-9),
            "the gain divided by the loss, not less the loss": lambda g, d, b: max(
                (i for i, loss in enumerate(d) if loss <= b), key=lambda i: g[i] - d[i], default=-1
            ),
            "the 0.1 belongs to the loss": lambda g, d, b: max(
                (i for i, loss in enumerate(d) if loss <= b),
                key=lambda i: g[i] / max(d[i], 1e-9),
                default=-1,
            ),
            "a raise that gains accuracy is not for nothing: count it as 0": lambda g, d, b: (
                _bargain(g, d, b, -float("inf"))
            ),
        },
    ),
}


@functools.cache
def _net() -> Net:
    """What lines leave, without the search that the view takes."""
    return Net(pretrained("lenet_5"), mnist_small().fewer(validation=1_000), examples=1_000)


def _saved(own: Any) -> float:
    """The share of the multiply-adds that is saved, in per cent."""
    answered(own)
    net = _net()
    names = [layer.removesuffix(".weight") for layer in net.worth]
    rule = f"a line from 0 to 1 is needed for each of {', '.join(names)}"
    lines = numbers(own, len(names), rule)
    if not 0 <= min(lines) <= max(lines) <= 1:
        raise ValueError(rule)
    (dense,) = net.values([net.nodes.all()])
    value, macs = net.found(lines)
    if (lost := dense - value) > TOLERANCE + SLACK:
        raise ValueError(f"{100 * lost:.1f} points of accuracy are lost; at most two may be")
    return 100 * (1 - macs)


def _rivals() -> dict[str, float]:
    net = _net()
    shown = views.of(optimal_threshold, net.model, net.data).shown
    within = [e for e in shown["shared"] if shown["dense"] - e["value"] <= TOLERANCE + SLACK]
    best = min(entry["macs"] for entry in within)
    return {"one line": 100 * (1 - best), "the search": 100 * (1 - shown["path"][-1]["macs"])}


CHALLENGES = {
    "lines": Challenge(
        _saved, "multiply-adds saved, in per cent, with at most 2 points lost", "highest", _rivals
    )
}
