"""Criteria against plain autograd and finite differences."""

import copy
import threading

import pytest
import torch
from tiny import tiny_data, tiny_model
from torch import nn
from torch.nn.functional import cross_entropy

from prunekit import score
from prunekit.data import Data
from prunekit.mask import prunable
from prunekit.steps import Run, Stopped

NAMES = ["0.weight", "2.weight", "2.bias"]


def autograd(model, x, y):
    """∂L/∂w by `backward` on a copy, all examples at once."""
    model = copy.deepcopy(model).eval()
    cross_entropy(model(x), y).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def test_magnitude_is_the_absolute_value():
    model = tiny_model()
    scores = score.magnitude(model, NAMES)
    assert [*scores] == NAMES
    for name, p in model.named_parameters():
        if name in NAMES:
            assert torch.equal(scores[name], p.detach().abs())
            assert not scores[name].requires_grad


def test_gradient_agrees_with_autograd():
    model, data = tiny_model(), tiny_data()
    expected = autograd(model, *data.splits["train"])
    found = score.gradient(model, data, NAMES)
    assert set(found) == set(NAMES)
    for name in NAMES:
        torch.testing.assert_close(found[name], expected[name].abs())


def test_weight_gradient_agrees_with_autograd():
    model, data = tiny_model(), tiny_data()
    expected = autograd(model, *data.splits["train"])
    weights = dict(model.named_parameters())
    for name, found in score.weight_gradient(model, data, NAMES).items():
        torch.testing.assert_close(found, (weights[name] * expected[name]).detach().abs())


def test_gradient_agrees_with_finite_differences():
    model = tiny_model().double()
    x, y = tiny_data().splits["train"]
    data = Data({"train": (x.double(), y), "validation": (x.double(), y)})
    found = score.gradient(model, data, ["2.weight"])["2.weight"]
    weight, step = model[2].weight, 1e-5
    for i, j in [(0, 0), (1, 5), (2, 11)]:
        losses = []
        for sign in (+1, -1):
            with torch.no_grad():
                weight[i, j] += sign * step
                losses.append(float(cross_entropy(model(x.double()), y)))
                weight[i, j] -= sign * step
        slope = (losses[0] - losses[1]) / (2 * step)
        assert float(found[i, j]) == pytest.approx(abs(slope), rel=1e-5)


def test_batches_are_weighted_by_their_size():
    # 620 examples are a batch of 500 and one of 120.
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(620, 8, generator=generator), torch.arange(620) % 3
    model = tiny_model()
    found = score.gradient(model, Data({"train": (x, y), "validation": (x, y)}), NAMES)
    for name in NAMES:
        torch.testing.assert_close(found[name], autograd(model, x, y)[name].abs())


class Counting(Data):
    """Remembers which splits were read."""

    def batches(self, split, size, generator=None):
        for x, y in super().batches(split, size, generator):
            self.splits_read = {*getattr(self, "splits_read", ()), split}
            yield x, y


def test_only_the_training_split_is_read():
    data = Counting(tiny_data().splits)
    score.gradient(tiny_model(), data, NAMES)
    assert data.splits_read == {"train"}


def test_exactly_the_asked_number_of_examples_counts():
    seen = []

    def loss(outputs, y):
        seen.append(len(y))
        return cross_entropy(outputs, y)

    data = Data(tiny_data().splits, loss=loss)
    score.gradient(tiny_model(), data, NAMES, examples=50)
    assert sum(seen) == 50


def test_the_examples_depend_on_the_seed_alone():
    draws = [
        score.gradient(tiny_model(), tiny_data(), NAMES, examples=20, seed=seed)["0.weight"]
        for seed in (0, 0, 1)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_names_may_come_from_an_iterator():
    found = score.gradient(tiny_model(), tiny_data(), iter(NAMES))
    assert set(found) == set(NAMES)


def test_dropout_is_off_and_the_model_is_left_as_it_was():
    model = tiny_model(dropout=0.5)
    plain = nn.Sequential(model[0], model[1], model[3])
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    found = score.gradient(model, tiny_data(), ["0.weight"])["0.weight"]
    expected = score.gradient(plain, tiny_data(), ["0.weight"])["0.weight"]
    torch.testing.assert_close(found, expected)
    assert [m.training for m in model] == [True, False, True, True]
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_gradients_are_taken_also_under_no_grad():
    with torch.no_grad():
        found = score.gradient(tiny_model(), tiny_data(), NAMES)
        assert not torch.is_grad_enabled()
    assert float(found["0.weight"].sum()) > 0


def test_a_weight_that_the_loss_does_not_use_scores_zero():
    model = tiny_model()
    model.register_parameter("unused", nn.Parameter(torch.ones(2, 2)))
    with pytest.warns(UserWarning, match="no gradient reaches unused of Sequential"):
        found = score.weight_gradient(model, tiny_data(), prunable(model))
    assert torch.equal(found["unused"], torch.zeros(2, 2))


def test_stop_is_heard_and_the_model_comes_back():
    stop = threading.Event()
    stop.set()
    model = tiny_model().train()
    with pytest.raises(Stopped):
        score.gradient(model, tiny_data(), NAMES, run=Run(stop=stop))
    assert model.training


def test_a_model_without_gradients_is_refused():
    class Cut(nn.Linear):
        def forward(self, x):
            return super().forward(x).detach()

    with pytest.raises(ValueError, match="score: Cut gives no gradients"):
        score.gradient(Cut(8, 3), tiny_data(), ["weight"])
