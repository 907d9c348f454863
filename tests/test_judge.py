"""Costs and pairs of answers: against loops over the examples, and scipy's binomial test."""

import copy
import math

import pytest
import torch
from scipy.stats import binomtest
from tiny import tiny_data, tiny_model
from torch import nn

from prunekit import Data, Mask, accuracy, evaluate, fit, magnitude, mnist_small, pretrained
from prunekit.data import squared_error
from prunekit.judge import Estimate, Paired, as_metric, by_class, judge, paired
from prunekit.widgets import MaskView, views


def negative_worst(outputs, targets):
    """No mean of batches: the largest error of all examples."""
    return -float((outputs - targets).abs().max())


def trained(epochs):
    model = tiny_model(dropout=0.3)
    list(fit(model, tiny_data(), epochs=epochs, batch=20, lr=0.1))
    return model


@pytest.fixture(scope="module")
def pair():
    """Two trained networks with dropout, one of them hardly; never changed."""
    return trained(4), trained(1)


def many(x, y, seed=0):
    """500 examples around some, in more than one batch."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(x), (500,), generator=generator)
    return x[rows] + torch.randn(500, 8, generator=generator), y[rows]


def with_validation(x, y):
    return Data(tiny_data().splits | {"validation": (x, y)})


def regression(x, y):
    return Data({"train": (x, y), "validation": (x, y)}, loss=squared_error, metric=negative_worst)


class Broken(nn.Module):
    """A linear layer whose outputs are not finite for one example, told by its first value."""

    def __init__(self, value):
        super().__init__()
        self.layer, self.value = nn.Linear(8, 3), value

    def forward(self, x):
        return torch.where(x[:, :1] == 1000.0, self.value, self.layer(x))


@pytest.fixture(scope="module")
def one_bad():
    """500 examples; `Broken` gives no number for the last."""
    x, y = many(*tiny_data().splits["validation"])
    x[-1, 0] = 1000.0
    return x, y


NOT_FINITE = pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])


# ------------------------------------------------------------------------------------------- cost


def test_a_cost_is_the_number_of_errors_one_example_after_the_other(pair):
    data = with_validation(*many(*tiny_data().splits["validation"]))
    for model in pair:
        alone = copy.deepcopy(model).eval()
        errors = 0
        for x, y in zip(*data.splits["validation"], strict=True):
            errors += int(alone(x[None]).argmax()) != int(y)
        cost = judge(model, data)
        assert cost == errors > 0
        assert as_metric(cost, data) == evaluate(model, data) == 1 - errors / 500


def test_the_cost_by_an_own_metric_is_minus_the_metric_of_all_examples(pair):
    x, _ = many(*tiny_data().splits["validation"])
    data = regression(x, x[:, :3])
    for model in pair:
        alone = copy.deepcopy(model).eval()
        outputs = torch.cat([alone(example[None]).detach() for example in x])
        cost = judge(model, data)
        assert cost == pytest.approx(-negative_worst(outputs, x[:, :3]), rel=1e-5)
        assert cost > 0
        assert as_metric(cost, data) == evaluate(model, data) == -cost


@NOT_FINITE
def test_outputs_that_are_not_finite_cost_infinity(one_bad, value):
    x, y = one_bad
    for data in (with_validation(x, y), regression(x, x[:, :3])):
        assert judge(Broken(value), data) == math.inf
        assert judge(Broken(0.0), data) < math.inf
        assert math.isnan(evaluate(Broken(value), data))
    assert judge(Broken(value), with_validation(x, y), limit=500) == math.inf


# ------------------------------------------------------------------------------------------ pairs


def by_hand(a, b, x, y):
    """How many targets there are, and how many only a and only b err on, one after the other."""
    n = only_a = only_b = 0
    for example, targets in zip(x, y, strict=True):
        answers = [m(example[None]).argmax(1).flatten().tolist() for m in (a, b)]
        for first, second, target in zip(*answers, targets.flatten().tolist(), strict=True):
            n += 1
            only_a += first != target and second == target
            only_b += first == target and second != target
    return n, only_a, only_b


def test_pairs_are_counted_as_by_a_loop(pair):
    a, b = (copy.deepcopy(model).eval() for model in pair)
    validation, test = (many(*tiny_data().splits[s]) for s in ("validation", "test"))
    data = Data({"train": validation, "validation": validation, "test": test})
    counts = set()
    for split, examples in (("validation", validation), ("test", test)):
        found = paired(*pair, data, split)
        assert (found.examples, found.only_a, found.only_b) == by_hand(a, b, *examples)
        assert min(found.only_a, found.only_b) > 0
        assert found.only_a != found.only_b
        swapped = paired(*reversed(pair), data, split)
        assert swapped == Paired(found.examples, found.only_b, found.only_a)
        assert swapped.p == found.p
        difference = (found.only_b - found.only_a) / found.examples
        metrics = [evaluate(model, data, split) for model in pair]
        assert metrics[0] - metrics[1] == pytest.approx(difference)
        counts.add(found)
    assert len(counts) == 2
    assert paired(pair[0], pair[0], data) == Paired(500, 0, 0)


def test_each_of_several_targets_is_a_pair():
    a, b = (nn.Sequential(nn.Linear(8, 15), nn.Unflatten(1, (3, 5))) for _ in range(2))
    x, y = many(*tiny_data().splits["validation"])
    y = torch.stack([(y + i) % 3 for i in range(5)], 1)
    found = paired(a, b, with_validation(x, y))
    assert (found.examples, found.only_a, found.only_b) == by_hand(a, b, x, y)
    assert found.examples == 2500


def test_comparing_leaves_the_models_as_they_are(pair):
    models = [copy.deepcopy(model).train() for model in pair]
    before = [str(model.state_dict()) for model in models]
    assert paired(*models, tiny_data()) == paired(*pair, tiny_data())  # without dropout
    assert [str(model.state_dict()) for model in models] == before
    assert all(module.training for model in models for module in model.modules())


@pytest.mark.parametrize(
    ("only_a", "only_b"),
    [*((a, b) for a in range(13) for b in range(13) if a + b), (700, 800), (1400, 1500), (0, 2000)],
)
def test_p_is_that_of_scipys_binomial_test(only_a, only_b):
    few, n = min(only_a, only_b), only_a + only_b
    expected = min(1.0, 2 * binomtest(few, n, 0.5, alternative="less").pvalue)
    p = Paired(5000, only_a, only_b).p
    assert p == pytest.approx(expected, rel=1e-9, abs=1e-300)
    assert p == pytest.approx(binomtest(few, n, 0.5).pvalue, rel=1e-9, abs=1e-300)
    assert f"p = {p:.3g}" in str(Paired(5000, only_a, only_b))


def test_without_a_pair_that_differs_nothing_speaks_for_either():
    assert Paired(60, 0, 0).p == 1


def test_only_the_accuracy_can_be_counted_in_pairs(pair):
    x, _ = tiny_data().splits["validation"]
    with pytest.raises(
        ValueError, match="^paired: the metric must be the accuracy, got negative_worst"
    ):
        paired(*pair, regression(x, x[:, :3]))


@NOT_FINITE
def test_outputs_that_are_not_finite_are_refused_and_the_model_named(pair, one_bad, value):
    data = with_validation(*one_bad)
    for models, label in (((Broken(value), pair[0]), "a"), ((pair[0], Broken(value)), "b")):
        with pytest.raises(ValueError, match=f"^paired: the outputs of model {label} must be fin"):
            paired(*models, data)
    assert paired(Broken(0.0), pair[0], data).examples == 500


def test_a_model_that_answers_nothing_is_refused():
    with pytest.raises(ValueError, match=r"Linear must hold a number, got shape \(60, 0\)"):
        judge(nn.Linear(8, 0), tiny_data())


# ------------------------------------------------------------------------------------ by class


def test_the_right_answers_of_each_class_are_those_that_a_loop_counts():
    model, data = tiny_model(), tiny_data()
    x, y = data.splits["validation"]
    mask = Mask({"0.weight": model[0].weight.detach().abs() > 0.1})
    right, of = [0] * 3, [0] * 3
    for example, label in zip(x, y.tolist(), strict=True):
        hidden = torch.relu(example @ (model[0].weight * mask["0.weight"]).T + model[0].bias)
        answer = int((hidden @ model[2].weight.T + model[2].bias).argmax())
        right[label] += answer == label
        of[label] += 1
    found = by_class(model, data, mask=mask)
    assert [(c.name, c.right, c.examples) for c in found] == [
        (str(label), right[label], of[label]) for label in range(3)
    ]
    assert [c.share for c in found] == [r / n for r, n in zip(right, of, strict=True)]
    accuracy = evaluate(model, data, mask=mask)
    assert sum(right) / sum(of) == pytest.approx(accuracy)


def test_an_estimate_is_exact_where_it_looks_and_near_elsewhere():
    net, data = pretrained("lenet_300_100"), mnist_small()
    everything = Estimate(net, data, data.size("validation"))
    half = Estimate(net, data, data.size("validation") // 2)
    part = Estimate(net, data)
    assert (everything.examples, half.examples, part.examples) == (5_000, 5_000, 500)
    sizes = {name: p.detach().abs() for name, p in net.named_parameters() if p.dim() == 2}
    for threshold in (0.0, 0.02, 0.04, 0.06, 0.1):
        mask = Mask({name: size >= threshold for name, size in sizes.items()})
        exact = by_class(net, data, mask=mask)
        assert everything.by_class(mask) == half.by_class(mask) == exact
        told = part.by_class(mask)
        assert [(c.name, c.examples) for c in told] == [(c.name, c.examples) for c in exact]
        share, true = (sum(c.right for c in classes) / 5_000 for classes in (told, exact))
        # The others are a random part: four standard errors of 250 draws.
        assert abs(share - true) <= 4 * (true * (1 - true) / 250) ** 0.5
        assert threshold > 0 or share == true  # the errors of the whole network are all seen


def test_what_cannot_be_estimated_is_refused():
    x = torch.rand(40, 8)
    with pytest.raises(ValueError, match="the metric must be the accuracy"):
        Estimate(tiny_model(), regression(x, x[:, :3]))

    class Loader:
        loss, metric = staticmethod(nn.functional.cross_entropy), staticmethod(accuracy)

        def batches(self, split, size, generator=None):
            return tiny_data().batches(split, size, generator)

    with pytest.raises(ValueError, match="put into another order"):
        Estimate(tiny_model(), Loader())


def test_classes_are_counted_only_where_answers_are_right_or_wrong():
    x = torch.rand(40, 8)
    with pytest.raises(ValueError, match="^by_class: the metric must be the accuracy"):
        by_class(tiny_model(), regression(x, x[:, :3]))


def test_classes_of_data_of_another_kind_are_called_by_their_numbers():
    class Loader:
        loss, metric = staticmethod(nn.functional.cross_entropy), staticmethod(accuracy)

        def batches(self, split, size, generator=None):
            return tiny_data().batches(split, size, generator)

    model = tiny_model()
    assert by_class(model, Loader()) == by_class(model, tiny_data())
    verdict = MaskView(model, data=Loader()).verdict
    assert verdict == MaskView(model, data=tiny_data()).verdict
    assert "recall of 0: " in views.of(magnitude, model, Loader()).told
