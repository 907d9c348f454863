"""Magnitude pruning: the smallest weights go, at once or in rounds with retraining between.

Han, Pool, Tran and Dally 2015, "Learning both weights and connections for efficient neural
networks", arXiv 1506.02626.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from torch import nn

from prunekit import score, search, select
from prunekit.knobs import (
    Count,
    Fraction,
    Names,
    Natural,
    Positive,
    Precision,
    Range,
    Scope,
    Several,
)
from prunekit.mask import Mask, prunable
from prunekit.method import method
from prunekit.steps import Run, Step, derive
from prunekit.train import fit


def _check(
    model: nn.Module, data: object, *, biases: bool, ignore: Names, sensitivities: Any, **_: object
) -> None:
    names = [*prunable(model, biases, ignore)]
    if len(sensitivities) not in (0, 1, len(names)):
        raise ValueError(
            f"magnitude: sensitivities must be one for all or one for each of {names}, "
            f"got {len(sensitivities)}"
        )


@method(check=_check)
def magnitude(
    model: nn.Module,
    data: Any,
    *,
    sparsity: Fraction = 0.9,
    sensitivities: Annotated[tuple[float, ...], Several(Range(0, 10))] = (),
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
    sensitivities: instead of `sparsity`, one for each parameter or one for all: cut where |w| is
        below sensitivity × the standard deviation of the parameter's surviving weights (Han's rule;
        the sparsity follows, `scope` plays no part).
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
        if sensitivities:
            mask = select.above(scores, _thresholds(model, mask, sensitivities), mask)
        else:
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


def _thresholds(model: nn.Module, mask: Mask, sensitivities: tuple[float, ...]) -> dict[str, float]:
    """sensitivity × standard deviation of the surviving weights, a parameter at a time."""
    parameters, found = dict(model.named_parameters()), {}
    each = sensitivities if len(sensitivities) > 1 else sensitivities * len(mask)
    for (name, keep), s in zip(mask.items(), each, strict=True):
        survivors = parameters[name].detach().cpu()[keep]
        found[name] = s * float(survivors.std(correction=0)) if survivors.numel() else 0.0
    return found
