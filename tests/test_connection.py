"""Words for when the kernel does not answer, without a browser: who asks, who answers, and when."""

import asyncio
import threading

import pytest
from tiny import tiny_data, tiny_model

from prunekit import magnitude
from prunekit.widgets import Instant, MaskView, Panel, _static
from prunekit.widgets.connection import Connection, connected

ASK, ANSWER = {"ask": True}, {"answer": True}


def answers(widget):
    """What a widget sends, in a list that grows."""
    sent = []
    widget.send = lambda content, buffers=None: sent.append(content)
    return sent


def ask(widget):
    widget._handle_custom_msg(ASK, [])


def view():
    return MaskView(tiny_model())


@pytest.mark.parametrize("made", [Connection, view])
def test_a_question_is_answered_and_nothing_else_is(made):
    widget = made()
    sent = answers(widget)
    ask(widget)
    assert sent == [ANSWER]
    widget._handle_custom_msg({"layer": "0.weight", "weights": [0], "keep": False}, [])
    assert sent == [ANSWER]


def test_a_question_is_no_stroke():
    widget = view()
    before, verdict = widget.mask, widget.verdict
    answers(widget)
    ask(widget)
    assert widget.mask is before
    assert widget.verdict == verdict


def test_a_loop_that_is_busy_does_not_answer_from_another_thread():
    async def busy():
        widget = Connection()
        sent = answers(widget)
        asking = threading.Thread(target=ask, args=[widget])  # as from a subshell
        asking.start()
        asking.join()  # the loop does not turn, and a click would do nothing
        early = [*sent]
        await asyncio.sleep(0)
        return early, sent

    assert asyncio.run(busy()) == ([], [ANSWER])


def test_panels_and_instant_views_carry_one():
    panel = Panel(magnitude, tiny_model(), tiny_data())
    instant = Instant(lambda place: "", place=(0.0, 1.0, 0.5))
    for box in (panel, instant):
        assert sum(isinstance(child, Connection) for child in box.children) == 1


def test_it_asks_on_as_long_as_a_run_goes():
    async def run():
        panel, seen = Panel(magnitude, tiny_model(), tiny_data(), rounds=2, epochs=1), []
        panel.connection.observe(lambda change: seen.append(change["new"]), "awaited")
        panel.buttons["Run"].click()
        while panel.report is None:
            await asyncio.sleep(0.01)
        return seen

    assert asyncio.run(run()) == [True, False]


def test_a_script_that_exports_nothing_cannot_be_wrapped():
    with pytest.raises(ValueError, match="export default"):
        connected("function render() {}")
    for text in (MaskView._esm, Connection._esm):
        assert str(text).count("export default") == 1
    assert "function watch" not in _static.script("chart", "mask")


def test_repr_is_stable():
    assert repr(Connection()) == "Connection()"
