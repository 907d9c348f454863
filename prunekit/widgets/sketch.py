"""`Sketch`: a curve that the reader draws before a run, laid over what came out."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import anywidget
import numpy
import traitlets
from matplotlib.figure import Figure

from prunekit import plot
from prunekit.knobs import shown
from prunekit.looks import INK
from prunekit.report import Report
from prunekit.widgets import output
from prunekit.widgets._static import script, style
from prunekit.widgets.running import OfCell, in_loop, loop_of_the_kernel

PLACES = 21
Axis = tuple[str, float, float]  # label, low, high


class Sketch(OfCell, anywidget.AnyWidget):
    """A question whose answer is a curve of y over x; `value` is None until it is committed.

    `x` and `y` are each ``(label, low, high)``. The reader draws by pointer or by arrow keys;
    `value` is then 21 pairs (x, y), evenly spaced from the lowest to the highest x: straight lines
    where nothing was drawn between, level before the first and after the last place that was.
    `answer(report)` gives the true curve after the run, as pairs (x, y) in any number and order.
    The first axes of the figure that it is laid over are to be of the same x and y.

    Raises ValueError for an axis that has no length.
    """

    _esm = script("chart", "sketch")
    _css = style("chart", "sketch")
    question = traitlets.Unicode().tag(sync=True)
    x = traitlets.Tuple().tag(sync=True)
    y = traitlets.Tuple().tag(sync=True)
    drawn = traitlets.List(traitlets.Float(allow_none=True)).tag(sync=True)  # None: not yet
    committed = traitlets.List(traitlets.Float()).tag(sync=True)
    said = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        question: str,
        answer: Callable[[Report], Iterable[tuple[float, float]]],
        x: Axis,
        y: Axis,
    ):
        if not isinstance(question, str):
            raise TypeError(f"Sketch: question must be a text, got {shown(question)}")
        if not callable(answer):
            raise TypeError(f"Sketch: answer must be a function of a report, got {shown(answer)}")
        x, y = _axis("x", x), _axis("y", y)
        self.answer, loop = answer, loop_of_the_kernel()
        self.value: list[tuple[float, float]] | None = None
        super().__init__(question=question, x=x, y=y, drawn=[None] * PLACES)
        self.on_msg(
            lambda _, content, buffers: in_loop(loop, self.commit, content.get("commit") or [])
        )

    def commit(self, heights: Sequence[float | None]) -> None:
        """Take a drawing, once: its height at each of the 21 places, None where there is none."""
        if self.value is not None:
            return
        (_, first, last), (_, low, high) = self.x, self.y
        at = [i for i, height in enumerate(heights) if height is not None]
        if not at:
            self.said = "First draw a curve."
            return
        drawn = [float(heights[i] or 0) for i in at]
        if len(heights) != PLACES or not all(low <= height <= high for height in drawn):
            self.said = f"A drawing has {PLACES} heights from {low:g} to {high:g}."
            return
        filled = numpy.interp(range(PLACES), at, drawn)
        places = numpy.linspace(first, last, PLACES)
        self.value = [*zip(places.tolist(), filled.tolist(), strict=True)]
        self.committed, self.said = filled.tolist(), "committed"

    def draw(self, figure: Figure) -> None:
        """Lay the curve over a figure, dashed."""
        if self.value is not None:
            axis = figure.axes[0]
            xs, ys = zip(*self.value, strict=True)
            axis.plot(xs, ys, color=INK, linestyle=(0, (6, 4)), linewidth=1.5)
            axis.annotate(
                "your guess", self.value[len(self.value) // 2], textcoords="offset points",
                xytext=(0, 6), fontsize=10, ha="center", color=INK,
            )  # fmt: skip

    def outcome(self, report: Report) -> str:
        """Nothing in words: the curve is drawn."""
        return ""

    def reveal(self, report: Report) -> str:
        """The gap on average and where it is largest, in words; or that both are small."""
        assert self.value is not None
        (label, low, high), (_, least, most) = self.x, self.y
        points = [(float(x), float(y)) for x, y in self.answer(report)]
        told = [(x, y) for x, y in points if low <= x <= high and math.isfinite(y)]
        if not told:
            return f"This run gives no point of the curve from {label} {low:g} to {high:g}."
        gaps = [abs(self._at(x) - y) for x, y in told]
        mean, (x, y) = sum(gaps) / len(gaps), told[gaps.index(max(gaps))]
        hundredth = (most - least) / 100
        digits = max(0, math.ceil(-math.log10(hundredth)))
        said = "You are right on the spot."
        if mean > hundredth or max(gaps) > 3 * hundredth:
            said = (
                f"On average you are {mean:.{digits}f} off; most at {label} {x:.3g}: "
                f"you said {self._at(x):.{digits}f}, it is {y:.{digits}f}."
            )
        without = sum(not math.isfinite(x + y) for x, y in points)
        return said + (f" {without} of its {len(points)} points have no value." if without else "")

    def _at(self, x: float) -> float:
        """The height of the committed curve."""
        assert self.value is not None
        xs, ys = zip(*self.value, strict=True)
        return float(numpy.interp(x, xs, ys))

    def fallback(self) -> str:
        (across, *xs), (up, *ys) = self.x, self.y
        figure, axis = plot.axes("", across, up)
        axis.set(xlim=xs, ylim=ys)
        self.draw(figure)
        return f"<p>{html.escape(self.question)}</p>{output.picture(figure, repr(self))}"

    def __repr__(self) -> str:
        return f"Sketch({self.question!r})"


def _axis(name: str, axis: Any) -> Axis:
    try:
        label, low, high = axis
        label, low, high = str(label), float(low), float(high)
    except Exception:  # whatever things of other people raise
        low = high = math.nan
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(
            f"Sketch: {name} must be (label, low, high) with low < high, got {shown(axis)}"
        )
    return label, low, high
