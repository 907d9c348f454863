"""Optimal thresholds: what may go, in which order, and when the search stops."""

import copy
import math

import pytest
import torch
from tiny import tiny_data, tiny_images, tiny_model, tiny_residual
from torch import nn

from prunekit import count, prune
from prunekit._random import LocalRandom
from prunekit.data import Data
from prunekit.journal import Journal
from prunekit.judge import judge, stand_in
from prunekit.methods.optimal_threshold import optimal_threshold
from prunekit.nodes import Activity, Nodes, activity, importance
from prunekit.steps import Run
from prunekit.train import fit

QUICK = dict(examples=40, bar=False)


def trained(build, data, epochs=8):
    model = build()
    for _ in fit(model, data, epochs=epochs, lr=0.1):
        pass
    return model


@pytest.fixture(scope="module", params=["linear", "residual"])
def case(request):
    build, data = {
        "linear": (tiny_model, tiny_data()), "residual": (tiny_residual, tiny_images())
    }[request.param]  # fmt: skip
    return trained(build, data), data


def searched(report):
    return [step for step in report.history if step.phase == "search"]


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("tolerance", [0.0, 0.05, 0.3])
def test_no_more_is_lost_than_is_allowed(case, scope, tolerance):
    model, data = case
    report = prune(
        optimal_threshold, model, data, scope=scope, tolerance=tolerance, stride=0.2, **QUICK
    )
    before = report.before["accuracy"]
    for step in searched(report):
        assert step.metrics["accuracy"] >= before - tolerance - 1e-6
        twin = step.mask.apply_(stand_in(model))
        n = data.unit("validation")
        assert step.metrics["accuracy"] == pytest.approx(1 - judge(twin, data) / n)
    assert report.after["accuracy"] >= before - tolerance - 1e-6


def test_with_one_threshold_all_below_it_go(case):
    model, data = case
    report = prune(optimal_threshold, model, data, scope="global", tolerance=0.4, **QUICK)
    nodes = Nodes("test", model, data)
    thresholds = [step.info["threshold"] for step in searched(report)]
    assert thresholds == sorted(thresholds)
    macs = [step.info["macs"] for step in searched(report)]
    assert macs == sorted(macs, reverse=True)
    for step in searched(report):
        assert all(
            least >= step.info["threshold"] - 1e-9 or int(nodes.left(step.mask)[name].sum()) == 1
            for name, least in step.info["thresholds"].items()
        )
        assert step.info["macs"] == pytest.approx(
            count.macs(model, data.example, step.mask).sparse
            / count.macs(model, data.example, nodes.start).sparse
        )


def test_each_raise_is_the_best_bargain_by_brute_force(case):
    model, data = case
    nodes = Nodes("test", model, data)
    report = prune(optimal_threshold, model, data, tolerance=0.3, stride=0.25, **QUICK)
    dense = count.macs(model, data.example, nodes.start).sparse
    n, kept, last = data.unit("validation"), nodes.all(), judge(stand_in(model), data)
    left = dense
    for step in searched(report):
        layers = step.info["layers"]
        bargains = []
        for layer, cost, share in zip(layers, step.tried.costs, step.info["macs_of"], strict=True):
            lost = max(100 * (cost - last) / n, 0.0)
            gain = left / dense - share
            bargains.append(gain / (lost + 0.1) if cost <= step.tried.allowed else -math.inf)
            assert layer in kept
        assert bargains[step.tried.chosen] == max(bargains)
        assert layers[step.tried.chosen] == step.info["layer"]
        last = step.tried.costs[step.tried.chosen]
        left = dense * step.info["macs"]
        after = nodes.left(step.mask)
        changed = [name for name in kept if not torch.equal(kept[name], after[name])]
        assert changed == [step.info["layer"]]
        gone = int(kept[changed[0]].sum() - after[changed[0]].sum())
        assert gone >= min(
            math.ceil(0.25 * len(after[changed[0]])), int(kept[changed[0]].sum()) - 1
        )
        kept = after


@pytest.mark.parametrize("fold", [False, True])
def test_on_the_shrunk_network_the_search_is_the_same(case, fold):
    model, data = case
    told = []
    for on in ("shrunk", "masked"):
        report = prune(
            optimal_threshold, model, data, tolerance=0.3, stride=0.2, on=on, fold=fold, epochs=2,
            lr=0.05, **QUICK,
        )  # fmt: skip
        told.append((
            [(s.mask, s.info.get("layer"), s.tried.costs) for s in searched(report)],
            [(s.phase, round(s.metrics["accuracy"], 2)) for s in report.history],
        ))  # fmt: skip
    assert told[0] == told[1]


def test_few_images_choose_and_all_confirm(case):
    model, data = case
    report = prune(optimal_threshold, model, data, tolerance=0.1, images=10, stride=0.2, **QUICK)
    for step in searched(report):
        assert step.metrics["accuracy"] >= report.before["accuracy"] - 0.1 - 1e-6
        assert step.tried.allowed <= 10


def test_nothing_to_remove_is_said_by_a_step_that_removes_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 1), nn.ReLU(), nn.Linear(1, 3))
    for scope in ("global", "layer"):
        report = prune(optimal_threshold, model, tiny_data(), scope=scope, **QUICK)
        assert [step.phase for step in report.history] == ["prune"]
        assert report.sparsity == 0


class Depthwise(nn.Module):
    def __init__(self):
        super().__init__()
        self.point, self.deep = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, groups=4)
        self.out = nn.Linear(4 * 16, 3)

    def forward(self, x):
        return self.out(torch.relu(self.deep(torch.relu(self.point(x)))).flatten(1))


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_grouped_layer_is_searched_down_to_its_last_group(scope):
    with LocalRandom(0):
        model = Depthwise()
    report = prune(optimal_threshold, model, tiny_images(), scope=scope, tolerance=1.0, **QUICK)
    assert report.shrink().deep.groups == 1


def test_a_network_whose_weights_are_all_frozen_is_judged_all_the_same():
    free, frozen = (trained(tiny_model, tiny_data()) for _ in range(2))
    frozen.requires_grad_(False)
    one, two = (prune(optimal_threshold, m, tiny_data(), **QUICK) for m in (free, frozen))
    assert one.mask == two.mask


def test_a_network_without_gradients_and_readers_of_some_examples_are_refused_by_name():
    class Blind(nn.Sequential):
        def forward(self, x):
            with torch.no_grad():
                return super().forward(x)

    class Routed(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
            self.out = nn.Linear(8, 3)

        def forward(self, x):
            some, y = x[:, 0] > x[:, 0].mean(), self.out(x)
            y[some] = self.one(x[some])
            return y

    with pytest.raises(ValueError, match="optimal_threshold: Blind gives no gradients"):
        prune(optimal_threshold, Blind(nn.Linear(8, 4), nn.Linear(4, 3)), tiny_data(), **QUICK)
    with pytest.raises(
        ValueError, match=r"not once for each example. Pass ignore=\('one.0.weight'"
    ):
        prune(optimal_threshold, Routed(), tiny_data(), **QUICK)


def test_nodes_that_never_fire_go_first_and_cost_nothing():
    data = tiny_data()
    model = trained(tiny_model, data)
    with torch.no_grad():
        for dead in (2, 7, 9):
            model[0].weight[dead], model[0].bias[dead] = 0.0, -1.0
    report = prune(optimal_threshold, model, data, tolerance=0.0, stride=0.25, **QUICK)
    first = searched(report)[0]
    assert not first.mask["0.weight"][[2, 7, 9]].any()
    assert first.metrics["accuracy"] == report.before["accuracy"]


@pytest.mark.parametrize(("again", "looks"), [(0, 0), (1, 1), (2, 0.5)])
def test_importance_is_found_anew_after_so_many_raises(case, again, looks, monkeypatch):
    model, data = case
    seen = []

    def watched(*given, **more):
        seen.append(given)
        return activity(*given, **more)

    monkeypatch.setattr("prunekit.nodes.activity", watched)
    settings = dict(tolerance=0.3, stride=0.2, again=again)
    report = prune(optimal_threshold, model, data, **settings, **QUICK)
    assert len(searched(report)) > 1
    assert len(seen) == 1 + int(looks * len(searched(report)))


@pytest.mark.parametrize("sensitivity", ["taylor", "deviation", "ablation"])
@pytest.mark.parametrize("correlation", ["largest", "mean"])
@pytest.mark.parametrize("combined", ["product", "sum"])
def test_every_way_to_tell_importance_runs(sensitivity, correlation, combined):
    report = prune(
        optimal_threshold, tiny_model(), tiny_data(), sensitivity=sensitivity, stride=0.3,
        correlation=correlation, combined=combined, tolerance=0.5, **QUICK,
    )  # fmt: skip
    assert report.sparsity > 0


def test_importance_by_hand():
    mean = torch.zeros(3)
    # Nodes 0 and 1 say the same; node 2 nearly nothing of them.
    covariance = torch.tensor([[1.0, 1.0, 0.1], [1.0, 1.0, 0.1], [0.1, 0.1, 1.0]])
    told = Activity(torch.tensor([3.0, 1.0, 2.0]), mean, covariance, torch.ones(3))
    (worth,) = importance({"a": told}).values()
    # Ranks of Taylor 1, 0, ½; of the largest correlation ¾, ¾, 0.
    torch.testing.assert_close(worth, torch.tensor([1 - 0.375, 0.0, 0.5]), check_dtype=False)
    (alone,) = importance({"a": told}, redundancy=0.0).values()
    torch.testing.assert_close(alone, torch.tensor([1.0, 0.0, 0.5]), check_dtype=False)


def test_it_resumes_from_its_journal_without_judging_again(tmp_path, case):
    model, data = case
    settings = dict(tolerance=0.2, stride=0.3, examples=40, seed=1)
    first = [
        *optimal_threshold(
            copy.deepcopy(model), data, run=Run(journal=Journal(tmp_path)), **settings
        )
    ]
    again = [
        *optimal_threshold(
            copy.deepcopy(model), data, run=Run(journal=Journal(tmp_path)), **settings
        )
    ]
    assert [(s.mask, dict(s.metrics), s.tried) for s in first] == [
        (s.mask, dict(s.metrics), s.tried) for s in again
    ]


def test_a_regression_is_searched_by_its_metric():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(80, 8, generator=generator)
    data = Data.of((x, x.sum(1)), 0.5, loss=nn.functional.mse_loss, metric=closeness)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 1), nn.Flatten(0))
    report = prune(optimal_threshold, model, data, tolerance=0.5, stride=0.2, **QUICK)
    assert report.sparsity > 0


def closeness(outputs, y):
    return float(1 - (outputs - y).square().mean())
