"""Noisy labels: known noise on every split, and a cell that trains and then prunes."""

import pytest
import torch
from scipy import stats

from prunekit import Data, magnitude, models
from prunekit.data import spearman
from prunekit.experiments.noisy_labels import LEVELS, NOISES, noisy, trained_and_pruned
from prunekit.methods.roulette import roulette
from prunekit.train import fit


def digits(n=4000):
    draws = torch.Generator().manual_seed(0)
    splits = {}
    for split in ("train", "validation", "test"):
        y = torch.randint(10, (n,), generator=draws)
        x = torch.randint(256, (n, 1, 28, 28), dtype=torch.uint8, generator=draws)
        splits[split] = (x, y)
    return Data(splits, name="digits", mean=(0.1307,), std=(0.3081,))


@pytest.mark.parametrize("noise", NOISES)
def test_labels_are_digits_plus_noise_of_the_stated_size(noise):
    plain = digits()
    found = noisy(plain, noise)
    added = {s: found.splits[s][1] - plain.splits[s][1] for s in plain.splits}
    for split, error in added.items():
        assert torch.equal(found.splits[split][0], plain.splits[split][0])
        assert stats.kstest(error.numpy() / noise, "norm").pvalue > 1e-3
    assert abs(float(torch.corrcoef(torch.stack([*added.values()]))[0, 1])) < 0.08  # 5 errors
    assert found.key == noisy(plain, noise).key != noisy(plain, noise + 1).key


def test_the_ceiling_falls_with_the_noise():
    plain = digits()
    ceilings = [
        spearman(plain.splits["test"][1].float(), noisy(plain, noise).splits["test"][1])
        for noise in NOISES
    ]
    # Pearson's is 1 / sqrt(1 + noise² / 8.25) for digits that are equally frequent.
    expected = [(1 + noise**2 / 8.25) ** -0.5 for noise in NOISES]
    assert ceilings == pytest.approx(expected, abs=0.03)
    assert ceilings == sorted(ceilings, reverse=True)


@pytest.mark.parametrize("by", ["magnitude", "roulette"])
def test_a_run_is_the_training_and_then_the_method(by):
    data, knobs = noisy(digits(60), 1.0), dict(sparsity=0.3)
    one, two = (models.build("lenet_300_100", outputs=1) for _ in range(2))
    found = [*trained_and_pruned(one, data, by=by, epochs=2, branches=2, **knobs, seed=3)]
    expected = [*fit(two, data, epochs=2, lr=0.001, optimizer="adam", seed=3)]
    if by == "magnitude":
        expected += magnitude(two, data, rounds=LEVELS, **knobs, seed=3)
    else:
        expected += roulette(two, data, branches=2, measure="relative", **knobs, seed=3)
    assert [(s.phase, s.mask, s.metrics) for s in found] == [
        (s.phase, s.mask, s.metrics) for s in expected
    ]
