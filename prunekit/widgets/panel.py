"""`Panel`: a method with its controls, run, paused and stopped by clicks."""

from __future__ import annotations

import base64
import html
import io
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import ipywidgets
from matplotlib import pyplot
from matplotlib.figure import Figure
from torch import nn

from prunekit import plot
from prunekit._arguments import checked
from prunekit.data import wrap
from prunekit.knobs import Knob, Range, helps, knobs, shown
from prunekit.prune import Method, bound, share_done, whole
from prunekit.report import Report, shown_metric
from prunekit.steps import Step
from prunekit.widgets.connection import Connection
from prunekit.widgets.controls import Control, control, named
from prunekit.widgets.guess import Guess
from prunekit.widgets.running import ENDED, IDLE, PAUSED, RUNNING, OfCell, Running, in_loop
from prunekit.widgets.sketch import Sketch

OPEN = 4  # controls that are shown; the rest is under "more"
ROWS = 8  # steps that the table shows
REDRAWN = 0.4  # seconds from one drawing of the figure to the next
SEED = Knob("seed", Range(0), 0, whole=True)

Draw = Callable[[Sequence[Step], float], Figure]


def _history(steps: Sequence[Step], dense: float) -> Figure:
    return plot.history(steps, dense=dense)


def _row(cells: Sequence[str], tag: str) -> str:
    style = "padding: 0 0.6em; text-align: left"
    shown = (f'<{tag} style="{style}">{html.escape(cell)}</{tag}>' for cell in cells)
    return f"<tr>{''.join(shown)}</tr>"


class Panel(OfCell, ipywidgets.VBox):
    """Run `method` on a copy of `model`, with a control for each knob.

    `show` names up to four knobs whose controls are open, by default the first ones; `settings` are
    values other than the defaults; `presets` maps a label to the values that a click on it sets.
    `draw(steps, dense)` makes the live figure. With a `guess`, nothing runs before the reader has
    committed one. The last finished run is in `report`; only validation figures are shown.

    Raises ValueError for knobs that the method has not, or values that break its rules.
    """

    @checked
    def __init__(
        self,
        method: Method,
        model: nn.Module,
        data: Any,
        *,
        show: Sequence[str] = (),
        presets: Mapping[str, Mapping[str, Any]] | None = None,
        draw: Draw = _history,
        guess: Guess | Sketch | None = None,
        **settings: Any,
    ):
        if not hasattr(whole(method), "knobs"):
            raise TypeError(
                f"Panel: method must be a function decorated with @method, got {shown(method)}"
            )
        settings = {**bound(method), **settings}
        self.method, self.model, self.data, self.draw, self.guess = (
            whole(method), model, wrap(data), draw, guess,
        )  # fmt: skip
        self.name = self.method.__name__
        self.report: Report | None = None
        self.running, self.drawn = Running(self._changed), 0.0
        self.spent, self.since = 0.0, 0.0  # seconds that the run took; the moment up to which
        self.going = self.predicted = False  # whether it goes on; whether the guess is about it
        self.presets = {label: dict(values) for label, values in (presets or {}).items()}
        self.knobs = knobs(self.method) | {"seed": SEED}
        given = (settings, *self.presets.values())
        for name in (*show, *(name for values in given for name in values)):
            if name not in self.knobs:
                raise ValueError(f"Panel: {self.name} has no knob {name!r}: {[*self.knobs]}")
        for name, value in (pair for values in given for pair in values.items()):
            self.knobs[name].check(self.name, value)
        texts = helps(self.method) | {"seed": "of all random draws."}
        self.controls: dict[str, Control] = {}
        for name, knob in self.knobs.items():
            first = settings.get(name, knob.default)
            needed = [values[name] for values in self.presets.values() if name in values]
            self.controls[name] = control(knob, texts.get(name, ""), [first, *needed])
        self.start_values = self.values()
        self.shown = [*show][:OPEN] or [*self.controls][:OPEN]
        super().__init__(self._layout(self.shown, texts))
        self.add_class("pk-panel")
        self._changed(None)

    # ---------------------------------------------------------------------------------- layout

    def _layout(self, shown: Sequence[str], texts: Mapping[str, str]) -> list[Any]:
        def described(name: str) -> Any:
            text = re.sub("`(.+?)`", r"<code>\1</code>", html.escape(texts.get(name, "")))
            words = ipywidgets.HTML(f'<div style="line-height: 1.3; font-size: 85%">{text}</div>')
            return ipywidgets.HBox([self.controls[name], words], layout={"align_items": "center"})

        rest = [described(name) for name in self.controls if name not in shown]
        more = ipywidgets.Accordion([ipywidgets.VBox(rest)], titles=("more",))
        self.preset_buttons = [
            self._button(label, partial(self._preset, label)) for label in self.presets
        ]
        self.buttons = {
            "Run": self._button("Run", self._run, "primary"),
            "Pause": self._button("Pause", self.running.pause),
            "Step": self._button("Step", self._step),
            "Stop": self._button("Stop", self.running.end),
            "Reset": self._button("Reset", self._reset),
        }
        self.bar = ipywidgets.FloatProgress(max=1.0, layout=ipywidgets.Layout(width="16em"))
        self.left, self.message = ipywidgets.Label(), ipywidgets.HTML()
        self.left.add_class("pk-left")
        self.connection = Connection()
        self.image, self.table = ipywidgets.HTML(), ipywidgets.HTML()
        self.code = ipywidgets.Textarea(
            disabled=True,
            rows=4,
            layout={"width": "40em"},
            **named("as code", "the call that gives the same report", "0"),
        )
        as_code = ipywidgets.Accordion([self.code], titles=("as code",))
        for made in self.controls.values():
            made.changed.append(self._tell_code)
        self._tell_code()
        return [
            ipywidgets.HTML(f"<b>{html.escape(self.name)}</b>"),
            self.connection,
            *([self.guess] if self.guess is not None else []),
            *(described(name) for name in shown),
            *([ipywidgets.HBox(self.preset_buttons)] if self.presets else []),
            more,
            ipywidgets.HBox(
                [*self.buttons.values(), self.bar, self.left], layout={"flex_flow": "row wrap"}
            ),
            self.message,
            ipywidgets.HBox(
                [self.image, self.table], layout=ipywidgets.Layout(flex_flow="row wrap")
            ),
            as_code,
        ]

    def _button(self, label: str, act: Callable[[], None], style: str = "") -> ipywidgets.Button:
        button = ipywidgets.Button(
            description=label, button_style=style, layout=ipywidgets.Layout(width="auto")
        )
        button.on_click(lambda _: in_loop(self.running.loop, act))
        return button

    # ---------------------------------------------------------------------------------- settings

    def values(self) -> dict[str, Any]:
        """What stands in the controls, unchecked."""
        return {name: made.read() for name, made in self.controls.items()}

    def settings(self) -> dict[str, Any]:
        """The values that differ from the defaults, checked. Raises ValueError."""
        checked = {n: self.knobs[n].check(self.name, v) for n, v in self.values().items()}
        return {n: value for n, value in checked.items() if value != self.knobs[n].default}

    def _tell_code(self) -> None:
        try:
            settings = self.settings()
        except ValueError as error:
            self.code.value = f"# {error}"
            return
        words = "".join(f", {name}={value!r}" for name, value in settings.items())
        self.code.value = f"report = prune({self.name}, model, data{words})"

    def _preset(self, label: str) -> None:
        for name, value in (self.start_values | self.presets[label]).items():
            self.controls[name].set(value)

    # ---------------------------------------------------------------------------------- clicks

    def _begin(self, paused: bool) -> None:
        if self.guess is not None and self.guess.value is None:
            self._say("First commit your prediction.")
            return
        try:
            settings = self.settings()
        except ValueError as error:
            self._say(str(error))
            return
        self._say("")
        values = self.values() | {"seed": self.start_values["seed"]}
        self.spent, self.going, self.predicted = 0.0, False, values == self.start_values
        self.running.start(self.method, self.model, self.data, settings, paused)

    def _run(self) -> None:
        if self.running.state == PAUSED:
            self.running.go_on()
        elif self.running.state != RUNNING:
            self._begin(paused=False)

    def _step(self) -> None:
        if self.running.state == PAUSED:
            self.running.step()
        elif self.running.state != RUNNING:
            self._begin(paused=True)

    def _reset(self) -> None:
        self.running.reset()
        for name, value in self.start_values.items():
            self.controls[name].set(value)
        self._say("")

    # ---------------------------------------------------------------------------------- live

    def _changed(self, step: Step | None) -> None:
        """The run took a step or changed its state; called in the loop."""
        if not hasattr(self, "table"):
            return
        state, steps = self.running.state, self.running.steps
        self.buttons["Run"].disabled = state == RUNNING
        self.buttons["Run"].description = "Go on" if state == PAUSED else "Run"
        self.buttons["Step"].disabled = state == RUNNING or self.running.busy
        self.buttons["Pause"].disabled = state != RUNNING
        self.buttons["Stop"].disabled = state not in (RUNNING, PAUSED)
        for made in self.controls.values():
            made.enable(state in (IDLE, ENDED))
        for button in self.preset_buttons:
            button.disabled = state not in (IDLE, ENDED)
        self.connection.awaited = state == RUNNING or self.running.busy
        self._show_progress(state, steps)
        self.table.value = self._table(steps)
        if self.running.error is not None:
            error = self.running.error  # its notes say which candidate
            notes = getattr(error, "__notes__", ())
            self._say("; ".join([f"{type(error).__name__}: {error}", *notes]))
        if self.running.report is not None and self.report is not self.running.report:
            self.report = self.running.report
            self._reveal(self.report)
        due = time.monotonic() - self.drawn > REDRAWN
        if not steps:
            self.image.value = ""
        elif due or state != RUNNING:
            self._show_figure(steps)

    def _show_progress(self, state: str, steps: Sequence[Step]) -> None:
        share = min(share_done(steps), 1.0) if steps else 0.0
        report = self.running.report
        self.bar.value = 1.0 if report is not None and not report.stopped else share
        now = time.monotonic()
        self.spent += (now - self.since) if self.going else 0.0
        self.since, self.going, took = now, state == RUNNING, self.spent
        words = {IDLE: "", PAUSED: "paused", ENDED: "done" if report else "measuring"}
        if state == RUNNING and 0 < share < 1:
            words[RUNNING] = f"about {took * (1 - share) / share:.0f} s left"
        if state == ENDED and self.running.stop.is_set():
            words[ENDED] = "stopped"
        if state == ENDED and self.running.error is not None:
            words[ENDED] = "failed"
        self.left.value = words.get(state, "running")

    def _show_figure(self, steps: Sequence[Step]) -> None:
        pruning = self.running.pruning
        assert pruning is not None
        png, figure = io.BytesIO(), None
        try:
            with plot.style():  # also for what the reader draws
                figure = self.draw(steps, pruning.before)
            if self.guess is not None and self.predicted:
                self.guess.draw(figure)
            figure.savefig(png, format="png", dpi=120)
        except Exception as error:  # the run goes on without its figure
            self._say(f"the figure cannot be drawn: {type(error).__name__}: {error}")
            return
        finally:
            if figure is not None:  # the reader's own figures stay open
                pyplot.close(figure)
        words = f"{self.name}: {len(steps)} steps, sparsity {steps[-1].sparsity:.3f}"
        data = base64.b64encode(png.getvalue()).decode()
        self.image.value = (
            f'<img alt="{html.escape(words)}" style="max-width: min(620px, 100%)" '
            f'src="data:image/png;base64,{data}">'
        )
        self.drawn = time.monotonic()

    def _table(self, steps: Sequence[Step]) -> str:
        if not steps:
            return ""
        assert self.running.pruning is not None
        metric, n = self.data.metric_name, self.running.pruning.examples
        rows = [("step", "", "sparsity", f"validation {metric}")]
        for step in steps[-ROWS:]:
            figure = shown_metric(step.metrics[metric], metric, n) if metric in step.metrics else ""
            phase = step.phase.replace("finetune", "fine-tune")
            rows.append((phase, f"{step.index}/{step.of}", f"{step.sparsity:.3f}", figure))
        return "<table>" + "".join(map(_row, rows, ["th", *["td"] * ROWS])) + "</table>"

    def _reveal(self, report: Report) -> None:
        if self.guess is not None and not report.stopped:
            try:
                if self.predicted:
                    self._say(self.guess.reveal(report))
                else:
                    about = "Your prediction was about the settings that Reset brings back."
                    self._say(f"{self.guess.outcome(report)} {about}".strip())
            except Exception as error:
                self._say(f"the answer cannot be told: {type(error).__name__}: {error}")

    def _say(self, text: str) -> None:
        self.message.value = html.escape(text)

    def close(self) -> None:
        """End the run, and close the panel with all that stands in it."""
        if self.comm is not None:
            self.running.reset()
        super().close()

    # ---------------------------------------------------------------------------------- shown

    def __repr__(self) -> str:
        return f"Panel({self.name})"

    def fallback(self) -> str:
        """What the open controls start at, the guess, and the last picture, as HTML."""
        start = ", ".join(f"{name} = {self.start_values[name]}" for name in self.shown)
        asked = self.guess.fallback() if self.guess is not None else ""
        return (
            f"<p><b>{html.escape(self.name)}</b>: a method with its controls. They start at "
            f"{html.escape(start)}.</p>{asked}{self.image.value}{self.table.value}"
        )
