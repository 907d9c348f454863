"""The networks of the papers, built from a seed or loaded with trained weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunekit import checkpoint
from prunekit._files import home
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


class AlexNet(nn.Module):
    """AlexNet in the form that CIFAR papers use: five convolutions and one linear layer, 2,472,266
    parameters.

    Krizhevsky 2014, arXiv 1404.5997: its kernels, but a first padding and three poolings that leave
    one pixel of 32×32. Input `(n, 3, 32, 32)`, output `(n, outputs)`.
    """

    def __init__(self, outputs: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 11, stride=4, padding=5)
        self.conv2 = nn.Conv2d(64, 192, 5, padding=2)
        self.conv3 = nn.Conv2d(192, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 256, 3, padding=1)
        self.conv5 = nn.Conv2d(256, 256, 3, padding=1)
        self.fc = nn.Linear(256, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.conv1(x)), 2)  # (n, 64, 4, 4)
        x = nn.functional.max_pool2d(torch.relu(self.conv2(x)), 2)  # (n, 192, 2, 2)
        x = torch.relu(self.conv4(torch.relu(self.conv3(x))))  # (n, 256, 2, 2)
        x = nn.functional.max_pool2d(torch.relu(self.conv5(x)), 2)  # (n, 256, 1, 1)
        return self.fc(x.flatten(1))


class VGG16(nn.Module):
    """VGG-16 in the form that CIFAR papers use: thirteen 3×3 convolutions, each with batch
    normalisation, and one linear layer; 14,728,266 parameters.

    Simonyan and Zisserman 2015, arXiv 1409.1556, configuration D. Input `(n, 3, 32, 32)`, output
    `(n, outputs)`.
    """

    WIDTHS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool",
              512, 512, 512, "pool")  # fmt: skip

    def __init__(self, outputs: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in self.WIDTHS:
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).flatten(1))  # (n, 512) between the two


MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet_300_100": LeNet300100,
    "lenet_5": LeNet5,
    "alexnet": AlexNet,
    "vgg_16": VGG16,
}
SHIPPED = "weights"  # the folder of `pretrained`, in the package and in the user's cache


def build(name: str, seed: int = 0, **settings: int) -> nn.Module:
    """A new model with weights drawn from `seed`; the global random state is left alone.

    `settings` go to the model, such as ``outputs=1``.
    """
    if name not in MODELS:
        raise ValueError(f"build: model must be one of {[*MODELS]}, got {name!r}")
    with LocalRandom(seed):
        return MODELS[name](**settings)


def pretrained(name: str, seed: int = 0, variant: str = "") -> nn.Module:
    """A trained model, started from initial weights of `seed`; in eval mode.

    The LeNets, trained on `mnist`, are shipped; with a `variant` such as ``"114x"``, pruned. Others
    are there once an experiment has trained them on this machine. Raises ValueError for one that is
    not there.
    """
    model = build(name, seed)
    with _found(name, seed, variant) as path:
        checkpoint.load_into(model, path)
    return model.eval()


def provenance(name: str, seed: int = 0, variant: str = "") -> dict[str, Any]:
    """How the weights of `pretrained` were made: knobs, seed, data, versions, accuracies."""
    with _found(name, seed, variant) as path:
        return checkpoint.read_info(path)


def file_name(name: str, seed: int, variant: str = "") -> str:
    """What the files of a trained model are called, without their ending."""
    return f"{name}-{seed}" + (f"-{variant}" if variant else "")


@contextmanager
def _found(name: str, seed: int, variant: str) -> Iterator[Path]:
    """The path, without its ending, of a trained model: in the package, or in the cache."""
    wanted = file_name(name, seed, variant)
    with resources.as_file(resources.files("prunekit") / SHIPPED) as shipped:
        found = [*(home() / SHIPPED).glob("*.safetensors"), *shipped.glob("*.safetensors")]
        there = {path.stem: path.parent for path in found}
        if wanted not in there:
            raise ValueError(
                f"models: there are no weights {wanted}, only {sorted(there)}; reproduce makes more"
            )
        yield there[wanted] / wanted
