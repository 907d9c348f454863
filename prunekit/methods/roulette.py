"""Roulette-wheel pruning on a branching tree.

At each level a wheel is spun for several children: small weights are likely to go but may stay,
large ones are likely to stay but may go. The child that validates best becomes the parent of the
next level. Chan, Yiu, Guo and Jiang 2024, Neural Computing and Applications 36(22), 13915-13933,
doi 10.1007/s00521-024-09719-6.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Annotated, Any, Unpack

import torch
from torch import nn

from prunekit import score, search, select
from prunekit.judge import SLACK, as_metric
from prunekit.knobs import Before, Choice, Count, Fraction, Names, NonNegative, Range, Scope, Useful
from prunekit.mask import Mask, check_prunable
from prunekit.method import method
from prunekit.steps import Run, Step, Tried, derive
from prunekit.train import Tuning, fit

STEPS = (0.5, 1.0, 1.5, 2.0)  # what a child's step is multiplied with when it is drawn


def _child(
    model: nn.Module,
    candidate: tuple[int, int, int],
    *,
    parent: Mask,
    wheels: list[select.Wheel],
    sparsity: float,
    step: float,
    draw_step: bool,
) -> Mask:
    """The mask of candidate (level, number, seed): the parent's, less what the wheels pick."""
    level, number, seed = candidate
    generator = torch.Generator().manual_seed(derive(seed, "spin", level, number))
    if draw_step:
        step *= STEPS[int(torch.randint(len(STEPS), (), generator=generator, device="cpu"))]
    return select.spun(parent, wheels, step, sparsity, generator)


def _check(
    model: nn.Module,
    data: Any,
    *,
    step: float,
    draw_step: bool,
    scope: str,
    biases: bool,
    ignore: Names,
    **_: Any,
) -> None:
    check_prunable(model, data, biases=biases, ignore=ignore)
    weights = Mask.ones(model, biases, ignore, data.example).left(model)
    for names in select.scoped(weights, scope):
        total = sum(weights[name].numel() for name in names)
        if round(step * total) < 1:
            what = names[0] if scope == "layer" else "the model"
            raise ValueError(
                f"roulette: step must remove at least one weight of {what} ({total}), got {step}"
            )
    if draw_step and step * max(STEPS) >= 1:
        raise ValueError(f"roulette: step must be below {1 / max(STEPS)} if drawn, got {step}")


MOST = 1 - 1e-9  # the sparsity at which all goes that may go


def _levels(sparsity: float | select.Budget, step: float) -> int:
    """How many levels it takes if each removes its share."""
    left = 1 / max(sparsity.start(), 1) if isinstance(sparsity, select.Budget) else 1 - sparsity
    return math.ceil(math.log(left) / math.log(1 - step))


def _work(sparsity: float, step: float, branches: int, epochs: int, **_: Any) -> tuple[int, int]:
    levels = _levels(sparsity, step)
    return levels * branches, levels * epochs


@method(
    check=_check,
    work=_work,
    tuning=dict(epochs=0, lr=0.01),
    quick=dict(step=0.5, branches=4, epochs=2),
)
def roulette(
    model: nn.Module,
    data: Any,
    *,
    sparsity: Fraction = 0.9,
    wheel: Annotated[str, Choice(*select.WHEELS)] = "inv",
    strength: Annotated[float, Range(0, 64, low_open=True), Useful(0.5, 8)] = 4.0,
    branches: Annotated[Count, Useful(1, 40)] = 10,
    step: Annotated[float, Range(0, 1, True, True), Useful(0.01, 0.5, log=True)] = 0.05,
    draw_step: bool = False,
    tie: Annotated[NonNegative, Useful(0, 0.005)] = 0.0005,
    tolerance: Annotated[float, Range(0, 1)] | None = None,
    measure: Annotated[str, Choice(*score.MEASURES), Before("relative")] = "absolute",
    scope: Scope = "global",
    biases: bool = False,
    ignore: Names = (),
    seed: int = 0,
    run: Run = Run(),
    **tuning: Unpack[Tuning],
) -> Iterator[Step]:
    """Grow the tree level by level; each step's `tried` are the children of its level.

    sparsity: share of the weights removed at the end, unless `tolerance` ends the run before.
    wheel: how the slices shrink with |w|: "sum", "lin", "inv", "exp", "rank"; "uniform" is blind.
    strength: how steep inv, exp and rank are; the larger, the closer to magnitude pruning.
    branches: how many children each level has; one of them is chosen.
    step: share of the weights left that a level removes.
    draw_step: draw each child's step from ½, 1, 1½ and 2 × `step`.
    tie: if steps are drawn, the smallest child wins among those whose metric is this close to
        the best.
    tolerance: stop when the best child falls more than this below the metric at the start, also
        after the step was halved twice.
    measure: how large a weight is: "absolute", |w| over one σ, that of all weights at the start;
        "relative", |w| over σ of its parameter's survivors, anew at each level.
    scope: one wheel for the whole model, or one a layer.
    biases: prune biases too.
    ignore: names of parameters to leave alone.
    """
    mask, level, halvings, index = (
        Mask.ones(model, biases, ignore, data.example).left(model),
        0,
        0,
        0,
    )
    unit, allowed = data.unit("validation"), math.inf
    if tolerance is not None:
        allowed = search.cost(model, data, run) + (tolerance + SLACK) * unit
    budget, most = (sparsity, MOST) if isinstance(sparsity, select.Budget) else (None, sparsity)
    goal = sum(select.rest(mask, names, most) for names in select.scoped(mask, scope))
    levels, dense = _levels(sparsity, step), score.deviation(model, mask)
    while mask.kept > goal and halvings < 3 and not (budget and budget.met(mask)):
        level += 1
        seen = score.sizes(model, mask, measure, dense)
        wheels = select.wheels(seen, wheel, strength, scope, mask)
        decode = functools.partial(
            _child, parent=mask, wheels=wheels, sparsity=most,
            step=step / 2**halvings, draw_step=draw_step,
        )  # fmt: skip
        children = [(level, number, seed) for number in range(branches)]
        costs = search.costs(model, data, children, decode, run)
        best = costs.index(min(costs))
        if draw_step:  # the fewest weights among the children within the tie, then the better
            near = [i for i in range(branches) if costs[i] - costs[best] <= (tie + SLACK) * unit]
            best = min((decode(model, children[i]).kept, costs[i], i) for i in near)[2]
        if costs[best] > allowed:  # another level from the same parent, in smaller steps
            halvings += 1
            continue
        mask, index = decode(model, children[best]), index + 1
        figures = {data.metric_name: as_metric(costs[best], data)}
        tried = Tried(tuple(costs), best, unit=data.cost_name)
        taken = Step("prune", index, max(index, levels), mask, figures, {"level": level}, tried)
        mask.apply_(model)
        yield taken
        yield from fit(
            model, data, mask=mask, phase="finetune", seed=derive(seed, level), run=run, **tuning
        )
    if budget and not budget.met(mask):
        raise ValueError(
            f"budget: cannot be met, the smallest network costs {budget.cost(mask):.3g} times of "
            "what is allowed. Allow more."
        )
    if not index:  # nothing was to be removed, or could be: what was gone before is told
        yield search.cut(model, data, mask, 1, 1, run)
