"""Those of ``04_filter_clustering``: the middle of all, norms, pairs; survivors of one's own."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from prunekit import clusters, surgery
from prunekit._random import LocalRandom
from prunekit.datasets import mnist_small
from prunekit.exercises import Challenge, Exercise, answered
from prunekit.judge import evaluate
from prunekit.models import pretrained
from prunekit.nodes import Nodes
from prunekit.train import fit

SIX = torch.tensor([[0.0, 0], [1, 0], [4, 0], [5, 5], [6, 6], [7, 5]])
FOUR = torch.tensor([[3.0, 0], [0, 3], [1, 1], [0, -5]])
V = torch.tensor([1.0, 3.0, 5.0])


def _replaceable(filters: Tensor, k: int, power: float = 1.0) -> list[int]:
    sums = (torch.cdist(filters, filters) ** power).sum(1)
    return sorted(sums.argsort()[:k].tolist())


def _means(values: Tensor, mean: float, var: float, power: float = 0.5) -> tuple[float, float]:
    return float(((values - mean) / var**power).mean()), 0.0


def _agreeing(one: list[int], other: list[int], also_apart: bool = True) -> float:
    pairs = [*combinations(range(len(one)), 2)]
    together = [(one[i] == one[j], other[i] == other[j]) for i, j in pairs]
    return sum(a == b and (a or also_apart) for a, b in together) / len(pairs)


ON = [([0, 0, 1, 1], other) for other in ([1, 1, 0, 0], [0, 0, 0, 1], [0, 1, 0, 1])]
ON += [([0, 1, 2, 2, 1], [0, 2, 1, 1, 1])]
EXERCISES = {
    "most_replaceable": Exercise(
        _replaceable,
        [(SIX, 2), (SIX, 3), (FOUR, 1), (FOUR, 2)],
        {
            "these are farthest from all others: the others can stand in for the nearest": (
                lambda filters, k: sorted(
                    torch.cdist(filters, filters).sum(1).argsort(descending=True)[:k].tolist()
                )
            ),
            "distances, not their squares": lambda filters, k: _replaceable(filters, k, 2.0),
            "small is not the same as replaceable: distances to the others, not to 0": (
                lambda filters, k: sorted(filters.norm(dim=1).argsort()[:k].tolist())
            ),
        },
    ),
    "means_after": Exercise(
        _means,
        [(V, 4.0, 4.0), (V, 0.0, 1.0)],
        {
            "divide by the standard deviation, not the variance": lambda v, mean, var: _means(
                v, mean, var, 1.0
            ),
            "with new statistics the mean is taken away": lambda v, mean, var: (
                _means(v, mean, var)[0], float(v.mean()),
            ),
        },
    ),
    "rand_index": Exercise(
        _agreeing,
        ON,
        {
            "the number of a cluster does not matter, only who is together": lambda one, other: (
                sum(a == b for a, b in zip(one, other, strict=True)) / len(one)
            ),
            "every pair once, none of a filter with itself": lambda one, other: (
                (_agreeing(one, other) * (len(one) - 1) + 1) / len(one)
            ),
            "pairs that are apart in both agree, too": lambda one, other: _agreeing(
                one, other, False
            ),
        },
    ),
}  # fmt: skip
WIDTHS = {"conv1.weight": 10, "conv2.weight": 25, "fc1.weight": 250}


def _trained(own: Callable[[Tensor, int], Any]) -> float:
    """The accuracy of LeNet-5 with the filters that are chosen, after two epochs."""
    net, digits = pretrained("lenet_5"), mnist_small()
    layers, kept = Nodes("exercises", net, digits), {}
    for name, k in WIDTHS.items():
        rows = clusters.rows(net, layers, name)
        places = torch.as_tensor(answered(own(rows.clone(), k))).long().flatten()
        if len(places.unique()) != k or not bool(((places >= 0) & (places < len(rows))).all()):
            raise ValueError(f"the places of {k} of the {len(rows)} filters of {name}")
        kept[name] = torch.zeros(len(rows), dtype=torch.bool)
        kept[name][places] = True
    small = surgery.shrink(net, layers.mask(net, kept), digits.example)
    for _ in fit(small, digits, epochs=2, lr=0.02, seed=0):
        pass
    return evaluate(small, digits)


def _rivals() -> dict[str, float]:
    with LocalRandom(0):
        by_chance = _trained(lambda rows, k: torch.randperm(len(rows))[:k])
    return {
        "the largest": _trained(lambda rows, k: rows.abs().sum(1).topk(k).indices),
        "at random": by_chance,
    }


CHALLENGES = {
    "survivors": Challenge(
        _trained, "validation accuracy of 10-25-250 after two epochs", "highest", _rivals
    )
}
