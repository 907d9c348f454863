"""Roulette-wheel pruning on a branching tree.

At each level a wheel is spun for several children: small weights are likely to go but may stay,
large ones are likely to stay but may go. The child that validates best becomes the parent of the
next level. Chan, Yiu, Guo and Jiang 2024, Neural Computing and Applications 36(22), 13915-13933,
doi 10.1007/s00521-024-09719-6.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from prunekit import search, select
from prunekit._files import digest
from prunekit.data import accuracy, ranks
from prunekit.judge import SLACK, as_metric, evaluate, metric_name
from prunekit.knobs import (
    Choice,
    Count,
    Fraction,
    Names,
    Natural,
    NonNegative,
    Positive,
    Precision,
    Range,
    Scope,
)
from prunekit.mask import Mask, check_prunable
from prunekit.method import method
from prunekit.steps import Run, Step, derive
from prunekit.train import fit

# log of the share of the wheel, up to a constant, for a = |w| / σ, (n,), n > 0.
# paper: "small weights are more likely to be pruned", the formula is not public; here: a family.
WHEELS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "sum": lambda a, strength: torch.log1p(-_share(a, a.sum())),
    "lin": lambda a, strength: torch.log1p(-_share(a, a.max())),
    "inv": lambda a, strength: -strength * torch.log(a + 1e-3),
    "exp": lambda a, strength: -strength * a,
    "rank": lambda a, strength: strength * torch.log1p(-ranks(a) / len(a)),
    "uniform": lambda a, strength: torch.zeros_like(a),  # the control: blind removal
}
STEPS = (0.5, 1.0, 1.5, 2.0)  # what a child's step is multiplied with when it is drawn


def _share(a: Tensor, whole: Tensor) -> Tensor:
    """a / whole, and 0 where all weights are 0: then every slice is equal."""
    return a / whole if whole > 0 else torch.zeros_like(a)


def _log_wheel(a: Tensor, wheel: str, strength: float) -> Tensor:
    """The logarithms of a wheel's slices: of the chance that each weight is the first to be picked.

    `a` `(n,)` are the weights' relative sizes, |w| / σ.
    """
    logits = WHEELS[wheel](a.double(), strength)
    if torch.isinf(logits).all():  # lin: all weights are equal, no slice is left
        logits = torch.zeros_like(logits)
    return torch.log_softmax(logits, 0)


def _relative_size(model: nn.Module, mask: Mask) -> dict[str, Tensor]:
    """|w| / σ of the surviving weights, a layer at a time; σ over the layer's survivors."""
    parameters = dict(model.named_parameters())
    sizes = {}
    for name, keep in mask.items():
        w = parameters[name].detach().cpu()[keep].float()
        deviation = w.std(correction=0) if len(w) else torch.tensor(0.0)
        sizes[name] = w.abs() / deviation if deviation > 0 else torch.ones_like(w)
    return sizes


def _groups(mask: Mask | dict[str, Tensor], scope: str) -> list[list[str]]:
    """The names on each wheel."""
    return [[*mask]] if scope == "global" else [[name] for name in mask]


def _flat(mask: Mask, names: list[str]) -> Tensor:
    return torch.cat([mask[name].flatten() for name in names])


def _rest(total: int, sparsity: float) -> int:
    """How many of a wheel's weights stay to the end: at least one."""
    return max(total - round(sparsity * total), 1)


@dataclass(frozen=True)
class _Wheel:
    """What all children of a level share: names, survivors' places and their slices, (n,)."""

    names: list[str]
    alive: Tensor
    logits: Tensor

    @property
    def key(self) -> str:
        return digest(self.names, self.alive, self.logits)


def _wheels(model: nn.Module, mask: Mask, wheel: str, strength: float, scope: str) -> list[_Wheel]:
    sizes, wheels = _relative_size(model, mask), []
    for names in _groups(mask, scope):
        alive = _flat(mask, names).nonzero().flatten()
        a = torch.cat([sizes[name] for name in names])
        wheels.append(_Wheel(names, alive, _log_wheel(a, wheel, strength).float()))
    return wheels


def _child(
    model: nn.Module,
    candidate: tuple[int, int, int],
    *,
    parent: Mask,
    wheels: list[_Wheel],
    sparsity: float,
    step: float,
    draw_step: bool,
) -> Mask:
    """The mask of candidate (level, number, seed): the parent's, less what the wheels pick."""
    level, number, seed = candidate
    generator = torch.Generator().manual_seed(derive(seed, "spin", level, number))
    if draw_step:
        step *= STEPS[int(torch.randint(len(STEPS), (), generator=generator))]
    kept = {}
    for wheel in wheels:
        keep, left = _flat(parent, wheel.names), len(wheel.alive)
        n = min(max(round(step * left), 1), left - _rest(len(keep), sparsity))
        if n > 0:
            keep[wheel.alive[select.spin(wheel.logits, n, generator)]] = False
        parts = keep.split([parent[name].numel() for name in wheel.names])
        for name, part in zip(wheel.names, parts, strict=True):
            kept[name] = part.view(parent[name].shape)
    return parent & Mask(kept)


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
    weights = Mask.ones(model, biases, ignore)
    for names in _groups(weights, scope):
        total = sum(weights[name].numel() for name in names)
        if round(step * total) < 1:
            what = names[0] if scope == "layer" else "the model"
            raise ValueError(
                f"roulette: step must remove at least one weight of {what} ({total}), got {step}"
            )
    if draw_step and step * max(STEPS) >= 1:
        raise ValueError(f"roulette: step must be below {1 / max(STEPS)} if drawn, got {step}")


@method(check=_check)
def roulette(
    model: nn.Module,
    data: Any,
    *,
    sparsity: Fraction = 0.9,
    wheel: Annotated[str, Choice(*WHEELS)] = "inv",
    strength: Annotated[float, Range(0, 64, low_open=True)] = 4.0,
    branches: Count = 10,
    step: Annotated[float, Range(0, 1, low_open=True, high_open=True)] = 0.05,
    draw_step: bool = False,
    tie: NonNegative = 0.0005,
    tolerance: Annotated[float, Range(0, 1)] | None = None,
    epochs: Natural = 0,
    lr: Positive = 0.01,
    precision: Precision = "fp32",
    scope: Scope = "global",
    biases: bool = False,
    ignore: Names = (),
    seed: int = 0,
    run: Run = Run(),
) -> Iterator[Step]:
    """Grow the tree level by level; its `info` holds each child's errors and the chosen one.

    sparsity: share of the weights removed at the end, unless `tolerance` ends the run before.
    wheel: how the slices shrink with |w|: "sum", "lin", "inv", "exp", "rank"; "uniform" is blind.
    strength: γ of inv, τ of exp, p of rank; the larger, the closer to magnitude pruning.
    branches: children of each level.
    step: share of the survivors that a level removes.
    draw_step: draw each child's step from ½, 1, 1½ and 2 × `step`.
    tie: if steps are drawn, the smallest child wins among those whose metric is this close to
        the best.
    tolerance: stop when the best child falls more than this below the metric at the start, also
        after the step was halved twice.
    epochs: passes over the training data for the winner of each level.
    lr: learning rate of the fine-tuning at its highest.
    precision: of the training; see `prunekit.train.fit`.
    scope: one wheel for the whole model, or one a layer.
    biases: prune biases too.
    ignore: names of parameters to leave alone.
    """
    mask, level, halvings = Mask.ones(model, biases, ignore), 0, 0
    name, index, worst = metric_name(data), 0, -math.inf
    if tolerance is not None:
        worst = evaluate(model, data, run=run) - tolerance - SLACK
    goal = sum(_rest(len(_flat(mask, names)), sparsity) for names in _groups(mask, scope))
    levels = math.ceil(math.log(1 - sparsity) / math.log(1 - step))
    while mask.kept > goal and halvings < 3:
        level += 1
        wheels = _wheels(model, mask, wheel, strength, scope)
        decode = functools.partial(
            _child, parent=mask, wheels=wheels, sparsity=sparsity,
            step=step / 2**halvings, draw_step=draw_step,
        )  # fmt: skip
        children = [(level, number, seed) for number in range(branches)]
        results = search.evaluate(model, data, children, decode, run)
        metrics = [as_metric(result, data) for result in results]
        best = metrics.index(max(metrics))
        if draw_step:  # the fewest weights among the children within the tie, then the better
            near = [i for i in range(branches) if metrics[best] - metrics[i] <= tie + SLACK]
            best = min((decode(model, children[i]).kept, -metrics[i], i) for i in near)[2]
        if metrics[best] < worst:  # another level from the same parent, in smaller steps
            halvings += 1
            continue
        mask, index = decode(model, children[best]), index + 1
        mask.apply_(model)
        counted = "errors" if data.metric is accuracy else name
        info = {"level": level, "children": results, "chosen": best, "counted": counted}
        yield Step("prune", index, max(index, levels), mask, {name: metrics[best]}, info)
        yield from fit(
            model, data, epochs=epochs, lr=lr, precision=precision, mask=mask, phase="finetune",
            seed=derive(seed, level), run=run,
        )  # fmt: skip
