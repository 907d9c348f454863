"""Filters of a ResNet-20 on CIFAR-10: what a criterion is worth at half the multiply-adds.

In each block the filters of the first convolution go, as in the plans of Li, Kadav, Durdanovic,
Samet and Graf 2017, arXiv 1608.08710; what is added up along the shortcuts stays. What is left is
trained as the network that it is. Networks, cost and schedule are ours.
"""

from __future__ import annotations

from typing import Any

from prunekit.baselines.filters import filters
from prunekit.experiments import Arm, Experiment
from prunekit.experiments.bases import smoothed_cifar10

CRITERIA = {"L1": "l1", "FPGM": "median", "random": "random"}
HALF: dict[str, Any] = dict(
    budget={"macs": 0.5}, ignore=("conv1.weight", "*.conv2.weight"), batch=128, lr=0.05,
    weight_decay=5e-4, precision="auto",
)  # fmt: skip


def _arms() -> dict[str, Arm]:
    arms = {}
    for name, criterion in CRITERIA.items():
        knobs = HALF | dict(criterion=criterion, epochs=20)
        seeds = (0,) if name == "FPGM" else None
        short = dict(epochs=1)
        arms[f"resnet_20 {name}"] = Arm(filters, knobs, "resnet_20", short, seeds=seeds)
    for again in (False, True):
        name = "resnet_20 L1 without fine-tuning" + ", recalibrated" * again
        arms[name] = Arm(filters, HALF | dict(epochs=0, recalibrate=again), "resnet_20", {})
    return arms


EXPERIMENTS = (
    Experiment(
        name="resnet20-filters",
        title="Filters of ResNet-20 on CIFAR-10, at half the multiply-adds",
        paper="Li, Kadav, Durdanovic, Samet and Graf 2017, arXiv 1608.08710",
        status="after the paper",
        data=smoothed_cifar10,
        arms=_arms(),
    ),
)
