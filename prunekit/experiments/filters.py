"""Filters of a ResNet-20 on CIFAR-10: what a criterion is worth at half the multiply-adds.

In each block the filters of the first convolution go, as in the plans of Li, Kadav, Durdanovic,
Samet and Graf 2017, arXiv 1608.08710; what is added up along the shortcuts stays. What is left is
trained as the network that it is. Networks, cost and schedule are ours. Beside criteria stand
clusters of filters, after Li, Zhu and Sun 2019, doi 10.1109/ICMEW.2019.00-68, and the same network
trained from scratch.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from prunekit import models
from prunekit.baselines.filters import TRUNK, filters
from prunekit.experiments import Arm, Experiment
from prunekit.experiments.bases import smoothed_cifar10
from prunekit.methods.filter_clustering import filter_clustering

CRITERIA = {"L1": "l1", "FPGM": "median", "random": "random"}
HALF: dict[str, Any] = dict(
    budget={"macs": 0.5}, ignore=TRUNK, batch=128, lr=0.05, weight_decay=5e-4, precision="auto",
)  # fmt: skip
# By what is clustered and who stays; on how many networks.
CLUSTERED: dict[str, tuple[dict[str, Any], tuple[int, ...] | None]] = {
    "clusters of codes, nearest": ({}, None),
    "clusters of codes, largest": (dict(survivor="largest"), None),
    "clusters of filters, nearest": (dict(features="raw"), (0,)),
    "clusters of PCA, nearest": (dict(features="pca"), (0,)),
}


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
    for name, (changed, networks) in CLUSTERED.items():
        knobs = HALF | changed | dict(epochs=20)
        arms[f"resnet_20 {name}"] = Arm(filter_clustering, knobs, "resnet_20", seeds=networks)
    arms["resnet_20 from scratch"] = Arm(
        filters, HALF | dict(criterion="random", epochs=20), "resnet_20",
        start=partial(models.build, "resnet_20"), seeds=(0,),
    )  # fmt: skip
    return arms


EXPERIMENTS = (
    Experiment(
        name="resnet20-filters",
        title="Filters of ResNet-20 on CIFAR-10, at half the multiply-adds",
        paper="Li, Kadav, Durdanovic, Samet and Graf 2017, arXiv 1608.08710",
        status="after the paper",
        data=smoothed_cifar10,
        arms=_arms(),
        showcase="resnet_20 clusters of codes, nearest",
    ),
)
