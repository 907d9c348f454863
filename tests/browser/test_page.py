"""The page of a recorded run, opened from a file with no kernel and no network."""

import re

import pytest
import torch
from conftest import both_themes, breaches

from prunekit import Mask, Step, experiments
from prunekit.steps import Tried
from prunekit.widgets import playground
from prunekit.widgets.replay import page, traits, write_page


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    return write_page("roulette", tmp_path_factory.mktemp("page") / "roulette.html")


@pytest.fixture
def opened(tab, written):
    tab.context.set_offline(True)
    tab.goto(written.as_uri())
    tab.wait_for_selector("select[aria-label=layer] option", state="attached")
    return tab


def words(tab):
    return tab.locator(".pk-words").inner_text()


def blue(tab, canvas=".pk-mask"):
    """How many pixels of a canvas are painted."""
    return tab.evaluate(
        """(name) => {
            const canvas = document.querySelector(name);
            const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return pixels.data.filter((value, i) => i % 4 === 3 && value > 0).length;
        }""",
        canvas,
    )


@both_themes
def test_it_shows_the_step_that_the_slider_stands_on(opened):
    steps = experiments.showcase("roulette")
    for number in (0, 20, len(steps) - 1):
        slider = opened.locator("input[type=range]")
        slider.fill(str(number))
        step = steps[number]
        assert words(opened) == (
            f"step {number + 1} of {len(steps)}: cut {step.index} of {step.of}: 10 children tried, "
            f"the chosen one has {min(step.tried.costs)} errors; "
            f"sparsity {step.sparsity:.3f}, validation accuracy {step.metrics['accuracy']:.3f}"
        )
        assert blue(opened) == int(step.mask["fc1.weight"].sum())
    opened.locator("select[aria-label=layer]").select_option("fc3.weight")
    assert blue(opened) == int(steps[-1].mask["fc3.weight"].sum())
    assert opened.locator(".pk-pixels").is_hidden()  # it does not look at a picture


def test_it_plays_to_the_end_and_can_be_stepped_by_keyboard(opened):
    opened.locator("select[aria-label=speed]").select_option("30")
    opened.locator(".pk-play").focus()
    opened.keyboard.press("Enter")
    assert opened.locator(".pk-play").inner_text() == "Pause"
    opened.wait_for_function("document.querySelector('.pk-words').textContent.includes('59 of 59')")
    assert opened.locator(".pk-play").inner_text() == "Play"
    opened.locator("button[aria-label='one step back']").focus()
    opened.keyboard.press("Enter")
    assert "step 58 of 59" in words(opened)
    for name in ("input", "select:not(label select)", "canvas"):
        for each in opened.locator(f".pk-replay {name}:visible").all():
            assert each.get_attribute("aria-label")


@both_themes
def test_nothing_keeps_people_from_it(opened):
    assert breaches(opened) == []


@both_themes
def test_nothing_keeps_people_from_the_playground(tab, tmp_path):
    tab.goto(playground.write_page(tmp_path / "playground.html").as_uri())
    tab.locator(".pk-playground input[type=range]").wait_for()
    assert breaches(tab) == []


def test_a_notebook_around_it_hears_none_of_its_keys_but_those_that_save_and_run(opened):
    opened.evaluate("() => { window.out = []; document.onkeydown = (e) => out.push(e.key); }")
    opened.locator("input[type=range]").focus()
    for key in ("ArrowRight", "ArrowDown", "PageUp", "x", "Control+s", "Shift+Enter"):
        opened.keyboard.press(key)
    assert opened.evaluate("out") == ["Control", "s", "Enter"]


def put(tab, tmp_path, steps, dense=None):
    """The page of these steps."""
    path = tmp_path / "steps.html"
    path.write_text(page(traits(steps, "steps", dense)), encoding="utf-8")
    tab.goto(path.as_uri())
    tab.wait_for_function("document.querySelector('.pk-words').textContent")


def told(step):
    """What must be said of a step of an evolution in several rounds."""
    accuracy, nth = (
        f"validation accuracy {step.metrics['accuracy']:.3f}",
        f"{step.index} of {step.of}",
    )
    sparsity = f"sparsity {step.sparsity:.3f}"
    if step.phase == "search":
        kept, total = step.tried.kept[step.tried.chosen], step.mask.total
        return (
            f"round {step.info['round']}, search, generation {nth}: {len(step.tried.kept)} tried, "
            f"the best would keep {kept:,} of {total:,} weights ({kept / total:.1%}) with {accuracy}; "
            f"the network itself still has {sparsity}"
        ).replace("%)", " %)")
    what = {
        "prune": f"cut {nth}",
        "finetune": f"fine-tuning, epoch {nth}",
        "rewind": f"round {step.index} taken back: the network is as before the cut",
    }[step.phase]
    return f"{what}; {sparsity}, {accuracy}"


def test_a_search_tells_what_it_would_do_and_no_other_step_repeats_it(tab, tmp_path):
    steps = experiments.showcase("de-lenet300")
    put(tab, tmp_path, steps)
    seen = set()
    for number, step in enumerate(steps):
        if step.phase in seen and number % 25 != 24:
            continue
        seen.add(step.phase)
        tab.locator("input[type=range]").fill(str(number))
        assert words(tab) == f"step {number + 1} of 245: {told(step)}"
    assert seen == {"search", "prune", "finetune", "rewind"}


def test_a_population_is_told_by_what_its_best_would_keep(tab, tmp_path):
    tried = Tried((3, 1), 1, (4000, 2345), ((1.0,), (2.0,)), (0, 1))
    put(tab, tmp_path, [Step("search", 1, 1, Mask({}), {"accuracy": 0.9}, tried=tried)])
    assert words(tab) == (
        "step 1 of 1: search, generation 1 of 1: 2 tried, the best would keep 2,345 weights "
        "with validation accuracy 0.900; the network itself still has sparsity 0.000"
    )


def test_a_level_without_a_figure_is_told_in_words(tab, tmp_path):
    tried = Tried((float("inf"),) * 2, 0)
    put(tab, tmp_path, [Step("prune", 1, 1, Mask({}), {"accuracy": 0.9}, tried=tried)])
    assert ": 2 children tried, the chosen one has no figure; sparsity" in words(tab)


def test_every_picture_has_its_legend_or_caption(tab, tmp_path):
    def legends():
        return [each.inner_text() for each in tab.locator(".pk-legend").all()]

    steps = experiments.showcase("de-lenet300")
    put(tab, tmp_path, steps, dense=0.98)
    assert legends()[0] == "dashed: before pruning"
    for meaning in (
        "joined to the one whose place it took",
        "the best",
        "hollow: beyond the limit",
    ):
        assert meaning in legends()[1]
    marks = tab.locator(".pk-charts .pk-mark").all()
    assert len(marks) == 3
    tab.wait_for_selector("select[aria-label=layer] option", state="attached")
    large, small = (each.inner_text() for each in tab.locator("figcaption").all())
    assert large.startswith("the mask of the layer: a row an output")
    assert small.startswith("connections left of each pixel")
    tab.locator("select[aria-label=layer]").select_option("fc2.weight")
    assert tab.locator("figcaption").nth(1).is_hidden()  # its caption goes with the picture
    put(tab, tmp_path, experiments.showcase("roulette"))
    assert legends()[0] == ""
    assert "the chosen one, joined to its children" in legends()[1]
    put(tab, tmp_path, [step for step in steps if step.phase == "finetune"])
    assert tab.locator(".pk-legend").nth(1).is_hidden()  # with nobody there is nothing to tell


def test_damaged_masks_are_said_and_the_rest_is_shown(tab, tmp_path):
    shown = traits(experiments.showcase("roulette"), "damaged")
    for name, masks in (("short", shown["masks"][:100]), ("none", b"")):
        path = tmp_path / f"{name}.html"
        path.write_text(page(shown | {"masks": masks}), encoding="utf-8")
        tab.goto(path.as_uri())
        tab.wait_for_function("/damaged/.test(document.querySelector('.pk-words').textContent)")
        assert re.search(r"cannot be shown", words(tab))


@both_themes
def test_when_jupyterlab_takes_another_theme_it_is_drawn_anew(opened):
    canvas = "document.querySelector('canvas.pk-chart').toDataURL()"
    before = opened.evaluate(canvas)
    opened.evaluate("document.body.style.color = 'rgb(200, 0, 0)'")
    assert opened.evaluate(canvas) == before
    opened.evaluate("document.body.dataset.jpThemeLight = 'false'")
    opened.wait_for_function(f"before => {canvas} !== before", arg=before)


def test_it_opens_on_the_first_layer_of_which_weights_go(tab, tmp_path):
    kept = {"bn.weight": torch.tensor([True, False]), "conv.weight": torch.rand(2, 3) > 0.5}
    steps = [Step("prune", 1, 1, Mask(kept), {"accuracy": 0.5})]
    (tmp_path / "page.html").write_text(page(traits(steps)), encoding="utf-8")
    tab.goto((tmp_path / "page.html").as_uri())
    tab.wait_for_selector("select[aria-label=layer] option", state="attached")
    assert tab.locator("select[aria-label=layer]").input_value() == "conv.weight"
    assert blue(tab) == int(kept["conv.weight"].sum())
