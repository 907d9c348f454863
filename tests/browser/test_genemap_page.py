"""The map of two genes in a page of its own, with a plain object for its model: no kernel."""

import json
import re

import pytest
import torch
from conftest import both_themes

from prunekit.evolve import STRATEGIES
from prunekit.widgets import GeneMap

PAGE = """<!doctype html>
<meta charset="utf-8">
<style>:root { color-scheme: light dark; } body { font-family: sans-serif; } %(css)s</style>
<main id="view"></main>
<script type="module">
%(js)s
const values = %(values)s;
const heard = {};
window.asked = [];
const model = {
  get: (name) => values[name],
  set: (name, value) => (values[name] = value, window.asked.push([name, value])),
  save_changes: () => {},
  on: (name, act) => (heard[name] = act),
  off: () => {},
  send: () => {},
};
window.receive = (name, value) => (values[name] = value, heard["change:" + name]());
shown.render({ model, el: document.getElementById("view") });
</script>
"""
TRAITS = ("map", "run", "scale", "crossover", "strategy", "seed", "generation")
FIND = """(colour) => {
    const canvas = document.querySelector(".pk-map");
    const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const like = (x, y) => colour.every((part, k) => data[4 * (y * width + x) + k] === part);
    const found = [];
    for (let y = 3; y < height - 3; y++) for (let x = 3; x < width - 3; x++) {
        let all = true;
        for (let v = -3; v <= 3 && all; v++) for (let u = -3; u <= 3 && all; u++) {
            all = u * u + v * v > 9 || like(x + u, y + v);
        }
        if (all) found.push([x, y]);
    }
    return found;
}"""
WHITE, ORANGE = [255, 255, 255], [196, 122, 0]


def gene_map(measured=True, **settings):
    """A map that keeps less towards the upper right, where it is forbidden."""
    places = [0.2 * i for i in range(1, 13)]
    y, x = torch.meshgrid(torch.tensor(places), torch.tensor(places), indexing="ij")
    over = 4 * (x + 0.7 * y - 2.6)
    given = {"over": over} if measured else {}
    names = {"x": "sensitivity of the first layer", "y": "sensitivity of the second layer"}
    return GeneMap(
        places, places, 100 * torch.exp(-x - y / 3), over <= 0, **given, **names, **settings
    )


def write(view, path):
    js = re.sub(r"export default (.*)", r"const shown = \1", view._esm)
    values = json.dumps({name: getattr(view, name) for name in TRAITS})
    path.write_text(PAGE % {"css": view._css, "js": js, "values": values}, encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def opened(tab, tmp_path):
    tab.context.set_offline(True)
    view = gene_map()
    tab.goto(write(view, tmp_path / "page.html"))
    return tab, view


def words(tab):
    return tab.locator(".pk-genemap .pk-words").inner_text()


def drawn(tab):
    return int(tab.locator(".pk-genemap").get_attribute("data-drawn"))


def picture(tab):
    return tab.evaluate("document.querySelector('.pk-map').toDataURL()")


def press(tab, *keys):
    tab.locator(".pk-dots").focus()
    for key in keys:
        tab.keyboard.press(key)


def ending(told, i):
    """What must be said in the end of the trial of a dot."""
    x, trial = told["dots"][i], told["trials"][i]
    both = "both within the limit" if not x[3] and not trial[3] else "break"
    won = "the trial takes its place" if i in told["won"] else "x stays"
    return f"Candidate {i + 1}: trial keeps {trial[2]:.1f} %, x keeps {x[2]:.1f} %", both, won


def test_the_slider_shows_each_generation(opened):
    tab, view = opened
    for number in (0, 4, 20):
        tab.locator("input[aria-label=generation]").fill(str(number + 1))
        told = view.run["generations"][number]
        best = told["dots"][told["best"]]
        within = sum(dot[3] == 0 for dot in told["dots"])
        assert f"generation {number + 1} of 21; the best keeps {best[2]:.1f} %" in words(tab)
        assert f"{within} of 12 within the limit" in words(tab)
        assert tab.locator(".pk-generation + output").inner_text() == str(number + 1)
        if number < 20:  # later the dots lie on one another
            assert bool(tab.evaluate(FIND, ORANGE)) == bool(told["new"])
    assert ["generation", 20] in tab.evaluate("asked")


def test_the_keyboard_chooses_a_dot_and_draws_arrow_by_arrow(opened):
    tab, view = opened
    tab.emulate_media(reduced_motion="reduce")
    for number in (0, 6):
        tab.evaluate("(number) => receive('generation', number)", number)
        told = view.run["generations"][number]
        press(tab, "Escape")
        for i in range(12):
            press(tab, "ArrowRight")
            assert f"Candidate {i + 1} keeps {told['dots'][i][2]:.1f} %" in words(tab)
            said = []
            while tab.locator("text=Next arrow").is_enabled():
                before = picture(tab)
                press(tab, "Enter")
                said.append(words(tab).splitlines()[1])
                assert picture(tab) != before or "which is the trial" in said[-1]
            assert said[0].startswith("Three others are drawn")
            assert said[1].startswith("F times that way: 0.50 × (b − c), from a on.")
            assert any("has left the map" in line for line in said) == any(told["outside"][i])
            assert ("both numbers come from the mutant" in said[-2]) == all(told["crossed"][i])
            for part in ending(told, i):
                assert part in said[-1]
    press(tab, "Escape", "ArrowLeft")
    assert "Candidate 12 keeps" in words(tab)


@both_themes
def test_a_click_on_a_dot_plays_its_trial(opened):
    tab, view = opened
    x, y = tab.evaluate(FIND, WHITE)[0]
    tab.locator(".pk-map").click(position={"x": x, "y": y})
    assert drawn(tab) == 1
    assert tab.locator(".pk-play").inner_text() == "Pause"
    tab.wait_for_selector(".pk-play:text-is('Play the arrows')")
    i = int(re.search(r"Candidate (\d+)", words(tab))[1]) - 1
    for part in ending(view.run["generations"][0], i):
        assert part in words(tab)


def test_who_does_not_want_motion_sees_the_trial_at_once(opened):
    tab, _ = opened
    tab.emulate_media(reduced_motion="reduce")
    press(tab, "ArrowRight")
    tab.locator(".pk-play").click()
    assert "Candidate 1: trial keeps" in words(tab)
    frames = tab.locator(".pk-genemap").get_attribute("data-frames")
    tab.wait_for_timeout(200)
    assert tab.locator(".pk-genemap").get_attribute("data-frames") == frames


def test_what_is_moved_is_asked_for_and_what_comes_is_drawn(opened):
    tab, _ = opened
    tab.emulate_media(reduced_motion="reduce")
    press(tab, "ArrowRight", "Enter", "Enter")
    before = picture(tab)
    tab.locator("input[aria-label=F]").fill("1.2")
    tab.locator("input[aria-label=CR]").fill("0.3")
    tab.locator("select").select_option("best1bin")
    tab.locator("text=New dots").click()
    assert tab.evaluate("asked") == [
        ["scale", 1.2],
        ["crossover", 0.3],
        ["strategy", "best1bin"],
        ["seed", 1],
    ]
    assert picture(tab) == before  # until an answer comes
    tab.evaluate("(run) => receive('run', run)", gene_map(scale=1.2).run)
    assert tab.locator(".pk-genemap").get_attribute("data-shown") == "1.2 0.9 rand1bin 0 0"
    assert "1.20 × (b − c)" in words(tab)
    assert picture(tab) != before


@both_themes
def test_the_map_can_be_looked_at_closer(opened):
    tab, _ = opened
    tab.locator("input[aria-label=generation]").fill("21")
    before = picture(tab)
    tab.locator("text=Closer").click()
    assert tab.locator("text=Closer").get_attribute("aria-pressed") == "true"
    assert picture(tab) != before
    tab.locator("text=Closer").click()
    assert picture(tab) == before


def test_a_notebook_around_it_hears_none_of_its_keys_but_those_that_save_and_run(opened):
    tab, _ = opened
    tab.evaluate("() => { window.out = []; document.onkeydown = (e) => out.push(e.key); }")
    slider = tab.locator("input[aria-label=F]")
    slider.focus()
    for key in ("ArrowRight", "PageUp", "x", "Control+s", "Shift+Enter"):
        tab.keyboard.press(key)
    assert float(slider.input_value()) > 0.51
    press(tab, "ArrowRight", "Enter")
    assert tab.evaluate("out") == ["Control", "s", "Enter"]


def test_without_a_kernel_it_says_so_and_can_still_be_looked_at(opened):
    tab, _ = opened
    tab.wait_for_selector("text=No answer from the kernel")
    tab.locator("input[aria-label=generation]").fill("3")
    assert "generation 3 of 21" in words(tab)


def test_every_part_has_a_name(opened):
    tab, _ = opened
    for each in tab.locator(".pk-genemap :is(input, select, canvas, [tabindex])").all():
        assert each.get_attribute("aria-label")
    label = tab.locator("canvas").get_attribute("aria-label")
    assert label.startswith("map of kept weights (%); across: sensitivity of the first layer, up:")
    assert words(tab).split(";")[0] in label


def beginning(strategy, is_best):
    """What must be said until the mutant is there, of a dot that is the best, or is not."""
    if strategy == "random":
        return ["A mutant is drawn anywhere on the map."]
    drawn = "Two others are drawn: b and c."
    ways, difference, start = (
        "that way",
        "b − c",
        "the best, which is x," if is_best else "the best",
    )
    way_to_best = []
    if strategy == "rand1bin":
        drawn, start = "Three others are drawn: a, b and c.", "a"
    elif strategy == "current-to-best1bin":
        ways, difference, start = "both ways together", "best − x + b − c", "x"
        way_to_best = ["The way from x to the best is best − x."]
        if is_best:
            way_to_best = [
                "x is itself the best, so the way from x to the best, best − x, is none."
            ]
    return [
        f"{drawn} The way from c to b is b − c.", *way_to_best,
        f"F times {ways}: 0.50 × ({difference}), from {start} on. There is the mutant.",
    ]  # fmt: skip


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_strategy_is_told_in_its_own_words(tab, tmp_path, strategy):
    tab.emulate_media(reduced_motion="reduce")
    view = gene_map(measured=False, strategy=strategy)
    tab.goto(write(view, tmp_path / "page.html"))
    told = view.run["generations"][0]
    whole = ""
    for i in range(12):
        press(tab, "ArrowRight")
        said = []
        while tab.locator("text=Next arrow").is_enabled():
            press(tab, "Enter")
            said.append(words(tab).splitlines()[1])
        first = beginning(strategy, i == told["best"])
        assert said[: len(first)] == first
        whole += "\n".join(said)
    assert "points" not in whole
    assert whole.count("the trial takes its place.") == len(told["won"])


def test_the_chosen_strategy_is_explained_before_an_answer_comes(opened):
    tab, _ = opened
    menu, seen = tab.locator("select"), {}
    for name in STRATEGIES:
        menu.select_option(name)
        seen[name] = menu.get_attribute("title")
        assert tab.locator(f".pk-genemap > div:text-is('{seen[name]}')").is_visible()
        assert seen[name].startswith("A mutant ")
    assert len({*seen.values()}) == len(STRATEGIES)
    assert "starts at another dot, drawn at random" in seen["rand1bin"]
    assert "starts at the best dot" in seen["best1bin"]
    assert "starts at the dot itself" in seen["current-to-best1bin"]
    assert "drawn anywhere" in seen["random"]
    tab.evaluate("receive('strategy', 'best1bin')")
    assert menu.get_attribute("title") == seen["best1bin"]


@both_themes
def test_what_cannot_be_pressed_looks_so(opened):
    tab, _ = opened
    buttons = [tab.locator("text=Next arrow"), tab.locator("text=Play the arrows")]

    def looks():
        style = "(e) => [Number(getComputedStyle(e).opacity), getComputedStyle(e).cursor]"
        return [each.evaluate(style) for each in buttons]

    assert looks() == [[0.45, "default"]] * 2
    press(tab, "ArrowRight")
    assert [opacity for opacity, _ in looks()] == [1, 1]


def test_it_is_said_what_a_dot_counts_as(opened):
    tab, _ = opened
    press(tab, "ArrowRight")
    assert words(tab).endswith(": it has the values of its square.")
