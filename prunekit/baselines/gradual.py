"""Gradual pruning: the sparsity rises while the network trains, fast at first and then slowly.

Zhu and Gupta 2017, "To prune, or not to prune: exploring the efficacy of pruning for model
compression", arXiv 1710.01878.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Annotated, Any

from torch import nn

from prunekit import score, select
from prunekit.knobs import Count, Fraction, Names, Positive, Precision, Range, Scope
from prunekit.mask import Mask, check_prunable
from prunekit.method import method
from prunekit.steps import Run, Step
from prunekit.train import fit


@method(check=check_prunable)
def gradual(
    model: nn.Module,
    data: Any,
    *,
    sparsity: Fraction = 0.9,
    epochs: Count = 10,
    until: Annotated[float, Range(0, 1, low_open=True)] = 0.75,
    every: Count = 20,
    lr: Positive = 0.01,
    precision: Precision = "fp32",
    scope: Scope = "layer",
    biases: bool = False,
    ignore: Names = (),
    seed: int = 0,
    run: Run = Run(),
) -> Iterator[Step]:
    """Train on and prune by |w| after every `every` minibatches, along the cubic schedule.

    sparsity: share of the weights removed at the end of the pruning phase.
    epochs: passes over the training data, pruning and settling together.
    until: share of the training after which the sparsity rises no more.
    every: minibatches from one pruning to the next.
    lr: learning rate at its highest.
    precision: of the training; see `prunekit.train.fit`.
    scope: whether weights compete in their layer (as in the paper) or in the whole model.
    biases: prune biases too.
    ignore: names of parameters to leave alone.
    """
    yield from fit(
        model,
        data,
        epochs=epochs,
        lr=lr,
        precision=precision,
        mask=Mask.ones(model, biases, ignore),
        remask=functools.partial(_along_schedule, sparsity=sparsity, until=until, scope=scope),
        every=every,
        phase="finetune",
        seed=seed,
        run=run,
    )


def _along_schedule(
    model: nn.Module, mask: Mask, t: float, *, sparsity: float, until: float, scope: str
) -> Mask:
    target = select.cubic(sparsity, t / until)
    return select.largest(score.magnitude(model, mask), target, scope, mask)
