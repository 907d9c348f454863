"""Filter clustering: after the abstract, on MNIST, and at published widths on CIFAR-10.

Of the paper (Li, Zhu and Sun 2019, doi 10.1109/ICMEW.2019.00-68) only the abstract was available to
us, which has no figure; the claim is one of the authors' letter of 2018 on k-means++ of filters,
known by its summary. All arms keep equally many filters of each layer and train equally long; the
cells of ResNet-20 are those of `resnet20-filters`. Widths and schedules are ours, those of VGG-16
and ResNet-56 Li et al.'s of 2017, arXiv 1608.08710.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from prunekit import models
from prunekit.baselines.filters import PLANS, TRUNK, filters
from prunekit.datasets import mnist
from prunekit.experiments import Arm, Claim, Experiment
from prunekit.experiments.bases import smoothed_cifar10
from prunekit.methods.filter_clustering import filter_clustering

PAPER = "Li, Zhu and Sun 2019, doi 10.1109/ICMEW.2019.00-68"
LETTER = "Li, Xu and Zhu 2018, IEICE Transactions E101-D, 1203-1206, summary"
# Of conv1, conv2 and fc1. The second leaves an eighteenth of the parameters.
WIDTHS = {"10-25-250": (10, 25, 250), "5-10-132": (5, 10, 132)}
CLUSTERED: dict[str, dict[str, Any]] = {
    "codes, nearest": {},
    "codes, largest": dict(survivor="largest"),
    "raw, nearest": dict(features="raw"),
    "raw, largest": dict(features="raw", survivor="largest"),
    "PCA, nearest": dict(features="pca"),
}
CRITERIA = {"random": "random", "L1": "l1", "FPGM": "median"}
DIGITS: dict[str, Any] = dict(epochs=10, lr=0.01, precision="fp32-channels-last")
CIFAR: dict[str, Any] = dict(batch=128, lr=0.05, weight_decay=5e-4, precision="auto")


def _lenets() -> dict[str, Arm]:
    arms = {}
    for at, widths in WIDTHS.items():
        knobs = DIGITS | dict(widths=widths)
        for name, changed in CLUSTERED.items():
            short = dict(epochs=1, steps=100) if name == "codes, nearest" else None
            arms[f"{at} {name}"] = Arm(filter_clustering, knobs | changed, "lenet_5", short)
        for name, criterion in CRITERIA.items():
            short = dict(epochs=1) if name == "L1" else None
            arms[f"{at} {name}"] = Arm(filters, knobs | dict(criterion=criterion), "lenet_5", short)
        # Which filters go before any training is a matter of chance alone.
        arms[f"{at} from scratch"] = Arm(
            filters,
            knobs | dict(criterion="random"),
            "lenet_5",
            start=partial(models.build, "lenet_5"),
        )
    return arms


def _cifar() -> dict[str, Arm]:
    plans: dict[str, tuple[str, dict[str, Any]]] = {
        "vgg_16": ("vgg_16", dict(epochs=15)),
        "resnet_56": ("resnet_56 B", dict(epochs=20, ignore=TRUNK)),
    }
    arms = {}
    for model, (plan, more) in plans.items():
        knobs = CIFAR | dict(widths=PLANS[plan]) | more
        other = "random" if model == "vgg_16" else "FPGM"
        arms[f"{model} codes, nearest"] = Arm(filter_clustering, knobs, model, seeds=(0,))
        for name in ("L1", other):
            arms[f"{model} {name}"] = Arm(
                filters, knobs | dict(criterion=CRITERIA[name]), model,
                short=dict(epochs=1) if name == "L1" else None, seeds=(0,),
            )  # fmt: skip
    return arms


EXPERIMENTS = (
    Experiment(
        name="filter-clustering",
        title="Clusters of the filters and units of LeNet-5 on MNIST",
        paper=PAPER,
        status="after the abstract",
        data=mnist,
        arms=_lenets(),
        claims=(
            Claim("LeNet-5: parameters fewer by a factor of", 17.9, "", LETTER),
            Claim("LeNet-5: accuracy lost", 0.3, "points", LETTER),
        ),
    ),
    Experiment(
        name="filter-clustering-cifar",
        title="Clusters of filters on CIFAR-10, at published widths",
        paper=PAPER,
        status="after the abstract",
        data=smoothed_cifar10,
        arms=_cifar(),
    ),
)
