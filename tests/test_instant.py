"""Instant views: what they compute, that the newest value wins, and what an error looks like."""

import asyncio
import copy
import math
import re
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from tiny import tiny_data, tiny_images, tiny_model, tiny_residual

from prunekit import Mask, evaluate, mnist_small, pretrained, show
from prunekit.baselines.random import random
from prunekit.judge import by_class
from prunekit.methods.roulette import roulette as roulette_method
from prunekit.select import WHEELS
from prunekit.widgets import Instant, views
from prunekit.widgets.instant import bars
from prunekit.widgets.running import OfCell
from prunekit.widgets.views.differential_evolution import differential_evolution
from prunekit.widgets.views.magnitude import magnitude
from prunekit.widgets.views.roulette import GOAL, roulette


def drawing(view):
    """The picture in a view, as XML."""
    return ElementTree.fromstring(re.search(r"<svg.*?</svg>", view.shown.value)[0])


def full(view):
    return sum("currentColor" not in r.get("fill") for r in drawing(view).iter("rect"))


def test_a_threshold_removes_what_lies_below_it():
    model, data = tiny_model(), tiny_data()
    view = magnitude(model, data)
    for threshold in (0.0, 0.1, 0.25):
        view.controls["threshold"].value = threshold
        at = view.controls["threshold"].value
        weights = {n: p.detach() for n, p in model.named_parameters() if p.ndim > 1}
        mask = Mask({n: w.abs() >= at for n, w in weights.items()})
        assert f"sparsity {mask.sparsity:.3f}: {mask.kept:,} of 132" in view.shown.value
        assert f"{evaluate(model, data, mask=mask):.3f} ±" in view.shown.value
        recall = ", ".join(f"{c.name}: {c.share:.1%}" for c in by_class(model, data, mask=mask))
        assert f"recall of {recall}" in view.shown.value
        most = view.controls["threshold"].max
        assert full(view) == sum((i + 0.5) * most / 60 >= at for i in range(60))


def test_sensitivities_remove_what_lies_below_their_multiple_of_the_deviation():
    model, data = tiny_model(), tiny_data()
    view = differential_evolution(model, data)
    for first, second in ((0.0, 0.0), (1.5, 0.5), (2.5, 0.0)):
        view.controls["0.weight"].value, view.controls["2.weight"].value = first, second
        kept = {}
        for name, s in (("0.weight", first), ("2.weight", second)):
            w = model.get_parameter(name).detach()
            kept[name] = w.abs() >= s * w.std(correction=0)
        mask = Mask(kept)
        assert f"{mask.density:.1%} of the weights kept" in view.shown.value
        assert f"{evaluate(model, data, mask=mask):.3f} ±" in view.shown.value
        heights = [float(r.get("height")) / 150 for r in drawing(view).iter("rect")]
        expected = [*(float(k.float().mean()) for k in kept.values()), 1]
        assert heights == pytest.approx(expected, abs=1e-3)


def test_every_view_is_called_like_its_method():
    for path in (Path(views.__file__).parent).glob("[a-z]*.py"):
        method = {**show.functions("methods"), **show.functions("baselines")}[path.stem]
        of_filters = path.stem == "cdp_dtc"
        network = (tiny_residual(), tiny_images()) if of_filters else (tiny_model(), tiny_data())
        assert isinstance(views.of(method, *network), OfCell)


def test_a_method_without_a_view_is_named():
    with pytest.raises(ValueError, match="random has no instant view; these have one: .*roulette"):
        views.of(random, tiny_model(), tiny_data())


@pytest.mark.parametrize("wheel", WHEELS)
def test_a_wheel_is_steeper_the_stronger_and_removes_less_than_blind_removal(wheel):
    view = roulette(tiny_model(), layer="0.weight")
    view.controls["wheel"].value = wheel
    view.controls["strength"].value = 4
    heights = [float(r.get("height")) for r in drawing(view).iter("rect")]
    assert heights == sorted(heights, reverse=True) or wheel == "uniform"
    lost = float(re.search(r"([\d.]+)% of their squares", view.shown.value)[1]) / 100
    w = tiny_model()[0].weight.detach().flatten().double()
    least = float((w**2).sort().values[:19].sum() / (w**2).sum())
    assert f"the smallest weights {least:.2%}" in view.shown.value
    assert lost >= least - 0.001
    if wheel in ("inv", "rank", "exp"):
        assert lost < 0.2
        first = heights[0] / sum(heights)
        view.controls["strength"].value = 8
        stronger = [float(r.get("height")) for r in drawing(view).iter("rect")]
        assert stronger[0] / sum(stronger) > first


def test_the_newest_value_wins_and_the_loop_is_not_held_up():
    async def drag():
        def slow(place):
            time.sleep(0.05)
            return f"{place:g}"

        view = Instant(slow, place=(0.0, 1.0, 0.0))
        for i in range(1, 101):
            view.controls["place"].value = i / 100
            await asyncio.sleep(0.002)
        while view.latest.busy:
            await asyncio.sleep(0.01)
        return view

    view = asyncio.run(drag())
    assert view.shown.value == "1"
    assert 45 < view.milliseconds < 500


def test_an_estimate_comes_first_and_what_is_exact_only_if_nothing_has_moved():
    async def drag():
        def work(place):
            yield f"about {place:g}"
            time.sleep(0.05)
            exact.append(place)
            return f"{place:g}"

        exact, seen = [], []
        view = Instant(work, place=(0.0, 1.0, 0.0))
        view.shown.observe(lambda change: seen.append(change["new"]), "value")
        for i in range(1, 41):
            view.controls["place"].value = i / 100
            await asyncio.sleep(0.002)
        while view.latest.busy:
            await asyncio.sleep(0.01)
        return exact, seen

    exact, seen = asyncio.run(drag())
    assert seen[-2:] == ["about 0.4", "0.4"]
    assert len(exact) < 10
    assert [told for told in seen if told.startswith("about")]


def test_the_threshold_view_says_what_is_estimated():
    net, data = pretrained("lenet_300_100"), mnist_small()
    view, seen = magnitude(net, data), []
    view.shown.observe(lambda change: seen.append(change["new"]), "value")
    view.controls["threshold"].value = 0.05
    first, last = seen
    assert "(from 500 of 5,000 examples; measuring all)" in first
    assert "from 500" not in last
    told = [float(re.search(r"accuracy (?:about )?([\d.]+)", text)[1]) for text in seen]
    assert told[0] == pytest.approx(told[1], abs=0.04)


def test_an_error_is_said_and_the_view_goes_on():
    def picky(place):
        if place > 0.5:
            raise ValueError("not <so> far")
        return "fine"

    view = Instant(picky, "t", place=(0.0, 1.0, 0.9))
    assert view.shown.value == "ValueError: not &lt;so&gt; far"
    view.controls["place"].value = 0.1
    assert view.shown.value == "fine"
    assert repr(view) == "Instant('t')"


def test_names_make_a_menu():
    view = Instant(lambda kind: kind, kind=["a", "b"])
    assert view.shown.value == "a"
    view.controls["kind"].value = "b"
    assert view.shown.value == "b"


def test_bars_are_drawn_to_scale_and_their_words_escaped():
    words = dict(x="<x>", y="&", says='"quoted"')
    text = bars([1, 2, 4], [True, False, True], names=("0", "1"), **words)
    tree = ElementTree.fromstring(text)
    assert [float(r.get("height")) for r in tree.iter("rect")] == [37.5, 75, 150]
    assert tree.get("aria-label") == '"quoted"'
    assert [t.text for t in tree.iter("text")] == ["0", "1", "<x>", "&"]
    named = ElementTree.fromstring(bars([1, 2], [True, True], names=("<a>", "b"), **words))
    ends = [2 * float(r.get("x")) + float(r.get("width")) for r in named.iter("rect")]
    assert [2 * float(t.get("x")) for t in [*named.iter("text")][:2]] == pytest.approx(
        ends, abs=0.2
    )


def test_views_leave_the_random_state_and_the_model_alone():
    state, model = torch.get_rng_state(), tiny_model()
    before = {n: p.clone() for n, p in model.named_parameters()}
    roulette(model, layer="0.weight").controls["strength"].value = 2
    magnitude(model, tiny_data()).controls["threshold"].value = 0.2
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())


def test_the_tree_that_grows_by_clicks_is_the_methods_own():
    model, data = tiny_model(), tiny_data()
    view = roulette(model, data, "0.weight")
    tree = view.children[-1]
    knobs = dict(wheel="inv", strength=4.0, branches=5, step=0.2, sparsity=0.99, tie=0.0)
    for step in roulette_method(copy.deepcopy(model), data, seed=tree.number, **knobs):
        assert not tree.spin.disabled
        tree.spin.click()
        chosen = tree.values.index(max(tree.values))
        assert chosen == step.tried.chosen
        assert tree.masks[chosen].sparsity == step.sparsity
        assert all((tree.masks[chosen][name] == keep).all() for name, keep in step.mask.items())
    assert "goes on" in tree.shown.value
    levels = [*tree.grown, tree.values]
    assert len(levels) == tree.level
    drawn = ElementTree.fromstring(re.search(r"<svg.*?</svg>", tree.shown.value)[0])
    assert len([*drawn.iter("circle")]) == sum(map(len, levels))
    assert "0.95" in [text.text for text in drawn.iter("text")]
    assert "the tree is done" in tree.shown.value
    assert tree.spin.disabled
    tree.again.click()
    assert tree.parent.sparsity == 0
    assert not tree.spin.disabled


def test_the_notebook_tells_how_many_clicks_a_tree_takes(digits):
    view = roulette(pretrained("lenet_300_100"), digits)
    tree, clicks = view.children[-1], {}
    for wheel in ("inv", "lin"):
        view.controls["wheel"].value = wheel
        assert (tree.level, tree.grown) == (0, [])  # another wheel, another tree
        tree.spin.click()
        while max(tree.values) >= GOAL:
            tree.spin.click()
        clicks[wheel] = tree.level
    assert clicks == {"inv": 13, "lin": 3}
    text = (Path(__file__).parents[1] / "notebooks/01_roulette.ipynb").read_text(encoding="utf-8")
    assert "We needed thirteen clicks with *inv*, three with *lin*." in text


def test_what_the_tree_shows_is_right():
    model, data = tiny_model(), tiny_data()
    tree = roulette(model, data, "0.weight").children[-1]
    tree.spin.click()
    shown = re.findall(r"<td>(\d)</td><td>([\d.]+)%</td><td>(?:<b>)?([\d.]+)", tree.shown.value)
    assert [int(child) for child, _, _ in shown] == [1, 2, 3, 4, 5]
    for mask, (_, lost, value) in zip(tree.masks, shown, strict=True):
        before = sum(float((model.get_parameter(n).detach() ** 2).sum()) for n in mask)
        left = copy.deepcopy(model)
        mask.apply_(left)
        after = sum(float((left.get_parameter(n).detach() ** 2).sum()) for n in mask)
        assert float(lost) == pytest.approx(100 * (1 - after / before), abs=0.051)
        assert float(value) == pytest.approx(evaluate(left, data), abs=6e-4)


def test_a_tree_whose_data_fail_says_so_and_can_be_tried_again():
    data = tiny_data()
    tree = roulette(tiny_model(), data, "0.weight").children[-1]
    data.splits["validation"] = (torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))
    tree.spin.click()
    assert "cannot be multiplied" in tree.shown.value
    assert not tree.spin.disabled


def test_wheels_are_compared_on_one_axis_of_decades_beside_blind_removal():
    view = roulette(tiny_model(), layer="0.weight")
    bottom = {}
    for wheel in ("uniform", "lin"):
        view.controls["wheel"].value = wheel
        svg = drawing(view)
        bars_ = list(svg.iter("rect"))
        line = next(p for p in svg.iter("path") if p.get("stroke-dasharray"))
        at = float(line.get("d").split()[1].split("H")[0])
        bottom[wheel] = ([float(r.get("y")) for r in bars_], at)
        assert "blind removal" in [text.text for text in svg.iter("text")]
    tops, at = bottom["uniform"]
    share = [len(part) / 96 for part in torch.arange(96).chunk(20)]
    expected = [156 - 150 * (1 + math.log10(part) / 6) for part in share]
    assert tops == pytest.approx(expected, abs=0.1)
    assert bottom["lin"][1] == at  # the axis stays


def test_a_wheel_without_strength_has_it_turned_off():
    view = roulette(tiny_model(), layer="0.weight")
    for wheel, off in (
        ("inv", False),
        ("lin", True),
        ("rank", False),
        ("uniform", True),
        ("sum", True),
    ):
        view.controls["wheel"].value = wheel
        assert view.controls["strength"].disabled is off
