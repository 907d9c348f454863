"""Those of ``01_roulette``: what a pick costs, two picks, ranks; a wheel of one's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunekit import score, select
from prunekit.datasets import mnist_small
from prunekit.exercises import Challenge, Exercise, answered
from prunekit.judge import evaluate
from prunekit.mask import Mask
from prunekit.models import pretrained
from prunekit.steps import derive

FIVE = torch.tensor([2.0, -5.0, 1.0, 4.0, -3.0])
ROW, SLICES = torch.tensor([1.0, -4.0, 2.0]), torch.tensor([0.6, 0.1, 0.3])
P = [0.5, 0.3, 0.2]


def _two(p: list[float], i: int) -> float:
    return p[i] + sum(p[j] * p[i] / (1 - p[j]) for j in range(len(p)) if j != i)


def _wheel(ranks: Tensor, p: float) -> Tensor:
    slices = (1 - ranks / len(ranks)) ** p
    return slices / slices.sum()


EXERCISES = {
    "pick_costs": Exercise(
        lambda w, slices: (slices * w**2).sum() / (w**2).sum(),
        [(ROW, SLICES), (FIVE, torch.full((5,), 0.2)), (FIVE, torch.eye(5)[2])],
        {
            "squares, not sizes": lambda w, slices: (slices * w.abs()).sum() / w.abs().sum(),
            "a share: divide by all squares": lambda w, slices: (slices * w**2).sum(),
            "each square counts as often as it is picked": lambda w, slices: (
                (w**2)[slices.argmax()] / (w**2).sum()
            ),
        },
    ),
    "picked_of_two": Exercise(
        _two,
        [(P, 0), (P, 1), (P, 2)],
        {
            "that is with replacement: the first pick leaves the wheel": lambda p, i: (
                1 - (1 - p[i]) ** 2
            ),
            "chances do not add up: the first pick changes the wheel": lambda p, i: 2 * p[i],
        },
    ),
    "rank_wheel": Exercise(
        lambda w, p: _wheel(w.abs().argsort().argsort(), p),
        [(FIVE, 1), (FIVE, 2)],
        {
            "upside down: the smallest weight should have most": lambda w, p: (
                (r := w.abs().argsort().argsort() ** p) / r.sum()
            ),
            "the smallest weight has rank 0, the largest n − 1": lambda w, p: _wheel(
                (-w.abs()).argsort().argsort(), p
            ),
            "argsort gives who is at each rank; sort once more": lambda w, p: _wheel(
                w.abs().argsort(), p
            ),
            "a large negative weight matters as much: rank the magnitudes": lambda w, p: _wheel(
                w.argsort().argsort(), p
            ),
            "ranks begin with 0, and are divided by n": lambda w, p: _wheel(
                w.abs().argsort().argsort() + 1, p
            ),
            "divide by the sum": lambda w, p: (1 - w.abs().argsort().argsort() / len(w)) ** p,
        },
    ),
}
SHARE, CHILDREN, SPARSITY = 0.2, 5, 0.95


def _grown(own: Any) -> float:
    net, digits = pretrained("lenet_300_100"), mnist_small().fewer(validation=1_000)
    best = Mask.ones(net)
    sizes, level = score.relative(net, best), 0
    while best.sparsity < SPARSITY - 1e-6:
        wheels = []
        for name, keep in best.items():
            alive = keep.flatten().nonzero().flatten()
            slices = torch.as_tensor(answered(own(sizes[name].flatten()[alive].clone())))
            fits = slices.shape == alive.shape and bool((slices >= 0).all())
            if not fits or not 0 < float(slices.sum()) < torch.inf:
                raise ValueError(
                    f"a slice for each of the {len(alive)} sizes is needed: finite, not below 0, "
                    "not all 0"
                )
            wheels.append(select.Wheel([name], alive, slices.double().log().float()))
        children = []
        for child in range(CHILDREN):
            generator = torch.Generator().manual_seed(derive(0, "board", level, child))
            children.append(select.spun(best, wheels, SHARE, SPARSITY, generator))
        best = max(children, key=lambda mask: evaluate(net, digits, mask=mask))
        level += 1
    return evaluate(net, digits, mask=best)


def _inverse(a: Tensor) -> Tensor:
    return (a + 1e-9) ** -4.0


CHALLENGES = {
    "wheel": Challenge(
        _grown,
        "validation accuracy at sparsity 0.95, the best of five children a level",
        "highest",
        lambda: {"inv-4": _grown(_inverse), "uniform": _grown(torch.ones_like)},
    )
}
