"""A wheel that turns: what falls out, and who shares its slice."""

import pytest
import torch
from conftest import drawn_alone

from prunekit.widgets import Wheel

SIZES = torch.tensor([0.9, 0.1, 0.5, 0.3])


@pytest.fixture
def wheel(tab, tmp_path):
    tab.emulate_media(reduced_motion="reduce")  # no waiting
    view = Wheel(SIZES, {"lin": 1 - SIZES / SIZES.max(), "flat": torch.ones(4)}, seed=3)
    drawn_alone(tab, tmp_path, view, {"shown": view.shown})
    return tab, view.shown["wheels"]


def spin(tab, times=1):
    for _ in range(times):
        before = tab.locator(".pk-fallen span").count()
        tab.get_by_role("button", name="Spin").click()
        tab.wait_for_function(
            "(n) => document.querySelectorAll('.pk-fallen span').length > n", arg=before
        )


def out(tab):
    return [float(text) for text in tab.locator(".pk-fallen span").all_inner_texts()]


def slices(tab):
    return [
        float(text.split(": ")[1].split()[0]) for text in tab.locator("title").all_text_contents()
    ]


def test_what_is_picked_falls_out_and_the_others_share_its_slice(wheel):
    tab, (lin, _) = wheel
    assert sum(slices(tab)) == pytest.approx(100, abs=0.3)
    spin(tab, 2)
    first = [pytest.approx(float(SIZES[i]), abs=1e-4) for i in lin["picks"][:2]]
    assert out(tab) == first
    assert len(slices(tab)) == 1
    assert slices(tab)[0] == 100
    squares = SIZES**2
    share = 100 * float(squares[lin["picks"][:2]].sum() / squares.sum())
    said = tab.get_by_role("status").inner_text()
    gone = round(float(SIZES[lin["picks"][1]]), 4)
    assert said == f"{gone:g} fell out; 2 of 4 are out, with {share:.1f} % of the squared weights"
    spin(tab)
    assert tab.get_by_role("button", name="Spin").is_disabled()
    assert tab.get_by_role("status").inner_text().endswith("; without a slice: 1")


def test_another_wheel_and_starting_over_begin_with_all(wheel):
    tab, (_, flat) = wheel
    spin(tab)
    tab.get_by_label("wheel", exact=True).select_option("1")
    assert out(tab) == []
    assert slices(tab) == [25.0] * 4
    spin(tab)
    assert out(tab) == [pytest.approx(float(SIZES[flat["picks"][0]]), abs=1e-4)]
    tab.get_by_role("button", name="Start over").click()
    assert out(tab) == []


# Spin, and skip to the end of the turn, which must have begun: what stands under the pointer before
# it falls.
TURNED_TO_ITS_END = """() => {
  [...document.querySelectorAll("button")].find(b => b.innerText === "Spin").click();
  const [turn] = document.querySelector(".pk-turning g").getAnimations();
  turn.finish();
  const {x, y, width, height} = document.querySelector("svg").getBoundingClientRect();
  const under = document.elementFromPoint(x + width / 2, y + height * 0.3);
  return under.querySelector("title").textContent;
}"""


def test_it_turns_until_the_pointer_stands_on_the_pick(tab, tmp_path):
    view = Wheel(SIZES, {"flat": torch.ones(4)}, seed=3)
    drawn_alone(tab, tmp_path, view, {"shown": view.shown})
    title = tab.evaluate(TURNED_TO_ITS_END)
    pick = view.shown["wheels"][0]["picks"][0]
    assert title.startswith(f"|w| {view.shown['sizes'][pick]}:")
