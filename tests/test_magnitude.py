"""Magnitude pruning by Han's rule: thresholds against numpy, and what is refused."""

import copy

import numpy as np
import pytest
import torch
from tiny import tiny_data, tiny_model

from prunekit import magnitude
from prunekit.knobs import knobs
from prunekit.select import stages

NAMES = ["0.weight", "2.weight"]


def cut(model, **knobs):
    return [*magnitude(copy.deepcopy(model), tiny_data(), **knobs)][-1].mask


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("sensitivities", [(0.7,), (0.9, 0.2), (0.0, 1.5)])
def test_hans_rule_cuts_below_a_multiple_of_the_survivors_deviation(sensitivities, rounds):
    model = tiny_model()
    mask = cut(model, sensitivities=sensitivities, rounds=rounds)
    each = sensitivities * (2 // len(sensitivities))
    for name, s in zip(NAMES, each, strict=True):
        w = model.get_parameter(name).detach().numpy()
        keep = np.ones(w.shape, bool)
        for _ in range(rounds):
            keep &= np.abs(w) >= s * w[keep].std()
        assert np.array_equal(mask[name].numpy(), keep)


def test_one_sensitivity_stands_for_all():
    model = tiny_model()
    assert cut(model, sensitivities=(0.8,)) == cut(model, sensitivities=(0.8, 0.8))


@pytest.mark.parametrize("wrong", [(0.1, 0.2, 0.3), (0.1,) * 4])
def test_as_many_sensitivities_as_parameters_are_needed(wrong):
    with pytest.raises(ValueError, match=rf"for each of .*0\.weight.*, got {len(wrong)}"):
        magnitude(tiny_model(), tiny_data(), sensitivities=wrong)


@pytest.mark.parametrize("wrong", [(11.0,), (-0.1, 0.1), "0.5", 0.5, (float("nan"),)])
def test_sensitivities_out_of_range_are_refused_before_any_work(wrong):
    with pytest.raises(ValueError, match=r"sensitivities must be a tuple of numbers in \[0, 10\]"):
        magnitude(tiny_model(), tiny_data(), sensitivities=wrong)


def test_sensitivities_become_plain_numbers():
    checked = knobs(magnitude)["sensitivities"].check("magnitude", [1, np.float32(0.5)])
    assert checked == (1.0, 0.5)
    assert [type(value) for value in checked] == [float, float]


def test_relative_sizes_are_over_the_deviation_of_what_is_left():
    model = tiny_model()
    with torch.no_grad():
        model[2].weight.mul_(10)
    mask = cut(model, measure="relative", rounds=3, sparsity=0.6)
    weights = {n: model.get_parameter(n).detach().numpy() for n in NAMES}
    keep = {n: np.ones(w.shape, bool) for n, w in weights.items()}
    total = sum(w.size for w in weights.values())
    for target in stages(0.6, 3):
        sizes = {n: np.abs(w) / w[keep[n]].std() for n, w in weights.items()}
        alive = np.sort(np.concatenate([sizes[n][keep[n]] for n in NAMES]))
        limit = alive[round(target * total) - (total - len(alive))]
        keep = {n: keep[n] & (sizes[n] >= limit) for n in NAMES}
    for name in NAMES:
        assert np.array_equal(mask[name].numpy(), keep[name])
    assert 0 < int(mask["2.weight"].sum()) < 36
