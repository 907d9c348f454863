"""Gradual pruning: the sparsity rises while the network trains, fast at first and then slowly.

Zhu and Gupta 2017, "To prune, or not to prune: exploring the efficacy of pruning for model
compression", arXiv 1710.01878.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Annotated, Any, Unpack

from torch import nn

from prunekit import score, select
from prunekit.knobs import Count, Fraction, Names, Range, Scope, Useful
from prunekit.mask import Mask, check_prunable
from prunekit.method import method
from prunekit.steps import Run, Step
from prunekit.train import Tuning, fit


def _check(model: nn.Module, data: Any, *, epochs: int, **knobs: Any) -> None:
    check_prunable(model, data, **knobs)
    if not epochs:
        raise ValueError("gradual: epochs must be 1 or more, it prunes while it trains, got 0")


@method(check=_check, tuning=dict(epochs=10, lr=0.01), quick=dict(epochs=2, every=1))
def gradual(
    model: nn.Module,
    data: Any,
    *,
    sparsity: Fraction = 0.9,
    until: Annotated[float, Range(0, 1, low_open=True)] = 0.75,
    every: Annotated[Count, Useful(1, 200)] = 20,
    scope: Scope = "layer",
    biases: bool = False,
    ignore: Names = (),
    seed: int = 0,
    run: Run = Run(),
    **tuning: Unpack[Tuning],
) -> Iterator[Step]:
    """Train on and prune by |w| after every `every` minibatches, along the cubic schedule.

    sparsity: share of the weights removed at the end of the pruning phase.
    until: share of the training after which the sparsity rises no more.
    every: minibatches from one pruning to the next.
    scope: whether weights compete in their layer (as in the paper) or in the whole model.
    biases: prune biases too.
    ignore: names of parameters to leave alone.
    """
    weights = Mask.ones(model, biases, ignore, data.example).left(model)
    yield from fit(
        model, data, mask=weights, every=every, phase="finetune",
        remask=functools.partial(_along_schedule, sparsity=sparsity, until=until, scope=scope),
        seed=seed, run=run, **tuning,
    )  # fmt: skip


def _along_schedule(
    model: nn.Module, mask: Mask, t: float, *, sparsity: float, until: float, scope: str
) -> Mask:
    target = select.cubic(sparsity, t / until)
    return select.largest(score.magnitude(model, mask), target, scope, mask)
