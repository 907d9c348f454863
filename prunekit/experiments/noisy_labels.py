"""Roulette pruning where the labels are noisy: a regression on the value of a digit plus noise.

The paper (Chan, Yiu, Guo and Jiang 2024, doi 10.1007/s00521-024-09719-6) also prunes networks that
predict what people said about the quality of images. Those data were not available to us. They
are replaced by digits whose label is their value, 0 to 9, plus Gaussian noise of a known standard
deviation, in all three splits: so it is known how good a network can be.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Annotated, Any

import torch
from torch import nn

from prunekit import models
from prunekit.baselines.magnitude import magnitude
from prunekit.data import Data, spearman, squared_error
from prunekit.datasets import mnist
from prunekit.experiments import Arm, Experiment
from prunekit.knobs import Choice, Count, Fraction
from prunekit.method import method
from prunekit.methods.roulette import roulette
from prunekit.steps import Run, Step, derive
from prunekit.train import fit

NOISES = (0.5, 1.0, 2.0, 4.0)  # the digits' own standard deviation is 2.9
LEVELS = 59  # of 5 % each: 1 − 0.95^59 is a sparsity of 95 %


def noisy(digits: Data, noise: float) -> Data:
    """Images of digits, labelled with their value plus Gaussian noise of that deviation."""
    splits = {}
    for split, (x, y) in digits.splits.items():
        generator = torch.Generator().manual_seed(derive(0, "noise", noise, split))
        splits[split] = (x, y + noise * torch.randn(len(y), generator=generator))
    return Data(
        splits, name=f"{digits.name}, noise {noise:g}", mean=digits.mean, std=digits.std,
        loss=squared_error, metric=spearman,
    )  # fmt: skip


def noisy_mnist(noise: float, download: bool = False) -> Data:
    """`mnist` with noisy labels."""
    return noisy(mnist(download=download), noise)


@method
def trained_and_pruned(
    model: nn.Module,
    data: Data,
    *,
    by: Annotated[str, Choice("magnitude", "roulette")] = "magnitude",
    epochs: Count = 10,
    branches: Count = 10,
    sparsity: Fraction = 0.95,
    seed: int = 0,
    run: Run = Run(),
) -> Iterator[Step]:
    """Train the model on the noisy labels, then prune it level by level without training.

    by: the method.
    epochs: passes over the training data.
    branches: children of each level of the roulette.
    sparsity: share of the weights removed at the end.
    """
    yield from fit(model, data, epochs=epochs, lr=0.001, optimizer="adam", seed=seed, run=run)
    if by == "magnitude":
        yield from magnitude(model, data, sparsity=sparsity, rounds=LEVELS, seed=seed, run=run)
    else:
        yield from roulette(
            model, data, sparsity=sparsity, branches=branches, measure="relative",
            seed=seed, run=run,
        )  # fmt: skip


def _arms() -> dict[str, Arm]:
    arms = {}
    for noise in NOISES:
        data = functools.partial(noisy_mnist, noise)
        start = functools.partial(models.build, "lenet_300_100", outputs=1)
        short = dict(epochs=1) if noise == 2.0 else None
        compared: dict[str, dict[str, Any]] = {
            "magnitude": dict(by="magnitude"),
            "inv-4, B = 1": dict(by="roulette", branches=1),
            "inv-4, B = 10": dict(by="roulette", branches=10),
        }
        for name, knobs in compared.items():
            label = f"noise {noise:g}, {name}"
            arms[label] = Arm(trained_and_pruned, knobs, short=short, start=start, data=data)
    return arms


EXPERIMENTS = (
    Experiment(
        name="noisy_labels",
        title="Roulette and magnitude pruning of a regression on noisy labels",
        paper="Chan, Yiu, Guo and Jiang 2024, doi 10.1007/s00521-024-09719-6",
        status="after the abstract",
        data=mnist,
        arms=_arms(),
    ),
)
