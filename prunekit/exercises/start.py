"""Those of ``00_start``: masks by magnitude, rounds, compression; a score of one's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunekit import select
from prunekit._random import LocalRandom
from prunekit.datasets import mnist_small
from prunekit.exercises import Challenge, Exercise, answered
from prunekit.judge import evaluate
from prunekit.mask import Mask, prunable
from prunekit.models import pretrained

ONE, TWO = torch.tensor([0.5, -0.9, 0.1, -0.2]), torch.tensor([[3.0, -4.0], [-1.0, 2.0]])


def _largest(sizes: Tensor, k: int) -> Tensor:
    return sizes >= sizes.flatten().sort(descending=True).values[k - 1]


EXERCISES = {
    "keep_largest": Exercise(
        lambda w, k: _largest(w.abs(), k),
        [(ONE, 2), (TWO, 2), (TWO, 3)],
        {
            "a large negative weight matters as much: take the magnitude first": _largest,
            "these are the ones to remove; True means kept": lambda w, k: ~_largest(w.abs(), k),
        },
    ),
    "sparsity_after": Exercise(
        lambda p, n: 1 - (1 - p) ** n,
        [(0.5, 1), (0.5, 2), (0.2, 10)],
        {
            "that is what is left; sparsity is what is gone": lambda p, n: (1 - p) ** n,
            "the second round takes its share of what the first one left": lambda p, n: p * n,
            "that is what the last round alone removes": lambda p, n: p * (1 - p) ** (n - 1),
            "p is what goes in a round; how much is left after one?": lambda p, n: 1 - p**n,
        },
    ),
    "compression": Exercise(
        lambda s: 266_610 / (266_200 * (1 - s) + 410),
        [(0.5,), (0.9,), (0.99,)],
        {
            "the biases stay: count them among what is kept": lambda s: 1 / (1 - s),
            "almost: the biases are kept, too": lambda s: 266_610 / (266_200 * (1 - s)),
            "almost: all the parameters, so the biases too": lambda s: (
                266_200 / (266_200 * (1 - s) + 410)
            ),
        },
    ),
}


def _drawn(w: Tensor) -> Tensor:
    with LocalRandom(w.numel()):
        return torch.rand_like(w)


def _score(own: Any) -> float:
    digits, values = mnist_small(), []
    for number in range(3):
        net = pretrained("lenet_300_100", number)
        scores = {}
        for name, w in prunable(net).items():
            found = torch.as_tensor(answered(own(w.detach().clone())))
            if found.shape != w.shape or not found.isfinite().all():
                raise ValueError(
                    f"a score is needed for each of the {tuple(w.shape)} weights, all finite"
                )
            scores[name] = found.float()
        mask = select.largest(scores, 0.95, "global", Mask.ones(net))
        values.append(evaluate(net, digits, mask=mask))
    return sum(values) / len(values)


CHALLENGES = {
    "score": Challenge(
        _score,
        "validation accuracy at sparsity 0.95 without training, mean of the three networks",
        "highest",
        lambda: {"magnitude": _score(torch.abs), "random": _score(_drawn)},
    )
}
