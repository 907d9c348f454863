"""Numbers made of recorded cells: of one, of an arm, and of two arms on the same networks."""

import json
import math
import shutil
from functools import partial

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from prunekit import experiments
from prunekit.experiments import records
from prunekit.experiments.cells import shipped_results
from prunekit.experiments.records import Difference


def cell(network, seed=0, value=0.0, **changed):
    """A cell with what the measures look at."""
    return {"metric": "accuracy", "network": network, "seed": seed, "value": value} | changed


def cells(*values):
    return [cell(network, value=value) for network, value in enumerate(values)]


def value(cell):
    return cell["value"]


def compared(one, other):
    return records.difference(cells(*one), cells(*other), value)


PAIRS = st.integers(2, 9).flatmap(
    lambda n: st.lists(st.tuples(*[st.floats(-9, 9).map(lambda v: round(v, 3))] * 2), min_size=n)
)


@given(PAIRS)
def test_a_difference_over_networks_is_the_t_test_of_pairs(pairs):
    found, expected = (
        compared(*zip(*pairs, strict=True)),
        scipy.stats.ttest_rel(*zip(*pairs, strict=True)),
    )
    if found.spread > 1e-6:
        assert found.p == pytest.approx(expected.pvalue, abs=1e-9)
        assert found.mean / found.spread * len(pairs) ** 0.5 == pytest.approx(expected.statistic)


def test_three_networks_need_a_mean_of_two_and_a_half_deviations():
    def p(mean):
        return Difference({0: mean - 1, 1: mean, 2: mean + 1}).p

    assert p(2.45) > 0.05 > p(2.5)
    assert scipy.stats.t.ppf(0.975, 2) / 3**0.5 == pytest.approx(2.48, abs=0.01)


def test_a_difference_says_whether_all_networks_agree():
    above, below, mixed = (
        compared((3, 4, 6), (1, 2, 3)),
        compared((1, 2, 3), (3, 4, 6)),
        compared((3, 1, 2), (1, 2, 2)),
    )
    assert (above.sign, below.sign, mixed.sign) == (1, -1, 0)
    assert dict(above.values) == {0: 2, 1: 2, 2: 3}
    assert str(above).startswith(
        "2.33 higher on average, standard deviation over the networks 0.58"
    )
    assert "higher on all 3 networks (p = 0.02)" in str(above)
    assert "2.33 lower on average" in str(below)
    assert "lower on all 3 networks" in str(below)
    assert "higher on 1 of 3 networks (p = 0.74)" in str(mixed)
    assert compared((1, 1, 1), (1, 1, 1)).sign == 0
    assert compared((1, 1, 1), (1, 1, 1)).p == 1


def test_networks_may_agree_by_chance():
    weak = compared((2, 5, 20), (1, 1, 1))
    assert weak.is_weak
    assert not weak.is_apart
    assert "so few networks show only large differences" in str(weak)
    assert compared((3, 4, 6), (1, 2, 3)).is_apart
    assert not compared((3, 1, 2), (1, 2, 2)).is_weak  # they do not agree


def test_a_distance_from_a_number_tells_the_mean_itself():
    found = records.difference(cells(20, 30, 40), 24, value)
    assert (
        str(found)
        == "30.00 on average, standard deviation over the networks 10.00, higher than 24 on 2 of 3 networks"
    )
    assert dict(found.values) == {0: -4, 1: 6, 2: 16}


def test_one_network_is_no_test():
    one = compared((2,), (1,))
    assert math.isnan(one.p)
    assert str(one).endswith("not tested")


def test_only_common_networks_are_compared_and_seeds_count_as_their_mean():
    ours = [cell(0, 0, 1.0), cell(0, 1, 3.0), cell(1, 0, 5.0), cell(2, 0, 9.0)]
    found = records.difference(ours, [cell(0, 7, 1.5), cell(1, 7, 7.0)], value)
    assert dict(found.values) == {0: 0.5, 1: -2.0}
    assert dict(records.difference(ours, 2, value).values) == {0: 0, 1: 3, 2: 7}
    with pytest.raises(ValueError, match=r"must have a network in common, got \[0\] and \[1\]"):
        records.difference(ours[:1], [cell(1)], value)


def test_the_spread_of_seeds_is_told_from_that_of_networks():
    several = [
        cell(0, 0, 1.0),
        cell(0, 1, 3.0),
        cell(1, 0, 15.0),
        cell(1, 1, 17.0),
        cell(2, 0, 9.0),
    ]
    assert records.by_network(several, value) == {0: 2, 1: 16, 2: 9}
    assert records.within_networks(several, value) == pytest.approx(2**0.5)
    assert math.isnan(records.within_networks(cells(1, 2, 3), value))
    fresh = [cell(None, 1, 4.0), cell(None, 0, 2.0)]  # each seed trains a network of its own
    assert records.by_network(fresh, value) == {0: 2, 1: 4}


def test_what_a_cell_lost_is_what_its_errors_say():
    found = experiments.where(experiments.recorded("de-lenet300"), arm="evolution")[0]
    assert records.error(found) == pytest.approx(found["after"]["test"] / 100)
    assert records.lost(found) == pytest.approx(
        (found["after"]["test"] - found["before"]["test"]) / 100
    )
    dense = experiments.where(experiments.recorded("baselines"), method="fit")[0]
    assert records.lost(dense) == 0  # what it starts from has not been trained
    noisy = experiments.recorded("noisy_labels")[0]
    assert records.error(noisy) == noisy["after"]["test"]  # a rank correlation stays one
    assert records.lost(noisy) == pytest.approx(experiments.at(noisy, 0) - noisy["after"]["test"])


def test_the_command_of_a_cell_gives_that_cell_alone():
    for name in ("de-lenet300", "mnist-bases"):
        found = experiments.recorded(name)[-1]
        command = records.command(found)
        assert command.startswith(f"python -m prunekit reproduce {name} --arm ")
        which = {n: found[n] for n in ("arm", "network", "seed")}
        (only,) = experiments.chosen(experiments.load(name), **which)
        assert only.command == command


def test_of_the_first_cells_only_the_last_start_was_timed():
    first, later = experiments.recorded("de-lenet300")[:1], experiments.recorded("mnist-bases")[:1]
    assert not records.is_timed(first[0])
    assert records.is_timed(later[0])
    assert experiments.table(first)["seconds"].item().startswith("≥ ")
    assert not experiments.table(later)["seconds"].item().startswith("≥")


def test_minutes_are_those_of_one_core():
    found = experiments.recorded("mnist-bases")[0]
    assert records.minutes(found) == pytest.approx(found["seconds"] / 60)
    places = [place | {"threads": n} for place in found["environments"] for n in (1, 3)]
    assert records.minutes(found | {"environments": places}) == pytest.approx(found["seconds"] / 20)


def test_a_damaged_cell_is_named_and_the_others_are_read(tmp_path):
    for path in shipped_results("de-lenet300").glob("evolution-[012].json"):
        shutil.copy(path, tmp_path)
    broken = tmp_path / "evolution-1.json"
    broken.write_text(json.dumps(json.loads(broken.read_text()) | {"kept": "many"}))
    found, damaged = records.readable("de-lenet300", tmp_path)
    assert [c["network"] for c in found] == [0, 2]
    assert len(damaged) == 1
    assert "evolution-1.json" in str(damaged[0])
    with pytest.raises(ValueError, match="evolution-1.json"):
        experiments.recorded("de-lenet300", tmp_path)


def test_a_network_that_was_pruned_before_it_was_trained_has_no_figure_of_before():
    cells = experiments.recorded("filter-clustering")
    fresh = experiments.where(cells, arm="5-10-132 from scratch")
    assert all(math.isnan(experiments.unpruned(cell)) for cell in fresh)
    assert all(math.isnan(experiments.lost(cell)) for cell in fresh)
    lengths = experiments.recorded("cdp-dtc-lengths")
    meanwhile = experiments.where(lengths, arm="15 epochs, pressure 0.4")
    assert all(math.isnan(experiments.unpruned(cell)) for cell in meanwhile)
    never = experiments.where(lengths, arm="15 epochs, pressure 0")
    assert all(experiments.unpruned(cell) == experiments.error(cell) for cell in never)
    for cell in experiments.where(cells, arm="5-10-132 L1"):
        assert 0 < experiments.unpruned(cell) < experiments.error(cell)


def test_the_error_after_the_last_epoch_stands_beside_that_of_the_kept_one():
    told = partial(experiments.error, split="validation")
    for cell in experiments.recorded("cdp-dtc"):
        assert told(cell, last=True) == pytest.approx(100 * (1 - cell["trace"]["accuracy"][19]))
        assert told(cell) <= told(cell, last=True) + 1e-9  # the best epoch was kept
        wrong = cell["trace"]["test"][19]  # of 10,000
        assert experiments.error(cell, last=True) == pytest.approx(wrong / 100)
    without = experiments.recorded("optimal-threshold")[0]
    with pytest.raises(ValueError, match="recorded no test metric after a last epoch"):
        experiments.error(without, last=True)


def test_what_a_method_of_stripes_has_left_is_what_its_last_step_tells():
    for cell in experiments.recorded("cdp-dtc-lengths"):
        told = experiments.rows(cell)[-1]["info"]
        assert experiments.stripes_left(cell) == pytest.approx(100 * told["stripes"])
        assert experiments.filters_left(cell) == pytest.approx(100 * told["filters"])
    assert math.isnan(experiments.stripes_left(experiments.recorded("mnist-bases")[0]))
