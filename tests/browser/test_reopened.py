"""A notebook that was saved and is opened again when its kernel is gone: every widget's place."""

import json

VIEWS = {
    "Replay": ("from prunekit.widgets import Replay\nReplay('roulette')",
               ".pk-replay", "button[aria-label='one step on']"),
}  # fmt: skip


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


def test_a_view_lives_on_without_its_kernel(lab, window):
    address, folder = lab
    (folder / "r.ipynb").write_text(json.dumps(notebook([s for s, *_ in VIEWS.values()])))
    opened_there(window, address, "r.ipynb")
    run_all(window)
    window.wait_for_selector("[data-shows=widget] .pk-replay")
    save(window)
    shut_down(window)
    window.goto("about:blank")
    opened_there(window, address, "r.ipynb")
    for place, button in [rest for _, *rest in VIEWS.values()]:
        view = window.locator(f".prunekit-view {place}")
        before = view.locator(".pk-words").inner_text()
        view.locator(button).click()
        assert view.locator(".pk-words").inner_text() != before
    assert window.locator("[data-shows=widget]").count() == 0
    assert "Error displaying widget" not in window.locator(".jp-Notebook").inner_text()
