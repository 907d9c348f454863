"""Names have one look each, for every reader and on every page."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import colormaps
from matplotlib.colors import to_hex

import prunekit
from prunekit.looks import COLOURS, CYCLE, INK, NAMES, looks

WORDS = st.sampled_from([*NAMES, "inv-4, B = 10", "inv-8, B = 10", "mine", "a", "b", "paper at 9×"])


def test_the_looks_of_the_cycle_differ_and_neighbours_differ_in_colour():
    assert len(set(CYCLE)) == len(CYCLE)
    assert all(a.colour != b.colour for a, b in itertools.pairwise(CYCLE))


@given(st.lists(WORDS | st.text(max_size=4), unique=True))
def test_the_order_changes_nothing_and_each_name_gets_a_look(names):
    found = looks(names)
    assert [*found] == names
    assert looks(names[::-1]) == found
    for name in NAMES.keys() & found.keys():
        assert found[name] == NAMES[name]


@given(st.lists(st.text(min_size=1, alphabet="abcdef"), max_size=len(CYCLE), unique=True))
def test_unknown_names_all_look_different(names):
    assert len({*looks(names).values()}) == len(names)


def test_more_names_than_looks_are_drawn_too():
    assert len(looks(str(i) for i in range(200))) == 200


def test_the_map_of_the_scripts_is_that_of_the_figures():
    told = json.loads((Path(prunekit.__file__).parent / "looks.json").read_text())["viridis"]
    ends = [i / (len(told) - 1) for i in range(len(told))]
    assert told == [to_hex(colormaps["viridis"](end)) for end in ends]


def test_unknown_names_take_colours_that_no_name_beside_them_has():
    found = looks(["magnitude", "random", "mine", "yours", "theirs"])
    assert len({look.colour for look in found.values()}) == 5


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("inv-4, B = 10", "inv"), ("inv-4, best of 5", "inv"), ("rank-1", "rank"),
        ("one-shot, fine-tuned", "one-shot"), ("magnitude without fine-tuning", "magnitude"),
        ("gradual 24×", "gradual"), ("evolution, no recovery", "evolution"), ("the paper", "paper"),
        ("paper at 56×", "paper"), ("differential evolution", "evolution"),
    ],
)  # fmt: skip
def test_a_variant_has_the_colour_of_its_name(name, base):
    assert looks([name])[name].colour == NAMES[base].colour


def test_variants_of_one_name_differ():
    names = ["inv-4, B = 1", "inv-4, B = 10", "inv-4, B = 40", "inv-4, of mine", "inv-4, of yours"]
    found = looks(names)
    assert len({*found.values()}) == len(names)
    assert len({look.colour for look in found.values()}) == 1


def test_a_random_search_is_not_a_variant_of_random():
    assert looks(["random search"])["random search"] == NAMES["random search"]
    assert looks(["|w·gradient|"])["|w·gradient|"] == NAMES["|w·gradient|"]


def contrast(one, other):
    """WCAG's, of two colours as "#rrggbb"."""
    light = []
    for colour in (one, other):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        light.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)
    return max(light) / min(light)


def test_ink_and_colours_can_be_read_on_a_light_and_on_a_dark_page():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast(INK, "#ffffff") >= 4.5
    assert contrast(INK, "#111111") >= 3.5
    for colour in COLOURS:
        assert min(contrast(colour, "#ffffff"), contrast(colour, "#111111")) >= 3


def test_what_was_not_pruned_is_ink():
    assert looks(["unpruned"])["unpruned"].colour == looks(["dense"])["dense"].colour == INK
