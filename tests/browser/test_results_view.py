"""Looking into recorded cells: what is drawn, what is selected, what is said of it."""

import pytest
from conftest import both_themes, drawn_alone

from prunekit.widgets import Results


@pytest.fixture
def show(tab, tmp_path):
    def opened(view, **changed):
        return drawn_alone(tab, tmp_path, view, view.lasting() | changed)

    return opened


@pytest.fixture
def evolved(show):
    """Two arms, and what is told of them."""
    view = Results("de-lenet300", shown=["evolution", "random search"])
    return show(view), view.results


def said(tab):
    return tab.locator("[role=status]").inner_text()


def measured(results, cell, *names):
    known = {m["name"]: (i, m) for i, m in enumerate(results["measures"])}
    parts = []
    for name in names:
        number, measure = known[name]
        text = f"{name} {cell['values'][number]:.{measure['digits']}f} {measure['unit']}"
        parts.append(text.strip())
    arm = results["arms"][cell["arm"]]["name"]
    return f"{arm}, network {cell['network']}, seed {cell['seed']}: {', '.join(parts)}"


def chosen(results):
    names = ("evolution", "random search")
    return [c for c in results["cells"] if results["arms"][c["arm"]]["name"] in names]


def test_the_arrow_keys_lead_through_all_cells_from_left_to_right(evolved):
    tab, results = evolved
    by_size = sorted(chosen(results), key=lambda cell: cell["values"][0])
    tab.locator(".pk-scatter").focus()
    for _ in by_size:
        tab.keyboard.press("ArrowLeft")
    for cell in by_size:
        assert said(tab) == measured(results, cell, "size", "test error")
        assert tab.locator(".pk-results code").inner_text() == cell["command"]
        tab.keyboard.press("ArrowRight")


def test_pointing_selects_the_mark_and_tells_each_number_with_its_spread(evolved):
    tab, results = evolved
    cell = max(chosen(results), key=lambda cell: cell["values"][0])  # the one at the right
    box = tab.locator(".pk-scatter").bounding_box()
    for x in range(10, 60, 4):  # the row of a mark is not known: look along some columns
        for y in range(5, 290, 12):
            tab.mouse.move(box["x"] + box["width"] - x, box["y"] + y)
            if said(tab) == measured(results, cell, "size", "test error"):
                break
    assert said(tab) == measured(results, cell, "size", "test error")
    arm = results["arms"][cell["arm"]]
    rows = tab.locator(".pk-results tr").all_inner_texts()
    assert rows[0].split("\t")[2] == f"mean of {arm['networks']} networks"
    figures = cell["values"][0], arm["means"][0], arm["spreads"][0], arm["seeds"][0]
    assert rows[0].endswith("over the seeds of one")
    size = [f"{figure:.1f}" for figure in figures]
    assert rows[1].split("\t") == ["size, ×", *size]
    minutes = next(row for row in rows if row.startswith("minutes"))
    assert ("≥" in minutes.split("\t")[1]) == (not cell["timed"])


def test_arms_and_measures_are_chosen_and_told_to_the_model(evolved):
    tab, results = evolved
    tab.get_by_label("measure across").select_option("minutes")
    tab.get_by_label("measure up").select_option("size")
    assert "minutes" in said(tab)
    assert tab.evaluate("[values.x, values.y]") == ["minutes", "size"]
    tab.get_by_label("random search").uncheck()
    assert tab.evaluate("values.shown") == ["evolution"]
    label = tab.locator(".pk-scatter").get_attribute("aria-label")
    evolution = [c for c in results["cells"] if c["arm"] == 0]
    assert label.startswith(f"size, × over minutes; {len(evolution)} of {len(results['cells'])} ")
    tab.get_by_role("button", name="none").click()
    assert said(tab).startswith("No run is shown")
    assert tab.evaluate("values.shown") == []
    tab.get_by_role("button", name="all arms").click()
    assert len(tab.evaluate("values.shown")) == len(results["arms"])


@both_themes
def test_the_marks_have_the_colours_of_their_arms(evolved):
    tab, results = evolved
    script = """() => { const c = document.querySelector('.pk-scatter');
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data, found = {};
        for (let i = 0; i < d.length; i += 4) if (d[i + 3] > 250) {
            const hex = '#' + [...d.slice(i, i + 3)].map(v => v.toString(16).padStart(2, 0)).join('');
            found[hex] = (found[hex] ?? 0) + 1; }
        return found; }"""
    found = tab.evaluate(script)
    for arm in results["arms"]:
        drawn = arm["name"] in ("evolution", "random search")
        others = [
            a["colour"] for a in results["arms"] if a["name"] in ("evolution", "random search")
        ]
        if drawn or arm["colour"] not in others:
            assert (found.get(arm["colour"], 0) > 40) == drawn


def test_a_damaged_cell_is_named_as_text_and_the_rest_is_alive(show, evil):
    view = Results("de-lenet300")
    tab = show(view, results=view.results | {"damaged": [evil], "title": evil})
    assert tab.locator(".pk-damaged").inner_text() == evil
    assert tab.locator("img").count() == 0
    assert "size" in said(tab)


def test_nothing_is_left_when_it_ends(evolved):
    tab, _ = evolved
    tab.evaluate("end()")
    tab.set_viewport_size({"width": 700, "height": 500})
