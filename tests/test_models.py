"""The networks: their papers' shapes, the same weights from the same seed, the shipped weights."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from prunekit.data import accuracy
from prunekit.models import MODELS, build, pretrained, provenance
from prunekit.train import evaluate

SHAPES = {
    "lenet_300_100": [(300, 784), (100, 300), (10, 100)],
    "lenet_5": [(20, 1, 5, 5), (50, 20, 5, 5), (500, 800), (10, 500)],
}


@pytest.mark.parametrize("name", MODELS)
def test_layers_have_their_papers_shapes(name):
    model = build(name)
    assert [tuple(p.shape) for p in model.parameters() if p.ndim > 1] == SHAPES[name]
    assert [len(p) for p in model.parameters() if p.ndim == 1] == [s[0] for s in SHAPES[name]]
    assert model(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


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
    assert not any(torch.equal(first[k], other[k]) for k in first)


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


def test_unknown_models_and_seeds_are_refused_by_name():
    with pytest.raises(ValueError, match=r"one of \['lenet_300_100', 'lenet_5'.*got 'lenet5'"):
        build("lenet5")
    with pytest.raises(ValueError, match="no weights of lenet_5 with seed 987; there are"):
        pretrained("lenet_5", 987)


@pytest.mark.parametrize("name", MODELS)
def test_the_shipped_model_is_as_good_as_its_record_says(name, digits):
    model, record = pretrained(name), provenance(name)
    assert not model.training
    assert (record["model"], record["seed"]) == (name, 0)
    # The sample's validation images are those the record was made with, unseen in training.
    wrong = round((1 - evaluate(model, digits)) * digits.size("validation"))
    assert wrong == record["after"]["validation"]
    assert wrong < 150


@pytest.mark.parametrize("name", MODELS)
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
