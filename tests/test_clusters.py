"""Rows, features, clusters and survivors, beside scikit-learn and laws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from tiny import tiny_data, tiny_images, tiny_model, tiny_residual

from prunekit import clusters
from prunekit.nodes import Nodes


def drawn(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def islands(k, each=6, d=8, seed=0):
    """k far apart heaps of points, and which heap each is in."""
    middles = 50 * drawn(k, d, seed)
    of = torch.arange(k).repeat_interleave(each)
    return middles[of] + 0.1 * drawn(k * each, d, seed + 1), of


def test_rows_are_the_weights_of_each_node():
    model, data = tiny_model(), tiny_data()
    nodes = Nodes("test", model, data)
    (name,) = nodes.sizes
    assert torch.equal(clusters.rows(model, nodes, name), model[0].weight)
    model, data = tiny_residual(), tiny_images()
    nodes = Nodes("test", model, data)
    for name, n in nodes.sizes.items():
        x = clusters.rows(model, nodes, name)
        filters = [
            model.get_parameter(weight).movedim(dim, 0).flatten(1)[torch.from_numpy(own)]
            for weight, dim, own, _ in nodes.groups.filters(name)
        ]
        assert x.shape == (n, sum(f.shape[1] * len(f) // n for f in filters))
        total = sum(float(f.detach().square().sum()) for f in filters)
        assert float(x.detach().square().sum()) == pytest.approx(total, rel=1e-5)


@given(st.integers(2, 30), st.integers(2, 60), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_turning_keeps_all_distances(n, d, seed):
    x = drawn(n, d, seed)
    y = clusters.turned(x)
    assert y.shape == (n, min(n, d))
    y, x = y.double(), x.double()
    torch.testing.assert_close(torch.cdist(y, y), torch.cdist(x, x), rtol=1e-3, atol=1e-3)


def test_normalised_rows_have_length_1_and_rows_of_0_stay():
    x = drawn(5, 4)
    x[2] = 0.0
    lengths = clusters.normalised(x).norm(dim=1)
    torch.testing.assert_close(lengths, torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0]))


# -------------------------------------------------------------------------------------- features


def test_principal_components_are_those_of_scikit_learn():
    x = drawn(40, 12)
    found = clusters.features(x, "pca", width=5)
    peer = PCA(5).fit(x.numpy())
    np.testing.assert_allclose(
        np.abs(found.codes(x).numpy()), np.abs(peer.transform(x.numpy())), atol=1e-4
    )
    back = peer.inverse_transform(peer.transform(x.numpy()))
    np.testing.assert_allclose(found.back(found.codes(x)).numpy(), back, atol=1e-4)
    assert found.error == pytest.approx(1 - peer.explained_variance_ratio_.sum(), abs=1e-4)


def test_raw_rows_come_back_as_they_are():
    x = drawn(7, 3)
    found = clusters.features(x, "raw")
    assert torch.equal(found.back(found.codes(x)), x)
    assert found.error == 0 == clusters.relative_error(found, x)


def test_an_autoencoder_learns_a_line():
    """Rows on a curve need one number each; the mean row would leave an error of 1."""
    t = torch.linspace(-1, 1, 64).unsqueeze(1)
    x = clusters.normalised(torch.cat([torch.cos(2 * t), torch.sin(2 * t)], 1))
    found = clusters.features(x, "autoencoder", width=1, noise=0.05, steps=4_000)
    assert found.error < 0.1
    assert found.codes(x).shape == (64, 1)
    assert clusters.features(x, "pca", width=1).error > 0.1  # no straight line does


def test_an_autoencoder_is_the_same_for_a_seed_and_leaves_the_generator_alone():
    x, before = drawn(20, 8), torch.get_rng_state()
    one, same, other = (
        clusters.features(x, "autoencoder", steps=60, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(one.codes(x), same.codes(x))
    assert not torch.equal(one.codes(x), other.codes(x))
    assert torch.equal(torch.get_rng_state(), before)


def test_it_says_whether_it_converged():
    x = drawn(20, 8)
    short = clusters.features(x, "autoencoder", steps=20)
    assert (short.steps, short.converged) == (20, False)
    # Of rows that are all alike there is nothing to learn for long.
    alike = clusters.features(torch.ones(20, 8), "autoencoder", steps=20_000)
    assert alike.converged
    assert alike.steps < 20_000


def test_what_is_held_out_is_not_learned_from():
    x, error = drawn(40, 30), {}
    for kind in ("pca", "autoencoder"):
        error[kind] = clusters.held_out_error(x, kind)
        assert error[kind] > clusters.features(x, kind).error
    with pytest.raises(ValueError, match="of 3 rows none can be held out"):
        clusters.held_out_error(x[:3], "pca")


# -------------------------------------------------------------------------------------- clusters


@pytest.mark.parametrize("algorithm", clusters.ALGORITHMS)
def test_heaps_that_lie_apart_are_found(algorithm):
    x, of = islands(4)
    labels = clusters.clustered(x, 4, algorithm)
    assert adjusted_rand_score(of, labels) == 1


@given(st.sampled_from(clusters.ALGORITHMS), st.integers(1, 12), st.integers(0, 3), st.booleans())
@settings(max_examples=40, deadline=None)
def test_no_cluster_is_empty(algorithm, k, seed, twins):
    x = drawn(12, 3, seed)
    if twins:  # fewer distinct codes than clusters
        x = x[torch.arange(12) // 4]
    labels = clusters.clustered(x, k, algorithm, seed)
    assert labels.dtype is torch.int64
    assert sorted(set(labels.tolist())) == [*range(k)]
    assert torch.equal(clusters.clustered(x, k, algorithm, seed), labels)


def test_k_means_is_as_good_as_scikit_learns():
    x = drawn(60, 5)
    labels = clusters.clustered(x, 7)
    inertia = sum(float((x[labels == k] - x[labels == k].mean(0)).square().sum()) for k in range(7))
    assert inertia <= 1.02 * KMeans(7, n_init=20, random_state=0).fit(x.numpy()).inertia_


def test_more_clusters_than_codes_are_refused():
    with pytest.raises(ValueError, match="^clustered: k must be at most the 4 codes, got 5"):
        clusters.clustered(drawn(4, 2), 5)


@given(st.integers(1, 10), st.integers(0, 9), st.sampled_from(clusters.SURVIVORS))
@settings(max_examples=40, deadline=None)
def test_of_each_cluster_one_stays_and_none_is_better(k, seed, survivor):
    x = drawn(15, 4, seed)
    labels, norms = clusters.clustered(x, k, seed=seed), drawn(15, 1, seed + 50).flatten().abs()
    keep = clusters.survivors(x, labels, norms, survivor)
    for number in range(k):
        own = labels == number
        assert int(keep[own].sum()) == 1
        apart = (x - x[own].mean(0)).norm(dim=1)
        if survivor == "nearest":
            assert apart[own & keep] <= apart[own].min() + 1e-6
        else:
            assert norms[own & keep] == norms[own].max()


def test_silhouettes_are_highest_at_the_true_number_of_heaps():
    x, _ = islands(5)
    found = clusters.silhouettes(x, range(2, 12))
    assert max(found, key=found.get) == 5
    assert all(-1 <= value <= 1 for value in found.values())
    assert clusters.silhouettes(x, [1, 30]) == {}  # there is no next cluster, or none of several
