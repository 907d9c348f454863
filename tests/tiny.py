"""A network and data so small that a method runs on them in well under a second."""

import torch
from torch import nn

from prunekit._random import LocalRandom
from prunekit.data import Data

INPUTS, HIDDEN, CLASSES = 8, 12, 3


def tiny_model(dropout: float = 0.0, seed: int = 0) -> nn.Sequential:
    """Two linear layers 8-12-3, with dropout between them if asked for; 147 parameters."""
    with LocalRandom(seed + 3):  # untrained, model 0 already answers with every class
        layers = [nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)]
    if dropout:
        layers.insert(2, nn.Dropout(dropout))
    return nn.Sequential(*layers)


def tiny_data(seed: int = 0) -> Data:
    """120 training, 60 validation and 60 test examples of 3 classes that can be told apart.

    Each class is a cloud of points around its own centre; `seed` moves the points and the centres.
    """
    generator = torch.Generator().manual_seed(seed)
    centres = 1.5 * torch.randn(CLASSES, INPUTS, generator=generator)
    splits = {}
    for split, n in (("train", 120), ("validation", 60), ("test", 60)):
        y = torch.arange(n) % CLASSES
        splits[split] = (centres[y] + torch.randn(n, INPUTS, generator=generator), y)
    return Data(splits, name="tiny")
