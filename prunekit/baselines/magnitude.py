"""Magnitude pruning: the smallest weights go, at once or in rounds with retraining between.

Han, Pool, Tran and Dally 2015, "Learning both weights and connections for efficient neural
networks", arXiv 1506.02626.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Unpack

from torch import nn

from prunekit import score, select
from prunekit.knobs import Choice, Fraction, Names, Range, Scope, Several
from prunekit.mask import Mask, prunable
from prunekit.method import method
from prunekit.rounds import Rounds, in_rounds
from prunekit.steps import Run, Step
from prunekit.train import Tuning


def _check(
    model: nn.Module,
    data: Any,
    *,
    sparsity: Any,
    biases: bool,
    ignore: Names,
    sensitivities: Any,
    **_: object,
) -> None:
    if sensitivities and isinstance(sparsity, select.Budget):
        raise ValueError("magnitude: with sensitivities there is no budget, the sparsity follows")
    names = [*prunable(model, biases, ignore, data.example)]
    if len(sensitivities) not in (0, 1, len(names)):
        raise ValueError(
            f"magnitude: sensitivities must be one for all or one for each of {names}, "
            f"got {len(sensitivities)}"
        )


@method(check=_check, tuning=dict(epochs=0, lr=0.01), quick=dict(rounds=2, epochs=2))
def magnitude(
    model: nn.Module,
    data: Any,
    *,
    sparsity: Fraction = 0.9,
    sensitivities: Annotated[tuple[float, ...], Several(Range(0, 10))] = (),
    measure: Annotated[str, Choice(*score.MEASURES)] = "absolute",
    rounds: Rounds = 1,
    scope: Scope = "global",
    biases: bool = False,
    ignore: Names = (),
    seed: int = 0,
    run: Run = Run(),
    **tuning: Unpack[Tuning],
) -> Iterator[Step]:
    """Remove the weights with the smallest |w|, `rounds` times, fine-tuning after each.

    sparsity: share of weights removed at the end; each round removes an equal share of the rest.
    sensitivities: instead of `sparsity`, one for each parameter or one for all: cut where |w| is
        below sensitivity × the standard deviation of the parameter's surviving weights (Han's rule;
        the sparsity follows, `measure` and `scope` play no part).
    measure: how large a weight is: "absolute", |w|, or "relative", |w| over the standard deviation
        of its parameter's surviving weights, anew each round.
    rounds: in how many cuts: 1 is one-shot, more is iterative.
    scope: whether weights compete in their layer or in the whole model.
    biases: prune biases too.
    ignore: names of parameters to leave alone.
    """

    def choose(mask: Mask, target: float) -> Mask:
        if sensitivities:
            limits = _thresholds(model, mask, sensitivities)
            return select.above(score.magnitude(model, mask), limits, mask)
        sizes = score.relative if measure == "relative" else score.magnitude
        return select.largest(sizes(model, mask), target, scope, mask)

    weights = Mask.ones(model, biases, ignore, data.example).left(model)
    yield from in_rounds(
        model, data, weights, choose,
        sparsity=sparsity, rounds=rounds, seed=seed, run=run, **tuning,
    )  # fmt: skip


def _thresholds(model: nn.Module, mask: Mask, sensitivities: tuple[float, ...]) -> dict[str, float]:
    """sensitivity × standard deviation of the surviving weights, a parameter at a time."""
    parameters, thresholds = dict(model.named_parameters()), {}
    each = sensitivities if len(sensitivities) > 1 else sensitivities * len(mask)
    for (name, keep), s in zip(mask.items(), each, strict=True):
        survivors = parameters[name].detach().cpu()[keep]
        thresholds[name] = s * float(survivors.std(correction=0)) if survivors.numel() else 0.0
    return thresholds
