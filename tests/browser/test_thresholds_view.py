"""Lines that are dragged over bars, and filters that slide into piles: what is seen and asked."""

import pytest
from conftest import drawn_alone

from prunekit.widgets import Piles, Thresholds
from prunekit.widgets.thresholds import shown_of

WORTH = {"first.weight": [0.1, 0.4, 0.9], "second.weight": [0.2, 0.3, 0.5, 1.0]}
VALUES = [0.98, 0.97, 0.5]
SHARED = [dict(line=0.25, value=0.97, macs=0.6), dict(line=0.45, value=0.5, macs=0.3)]
PATH = [
    (0.98, dict(layer="second.weight", macs=0.8,
                thresholds={"first.weight": 0.1, "second.weight": 0.3})),
    (0.965, dict(layer="first.weight", macs=0.5,
                 thresholds={"first.weight": 0.4, "second.weight": 0.3})),
]  # fmt: skip
ALONE = [[0.98] * 5, [0.98, 0.9, 0.8, 0.7, 0.6]]


@pytest.fixture
def show(tab, tmp_path):
    def opened(free=True, alone=ALONE):
        shown = shown_of("Lines", "accuracy", 1_000, 0.98, 0.02, WORTH, SHARED, PATH, alone)
        view = Thresholds(shown, (lambda lines: (0.9, 0.4)) if free else None)
        listen = """window.sent = [];
          model.send = (content) => window.sent.push(content);
          model.on = (_, heard) => (window.heard = heard);
          el.replaceChildren();
          render({ model, el });"""
        return drawn_alone(tab, tmp_path, view, {"shown": view.shown, "moved": {}}, listen)

    return opened


def words(tab):
    return tab.locator(".pk-thresholds").inner_text()


def drag(tab, column, line):
    """To a line, from below, in the column of a layer."""
    box = tab.locator("svg").bounding_box()
    unit = box["width"] / (46 + 2 * 130)
    x, top = box["x"] + (46 + 130 * column + 55) * unit, box["y"]
    tab.mouse.move(x, top + 157 * unit)
    tab.mouse.down()
    tab.mouse.move(x, top + (8 + 150 * (1 - line)) * unit, steps=3)
    tab.mouse.up()


def kept(tab):
    return [g.locator(".pk-kept").count() for g in tab.locator("svg g").all()]


def test_one_line_rises_over_all_layers_until_too_much_is_lost(show):
    tab = show()
    assert kept(tab) == [3, 4]
    drag(tab, 0, 0.3)
    assert kept(tab) == [2, 3]
    assert "validation accuracy 0.970 ± 0.005" in words(tab)
    assert "multiply-adds saved 40 %; nodes left: first 2 of 3, second 3 of 4" in words(tab)
    assert "one line 40 %, lines of their own 0 %" in words(tab)
    assert tab.locator(".pk-lost, .pk-fragile").count() == 0
    tab.locator("input[type=range]").press("ArrowRight")
    assert kept(tab) == [1, 2]
    assert "more than 2 points lost; alone, the line of second costs most" in words(tab)
    assert tab.locator(".pk-lost").count() == 1
    assert tab.locator(".pk-fragile text").text_content() == "second"
    assert "one line 40 %" in words(tab)


def test_steps_raise_the_line_that_the_search_raised(show):
    tab = show()
    tab.locator("input[type=checkbox]").uncheck()
    step = tab.get_by_role("button", name="Step")
    step.click()
    assert kept(tab) == [3, 3]
    assert "raise 1: second" in words(tab)
    step.click()
    assert kept(tab) == [2, 3]
    assert "raise 2: first, and no other is left within 2 points" in words(tab)
    assert step.is_disabled()
    assert "one line 0 %, lines of their own 50 %" in words(tab)
    tab.get_by_role("button", name="one raise back").click()
    assert kept(tab) == [3, 3]
    tab.locator("input[type=checkbox]").check()
    assert kept(tab) == [3, 4]


def test_a_line_of_its_own_is_asked_of_the_kernel(show):
    tab = show()
    tab.locator("input[type=checkbox]").uncheck()
    drag(tab, 1, 0.4)
    assert kept(tab) == [3, 2]
    assert tab.evaluate("window.sent.at(-1)") == {"lines": [0, 0.4]}
    assert "lines of their own 0 %" in words(tab)
    for lines, value in (([0, 0.3], 0.1), ([0, 0.4], 0.9)):  # an older answer is none
        moved = {"lines": lines, "value": value, "macs": 0.4}
        tab.evaluate("(moved) => { values.moved = moved; heard(); }", moved)
    assert "validation accuracy 0.900 ± 0.009: more than 2 points lost" in words(tab)
    sent = tab.evaluate("window.sent.length")
    drag(
        tab, 1, 0.4
    )  # asks nothing new: passes over other lines, and ends on the one that is known
    assert "validation accuracy 0.900" in words(tab)
    assert tab.evaluate("window.sent.length") > sent
    tab.get_by_role("button", name="Step").click()
    assert "back on the search's own way; raise 1: second" in words(tab)
    drag(tab, 1, 0.4)
    tab.locator("select").select_option("first")
    tab.locator("input[type=range]").press("End")
    assert tab.evaluate("window.sent.at(-1)") == {"lines": [1, 0.4]}
    assert kept(tab) == [1, 2]


def test_a_recorded_search_has_no_free_lines_and_says_where_it_ended(show):
    tab = show(free=False, alone=())
    drag(tab, 0, 0.9)
    assert "the next step would lose more than 2 points" in words(tab)
    assert tab.locator(".pk-lost").count() == 1
    assert tab.locator(".pk-fragile").count() == 0
    tab.locator("input[type=checkbox]").uncheck()
    assert tab.locator("input[type=range]").is_hidden()
    drag(tab, 1, 0.4)
    assert kept(tab) == [3, 4]
    assert tab.evaluate("window.sent") == []


def test_filters_slide_into_piles(tab, tmp_path):
    import torch

    means = torch.linspace(-1, 1, 36).reshape(4, 3, 3)
    found = {
        name: {
            "labels": [[0] * 4, [0, 1, 0, last], [0, 1, 2, 3]],
            "stay": {"near": [[1], [1, 2], [0, 1, 2, 3]], "large": [[3], [0, 1], [0, 1, 2, 3]]},
        }
        for name, last in (("raw", 0), ("codes", 1))
    }
    view = Piles("conv", means, [1, 2, 4], found)
    drawn_alone(tab, tmp_path, view, {"shown": view.shown})

    def places():
        tab.wait_for_timeout(700)
        table = tab.locator(".pk-table").bounding_box()
        boxes = [c.bounding_box() for c in tab.locator("canvas").all()]
        found = [((b["x"] - table["x"]) / 44, (b["y"] - table["y"]) / 44) for b in boxes]
        return [(round(x), round(y)) for x, y in found]

    assert places() == [(0, 1), (1, 0), (0, 0), (0, 2)]
    assert tab.get_by_role("status").inner_text() == "2 of 4 filters stay; clusters of 3, 1"
    tab.get_by_label("who stays").select_option("large")
    assert places() == [(0, 0), (1, 0), (0, 1), (0, 2)]
    tab.get_by_label("what is clustered").select_option("codes")
    assert places() == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert tab.get_by_label("filter 3, cluster 2, goes").count() == 1
    tab.get_by_label("clusters", exact=True).press("End")
    assert places() == [(0, 0), (1, 0), (2, 0), (3, 0)]
