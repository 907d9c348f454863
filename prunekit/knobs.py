"""A knob is a typed keyword: the check, the slider and the table all come from its annotation."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any

WIDTH = 80  # characters of a value in an error


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
        kind: Any = Integral if whole else Real
        if isinstance(value, bool) or not isinstance(value, kind):
            return f"must be {'a whole number' if whole else 'a number'} in {self}"
        if whole and value >= 2**63:  # more than any count, and beyond what torch takes
            return f"must be a whole number in {self} below 2**63"
        try:
            value = float(value)
        except OverflowError:
            return f"must be in {self}"
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
        fits = isinstance(value, str) and value in self.names
        return None if fits else f"must be {self}"


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
        return None if fits else f"must be {self}" + ", all of them whole" * whole


@dataclass(frozen=True)
class Default:
    """The default of a knob that is declared in a `TypedDict`, which has no place for one."""

    value: Any


@dataclass(frozen=True)
class Before:
    """What runs did that were recorded when there was no such knob, where that is not its default;
    beside the rule in its annotation."""

    value: Any


@dataclass(frozen=True)
class Useful:
    """The values that are worth trying, which a slider spans, by decades where `log`; beside the
    rule in an annotation. The rule allows more."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Switch:
    """True or False."""

    def __str__(self) -> str:
        return "True or False"

    def check(self, value: Any, whole: bool) -> str | None:
        return None if isinstance(value, bool) else f"must be {self}"


def shown(value: Any) -> str:
    """A value in an error: on one line, short, and whatever its own repr does."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a number of 5,000 digits has none
        return f"a {type(value).__name__}"
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


Rule = Range | Choice | Patterns | Several | Switch

Fraction = Annotated[float, Range(0, 1, high_open=True)]
Positive = Annotated[float, Range(0, low_open=True)]
NonNegative = Annotated[float, Range(0)]
Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Scope = Annotated[str, Choice("layer", "global")]
Names = Annotated[tuple[str, ...], Patterns()]


@dataclass(frozen=True)
class Knob:
    """A setting of a method, read from its signature."""

    name: str
    rule: Rule
    default: Any
    whole: bool = False
    optional: bool = False
    before: Any = None  # what a run did that was recorded when there was no such knob
    useful: Useful | None = None

    def check(self, who: str, value: Any) -> Any:
        """The value as a plain Python object. Raises ValueError: who, what, rule and value."""
        if wrong := self.wrong(value):
            raise ValueError(f"{who}: {self.name} {wrong}")
        if value is None:
            return None
        if isinstance(self.rule, Range):  # numpy's numbers are no JSON
            return int(value) if self.whole else float(value)
        if isinstance(self.rule, Several):
            return tuple(map(int if self.whole else float, value))
        return tuple(value) if isinstance(self.rule, Patterns) else value

    def wrong(self, value: Any) -> str:
        """What is wrong with a value: the rule, and what was got; nothing if it fits."""
        if value is None and self.optional:
            return ""
        wrong = self.rule.check(value, self.whole)
        return f"{wrong}, got {shown(value)}.{self._hint(value)}" if wrong else ""

    def advice(self, value: Any) -> str:
        """The same to somebody who types it: what is needed, in words; nothing if it fits."""
        wrong, rule = self.wrong(value), self.rule
        if not wrong or not isinstance(rule, Range):
            return wrong
        parts = []
        if math.isfinite(rule.low):
            parts.append(f"above {rule.low:g}" if rule.low_open else f"from {rule.low:g} on")
        if math.isfinite(rule.high):
            parts.append(f"below {rule.high:g}" if rule.high_open else f"up to {rule.high:g}")
        needed = " ".join(["a whole number" if self.whole else "a number", " and ".join(parts)])
        return f"{needed.rstrip()} is needed, got {shown(value)}.{self._hint(value)}"

    def _hint(self, value: Any) -> str:
        number = isinstance(value, Real) and not isinstance(value, bool)
        percent = number and 2 <= value < 100
        if percent and isinstance(self.rule, Range) and self.rule.high == 1:
            return f" Pass {float(value) / 100:g} for {float(value):g} %."
        if isinstance(self.rule, Choice) and isinstance(value, str):
            near = difflib.get_close_matches(value, self.rule.names, 1)
            return f" Did you mean {near[0]!r}?" if near else ""
        return ""


def knob_of(name: str, hint: Any, default: Any) -> Knob | None:
    """The knob that an annotation declares; None if it declares no rule."""
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [part for part in typing.get_args(hint) if part is not type(None)]
        if len(members) != 1:
            return None
        hint, optional = members[0], True
    if hint is bool:
        return Knob(name, Switch(), default, optional=optional, before=default)
    before = next((b.value for b in _of_kind(hint, Before)), default)
    useful = next(_of_kind(hint, Useful), None)
    for rule in getattr(hint, "__metadata__", ()):
        if isinstance(rule, (Range, Choice, Patterns, Several)):
            whole = int in (hint.__origin__, *typing.get_args(hint.__origin__))
            return Knob(name, rule, default, whole, optional, before, useful)
    return None


def knobs(method: Callable[..., Any]) -> dict[str, Knob]:
    """The knobs of a method by name, in the order of its signature; those of a `TypedDict` that it
    takes with ``**settings: Unpack[...]`` come last, with the defaults that ``@method`` was given.
    """
    _check_function("knobs", method)
    return dict(getattr(method, "knobs", None) or read_knobs(inspect.unwrap(method)))


def _check_function(who: str, method: Any) -> None:
    if not inspect.isfunction(method):
        raise TypeError(f"{who}: method must be a function, got {shown(method)}")


def read_knobs(
    function: Callable[..., Any], others: Mapping[str, Any] | None = None
) -> dict[str, Knob]:
    """The knobs that a signature declares; `others` are other defaults of unpacked ones."""
    hints = typing.get_type_hints(function, include_extras=True)
    declared: dict[str, Knob] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        own = parameter.kind is parameter.KEYWORD_ONLY and name not in ("seed", "run")
        if own and (knob := knob_of(name, hints.get(name), parameter.default)):
            declared[name] = knob
    for name, hint in unpacked(function).items():
        default = (others or {}).get(name, next(_of_kind(hint, Default)).value)
        if knob := knob_of(name, hint, default):
            declared.setdefault(name, knob)
    return declared


@functools.lru_cache(maxsize=256)
def unpacked(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of the `TypedDict` that a function unpacks its other keywords from."""
    kind = unpacked_type(function)
    return typing.get_type_hints(kind, include_extras=True) if kind is not None else {}


def unpacked_type(function: Callable[..., Any]) -> Any:
    """The `TypedDict` of ``**settings: Unpack[...]``, or None."""
    function = inspect.unwrap(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            hint = typing.get_type_hints(function, include_extras=True).get(name)
            return next(iter(typing.get_args(hint)), None)
    return None


def _of_kind(hint: Any, kind: type) -> Iterator[Any]:
    return (part for part in getattr(hint, "__metadata__", ()) if isinstance(part, kind))


def helps(method: Callable[..., Any]) -> dict[str, str]:
    """What docstrings say of each knob, in lines ``name: text``: the method's own, and that of the
    `TypedDict` that it unpacks."""
    _check_function("helps", method)
    explained: dict[str, str] = {}
    for documented in (unpacked_type(method), method):
        name = ""
        for line in (inspect.getdoc(documented) or "").splitlines():
            if match := re.match(r"(\w+): (.*)", line):
                name = match[1]
                explained[name] = match[2]
            elif name and line.startswith("    "):
                explained[name] += " " + line.strip()
            else:
                name = ""
    return explained
