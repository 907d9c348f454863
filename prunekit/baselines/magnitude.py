"""Magnitude pruning: the smallest weights go, at once or in rounds with retraining between.

Han, Pool, Tran and Dally 2015, "Learning both weights and connections for efficient neural
networks", arXiv 1506.02626.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from torch import nn

from prunekit import score, search, select
from prunekit.mask import Mask, check_prunable
from prunekit.steps import (
    Count,
    Fraction,
    Names,
    Natural,
    Positive,
    Precision,
    Range,
    Run,
    Scope,
    Step,
    derive,
    method,
)
from prunekit.train import fit


@method(check=check_prunable)
def magnitude(
    model: nn.Module,
    data: Any,
    *,
    sparsity: Fraction = 0.9,
    sensitivity: Annotated[float, Range(0, 10)] | None = None,
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
    """Remove the weights with the smallest |w|, `rounds` times, fine-tuning after each.

    sparsity: share of weights removed at the end; each round removes an equal share of the rest.
    sensitivity: instead of `sparsity`, cut where |w| is below sensitivity × the standard deviation
        of the layer's surviving weights (Han's rule; the sparsity follows, `scope` plays no part).
    rounds: 1 is one-shot, more is iterative.
    epochs: passes over the training data after each round.
    lr: learning rate of the fine-tuning at its highest.
    precision: of the training; see `prunekit.train.fit`.
    scope: whether weights compete in their layer or in the whole model.
    biases: prune biases too.
    ignore: names of parameters to leave alone.
    """
    mask = Mask.ones(model, biases, ignore)
    for index, target in enumerate(select.stages(sparsity, rounds), start=1):
        scores = score.magnitude(model, mask)
        if sensitivity is None:
            mask = select.largest(scores, target, scope, mask)
        else:
            mask = select.above(scores, _thresholds(model, mask, sensitivity), mask)
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


def _thresholds(model: nn.Module, mask: Mask, sensitivity: float) -> dict[str, float]:
    """sensitivity × standard deviation of the surviving weights, a layer at a time."""
    parameters = dict(model.named_parameters())
    survivors = {name: parameters[name].detach().cpu()[keep] for name, keep in mask.items()}
    return {
        name: sensitivity * float(w.std(correction=0)) if w.numel() else 0.0
        for name, w in survivors.items()
    }
