"""What a cell made is closed when it is run again: nothing is left of it in memory."""

import asyncio
import gc
import weakref
from types import SimpleNamespace

import ipywidgets
import pytest
from ipywidgets.widgets import widget as registry
from tiny import tiny_data, tiny_model

from prunekit import magnitude
from prunekit.widgets import Guess, Instant, MaskView, Panel, Sketch, running

AXES = dict(x=("sparsity", 0, 1), y=("accuracy", 0, 1))


class Notebook:
    """Runs the code of cells as a kernel does, as far as widgets see it."""

    def __init__(self, patch):
        self.count, self.message = 0, {}
        shell = SimpleNamespace(get_parent=lambda: self.message, user_ns={"In": [""]})
        self.shell = shell
        patch.setattr(running, "_cells", {})
        patch.setattr(running, "get_ipython", lambda: shell)

    def run(self, cell, code):
        self.count += 1
        self.shell.execution_count = self.count
        self.shell.user_ns["In"].append(cell)
        kind = {"msg_type": "execute_request"}
        self.message = {"header": kind, "metadata": {"cellId": cell} if self.ids else {}}
        return code()

    ids = True  # whether the front end names its cells


@pytest.fixture(params=[True, False], ids=["ids", "sources"])
def notebook(monkeypatch, request):
    made = Notebook(monkeypatch)
    made.ids = request.param
    return made


def guess():
    return Guess("How many?", lambda report: 0.5)


def sketch():
    return Sketch("How?", lambda report: [], **AXES)


def panel(**more):
    return Panel(magnitude, tiny_model(), tiny_data(), rounds=2, presets={"p": {}}, **more)


def instant():
    view = Instant(lambda **places: "", "title", place=(0.0, 1.0, 0.5), name=["a", "b"])
    view.children = (*view.children, ipywidgets.HBox([ipywidgets.Button()]))
    return view


MAKERS = {
    "Panel": panel,
    "Panel with Guess": lambda: panel(guess=guess()),
    "Panel with Sketch": lambda: panel(guess=sketch()),
    "Instant": instant,
    "MaskView": lambda: MaskView(tiny_model(), data=tiny_data()),
    "Guess": guess,
    "Sketch": sketch,
    "two": lambda: [instant(), panel()],
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_cell_that_is_run_again_leaves_as_many_widgets(notebook, name):
    before = set(registry._instances)
    notebook.run("cell", MAKERS[name])
    once = set(registry._instances) - before
    for _ in range(3):
        notebook.run("cell", MAKERS[name])
    after = set(registry._instances) - before
    assert len(after) == len(once) > 1
    assert not after & once


@pytest.mark.parametrize("name", ["Panel", "Instant", "MaskView"])
def test_the_model_of_a_view_that_is_gone_can_be_freed(notebook, name):
    def code():
        made = MAKERS[name]()
        return weakref.ref(made), weakref.ref(made.model if hasattr(made, "model") else made.work)

    view, kept = notebook.run("cell", code)
    gc.collect()
    assert view() is not None
    notebook.run("cell", code)
    gc.collect()
    assert view() is None
    assert kept() is None


@pytest.mark.parametrize("name", MAKERS)
def test_closed_by_hand_it_leaves_nothing(name):
    before = set(registry._instances)
    made = MAKERS[name]()
    for each in made if isinstance(made, list) else [made]:
        each.close()
        each.close()
    assert set(registry._instances) == before


def test_other_cells_stay_and_so_do_two_views_of_one_run(notebook):
    others = [notebook.run(cell, instant) for cell in ("b", "c")]
    first, second = notebook.run("a", lambda: [instant(), instant()])
    assert all(view.comm for view in (*others, first, second))
    notebook.run("a", instant)
    assert first.comm is second.comm is None
    assert all(part.comm for view in others for part in running.parts(view))


def test_a_guess_of_another_cell_stays_as_long_as_a_panel_shows_it(notebook):
    mine = notebook.run("guess", guess)
    notebook.run("panel", lambda: panel(guess=mine))
    shown = notebook.run("panel", lambda: panel(guess=mine))  # not closed with the panel
    assert mine.comm
    notebook.run("guess", guess)  # nor under it
    assert all(part.comm for part in running.parts(mine))
    assert mine in running.parts(shown)
    notebook.run("panel", panel)
    assert mine.comm is None


def test_what_a_click_makes_closes_nothing(notebook):
    view = notebook.run("cell", instant)
    notebook.message = {"header": {"msg_type": "comm_msg"}, "metadata": {}}
    notebook.shell.execution_count += 1
    instant()
    assert view.comm


def test_the_run_of_a_panel_that_is_replaced_is_stopped(notebook):
    async def twice():
        first = notebook.run("cell", panel)
        first.buttons["Run"].click()
        while first.running.pruning is None:
            await asyncio.sleep(0.01)
        stop = first.running.stop
        second = notebook.run("cell", panel)
        return stop, first, second

    stop, first, second = asyncio.run(twice())
    assert stop.is_set()
    assert first.running.steps == []
    assert first.comm is None
    assert second.comm


def test_without_a_notebook_nothing_is_closed(monkeypatch):
    for shell in (lambda: None, lambda: SimpleNamespace(get_parent=dict)):
        monkeypatch.setattr(running, "get_ipython", shell)
        views = [instant(), instant()]
        assert all(view.comm for view in views)
        for view in views:
            view.close()


def test_a_panel_that_could_not_be_made_is_forgotten_quietly(recwarn):
    with pytest.raises(ValueError):
        panel(show=["nothing"])
    gc.collect()
    assert not [w for w in recwarn if "unraisable" in str(w.category).lower()]


def test_an_error_in_what_follows_a_step_ends_the_run_and_is_kept():
    told = []

    def changed(step):
        told.append(step)
        if step is not None:
            raise RuntimeError("no table")

    async def run():
        made = running.Running(changed)
        made.start(magnitude, tiny_model(), tiny_data(), {}, False)
        for _ in range(1_000):
            if made.state == running.ENDED and not made.busy:
                break
            await asyncio.sleep(0.01)
        return made

    made = asyncio.run(run())
    assert made.state == running.ENDED
    assert str(made.error) == "no table"
    assert sum(step is not None for step in told) == 1
