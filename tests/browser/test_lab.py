"""The course in a real JupyterLab: launcher cards, panel, commands."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def titles():
    return [
        json.loads(path.read_text(encoding="utf-8"))["metadata"]["prunekit"]["title"]
        for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
    ]


def card(tab, title):
    return tab.locator(".jp-LauncherCard", has_text=title)


def test_every_notebook_has_a_card_and_a_click_opens_a_copy(opened):
    tab, folder = opened
    for title in titles():
        assert card(tab, title).count() == 1
    file = folder / "00_start.ipynb"
    card(tab, titles()[0]).click()
    tab.wait_for_selector(".jp-Notebook .jp-Cell >> visible=true", timeout=60_000)
    copied = json.loads(file.read_text(encoding="utf-8"))
    original = json.loads((ROOT / "notebooks/00_start.ipynb").read_text(encoding="utf-8"))
    texts = [["".join(c["source"]) for c in nb["cells"]] for nb in (copied, original)]
    assert texts[0] == texts[1]
    code = [c for c in copied["cells"] if c["cell_type"] == "code"]
    kept = [c for c in code if "keep" in c["metadata"].get("tags", ())]
    assert all(c["outputs"] for c in kept)  # the first thing to see is a picture
    assert all(c["outputs"] == [] for c in code if c not in kept)
    assert all(c["execution_count"] is None for c in code)
    for page in (ROOT / "notebooks/results").glob("*.md"):  # to which the notebooks link
        copy = folder / "results" / page.name
        assert copy.read_bytes() == page.read_bytes()


def test_an_existing_copy_is_opened_as_it_is_and_reset_only_when_confirmed(opened):
    tab, folder = opened
    file = folder / "01_roulette.ipynb"
    mine = {
        "cells": [{"id": "a", "cell_type": "markdown", "metadata": {}, "source": "my own words"}],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        "nbformat": 4, "nbformat_minor": 5,
    }  # fmt: skip
    file.write_text(json.dumps(mine))
    card(tab, titles()[1]).click()
    tab.wait_for_selector(".jp-RenderedMarkdown:has-text('my own words')", timeout=60_000)

    def reset(answer):
        command = "jupyterapp.commands.execute('prunekit:reset', {file: '01_roulette.ipynb'})"
        tab.evaluate(f"() => {{ {command}; }}")  # not waited for: it waits for the answer
        tab.locator(f".jp-Dialog-buttonLabel:has-text('{answer}')").click()

    reset("Cancel")
    tab.locator(".jp-Dialog").wait_for(state="detached")
    assert "my own words" in file.read_text()
    reset("Reset")
    tab.wait_for_selector(".jp-Notebook h1:has-text('Roulette')", timeout=60_000)
    assert "my own words" not in file.read_text()


def test_the_panel_lists_the_course_and_what_was_run_to_its_end(opened):
    tab, folder = opened
    cell = {"id": "a", "cell_type": "code", "metadata": {}, "outputs": [], "source": "1",
            "execution_count": 3}  # fmt: skip
    file = folder / "02_differential_evolution.ipynb"
    file.write_text(
        json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    )
    tab.locator(".lm-TabBar-tab[title='Pruning course']").click()
    panel = tab.locator(".prunekit-panel")
    panel.locator("span[title='run to its end']").wait_for()
    lines = panel.locator("li").all_inner_texts()
    assert [line.split(" (")[0] for line in lines[:-1]] == titles()
    ticked = [line.split(" (")[0] for line in lines if line.endswith("✓")]
    assert ticked == [titles()[2]]
    assert panel.locator("button", has_text="Replay roulette").count() == 1
    file.unlink()


def test_a_notebook_called_like_a_tag_does_nothing(opened, evil):
    tab, _ = opened
    tab.locator(".lm-TabBar-tab[title='Pruning course']").click()
    tab.locator(".prunekit-panel li").last.wait_for()
    assert evil in tab.locator(".prunekit-panel li").last.inner_text()
    assert tab.locator("img[src=x]").count() == 0
    assert "hacked" not in tab.title()


def test_a_recorded_run_is_replayed_from_the_panel(opened):
    tab, folder = opened
    tab.locator(".lm-TabBar-tab[title='Pruning course']").click()
    kernels = "[...jupyterapp.serviceManager.kernels.running()].length"
    before = tab.evaluate(kernels)
    tab.locator(".prunekit-panel button", has_text="Replay roulette").click()
    tab.wait_for_selector(".pk-replay canvas.pk-mask >> visible=true", timeout=2_000)
    words = tab.locator(".pk-words").first
    assert "step 1 of 59" in words.inner_text()
    tab.locator("button[aria-label='one step on']").click()
    assert "step 2 of 59" in words.inner_text()
    assert tab.evaluate("jupyterapp.shell.currentWidget.title.label") == "Replay roulette"
    assert tab.evaluate(kernels) == before
    assert [*folder.glob("replay*")] == []
