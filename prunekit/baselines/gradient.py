"""Gradient pruning: the weights go whose gradient, or gradient × weight, is smallest.

Mozer and Smolensky 1988, "Skeletonization"; for weights times gradients Molchanov et al. 2017,
arXiv 1611.06440.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Unpack

from torch import nn

from prunekit import score, select
from prunekit.knobs import Fraction, Names, Scope
from prunekit.mask import Mask, check_prunable
from prunekit.method import method
from prunekit.rounds import Rounds, in_rounds
from prunekit.steps import Run, Step
from prunekit.train import Tuning


@method(check=check_prunable, tuning=dict(epochs=0, lr=0.01), quick=dict(rounds=2, epochs=2))
def gradient(
    model: nn.Module,
    data: Any,
    *,
    sparsity: Fraction = 0.9,
    times_weight: bool = False,
    rounds: Rounds = 1,
    scope: Scope = "global",
    biases: bool = False,
    ignore: Names = (),
    seed: int = 0,
    run: Run = Run(),
    **tuning: Unpack[Tuning],
) -> Iterator[Step]:
    """Remove the weights with the smallest gradient, `rounds` times, fine-tuning after each.

    sparsity: share of weights removed at the end; each round removes an equal share of the rest.
    times_weight: score by |w · gradient|, the change of the loss to first order.
    rounds: 1 is one-shot, more is iterative; the gradients are taken anew in each.
    scope: whether weights compete in their layer or in the whole model.
    biases: prune biases too.
    ignore: names of parameters to leave alone.
    """
    criterion = score.weight_gradient if times_weight else score.gradient

    def choose(mask: Mask, target: float) -> Mask:
        scores = criterion(model, data, mask, seed=seed, run=run)
        return select.largest(scores, target, scope, mask)

    weights = Mask.ones(model, biases, ignore, data.example).left(model)
    yield from in_rounds(
        model, data, weights, choose,
        sparsity=sparsity, rounds=rounds, seed=seed, run=run, **tuning,
    )  # fmt: skip
