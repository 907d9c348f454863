"""Looking into a lineage: what is selected, what is drawn of it and what is said."""

import pytest
import torch
from conftest import both_themes, drawn_alone
from matplotlib.colors import to_rgb

from prunekit import Mask, Step, experiments
from prunekit.looks import BLUE, ORANGE
from prunekit.steps import Tried
from prunekit.widgets import LineageView

pytestmark = both_themes

MASK = Mask({"w": torch.ones(2, 3, dtype=torch.bool)})
PLACES = """
window.places = (round) => {  // of every dot, in pixels of the canvas
  const { clientWidth, clientHeight } = document.querySelector("canvas");
  const group = generations(values.family, round);
  const context = document.createElement("canvas").getContext("2d");
  const { spot } = familyAxes(context, clientWidth, clientHeight, values.family, group, colours(el));
  return group.map((entry, place) => entry.values.map((_, who) => spot(place, who)));
};"""
SELECTED, CHOSEN = ([round(255 * part) for part in to_rgb(one)] for one in (ORANGE, BLUE))


def population(allowed=None):
    """Two rounds of 12 generations of 6 candidates; a third of them is replaced each time."""
    generator, steps = torch.Generator().manual_seed(5), []
    for round_ in (1, 2):
        kept, vectors, results = [0] * 6, [[0.0, 0.0]] * 6, [0] * 6
        for index in range(1, 13):
            draw = torch.rand(6, 4, generator=generator).tolist()
            replaced = [i for i in range(6) if index == 1 or draw[i][0] < 1 / 3]
            kept, vectors, results = [*kept], [*vectors], [*results]
            for i in replaced:
                kept[i] = 1500 * (7 - i) - 100 * index + int(40 * draw[i][1])
                vectors[i], results[i] = draw[i][2:], int(20 * draw[i][3])
            best = kept.index(min(kept))
            tried = Tried(results, best, kept, vectors, replaced, allowed)
            info, figures = {"round": round_}, {"accuracy": 0.9}
            steps.append(Step("search", index, 12, MASK, figures, info, tried))
    return steps


@pytest.fixture
def show(tab, tmp_path):
    def opened(source):
        view = LineageView(source)
        return drawn_alone(
            tab, tmp_path, view, {"family": view.family, "title": view.title}, PLACES
        )

    return opened


def said(tab):
    return tab.locator("[role=status]").inner_text()


def press(tab, *keys):
    tab.locator("canvas").focus()
    for key in keys:
        tab.keyboard.press(key)
    return said(tab)


def pixels(tab, place, around=0):
    """Red, green, blue and alpha of the pixels at and around a place of the canvas."""
    script = "(p) => [...document.querySelector('canvas').getContext('2d').getImageData(...p).data]"
    side = 2 * around + 1
    found = tab.evaluate(script, [int(place[0]) - around, int(place[1]) - around, side, side])
    return [found[i : i + 4] for i in range(0, len(found), 4)]


def pixel(tab, place):
    """The colour at a place, None where it is not opaque."""
    ((*colour, alpha),) = pixels(tab, place)
    return colour if alpha > 200 else None


def line(tab, place):
    """Whether a line goes through a place."""
    return max(alpha for *_, alpha in pixels(tab, place, 1)) > 20


def close(colour, wanted):
    return colour is not None and max(abs(a - b) for a, b in zip(colour, wanted, strict=True)) < 30


def inks(tab):
    """The greys that are drawn without being seen through: text and the ring."""
    return tab.evaluate("""() => {
        const canvas = document.querySelector("canvas");
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        const found = new Set();
        for (let i = 0; i < data.length; i += 4) {
            const [r, g, b, a] = data.subarray(i, i + 4);
            if (a === 255 && r === g && g === b) found.add(r);
        }
        return [...found];
    }""")


def theme(tab):
    return "dark" if tab.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") else "light"


def history(steps, place, who):
    """The last clause that is told of a candidate, found by looking at its place only."""
    values = [step.tried.vectors[who] for step in steps[: place + 1]]
    since = place
    while since > 0 and values[since - 1] == values[place]:
        since -= 1
    if since == 0:
        return "of the first generation"
    here = "" if since == place else f"here since generation {since + 1}, "
    return f"{here}took the place of one that kept {steps[since - 1].tried.kept[who]:,}"


def test_every_candidate_is_reached_by_keys_and_told(show):
    steps = population()[:12]
    tab = show(steps)
    press(tab, "Home", *["ArrowDown"] * 6)
    for place, step in enumerate(steps):
        press(tab, *["ArrowDown"] * 6)
        for who in sorted(range(6), key=lambda i: step.tried.kept[i]):
            genes = ", ".join(f"{gene:.2f}" for gene in step.tried.vectors[who])
            n = step.tried.costs[who]
            best = "; the best of its generation" if who == step.tried.chosen else ""
            assert said(tab) == (
                f"round 1, generation {place + 1}, candidate {who + 1}: keeps "
                f"{step.tried.kept[who]:,} weights, {n} error{'s' * (n != 1)}, "
                f"sensitivities {genes}{best}; {history(steps, place, who)}"
            )
            press(tab, "ArrowUp")
        press(tab, "ArrowRight")


def test_pointing_selects_a_dot_and_draws_its_ancestry_and_no_more(show):
    steps = population()[:12]
    tab = show(steps)
    places, box = tab.evaluate("places(1)"), tab.locator("canvas").bounding_box()
    for place, who in ((11, 0), (5, 4), (0, 2), (8, 3)):
        x, y = places[place][who]
        tab.mouse.move(box["x"] + x, box["y"] + y)
        assert f"generation {place + 1}, candidate {who + 1}:" in said(tab)
        for at in range(12):
            orange = close(pixel(tab, places[at][who]), SELECTED)
            assert orange == (at <= place)
    tab.mouse.move(box["x"] + places[8][3][0], box["y"] + 2)  # far from all of them
    assert "generation 9, candidate 4:" in said(tab)


def test_the_chosen_way_through_the_tree(show):
    steps = experiments.showcase("roulette")
    tab = show("roulette")
    places = tab.evaluate("places(null)")
    press(tab, "Home")
    for number, step in enumerate(steps):
        chosen, children = step.tried.chosen, step.tried.costs
        text = f"level {number + 1}, child {chosen + 1} (seed 0): {children[chosen]} errors; "
        text += f"chosen, keeps {step.mask.kept:,} weights"
        if number:
            before = steps[number - 1].tried
            parent = before.chosen
            text += f"; came from child {parent + 1} of level {number}, "
            text += f"with {before.costs[parent]} errors"
        assert said(tab) == text
        press(tab, "ArrowRight")
    label = tab.locator("canvas").get_attribute("aria-label")
    ends = [min(steps[at].tried.costs) for at in (0, -1)]
    assert f"{ends[0]} errors at level 1 and {ends[1]} errors at level 59" in label
    press(tab, *["ArrowLeft"] * 9)
    for at, step in enumerate(steps):
        wanted = SELECTED if at < 49 else CHOSEN
        if at != 49:  # the ring of the selected one
            assert close(pixel(tab, places[at][step.tried.chosen]), wanted)
    worst = max(range(10), key=lambda i: (steps[49].tried.costs[i], i))
    assert f"child {worst + 1} (seed 0)" in press(tab, *["ArrowUp"] * 9)
    assert "; not chosen; came from" in said(tab)


def test_the_children_of_a_level_are_joined_to_the_chosen_one_above(show):
    # So far apart that no line crosses the middle of another.
    levels = [[330, 100, 217], [145, 260, 390]]
    tried = [Tried(levels[0], 1), Tried(levels[1], 0)]
    tab = show([Step("prune", i + 1, 2, MASK, {"accuracy": 0.9}, {}, tried[i]) for i in (0, 1)])
    above, below = tab.evaluate("places(null)")
    for parent, joined in ((1, True), (0, False)):
        for child in below:
            middle = [(a + b) / 2 for a, b in zip(above[parent], child, strict=True)]
            assert line(tab, middle) == joined


def test_a_replaced_candidate_is_joined_to_who_took_its_place(show):
    steps = population()[:12]
    tab = show(steps)
    press(tab, "Home", "ArrowUp", "ArrowUp")  # nothing is laid over the lines
    places = tab.evaluate("places(1)")
    for at, step in enumerate(steps[1:], start=1):
        for who in step.tried.replaced:
            middle = [
                (a + b) / 2 for a, b in zip(places[at - 1][who], places[at][who], strict=True)
            ]
            assert line(tab, middle)


def test_who_is_beyond_the_limit_is_hollow_and_it_is_said(show):
    tab = show(population())
    assert "beyond the limit" not in tab.locator(".pk-legend").inner_text()
    assert "the selected one and those it came from" in tab.locator(".pk-legend").inner_text()
    steps = population()[:12]
    limit = sorted(step.tried.costs[step.tried.chosen] for step in steps)[6]
    steps = population(allowed=limit)[:12]
    tab = show(steps)
    assert "hollow: beyond the limit" in tab.locator(".pk-legend").inner_text()
    places, over = tab.evaluate("places(1)"), []
    press(tab, "Home", *["ArrowUp"] * 6)
    for at, step in enumerate(steps):
        who = step.tried.chosen
        errors = step.tried.costs[who]
        assert close(pixel(tab, places[at][who]), CHOSEN) == (errors <= limit)
        over.append(errors > limit)
    assert {*over} == {True, False}
    press(tab, "Home", *["ArrowDown"] * 6)  # the last one keeps the fewest
    for at, broken in enumerate(over):
        assert steps[at].tried.chosen == 5
        assert (f"beyond the limit of {limit} errors" in said(tab)) == broken
        press(tab, "ArrowRight")


def test_the_menu_chooses_the_round(show):
    steps = population()
    tab = show(steps)
    menu = tab.locator("select[aria-label=round]")
    for round_, last in ((2, steps[23]), (1, steps[11])):
        menu.select_option(str(round_))
        best = f"round {round_}, generation 12, candidate {last.tried.chosen + 1}:"
        assert said(tab).startswith(best)
        assert f"round {round_}: " in tab.locator("canvas").get_attribute("aria-label")
    assert show(steps[:12]).locator("select[aria-label=round]").is_hidden()


def test_it_is_found_by_the_keyboard_and_follows_the_theme(show):
    tab = show(population()[:12])
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.getAttribute('role')") == "application"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert tab.evaluate(outline) == "solid"
    where = tab.evaluate("places(1)")[3][5]
    for _ in range(2):
        assert close(pixel(tab, where), SELECTED)  # the last one keeps the fewest
        assert inks(tab) == [255 if theme(tab) == "dark" else 0]
        tab.emulate_media(color_scheme="light" if theme(tab) == "dark" else "dark")
        tab.wait_for_timeout(100)


def test_a_notebook_around_it_hears_none_of_its_keys_but_those_that_save_and_run(show):
    tab = show(population())
    tab.evaluate("() => { window.out = []; document.onkeydown = (e) => out.push(e.key); }")
    for place in ("canvas", "select"):
        tab.locator(place).focus()
        for key in ("ArrowDown", "a", "Control+s", "Shift+Enter"):
            tab.keyboard.press(key)
    assert tab.evaluate("out") == ["Control", "s", "Enter"] * 2
