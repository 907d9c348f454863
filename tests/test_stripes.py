"""Stripes: wrapping is exact, thresholds and similarities are what is written, smaller networks
answer alike."""

import copy
import io
import math
import warnings

import numpy as np
import pytest
import torch
from tiny import tiny_images, tiny_model, tiny_residual
from torch import nn
from torch.nn.utils import parametrizations

from prunekit import Mask, count, experiments, stripes, surgery
from prunekit._random import LocalRandom
from prunekit._torchvision import torchvision
from prunekit.models import build
from prunekit.stripes import ByPosition, Striped
from prunekit.train import fit

CHANNELS = {"lenet_5": (1, 28), "vgg_16": (3, 32), "resnet_20": (3, 32), "resnet_56": (3, 32)}


def images(name, n=2):
    channels, size = CHANNELS.get(name, (3, 64))
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


def network(name):
    if name == "resnet18":
        with LocalRandom(0):
            return torchvision().models.resnet18(num_classes=10).eval()
    return build(name).eval()


def worn(model, seed=0, delta=0.8):
    """The network with skeletons that were trained, so to speak, and lost stripes."""
    if not stripes.layers(model):
        stripes.wrap(model)
    generator = torch.Generator().manual_seed(seed)
    for conv in stripes.layers(model).values():
        conv.skeleton.data = torch.randn(conv.skeleton.shape, generator=generator)
        conv.cut_(delta, "dtc")
    return model


NETWORKS = [*CHANNELS, "resnet18"]


@pytest.mark.parametrize("name", NETWORKS)
def test_wrapping_and_unwrapping_change_no_answer_and_no_name(name):
    model, x = network(name), images(name)
    names, before = dict(model.named_parameters()), model(x)
    kept = {name: p.data_ptr() for name, p in names.items()}
    own = stripes.wrap(model)
    assert len(own) == sum(isinstance(m, nn.Conv2d) for m in model.modules())
    assert torch.equal(model(x), before)
    now = dict(model.named_parameters())
    assert {n: now[n].data_ptr() for n in names} == kept  # no copy
    assert {*now} - {*names} == {n.removesuffix("weight") + "skeleton" for n in own}
    worn_answers = worn(model)(x)
    stripes.unwrap(model)
    assert torch.equal(model(x), worn_answers)
    assert dict(model.named_parameters()).keys() == names.keys()
    assert dict(model.named_buffers()).keys() == dict(network(name).named_buffers()).keys()
    assert {type(m) for m in model.modules()} == {type(m) for m in network(name).modules()}


CONVOLUTIONS = {
    "plain": lambda: nn.Conv2d(4, 6, 3),
    "no bias, strides": lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), bias=False),
    "padded, dilated": lambda: nn.Conv2d(4, 6, 3, padding=2, dilation=(2, 1)),
    "same": lambda: nn.Conv2d(4, 6, (3, 5), padding="same"),
    "reflected": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    "1 x 1": lambda: nn.Conv2d(4, 6, 1, stride=2),
    "groups": lambda: nn.Conv2d(4, 6, 3, groups=2),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_stripes_place_by_place_are_the_convolution(kind):
    with LocalRandom(0):
        conv, x = CONVOLUTIONS[kind](), torch.randn(2, 4, 11, 12)
    model = worn(nn.Sequential(conv))
    expected, keep = model(x), conv.alive[:, 0]
    stripes.unwrap(model)
    assert torch.equal(model(x), expected)
    if conv.groups > 1:
        return
    form = ByPosition(conv, keep)
    assert torch.allclose(form(x), expected, atol=1e-5)
    assert form.weight.numel() == int(keep.sum()) * 4


def test_similarity_is_one_minus_the_angle_to_the_mean_over_pi():
    generator = torch.Generator().manual_seed(0)
    skeletons = torch.randn(5, 9, generator=generator)
    mean = skeletons.numpy().mean(0)
    for own, found in zip(skeletons.numpy(), stripes.similarity(skeletons), strict=True):
        cosine = own @ mean / np.linalg.norm(own) / np.linalg.norm(mean)
        assert float(found) == pytest.approx(1 - math.acos(cosine) / math.pi, abs=1e-5)
    alike = stripes.similarity(torch.ones(3, 4))
    assert alike.tolist() == pytest.approx([1, 1, 1], abs=1e-3)  # and no NaN
    gone = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    assert float(stripes.similarity(gone)[0]) == pytest.approx(0.5)


def test_thresholds_times_norms_are_one_number_a_layer():
    skeletons = torch.tensor([[0.9, -0.9, 0.9], [0.1, 0.1, -0.1], [0.5, 0.0, 0.4]])
    norms = skeletons.abs().sum(1)
    found = stripes.thresholds(skeletons, 0.05, "dtc")
    assert torch.allclose(found * norms, torch.full((3,), 0.05 * float(norms.mean())))
    assert stripes.thresholds(skeletons, 0.05, "fixed").tolist() == pytest.approx([0.05] * 3)
    # A filter of k equal stripes of size v is above its threshold if v > sqrt(δ × mean / k).
    equal = torch.full((1, 9), 0.2)
    for delta, stays in ((0.1, True), (0.3, False)):
        assert bool(stripes.thresholds(equal, delta, "dtc")[0] < 0.2) == stays
    far = stripes.thresholds(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), 0.05, "dtc")
    assert far[0] > 1e9


def test_a_cut_is_for_good_and_leaves_each_layer_a_filter():
    model = nn.Sequential(nn.Conv2d(2, 3, 2))
    stripes.wrap(model)
    (conv,) = stripes.layers(model).values()
    conv.skeleton.data = torch.tensor([[0.1, 0.9, 0.9, 0.9], [0.2] * 4, [0.3] * 4]).view(3, 1, 2, 2)
    conv.skeleton.grad = torch.ones_like(conv.skeleton)
    conv.cut_(0.15, "fixed")
    gone = torch.zeros(3, 1, 2, 2, dtype=torch.bool)
    gone[0, 0, 0, 0] = True
    assert torch.equal(~conv.alive, gone)
    assert torch.equal(conv.skeleton.grad, (~gone).float())
    assert torch.equal(conv.skeleton == 0, gone)
    conv.skeleton.data[0, 0, 0, 0] = 5.0  # as momentum does
    assert torch.equal(conv.kernel()[gone.expand(3, 2, 2, 2)], torch.zeros(2))
    conv.cut_(0.95, "fixed")  # more than any
    assert conv.alive.flatten(1).sum(1).tolist() == [3, 0, 0]


@pytest.mark.parametrize("name", ["lenet_5", "resnet_20", "resnet18"])
def test_what_is_left_answers_alike_masked_shrunk_and_compact(name):
    model, x = worn(network(name)), images(name)
    mask = stripes.left(model, Mask({}), surgery.groups(model, x))
    assert {*mask} <= {*dict(network(name).named_parameters())}
    stripes.unwrap(model)
    mask.apply_(model)
    expected = model(x)
    alive = {n: keep for n, keep in mask.items() if keep.ndim == 4}
    told = stripes.shares(mask)
    assert told["stripes"] == pytest.approx(
        sum(int(k.any(1).sum()) for k in alive.values())
        / sum(k[:, 0].numel() for k in alive.values())
    )
    for form in ("dense", "stripes", "fastest"):
        small, forms = stripes.compact(model, mask, x, form, seconds=0.001)
        assert torch.allclose(
            small(x), expected, rtol=1e-5, atol=1e-5 * float(expected.detach().abs().max())
        )
        chosen = {each.chosen for each in forms.values()}
        assert chosen == {form} or form == "fastest"
        for each in forms.values():
            assert 0 < each.stripes <= each.places
            assert each.share == each.stripes / each.places
            if each.seconds is not None:
                assert each.seconds[each.chosen] == min(each.seconds.values())
        if form == "stripes":
            held = sum(m.weight.numel() for m in small.modules() if isinstance(m, ByPosition))
            assert held <= sum(int(keep.sum()) for keep in alive.values())
    assert count.params(small) < count.params(model)


def test_a_wrapped_network_is_copied_saved_and_trained_as_any_other():
    data, model = tiny_images(), tiny_residual()
    stripes.wrap(model)
    twin = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    list(fit(model, data, epochs=1, decay={"*skeleton": 0.1}))
    assert any(
        not torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True)
    )
    model.load_state_dict(torch.load(file))
    for name, tensor in twin.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


class Own(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def of_its_own():
    conv = nn.Conv2d(1, 2, 3)
    conv.forward = lambda x: x
    return conv


def tied():
    one, other = nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3)
    other.weight = one.weight
    return nn.Sequential(one, other)


OTHERS = {
    "no convolution": tiny_model,
    "a subclass": lambda: Own(1, 2, 3),
    "a forward of its own": of_its_own,
    "parametrised": lambda: parametrizations.weight_norm(nn.Conv2d(1, 2, 3)),
    "tied": tied,
    "over one axis": lambda: nn.Conv1d(1, 2, 3),
    "no filters": lambda: nn.Conv2d(1, 0, 3),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_can_have_no_skeleton_is_left_and_alone_it_is_refused(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = OTHERS[kind]()
    types = [type(m) for m in model.modules()]
    with pytest.raises(ValueError, match="wrap: .* has no convolution over two axes"):
        stripes.wrap(model)
    assert [type(m) for m in model.modules()] == types
    both = nn.ModuleList([model, nn.Conv2d(1, 2, 3)])
    assert stripes.wrap(both) == ["1.weight"]
    assert isinstance(both[1], Striped)


def test_names_to_ignore_must_mean_something():
    model = tiny_residual()
    assert stripes.wrap(copy.deepcopy(model), ["conv3.*"]) == ["conv1.weight", "conv2.weight"]
    with pytest.raises(ValueError, match="wrap: ignore: no parameter is called 'x'"):
        stripes.wrap(model, ["x"])
    with pytest.raises(ValueError, match="wrap: .* is lazy"):
        stripes.wrap(nn.Sequential(nn.LazyConv2d(2, 3)))
    stripes.wrap(model)
    with pytest.raises(ValueError, match="still has skeletons. Call stripes.unwrap first"):
        stripes.compact(model, Mask({}), torch.randn(2, 1, 6, 6))


def test_a_training_bears_what_the_recorded_ones_say():
    cells, parts = experiments.recorded("cdp-dtc-lengths"), (0, 0.3, 0.4, 0.6, 1)
    assert stripes.bearable(160) == 1
    for epochs in (6, 15, 30, 60):
        errors = []
        for part in parts:
            found = experiments.where(cells, arm=f"{epochs} epochs, pressure {part:g}")
            assert len(found) == 2
            errors.append(np.mean([experiments.error(cell, "validation") for cell in found]))
        lost = np.maximum.accumulate(np.subtract(errors, errors[0]))
        assert stripes.bearable(epochs) == pytest.approx(np.interp(1, lost, parts), rel=0.15)


def test_the_pressure_adds_up_to_that_of_the_authors():
    for epochs, minibatches in ((6, 79), (30, 860)):
        knobs = dict(epochs=epochs, lr=0.1, weight_decay=1e-4, schedule="steps")
        found = stripes.pressure(minibatches, 1.0, **knobs)
        half = stripes.pressure(minibatches, 0.5, **knobs)
        rates = 0.0
        for epoch in range(epochs):  # the loop of a training, plainly
            for i in range(minibatches):
                t = (epoch + i / minibatches) / epochs
                rates += 0.1 * (1 if t < 0.5 else 0.1 if t < 0.75 else 0.01)
        whole = rates / (1 - 0.9)
        assert 2 * found["strength"] * whole == pytest.approx(0.66, rel=1e-6)
        assert found["skeleton_decay"] * 1e-4 * whole == pytest.approx(6.6, rel=1e-6)
        assert half["strength"] == pytest.approx(found["strength"] / 2)
