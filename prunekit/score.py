"""Criteria: how important is each weight? Larger is kept.

A criterion gives ``{name: scores}``, one tensor of the parameter's shape for each name it is asked
for. Gradients are taken on the training split: the validation split judges what they chose.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.backends import cudnn

from prunekit._arguments import checked
from prunekit._memory import examples_within
from prunekit._modules import answer, device_of, each, evaluating, place, repeatably
from prunekit._random import LocalRandom
from prunekit.data import Data, wrap
from prunekit.knobs import Choice, Count, NonNegative, shown
from prunekit.mask import Mask
from prunekit.steps import Run, derive

Scores = dict[str, Tensor]
SCORING_BATCH = 500  # fewer where `Run.memory` does not allow so many


@checked
def magnitude(model: nn.Module, names: Iterable[str]) -> Scores:
    """|w|. Han, Pool, Tran and Dally 2015, arXiv 1506.02626."""
    return {name: p.detach().abs() for name, p in _parameters(model, names).items()}


@checked
def median(model: nn.Module, names: Iterable[str], dims: Mapping[str, int] | None = None) -> Scores:
    """How far a filter is from all others of its weight: the sum of the L2 distances.

    The smallest are nearest to the geometric median, where others can stand in for them: He et al.
    2019, arXiv 1811.00250, equation 8. `(out, 1, ..., 1)`, of weights `(out, ...)`.

    dims: the dimension along which a weight's filters lie, where that is not the first.
    """
    scores = {}
    for name, p in _parameters(model, names).items():
        dim = (dims or {}).get(name, 0)
        rows = p.detach().movedim(dim, 0).flatten(1).float()
        apart = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
        scores[name] = apart.reshape([-1 if d == dim else 1 for d in range(p.ndim)])
    return scores


@checked
def relative(model: nn.Module, mask: Mask) -> Scores:
    """|w| / σ, σ the standard deviation of the parameter's weights that the mask keeps.

    So that what counts is a weight's place among those of its layer. 1 where all are equal, and
    at least 32 bits wide.
    """
    scores = {}
    for name, p in _parameters(model, mask).items():
        w = p.detach().cpu().float()
        size, left = w.abs(), w[mask[name]]
        deviation = left.std(correction=0) if len(left) else left.new_zeros(())
        scores[name] = size / deviation if deviation > 0 else torch.ones_like(size)
    return scores


@checked
def deviation(model: nn.Module, mask: Mask) -> float:
    """The standard deviation of all weights together that a mask keeps."""
    kept = [p.detach().cpu()[mask[n]].float() for n, p in _parameters(model, mask).items()]
    return float(torch.cat(kept).std(correction=0)) if sum(map(len, kept)) else 0.0


# paper (Chan et al. 2024, doi 10.1007/s00521-024-09719-6): a weight's importance is its value;
# here: so too, or its place among the others of its layer.
MEASURES = ("absolute", "relative")


@checked
def sizes(
    model: nn.Module, mask: Mask, measure: Annotated[str, Choice(*MEASURES)], dense: NonNegative
) -> Scores:
    """How large a roulette wheel sees each weight.

    measure: "absolute", |w| over one σ, `dense`, that of all weights before anything went;
        "relative", as `relative`.
    """
    if measure == "relative":
        return relative(model, mask)
    return {name: size.cpu() / (dense or 1.0) for name, size in magnitude(model, mask).items()}


@checked
def gradient(
    model: nn.Module,
    data: Any,
    names: Iterable[str],
    *,
    examples: Count = 5_000,
    seed: int = 0,
    run: Run = Run(),
) -> Scores:
    """|∂L/∂w|, L the mean loss of `examples` training examples drawn with `seed`.

    The first-order change of the loss for a unit change of the weight; Mozer and Smolensky 1988,
    "Skeletonization", use it for units.
    """
    return {
        name: g.abs() for name, g in _gradients(model, data, names, examples, seed, run).items()
    }


@checked
def weight_gradient(
    model: nn.Module,
    data: Any,
    names: Iterable[str],
    *,
    examples: Count = 5_000,
    seed: int = 0,
    run: Run = Run(),
) -> Scores:
    """|w · ∂L/∂w|: the first-order change of the loss when the weight is removed.

    Molchanov et al. 2017, arXiv 1611.06440, equation 7; at initialisation it is SNIP, Lee et al.
    2019, arXiv 1810.02340.
    """
    parameters = _parameters(model, names)
    slopes = _gradients(model, data, parameters, examples, seed, run)
    return {name: (parameters[name].detach() * g).abs() for name, g in slopes.items()}


def _parameters(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """These parameters of a model. Raises ValueError for a name that is none."""
    parameters, names = dict(model.named_parameters()), [*names]
    if unknown := [name for name in names if name not in parameters]:
        raise ValueError(
            f"score: {type(model).__name__} has no parameter {shown(unknown[0])}; it has "
            f"{[*parameters]}"
        )
    return {name: parameters[name] for name in names}


def _gradients(
    model: nn.Module, data: Any, names: Iterable[str], examples: int, seed: int, run: Run
) -> Scores:
    """∂L/∂w in eval mode, averaged over training examples; zeros where the loss does not depend."""
    parameters = _parameters(model, names)
    if not parameters:
        return {}
    frozen = [p for p in parameters.values() if not p.requires_grad]
    try:
        for p in frozen:
            p.requires_grad_(True)
        return repeatably(
            model, lambda: _averaged(model, wrap(data), parameters, examples, seed, run)
        )
    finally:
        for p in frozen:
            p.requires_grad_(False)


def _averaged(
    model: nn.Module,
    data: Data,
    parameters: dict[str, nn.Parameter],
    examples: int,
    seed: int,
    run: Run,
) -> Scores:
    device, n, reached = device_of(model), 0, set[str]()
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    generator = torch.Generator().manual_seed(derive(seed, "gradient"))
    size = examples_within(run.memory, model, data, "train", SCORING_BATCH, kept=True)
    for x, y in data.batches("train", size, generator):
        run.poll()
        x, y = each(x, operator.itemgetter(slice(examples - n))), y[: examples - n]
        draws = LocalRandom(derive(seed, "draws", n))
        with torch.enable_grad(), evaluating(model), draws, _repeatable(device):
            loss = data.loss(answer("score", model, place(x, device)), y.to(device)) * len(y)
            if not loss.requires_grad:
                raise ValueError(
                    f"score: {type(model).__name__} gives no gradients, its loss depends on no "
                    "parameter. Look for detach() or torch.no_grad in its forward, or use another "
                    "criterion."
                )
            slopes = torch.autograd.grad(loss, [*parameters.values()], allow_unused=True)
        for name, slope in zip(parameters, slopes, strict=True):
            if slope is not None:
                total[name] += slope
                reached.add(name)
        n += len(y)
        if n >= examples:
            break
    if lost := [name for name in parameters if name not in reached]:
        warnings.warn(
            f"score: no gradient reaches {', '.join(lost[:3])}{' and others' * (len(lost) > 3)} of "
            f"{type(model).__name__}, so it counts as 0. Where that is computed under "
            "torch.no_grad, or not at all, pass ignore=, or use another criterion.",
            stacklevel=2,
        )
    return {name: sums / max(n, 1) for name, sums in total.items()}


def _repeatable(device: torch.device) -> AbstractContextManager[Any]:
    """Nobody journals gradients: a resumed run takes them again, and must get the same."""
    if device.type != "cuda":
        return nullcontext()
    return cudnn.flags(enabled=True, deterministic=True, allow_tf32=cudnn.allow_tf32)
