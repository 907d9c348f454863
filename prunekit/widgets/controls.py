"""A control for each knob, made from its rule, its default and its line in the docstring."""

from __future__ import annotations

import ast
import html
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets

from prunekit.knobs import Choice, Knob, Patterns, Range, Several, Switch, Useful
from prunekit.widgets.running import in_loop, loop_of_the_kernel


def control(knob: Knob, text: str, values: Sequence[Any]) -> Control:
    """The control that fits the rule of a knob; it starts at the first of the values it is for."""
    kinds = {Choice: Chosen, Switch: Switched, Range: Slid}
    kind = Typed if knob.optional else kinds.get(type(knob.rule), Typed)
    return kind(knob, text, values)


def named(name: str, text: str, width: str = "9em") -> dict[str, Any]:
    """What gives a widget its name, for eyes and for screen readers, and its words of help.

    With width "0" the name is for screen readers alone.
    """
    return {"description": name, "tooltip": text or name, "style": {"description_width": width}}


class Control(ipywidgets.VBox):
    """What sets the value of a knob, with its name, its words of help and what is wrong, if it is.

    `parts` are what is moved.
    """

    parts: list[Any]

    def __init__(self, knob: Knob, text: str, values: Sequence[Any]):
        self.knob, self.values, self.changed = knob, values, list[Callable[[], None]]()
        self.loop, self.wrong = loop_of_the_kernel(), ipywidgets.HTML()
        self.parts = self._build(text)
        help_ = ipywidgets.HTML(re.sub("`(.+?)`", r"<code>\1</code>", html.escape(text)))
        help_.add_class("pk-help")
        self.wrong.add_class("pk-wrong")
        super().__init__([*self.parts, self.wrong, help_])
        self.add_class("pk-control")
        self.set(values[0])

    def _build(self, text: str) -> list[Any]:
        raise NotImplementedError

    def _watch(self, part: ipywidgets.Widget, act: Callable[[Any], None]) -> None:
        """Act in the loop when the value of a part changes; a change may come in another thread."""
        part.observe(lambda change: in_loop(self.loop, act, change), "value")

    def _notify(self, _: Any = None) -> None:
        wrong = self.knob.advice(self.read())
        self.wrong.value = f'<span role="alert">{html.escape(wrong)}</span>' if wrong else ""
        for callback in self.changed:
            callback()

    def read(self) -> Any:
        """What stands in the control, as a Python object; a text that is none stays a text."""
        raise NotImplementedError

    def set(self, value: Any) -> None:
        """Show a value."""
        raise NotImplementedError

    def enable(self, on: bool) -> None:
        """Whether the control can be moved."""
        for part in self.parts:
            part.disabled = not on

    def __repr__(self) -> str:
        return f"{self.knob.name} = {self.read()!r}"


class Chosen(Control):
    """One of a few names."""

    def _build(self, text: str) -> list[Any]:
        assert isinstance(self.knob.rule, Choice)
        name = named(self.knob.name, text)
        self.menu = ipywidgets.Dropdown(options=self.knob.rule.names, **name)
        self._watch(self.menu, self._notify)
        return [self.menu]

    def read(self) -> Any:
        return self.menu.value

    def set(self, value: Any) -> None:
        self.menu.value = value


class Switched(Control):
    """True or False."""

    def _build(self, text: str) -> list[Any]:
        self.box = ipywidgets.Checkbox(indent=False, **named(self.knob.name, text))
        self._watch(self.box, self._notify)
        return [self.box]

    def read(self) -> Any:
        return self.box.value

    def set(self, value: Any) -> None:
        self.box.value = bool(value)


class Typed(Control):
    """A text that Python reads: a number, None, a tuple without its brackets."""

    def _build(self, text: str) -> list[Any]:
        self.field = ipywidgets.Text(**named(self.knob.name, text))
        self._watch(self.field, self._notify)
        return [self.field]

    def read(self) -> Any:
        if not isinstance(self.knob.rule, (Patterns, Several)):
            return _read(self.field.value)
        parts = [part.strip() for part in self.field.value.split(",")]
        words = isinstance(self.knob.rule, Patterns)
        return tuple(part if words else _read(part) for part in parts if part)

    def set(self, value: Any) -> None:
        listed = isinstance(value, (tuple, list))
        self.field.value = ", ".join(map(str, value)) if listed else str(value)


class Slid(Control):
    """A field for the exact number, and a slider over what is useful of its range."""

    def _build(self, text: str) -> list[Any]:
        self.span = span(self.knob, self.values)
        low, high, step = self.span.ends()
        self.field = ipywidgets.Text(**named(self.knob.name, text))
        kind = ipywidgets.FloatSlider
        if self.knob.whole:
            kind, low, high, step = ipywidgets.IntSlider, int(low), int(high), 1
        unseen = named(self.knob.name, text, "0")
        self.slider = kind(
            value=low, min=low, max=high, step=step, readout=False, continuous_update=False,
            **unseen,
        )  # fmt: skip
        self.following = False
        self.slider.observe(self._moved, "value")
        self._watch(self.field, self._typed)
        return [self.field, self.slider]

    def _moved(self, change: Any) -> None:
        # Asked here and not in the loop: by then more may have been typed, which would be lost.
        if not self.following:
            in_loop(self.loop, self._slid, change)

    def _slid(self, change: Any) -> None:
        value = self.span.value(change["new"])
        self.field.value = str(round(value)) if self.knob.whole else f"{value:.6g}"

    def _typed(self, _: Any) -> None:
        nearest = self._nearest()
        if nearest is not None:
            self.following = True
            self.slider.value = nearest
            self.following = False
        self._notify()

    def _nearest(self) -> float | None:
        """Where the slider stands for what is typed; None if that is no number."""
        value = self.read()
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
            return None
        place = self.span.place(value)
        nearest = min(max(place, self.slider.min), self.slider.max)
        return round(nearest) if self.knob.whole else float(nearest)

    def read(self) -> Any:
        return _read(self.field.value.replace(",", "."))  # a number, as many write it

    def set(self, value: Any) -> None:
        self.field.value = str(value)


class Span(Useful):
    """The values of a slider; its places are their logarithms to base 10 where `log`."""

    def place(self, value: float) -> float:
        """Where a value stands."""
        if not self.log:
            return value
        return math.log10(value) if value > 0 else -math.inf

    def value(self, place: float) -> float:
        """The value at a place, by decades to two digits."""
        return float(f"{10**place:.2g}") if self.log else place

    def ends(self) -> tuple[float, float, float]:
        """The lowest and the highest place, and the step from one to the next."""
        low, high = self.place(self.low), self.place(self.high)
        power = 10 ** math.floor(math.log10((high - low) / 50))
        return low, high, next(n * power for n in (5, 2, 1) if n * power <= (high - low) / 50)


def span(knob: Knob, values: Sequence[float]) -> Span:
    """What a slider spans: what is useful, or the rule's range, or where that has no end, twice the
    largest value that is needed; and in any case each value that is needed."""
    assert isinstance(knob.rule, Range)
    if knob.useful is not None:
        log, useful = knob.useful.log, [knob.useful.low, knob.useful.high]
        needed = [value for value in values if value > 0 or not log]
        return Span(min(useful + needed), max(useful + needed), log)
    low = knob.rule.low if math.isfinite(knob.rule.low) else 2 * min(*values, 0)
    high = knob.rule.high
    if not math.isfinite(high):
        high = max(2 * max(values), low + 10 if knob.whole else 2 * max(values) or 1)
    step = 0 if knob.whole else 10 ** math.floor(math.log10((high - low) / 50))
    return Span(low + knob.rule.low_open * step, high - knob.rule.high_open * step)


def _read(text: str) -> Any:
    """The Python object that a text writes; the text itself if it writes none."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
