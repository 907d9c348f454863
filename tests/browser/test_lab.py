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
        "cells": [
            {"id": f"c{i}", "cell_type": "markdown", "metadata": {}, "source": source}
            for i, source in enumerate(["# my own words", *["more of them\n\n"] * 60])
        ],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        "nbformat": 4, "nbformat_minor": 5,
    }  # fmt: skip
    file.write_text(json.dumps(mine))
    card(tab, titles()[1]).click()
    tab.wait_for_selector(".jp-RenderedMarkdown h1:has-text('my own words')", timeout=60_000)

    def reset(answer):
        command = "jupyterapp.commands.execute('prunekit:reset', {file: '01_roulette.ipynb'})"
        tab.evaluate(f"() => {{ {command}; }}")  # not waited for: it waits for the answer
        tab.locator(f".jp-Dialog-buttonLabel:has-text('{answer}')").click()

    reset("Cancel")
    tab.locator(".jp-Dialog").wait_for(state="detached")
    assert "my own words" in file.read_text()
    notebook = "jupyterapp.shell.currentWidget.content"
    tab.evaluate(f"() => {{ {notebook}.activeCellIndex = 60; {notebook}.scrollToItem(60); }}")
    tab.wait_for_function(
        "document.querySelector('.jp-Notebook h1').getBoundingClientRect().top < 0"
    )
    reset("Reset")
    begin = tab.locator(".jp-Notebook h1:has-text('Roulette')")
    begin.wait_for(timeout=60_000)
    tab.wait_for_function("e => e.getBoundingClientRect().top > 0", arg=begin.element_handle())
    assert tab.evaluate(f"{notebook}.activeCellIndex") == 0
    assert "my own words" not in file.read_text()


def worked_in(*cells):
    """A notebook of two sections: code that was run, or not, and what it printed."""
    made = [
        {"id": f"c{i}", "cell_type": "code", "metadata": {}, "source": source,
         "execution_count": count,
         "outputs": [{"output_type": "stream", "name": "stdout", "text": said}] if said else []}
        for i, (source, count, said) in enumerate(cells)
    ]  # fmt: skip
    for place, title in ((0, "## 2. Setup"), (2, "## 8. Exercises")):
        made.insert(
            place, {"id": f"m{place}", "cell_type": "markdown", "metadata": {}, "source": title}
        )
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def test_the_panel_says_how_far_each_notebook_is_and_what_comes_next(opened):
    tab, folder = opened
    ask = [f'def f{i}():\n    return 1\n\nexercise("f{i}", f{i})' for i in (1, 2)]
    right, wrong = "right on all 3 examples\n", "not quite: no\n"
    half, done = folder / "02_differential_evolution.ipynb", folder / "03_optimal_threshold.ipynb"
    half.write_text(worked_in(("1", 1, ""), (ask[0], 2, right), (ask[1], None, wrong)))
    done.write_text(worked_in(("1", 1, ""), (ask[0], 2, right), (ask[1], 3, right)))
    tab.locator(".lm-TabBar-tab[title='Pruning course']").click()
    panel = tab.locator(".prunekit-panel")
    numbered = [f"{number}. {title}" for number, title in enumerate(titles())]
    panel.get_by_text("2 of 2 exercises right ✓").wait_for()
    panel.get_by_text(f"Next: {numbered[0]}").wait_for()  # it comes when all were read
    lines = [" ".join(line.split()) for line in panel.locator("li").all_inner_texts()]
    assert [line.split(" (")[0] for line in lines[:-1]] == numbered
    assert "■□ 1 of 2 exercises right" in lines[2]
    assert "■■ 2 of 2 exercises right ✓" in lines[3]
    assert sum("✓" in line for line in lines) == 1
    assert panel.locator("span[title='8. Exercises: not run to its end']").count() == 1
    assert panel.get_by_role("button", name=f"Replay {numbered[1]}", exact=True).count() == 1
    panel.locator("li").nth(2).get_by_text("reset").click()
    tab.locator(".jp-Dialog-buttonLabel:has-text('Cancel')").click()
    for file in (half, done):
        file.unlink()


def test_the_course_stands_first_in_the_launcher_and_each_card_has_a_drawing(opened):
    tab, _ = opened
    cards = tab.locator(".jp-LauncherCard[data-category='Pruning course']")
    own = cards.first.bounding_box()["y"]
    others = tab.locator(".jp-LauncherCard:not([data-category='Pruning course'])")
    assert all(own < other.bounding_box()["y"] for other in others.all())
    drawn = [each.locator("svg").inner_html() for each in cards.all()[: len(titles())]]
    assert len({*drawn}) == len(titles())


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
    name = f"Replay 1. {titles()[1]}"
    tab.locator(".prunekit-panel").get_by_role("button", name=name, exact=True).click()
    tab.wait_for_selector(".pk-replay canvas.pk-mask >> visible=true", timeout=2_000)
    words = tab.locator(".pk-words").first
    assert "step 1 of 59" in words.inner_text()
    tab.locator("button[aria-label='one step on']").click()
    assert "step 2 of 59" in words.inner_text()
    assert tab.evaluate("jupyterapp.shell.currentWidget.title.label") == name
    assert tab.evaluate(kernels) == before
    assert [*folder.glob("replay*")] == []
