"""What flows out of a method (`Step`), what it needs (`Run`, knobs), and the `@method` decorator.

A method is a generator: it changes the model a little, yields a `Step`, and goes on when asked for
the next one. Everything that watches (bars, plots, reports) is a consumer of that one stream.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import inspect
import math
import threading
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Annotated, Any, TypeVar, overload

import torch
from torch import nn

from prunekit.mask import Mask

PHASES = ("train", "prune", "rewind", "finetune", "search")


@dataclass(frozen=True)
class Step:
    """A snapshot of a run, taken after something changed.

    `phase` is one of `PHASES`; `index` (from 1) and `of` count within the phase; `mask` is what the
    model has applied; `metrics` are validation figures such as ``{"accuracy": 0.98}``; `info` is
    what else the method wants to show.
    """

    phase: str
    index: int
    of: int
    mask: Mask
    metrics: Mapping[str, float]
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise ValueError(f"Step: phase must be one of {PHASES}, got {self.phase!r}")
        object.__setattr__(self, "metrics", dict(self.metrics))
        object.__setattr__(self, "info", dict(self.info))

    @property
    def sparsity(self) -> float:
        return self.mask.sparsity

    def __str__(self) -> str:
        figures = ", ".join(f"{name} ≈{value:.3f}" for name, value in self.metrics.items())
        return f"{self.phase:<8} {self.index:>2}/{self.of}  sparsity {self.sparsity:.3f}  {figures}"


class Stopped(Exception):
    """Raised inside a method when its `Run.stop` was set; the outermost method ends quietly."""


def serial(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """The default `Run.workers`: one item after the other, in this thread."""
    return map(function, items)


@dataclass(frozen=True)
class Run:
    """What a method needs from its surroundings; never what it computes.

    `workers(function, items)` gives results in the order of the items, like ``Executor.map``;
    `journal` is a `prunekit.journal.Journal` to resume from, or None; `stop` is an event that is
    polled at every minibatch.
    """

    workers: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]] = serial
    journal: Any = None
    stop: threading.Event | None = None

    def poll(self) -> None:
        """Raise `Stopped` if somebody set `stop`."""
        if self.stop is not None and self.stop.is_set():
            raise Stopped


def derive(seed: int, *parts: Any) -> int:
    """A new seed from a seed and what it is for: ``derive(seed, "epoch", 3)``."""
    text = repr((int(seed), *parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "little")


# ---------------------------------------------------------------------------------------- knobs


@dataclass(frozen=True)
class Range:
    """The values from `low` to `high`; an open end is not itself allowed."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def __str__(self) -> str:
        left = "(" if self.low_open or self.low == -math.inf else "["
        right = ")" if self.high_open or self.high == math.inf else "]"
        return f"{left}{self.low:g}, {self.high:g}{right}"

    def check(self, value: Any, whole: bool) -> str | None:
        """What is wrong with `value`, or None."""
        kind = Integral if whole else Real
        if isinstance(value, bool) or not isinstance(value, kind):
            return f"must be {'a whole number' if whole else 'a number'} in {self}"
        value = float(value)
        above = self.low < value if self.low_open else self.low <= value
        below = value < self.high if self.high_open else value <= self.high
        if above and below and math.isfinite(value):  # NaN fails both
            return None
        return f"must be in {self}"


@dataclass(frozen=True, init=False)
class Choice:
    """One of a small closed family of names."""

    names: tuple[str, ...]

    def __init__(self, *names: str):
        object.__setattr__(self, "names", names)

    def __str__(self) -> str:
        return "one of " + ", ".join(map(repr, self.names))

    def check(self, value: Any, whole: bool) -> str | None:
        return None if value in self.names else f"must be {self}"


@dataclass(frozen=True)
class Patterns:
    """A tuple of shell patterns that match parameter names, such as ``("head.*",)``."""

    def __str__(self) -> str:
        return "a tuple of parameter names or patterns such as ('head.*',)"

    def check(self, value: Any, whole: bool) -> str | None:
        fits = isinstance(value, (tuple, list)) and all(isinstance(v, str) for v in value)
        return None if fits else f"must be {self}"


@dataclass(frozen=True)
class Several:
    """A tuple of numbers, each in a range; it may be empty."""

    each: Range

    def __str__(self) -> str:
        return f"a tuple of numbers in {self.each}"

    def check(self, value: Any, whole: bool) -> str | None:
        fits = isinstance(value, (tuple, list)) and not any(
            self.each.check(v, whole) for v in value
        )
        return None if fits else f"must be {self}"


@dataclass(frozen=True)
class Switch:
    """True or False."""

    def __str__(self) -> str:
        return "True or False"

    def check(self, value: Any, whole: bool) -> str | None:
        return None if isinstance(value, bool) else f"must be {self}"


Rule = Range | Choice | Patterns | Several | Switch

Fraction = Annotated[float, Range(0, 1, high_open=True)]
Positive = Annotated[float, Range(0, low_open=True)]
NonNegative = Annotated[float, Range(0)]
Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Scope = Annotated[str, Choice("layer", "global")]
Precision = Annotated[str, Choice("fp32", "bf16", "auto")]
Names = Annotated[tuple[str, ...], Patterns()]


@dataclass(frozen=True)
class Knob:
    """A setting of a method, read from its signature."""

    name: str
    rule: Rule
    default: Any
    whole: bool = False
    optional: bool = False

    def check(self, who: str, value: Any) -> Any:
        """The value as a plain Python object. Raises ValueError: who, what, rule and value."""
        if value is None and self.optional:
            return None
        wrong = self.rule.check(value, self.whole)
        if wrong:
            raise ValueError(f"{who}: {self.name} {wrong}, got {value!r}.{self._hint(value)}")
        if isinstance(self.rule, Range):
            return int(value) if self.whole else float(value)
        if isinstance(self.rule, Several):
            return tuple(map(float, value))
        return tuple(value) if isinstance(self.rule, Patterns) else value

    def _hint(self, value: Any) -> str:
        number = isinstance(value, Real) and not isinstance(value, bool)
        percent = number and 1 < float(value) < 100
        if percent and isinstance(self.rule, Range) and self.rule.high == 1:
            return f" Pass {float(value) / 100:g} for {float(value):g} %."
        if isinstance(self.rule, Choice) and isinstance(value, str):
            near = difflib.get_close_matches(value, self.rule.names, 1)
            return f" Did you mean {near[0]!r}?" if near else ""
        return ""


def _knob(name: str, hint: Any, default: Any) -> Knob | None:
    """The knob that an annotation declares; None if it declares no rule."""
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [part for part in typing.get_args(hint) if part is not type(None)]
        if len(members) != 1:
            return None
        hint, optional = members[0], True
    if hint is bool:
        return Knob(name, Switch(), default, optional=optional)
    for rule in getattr(hint, "__metadata__", ()):
        if isinstance(rule, (Range, Choice, Patterns, Several)):
            return Knob(name, rule, default, hint.__origin__ is int, optional)
    return None


def knobs(method: Callable[..., Any]) -> dict[str, Knob]:
    """The knobs of a method by name, in the order of its signature."""
    function = inspect.unwrap(method)
    hints = typing.get_type_hints(function, include_extras=True)
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and name not in ("seed", "run"):
            knob = _knob(name, hints.get(name), parameter.default)
            if knob:
                found[name] = knob
    return found


# --------------------------------------------------------------------------------------- method


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


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module has its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


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
