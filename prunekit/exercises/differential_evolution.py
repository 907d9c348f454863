"""Those of ``02_differential_evolution``: normal weights, crossover, Deb's rule; three numbers."""

from __future__ import annotations

from typing import Any

import torch

from prunekit.datasets import mnist_small
from prunekit.exercises import Challenge, Exercise, answered, numbers
from prunekit.judge import SLACK, evaluate
from prunekit.mask import Mask, prunable
from prunekit.models import pretrained

PAIRS = [
    ((0, 50), (0, 60)), ((0, 70), (0, 60)), ((2, 10), (0, 60)), ((0, 90), (1, 60)),
    ((1, 90), (3, 60)), ((0, 60), (0, 60)), ((2, 10), (2, 60)), ((2, 60), (2, 10)),
]  # fmt: skip

EXERCISES = {
    "share_removed": Exercise(
        lambda s: torch.erf(torch.tensor(s / 2**0.5)),
        [(1.0,), (0.5,), (2.0,)],
        {
            "both sides: small positive and small negative weights go": lambda s: (
                (1 + torch.erf(torch.tensor(s / 2**0.5))) / 2
            ),
            "that is one side only": lambda s: torch.erf(torch.tensor(s / 2**0.5)) / 2,
            "that is what stays": lambda s: 1 - torch.erf(torch.tensor(s / 2**0.5)),
            "divide s by the root of 2 first": lambda s: torch.erf(torch.tensor(float(s))),
        },
    ),
    "from_the_mutant": Exercise(
        lambda n, chance: 1 + (n - 1) * chance,
        [(2, 0.5), (3, 0.9), (20, 0.0), (20, 0.5)],
        {
            "one place comes from the mutant for certain": lambda n, chance: n * chance,
            "the certain place is one of the n": lambda n, chance: 1 + n * chance,
            "that is what comes from x": lambda n, chance: (n - 1) * (1 - chance),
        },
    ),
    "wins": Exercise(
        lambda trial, x: trial <= x,
        PAIRS,
        {
            "the limit comes first: what breaks it loses, however small": lambda trial, x: (
                trial[1] <= x[1]
            ),
            "where the limit does not decide, the number of weights does": lambda trial, x: (
                trial[0] <= x[0]
            ),
            "an equally good trial takes the place": lambda trial, x: trial < x,
            "it need not be better in both: the limit decides first": lambda trial, x: (
                trial[0] <= x[0] and trial[1] <= x[1]
            ),
        },
    ),
}
POINT = 0.01  # of the validation accuracy may be lost


def _judged(sensitivities: Any) -> tuple[float, float]:
    """The share of the weights that is left, in per cent, and what is lost of the accuracy."""
    net, digits = pretrained("lenet_300_100"), mnist_small()
    pairs = zip(prunable(net).items(), sensitivities, strict=True)
    mask = Mask({n: w.detach().abs() >= s * w.detach().std(correction=0) for (n, w), s in pairs})
    return 100 * mask.density, evaluate(net, digits) - evaluate(net, digits, mask=mask)


def _kept(own: Any) -> float:
    left, lost = _judged(numbers(answered(own), 3, "three sensitivities, one a layer"))
    if lost > POINT + SLACK:
        raise ValueError(f"{100 * lost:.2f} points of accuracy are lost; at most one may be")
    return left


def _rivals() -> dict[str, float]:
    single = [_judged([s / 20] * 3) for s in range(1, 60)]
    return {
        "the best single sensitivity": min(left for left, lost in single if lost <= POINT + SLACK)
    }


CHALLENGES = {
    "sensitivities": Challenge(
        _kept, "weights left, in per cent, with at most one point lost", "lowest", _rivals
    )
}
