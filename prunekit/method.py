"""`@method` turns a generator function into a method: checked, journalled, safe to interleave."""

from __future__ import annotations

import difflib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, overload

import torch
from torch import nn

from prunekit.knobs import Knob, Range, knobs
from prunekit.steps import Run, Step, Stopped


def check_model(who: str, model: Any) -> None:
    """Raise unless `model` is an ``nn.Module`` with parameters, all finite."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{who}: model must be a torch.nn.Module, got {type(model).__name__}")
    if next(model.parameters(), None) is None:
        raise ValueError(f"{who}: {type(model).__name__} is empty: it has no parameters")
    for name, p in model.named_parameters():
        if not torch.isfinite(p).all():
            bad = int((~torch.isfinite(p)).sum())
            raise ValueError(
                f"{who}: every weight must be finite, {name} has {bad} NaN or infinite values"
            )


_thread = threading.local()  # .depth: how many methods are inside one another in this thread


class _Surroundings:
    """Grad mode, flush-denormal and thread count: captured once, set around every `next()`.

    All three belong to the thread, and the thread that asks for the next step may be another.
    """

    def __init__(self) -> None:
        self.grad = torch.is_grad_enabled()
        self.flush = bool(torch.tensor(1e-40, dtype=torch.float32) * 1 == 0)
        self.threads = torch.get_num_threads()

    def set(self, other: _Surroundings) -> None:
        torch.set_grad_enabled(self.grad)
        if self.flush != other.flush:
            torch.set_flush_denormal(self.flush)
        if self.threads != other.threads:
            torch.set_num_threads(self.threads)

    def __enter__(self) -> None:
        before = _Surroundings()
        self.set(before)
        self._before = before
        _thread.depth = getattr(_thread, "depth", 0) + 1

    def __exit__(self, *exc: object) -> None:
        _thread.depth -= 1
        self._before.set(_Surroundings())


M = TypeVar("M", bound=Callable[..., Iterator[Step]])


@overload
def method(function: M) -> M: ...
@overload
def method(
    *, check: Callable[..., None] | None = None, regrows: bool = False
) -> Callable[[M], M]: ...
def method(
    function: Any = None, *, check: Callable[..., None] | None = None, regrows: bool = False
) -> Any:
    """Turn a generator function ``(model, data, *, knobs, seed, run)`` into a method.

    Knobs, model and data are checked when it is called, before any work. The stream then runs
    under the grad mode, flush-denormal setting and thread count of the call, opens the journal if
    it is the outermost method, and ends quietly when `run.stop` is set. `check(model, data,
    **knobs)` may hold bounds that depend on the model or the data. A method that `regrows` may put
    weights back that an earlier step had removed.
    """
    if function is None:
        return functools.partial(method, check=check, regrows=regrows)
    who = function.__name__
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(model: nn.Module, data: Any, **given: Any) -> Iterator[Step]:
        for name in given:
            if name not in signature.parameters or name in ("model", "data"):
                near = difflib.get_close_matches(name, [*knobs(function)], 1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise TypeError(f"{who}: has no knob {name!r}; it has {[*knobs(function)]}.{hint}")
        settings = {
            name: parameter.default
            for name, parameter in signature.parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        } | given
        for name, knob in knobs(function).items():
            settings[name] = knob.check(who, settings[name])
        settings["seed"] = Knob("seed", Range(0), 0, whole=True).check(who, settings["seed"])
        if not isinstance(settings["run"], Run):
            raise TypeError(f"{who}: run must be a prunekit Run, got {settings['run']!r}")
        if not getattr(_thread, "depth", 0):  # the outermost method: nested ones were checked by it
            check_model(who, model)
            if hasattr(data, "check"):
                data.check(model)
        if check is not None:
            own = {k: v for k, v in settings.items() if k not in ("seed", "run")}
            check(model, data, **own)
        return _drive(function, model, data, settings, _Surroundings())

    call.regrows = regrows  # type: ignore[attr-defined]
    return call


def _drive(
    function: Callable[..., Iterator[Step]],
    model: nn.Module,
    data: Any,
    settings: dict[str, Any],
    surroundings: _Surroundings,
) -> Iterator[Step]:
    outermost = not getattr(_thread, "depth", 0)
    journal = settings["run"].journal if outermost else None
    stream = function(model, data, **settings)
    opened = None
    try:
        if journal is not None:
            plain = {name: settings[name] for name in settings if name not in ("seed", "run")}
            with surroundings:
                journal.open(function.__name__, plain, settings["seed"], model, data)
                opened = journal
        while True:
            with surroundings:
                try:
                    step = next(stream)
                except StopIteration:
                    return
                except Stopped:
                    if _thread.depth > 1:
                        raise
                    return
            yield step
    finally:
        with surroundings:
            stream.close()  # type: ignore[attr-defined]
        if opened is not None:
            opened.close()
