"""Widgets in a real JupyterLab: silent kernels, names for screen readers, a drawn prediction."""

import base64
import json
import os
import re
import signal
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from torch import nn

from prunekit.widgets import MaskView
from prunekit.widgets.connection import Connection

SILENCE = "No answer from the kernel."
LONG = 120_000  # milliseconds; nothing here waits for a time to pass
# Milliseconds from a press to the question whether the kernel is there.
AFTER = int(re.search(r"const AFTER = (\d+);", Connection._esm)[1])
SETUP = f"""import sys, time
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from tiny import tiny_data, tiny_model
from prunekit import Data, magnitude
from prunekit.widgets import Guess, Instant, MaskView, Panel, Sketch

def answer(steps):
    return [(step.sparsity, step.metrics["accuracy"]) for step in steps]

def panel(**more):
    return Panel(magnitude, tiny_model(), more.pop("data", tiny_data()), rounds=2, epochs=1, **more)
"""
PANEL = """guess = Sketch("How does it fall?", answer, ("sparsity", 0, 1), ("accuracy", 0, 1))
made = panel(guess=guess, show=["sparsity", "rounds", "scope", "biases"])
made"""
INSTANT = 'Instant(lambda **at: "fine", "At once", threshold=(0, 1, 0.5), kind=["a", "b"])'
GUESS = 'Guess("How many stay?", lambda report: 0.5)'
MASK = """seen = MaskView(tiny_model(), data=tiny_data())
seen"""
ENDLESS = """class Endless(Data):
    def batches(self, split, size, generator=None):
        if split == "train":
            time.sleep(3600)
        yield from super().batches(split, size, generator)

panel(data=Endless(tiny_data().splits))"""


@contextmanager
def opened(browser, lab, name, *cells):
    """A notebook of such cells in JupyterLab, with its kernel."""
    address, folder = lab
    if cells:
        made = [
            dict(id=f"c{i}", cell_type="code", source=text, metadata={}, outputs=[],
                 execution_count=None) for i, text in enumerate(cells)
        ]  # fmt: skip
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        about = dict(cells=made, metadata=kernel, nbformat=4, nbformat_minor=5)
        (folder / f"{name}.ipynb").write_text(json.dumps(about))
    page = browser.new_page(viewport={"width": 1300, "height": 1500})
    try:
        page.goto(f"{address}/lab/tree/{name}.ipynb?reset")
        page.wait_for_function(
            "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel", timeout=LONG
        )
        yield page
    finally:
        if not page.is_closed():
            page.evaluate(  # a kernel that a test killed may be gone
                "jupyterapp.shell.currentWidget?.sessionContext?.shutdown()?.catch(() => null)"
            )
            page.close()


def run(page, *cells):
    """Run cells, and wait for their end; all without numbers."""
    for number in cells:
        page.evaluate(
            """async (number) => {
                jupyterapp.shell.currentWidget.content.activeCellIndex = number;
                await jupyterapp.commands.execute("notebook:run-cell");
            }""",
            number,
        )
    if not cells:
        page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells').then(() => null)")


def python(page, expression):
    """What the kernel makes of an expression, once it has time for it."""
    return page.evaluate(
        """async (text) => {
            const { kernel } = jupyterapp.shell.currentWidget.sessionContext.session;
            const asked = kernel.requestExecute({
                code: "", store_history: false, user_expressions: { it: text },
            });
            const told = (await asked.done).content.user_expressions.it;
            return told.data?.["text/plain"] ?? told.evalue;
        }""",
        expression,
    )


def words(page, count, spoken):
    """Wait until so many connections are there and each says that there is no answer, or none."""
    page.wait_for_function(
        """([count, spoken, text]) => {
            const all = [...document.querySelectorAll(".pk-connection")];
            const says = (e) => spoken ? e.textContent.startsWith(text) : e.textContent === "";
            return all.length === count && all.every(says);
        }""",
        arg=[count, spoken, SILENCE],
        timeout=LONG,
    )


def press(page):
    """Press something in the panel, the instant view and the picture of a mask."""
    page.locator("b:text-is('magnitude')").click()
    page.locator("b:text-is('At once')").click()
    page.locator(".pk-maskview button", has_text="Look").click()


@pytest.fixture(scope="module")
def live(browser, lab):
    with opened(browser, lab, "live", SETUP, PANEL, INSTANT, GUESS, MASK) as page:
        run(page)
        page.wait_for_selector(".pk-maskview canvas", timeout=LONG)
        yield page


# ------------------------------------------------------------------------------------ connection


FAKE = """async ([script, awaited]) => {
    document.body.innerHTML = "<div id=box><button>inside</button><div id=el></div></div><button>outside</button>";
    const url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
    const { default: widget } = await import(url);
    window.sent = 0;
    window.heard = {};
    window.traits = { awaited };
    window.gone = false;
    const model = {
        get: (name) => traits[name],
        send: () => { if (gone) throw new Error("Cannot send"); sent += 1; },
        on: (name, act) => (heard[name] = act),
        off: (name) => delete heard[name],
    };
    window.end = widget.render({ model, el: document.getElementById("el") });
    window.reply = () => heard["msg:custom"]({ answer: true });
}"""


def fake(page, awaited=False):
    """The script of a connection with a kernel that answers when told to, and a clock to turn."""
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    page.evaluate(FAKE, [str(Connection._esm), awaited])


def said(page):
    return page.locator(".pk-connection").inner_text()


def sent(page):
    return page.evaluate("sent")


def test_silence_is_told_after_three_seconds_until_an_answer_comes(window):
    fake(window)
    assert sent(window) == 1
    window.clock.fast_forward(2900)
    assert said(window) == ""
    window.clock.fast_forward(200)
    assert said(window).startswith(SILENCE)
    window.evaluate("reply()")
    assert said(window) == ""


def test_it_asks_when_something_in_its_box_is_pressed_and_never_by_itself(window):
    fake(window)
    window.clock.fast_forward(3_600_000)
    window.locator("button", has_text="outside").click()
    window.clock.fast_forward(AFTER)
    assert sent(window) == 1
    window.locator("button", has_text="inside").click()  # pressed and clicked: one question
    assert sent(window) == 1  # not yet: what was pressed speaks first
    window.clock.fast_forward(AFTER)
    assert sent(window) == 2
    window.evaluate("reply()")
    window.locator("button", has_text="inside").focus()
    window.keyboard.press("a")
    window.clock.fast_forward(AFTER)
    assert sent(window) == 3
    window.evaluate("reply()")
    window.locator("button", has_text="inside").click()
    window.evaluate("end()")
    window.clock.fast_forward(AFTER)
    assert sent(window) == 3


def test_a_notebook_around_it_hears_no_key_of_its_box_but_those_that_save_and_run(window):
    fake(window)
    window.evaluate("""() => {
        window.out = [], window.early = [];
        const free = (e) => e.target.matches("[data-lm-suppress-shortcuts]") || early.push(e.key);
        document.addEventListener("keydown", free, true);  // as Notebook 7 does, not JupyterLab
        document.onkeydown = (e) => out.push(e.key);
    }""")
    for place in ("inside", "outside"):
        window.locator("button", has_text=place).click()
        for key in ("ArrowDown", "x", "Control+s", "Shift+Enter"):
            window.keyboard.press(key)
    inside = ["Control", "s", "Enter"]
    for heard in ("out", "early"):
        heard = [key for key in window.evaluate(heard) if key != "Shift"]
        assert heard == [*inside, "ArrowDown", "x", "Control", "s", "Enter"]


def test_while_a_run_goes_it_asks_on_and_after_a_missing_answer_no_more(window):
    fake(window, awaited=True)
    for count in (1, 2, 3):
        assert sent(window) == count
        window.evaluate("reply()")
        window.clock.fast_forward(3100)
    window.clock.fast_forward(3_600_000)
    assert sent(window) == 4
    assert said(window).startswith(SILENCE)
    window.evaluate("reply(), traits.awaited = false, reply()")
    window.clock.fast_forward(3_600_000)
    assert said(window) == ""


def test_a_question_that_cannot_be_sent_is_no_answer(window):
    fake(window)
    window.evaluate("reply(), gone = true")
    window.locator("button", has_text="inside").click()
    window.clock.fast_forward(AFTER)
    assert said(window).startswith(SILENCE)


def test_a_busy_kernel_is_told_and_the_words_go_when_it_answers(live, tmp_path):
    words(live, 3, spoken=False)
    go = tmp_path / "go"
    code = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.05)"
    ask = "(code) => {jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestExecute({code})}"
    live.evaluate(ask, code)
    press(live)
    words(live, 3, spoken=True)
    go.touch()
    words(live, 3, spoken=False)


def test_a_kernel_that_dies_during_a_run_is_told_without_a_press(browser, lab):
    with opened(browser, lab, "killed", SETUP, ENDLESS) as page:
        run(page, 0, 1)
        page.locator(".jupyter-button", has_text="Run").click()
        page.locator(".widget-label", has_text="running").wait_for(timeout=LONG)
        words(page, 1, spoken=False)
        os.kill(int(python(page, "__import__('os').getpid()")), signal.SIGKILL)
        words(page, 1, spoken=True)
        assert page.locator(".widget-label", has_text="running").is_hidden()


def test_a_restarted_kernel_is_told_and_in_a_saved_notebook_another_or_none(browser, lab):
    with opened(browser, lab, "saved", SETUP, PANEL, INSTANT, MASK) as page:
        run(page)
        words(page, 3, spoken=False)
        page.evaluate("jupyterapp.shell.currentWidget.sessionContext.restartKernel()")
        press(page)
        words(page, 3, spoken=True)
        icons = """[...document.querySelectorAll(".jupyter-widgets-disconnected")]
            .map((part) => getComputedStyle(part, "::before").content)"""
        assert set(page.evaluate(icons)) == {"none"}
        run(page, 0, 1, 2, 3)
        words(page, 3, spoken=False)
        page.evaluate(
            """async () => {
                const save = (id) => jupyterapp.commands.execute(id);
                await save("@jupyter-widgets/jupyterlab-manager:saveWidgetState");
                await save("docmanager:save");
            }"""
        )
    assert "widget-state+json" in (lab[1] / "saved.ipynb").read_text(encoding="utf-8")
    with opened(browser, lab, "saved") as page:
        page.locator(".prunekit-view[data-shows=picture]").nth(2).wait_for(timeout=LONG)
        assert page.locator(".pk-connection").count() == 0
        run(page, 0, 1, 2, 3)
        words(page, 3, spoken=False)
        page.evaluate("jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        press(page)
        words(page, 3, spoken=True)


# ----------------------------------------------------------------------------------------- names


def test_every_control_has_its_name_for_a_screen_reader(live):
    panel, view, guess = (live.locator(".jp-OutputArea").nth(i) for i in (1, 2, 3))
    folded = [panel.locator(f"span:text-is('{text}')") for text in ("more", "as code")]
    for fold in folded:
        fold.click()
    settings = json.loads(python(live, "__import__('json').dumps([*made.controls])").strip("'"))
    for name in ("sparsity", "rounds", "epochs", "lr", "seed"):
        panel.get_by_role("slider", name=name, exact=True).wait_for(timeout=LONG)
    found = {
        handle.get_attribute("aria-label") or ""
        for handle in panel.get_by_role("slider").all()
    }  # fmt: skip
    for role in ("textbox", "combobox", "checkbox"):
        found |= {n for n in settings if panel.get_by_role(role, name=n, exact=True).count()}
    assert found == set(settings)
    view.get_by_role("slider", name="threshold", exact=True).wait_for(timeout=LONG)
    assert view.get_by_role("combobox", name="kind", exact=True).count() == 1
    assert guess.get_by_role("textbox", name="How many stay?", exact=True).count() == 1
    for area in (panel, view, guess):
        for line in area.aria_snapshot().splitlines():
            control = line.strip("- ").split(":")[0].split(" [")[0]
            assert control not in ("slider", "textbox", "combobox", "checkbox", "button"), line
    for fold in folded:
        fold.click()


# ------------------------------------------------------------------------------------------ keys


def test_keys_in_a_view_leave_the_cells_alone(live):
    cells = """(({ activeCellIndex, widgets }) => [activeCellIndex, widgets.length])(
        jupyterapp.shell.currentWidget.content)"""
    for place in (
        live.get_by_role("slider", name="threshold", exact=True),
        live.get_by_role("combobox", name="kind", exact=True),
        live.locator(".pk-maskview select"),
        live.locator(".pk-maskview canvas"),
    ):
        place.focus()
        before = live.evaluate(cells)
        for key in ("ArrowUp", "j", "a", "x"):
            live.keyboard.press(key)
        assert live.evaluate(cells) == before


# ---------------------------------------------------------------------------------------- sketch


def test_a_curve_is_drawn_by_pointer_and_keys_and_compared_with_the_run(live):
    drawing = live.locator(".pk-sketch")
    canvas, told = drawing.locator("canvas"), drawing.locator(".pk-words")
    drawing.locator("button", has_text="Commit").click()
    drawing.get_by_text("First draw a curve.").wait_for(timeout=LONG)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y, wide, high = box["x"], box["y"], box["width"], box["height"]
    live.mouse.move(x + 0.3 * wide, y + 0.5 * high)
    live.mouse.down()
    live.mouse.move(x + 0.6 * wide, y + 0.5 * high)  # at one jump: what is between is drawn too
    live.mouse.move(x + 0.6 * wide, y + 0.3 * high)
    live.mouse.up()
    count = int(told.inner_text().split("; ")[1].split()[0])
    assert 5 <= count <= 9
    cell = live.evaluate("jupyterapp.shell.currentWidget.content.activeCellIndex")
    canvas.focus()
    live.keyboard.press("End")
    for _ in range(30):
        live.keyboard.press("Shift+ArrowDown")
    live.keyboard.press("ArrowUp")
    assert f"at sparsity 1: accuracy 0.01; {count + 1} of 21" in told.inner_text()
    live.keyboard.press("ArrowLeft")
    assert "at sparsity 0.95: nothing drawn" in told.inner_text()
    assert live.evaluate("jupyterapp.shell.currentWidget.content.activeCellIndex") == cell
    assert "at sparsity 0.95" in canvas.get_attribute("aria-label")
    assert python(live, "guess.value") == "None"
    drawing.locator("button", has_text="Commit").click()
    drawing.get_by_text("committed").wait_for(timeout=LONG)
    value = json.loads(python(live, "__import__('json').dumps(guess.value)").strip("'"))
    heights = [height for _, height in value]
    assert heights[-1] == pytest.approx(0.01)
    assert value[0][0] == pytest.approx(0.3, abs=0.1)  # nothing before the first place
    assert heights[0] == pytest.approx(0.5, abs=0.1)
    last = max(i for i, height in enumerate(heights) if height > 0.6)  # where the stroke went up
    falls = [a - b for a, b in zip(heights[last:], heights[last + 1 :], strict=False)]
    assert max(falls) == pytest.approx(min(falls))  # from there straight to the end
    canvas.focus()
    live.keyboard.press("ArrowUp")
    assert live.evaluate("jupyterapp.shell.currentWidget.content.activeCellIndex") == cell
    assert drawing.locator("button", has_text="Commit").is_disabled()
    assert python(live, "guess.value[-1][1]").startswith("0.01")
    live.locator(".jupyter-button", has_text="Run").click()
    live.get_by_text("On average you are ").wait_for(timeout=LONG)
    assert int(python(live, "len(guess.true)")) == int(python(live, "len(made.report.history)")) > 1
    assert live.locator("img[alt^='magnitude: ']").count() == 0  # the sketch shows the run
    drawing.locator(".pk-legend", has_text="the run").wait_for(timeout=LONG)
    drawing.locator("button", has_text="Start again").click()
    drawing.get_by_text("0 of 21 places drawn").wait_for(timeout=LONG)
    assert python(live, "guess.value") == "None"


# ----------------------------------------------------------------------------------------- brush


def test_weights_are_pruned_and_put_back_by_the_brush(live):
    view = live.locator(".pk-maskview")
    canvas, words, verdict = view.locator("canvas"), *view.locator(".pk-words").all()
    gone = "seen.mask.total - seen.mask.kept"
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()

    def stroke(mode):
        view.get_by_role("button", name=mode, exact=True).click()
        y = box["y"] + box["height"] / 2
        live.mouse.move(box["x"] + 0.2 * box["width"], y)
        live.mouse.down()
        live.mouse.move(box["x"] + 0.8 * box["width"], y, steps=5)
        live.mouse.up()

    view.get_by_label("width of the brush").fill("5")
    stroke("Look")
    assert python(live, gone) == "0"
    stroke("Prune")
    verdict.get_by_text("sparsity 0.0").wait_for(state="detached", timeout=LONG)
    removed = int(python(live, gone))
    assert removed > 10
    left, of = (int(n) for n in words.inner_text().split("; ")[1].split() if n.isdigit())
    assert of - left == removed
    told = python(live, "f'sparsity {seen.mask.sparsity:.3f}'").strip("'")
    verdict.get_by_text(told).wait_for(timeout=LONG)
    stroke("Put back")
    verdict.get_by_text("sparsity 0.000").wait_for(timeout=LONG)
    assert python(live, gone) == "0"
    view.get_by_role("button", name="Prune", exact=True).click()
    canvas.focus()
    live.keyboard.press(" ")
    verdict.get_by_text("sparsity 0.000").wait_for(state="detached", timeout=LONG)
    assert 0 < int(python(live, gone)) < removed
    undo = view.get_by_role("button", name="Undo", exact=True)
    for count in (0, removed, 0):
        undo.click()
        verdict.get_by_text(f"sparsity {count / 132:.3f}").wait_for(timeout=LONG)
        assert python(live, gone) == str(count)
    assert undo.is_disabled()
    view.get_by_role("button", name="Look", exact=True).click()


MASKED = """async ([script, style]) => {
    document.body.innerHTML = `<style>${style}</style><div id=el style="width: 900px"></div>`;
    const url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
    const { default: widget } = await import(url);
    const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const heard = {};
    window.sent = [];
    window.traits = {};
    window.take = (given) => {
        given.shown.weights = bytes(given.shown.weights);
        given.kept.bits = bytes(given.kept.bits);
        Object.assign(traits, given);
        for (const name in given) heard[`change:${name}`]?.();
    };
    window.open_ = () => widget.render({ model: {
        get: (name) => traits[name],
        set: (name, value) => (traits[name] = value),
        save_changes: () => {},
        send: (content) => content.ask || sent.push(content),
        on: (name, act) => (heard[name] = act),
        off: () => {},
    }, el: document.getElementById("el") });
}"""


class ByHand:
    """A layer of 12 × 8 weights and one of 200 × 12, to be brushed in a page. The Python side
    hears of it, and answers, when `sync` is called."""

    def __init__(self, page):
        self.page = page
        self.view = MaskView(nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 200)))
        page.evaluate(MASKED, [self.view._esm, self.view._css])
        self.sync()
        page.evaluate("open_()")
        self.canvas, self.size = page.locator("canvas"), page.locator("input[type=range]")
        self.undo = self.button("Undo")

    def sync(self):
        for content in self.page.evaluate("sent.splice(0)"):
            self.view._brushed(content)
        self.view.layer = self.page.evaluate("traits.layer") or self.view.layer
        self.view._show()
        self.page.evaluate("(given) => take(given)", self.traits())

    def traits(self):
        def packed(trait):
            return {
                name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
                for name, value in trait.items()
            }

        view = self.view
        return dict(layers=view.layers, layer=view.layer, brushed=view.brushed, verdict="",
                    shown=packed(view.shown), kept=packed(view.kept))  # fmt: skip

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    def show(self, layer):
        self.page.locator("select").select_option(layer)
        self.sync()

    def place(self, row, column):
        box = self.canvas.bounding_box()
        rows, columns = self.view.mask[self.view.layer].shape
        zoom = min(box["width"] / columns, 420 / rows)
        return box["x"] + (column + 0.5) * zoom, box["y"] + (row + 0.5) * zoom

    def stroke(self, *places):
        self.page.mouse.move(*self.place(*places[0]))
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*self.place(*place))  # at one jump
        self.page.mouse.up()

    def removed(self):
        return [tuple(place) for place in (~self.view.mask[self.view.layer]).nonzero().tolist()]

    def words(self):
        return self.page.locator(".pk-words").first.inner_text()


@pytest.fixture
def by_hand(window):
    return ByHand(window)


def test_the_brush_starts_narrow_where_weights_are_large_and_stays_as_it_was_set(by_hand):
    assert by_hand.size.input_value() == "1"
    by_hand.button("Prune").click()
    by_hand.stroke((3, 0), (3, 7))
    by_hand.sync()
    assert by_hand.removed() == [(3, column) for column in range(8)]  # a row, and no more
    by_hand.show("2.weight")
    assert by_hand.size.input_value() == "5"
    by_hand.size.fill("9")
    by_hand.show("0.weight")
    assert by_hand.size.input_value() == "1"
    by_hand.show("2.weight")
    assert by_hand.size.input_value() == "9"


def test_a_fast_stroke_leaves_no_holes_and_tells_each_weight_once(by_hand):
    by_hand.button("Prune").click()
    by_hand.stroke((0, 1), (11, 5), (11, 0))
    (told,) = by_hand.page.evaluate("sent")
    path = [divmod(weight, 8) for weight in told["weights"]]
    assert (path[0], path[-1]) == ((0, 1), (11, 0))
    assert (11, 5) in path
    assert len({*path}) == len(path) == 12 + 5
    for before, now in pairwise(path):
        assert max(abs(a - b) for a, b in zip(before, now, strict=True)) == 1
    by_hand.sync()
    by_hand.button("Put back").click()
    by_hand.size.fill("3")
    by_hand.stroke((1, 0), (11, 0), (11, 7), (1, 7), (1, 0), (6, 1), (6, 6), (6, 4), (3, 4), (9, 4))
    by_hand.sync()
    assert by_hand.removed() == []


def test_undo_takes_back_stroke_after_stroke(by_hand):
    assert by_hand.undo.is_disabled()
    assert by_hand.undo.evaluate("(e) => getComputedStyle(e).opacity") == "0.45"
    before = []
    for layer, mode, places in (
        ("0.weight", "Prune", [(2, 0), (2, 7)]),
        ("0.weight", "Prune", [(0, 3), (11, 3)]),  # across the first
        ("2.weight", "Prune", [(100, 5), (120, 5)]),
        ("0.weight", "Put back", [(0, 0), (7, 7)]),
    ):
        by_hand.show(layer)
        by_hand.button(mode).click()
        before.append((layer, by_hand.view.mask))
        by_hand.stroke(*places)
        by_hand.sync()
    for layer, mask in reversed(before):
        assert by_hand.undo.get_attribute("title") == f"take back the last stroke, in {layer}"
        by_hand.undo.press("Enter")
        by_hand.sync()
        assert all((by_hand.view.mask[name] == mask[name]).all() for name in mask)
        shown = int(by_hand.view.mask["0.weight"].sum())
        assert f"{shown} of 96 weights of the layer kept" in by_hand.words()
    assert by_hand.undo.is_disabled()
    assert by_hand.page.evaluate("document.activeElement.tagName") == "CANVAS"  # not the notebook


def test_an_answer_does_not_wipe_out_the_stroke_under_way(by_hand):
    by_hand.button("Prune").click()
    by_hand.stroke((0, 0), (0, 7))
    by_hand.page.mouse.move(*by_hand.place(5, 0))
    by_hand.page.mouse.down()
    by_hand.page.mouse.move(*by_hand.place(5, 7))
    by_hand.sync()  # of the first stroke
    assert by_hand.words().endswith("80 of 96 weights of the layer kept")
    by_hand.page.mouse.up()
    by_hand.sync()
    assert {row for row, _ in by_hand.removed()} == {0, 5}


def test_a_stroke_belongs_to_the_layer_that_it_began_on(by_hand):
    by_hand.button("Prune").click()
    by_hand.page.mouse.move(*by_hand.place(5, 0))
    by_hand.page.mouse.down()
    by_hand.page.evaluate("traits.layer = '2.weight'")
    by_hand.sync()
    by_hand.page.mouse.up()
    by_hand.sync()
    assert by_hand.removed() == []
    assert by_hand.view.mask.total - by_hand.view.mask.kept == 1


def test_only_with_ctrl_the_wheel_zooms_else_the_page_scrolls(by_hand):
    page, picture = by_hand.page, "document.querySelector('canvas').toDataURL()"
    page.evaluate("document.body.style.height = '5000px'")
    by_hand.show("2.weight")  # which can be enlarged more than once
    by_hand.canvas.focus()
    page.mouse.move(*by_hand.place(5, 5))
    before = page.evaluate(picture)
    page.mouse.wheel(0, 40)
    page.wait_for_function("scrollY > 0")
    assert page.evaluate(picture) == before
    for key in ("Control", "Meta"):
        at = page.evaluate("scrollY")
        page.keyboard.down(key)
        page.mouse.wheel(0, -40)
        page.wait_for_function(f"(before) => {picture} !== before", arg=before)
        page.keyboard.up(key)
        assert page.evaluate("scrollY") == at
        before = page.evaluate(picture)
    for name in ("nearer", "farther"):
        button = by_hand.button(f"{name}; or Ctrl and the wheel")
        assert button.get_attribute("title") == button.get_attribute("aria-label")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_legend_has_the_colours_of_the_picture(by_hand, scheme):
    by_hand.page.emulate_media(color_scheme=scheme)
    by_hand.page.evaluate("document.documentElement.style.colorScheme = 'light dark'")
    w = by_hand.view.model[0].weight
    legend = by_hand.page.locator(".pk-legend")
    colour = "(e) => getComputedStyle(e).backgroundColor"
    pixel = """([x, y]) => {
        const canvas = document.querySelector("canvas"), box = canvas.getBoundingClientRect();
        const at = [Math.round(x - box.left), Math.round(y - box.top), 1, 1];
        return `rgb(${[...canvas.getContext("2d").getImageData(...at).data.slice(0, 3)].join(", ")})`;
    }"""
    for meaning, extreme in (("positive", w.argmax()), ("negative", w.argmin())):
        mark = legend.locator(f"span:text-is('{meaning}') > .pk-mark")
        drawn = by_hand.page.evaluate(pixel, [*by_hand.place(*divmod(int(extreme), 8))])
        assert mark.evaluate(colour) == drawn
    assert "stronger the colour, the larger |w|" in legend.inner_text()
    hollow = legend.locator("span:text-is('empty: removed') > .pk-mark")
    assert hollow.evaluate(colour) == "rgba(0, 0, 0, 0)"
    text = "(e) => getComputedStyle(e)"
    assert hollow.evaluate(f"{text}.borderTopColor") == legend.evaluate(f"{text}.color")


def test_a_cell_that_is_run_again_leaves_as_many_widgets(live):
    counts = set()
    for _ in range(3):
        run(live, 1, 2, 3, 4)
        counts.add(python(live, "len(__import__('ipywidgets').widgets.widget._instances)"))
    assert len(counts) == 1
    words(live, 3, spoken=False)
