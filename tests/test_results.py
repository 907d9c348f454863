"""What the view of recorded cells is given, without a browser."""

import json
import re
import shutil
import statistics

import pytest

from prunekit import experiments
from prunekit._files import seal
from prunekit.experiments import records
from prunekit.experiments.cells import FORMAT, shipped_results
from prunekit.widgets import Results
from prunekit.widgets.output import MIME
from prunekit.widgets.results import told


def at(told, measure):
    return [m["name"] for m in told["measures"]].index(measure)


def test_every_cell_is_told_with_its_numbers_and_its_command():
    shown, cells = told("de-lenet300"), experiments.recorded("de-lenet300")
    assert len(shown["cells"]) == len(cells)
    for one, cell in zip(shown["cells"], cells, strict=True):
        assert shown["arms"][one["arm"]]["name"] == cell["arm"]
        assert (one["network"], one["seed"]) == (cell["network"], cell["seed"])
        assert one["command"] == records.command(cell)
        assert one["timed"] == records.is_timed(cell)
        for name, value in {
            "size": cell["parameters"] / cell["kept"],
            "test error": cell["after"]["test"] / 100,
            "validation error": cell["after"]["validation"] / 50,
            "test error when dense": cell["before"]["test"] / 100,
            "lost in the test": (cell["after"]["test"] - cell["before"]["test"]) / 100,
            "minutes": cell["seconds"] / 60,
            "network": cell["network"],
        }.items():
            assert one["values"][at(shown, name)] == pytest.approx(value, rel=1e-4)
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown


def test_an_arm_is_told_with_its_spread_over_networks():
    shown = told("de-lenet300")
    for arm in shown["arms"]:
        sizes = records.by_network(
            experiments.where(experiments.recorded("de-lenet300"), arm=arm["name"]), records.size
        )
        place = at(shown, "size")
        assert arm["networks"] == len(sizes)
        assert arm["means"][place] == pytest.approx(statistics.fmean(sizes.values()), rel=1e-4)
        if len(sizes) > 1:
            spread = statistics.stdev(sizes.values())
            assert arm["spreads"][place] == pytest.approx(spread, rel=1e-4, abs=1e-9)


def test_the_seeds_of_a_network_have_a_spread_of_their_own(tmp_path):
    for path in shipped_results("de-lenet300").glob("evolution-[01].json"):
        shutil.copy(path, tmp_path)
    (again,) = tmp_path.glob("evolution-0.json")
    record = json.loads(again.read_text()) | {"seed": 7}
    kept = record["kept"] = record["kept"] // 2
    del record["hash"]
    cell = records.complete(record, experiments.load("de-lenet300").arms["evolution"])
    (tmp_path / "evolution-0-7.json").write_text(json.dumps(seal(cell | {"network": 0}, FORMAT)))
    (arm,) = told("de-lenet300", folder=tmp_path)["arms"]
    one, other = (record["parameters"] / n for n in (kept, json.loads(again.read_text())["kept"]))
    assert arm["networks"] == 2
    assert arm["seeds"][0] == pytest.approx(abs(one - other) / 2**0.5, rel=1e-4)
    assert all(value is None for arm in told("mnist-bases")["arms"] for value in arm["seeds"])


@pytest.mark.parametrize("name", experiments.names())
def test_every_arm_has_a_mark_of_its_own(name):
    if experiments.recorded(name):
        marks = [(a["colour"], a["marker"], a["hollow"]) for a in told(name)["arms"]]
        assert len({*marks}) == len(marks)


def test_arms_of_two_networks_with_one_name_have_one_colour_and_are_told_apart():
    arms = {arm["name"]: arm for arm in told("roulette")["arms"]}
    one, other = arms["lenet_300_100 magnitude"], arms["lenet_5 magnitude"]
    assert one["colour"] == other["colour"]
    assert (one["marker"], one["hollow"]) != (other["marker"], other["hollow"])


def test_one_network_has_no_spread():
    shown = told("cifar-bases")
    assert all(arm["spreads"][0] is None for arm in shown["arms"] if arm["networks"] == 1)


def test_cells_that_were_judged_level_by_level_have_their_levels():
    def levels(name):
        return [m["name"] for m in told(name)["measures"] if "removed" in m["name"]][1:]

    assert levels("roulette")[-2:] == ["test error at 90 % removed", "test error at 95 % removed"]
    assert levels("noisy_labels")[0] == "test rank correlation at 50 % removed"
    assert levels("de-lenet300") == []  # few of its arms


def test_what_is_shown_at_first_can_be_chosen():
    view = Results("de-lenet300")
    assert (view.x, view.y) == ("size", "test error")
    assert view.shown == [arm["name"] for arm in view.results["arms"]][:8]
    assert Results("roulette").x == "validation error"  # all sizes are alike
    assert Results("noisy_labels").y == "test rank correlation"
    some = Results("de-lenet300", x="minutes", y="size", shown=["evolution"], title="mine")
    assert (some.x, some.y, some.shown) == ("minutes", "size", ["evolution"])
    assert some.results["title"] == "mine"
    assert re.fullmatch(r"Results\(\d+ cells of \d+ arms\)", repr(some))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(x="accuracy"), "measure must be one of .*, got 'accuracy'"),
        (dict(shown=["evolutions"]), "arm must be one of .*, got 'evolutions'"),
    ],
)
def test_what_there_is_not_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Results("de-lenet300", **settings)


def test_an_experiment_without_cells_is_refused():
    with pytest.raises(ValueError, match="de-vgg16 has no recorded cells that can be read"):
        Results("de-vgg16")


def test_a_damaged_cell_is_told_in_its_place_and_the_rest_is_shown(tmp_path):
    for path in shipped_results("de-lenet300").glob("evolution-[012].json"):
        shutil.copy(path, tmp_path)
    (tmp_path / "evolution-1.json").write_text("{")
    view = Results("de-lenet300", folder=tmp_path)
    assert [cell["network"] for cell in view.results["cells"]] == [0, 2]
    (text,) = view.results["damaged"]
    assert text.startswith("A cell is left out: ")
    assert "evolution-1.json" in text


def test_the_still_is_a_picture_of_what_is_shown_and_the_data_go_with_it():
    view = Results("de-lenet300", shown=["evolution", "random search"])
    page = view.fallback()
    assert re.search(r'<img alt="Results\(\d+ cells of 13 arms\)" src="data:image/png', page)
    assert page != Results("de-lenet300", shown=["evolution"]).fallback()
    assert Results("noisy_labels", shown=[]).fallback()
    told_of = view._repr_mimebundle_()
    shown = told_of[0] if isinstance(told_of, tuple) else told_of
    assert shown[MIME]["view"] == "Results"
    assert shown[MIME]["data"]["results"] == view.results
