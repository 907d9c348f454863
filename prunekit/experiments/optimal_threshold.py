"""Optimal thresholds: after the abstract, on MNIST and CIFAR-10.

Of the paper (Wang, Liu and Pan 2020, doi 10.1145/3395260.3395300) only the abstract was available
to us: its two figures are the claims. It does not say which LeNet-5 and which VGG, whether the
figures are of time or of operations, before or after training; formulas and schedule are ours.
Time is that of one image on one thread, in turns with the whole network.
"""

from __future__ import annotations

from typing import Any

from prunekit.baselines.filters import TRUNK
from prunekit.datasets import mnist
from prunekit.experiments import Arm, Claim, Experiment
from prunekit.experiments.bases import smoothed_cifar10
from prunekit.methods.optimal_threshold import optimal_threshold

PAPER = "Wang, Liu and Pan 2020, doi 10.1145/3395260.3395300"
ABSTRACT = "doi 10.1145/3395260.3395300, abstract"
LOSS = Claim("accuracy lost at most", 2.0, "points", ABSTRACT)
SEARCHES: dict[str, dict[str, Any]] = {
    "one threshold": dict(scope="global"),
    "a threshold a layer": dict(scope="layer"),
    "a threshold a layer, sensitivity alone": dict(scope="layer", redundancy=0.0),
}
LENETS = ("lenet_5", "lenet_5_1998")
DIGITS: dict[str, Any] = dict(epochs=5, lr=0.01, precision="fp32-channels-last")
CIFAR: dict[str, Any] = dict(images=1_000, batch=128, lr=0.05, weight_decay=5e-4, precision="auto")


def _lenets() -> dict[str, Arm]:
    return {
        f"{model} {name}": Arm(
            optimal_threshold, DIGITS | changed, model, timed=True,
            short=dict(epochs=1, images=500, stride=0.2) if name == "a threshold a layer" else None,
        )
        for model in LENETS
        for name, changed in SEARCHES.items()
    }  # fmt: skip


def _cifar() -> dict[str, Arm]:
    arms = {
        f"resnet_20 {name}": Arm(
            optimal_threshold, CIFAR | SEARCHES[name] | dict(ignore=TRUNK, epochs=20), "resnet_20",
            timed=True,
            short=dict(epochs=1, images=200, stride=0.25) if name == "one threshold" else None,
        )
        for name in ("one threshold", "a threshold a layer")
    }  # fmt: skip
    knobs = CIFAR | SEARCHES["a threshold a layer"] | dict(epochs=5)
    arms["vgg_16 a threshold a layer"] = Arm(
        optimal_threshold, knobs, "vgg_16", seeds=(0,), timed=True
    )
    return arms


EXPERIMENTS = (
    Experiment(
        name="optimal-threshold",
        title="Optimal thresholds for the filters and units of LeNet-5 on MNIST",
        paper=PAPER,
        status="after the abstract",
        data=mnist,
        arms=_lenets(),
        claims=(Claim("LeNet-5 on MNIST is accelerated by", 36.62, "%", ABSTRACT), LOSS),
    ),
    Experiment(
        name="optimal-threshold-cifar",
        title="Optimal thresholds for the filters of ResNet-20 and VGG-16 on CIFAR-10",
        paper=PAPER,
        status="after the abstract",
        data=smoothed_cifar10,
        arms=_cifar(),
        claims=(Claim("VggNet on CIFAR-10 is accelerated by", 43.86, "%", ABSTRACT), LOSS),
    ),
)
