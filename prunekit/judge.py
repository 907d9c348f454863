"""What a model costs on a split, and what its metric is; nothing here changes a model."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn

from prunekit._modules import evaluating, lay_out
from prunekit.data import Data, accuracy, likeliest, wrong
from prunekit.mask import Mask
from prunekit.steps import Run

SLACK = 1e-9  # what rounding adds to a difference of two metrics
EVALUATION_BATCH = 250  # what the cache of a core holds beside the weights of a small network


def metric_name(data: Any) -> str:
    """What the metric of the data is called in figures and tables, such as ``"accuracy"``."""
    name = getattr(data.metric, "__name__", "metric")
    return name if name.isidentifier() else "metric"


def stand_in(model: nn.Module) -> nn.Module:
    """A copy in eval mode, in the memory order in which a CPU convolves about twice as fast."""
    copied = copy.deepcopy(model).eval()
    lay_out(copied.parameters(), torch.channels_last)
    return copied


def judge(
    model: nn.Module,
    data: Any,
    run: Run = Run(),
    split: str = "validation",
    limit: float = math.inf,
) -> float:
    """The number of errors over a split, or the metric where it is not the accuracy.

    Infinite as soon as there are more than `limit` errors: the rest is not looked at.
    """
    device = next(model.parameters()).device
    count, kept = 0, []
    for x, y in data.batches(split, EVALUATION_BATCH):
        run.poll()
        with torch.no_grad(), evaluating(model):
            out, y = model(x.to(device)), y.to(device)
            if data.metric is accuracy:  # without holding all outputs in memory
                count += wrong(out, y)
                if count > limit:
                    return math.inf
            else:
                kept.append((out, y))
    if data.metric is accuracy:
        return count
    if not kept:
        raise ValueError(f"evaluate: the data give no batch of the {split} split")
    outputs, expected = zip(*kept, strict=True)
    return float(data.metric(torch.cat(outputs), torch.cat(expected)))


def hardest_first(model: nn.Module, data: Any, run: Run = Run()) -> Any:
    """The data's validation examples alone, those first whose right class leads by the least.

    What errs at all then errs early, and a candidate with too many errors is soon given up. Data
    that cannot be put into another order, or have no accuracy, stay as they are.
    """
    if not isinstance(data, Data) or data.metric is not accuracy:
        return data
    part, leads = data.only("validation"), []
    device = next(model.parameters()).device
    for x, y in part.batches("validation", EVALUATION_BATCH):
        run.poll()
        with torch.no_grad(), evaluating(model):
            out, classes = model(x.to(device)), y.to(device).unsqueeze(1)
        others = out.scatter(1, classes, -math.inf).amax(1, keepdim=True)
        lead = out.gather(1, classes) - others
        leads.append(lead.flatten(1).amin(1).cpu())  # the least of several targets
    return part.take("validation", torch.cat(leads).argsort(stable=True))


def as_metric(result: float, data: Any, split: str = "validation") -> float:
    """The metric that a result of `judge` stands for: errors become an accuracy."""
    if data.metric is not accuracy:
        return result
    n = targets(data, split)
    return (n - result) / n


def targets(data: Any, split: str) -> int:
    """How many targets a split has: one an example, or several."""
    _, y = next(iter(data.batches(split, 1)))
    return size(data, split) * (likeliest(y) if data.metric is accuracy else y)[0].numel()


def size(data: Any, split: str) -> int:
    """How many examples a split has, counted where the data does not say."""
    if hasattr(data, "size"):
        return int(data.size(split))
    return sum(len(y) for _, y in data.batches(split, EVALUATION_BATCH))


def evaluate(
    model: nn.Module,
    data: Any,
    split: str = "validation",
    *,
    mask: Mask | None = None,
    run: Run = Run(),
) -> float:
    """The metric of the data over a split; with `mask`, as if it were applied.

    Raises `Stopped` if `run.stop` is set.
    """
    if mask is not None:
        mask.check(model)
        model = mask.apply_(stand_in(model))
    return as_metric(judge(model, data, run, split), data, split)
