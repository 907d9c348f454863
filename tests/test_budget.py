"""Budgets: what is left costs what may be spent, and no less than it must."""

import pytest
import torch
from tiny import tiny_data, tiny_images, tiny_model, tiny_residual

from prunekit import Journal, Run, count, gradual, magnitude, prune, score, select, sweep
from prunekit.baselines.filters import filters
from prunekit.baselines.gradient import gradient
from prunekit.baselines.random import random
from prunekit.mask import Mask
from prunekit.methods.differential_evolution import differential_evolution
from prunekit.methods.roulette import roulette

METHODS = {
    "magnitude": (magnitude, {"rounds": 3, "epochs": 1}),
    "gradient": (gradient, {"rounds": 2}),
    "random": (random, {"rounds": 2, "epochs": 1}),
    "gradual": (gradual, {"epochs": 3, "every": 1}),
    "roulette": (roulette, {"branches": 3, "step": 0.1}),
    "filters": (filters, {"rounds": 2, "epochs": 1}),
}
COSTS = {
    "macs": lambda model, x, mask: count.macs(model, x, mask).sparse,
    "params": lambda model, x, mask: count.params(model, mask),
    "bytes": lambda model, x, mask: count.size(model, mask),
}


@pytest.mark.parametrize("of", COSTS)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_with_a_target_keeps_to_a_budget(name, of):
    method, knobs = METHODS[name]
    model, data = tiny_residual(), tiny_images()
    report = prune(method, model, data, budget={of: 0.7}, bar=False, **knobs)
    dense = COSTS[of](model, data.example, Mask({}))
    spent = COSTS[of](report.model, data.example, report.mask)
    # A level of the tree, and a filter, are the steps in which it goes.
    assert (0.4 if name in ("roulette", "filters") else 0.68) * dense < spent <= 0.7 * dense
    assert report.knobs["budget"] == {of: 0.7}
    assert not {"sparsity", "share"} & {*report.knobs}


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_one_weight_more_would_cost_too_much(scope):
    model, x = tiny_model(), tiny_data().example
    weights = Mask.ones(model)
    scores = score.magnitude(model, weights)
    budget = count.budget(model, x, {"params": 100})
    mask = select.largest(scores, budget, scope, weights)
    assert count.params(model, mask) <= 100
    fewer = weights.total - mask.kept - 1
    more = select.largest(scores, fewer / weights.total, scope, weights)
    assert count.params(model, more) > 100 or more == mask


def test_no_budget_is_as_if_none_were_asked_for():
    one, two = (
        prune(magnitude, tiny_model(), tiny_data(), bar=False, **none)
        for none in ({}, {"budget": None})
    )
    assert one.knobs == two.knobs
    assert one.mask == two.mask


def test_of_several_budgets_all_hold_and_numbers_are_absolute():
    model, data = tiny_residual(), tiny_images()
    dense = count.macs(model, data.example).dense
    told = {"macs": dense // 2, "params": 0.9, "bytes": 1100}
    report = prune(magnitude, model, data, budget=told, bar=False)
    assert count.macs(report.model, data.example, report.mask).sparse <= dense // 2
    assert count.params(report.model, report.mask) <= 0.9 * count.params(model)
    assert count.size(report.model, report.mask) <= 1100


def test_rounds_spend_less_by_the_same_factor_each_time():
    model, data = tiny_model(), tiny_data()
    report = prune(magnitude, model, data, budget={"params": 0.25}, rounds=2, bar=False)
    kept = [count.params(model, step.mask) for step in report.history]
    assert kept == [73, 36]  # of 147; 12 and 3 are biases


def test_a_run_with_a_budget_goes_on_from_its_journal(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNEKIT_HOME", str(tmp_path))
    runs = [
        prune(
            gradual, tiny_model(), tiny_data(), budget={"params": 0.5}, epochs=3, every=1,
            run=Run(journal=Journal("b")), bar=False,
        )
        for _ in range(2)
    ]  # fmt: skip
    assert [s.mask for s in runs[0].history] == [s.mask for s in runs[1].history]
    with pytest.raises(ValueError, match="budget"):
        prune(
            gradual, tiny_model(), tiny_data(), budget={"params": 0.4}, epochs=3, every=1,
            run=Run(journal=Journal("b")), bar=False,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "settings", "error", "why"),
    [
        (magnitude, {"budget": {"flops": 0.5}}, ValueError, "must be of .*'macs'.*, got 'flops'"),
        (magnitude, {"budget": {"macs": 0}}, ValueError, r"macs must be a share in \(0, 1\]"),
        (magnitude, {"budget": {}}, ValueError, "must name one of"),
        (magnitude, {"budget": 0.5}, TypeError, "budget"),
        (magnitude, {"budget": {"params": 3}}, ValueError, "cannot be met"),
        (filters, {"budget": {"params": 3}}, ValueError, "cannot be met"),
        (roulette, {"budget": {"params": 3}}, ValueError, "cannot be met"),
        (magnitude, {"budget": {"macs": 0.5}, "sparsity": 0.5}, TypeError, "budget or sparsity"),
        (magnitude, {"budget": {"macs": 0.5}, "sensitivities": (1.0,)}, ValueError, "no budget"),
        (differential_evolution, {"budget": {"macs": 0.5}}, TypeError, "takes no budget"),
    ],
)
def test_what_is_no_budget_or_cannot_be_met_is_refused(method, settings, error, why):
    model = tiny_model()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(error, match=why):
        prune(method, model, tiny_data(), bar=False, **settings)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_sweep_compares_one_method_at_several_values():
    model, data = tiny_model(), tiny_data()
    result = sweep(magnitude, model, data, sparsity=[0.2, 0.8, 0.5], seeds=(0, 1), bar=False)
    assert [*result.reports] == ["sparsity 0.2", "sparsity 0.8", "sparsity 0.5"]
    curve = result.curve()
    assert [[x for x, _ in run] for run in curve] == [
        [pytest.approx(s, abs=0.01) for s in (0.2, 0.5, 0.8)]
    ] * 2
    alone = prune(magnitude, model, data, sparsity=0.8, bar=False)
    assert curve[0][-1] == (alone.sparsity, alone.after["accuracy"])
    assert [x for x, _ in result.curve("compression")[0]] == sorted(
        reports[0].compression for reports in result.reports.values()
    )


def test_a_sweep_takes_budgets_and_refuses_what_is_no_list():
    budgets = [{"params": 0.8}, {"params": 0.5}]
    result = sweep(magnitude, tiny_model(), tiny_data(), budget=budgets, seeds=(0,), bar=False)
    assert [*result.reports] == ["budget params 0.8", "budget params 0.5"]
    for told, reports in zip(budgets, result.reports.values(), strict=True):
        assert count.params(reports[0].model, reports[0].mask) <= told["params"] * 147
    for settings in ({}, {"sparsity": []}, {"sparsity": [0.5], "rounds": [1, 2]}):
        with pytest.raises(ValueError, match="sweep: exactly one knob must have a list"):
            sweep(magnitude, tiny_model(), tiny_data(), bar=False, **settings)


@pytest.fixture
def fake_clock(monkeypatch):
    """Networks take a millisecond a weight, and what is timed is counted."""
    timed = []

    def latency(networks, x, **_):
        timed.append([count.params(net) for net in networks.values()])
        return {
            name: count.Latency(1e-3 * n, 0, 0, 5, 1, 1)
            for name, n in zip(networks, timed[-1], strict=True)
        }

    monkeypatch.setattr(count, "latency", latency)
    return timed


@pytest.mark.parametrize("limit", [0.6, 90.0])
def test_a_budget_of_time_is_that_of_the_network_once_it_is_cut(fake_clock, limit):
    model, data = tiny_model(), tiny_data()
    report = prune(filters, model, data, budget={"latency": limit}, rounds=2, bar=False)
    small, whole = count.params(report.shrink()), count.params(model)
    per_filter = count.params(model) / 12
    allowed = limit * whole if limit < 1 else limit
    assert allowed - 2 * per_filter < small <= allowed
    assert [n for n in fake_clock if fake_clock.count(n) > 1] == []  # each width once


def test_times_are_read_from_the_journal_where_a_run_goes_on(fake_clock, tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNEKIT_HOME", str(tmp_path))

    def run():
        return prune(
            filters, tiny_model(), tiny_data(), budget={"latency": 50.0}, rounds=2, epochs=1,
            run=Run(journal=Journal("t")), bar=False,
        )  # fmt: skip

    first, n = run(), len(fake_clock)
    assert n > 2
    again = run()
    assert len(fake_clock) == n
    assert again.mask == first.mask


def test_a_budget_of_time_counts_filters_that_are_gone_and_no_single_weights(fake_clock):
    with pytest.raises(ValueError, match="cannot be met"):
        prune(magnitude, tiny_model(), tiny_data(), budget={"latency": 0.01}, bar=False)
    budget = count.budget(tiny_model(), tiny_data().example, {"latency": 0.5})
    keep = torch.ones(12, 8, dtype=torch.bool)
    keep[:, 0] = False
    assert budget.cost(Mask({"0.weight": keep})) == 2.0
    keep[:6] = False
    assert budget.cost(Mask({"0.weight": keep})) == 2.0  # their biases are read
    columns = keep.any(1).expand(3, 12)
    gone = Mask({"0.weight": keep, "0.bias": keep.any(1), "2.weight": columns})
    assert budget.cost(gone) == pytest.approx(2 * 75 / 147)
