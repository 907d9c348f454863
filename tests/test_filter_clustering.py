"""Filter clustering: who stays, how many, and what is said of it."""

import pytest
import torch
from tiny import tiny_data, tiny_images, tiny_model, tiny_residual
from torch import nn

from prunekit import clusters, count, models, prune
from prunekit.baselines.filters import PLANS, TRUNK, filters
from prunekit.data import Data
from prunekit.methods.filter_clustering import filter_clustering
from prunekit.nodes import Nodes

QUICK = dict(steps=20, bar=False)


def digits(n=60):
    generator = torch.Generator().manual_seed(0)
    return Data.of((torch.rand(n, 1, 28, 28, generator=generator), torch.arange(n) % 10), 0.5)


def widths(report, nodes):
    return tuple(int(keep.sum()) for keep in nodes.left(report.mask).values())


def test_of_filters_that_are_copies_one_of_each_stays():
    model = tiny_model()
    with torch.no_grad():
        for i in range(12):  # four directions, three lengths each
            model[0].weight[i] = model[0].weight[i % 4] * (1 + i // 4)
    data = tiny_data()
    for features in clusters.FEATURES:
        for survivor in clusters.SURVIVORS:
            report = prune(
                filter_clustering, model, data, widths=(4,), features=features, survivor=survivor,
                **QUICK,
            )  # fmt: skip
            stay = report.mask["0.weight"].any(1).nonzero().flatten()
            assert sorted((stay % 4).tolist()) == [0, 1, 2, 3]
            if survivor == "largest":
                assert stay.min() >= 8


@pytest.mark.parametrize("features", clusters.FEATURES)
def test_each_layer_keeps_as_many_as_there_are_clusters(features):
    model, data = models.build("lenet_5"), digits()
    nodes = Nodes("test", model, data)
    report = prune(filter_clustering, model, data, widths=(7, 11, 100), features=features, **QUICK)
    assert widths(report, nodes) == (7, 11, 100)
    step = report.history[0]
    assert step.info["clusters"] == dict(zip(nodes.sizes, (7, 11, 100), strict=True))
    not_converged = [*nodes.sizes] if features == "autoencoder" else []
    assert step.info["not converged"] == not_converged
    share = prune(filter_clustering, model, data, share=0.6, features=features, **QUICK)
    assert widths(share, nodes) == (8, 20, 200)


def test_a_budget_gives_the_widths_of_other_methods():
    model, data = models.build("lenet_5"), digits()
    nodes = Nodes("test", model, data)
    asked = dict(budget={"macs": 0.4}, bar=False)
    ours = prune(filter_clustering, model, data, steps=20, **asked)
    theirs = prune(filters, model, data, **asked)
    assert widths(ours, nodes) == widths(theirs, nodes)
    assert (
        count.macs(model, data.example, ours.mask).sparse
        <= 0.4 * count.macs(model, data.example).dense
    )


def test_a_silhouette_lets_layers_choose():
    model = tiny_model()
    with torch.no_grad():  # four true kinds among the 12 filters
        model[0].weight.copy_(model[0].weight[torch.arange(12) % 4])
        model[0].weight.add_(1e-3 * torch.rand(12, 8))
    asked = dict(features="raw", **QUICK)
    report = prune(filter_clustering, model, tiny_data(), silhouette=0.8, **asked)
    assert report.history[0].info["clusters"] == {"0.weight": 4}
    whole = prune(filter_clustering, tiny_model(), tiny_data(), silhouette=1.0, **asked)
    assert whole.history[0].info["clusters"] == {"0.weight": 12}  # no share is as clear


@pytest.mark.parametrize(
    "both", [dict(widths=(3,), silhouette=0.1), dict(widths=(3,), budget={"macs": 0.5})]
)
def test_two_ways_to_say_how_many_are_refused(both):
    with pytest.raises(ValueError, match="^filter_clustering: takes one of a budget"):
        prune(filter_clustering, tiny_model(), tiny_data(), **both, **QUICK)


def test_more_clusters_than_filters_are_refused_before_any_work():
    with pytest.raises(ValueError, match="^filter_clustering: widths must be one for each of"):
        filter_clustering(tiny_model(), tiny_data(), widths=(13,))


def test_layers_of_one_filter_and_constant_filters_do_no_harm():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 1), nn.ReLU(), nn.Linear(1, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[2].weight.fill_(0.5)
    for algorithm in clusters.ALGORITHMS:
        report = prune(
            filter_clustering, model, tiny_data(), share=0.5, algorithm=algorithm, **QUICK
        )
        assert int(report.mask["2.weight"].any(1).sum()) == 3


def test_published_plans_leave_the_trunk_whole():
    plan = PLANS["resnet_56 B"]
    model = models.build("resnet_56")
    data = Data.of((torch.rand(20, 3, 32, 32), torch.arange(20) % 10), 0.5)
    nodes = Nodes("test", model, data, TRUNK)
    assert len(nodes.sizes) == len(plan)
    report = prune(
        filter_clustering, model, data, widths=plan, ignore=TRUNK, features="raw", bar=False
    )
    assert widths(report, nodes) == plan


def test_trained_shrunk_or_masked_it_ends_alike():
    ends = []
    for on in ("shrunk", "masked"):
        report = prune(
            filter_clustering, tiny_residual(), tiny_images(), on=on, epochs=2, lr=0.05, **QUICK
        )
        ends.append(torch.cat([p.detach().flatten() for p in report.model.parameters()]))
    torch.testing.assert_close(*ends, rtol=1e-3, atol=1e-4)


def test_recalibration_is_told_in_its_step():
    report = prune(filter_clustering, tiny_residual(), tiny_images(), recalibrate=True, **QUICK)
    assert report.history[0].info["recalibrated"]
    assert "clusters" in report.history[0].info
