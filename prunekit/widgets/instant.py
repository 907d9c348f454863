"""`Instant`: sliders and menus, and what follows from them at once."""

from __future__ import annotations

import html
import math
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import ipywidgets
import traitlets
from torch import nn

from prunekit._arguments import checked
from prunekit.data import Data
from prunekit.judge import Estimate
from prunekit.knobs import shown
from prunekit.looks import BLUE, RED
from prunekit.widgets import output
from prunekit.widgets.connection import Connection
from prunekit.widgets.controls import named
from prunekit.widgets.running import Latest, OfCell, in_loop, loop_of_the_kernel, settled

LARGE = 1_000  # examples, from which an estimate comes first
HANDED_ON, SENT = 0.1, 0.015  # seconds: at most until it is shown; and until the page has it
Estimates = Generator[str, None, str]
Place = tuple[float, float, float] | Sequence[str]  # low, high, start of a slider; or the names


class Instant(OfCell, ipywidgets.VBox):
    """Show ``work(**values)``, some HTML, again whenever a control moves.

    Each place is ``(low, high, start)`` of a slider, or the names of a menu. The work is done in a
    thread and must not touch widgets; while it is under way only the newest values wait. It may be
    a generator that yields an estimate, which is shown meanwhile, and returns what is exact, which
    is left out if a control has moved on. `milliseconds` is how long the last one took.
    """

    milliseconds = traitlets.Float(0.0)

    @checked
    def __init__(self, work: Callable[..., str | Estimates], title: str = "", **places: Place):
        self.work, self.title = work, title
        self.controls = {name: _control(name, place) for name, place in places.items()}
        self.shown, loop = ipywidgets.HTML(), loop_of_the_kernel()
        self.told = ""  # what the work gave last
        self.latest = Latest(self._timed, self._show)
        for control in self.controls.values():
            control.observe(lambda _: in_loop(loop, self._ask), "value")
        self.loop = loop
        head = [ipywidgets.HTML(f"<b>{html.escape(title)}</b>")] if title else []
        super().__init__([*head, *self.controls.values(), Connection(), self.shown])
        self.add_class("pk-instant")
        self._ask()

    def values(self) -> dict[str, Any]:
        """What the controls stand at."""
        return {name: control.value for name, control in self.controls.items()}

    def _ask(self) -> None:
        self.latest(self.values())

    def _timed(self, values: dict[str, Any]) -> tuple[str, float]:
        begun, given = time.perf_counter(), self.work(**values)
        told = self._exact(given, begun) if isinstance(given, Generator) else given
        if not isinstance(told, str):
            raise TypeError(f"Instant: work must give a text, got {shown(told)}")
        self.told = told
        return told, 1000 * (time.perf_counter() - begun)

    def _exact(self, estimates: Estimates, begun: float) -> Any:
        """What a generator returns, after what it yields was shown; or that, if more is asked."""
        while True:
            try:
                told = next(estimates)
            except StopIteration as end:
                return end.value
            if self.latest.waiting or not isinstance(told, str):
                return told
            self._show_soon(told, 1000 * (time.perf_counter() - begun))

    def _show_soon(self, told: str, took: float) -> None:
        """Show something before the work goes on: what computes would keep the loop from it."""
        seen = threading.Event()

        def show() -> None:
            self._show((told, took))
            seen.set()

        in_loop(self.loop, show)
        seen.wait(HANDED_ON)
        if self.loop is not None:
            time.sleep(SENT)

    def _show(self, result: Any) -> None:
        if isinstance(result, BaseException):
            self.shown.value = html.escape(f"{type(result).__name__}: {result}")
        else:
            self.shown.value, self.milliseconds = result

    def fallback(self) -> str:
        settled()
        told = {
            name.replace("_", " "): value if isinstance(value, str) else f"{value:.3g}"
            for name, value in self.values().items()
        }
        rows = "".join(f"<li>{html.escape(name)}: {value}</li>" for name, value in told.items())
        head = f"<p><b>{html.escape(self.title)}</b></p><ul>{rows}</ul>"
        return head + output.drawn(self.told)

    def __repr__(self) -> str:
        return f"Instant({self.title!r})"


def _control(name: str, place: Place) -> ipywidgets.Widget:
    if not isinstance(place, (tuple, list)) or not place:
        raise TypeError(f"Instant: {name} must be (low, high, start) or names, got {shown(place)}")
    name = name.replace("_", " ")
    looks = {"layout": {"width": "33em"}, **named(name, name)}
    if isinstance(place[0], str):
        return ipywidgets.Dropdown(options=[*place], **looks)
    low, high, start = (float(number) for number in place)
    if not low <= start <= high or low == high:
        raise ValueError(f"Instant: {name} must be low < high with start between, got {place}")
    power = 10 ** math.floor(math.log10((high - low) / 100))
    step = next(n * power for n in (5, 2, 1) if n * power <= (high - low) / 100)
    places = max(0, -math.floor(math.log10(step)))
    return ipywidgets.FloatSlider(
        value=start, min=low, max=high, step=step, readout_format=f".{places}f", **looks
    )


def estimate_of(model: nn.Module, data: Data) -> Estimate | None:
    """What tells the accuracy roughly and soon; None where all is soon told, or it cannot be."""
    fits = data.counts_errors and data.reorderable
    return Estimate(model, data) if fits and data.size("validation") >= LARGE else None


def about(value: float, estimate: Estimate, n: int) -> str:
    """An estimated metric in words, with what it is made from."""
    return f"about {value:.2f} (from {estimate.examples} of {n:,} examples; measuring all)"


def bars(
    heights: Sequence[float],
    marked: Sequence[bool],
    *,
    x: str,
    y: str,
    names: Sequence[str],
    says: str,
    most: float = 1e-12,
    ticks: Mapping[float, str] | None = None,
    line: tuple[float, str] | None = None,
) -> str:
    """A bar chart as SVG in the colours of the page: marked bars are full, the others pale.

    `names` stand below the bars, one each, or two below the first and the last; `says` is the text
    for who cannot see it. A height of `most` fills the chart, or the tallest if there is more.
    `ticks` are words at a height; `line` is a height with a name, dashed across.
    """
    wide, high, left, top = 480, 150, 58 if ticks else 46, 6
    step, tallest = wide / len(heights), max(*heights, most)
    bottom, right = top + high, left + wide
    parts = []
    for i, (height, full) in enumerate(zip(heights, marked, strict=True)):
        tall = high * height / tallest
        paint = f'fill="{BLUE}"' if full else 'fill="currentColor" fill-opacity="0.25"'
        parts.append(
            f'<rect x="{left + i * step:.1f}" y="{bottom - tall:.1f}" width="{0.86 * step:.1f}" '
            f'height="{tall:.1f}" {paint}/>'
        )
    for height, words in (ticks or {}).items():
        at, look = bottom - high * height / tallest, 'font-size="11" fill="currentColor"'
        parts.append(
            f'<text x="{left - 4}" y="{at + 4:.1f}" text-anchor="end" {look}>{words}</text>'
        )
    if line is not None:
        at, dashes = bottom - high * line[0] / tallest, f'stroke="{RED}" stroke-dasharray="6 4"'
        parts.append(f'<path d="M{left} {at:.1f}H{right}" {dashes}/>')
        words = f'x="{right}" y="{at - 4:.1f}" text-anchor="end" font-size="12" fill="{RED}"'
        parts.append(f"<text {words}>{html.escape(line[1])}</text>")
    parts.append(f'<path d="M{left} {bottom}H{right}" stroke="currentColor"/>')
    turned = f'transform="translate(14 {top + high / 2}) rotate(-90)"'
    if len(names) == len(heights):
        below = [(left + (i + 0.43) * step, "middle", name) for i, name in enumerate(names)]
    else:
        below = [(left, "start", names[0]), (right, "end", names[-1])]
    for place, anchor, words in (
        *((f'x="{at:.1f}" y="{bottom + 16}"', anchor, name) for at, anchor, name in below),
        (f'x="{(left + right) / 2}" y="{bottom + 30}"', "middle", x),
        (turned, "middle", y),
    ):
        look = f'text-anchor="{anchor}" font-size="12" fill="currentColor"'
        parts.append(f"<text {place} {look}>{html.escape(words)}</text>")
    return (
        f'<svg width="{right + 8}" height="{bottom + 38}" role="img" '
        f'aria-label="{html.escape(says)}">{"".join(parts)}</svg>'
    )
