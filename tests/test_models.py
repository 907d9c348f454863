"""The networks: their papers' shapes, the same weights from the same seed, the shipped weights."""

from concurrent.futures import ThreadPoolExecutor
from inspect import getdoc, signature
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import pad
from torch.utils.flop_counter import FlopCounterMode

from prunekit import checkpoint, count
from prunekit._modules import state_key
from prunekit.data import accuracy
from prunekit.judge import evaluate
from prunekit.models import MODELS, build, file_name, pretrained, provenance


def convolutions(*channels):
    """Shapes of the weights of 3×3 convolutions, one after the other."""
    return [(b, a, 3, 3) for a, b in pairwise(channels)]


def resnet(n):
    """Channels of a ResNet's convolutions: the image, the first one, three groups of n blocks."""
    return (3, 16, *[16] * 2 * n, *[32] * 2 * n, *[64] * 2 * n)


VGG = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
SHAPES = {
    "lenet_300_100": [(300, 784), (100, 300), (10, 100)],
    "lenet_5": [(20, 1, 5, 5), (50, 20, 5, 5), (500, 800), (10, 500)],
    "lenet_5_1998": [(6, 1, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84)],
    "vgg_small": [*convolutions(1, 16, 16, 32, 32), (10, 1568)],
    "alexnet": [
        (64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3),
        (10, 256),
    ],
    "vgg_16": [*convolutions(*VGG), (10, 512)],
    "resnet_20": [*convolutions(*resnet(3)), (10, 64)],
    "resnet_56": [*convolutions(*resnet(9)), (10, 64)],
}  # fmt: skip
PARAMETERS = {
    "lenet_300_100": 266_610,
    "lenet_5": 431_080,
    "lenet_5_1998": 61_706,
    "vgg_small": 16_368 + 192 + 15_690,  # convolutions, their normalisation, the linear layer
    "alexnet": 2_472_266,
    "vgg_16": 14_728_266,
    "resnet_20": 269_722,
    "resnet_56": 853_018,
}
MULTIPLY_ADDS = {
    "lenet_300_100": 266_200,
    "lenet_5": 2_293_000,
    "lenet_5_1998": 416_520,
    "vgg_small": 784 * 9 * (16 + 256) + 196 * 9 * (512 + 1024) + 15_680,
    "alexnet": 14_957_056,
    "vgg_16": 313_201_664,
    "resnet_20": 40_551_040,
    "resnet_56": 125_485_696,
}
LENETS = ["lenet_300_100", "lenet_5"]
RESNETS = ["resnet_20", "resnet_56"]
SCALED = [name for name in MODELS if name not in LENETS]
# The weights that the recorded results started from: `state_key` by name, of seeds 0, 1 and 2.
KEYS = {
    "lenet_300_100": ["d62c44275fd40580", "8b0a39debc8d9f93", "26906548055ed37f"],
    "lenet_5": ["d0ce11ce0f4733e4", "3d8db50bedfe27a1", "4d6a8b451e36d008"],
    "alexnet": ["dddd244d34414520", "6c9a994990a2c836", "eb752a6fe82152cc"],
    "vgg_16": ["d98e233c17f6f1d9", "affd4a9933cc1614", "170fef288c606c97"],
}


def images(name, n=2, inputs=None):
    """Random images of the size that a model takes."""
    digits = name in (*LENETS, "lenet_5_1998", "vgg_small")
    channels, pixels = (1, 28) if digits else (3, 32)
    shape = (n, inputs or channels, pixels, pixels)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def layers(model):
    """The layers that hold the weights, in their order."""
    return [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]


@pytest.mark.parametrize("name", MODELS)
def test_layers_have_their_papers_shapes(name):
    model = build(name)
    assert [tuple(layer.weight.shape) for layer in layers(model)] == SHAPES[name]
    biased = [layer for layer in layers(model) if layer.bias is not None]
    assert biased == (layers(model)[-1:] if name in RESNETS else layers(model))
    assert count.params(model) == PARAMETERS[name]
    first = " ".join(getdoc(MODELS[name]).split("\n\n")[0].split())
    assert f"{PARAMETERS[name]:,} parameters" in first
    assert model(images(name, 3)).shape == (3, 10)


@pytest.mark.parametrize("name", MODELS)
def test_multiply_adds_are_those_that_torch_counts(name):
    model, x = build(name).eval(), images(name, 1)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    assert counter.get_total_flops() // 2 == MULTIPLY_ADDS[name]
    assert count.macs(model, x).dense == MULTIPLY_ADDS[name]


@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name in KEYS for seed in range(3)])
def test_the_weights_that_recorded_results_started_from_stay(name, seed):
    assert state_key(build(name, seed)) == KEYS[name][seed]


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_every_parameter(name):
    model = build(name).eval()  # in training, normalisation cancels the bias before it
    model(images(name)).square().sum().backward()
    unreached = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


@pytest.mark.parametrize("name", SCALED)
def test_half_the_width_is_half_the_channels_of_every_hidden_layer(name):
    model, full = build(name, width=0.5), SHAPES[name]
    expected = [(b // 2, a // 2, *kernel) for b, a, *kernel in full]
    expected[0] = (full[0][0] // 2, *full[0][1:])
    expected[-1] = (10, full[-1][1] // 2)
    assert [tuple(layer.weight.shape) for layer in layers(model)] == expected
    assert model(images(name)).shape == (2, 10)


@pytest.mark.parametrize("name", SCALED)
def test_a_width_of_one_changes_nothing_and_the_smallest_leaves_one_channel(name):
    assert state_key(build(name, 4, width=1.0)) == state_key(build(name, 4))
    thin = build(name, width=1e-9)
    assert {len(layer.weight) for layer in layers(thin)[:-1]} == {1}
    assert thin(images(name)).shape == (2, 10)


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("inputs", [1, 3])
def test_images_are_grey_or_coloured(name, inputs):
    model = build(name, inputs=inputs, outputs=7)
    assert layers(model)[0].weight.shape[1] == inputs
    assert model(images(name, inputs=inputs)).shape == (2, 7)


@pytest.mark.parametrize("name", SCALED)
def test_settings_that_make_no_network_are_refused_by_name(name):
    who = MODELS[name].__name__
    for width in (0, -1, float("nan"), float("inf"), "half", True):
        with pytest.raises(
            (ValueError, TypeError), match=rf"({who}|build|ResNet).*: width must be .*, got "
        ):
            build(name, width=width)
    for inputs in (0, 2, 3.0, True, "3"):
        with pytest.raises(
            (ValueError, TypeError),
            match=rf"({who}|build|ResNet).*: inputs must be .*, got {inputs!r}",
        ):
            build(name, inputs=inputs)


def test_unknown_settings_are_refused_with_what_there_is():
    assert [*signature(MODELS["vgg_16"]).parameters] == ["outputs", "width", "inputs"]
    with pytest.raises(TypeError) as refused:
        build("vgg_16", widths=0.5)
    assert str(refused.value) == (
        "build: vgg_16 has no setting 'widths'; it has ['outputs', 'width', 'inputs']. "
        "Did you mean 'width'?"
    )
    with pytest.raises(TypeError, match=r"lenet_5 has no setting 'depth'; it has \['outputs'\]\.$"):
        build("lenet_5", depth=3)


@pytest.mark.parametrize("name", [name for name in SCALED if name not in RESNETS])
def test_images_of_another_size_are_refused_before_torch_is_cryptic(name):
    model, pixels = build(name, width=0.1), images(name).shape[-1]
    channels = layers(model)[0].weight.shape[1]
    for size in ((pixels + 1, pixels), (pixels, pixels - 1), (64, 64)):
        expected = f"must be {pixels}×{pixels} pixels, got {size[0]}×{size[1]}"
        with pytest.raises(ValueError, match=f"^{MODELS[name].__name__}: images {expected}"):
            model(torch.zeros(2, channels, *size))


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
    assert len(drawn) == len(SHAPES[name]) + (1 if name in RESNETS else len(SHAPES[name]))
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


def test_the_lenet_5_of_1998_pools_its_convolutions_and_has_relu_everywhere():
    model, x, relu = build("lenet_5_1998"), torch.rand(4, 1, 28, 28), nn.ReLU()
    plain = nn.Sequential(
        model.conv1, relu, nn.MaxPool2d(2), model.conv2, relu, nn.MaxPool2d(2), nn.Flatten(),
        model.fc1, relu, model.fc2, relu, model.fc3,
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


@pytest.mark.parametrize(("name", "pooled"), [("vgg_16", (2, 4, 7, 10, 13)), ("vgg_small", (2, 4))])
def test_a_vgg_pools_after_each_group_of_convolutions(name, pooled):
    vgg, x, parts = build(name).eval(), images(name), []
    steps = [layer for layer in vgg.modules() if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d))]
    for i, (conv, norm) in enumerate(zip(steps[::2], steps[1::2], strict=True), start=1):
        parts += [conv, norm, nn.ReLU()] + [nn.MaxPool2d(2)] * (i in pooled)
    assert torch.equal(vgg(x), nn.Sequential(*parts, nn.Flatten(), vgg.fc)(x))


@pytest.mark.parametrize("width", [1.0, 0.3])
@pytest.mark.parametrize("size", [(32, 32), (17, 24)])
def test_a_shortcut_without_parameters_is_every_second_pixel_between_channels_of_zeros(width, size):
    model = build("resnet_20", width=width)
    for block in (model.layer2[0], model.layer3[0]):
        after, before = block.conv1.weight.shape[:2]
        x, front = torch.randn(2, before, *size), (after - before) // 2
        expected = torch.zeros(2, after, (size[0] + 1) // 2, (size[1] + 1) // 2)
        expected[:, front : front + before] = x[:, :, ::2, ::2]
        assert torch.equal(block.shortcut(x), expected)
        assert [*block.shortcut.parameters()] == []


@pytest.mark.parametrize("name", RESNETS)
@pytest.mark.parametrize("size", [(32, 32), (33, 15)])
def test_a_resnet_adds_its_shortcuts_before_the_last_relu_of_a_block(name, size):
    model, x = build(name).eval(), torch.randn(2, 3, *size)
    blocks = [*model.layer1, *model.layer2, *model.layer3]
    h = model.bn1(model.conv1(x)).relu()
    for block in blocks:
        y = block.bn2(block.conv2(block.bn1(block.conv1(h)).relu()))
        if y.shape != h.shape:
            zeros = h.shape[1] // 2  # on either side: the channels double
            h = pad(h[:, :, ::2, ::2], (0, 0, 0, 0, zeros, zeros))
        h = (y + h).relu()
    assert len(blocks) == {"resnet_20": 9, "resnet_56": 27}[name]
    assert torch.equal(model(x), model.fc(h.mean(dim=(2, 3))))


def test_the_convolutions_of_a_resnet_are_drawn_as_wide_as_kaiming_says():
    weight = build("resnet_20").layer3[0].conv1.weight  # (64, 32, 3, 3)
    assert float(weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.03)
    assert float(weight.detach().abs().max()) > 3 * (2 / (64 * 9)) ** 0.5  # normal, not uniform


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
