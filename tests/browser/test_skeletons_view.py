"""Stripes as bars under two kinds of lines: what is seen."""

import pytest
import torch
from conftest import drawn_alone

from prunekit import stripes
from prunekit.widgets import Skeletons

GENERATOR = torch.Generator().manual_seed(0)
STRENGTHS = torch.tensor([1.0, 0.1, 0.5, 0.7, 0.4]).reshape(-1, 1, 1)  # of the filters


def sizes(scale):
    return scale * STRENGTHS * torch.rand(5, 3, 3, generator=GENERATOR)


RUNS = {
    name: [torch.ones(5, 3, 3), *(sizes(scale) for _ in range(3))]
    for name, scale in (("weak", 0.3), ("strong", 0.1))
}


@pytest.fixture
def view(tab, tmp_path):
    shown = Skeletons("conv", RUNS, 0.05)
    drawn_alone(tab, tmp_path, shown, {"shown": shown.shown})
    return tab, shown.shown


def said(tab):
    return [words.inner_text() for words in tab.get_by_role("status").all()]


def left(found, lines):
    keep = found > lines.reshape(-1, 1)
    return f"{int(keep.sum())} of 45 stripes left, in {int(keep.any(1).sum())} of 5 filters"


def test_it_counts_as_the_package_does(view):
    tab, shown = view
    for run in (0, 1):
        tab.get_by_label("strength").select_option(str(run))
        for press, epoch in (("End", 3), ("ArrowLeft", 2), ("Home", 0)):
            tab.get_by_label("epoch", exact=True).press(press)
            found = torch.tensor(shown["runs"][run][epoch])
            one, own = said(tab)
            for words, kind in ((one, "fixed"), (own, "dtc")):
                assert words.endswith(left(found, stripes.thresholds(found, 0.05, kind)))
            for svg, words in zip(tab.locator("svg").all(), (one, own), strict=True):
                assert svg.locator("rect").count() == 45
                assert svg.locator("rect.pk-kept").count() == int(words.split(": ")[1].split()[0])


def test_both_can_leave_as_many_stripes(view):
    tab, _ = view
    tab.locator("input[type=checkbox]").check()
    for press in ("Home", "PageUp", "PageUp", "End"):
        tab.get_by_label("threshold").press(press)
        one, own = said(tab)
        assert one.split(": ")[1].split(",")[0] == own.split(": ")[1].split(",")[0]


def test_weak_filters_go_as_a_whole_and_their_lines_are_too_high_to_be_drawn(view):
    tab, shown = view
    tab.get_by_label("epoch", exact=True).press("End")
    tab.get_by_label("threshold").press("End")
    found = torch.tensor(shown["runs"][0][3])
    lines = stripes.thresholds(found, 0.15, "dtc")
    own = tab.locator("svg").last
    assert own.locator(".pk-over").count() == int((lines > 1.05 * found.max()).sum())
    assert own.locator(".pk-gone").count() == int((~(found > lines[:, None]).any(1)).sum())
    assert "filter 1: gone" in own.text_content()
