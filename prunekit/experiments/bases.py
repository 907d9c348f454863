"""The trained networks that other experiments start from: on CIFAR-10, and on digits.

The LeNets of most experiments on MNIST are the dense arms of `baselines`. The papers' recipes are
longer; these are ours, and stated in the knobs.
"""

from __future__ import annotations

import functools
from typing import Any

from torch.nn.functional import cross_entropy

from prunekit.data import Data
from prunekit.datasets import cifar10, mnist
from prunekit.experiments import Arm, Claim, Experiment
from prunekit.train import fit

HE = "arXiv 1512.03385, table 6"
SMOOTHING = 0.1  # share of each training target that is spread over all classes

CIFAR: dict[str, Any] = dict(
    epochs=60, batch=128, lr=0.2, weight_decay=5e-4, schedule="one-cycle", peak=0.2,
    precision="auto",
)  # fmt: skip
DIGITS: dict[str, Any] = dict(
    epochs=20, batch=128, lr=0.1, weight_decay=5e-4, schedule="one-cycle", peak=0.2,
    precision="fp32-channels-last",
)  # fmt: skip


def smoothed_cifar10(**download: Any) -> Data:
    """`cifar10` with label smoothing in its loss."""
    data = cifar10(**download)
    loss = functools.partial(cross_entropy, label_smoothing=SMOOTHING)
    return Data(
        data.splits, name=data.name, classes=data.classes, mean=data.mean, std=data.std,
        loss=loss, augment=data.augment,
    )  # fmt: skip


def _cifar(model: str, *seeds: int, short: bool = False, **changed: Any) -> Arm:
    return Arm(
        fit, CIFAR | changed, model, short=dict(epochs=1) if short else None, publish=True,
        seeds=seeds, store="fp16",
    )  # fmt: skip


EXPERIMENTS = (
    Experiment(
        name="cifar-bases",
        title="Dense networks on CIFAR-10, which other experiments start from",
        paper="He, Zhang, Ren and Sun 2016, arXiv 1512.03385",
        status="after the paper",
        data=smoothed_cifar10,
        arms={
            "resnet_20": _cifar("resnet_20", 0, 1, 2, short=True),
            # Without batch norm a large rate breaks it.
            "alexnet": _cifar("alexnet", 0, lr=0.02),
            "resnet_56": _cifar("resnet_56", 0),
            # An epoch takes a core 7 minutes with bfloat16, 15 to 25 without.
            "vgg_16": _cifar("vgg_16", 0, epochs=12),
        },
        claims=(
            Claim("ResNet-20, test error", 8.75, "%", HE),
            Claim("ResNet-56, test error", 6.97, "%", HE),
        ),
    ),
    Experiment(
        name="mnist-bases",
        title="LeNet-5 of 1998 and a small VGG on MNIST, which other experiments start from",
        paper="LeCun, Bottou, Bengio and Haffner 1998, doi 10.1109/5.726791",
        status="after the paper",
        data=mnist,
        arms={
            # Without batch norm, as above.
            "lenet_5_1998": Arm(
                fit, DIGITS | dict(lr=0.05), "lenet_5_1998", short=dict(epochs=1), publish=True
            ),
            "vgg_small": Arm(fit, DIGITS, "vgg_small", short=dict(epochs=1), publish=True),
        },
        claims=(Claim("LeNet-5, test error", 0.95, "%", "doi 10.1109/5.726791, section III"),),
    ),
)
