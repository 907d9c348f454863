"""`Panel`: a method with its controls, run, paused and stopped by clicks."""

from __future__ import annotations

import base64
import html
import io
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
from prunekit.knobs import Knob, Range, Useful, helps, knobs, shown
from prunekit.looks import INK
from prunekit.prune import Method, bound, share_done, whole
from prunekit.report import Report, shown_metric
from prunekit.steps import Step
from prunekit.widgets.code import Code, name_of, names_of_the_notebook
from prunekit.widgets.connection import Connection
from prunekit.widgets.controls import Control, control
from prunekit.widgets.guess import Prediction
from prunekit.widgets.running import (
    ENDED,
    IDLE,
    PAUSED,
    RUNNING,
    OfCell,
    Running,
    in_loop,
    in_viewer,
)
from prunekit.widgets.sketch import Sketch

OPEN = 4  # controls that are shown if none are named; the rest is under "more"
ROWS = 6  # steps that the table shows
EARLIER = 5  # runs that stay in the figure, pale
REDRAWN = 0.4  # seconds from one drawing of the figure and the table to the next
SEED = Knob("seed", Range(0), 0, whole=True, useful=Useful(0, 20))

Draw = Callable[[Sequence[Step], float], Figure]
Lines = list[tuple[Any, Any]]


def _history(steps: Sequence[Step], dense: float) -> Figure:
    return plot.history(steps, dense=dense)


def _row(cells: Sequence[str], tag: str) -> str:
    style = "padding: 0 0.6em; text-align: left"
    shown = (f'<{tag} style="{style}">{html.escape(cell)}</{tag}>' for cell in cells)
    return f"<tr>{''.join(shown)}</tr>"


def _lines(figure: Figure) -> Lines:
    """What the lines of a figure show, without those that go all across."""
    axis = figure.axes[0]
    return [
        (line.get_xdata(), line.get_ydata())
        for line in axis.lines
        if line.get_transform() == axis.transData
    ]


class Panel(OfCell, ipywidgets.VBox):
    """Run `method` on a copy of `model`, with a control for each knob.

    `show` names up to four knobs whose controls are open, by default the first ones; `settings` are
    values other than the defaults; `presets` maps a label to the values that a click on it sets.
    `draw(steps, dense)` makes the live figure, in which the lines of earlier runs stay, pale. With
    a `guess`, no preset runs before the reader has committed a prediction about it, one for each;
    what is set by hand runs without. A `Sketch` shows the run itself, so that there is no other
    figure if `draw` is left out. The last finished run is in `report`; only validation figures are
    shown.

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
        draw: Draw | None = None,
        guess: Prediction | None = None,
        **settings: Any,
    ):
        if not hasattr(whole(method), "knobs"):
            raise TypeError(
                f"Panel: method must be a function decorated with @method, got {shown(method)}"
            )
        settings = {**bound(method), **settings}
        self.method, self.model, self.data, self.guess = whole(method), model, wrap(data), guess
        self.draw = draw or (None if isinstance(guess, Sketch) else _history)
        self.name = self.method.__name__
        self.report: Report | None = None
        self.running, self.drawn = Running(self._changed), 0.0
        self.spent, self.since = 0.0, 0.0  # seconds that the run took; the moment up to which
        self.going = self.predicted = False  # whether it goes on; whether the guess is about it
        self.ran: dict[str, Any] = {}  # the values of the run that is shown
        self.seen = (-1, 0)  # which run, and how many of its steps the picture shows
        self.turning = False  # whether settings and mark of the preset are being changed
        self.lines: Lines = []  # of the figure, and of those before
        self.earlier: list[Lines] = []
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
        if self.guess is not None:
            self.guess.answered = partial(self._say, "")
        self.start_values, self.chosen = self.values(), ""  # the preset that was chosen last
        self.shown = [*show] or [*self.controls][:OPEN]
        self.called = self._called(data)
        in_viewer(plot.prepare)  # or the first picture would keep a click on Stop waiting
        super().__init__(self._layout(self.shown))
        self.add_class("pk-panel")
        self._turn()
        self._changed(None)

    # ---------------------------------------------------------------------------------- layout

    def _layout(self, shown: Sequence[str]) -> list[Any]:
        rest = [self.controls[name] for name in self.controls if name not in shown]
        more = ipywidgets.Accordion([ipywidgets.Box(rest)], titles=("more",))
        more.add_class("pk-more")
        seen = ipywidgets.Layout(display="" if self.presets else "none")
        self.chooser = ipywidgets.RadioButtons(options=[*self.presets], index=None, layout=seen)
        self.chooser.add_class("pk-presets")
        self.chooser.observe(self._clicked, "value")
        self.buttons = {
            "Run": self._button("Run", self._run, "primary"),
            "Pause": self._button("Pause", self.running.pause),
            "Step": self._button("Step", self._step),
            "Stop": self._button("Stop", self.running.end),
            "Reset": self._button("Reset", self._reset),
        }
        self.restore = self._button("Restore settings", self._restore)
        self.bar = ipywidgets.FloatProgress(max=1.0)
        self.left, self.message = ipywidgets.Label(), ipywidgets.HTML()
        self.left.add_class("pk-left")
        self.message.add_class("pk-verdict")
        self.connection = Connection()
        self.image, self.table = ipywidgets.HTML(), ipywidgets.HTML()
        self.code = Code()
        as_code = ipywidgets.Accordion([self.code], titles=("as code",))
        for made in self.controls.values():
            made.changed.append(self._turn)
        settings = ipywidgets.VBox([*(self.controls[name] for name in shown), self.restore])
        run = ipywidgets.HBox([*self.buttons.values(), self.bar, self.left])
        asked = [self.guess] if self.guess is not None else []
        result = ipywidgets.VBox([*asked, run, self.message, self.image, self.table])
        body = ipywidgets.HBox([settings, result])
        for name, box in dict(body=body, settings=settings, result=result, run=run).items():
            box.add_class(f"pk-{name}")
        return [
            ipywidgets.HTML(f"<b>{html.escape(self.name)}</b>"),
            self.connection,
            self.chooser,
            body,
            more,
            as_code,
        ]

    def _button(self, label: str, act: Callable[[], None], style: str = "") -> ipywidgets.Button:
        wide = ipywidgets.Layout(width="auto")
        button = ipywidgets.Button(description=label, button_style=style, layout=wide)
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

    def _called(self, data: Any) -> str:
        """How the notebook calls method, model and data, for `prune`."""
        names = names_of_the_notebook()
        model, given = name_of(self.model, names, "model"), name_of(data, names, "data")
        return f"{name_of(self.method, names, self.name)}, {model}, {given}"

    def _preset(self, label: str) -> dict[str, Any]:
        """The values of all controls in a preset; those of the start if there is no such preset."""
        return self.start_values | self.presets.get(label, {})

    def _label(self) -> str | None:
        """Which preset the controls stand at, whatever the seed; None for settings of one's own."""
        seed = {"seed": self.start_values["seed"]}
        values = self.values() | seed
        return next((n for n in (*self.presets, "") if self._preset(n) | seed == values), None)

    def _own(self) -> list[str]:
        """What was changed by hand since the preset was chosen."""
        start = self._preset(self.chosen)
        return [f"{name} {value}" for name, value in self.values().items() if value != start[name]]

    def _turn(self) -> None:
        """The settings changed: mark their preset, tell them as code, and ask about them."""
        if self.turning:
            return
        label = self._label()
        self.chosen = self.chosen if label is None else label
        self.turning = True
        self.chooser.index = [*self.presets].index(label) if label else None
        self.turning = False
        self.restore.disabled = not self._own()
        if self.values() != self.ran:
            self._leave()
        try:
            settings = self.settings()
        except ValueError as error:  # which is told beside its box
            self.code.text = f"# {error}"
            return
        if self.guess is not None:
            self.guess.turn(", ".join(self._own()) if label is None else label)
        words = "".join(f", {name}={value!r}" for name, value in settings.items())
        self.code.text = f"report = prune({self.called}{words})"

    def _leave(self) -> None:
        """Nothing is said of the run that is shown: the settings are others now."""
        self._say("")
        self.table.value = self.left.value = ""
        self.bar.value = 0.0
        self.image.add_class("pk-past")

    def _clicked(self, change: Any) -> None:
        if not self.turning and change["new"] is not None:  # else the mark follows the settings
            in_loop(self.running.loop, self._choose, change["new"])

    def _choose(self, label: str) -> None:
        self.turning = True  # what the settings are on the way is nobody's question
        for name, value in self._preset(label).items():
            self.controls[name].set(value)
        self.turning = False
        self._turn()

    def _restore(self) -> None:
        self._choose(self.chosen)

    # ---------------------------------------------------------------------------------- clicks

    def _begin(self, paused: bool) -> None:
        try:
            settings = self.settings()
        except ValueError as error:
            self._say(str(error))
            return
        self.predicted = self.guess is not None and self.guess.value is not None
        if self.guess is not None and not self.predicted and self._label() is not None:
            self._say("First commit your prediction.")
            return
        self._say("")
        self.spent, self.going, self.ran = 0.0, False, self.values()
        if self.lines:
            self.earlier, self.lines = [*self.earlier, self.lines][-EARLIER:], []
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
        self.lines, self.earlier = [], []
        self.running.reset()
        self._say("")
        if self.guess is not None:
            self.guess.follow([], earlier=False)

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
        self.chooser.disabled = state not in (IDLE, ENDED)
        self.restore.disabled = state not in (IDLE, ENDED) or not self._own()
        self.connection.awaited = state == RUNNING or self.running.busy
        self._show_progress(state, steps)
        if self.running.error is not None:
            error = self.running.error  # its notes say which candidate
            notes = getattr(error, "__notes__", ())
            self._say("; ".join([f"{type(error).__name__}: {error}", *notes]))
        seen, due = (self.running.number, len(steps)), time.monotonic() - self.drawn > REDRAWN
        if seen != self.seen and (due or not steps or state != RUNNING):
            self._show(steps)
            self.seen, self.drawn = seen, time.monotonic()
        if self.running.report is not None and self.report is not self.running.report:
            self.report = self.running.report
            self._reveal(self.report)

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

    def _show(self, steps: Sequence[Step]) -> None:
        """Picture and table of a run so far, in step with each other."""
        picture = ""
        try:
            if self.guess is not None:
                self.guess.follow(steps, earlier=True)
            if steps and self.draw is not None:
                picture = self._picture(steps, self.draw)
        except Exception as error:  # the run goes on without its figure
            self._say(f"the figure cannot be drawn: {type(error).__name__}: {error}")
        self.table.value, self.image.value = self._table(steps), picture
        self.image.remove_class("pk-past")

    def _picture(self, steps: Sequence[Step], draw: Draw) -> str:
        pruning, png, figure = self.running.pruning, io.BytesIO(), None
        assert pruning is not None
        try:
            with plot.style():  # also for what the reader draws
                figure = draw(steps, pruning.before)
                self.lines = _lines(figure)
                for xs, ys in (pair for lines in self.earlier for pair in lines):
                    figure.axes[0].plot(xs, ys, color=INK, alpha=0.6, linewidth=1.2, zorder=0.5)
            if self.guess is not None and self.predicted:
                self.guess.draw(figure)
            figure.savefig(png, format="png", dpi=120)
        finally:
            if figure is not None:  # the reader's own figures stay open
                pyplot.close(figure)
        words = f"{self.name}: {len(steps)} steps, sparsity {steps[-1].sparsity:.3f}"
        data = base64.b64encode(png.getvalue()).decode()
        pale = "<small>Grey lines: the runs before.</small>" if self.earlier else ""
        return f'<img alt="{html.escape(words)}" src="data:image/png;base64,{data}">{pale}'

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
                known = self.predicted and self.guess.value is not None
                self._say(self.guess.reveal(report) if known else self.guess.outcome(report))
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
