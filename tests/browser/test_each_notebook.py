"""Every notebook of the course in a real JupyterLab: run, predicted, moved, stopped, replayed."""

import json
import os
from functools import partial
from pathlib import Path

import pytest
from shorter import shorter

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
# Pictures of what was seen, for who wants to look: in a folder named here.
SHOTS = os.environ.get("PRUNEKIT_SCREENSHOTS")
MINUTE = 60_000
# How many letters of its own text a line of a paragraph holds.
LETTERS = """p => {
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = getComputedStyle(p).font;
  return p.clientWidth * p.innerText.length / pen.measureText(p.innerText).width;
}"""
# The code that is wider than its cell, and the letters of every paragraph.
WIDE = f"""async () => {{
  const [wide, long] = [[], []];
  for (const cell of document.querySelectorAll(".jp-Notebook .jp-Cell")) {{
    cell.scrollIntoView();
    await new Promise(requestAnimationFrame);
    const shown = css => [...cell.querySelectorAll(css)].filter(e => e.checkVisibility());
    const code = shown(".cm-scroller").filter(e => e.scrollWidth > e.clientWidth);
    wide.push(...code.map(e => e.innerText));
    const texts = shown(".jp-RenderedMarkdown > p").filter(e => e.innerText.trim());
    long.push(...texts.map(p => [p.innerText, ({LETTERS})(p)]));
  }}
  return [wide, long];
}}"""
WRONG = "[data-mime-type='application/vnd.jupyter.stderr']"  # JupyterLab shows errors as these, too
CODE = "jupyterapp.shell.currentWidget.content.widgets.filter(c => c.model.type === 'code')"
# Stop a run in the frame in which it goes on: a moment later a small one can be done.
GO_ON_AND_STOP = """panel => ["Go on", "Stop"].forEach(
  name => [...panel.querySelectorAll("button")].find(b => b.innerText === name).click())"""


def run_all(tab):
    """Run all cells, their trainings short, and wait for the last, or for an error."""
    sources = tab.evaluate(f"() => {CODE}.map(cell => cell.model.sharedModel.source)")
    put = f"short => {CODE}.forEach((cell, i) => cell.model.sharedModel.source = short[i])"
    tab.evaluate(put, [*map(shorter, sources)])
    tab.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells'); }")
    tab.wait_for_function(
        f"() => document.querySelector({json.dumps(WRONG)})"
        f" || {CODE}.every(c => c.model.executionCount && c.model.executionState !== 'running')"
        f" && {CODE}.every(c => !c.promptNode?.textContent.includes('*'))",
        timeout=5 * MINUTE,
        polling=500,  # and not at every frame: the kernel needs the processor
    )


def theme(tab, name):
    tab.evaluate(f"() => jupyterapp.commands.execute('apputils:change-theme', {{theme: '{name}'}})")
    light = "true" if name.endswith("Light") else "false"
    tab.wait_for_selector(f"body[data-jp-theme-light='{light}']", state="attached")


def seen(tab, name, folder):
    """Take a picture of each widget of the package, in both themes."""
    folder.mkdir(parents=True, exist_ok=True)
    for shade in ("Light", "Dark"):
        theme(tab, f"JupyterLab {shade}")
        for kind in (".pk-panel", ".pk-instant", ".pk-view"):
            for number, shown in enumerate(tab.locator(kind).all()):
                if shown.is_visible():
                    shown.screenshot(path=folder / f"{name}_{shade}{kind}_{number}.png")
    theme(tab, "JupyterLab Light")


def fits(tab, width):
    """No code is wider than its cell, and a line of text is as long as can be read."""
    tab.set_viewport_size({"width": width, "height": 1000})
    wide, long = tab.evaluate(WIDE)
    assert long, "there is no text"
    assert wide == []
    assert [text for text, letters in long if letters > 85] == []


def text_of(shown):
    return " ".join(shown.inner_text().split())


def changes(tab, shown, act):
    """Do something, and wait until the words of an element are others."""
    before = text_of(shown)
    act()
    handle = shown.element_handle()
    tab.wait_for_function(
        "([e, t]) => e.innerText.split(/\\s+/).filter(Boolean).join(' ') !== t",
        arg=[handle, before], timeout=MINUTE,
    )  # fmt: skip


def move_every_instant_view(tab):
    for view in tab.locator(".pk-instant").all():
        for slider in view.locator("[role=slider]").all():
            slider.focus()
            answer = view.locator("> .widget-html").last  # not the slider's own number
            changes(tab, answer, lambda: tab.keyboard.press("End"))  # one step may change nothing
        if (spin := view.get_by_role("button", name="Spin")).count():
            spin.click()
            view.locator("td", has_text="goes on").wait_for(timeout=MINUTE)


def predict(tab, panel):
    """Commit a number or a curve, if the panel asks for one."""
    if (field := panel.locator("input[placeholder='your guess']")).count():
        field.fill("5")
        panel.get_by_role("button", name="Commit").click()
        panel.get_by_text("committed").wait_for()
    elif (drawing := panel.locator(".pk-sketch canvas")).count():
        drawing.focus()
        for key in ("ArrowUp", "End", "ArrowDown"):
            tab.keyboard.press(key)
        panel.get_by_text("2 of 21 places drawn").wait_for()
        panel.get_by_role("button", name="Commit").click()
        panel.get_by_text("committed").wait_for()


def button(panel, name):
    return panel.get_by_role("button", name=name, exact=True)


def run_and_stop(tab, panel):
    button(panel, "Step").click()
    if panel.locator(".pk-sketch, input[placeholder='your guess']").count():
        panel.get_by_text("First commit your prediction").wait_for()
        predict(tab, panel)
        button(panel, "Step").click()
    panel.get_by_text("paused").wait_for(timeout=MINUTE)
    panel.evaluate(GO_ON_AND_STOP)
    panel.get_by_text("stopped").wait_for(timeout=MINUTE)
    button(panel, "Reset").click()
    panel.locator("table td").first.wait_for(state="detached")
    button(panel, "Run").click()
    panel.get_by_text("done", exact=True).wait_for(timeout=2 * MINUTE)
    panel.get_by_text("you said").wait_for()


def replay(tab):
    for view in tab.locator(".pk-replay").all():
        words = view.locator(".pk-words")
        changes(tab, words, view.get_by_role("button", name="one step on").click)
        changes(tab, words, view.get_by_role("button", name="Play").click)


def raise_lines_and_pile_filters(tab):
    for view in tab.locator(".pk-thresholds").all():
        words, slider = view.locator(".pk-words").nth(1), view.locator("input[type=range]")
        changes(tab, words, partial(slider.press, "ArrowRight"))
        view.locator("input[type=checkbox]").uncheck()
        changes(tab, words, view.get_by_role("button", name="Step").click)
        if slider.is_visible():
            slider.press("End")
            view.get_by_text("more than 2 points lost").wait_for(timeout=MINUTE)
    for view in tab.locator(".pk-piles").all():
        press = view.locator("input[type=range]").press
        changes(tab, view.locator(".pk-words"), partial(press, "ArrowLeft"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_run_and_played_with(path, opened):
    tab, _ = opened
    title = json.loads(path.read_text(encoding="utf-8"))["metadata"]["prunekit"]["title"]
    tab.locator(".jp-LauncherCard", has_text=title).click()
    tab.wait_for_selector(".jp-Notebook .jp-Cell >> visible=true", timeout=MINUTE)
    tab.wait_for_function("() => jupyterapp.shell.currentWidget.sessionContext?.session?.kernel")
    run_all(tab)
    assert tab.locator(WRONG).all_inner_texts() == []
    for picture in tab.locator(".jp-Notebook img").all():
        assert picture.evaluate("shown => shown.naturalWidth") > 0
    assert tab.locator(".pk-panel").count() > 0
    move_every_instant_view(tab)
    for panel in tab.locator(".pk-panel").all():
        run_and_stop(tab, panel)
    replay(tab)
    raise_lines_and_pile_filters(tab)
    assert tab.locator(WRONG).all_inner_texts() == []
    if SHOTS:
        seen(tab, path.stem, Path(SHOTS))
    for width in (1000, 1600):
        fits(tab, width)
    tab.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    for panel in tab.locator(".pk-panel").all():
        panel.get_by_text("No answer from the kernel").wait_for(timeout=MINUTE)
    places = tab.locator(".prunekit-view").count()
    assert places >= tab.locator(".pk-panel, .pk-instant").count() > 0
    tab.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
    tab.reload()  # the kernel that answers now knows no widget
    tab.locator(".prunekit-view[data-shows]").nth(places - 1).wait_for(timeout=MINUTE)
    assert tab.locator(".prunekit-view[data-shows=widget]").count() == 0
    assert "Error displaying widget" not in tab.locator(".jp-Notebook").inner_text()
