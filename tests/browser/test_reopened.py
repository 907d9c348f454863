"""A notebook that was saved and is opened again when its kernel is gone: every widget's place."""

import json

import pytest
from conftest import breaches, watched

from prunekit.widgets import LineageView
from prunekit.widgets.output import MIME

WIDGET = "application/vnd.jupyter.widget-view+json"

START = """
import torch
from prunekit import datasets, experiments, magnitude, models
from prunekit.widgets import FilterView, GeneMap, Guess, Instant, LineageView, MaskView
from prunekit.widgets import Panel, Playground, Replay, Results, Sketch, Wheel, views
from prunekit.methods.cdp_dtc import cdp_dtc
from prunekit.methods.filter_clustering import filter_clustering
from prunekit.methods.optimal_threshold import optimal_threshold
five = models.pretrained("lenet_5")
net, places = models.pretrained("lenet_300_100"), [0.2, 0.4, 0.6]
digits = datasets.mnist_small().fewer(train=1_000, validation=500, test=500)
kept, allowed = 20 + 10 * torch.rand(3, 3), torch.rand(3, 3) > 0.3
steps = experiments.showcase("roulette")[:5]
def sketch():
    return Sketch("How does it fall?", lambda report: [], ("sparsity", 0, 1), ("accuracy", 0, 1))
"""
# What lives on without a kernel: its place, its picture if that changes, and where a click or a key
# changes it.
ALIVE = {
    "Replay('roulette')": (".pk-replay", ".pk-mask", "button[aria-label='one step on']"),
    "Results('de-lenet300')": (".pk-results", ".pk-scatter", ".pk-scatter", "ArrowRight"),
    "LineageView('de-lenet300')": (".pk-lineage", ".pk-tree", ".pk-tree", "ArrowLeft"),
    "MaskView(net, data=digits, stored=True)": (".pk-maskview", ".pk-weights", ".pk-weights"),
    "FilterView(five, stored=True)": (".pk-filterview", "", ".pk-filter >> nth=3"),
    "views.of(optimal_threshold, net, digits.fewer(validation=200), stored=True)": (
        ".pk-thresholds", "", "input[type=range]", "End",
    ),
    "views.of(filter_clustering, five, digits.fewer(validation=100), stored=True)": (
        ".pk-piles", "", "input[type=range]", "ArrowLeft",
    ),
    "Playground(net, digits, stored=True)": (
        ".pk-playground", ".pk-net", "input[aria-label='weights removed']", "End",
    ),
    "Wheel(torch.arange(1, 5.0), {'flat': torch.ones(4)}, stored=True)": (
        ".pk-wheel", "", "button >> nth=0",
    ),
    "views.of(cdp_dtc, five, digits.fewer(train=200), epochs=1, stored=True)": (
        ".pk-skeletons", "", "input[aria-label=threshold]", "End",
    ),
    "GeneMap(places, places, kept, allowed, x='one', y='two', stored=True)": (
        ".pk-genemap", ".pk-map", ".pk-dots", "ArrowRight",
    ),
}  # fmt: skip
# What leaves a picture: what is to be read in it, and whether there is an image.
STILL = {
    "Replay(steps)": ("", True),
    "LineageView(steps)": ("", True),
    "MaskView(net)": ("", True),
    "FilterView(five)": ("", True),
    "GeneMap(places, places, kept, allowed, x='one', y='two')": ("", True),
    "views.of(magnitude, net, digits)": ("of 266,200 weights kept", True),
    "Panel(magnitude, net, digits, guess=sketch())": ("How does it fall?", True),
    "sketch()": ("How does it fall?", True),
    "Guess('How much?', lambda report: 1.0)": ("How much?", False),
}
LINE = "Run the notebook from the top to make it live."


def notebook(sources):
    cells = [
        {"id": f"c{i}", "cell_type": "code", "metadata": {}, "outputs": [], "source": source,
         "execution_count": None}
        for i, source in enumerate(sources)
    ]  # fmt: skip
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def opened_there(tab, address, file):
    tab.goto(f"{address}/lab/tree/{file}?reset")
    tab.wait_for_selector(".jp-Notebook .jp-Cell >> visible=true", timeout=60_000)


def shut_down(tab):
    tab.evaluate("() => jupyterapp.serviceManager.sessions.shutdownAll()")


def run_all(tab):
    tab.wait_for_function("() => jupyterapp.shell.currentWidget.sessionContext?.session?.kernel")
    tab.evaluate("() => jupyterapp.commands.execute('notebook:run-all-cells')")


def save(tab):
    tab.evaluate("() => jupyterapp.commands.execute('docmanager:save')")


def pixels(canvas):
    return canvas.evaluate("canvas => canvas.toDataURL()")


@pytest.fixture(scope="module")
def saved(lab, browser):
    """The address of a notebook with each widget, run and saved, whose kernel is gone; and what
    keeps people from its live widgets."""
    address, folder = lab
    (folder / "r.ipynb").write_text(json.dumps(notebook([START, *ALIVE, *STILL])))
    tab = browser.new_page()  # JupyterLab itself complains when a kernel goes
    opened_there(tab, address, "r.ipynb")
    run_all(tab)
    outputs = tab.locator(".prunekit-view")
    outputs.nth(len(ALIVE) + len(STILL) - 1).wait_for(timeout=60_000)
    tab.wait_for_timeout(1000)
    for place in range(outputs.count()):
        assert outputs.nth(place).get_attribute("data-shows") == "widget"
    change = "theme => jupyterapp.commands.execute('apputils:change-theme', { theme })"
    tab.evaluate(change, "JupyterLab Dark")  # once reopened they are looked at in the light one
    tab.wait_for_selector("body[data-jp-theme-light='false']", state="attached")
    found = breaches(tab, ".prunekit-view")
    tab.evaluate(change, "JupyterLab Light")
    save(tab)
    tab.reload()  # a page that comes back to a living kernel
    again = tab.locator("[data-shows=widget]").nth(len(ALIVE) + len(STILL) - 1)
    again.wait_for(timeout=60_000)
    shut_down(tab)
    tab.close()
    return f"{address}/lab/tree/r.ipynb?reset", found


@pytest.fixture(scope="module")
def reopened(saved, browser):
    with watched(browser, viewport={"width": 1300, "height": 1000}) as tab:
        tab.goto(saved[0])
        tab.locator(".prunekit-view[data-shows]").nth(len(ALIVE) + len(STILL) - 1).wait_for()
        yield tab
        assert "Error displaying widget" not in tab.locator(".jp-Notebook").inner_text()


def test_nothing_keeps_people_from_a_widget(saved, reopened):
    assert saved[1] == []
    assert breaches(reopened, ".prunekit-view") == []


@pytest.mark.parametrize("source", ALIVE)
def test_what_carries_its_data_is_alive(reopened, source):
    place, changed, where, *keys = ALIVE[source]
    view = reopened.locator(f".prunekit-view[data-shows=view] {place}")
    view.scroll_into_view_if_needed()
    canvas = view.locator(changed) if changed else None
    before = canvas and pixels(canvas), view.locator(".pk-words").first.inner_text()
    if place == ".pk-maskview":
        view.locator("button", has_text="Prune").click()
    for key in keys:
        view.locator(where).press(key)
    if not keys:
        view.locator(where).click()
    assert canvas is None or pixels(canvas) != before[0]
    assert view.locator(".pk-words").first.inner_text() != before[1]


def test_arms_are_chosen_without_a_kernel(reopened):
    view = reopened.locator(".prunekit-view[data-shows=view] .pk-results")
    view.scroll_into_view_if_needed()
    box = view.locator("input[type=checkbox]").first
    for on in (not box.is_checked(), box.is_checked()):
        before = pixels(view.locator(".pk-scatter"))
        box.click()
        assert box.is_checked() == on
        assert pixels(view.locator(".pk-scatter")) != before
    view.get_by_role("button", name="none").click()
    assert view.locator("input:checked").count() == 0
    view.get_by_role("button", name="all arms").click()
    assert view.locator("input:checked").count() == view.locator("input[type=checkbox]").count()


@pytest.mark.parametrize("source", STILL)
def test_what_does_not_leaves_its_picture_and_a_line(reopened, source):
    words, image = STILL[source]
    place = reopened.locator(".prunekit-view").nth(len(ALIVE) + [*STILL].index(source))
    assert place.get_attribute("data-shows") == "picture"
    text = place.inner_text()
    assert text.rstrip().endswith(LINE)
    assert words in text
    if image:
        assert place.locator("img").first.evaluate("i => i.complete && i.naturalWidth > 100")


def bundle(widget):
    """What a widget leaves in a notebook, as it is written there."""
    data, _ = widget._repr_mimebundle_()
    return {kind: value for kind, value in data.items() if kind != WIDGET}


def damaged(change):
    data = json.loads(json.dumps(bundle(LineageView("roulette"))))
    change(data[MIME])
    return data


# A change of what stands in the file: what is said of it.
HURT = {
    "other format": (lambda shown: shown.update(format=2), "another version of prunekit"),
    "other view": (lambda shown: shown.update(view="../x"), "are damaged"),
    "no data": (lambda shown: shown.update(data={}), "are damaged"),
    "cut data": (lambda shown: shown["data"]["family"].pop("entries"), "are damaged"),
}


@pytest.fixture(scope="module")
def written(lab, browser):
    """A page with outputs that nobody here has run: whole, and damaged."""
    address, folder = lab
    outputs = [bundle(LineageView("roulette")), *(damaged(change) for change, _ in HURT.values())]
    made = notebook([""] * len(outputs))
    for cell, data in zip(made["cells"], outputs, strict=True):
        cell["outputs"] = [{"output_type": "display_data", "metadata": {}, "data": data}]
    (folder / "w.ipynb").write_text(json.dumps(made))
    with watched(browser) as tab:
        opened_there(tab, address, "w.ipynb")
        tab.locator(".prunekit-view[data-shows]").nth(len(HURT)).wait_for()
        yield tab


def test_an_output_that_is_not_trusted_is_alive_with_its_data(written):
    place = written.locator(".prunekit-view").first
    assert place.get_attribute("data-shows") == "view"
    before = pixels(place.locator(".pk-tree"))
    place.locator(".pk-tree").press("ArrowLeft")
    assert pixels(place.locator(".pk-tree")) != before


@pytest.mark.parametrize("name", HURT)
def test_a_damaged_output_says_so_and_shows_its_picture(written, name):
    place = written.locator(".prunekit-view").nth(1 + [*HURT].index(name))
    assert place.get_attribute("data-shows") == "picture"
    assert HURT[name][1] in place.inner_text()
    assert place.locator("img").evaluate("i => i.complete && i.naturalWidth > 100")
    assert place.locator(".pk-view").count() == 0
