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
from prunekit.looks import BLUE, INK
from prunekit.report import Report
from prunekit.steps import Step
from prunekit.widgets import output
from prunekit.widgets._static import script, style
from prunekit.widgets.guess import Prediction
from prunekit.widgets.running import in_loop, loop_of_the_kernel

PLACES, EARLIER = 21, 5  # of a drawing; runs that stay, pale
Axis = tuple[str, float, float]  # label, low, high
Pair = tuple[float, float]


class Sketch(Prediction, anywidget.AnyWidget):
    """A question whose answer is a curve of y over x; `value` is None until it is committed.

    `x` and `y` are each ``(label, low, high)``. The reader draws by pointer or by arrow keys at 21
    places, evenly spaced from the lowest to the highest x; `value` is then the pairs (x, y) from
    the first place that was drawn to the last, with straight lines between. What lies outside was
    not drawn and is not judged. `answer(steps)` gives the true curve of a run so far, as pairs
    (x, y) in any number and order; it is drawn into the sketch, over the curves of earlier runs.

    Raises ValueError for an axis that has no length.
    """

    _esm = script("chart", "sketch")
    _css = style("chart", "sketch")
    question = traitlets.Unicode().tag(sync=True)
    topic = traitlets.Unicode().tag(sync=True)  # which run it is about
    x = traitlets.Tuple().tag(sync=True)
    y = traitlets.Tuple().tag(sync=True)
    drawn = traitlets.List(traitlets.Float(allow_none=True)).tag(sync=True)  # None: not yet
    committed = traitlets.List(traitlets.Float(allow_none=True)).tag(sync=True)
    true: Any = traitlets.List().tag(sync=True)  # pairs of this run
    earlier: Any = traitlets.List().tag(sync=True)  # those of runs before
    said = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        question: str,
        answer: Callable[[Sequence[Step]], Iterable[Pair]],
        x: Axis,
        y: Axis,
    ):
        if not isinstance(question, str):
            raise TypeError(f"Sketch: question must be a text, got {shown(question)}")
        if not callable(answer):
            raise TypeError(f"Sketch: answer must be a function of steps, got {shown(answer)}")
        x, y = _axis("x", x), _axis("y", y)
        self.answer, self.values, loop = answer, {}, loop_of_the_kernel()
        self.drawings: dict[str, Any] = {}  # by the run that they are about
        super().__init__(question=question, x=x, y=y, drawn=[None] * PLACES)
        self.on_msg(lambda _, content, buffers: in_loop(loop, self._heard, content))

    def turn(self, about: str) -> None:
        self.drawings[self.about] = self.drawn
        if about != self.about:
            self._past()  # it was a run of another kind
        super().turn(about)

    def _heard(self, content: Any) -> None:
        if "again" in content:
            self.values.pop(self.about, None)
            self.drawings.pop(self.about, None)
            self._show()
            self.answered()
        else:
            self.commit(content.get("commit") or [])

    def _show(self) -> None:
        _, first, last = self.x
        self.topic, self.said = self.about, "" if self.value is None else "committed"
        self.drawn = self.drawings.get(self.about, [None] * PLACES)
        pairs = self.value or []
        heights = {round((x - first) / (last - first) * (PLACES - 1)): y for x, y in pairs}
        self.committed = [heights.get(i) for i in range(PLACES)] if heights else []

    def commit(self, heights: Sequence[float | None]) -> None:
        """Take a drawing, once: its height at each of the 21 places, None where there is none."""
        if self.value is not None:
            return
        (_, first, last), (_, low, high) = self.x, self.y
        at = [i for i, height in enumerate(heights) if height is not None]
        if len(at) < 2:
            self.said = "One place is no curve: draw on." if at else "First draw a curve."
            return
        drawn = [float(heights[i] or 0) for i in at]
        if len(heights) != PLACES or not all(low <= height <= high for height in drawn):
            self.said = f"A drawing has {PLACES} heights from {low:g} to {high:g}."
            return
        span = range(at[0], at[-1] + 1)
        places = numpy.linspace(first, last, PLACES)[at[0] : at[-1] + 1]
        filled = numpy.interp(span, at, drawn)
        self.values[self.about] = [*zip(places.tolist(), filled.tolist(), strict=True)]
        self._show()
        self.answered()

    def _past(self) -> None:
        if self.true:
            self.earlier, self.true = [*self.earlier, self.true][-EARLIER:], []

    def follow(self, steps: Sequence[Step], earlier: bool) -> None:
        if not steps:
            self._past()
        if not earlier:
            self.earlier = []
        self.true = [[x, y] for x, y in self._curve(steps) if math.isfinite(x + y)]

    def _curve(self, steps: Sequence[Step]) -> list[Pair]:
        return [(float(x), float(y)) for x, y in self.answer(steps)] if steps else []

    def draw(self, figure: Figure) -> None:
        if self.value is not None:
            axis = figure.axes[0]
            xs, ys = zip(*self.value, strict=True)
            axis.plot(xs, ys, color=INK, linestyle=(0, (6, 4)), linewidth=1.5)
            axis.annotate(
                "your guess", self.value[len(self.value) // 2], textcoords="offset points",
                xytext=(0, 6), fontsize=10, ha="center", color=INK,
            )  # fmt: skip

    def reveal(self, report: Report) -> str:
        """The gap on average and where it is largest, in words; or that both are small."""
        (label, low, high), (_, least, most) = self.x, self.y
        start, end = self.value[0][0], self.value[-1][0]
        points = self._curve(report.history)
        told = [(x, y) for x, y in points if start <= x <= end and math.isfinite(y)]
        if not told:
            return f"This run gives no point of the curve from {label} {start:g} to {end:g}."
        gaps = [abs(self._at(x) - y) for x, y in told]
        mean, (x, y) = sum(gaps) / len(gaps), told[gaps.index(max(gaps))]
        hundredth = (most - least) / 100
        digits = max(0, math.ceil(-math.log10(hundredth)))
        said = "You are right on the spot"
        if mean > hundredth or max(gaps) > 3 * hundredth:
            said = (
                f"On average you are {mean:.{digits}f} off; most at {label} {x:.3g}: "
                f"you said {self._at(x):.{digits}f}, it is {y:.{digits}f}"
            )
        if (start, end) != (low, high):
            said += f". You drew from {label} {start:.3g} to {end:.3g}, and only there it counts"
        without = sum(not math.isfinite(x + y) for x, y in points)
        return f"{said}." + (
            f" {without} of its {len(points)} points have no value." if without else ""
        )

    def _at(self, x: float) -> float:
        """The height of the committed curve."""
        xs, ys = zip(*self.value, strict=True)
        return float(numpy.interp(x, xs, ys))

    def fallback(self) -> str:
        (across, *xs), (up, *ys) = self.x, self.y
        figure, axis = plot.axes("", across, up)
        axis.set(xlim=xs, ylim=ys)
        self.draw(figure)
        if self.true:
            axis.plot(*zip(*self.true, strict=True), color=BLUE, marker="o", markersize=4)
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
