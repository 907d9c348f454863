"""Nodes: the masks they stand for, and what examples tell of them, beside brute force."""

import copy
import math

import numpy as np
import pytest
import torch
from test_surgery import answers, apart, drawn
from tiny import tiny_data, tiny_images, tiny_model, tiny_residual
from torch import nn
from zoo import GOING, ZOO

from prunekit import models, surgery
from prunekit.data import Data
from prunekit.judge import judge, stand_in
from prunekit.nodes import Activity, Nodes, ablation, activity, folded


class Example:
    """Data of which only the example counts."""

    kind = property(lambda self: type(self))

    def __init__(self, x):
        self.example = x


@pytest.fixture
def unwrapped(monkeypatch):
    monkeypatch.setattr("prunekit.nodes.wrap", lambda data: data)


# None of the weights of the one that is left out may be pruned.
@pytest.mark.parametrize("name", [n for n, going in GOING.items() if going and n != "two_factors"])
def test_what_nobody_reads_says_as_little_as_what_is_not_there(name, unwrapped):
    model, x = ZOO[name]()
    drawn(model, 3)
    nodes = Nodes("test", model, Example(x))
    generator, moved = torch.Generator().manual_seed(1), 0.0
    for _ in range(3):
        kept = nodes.all()
        for keep in kept.values():
            keep[torch.rand(len(keep), generator=generator) < 0.4] = False
            keep[0] = True
        mask = nodes.mask(model, kept)
        want = answers(mask.apply_(copy.deepcopy(model)), x)
        assert apart(want, answers(nodes.unread(kept).apply_(copy.deepcopy(model)), x)) < 1e-5
        moved = max(moved, apart(answers(model, x), want))
        left = nodes.left(mask)
        assert all(torch.equal(left[n], kept[n]) for n in kept)
    assert moved > 1e-4 or all(n == 1 for n in nodes.sizes.values())


def test_classes_and_what_is_ignored_are_no_nodes():
    nodes = Nodes("test", tiny_residual(), tiny_images(), ["conv2.weight"])
    assert not {"fc.weight", "conv2.weight"} & {*nodes.sizes}
    with pytest.raises(ValueError, match="^who: Sequential has no filters that can go"):
        Nodes("who", nn.Sequential(nn.Linear(8, 3)), tiny_data())


def test_widths_are_one_for_each_layer():
    nodes = Nodes("test", tiny_model(), tiny_data())
    ((name, n),) = nodes.sizes.items()
    assert nodes.widths("test", (n // 4,)) == {name: 0.75}
    for wrong in ((1, 1), (n + 1,)):
        with pytest.raises(ValueError, match="^test: widths must be one for each of"):
            nodes.widths("test", wrong)


# ------------------------------------------------------------------------------------- activity


def read_of(model, data, layer, split="train"):
    """What a layer is given for all examples, and the slopes of each example's loss for it."""
    seen = []
    hook = model.get_submodule(layer).register_forward_pre_hook(
        lambda _, given: seen.append(given[0])
    )
    ((x, y),) = data.batches(split, data.size(split))
    out = model.eval()(x)
    loss = nn.functional.cross_entropy(out, y, reduction="sum")
    (slope,) = torch.autograd.grad(loss, seen[0])
    hook.remove()
    return seen[0].detach(), slope


def by_hand(a, slope):
    """(n, c, ...) -> what `Activity` holds, over all places."""
    a, slope = a.flatten(2) if a.ndim > 2 else a.unsqueeze(2), slope.reshape(*a.shape[:2], -1)
    rows = a.transpose(1, 2).flatten(0, 1).double().numpy()
    return (a * slope).sum(2).abs().mean(0), np.cov(rows.T, bias=True), np.corrcoef(rows.T)


def test_activity_is_that_of_brute_force():
    model, data = tiny_model(), tiny_data()
    nodes = Nodes("test", model, data)
    (found,) = activity("test", model, data, nodes, examples=10_000).values()
    a, slope = read_of(model, data, "2")
    change, covariance, correlation = by_hand(a, slope)
    torch.testing.assert_close(found.taylor, change.double(), rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(found.mean, a.double().mean(0), rtol=1e-5)
    varies = found.deviation > 0
    expected = np.where(np.isfinite(correlation), correlation, 0.0)
    np.fill_diagonal(expected, 0.0)
    np.testing.assert_allclose(found.correlation, expected, atol=1e-6)
    weight = model[2].weight.detach().double()
    torch.testing.assert_close(found.outgoing, weight.abs().sum(0))
    assert varies.any()


def test_channels_that_are_flattened_and_read_twice_are_one_node_each():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3, padding=1)
            self.one, self.two = nn.Conv2d(4, 2, 3), nn.Linear(4 * 36, 3)

        def forward(self, x):
            a = torch.relu(self.conv(x))
            return self.two(a.flatten(1)) + self.one(a).mean((1, 2, 3)).unsqueeze(1)

    torch.manual_seed(0)
    model = Twice()
    data = Data.of((torch.rand(60, 1, 6, 6), torch.arange(60) % 3), 0.5)
    nodes = Nodes("test", model, data, ["one.weight"])
    found = activity("test", model, data, nodes)["conv.weight"]
    a, both = read_of(model, data, "one")  # the very tensor that is flattened for the other one
    change = (a * both).flatten(2).sum(2).abs().mean(0).double()
    torch.testing.assert_close(found.taylor, change, rtol=1e-4, atol=1e-8)
    sizes = model.two.weight.detach().abs().sum(0).reshape(4, 36).sum(1).double()
    torch.testing.assert_close(
        found.outgoing, sizes + model.one.weight.detach().abs().sum((0, 2, 3))
    )


def test_a_node_that_never_fires_is_worth_nothing_and_like_none():
    model, data = tiny_model(), tiny_data()
    with torch.no_grad():
        model[0].weight[3], model[0].bias[3] = 0.0, -1.0
        model[0].weight[5], model[0].bias[5] = 0.0, 2.0  # constant
    (found,) = activity("test", model, data, Nodes("test", model, data)).values()
    assert found.taylor[3] == found.mean[3] == 0
    assert not found.correlation[[3, 5]].any()
    assert not found.correlation[:, [3, 5]].any()


def test_nodes_that_something_else_reads_are_refused_by_name():
    class Bilinear(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(8, 6), nn.Parameter(torch.rand(6, 3))

        def forward(self, x):
            return torch.relu(self.first(x)) @ self.last

    with pytest.raises(ValueError, match=r"^test: last reads the filters of first.weight.*ignore="):
        activity("test", Bilinear(), tiny_data(), Nodes("test", Bilinear(), tiny_data()))


def test_ablation_is_the_loss_without_each_node():
    model, data = tiny_model(), tiny_data()
    nodes = Nodes("test", model, data)
    ((name, found),) = ablation("test", model, data, nodes, examples=10_000).items()
    ((x, y),) = data.batches("train", data.size("train"))

    def loss(network):
        with torch.no_grad():
            return float(nn.functional.cross_entropy(network(x), y))

    for node in range(nodes.sizes[name]):
        kept = {name: torch.arange(nodes.sizes[name]) != node}
        rise = loss(nodes.mask(model, kept).apply_(copy.deepcopy(model))) - loss(model)
        assert math.isclose(float(found[node]), max(rise, 0.0), rel_tol=1e-3, abs_tol=1e-6)


# --------------------------------------------------------------------------------------- folding


@pytest.mark.parametrize("name", ["lenet_5", "vgg_small"])
def test_a_twin_that_says_the_same_says_it_for_the_node_that_goes(name):
    model = models.build(name).eval()
    layer, norm = ("conv1", "") if name == "lenet_5" else ("features.0", "features.1")
    with torch.no_grad():  # filter 3 is 2 × filter 1, after norm and ReLU
        conv = model.get_submodule(layer)
        conv.weight[3], conv.bias[3] = 2 * conv.weight[1], 2 * conv.bias[1]
        if norm:
            bn = model.get_submodule(norm)
            bn.running_mean[3], bn.running_var[3] = 2 * bn.running_mean[1], bn.running_var[1]
            bn.weight[3], bn.bias[3] = bn.weight[1], 2 * bn.bias[1]
    data = Data.of((torch.rand(40, 1, 28, 28), torch.arange(40) % 10), 0.5)
    nodes = Nodes("test", model, data)
    found = activity("test", model, data, nodes)
    kept = nodes.all()
    kept[f"{layer}.weight"][3] = False
    x = data.example
    want = answers(model, x)
    values = folded(model, nodes, kept, found)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for key, value in values.items():
            twin.get_parameter(key).copy_(value)
    assert apart(want, answers(twin, x)) < 1e-4
    # What the filter says is no longer read, and cutting it out changes nothing.
    small = surgery.shrink(twin, nodes.mask(twin, kept), x)
    assert apart(want, answers(small, x)) < 1e-4
    assert apart(want, answers(nodes.unread(kept).apply_(copy.deepcopy(model)), x)) > 1e-3


def test_a_constant_goes_into_the_bias_of_the_layer_that_reads_it():
    model, data = tiny_model(), tiny_data()
    with torch.no_grad():
        model[0].weight[5], model[0].bias[5] = 0.0, 2.0
    nodes = Nodes("test", model, data)
    kept = nodes.all()
    (keep,) = kept.values()
    keep[5] = False
    values = folded(model, nodes, kept, activity("test", model, data, nodes))
    torch.testing.assert_close(values["2.bias"], model[2].bias + 2.0 * model[2].weight[:, 5])


def test_activity_among_some_is_theirs():
    told = Activity(torch.rand(4), torch.rand(4), torch.rand(4, 4), torch.rand(4))
    keep = torch.tensor([True, False, True, True])
    part = told.among(keep)
    assert torch.equal(part.covariance, told.covariance[[0, 2, 3]][:, [0, 2, 3]])
    assert torch.equal(part.taylor, told.taylor[keep])


def test_costs_under_either_mask_are_equal():
    model, data = tiny_residual(), tiny_images()
    nodes = Nodes("test", model, data)
    kept = nodes.all()
    for keep in kept.values():
        keep[: len(keep) // 2] = False
    masks = nodes.mask(model, kept), nodes.unread(kept)
    assert len({judge(mask.apply_(stand_in(model)), data) for mask in masks}) == 1
