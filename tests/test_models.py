"""The networks: their papers' shapes, the same weights from the same seed, the shipped weights."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch
from torch import nn

from prunekit import checkpoint
from prunekit.data import accuracy
from prunekit.judge import evaluate
from prunekit.models import MODELS, build, file_name, pretrained, provenance

VGG = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
SHAPES = {
    "lenet_300_100": [(300, 784), (100, 300), (10, 100)],
    "lenet_5": [(20, 1, 5, 5), (50, 20, 5, 5), (500, 800), (10, 500)],
    "alexnet": [
        (64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3),
        (10, 256),
    ],
    "vgg_16": [*((b, a, 3, 3) for a, b in pairwise(VGG)), (10, 512)],
}  # fmt: skip
INPUTS = dict.fromkeys(("lenet_300_100", "lenet_5"), (3, 1, 28, 28))
PARAMETERS = {"lenet_300_100": 266_610, "lenet_5": 431_080, "alexnet": 2_472_266}
PARAMETERS["vgg_16"] = 14_715_584 + 4_234 + 8_448  # weights, biases, batch normalisation
LENETS = [*INPUTS]


@pytest.mark.parametrize("name", MODELS)
def test_layers_have_their_papers_shapes(name):
    model = build(name)
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    assert [tuple(layer.weight.shape) for layer in layers] == SHAPES[name]
    assert [len(layer.bias) for layer in layers] == [s[0] for s in SHAPES[name]]
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert model(torch.zeros(INPUTS.get(name, (3, 3, 32, 32)))).shape == (3, 10)


def test_models_built_in_threads_are_each_as_if_alone():
    with ThreadPoolExecutor(4) as pool:
        together = [*pool.map(lambda seed: build("lenet_300_100", seed), range(12))]
    for seed, model in enumerate(together):
        alone = build("lenet_300_100", seed)
        for a, b in zip(model.parameters(), alone.parameters(), strict=True):
            assert torch.equal(a, b)


def test_weights_are_those_that_torch_draws_with_the_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        expected = MODELS["lenet_5"]()
    for a, b in zip(build("lenet_5", 5).parameters(), expected.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", MODELS)
def test_weights_depend_on_the_seed_alone_and_the_global_state_stays(name):
    state = torch.get_rng_state()
    first, other = build(name, 1).state_dict(), build(name, 2).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    again = build(name, 1).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    normed = {n for n, m in build(name).named_modules() if isinstance(m, nn.BatchNorm2d)}
    drawn = [k for k in first if k.rpartition(".")[0] not in normed]
    assert len(drawn) == 2 * len(SHAPES[name])
    assert not any(torch.equal(first[k], other[k]) for k in drawn)


def test_lenet_300_100_is_three_linear_layers_with_relu_between():
    model, x = build("lenet_300_100"), torch.rand(4, 1, 28, 28)
    plain = nn.Sequential(nn.Flatten(), model.fc1, nn.ReLU(), model.fc2, nn.ReLU(), model.fc3)
    assert torch.equal(model(x), plain(x))


def test_lenet_5_pools_its_convolutions_and_has_one_relu():
    model, x = build("lenet_5"), torch.rand(4, 1, 28, 28)
    plain = nn.Sequential(
        model.conv1, nn.MaxPool2d(2), model.conv2, nn.MaxPool2d(2), nn.Flatten(),
        model.fc1, nn.ReLU(), model.fc2,
    )  # fmt: skip
    assert torch.equal(model(x), plain(x))


def test_the_networks_for_cifar_are_the_layers_that_their_papers_draw():
    x = torch.rand(2, 3, 32, 32)
    model = build("alexnet").eval()
    relu, pool = nn.ReLU(), nn.MaxPool2d(2)
    plain = nn.Sequential(
        model.conv1, relu, pool, model.conv2, relu, pool, model.conv3, relu, model.conv4, relu,
        model.conv5, relu, pool, nn.Flatten(), model.fc,
    )  # fmt: skip
    assert torch.equal(model(x), plain(x))
    vgg = build("vgg_16").eval()
    layers = [layer for layer in vgg.modules() if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d))]
    parts = []
    for i, (conv, norm) in enumerate(zip(layers[::2], layers[1::2], strict=True), start=1):
        parts += [conv, norm, relu]
        if i in (2, 4, 7, 10, 13):
            parts.append(pool)
    assert torch.equal(vgg(x), nn.Sequential(*parts, nn.Flatten(), vgg.fc)(x))


def test_models_trained_on_this_machine_are_found_after_the_shipped_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNEKIT_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="no weights alexnet-1, only"):
        pretrained("alexnet", 1)
    for name, seed, variant in (("alexnet", 1, ""), ("lenet_5", 0, ""), ("lenet_5", 0, "toy")):
        path = tmp_path / "weights" / file_name(name, seed, variant)
        checkpoint.save(path, build(name, 7), {"variant": variant})
    assert torch.equal(pretrained("alexnet", 1).fc.weight, build("alexnet", 7).fc.weight)
    assert torch.equal(pretrained("lenet_5", 0, "toy").fc2.weight, build("lenet_5", 7).fc2.weight)
    assert provenance("lenet_5", 0, "toy")["variant"] == "toy"
    assert not torch.equal(pretrained("lenet_5").fc2.weight, build("lenet_5", 7).fc2.weight)


def test_unknown_models_and_seeds_are_refused_by_name():
    with pytest.raises(ValueError, match=r"one of \['lenet_300_100', 'lenet_5'.*got 'lenet5'"):
        build("lenet5")
    with pytest.raises(ValueError, match="there are no weights lenet_5-987, only"):
        pretrained("lenet_5", 987)


@pytest.mark.parametrize("name", LENETS)
def test_the_shipped_model_is_as_good_as_its_record_says(name, digits):
    model, record = pretrained(name), provenance(name)
    assert not model.training
    assert (record["model"], record["seed"]) == (name, 0)
    # The sample's validation images are those the record was made with, unseen in training.
    wrong = round((1 - evaluate(model, digits)) * digits.size("validation"))
    assert wrong == record["after"]["validation"]
    assert wrong < 150


@pytest.mark.parametrize("name", LENETS)
def test_the_shipped_model_started_from_the_weights_of_build(name, digits):
    record = provenance(name)
    wrong = round((1 - evaluate(build(name, 0), digits)) * digits.size("validation"))
    assert wrong == record["before"]["validation"]


def test_accuracy_of_the_shipped_model_can_be_had_without_the_package(digits):
    model = pretrained("lenet_300_100")
    x, y = digits.splits["validation"]
    with torch.no_grad():
        outputs = model((x.float() / 255 - 0.1307) / 0.3081)
    assert accuracy(outputs, y) == pytest.approx(evaluate(model, digits), abs=2e-3)
