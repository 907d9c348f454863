"""Evaluate candidates through `Run.workers`, asking the journal first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from prunekit import train
from prunekit._files import digest, state_key
from prunekit.mask import Mask
from prunekit.steps import Run, Step

Decode = Callable[[nn.Module, Any], Mask]


def evaluate(
    model: nn.Module, data: Any, candidates: Iterable[Any], decode: Decode, run: Run = Run()
) -> list[float]:
    """The validation result of each candidate, as if its mask were applied to the model.

    ``decode(model, candidate)`` gives the candidate's `Mask`; it runs in the worker and must be a
    function of a module, or a `functools.partial` of one. The result is the number of errors, or
    the metric where that is not the accuracy.
    """
    items, journal = list(candidates), run.journal
    if journal is None:
        return list(run.workers(_Job(model, data, decode, run), items))
    base = digest(state_key(model), data.key, decode)
    keys = [digest(base, item) for item in items]
    missing = {key: item for key, item in zip(keys, items, strict=True) if journal.get(key) is None}
    results = run.workers(_Job(model, data, decode, run), missing.values())
    for key, result in zip(missing, results, strict=True):
        journal.put(key, result)
    return [journal.get(key) for key in keys]


class _Job:
    """Evaluates one candidate, in whatever thread it is called, on that thread's own model."""

    def __init__(self, model: nn.Module, data: Any, decode: Decode, run: Run):
        self.model, self.data, self.decode, self.run = model, data, decode, run
        self.local = threading.local()

    def __call__(self, candidate: Any) -> float:
        mask = self.decode(self.model, candidate)
        if not hasattr(self.local, "model"):
            self.local.model = train.stand_in(self.model)
        worn = dict(self.local.model.named_parameters())
        weights = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, keep in mask.items():
                torch.mul(weights[name], keep.to(worn[name].device), out=worn[name])
        return train.judge(self.local.model, self.data, self.run)


def _itself(model: nn.Module, mask: Mask) -> Mask:
    return mask


def cut(
    model: nn.Module, data: Any, mask: Mask, index: int, of: int, run: Run = Run(), **info: Any
) -> Step:
    """Remove what the mask removes, and give the ``"prune"`` step that says so.

    Evaluated first, then applied: nothing polls `run.stop` between the change and the step.
    """
    mask.check(model)
    (result,) = evaluate(model, data, [mask], _itself, run)
    mask.apply_(model)
    return Step(
        "prune", index, of, mask, {train.metric_name(data): train.as_metric(result, data)}, info
    )
