"""Gradient pruning: the weights go whose gradient, or gradient × weight, is smallest.

Mozer and Smolensky 1988, "Skeletonization"; for weights times gradients Molchanov et al. 2017,
arXiv 1611.06440.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from prunekit import score, search, select
from prunekit.knobs import Count, Fraction, Names, Natural, Positive, Precision, Scope
from prunekit.mask import Mask, check_prunable
from prunekit.method import method
from prunekit.steps import Run, Step, derive
from prunekit.train import fit


@method(check=check_prunable)
def gradient(
    model: nn.Module,
    data: Any,
    *,
    sparsity: Fraction = 0.9,
    times_weight: bool = False,
    rounds: Count = 1,
    epochs: Natural = 0,
    lr: Positive = 0.01,
    precision: Precision = "fp32",
    scope: Scope = "global",
    biases: bool = False,
    ignore: Names = (),
    seed: int = 0,
    run: Run = Run(),
) -> Iterator[Step]:
    """Remove the weights with the smallest gradient, `rounds` times, fine-tuning after each.

    sparsity: share of weights removed at the end; each round removes an equal share of the rest.
    times_weight: score by |w · gradient|, the change of the loss to first order.
    rounds: 1 is one-shot, more is iterative; the gradients are taken anew in each.
    epochs: passes over the training data after each round.
    lr: learning rate of the fine-tuning at its highest.
    precision: of the training; see `prunekit.train.fit`.
    scope: whether weights compete in their layer or in the whole model.
    biases: prune biases too.
    ignore: names of parameters to leave alone.
    """
    mask = Mask.ones(model, biases, ignore)
    criterion = score.weight_gradient if times_weight else score.gradient
    for index, target in enumerate(select.stages(sparsity, rounds), start=1):
        scores = criterion(model, data, mask, seed=seed, run=run)
        mask = select.largest(scores, target, scope, mask)
        yield search.cut(model, data, mask, index, rounds, run)
        yield from fit(
            model,
            data,
            epochs=epochs,
            lr=lr,
            precision=precision,
            mask=mask,
            phase="finetune",
            seed=derive(seed, index),
            run=run,
        )
