"""One run behind a panel: steps are taken in a thread that all panels share, one at a time.

A cell that waits for a method would not see a click on Stop. So ``next()`` happens in a worker
thread, and only the kernel's own event loop touches widgets. Steps of two panels take turns.
"""

from __future__ import annotations

import asyncio
import copy
import html
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ipywidgets
import torch
from IPython import get_ipython
from torch import nn

from prunekit.prune import Method, Pruning
from prunekit.report import Report
from prunekit.steps import Run, Step
from prunekit.widgets import output

_worker = ThreadPoolExecutor(1, "prunekit-panel")
_viewer = ThreadPoolExecutor(1, "prunekit-view")  # a view does not wait for the epoch of a run
IDLE, RUNNING, PAUSED, ENDED = "idle", "running", "paused", "ended"


def loop_of_the_kernel() -> asyncio.AbstractEventLoop | None:
    """The event loop that a cell runs in; None outside a kernel."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def in_loop(loop: asyncio.AbstractEventLoop | None, act: Callable[..., Any], *given: Any) -> None:
    """Act in the loop, soon; at once if there is none. A click may arrive in another thread."""
    if loop is None:
        act(*given)
    else:
        loop.call_soon_threadsafe(act, *given)


def in_viewer(act: Callable[[], Any]) -> None:
    """Do something in the views' thread, where it keeps nobody waiting."""
    _viewer.submit(act)


def settled() -> None:
    """Wait until the views' thread has done what it was asked for."""
    _viewer.submit(lambda: None).result()


class Latest:
    """Calls `work` in a thread and `show` with its result in the loop; the newest wins.

    While one call is under way, of those that come only the last is kept: a slider that is dragged
    does not leave a queue behind it.
    """

    def __init__(self, work: Callable[..., Any], show: Callable[[Any], None]):
        self.work, self.show, self.loop = work, show, loop_of_the_kernel()
        self.busy, self.waiting = False, list[tuple[Any, ...]]()

    def __call__(self, *given: Any) -> None:
        """Ask for the work on these arguments."""
        self.waiting = [given]
        if not self.busy:
            self._next()

    def _next(self) -> None:
        (given,), self.waiting, self.busy = self.waiting, [], True
        _do_in(_viewer, self.loop, lambda: self.work(*given), self._done)

    def _done(self, result: Any, error: BaseException | None) -> None:
        self.busy = False
        self.show(error if error is not None else result)
        if self.waiting and not self.busy:
            self._next()


def _do_in(
    worker: ThreadPoolExecutor,
    loop: asyncio.AbstractEventLoop | None,
    work: Callable[[], Any],
    then: Callable[[Any, BaseException | None], None],
) -> None:
    """Work in a worker, and go on in the loop with the result or the error."""

    def worked() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as caught:  # whatever it is, the run must not wait for it for ever
            error = caught
        in_loop(loop, then, result, error)

    if loop is None:
        worked()
    else:
        worker.submit(worked)


class Running:
    """A run that can be paused, stepped and stopped.

    `changed(step)` is called in the loop after every step, and with None when the state changes.
    Without a loop everything happens at once, in the thread that calls.
    """

    def __init__(self, changed: Callable[[Step | None], None]):
        self.changed, self.loop = changed, loop_of_the_kernel()
        self.state, self.stop = IDLE, threading.Event()
        self.pruning: Pruning | None = None
        self.report: Report | None = None
        self.error: BaseException | None = None
        self.steps: list[Step] = []
        self.number = 0  # of the run: what a run that was given up still sends is not for this one
        self.once = False  # whether to pause after the step under way
        self.busy = False  # whether the worker has something to do for this run

    def start(
        self, method: Method, model: nn.Module, data: Any, settings: dict[str, Any], paused: bool
    ) -> None:
        """Begin a new run, after giving up the one before."""
        self.reset()
        self.once, stop, threads = paused, self.stop, torch.get_num_threads()
        try:
            model = copy.deepcopy(model)  # as it is now, whatever a cell does to it later
        except Exception as error:
            self.error = error
            self._set(ENDED)
            return

        def begin() -> Pruning | None:
            if stop.is_set():
                return None
            torch.set_num_threads(threads)  # the thread's own setting
            return Pruning(method, model, data, run=Run(stop=stop), **settings)

        def begun(pruning: Pruning | None) -> None:
            self.pruning = pruning
            if pruning is None:
                self._set(ENDED)
            else:
                self._take()

        self._set(RUNNING)
        self._do(begin, begun)

    def go_on(self) -> None:
        """Take steps until paused."""
        if self.state == PAUSED:
            self.once = False
            self._set(RUNNING)
            if not self.busy:  # else the step under way will go on
                self._take()

    def pause(self) -> None:
        """Take no more steps after this one."""
        if self.state == RUNNING:
            self._set(PAUSED)

    def step(self) -> None:
        """Take one step."""
        if self.state == PAUSED and not self.busy:
            self.once = True
            self._set(RUNNING)
            self._take()

    def end(self) -> None:
        """Stop within a minibatch, and report."""
        if self.state not in (RUNNING, PAUSED):
            return
        self.stop.set()
        if not self.busy:  # else the step under way will end the run
            self._finish()

    def reset(self) -> None:
        """Give up the run, if there is one, and forget it."""
        self.stop.set()
        self.number += 1
        self.stop, self.busy = threading.Event(), False
        self.pruning = self.report = self.error = None
        self.steps = []
        self._set(IDLE)

    # -- in the loop

    def _set(self, state: str) -> None:
        self.state = state
        self.changed(None)

    def _take(self) -> None:
        pruning = self.pruning
        assert pruning is not None

        def taken(step: Step | None) -> None:
            if step is None:
                self._finish()
                return
            self.steps.append(step)
            self.changed(step)
            if self.stop.is_set():
                self._finish()
            elif self.once and self.state == RUNNING:
                self._set(PAUSED)
            elif self.state == RUNNING:
                self._take()

        self._do(lambda: next(pruning, None), taken)

    def _finish(self) -> None:
        pruning = self.pruning
        assert pruning is not None
        self._set(ENDED)  # the report takes a moment more

        def report() -> Report:
            pruning.close()
            return pruning.report()

        def reported(report: Report) -> None:
            self.report = report
            self.changed(None)

        self._do(report, reported)

    # -- between the loop and the worker

    def _do(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Work in the worker, and go on with the result in the loop."""
        number, self.busy = self.number, True

        def finished(result: Any, error: BaseException | None) -> None:
            if number != self.number:
                return
            self.busy = False
            try:
                if error is None:
                    then(result)
            except Exception as raised:  # which nobody else would hear of
                error = raised
            if error is not None:
                self.error = error
                self._set(ENDED)

        _do_in(_worker, self.loop, work, finished)


_cells: dict[str, tuple[int, list[ipywidgets.Widget]]] = {}  # cell -> its execution, what it made


class OfCell(ipywidgets.Widget):
    """A widget that is closed, with all that stands in it, when its cell makes another.

    ipywidgets keeps every widget that is not closed, and with it models and data.
    """

    def __init__(self, *given: Any, **traits: Any):
        super().__init__(*given, **traits)
        _close_older(self)

    def fallback(self) -> str:
        """What a page without a kernel shows instead, as HTML: a picture, or words."""
        return f"<p><b>{html.escape(type(self).__name__)}</b></p>"

    def lasting(self) -> Mapping[str, Any] | None:
        """The data with which the view lives on without a kernel; None if it cannot."""
        return None

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        shown, data = bundle[0] if isinstance(bundle, tuple) else bundle, self.lasting()
        shown["text/html"] = output.still(self.fallback())
        view = type(self).__name__ if data is not None else ""
        shown[output.MIME] = output.lasting(view, data or {})
        return bundle

    def close(self) -> None:
        """Close this and its parts; what a cell made apart and gave to it stays."""
        if self.comm is not None:
            apart = {widget for _, made in _cells.values() for widget in made}
            for part in parts(self, apart - {self}) - {self}:
                part.close()
        super().close()


def parts(widget: ipywidgets.Widget, without: Collection[Any] = ()) -> set[ipywidgets.Widget]:
    """A widget and all that stands in it: children, layouts, styles, and what stands in these."""
    found, ahead = set(), [widget]
    while ahead:
        one = ahead.pop()
        if isinstance(one, ipywidgets.Widget) and one not in found and one not in without:
            found.add(one)
            values = [getattr(one, name) for name in one.keys]
            ahead += [v for value in values for v in (value if type(value) is tuple else (value,))]
    return found


def _close_older(widget: ipywidgets.Widget) -> None:
    """The cell that is run made a widget: close what it made when it was run before."""
    if (cell := _cell()) is None:
        return
    name, number = cell
    execution, made = _cells.get(name, (number, []))
    older, made = (made, []) if execution != number else ([], made)
    _cells[name] = (number, [*made, widget])
    in_use = {part for _, made in _cells.values() for one in made for part in parts(one)}
    for old in older:
        if old not in in_use:
            old.close()


def _cell() -> tuple[str, int] | None:
    """The cell that is run and the number of this execution; None outside a notebook's cell."""
    try:
        shell = get_ipython()
        parent = shell.get_parent()
        if parent["header"]["msg_type"] != "execute_request":  # but a click, after the cell
            return None
        return parent["metadata"].get("cellId") or shell.user_ns["In"][-1], shell.execution_count
    except (AttributeError, KeyError, IndexError):
        return None
