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


class Residual(nn.Module):
    """A convolution, a block of two with a way around it, and a linear layer, all with batch norm
    but the last; 331 parameters. Input (n, 1, 6, 6), output (n, 3)."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv3, self.bn3 = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(4 * 9, CLASSES)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))  # (n, 4, 6, 6)
        x = torch.relu(x + self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(x))))))
        return self.fc(self.drop(nn.functional.max_pool2d(x, 2).flatten(1)))


def tiny_residual(dropout: float = 0.0, seed: int = 0) -> Residual:
    """`Residual` with weights of a seed."""
    with LocalRandom(seed):
        return Residual(dropout)


def tiny_images(seed: int = 0) -> Data:
    """120 training, 60 validation and 60 test images (1, 6, 6) of 3 classes, as `tiny_data`."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, 1, 6, 6, generator=generator)
    splits = {}
    for split, n in (("train", 120), ("validation", 60), ("test", 60)):
        y = torch.arange(n) % CLASSES
        splits[split] = (centres[y] + torch.randn(n, 1, 6, 6, generator=generator), y)
    return Data(splits, name="tiny images")
