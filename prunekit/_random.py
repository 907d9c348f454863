"""Random draws that come from a seed and leave the generators of the process alone."""

from __future__ import annotations

import random
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import GeneratorType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch._C import _len_torch_dispatch_stack
from torch.utils import checkpoint
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode

T = TypeVar("T")


class LocalRandom(TorchDispatchMode):
    """Random draws inside, such as dropout's, come from a seed and not from the global generator.

    The mode belongs to the thread, so runs in two threads do not disturb each other. What a
    backward pass inside computes again (`torch.utils.checkpoint`) draws the same numbers again.
    """

    def __init__(self, seed: int):
        super().__init__()
        self.seed, self.drawn = seed, 0
        self.generators: dict[torch.device, torch.Generator] = {}
        self.forget()

    def forget(self) -> None:
        """Let go of what was kept for passes that are computed again."""
        self._begun: dict[tuple[Any, torch.device], Tensor] = {}  # a generator's state
        self._again: dict[tuple[Any, int], dict[torch.device, torch.Generator]] = {}

    def generator(self, device: torch.device) -> torch.Generator:
        """What the next draw on a device comes from."""
        generators, self.drawn = self.generators, self.drawn + 1
        for region, again in _checkpointed():
            if again:
                pass_ = torch._C._current_graph_task_id()  # each backward pass has its own
                generators = self._again.setdefault((region, pass_), {})
                if device not in generators:
                    state = self._begun[region, device]
                    generators[device] = torch.Generator(device).set_state(state)
            elif (region, device) not in self._begun:
                self._begun[region, device] = self._of(generators, device).get_state()
        return self._of(generators, device)

    def _of(
        self, generators: dict[torch.device, torch.Generator], device: torch.device
    ) -> torch.Generator:
        if device not in generators:
            generators[device] = torch.Generator(device).manual_seed(self.seed)
        return generators[device]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        names = [a.name for a in func._schema.arguments]
        given = dict(zip(names, args, strict=False)) | kwargs
        if given.get("generator") is not None:
            return func(*args, **kwargs)
        first = args[0] if args and isinstance(args[0], Tensor) else None
        device = first.device if first is not None else torch.device(kwargs.get("device") or "cpu")
        if "generator" in names:  # among others, or a keyword
            args = args[: names.index("generator")]
            rest = {name: a for name, a in given.items() if name not in names[: len(args)]}
            return func(*args, **rest | {"generator": self.generator(device)})
        drawn = _WITHOUT_GENERATOR.get(func.overloadpacket)
        if drawn is not None:
            return drawn(self.generator(device), *args, **kwargs)
        if draws(func, args, kwargs):
            raise RuntimeError(f"the model draws random numbers with {func}, which takes no seed")
        return func(*args, **kwargs)


def draws(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operator marked as random draws: not with dropout of 0, nor outside training.

    The fused kernels of attention and of recurrent layers are marked, with dropout or without.
    """
    names = [a.name for a in func._schema.arguments]
    given = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
    given |= dict(zip(names, args, strict=False)) | kwargs
    chance = next((given[name] for name in ("dropout_p", "dropout", "p") if name in given), 1)
    return chance != 0 and given.get("train") is not False


def _native_dropout(
    generator: torch.Generator, x: Tensor, p: float, train: bool | None = True
) -> tuple[Tensor, Tensor]:
    if train is False:  # None: as in training
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    keep = torch.empty_like(x).bernoulli_(1 - p, generator=generator)
    scale = 1 / (1 - p) if p < 1 else 0.0
    return x * keep * scale, keep.bool()


def _randint_like(generator: torch.Generator, x: Tensor, *bounds: Any, **form: Any) -> Tensor:
    low, high = map(int, (0, *bounds)[-2:])
    return torch.empty_like(x, **form).random_(low, high, generator=generator)


# Operators that draw but take no generator.
_WITHOUT_GENERATOR: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.native_dropout: _native_dropout,
    torch.ops.aten.rand_like: lambda g, x, **kw: torch.empty_like(x, **kw).uniform_(generator=g),
    torch.ops.aten.randn_like: lambda g, x, **kw: torch.empty_like(x, **kw).normal_(generator=g),
    torch.ops.aten.rand: lambda g, *size, **kw: torch.rand(*size, **kw, generator=g),
    torch.ops.aten.randn: lambda g, *size, **kw: torch.randn(*size, **kw, generator=g),
    torch.ops.aten.randint_like: _randint_like,
    torch.ops.aten.randint: lambda g, *bounds, **kw: torch.randint(*bounds, **kw, generator=g),
    torch.ops.aten.randperm: lambda g, n, **kw: torch.randperm(n, **kw, generator=g),
}


def _checkpointed() -> list[tuple[Any, bool]]:
    """The regions of `torch.utils.checkpoint` around the caller, the outermost first, and whether
    each is being computed again."""
    found, frame = [], sys._getframe(1)
    while (frame := frame.f_back) is not None:  # type: ignore[assignment]
        code = frame.f_code
        if code.co_filename != checkpoint.__file__:
            continue
        own = frame.f_locals
        if isinstance(own.get("gen"), GeneratorType):  # in a function of another name since 2.14
            found.append((own["gen"].gi_frame.f_locals["new_frame"], False))
        elif code.co_name == "unpack_hook":
            found.append((own["frame"], True))
        elif code.co_name in ("forward", "backward") and "ctx" in own:
            found.append((own["ctx"], code.co_name == "backward"))
    return found[::-1]


# ------------------------------------------------------------------- the generators of the process


class _Turns:
    """Inside are many threads that leave the process's generators alone, or one that sets them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: set[int] = set()  # threads
        self._alone, self._waiting = False, 0

    @contextmanager
    def inside(self, alone: bool = False) -> Iterator[None]:
        """Wait until nobody sets the generators, or, `alone`, until nobody else is inside. Who is
        inside goes on as what he is."""
        me = threading.get_ident()
        if me in self._inside:
            yield
            return
        try:
            with self._changed:
                self._waiting += alone
                try:
                    self._changed.wait_for(lambda: not self._keeps_out(alone))
                finally:
                    self._waiting -= alone
                self._inside.add(me)
                self._alone = alone
            yield
        finally:
            with self._changed:
                self._inside.discard(me)
                self._alone = self._alone and bool(self._inside)
                self._changed.notify_all()

    def _keeps_out(self, alone: bool) -> bool:
        return bool(self._inside) if alone else self._alone or self._waiting > 0


_turns = _Turns()
_thread = threading.local()  # .always: all draws come from seeds, without looking for them first
_drawing: weakref.WeakSet[Any] = weakref.WeakSet()  # models that were seen to draw


class Generators:
    """The states of the generators that code draws from without saying so: torch's, of the
    processor and a device, Python's and numpy's."""

    def __init__(self, device: torch.device):
        self.device = device
        self.torch = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else self.torch
        self.python = random.getstate()
        self.numpy = np.random.get_state(legacy=False)

    def moved(self) -> bool:
        """Whether somebody has drawn from one of them since."""
        now = Generators(self.device)
        return not (
            torch.equal(self.torch, now.torch)
            and torch.equal(self.cuda, now.cuda)
            and self.python == now.python
            and all(map(np.array_equal, _leaves(self.numpy), _leaves(now.numpy)))
        )

    def put_back(self) -> None:
        torch.set_rng_state(self.torch)
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(self.cuda, self.device)
        random.setstate(self.python)
        np.random.set_state(self.numpy)


def _leaves(state: Any) -> list[Any]:
    """The values in nested dicts."""
    if not isinstance(state, dict):
        return [state]
    return [leaf for part in state.values() for leaf in _leaves(part)]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[LocalRandom]:
    """All draws inside come from a seed, Python's and numpy's too, and leave no trace.

    These two belong to the process, as does torch's own generator where it is named: one thread at
    a time is inside.
    """
    with _turns.inside(alone=True):
        before = Generators(device)
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            with LocalRandom(seed) as draws:
                yield draws
        finally:
            before.put_back()


@contextmanager
def always_seeded() -> Iterator[None]:
    """In this thread, work is done under its seed at once: where other threads of the process draw
    all the time, looking whether the work itself did would have it done twice."""
    _thread.always = True
    try:
        yield
    finally:
        _thread.always = False


@contextmanager
def _modes_end() -> Iterator[None]:
    """Modes of this thread that are entered inside end here, also where an interrupt hit between
    their entry and their ``with``: what is drawn later would come from their seed."""
    before = _len_torch_dispatch_stack()
    try:
        yield
    finally:
        while _len_torch_dispatch_stack() > before:
            _pop_mode()


@_modes_end()
def repeatable(
    work: Callable[[LocalRandom | None], T | None], of: Any, device: torch.device, seed: int = 0
) -> T:
    """What ``work(None)`` gives; if it draws random numbers, ``work(draws)`` with all of them from
    a seed.

    What `of` is about, a model, is remembered as one that draws, and the work is done once the next
    time. It must be such that it can be done again; None says that it has to be.
    """
    if of not in _drawing and not getattr(_thread, "always", False):
        before, moved = None, True
        try:
            with _turns.inside():
                before = Generators(device)
                given = work(None)
                moved = before.moved()
        finally:
            if moved and before is not None and before.moved():
                with _turns.inside(alone=True):  # others look whether theirs have moved meanwhile
                    before.put_back()
        if not moved and given is not None:
            return given
        _drawing.add(of)
    with seeded(seed, device) as draws:
        given = work(draws)
    assert given is not None
    return given
