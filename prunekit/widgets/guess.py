"""`Guess`: a number that the reader commits before a run, laid over what came out."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets
from matplotlib.figure import Figure

from prunekit._arguments import checked
from prunekit.looks import INK
from prunekit.report import Report
from prunekit.steps import Step
from prunekit.widgets.controls import named
from prunekit.widgets.running import OfCell, in_loop, loop_of_the_kernel


class Prediction(OfCell):
    """A question about a run that is answered before it: once for each of the runs it is put about.

    `value` is the answer for the run that it is about now, None until it is committed; `asked` is a
    text, `about` says which run.
    """

    values: dict[str, Any]  # what was committed, by the run that it is about
    about = ""
    answered: Callable[[], None] = staticmethod(lambda: None)  # called when `value` changes

    @property
    def value(self) -> Any:
        return self.values.get(self.about)

    def turn(self, about: str) -> None:
        """Put the question about another run; what was committed for each is kept."""
        self.about = about
        self._show()

    def _show(self) -> None:
        """Show the question and what was committed for it."""
        raise NotImplementedError

    def follow(self, steps: Sequence[Step], earlier: bool) -> None:
        """Show how a run goes; what was shown of the one before stays, pale, if it is `earlier`."""

    def draw(self, figure: Figure) -> None:
        """Lay the answer over a figure, dashed."""

    def outcome(self, report: Report) -> str:
        """What came out, in words."""
        return ""

    def reveal(self, report: Report) -> str:
        """The gap between what was committed and what came out, in words."""
        raise NotImplementedError


class Guess(Prediction, ipywidgets.VBox):
    """A question whose answer is a number; `value` is None until it is committed.

    A guess below `least` is refused. `answer(report)` gives the true number after the run. With
    `across`, it is drawn as a dashed line over the figure, at ``across(value)`` on its vertical
    axis.
    """

    @checked
    def __init__(
        self,
        question: str,
        answer: Callable[[Report], float],
        *,
        unit: str = "",
        least: float = -math.inf,
        across: Callable[[float], float] | None = None,
    ):
        self.question, self.answer, self.unit, self.across = question, answer, unit, across
        self.least, self.values = least, {}
        self.asked = math.nan  # what was perhaps meant as per cent
        self.field = ipywidgets.Text(
            placeholder="your guess", layout={"width": "8em"}, **named(question, question, "0")
        )
        self.button = ipywidgets.Button(layout=ipywidgets.Layout(width="auto"))
        loop = loop_of_the_kernel()
        self.button.on_click(lambda _: in_loop(loop, self._pressed))
        self.words, self.said = ipywidgets.HTML(), ipywidgets.HTML()
        row = [self.field, ipywidgets.Label(unit), self.button, self.said]
        super().__init__([self.words, ipywidgets.HBox(row, layout={"align_items": "center"})])
        self.add_class("pk-guess")
        self._show()

    def fallback(self) -> str:
        return f"<p>{html.escape(self.question)}</p>"

    def _show(self) -> None:
        about = f"<b>{html.escape(self.about)}:</b> " if self.about else ""
        self.words.value = about + html.escape(self.question)
        committed = self.value is not None
        self.field.value = f"{self.value:g}" if committed else ""
        self.field.disabled = committed
        self.button.description = "Predict again" if committed else "Commit"
        self.said.value = "committed" if committed else ""

    def _pressed(self) -> None:
        if self.value is None:
            self.commit()
        else:
            del self.values[self.about]
            self._show()
            self.answered()

    def commit(self) -> None:
        """Take what stands in the field."""
        try:
            value = float(self.field.value.replace(",", "."))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            self.said.value = html.escape(f"a number is needed, got {self.field.value!r}")
            return
        if value < self.least:
            self.said.value = f"it cannot be below {self.least:g}, got {value:g}"
            return
        if self.unit == "%" and 0 < value <= 1 and value != self.asked:
            self.asked = value
            self.said.value = f"{value:g} %, or {100 * value:g} %? Commit again what you mean."
            return
        self.values[self.about] = value
        self._show()
        self.answered()

    def draw(self, figure: Figure) -> None:
        if self.value is not None and self.across is not None:
            axis = figure.axes[0]
            axis.axhline(self.across(self.value), color=INK, linestyle=(0, (6, 4)), linewidth=1.5)
            axis.annotate(
                "your guess", (0.98, self.across(self.value)), xycoords=("axes fraction", "data"),
                textcoords="offset points", xytext=(0, 4), fontsize=10, ha="right",
                color=INK,
            )  # fmt: skip

    def outcome(self, report: Report) -> str:
        truth = self.answer(report)
        return f"Here it is {truth:.3g} {self.unit}".rstrip() + "." if math.isfinite(truth) else ""

    def reveal(self, report: Report) -> str:
        assert self.value is not None
        truth = self.answer(report)
        unit = f" {self.unit}" if self.unit else ""
        if not math.isfinite(truth):
            return f"You said {self.value:g}{unit}; this run gives no answer."
        truth = float(f"{truth:.3g}")  # as it is told: the gap has to fit it
        if abs(gap := self.value - truth) <= 0.02 * max(abs(truth), 1e-9):
            return f"You said {self.value:g}{unit}, it is {truth:g}{unit}: right on the spot."
        side = "too high" if gap > 0 else "too low"
        return f"You said {self.value:g}{unit}, it is {truth:g}{unit}: {abs(gap):.3g} {side}."

    def __repr__(self) -> str:
        return f"Guess({self.question!r})"
