"""The networks of the papers, built from a seed or loaded with trained weights."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import Any

import torch
from torch import Tensor, nn

from prunekit import checkpoint
from prunekit._random import LocalRandom


class LeNet300100(nn.Module):
    """LeNet-300-100: three linear layers 784-300-100-10, 266,610 parameters.

    LeCun, Bottou, Bengio and Haffner 1998, doi 10.1109/5.726791. Input `(n, 1, 28, 28)`, output
    `(n, outputs)`.
    """

    def __init__(self, outputs: int = 10) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.fc1(x.flatten(1)))  # (n, 300)
        x = torch.relu(self.fc2(x))  # (n, 100)
        return self.fc3(x)


class LeNet5(nn.Module):
    """LeNet-5 in the form that Caffe ships and the pruning papers use: 20-50-500-10, 431,080
    parameters; no nonlinearity but the pooling after the convolutions.

    Input `(n, 1, 28, 28)`, output `(n, outputs)`.
    """

    def __init__(self, outputs: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.conv1(x), 2)  # (n, 20, 12, 12)
        x = nn.functional.max_pool2d(self.conv2(x), 2)  # (n, 50, 4, 4)
        x = torch.relu(self.fc1(x.flatten(1)))  # (n, 500)
        return self.fc2(x)


MODELS: dict[str, Callable[..., nn.Module]] = {"lenet_300_100": LeNet300100, "lenet_5": LeNet5}


def build(name: str, seed: int = 0, **settings: int) -> nn.Module:
    """A new model with weights drawn from `seed`; the global random state is left alone.

    `settings` go to the model, such as ``outputs=1``.
    """
    if name not in MODELS:
        raise ValueError(f"build: model must be one of {[*MODELS]}, got {name!r}")
    with LocalRandom(seed):
        return MODELS[name](**settings)


def pretrained(name: str, seed: int = 0) -> nn.Module:
    """A shipped model, trained on `mnist` from initial weights of `seed`; in eval mode.

    Raises ValueError for a name or a seed that is not shipped.
    """
    model = build(name, seed)
    folder = resources.files("prunekit") / "weights"
    shipped = sorted(p.name for p in folder.iterdir() if p.name.endswith(".safetensors"))
    if f"{name}-{seed}.safetensors" not in shipped:
        raise ValueError(f"pretrained: no weights of {name} with seed {seed}; there are {shipped}")
    with resources.as_file(folder) as path:
        checkpoint.load_into(model, path / f"{name}-{seed}")
    return model.eval()


def provenance(name: str, seed: int = 0) -> dict[str, Any]:
    """How the weights of `pretrained` were made: knobs, seed, data, versions, accuracies."""
    with resources.as_file(resources.files("prunekit") / "weights") as path:
        return checkpoint.read_info(path / f"{name}-{seed}")
