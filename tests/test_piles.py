"""Filters in piles, without a browser: what is sent."""

import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from tiny import tiny_data, tiny_images, tiny_model, tiny_residual

from prunekit import clusters, pretrained
from prunekit.datasets import mnist_small
from prunekit.methods.filter_clustering import filter_clustering
from prunekit.nodes import Nodes
from prunekit.widgets import views
from prunekit.widgets.piles import start
from prunekit.widgets.views.filter_clustering import MANY, NAMES, STAYS


@pytest.mark.parametrize(("make", "data"), [(tiny_model, tiny_data), (tiny_residual, tiny_images)])
def test_each_number_of_clusters_is_clustered_and_one_of_each_stays(make, data):
    model = make()
    nodes = Nodes("test", model, data())
    name, n = next(iter(nodes.sizes.items()))
    shown = views.of(filter_clustering, model, data()).shown
    assert shown["counts"] == [*range(1, n + 1)]
    assert (shown["layer"], len(shown["filters"])) == (name.removesuffix(".weight"), n)
    assert max(abs(v) for each in shown["filters"] for v in each) == 1
    points = clusters.turned(clusters.normalised(clusters.rows(model, nodes, name)))
    for at, k in enumerate(shown["counts"]):
        own = shown["clusters"][NAMES["raw"]]["labels"][at]
        assert adjusted_rand_score(own, clusters.clustered(points, k)) == 1
        for found in shown["clusters"].values():
            labels = found["labels"][at]
            for rule in STAYS.values():
                stay = found["stay"][rule][at]
                assert sorted(labels[i] for i in stay) == [*range(k)]


def test_of_many_filters_some_numbers_of_clusters_are_there():
    view = views.of(filter_clustering, pretrained("lenet_5"), mnist_small(), layer="conv2.weight")
    counts = view.shown["counts"]
    assert (counts[0], counts[-1], len(counts)) == (1, 50, MANY)
    assert (view.shown["shape"], len(view.shown["filters"][0])) == ([5, 5], 25)


@pytest.mark.parametrize(
    ("counts", "n", "first"), [([1], 1, 0), ([1, 2, 3, 4, 5], 5, 2), ([1, 4, 7, 10], 10, 2)]
)
def test_about_half_are_shown_first(counts, n, first):
    assert start(counts, n) == first
    assert torch.tensor(counts)[start(counts, n)] * 2 >= n
