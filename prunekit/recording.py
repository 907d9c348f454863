"""Many variants of a network judged over one recorded pass.

With other weights in a late layer, all that comes before answers as it did. So a pass over a batch
is recorded, module by module, and each variant takes its answers from the recording, up to the
first use of what has changed, and computes only the rest.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prunekit._arguments import checked
from prunekit._memory import examples_within
from prunekit._modules import (
    answer,
    device_of,
    each,
    evaluating,
    named_tensors,
    place,
    plain_attributes,
    repeatably,
)
from prunekit._random import Generators
from prunekit.data import Data
from prunekit.examples import Pair
from prunekit.judge import EVALUATION_BATCH, ON_ACCELERATORS, Tally, stand_in
from prunekit.steps import Run

Changes = Mapping[str, Tensor]  # of a parameter what is kept, if bool, or its new values
MEMORY, ELSEWHERE = 2**28, 2**32  # bytes of a recorded pass, on a CPU and on accelerators


def put_on(own: Tensor, weight: Tensor, change: Tensor | None) -> None:
    """Give a copy's parameter the values of a weight, with what changes of it."""
    if change is not None and change.dtype is torch.bool:
        torch.mul(weight, change.to(own.device), out=own)
    else:
        own.copy_(weight if change is None else change)


@dataclass
class _Call:
    """A call of a module: what it gave, how many calls had begun and ended once it had ended.

    Calls are numbered in the order in which they begin; `versions` tell what was written into.
    """

    out: Any
    begun: int
    ended: int
    versions: list[tuple[Tensor, int]]

    @property
    def intact(self) -> bool:
        return all(a._version == version for a, version in self.versions)


class _Uses(TorchDispatchMode):
    """At each parameter's first use, how many calls of modules had ended."""

    def __init__(self, parameters: Mapping[str, Tensor], ended: Callable[[], int]):
        super().__init__()
        self.names: dict[int, list[str]] = {}
        for name, p in parameters.items():
            self.names.setdefault(_memory(p), []).append(name)
        self.ended, self.first = ended, dict[str, int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for a in tree_leaves((args, kwargs)):
            if isinstance(a, Tensor):
                for name in self.names.get(_memory(a), ()):
                    self.first.setdefault(name, self.ended())
        return func(*args, **(kwargs or {}))


def _memory(a: Tensor) -> int:
    return a.untyped_storage().data_ptr() if a.layout is torch.strided else -1


class Recording:
    """A copy of a network that records a pass, and replays it with other values of parameters.

    `record` gives what the network answers; `repeats` tells whether it can be replayed: nothing was
    drawn, counted or kept on the way. `replay` gives what the network would answer
    with some changes, bit by bit.
    """

    @checked
    def __init__(self, model: nn.Module):
        self.weights = dict(model.named_parameters())
        self.model = stand_in(model)
        self.worn = dict(self.model.named_parameters())
        self.calls: list[_Call | None] = []
        self.ended, self.repeats = 0, False
        self.at, self.until = -1, -math.inf  # -1: nothing is replayed
        self.first: dict[str, int] = {}
        for module in self.model.modules():
            if getattr(module, "inplace", None) is True:  # it would write into what is kept
                vars(module)["inplace"] = False
            vars(module)["forward"] = self._watched(module.forward)

    def _watched(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.at >= 0:
                past = self.calls[self.at] if self.at < len(self.calls) else None
                if past is not None and past.ended <= self.until:
                    self.at = past.begun
                    return past.out
                self.at += 1
                return forward(*args, **kwargs)
            number = len(self.calls)
            self.calls.append(None)
            out = forward(*args, **kwargs)
            self.ended += 1
            tensors = [a for a in tree_leaves(out) if isinstance(a, Tensor)]
            versions = [(a, a._version) for a in tensors]
            self.calls[number] = _Call(out, len(self.calls), self.ended, versions)
            return out

        return call

    def batches(
        self, data: Data, split: str, run: Run, generator: torch.Generator | None = None
    ) -> Iterator[Pair]:
        """Batches of a split, where the network is, as large as what is recorded of one may be."""
        device = device_of(self.model)
        on_cpu = device.type == "cpu"
        memory = run.memory or (MEMORY if on_cpu else ELSEWHERE)
        most = EVALUATION_BATCH if on_cpu else ON_ACCELERATORS
        size = examples_within(memory, self.model, data, split, most, kept=True)
        for x, y in data.batches(split, size, generator):
            run.poll()
            yield place(x, device), y.to(device)

    def record(self, x: Any) -> Any:
        """What the network answers to a batch."""
        self.forget()
        x = each(x, torch.clone)  # the network may write into it
        held = [*named_tensors(self.model).values()]
        before = [a._version for a in held]
        attributes, drawn = plain_attributes(self.model), Generators(device_of(self.model))
        uses = _Uses(self.worn, lambda: self.ended)
        with torch.no_grad(), evaluating(self.model), uses:
            out = answer("judge", self.model, x)
        self.first = uses.first
        self.repeats = (
            [a._version for a in held] == before
            and plain_attributes(self.model) == attributes
            and not drawn.moved()
        )
        # What was written into later is computed anew.
        self.calls = [call if call is not None and call.intact else None for call in self.calls]
        return out

    def replay(self, x: Any, changes: Changes) -> Any:
        """What the network would answer to the batch that was recorded, with these changes."""
        firsts = [self.first[name] for name in changes if name in self.first]
        self.at, self.until = 0, min(firsts, default=math.inf)
        try:
            with torch.no_grad(), evaluating(self.model), self._wearing(changes):
                return answer("judge", self.model, each(x, torch.clone))
        finally:
            self.at = -1

    def check(self, changes: Changes) -> None:
        """Raise ValueError for changes of what is no parameter, or of another shape."""
        for name, change in changes.items():
            shape = tuple(self.worn[name].shape) if name in self.worn else None
            if tuple(change.shape) != shape:
                raise ValueError(
                    f"recording: a change of {name!r} must have the parameter's shape {shape}, got "
                    f"{tuple(change.shape)}"
                )

    @contextmanager
    def _wearing(self, changes: Changes) -> Iterator[None]:
        try:
            for name, change in changes.items():
                put_on(self.worn[name], self.weights[name], change)
            yield
        finally:
            for name in changes:
                put_on(self.worn[name], self.weights[name], None)

    def forget(self) -> None:
        """Let go of what was recorded."""
        self.calls, self.ended, self.repeats = [], 0, False


@checked
def judged(
    model: nn.Module,
    data: Data,
    variants: Sequence[Changes],
    run: Run = Run(),
    limits: Sequence[float] | None = None,
) -> list[float] | None:
    """The validation costs of a network with changes, one of each of `variants`, as of
    `prunekit.judge.judge`; None where passes cannot be replayed.

    A variant maps names of parameters to what is kept of them, a bool tensor, or to new values.
    """
    recording = Recording(model)
    bounds = [math.inf] * len(variants) if limits is None else [*limits]
    if len(bounds) != len(variants):
        raise ValueError(f"judged: {len(variants)} variants need as many limits, got {len(bounds)}")
    for changes in variants:
        recording.check(changes)
    changed = [
        {name: a for name, a in changes.items() if a.dtype is not torch.bool or not a.all()}
        for changes in variants
    ]

    def work() -> list[float] | None:
        tallies = [Tally(model, data, limit) for limit in bounds]
        for x, y in recording.batches(data, "validation", run):
            recording.record(x)
            if not recording.repeats:
                return None
            for tally, changes in zip(tallies, changed, strict=True):
                run.poll()
                if not tally.over:
                    tally.add(recording.replay(x, changes), y)
        recording.forget()
        return [tally.cost() for tally in tallies]

    return repeatably(recording.model, work)
