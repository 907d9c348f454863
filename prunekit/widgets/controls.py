"""A control for each knob, made from its rule, its default and its line in the docstring."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets

from prunekit.knobs import Choice, Knob, Patterns, Range, Several, Switch
from prunekit.widgets.running import in_loop, loop_of_the_kernel

WIDE = {"width": "28em"}  # with the name, and as wide as a slider beside its field


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


class Control(ipywidgets.HBox):
    """What sets the value of a knob, under its name."""

    def __init__(self, knob: Knob, text: str, values: Sequence[Any]):
        self.knob, self.values, self.changed = knob, values, list[Callable[[], None]]()
        self.loop = loop_of_the_kernel()
        whole = {"flex": "0 0 auto"}  # what shrinks is the words beside it
        super().__init__(self._build(text), layout=whole)
        self.set(values[0])

    def _build(self, text: str) -> list[ipywidgets.Widget]:
        raise NotImplementedError

    def _watch(self, part: ipywidgets.Widget, act: Callable[[Any], None]) -> None:
        """Act in the loop when the value of a part changes; a change may come in another thread."""
        part.observe(lambda change: in_loop(self.loop, act, change), "value")

    def _notify(self, _: Any = None) -> None:
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
        for part in self.children:
            part.disabled = not on

    def __repr__(self) -> str:
        return f"{self.knob.name} = {self.read()!r}"


class Chosen(Control):
    """One of a few names."""

    def _build(self, text: str) -> list[ipywidgets.Widget]:
        assert isinstance(self.knob.rule, Choice)
        name = named(self.knob.name, text)
        self.menu = ipywidgets.Dropdown(options=self.knob.rule.names, layout=WIDE, **name)
        self._watch(self.menu, self._notify)
        return [self.menu]

    def read(self) -> Any:
        return self.menu.value

    def set(self, value: Any) -> None:
        self.menu.value = value


class Switched(Control):
    """True or False."""

    def _build(self, text: str) -> list[ipywidgets.Widget]:
        self.box = ipywidgets.Checkbox(layout=WIDE, **named(self.knob.name, text))
        self._watch(self.box, self._notify)
        return [self.box]

    def read(self) -> Any:
        return self.box.value

    def set(self, value: Any) -> None:
        self.box.value = bool(value)


class Typed(Control):
    """A text that Python reads: a number, None, a tuple without its brackets."""

    def _build(self, text: str) -> list[ipywidgets.Widget]:
        name = named(self.knob.name, text)
        self.field = ipywidgets.Text(layout=WIDE, continuous_update=False, **name)
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
    """A slider over the range, or its useful part, beside a field for the exact number."""

    def _build(self, text: str) -> list[ipywidgets.Widget]:
        low, high, step = span(self.knob, self.values)
        kind = ipywidgets.IntSlider if self.knob.whole else ipywidgets.FloatSlider
        self.slider = kind(
            min=low, max=high, step=step, readout=False, continuous_update=False,
            layout={"width": "21em"}, **named(self.knob.name, text),
        )  # fmt: skip
        unseen = named(self.knob.name, text, "0")
        self.field = ipywidgets.Text(layout={"width": "7em"}, continuous_update=False, **unseen)
        self._watch(self.slider, self._slid)
        self._watch(self.field, self._typed)
        return [self.slider, self.field]

    def _slid(self, change: Any) -> None:
        if change["new"] != self._nearest():  # else the slider only followed the field
            self.field.value = str(change["new"]) if self.knob.whole else f"{change['new']:.6g}"

    def _typed(self, _: Any) -> None:
        nearest = self._nearest()
        if nearest is not None:
            self.slider.value = nearest
        self._notify()

    def _nearest(self) -> float | None:
        """Where the slider stands for what is typed; None if that is no number."""
        value = self.read()
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
            return None
        nearest = min(max(value, self.slider.min), self.slider.max)
        return round(nearest) if self.knob.whole else float(nearest)

    def read(self) -> Any:
        return _read(self.field.value.replace(",", "."))  # a number, as many write it

    def set(self, value: Any) -> None:
        self.field.value = str(value)


def span(knob: Knob, values: Sequence[float]) -> tuple[float, float, float]:
    """Lowest and highest value of a slider, and its step: the rule's range, or where that has no
    end, twice the largest value that is needed."""
    assert isinstance(knob.rule, Range)
    low = knob.rule.low if math.isfinite(knob.rule.low) else 2 * min(*values, 0)
    high = knob.rule.high
    if not math.isfinite(high):
        high = max(2 * max(values), low + 10 if knob.whole else 2 * max(values) or 1)
    if knob.whole:
        return int(low), int(high), 1
    step = 10 ** math.floor(math.log10((high - low) / 50))
    return low + knob.rule.low_open * step, high - knob.rule.high_open * step, step


def _read(text: str) -> Any:
    """The Python object that a text writes; the text itself if it writes none."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
