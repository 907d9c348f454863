"""Learned stripes: the paper's two pieces and what came before them, on MNIST and CIFAR-10.

The paper (Li, Wang, Wu and Kang 2023, doi 10.3233/AIC-230046) is described by its abstract and by
the authors' code, which has no value for the strength and the threshold; its tables were not
available to us. Networks start from weights of their seed, as the authors' do.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from prunekit import models, stripes
from prunekit.datasets import cifar10, mnist, mnist_small
from prunekit.experiments import Arm, Claim, Experiment
from prunekit.methods.cdp_dtc import cdp_dtc

PAPER = "Li, Wang, Wu and Kang 2023, doi 10.3233/AIC-230046"
SWP = "arXiv 2009.14410, as its authors' code tells them"
LENGTHS, SHARES = (6, 15, 30, 60), (0.0, 0.3, 0.4, 0.6, 1.0)
DIGITS: dict[str, Any] = dict(lr=0.05, batch=64, weight_decay=1e-4, schedule="one-cycle")
CIFAR: dict[str, Any] = dict(lr=0.1, batch=64, weight_decay=1e-4, schedule="steps")  # the authors'


def pressed(recipe: dict[str, Any], examples: int, epochs: int, share: float) -> dict[str, Any]:
    """A recipe, and knobs that press with a share of the authors' pressure."""
    recipe = recipe | dict(epochs=epochs)
    found = stripes.pressure(math.ceil(examples / recipe["batch"]), share, **recipe)
    return recipe | {name: float(f"{value:.3g}") for name, value in found.items()}


def _lengths() -> dict[str, Arm]:
    digits = dict(delta=0.05, keep="last", precision="fp32-channels-last")
    return {
        f"{epochs} epochs, pressure {share:g}": Arm(
            cdp_dtc, digits | pressed(DIGITS, 5_000, epochs, share), "vgg_small",
            short=dict(epochs=1) if (epochs, share) == (6, 0.4) else None,
            start=partial(models.build, "vgg_small"), seeds=(0, 1),
        )
        for epochs in LENGTHS
        for share in SHARES
    }  # fmt: skip


LAYER, TIMES = "features.3.weight", (0, 1, 2, 4)


def _uncut() -> dict[str, Arm]:
    knobs = pressed(DIGITS, 5_000, 15, 0.4) | dict(delta=0.0, skeletons_of=(LAYER,), keep="last")
    return {
        f"strength × {times}": Arm(
            cdp_dtc, knobs | dict(strength=times * knobs["strength"]), "vgg_small",
            short=dict(epochs=1) if times == 1 else None,
            start=partial(models.build, "vgg_small"), seeds=(0,),
        )
        for times in TIMES
    }  # fmt: skip


ARMS = {
    f"{penalty}, {threshold}": dict(penalty=penalty, threshold=threshold)
    for penalty in ("swp", "cdp")
    for threshold in ("fixed", "dtc")
}
DELTAS = (0.05, 0.15)


def _digits() -> dict[str, Arm]:
    knobs = pressed(DIGITS, 55_000, 20, 0.4) | dict(keep="best", precision="fp32-channels-last")
    return {
        f"{name}, threshold {delta:g}": Arm(
            cdp_dtc, knobs | changed | dict(delta=delta), "vgg_small",
            short=dict(epochs=1) if (name, delta) == ("cdp, dtc", 0.05) else None,
            start=partial(models.build, "vgg_small"),
        )
        for delta in DELTAS
        for name, changed in ARMS.items()
    }  # fmt: skip


# Of the large networks one seed, and not all of them.
NETWORKS: dict[str, tuple[tuple[str, ...], tuple[int, ...] | None]] = {
    "resnet_20": ((*ARMS,), None),
    "resnet_56": (("swp, fixed", "swp, dtc", "cdp, dtc"), (0,)),
    "vgg_16": (("swp, fixed", "swp, dtc", "cdp, dtc"), (0,)),
}


def _cifar() -> dict[str, Arm]:
    share = round(stripes.bearable(epochs := 30), 2)
    knobs: dict[str, Any] = dict(delta=0.05, keep="best", precision="auto")
    knobs |= pressed(CIFAR, 45_000, epochs, share)
    free = knobs | pressed(CIFAR, 45_000, epochs, 0.0)
    short = {"resnet_20 cdp, dtc": dict(epochs=1)}
    arms = {
        f"{model} {name}": Arm(
            cdp_dtc, knobs | ARMS[name], model, short.get(f"{model} {name}"),
            start=partial(models.build, model), seeds=seeds, timed=True,
        )
        for model, (names, seeds) in NETWORKS.items()
        for name in names
    }  # fmt: skip
    arms["resnet_20 pressure 0"] = Arm(
        cdp_dtc, free, "resnet_20", start=partial(models.build, "resnet_20"), seeds=(0,)
    )
    return arms


EXPERIMENTS = (
    Experiment(
        name="cdp-dtc",
        title="Learned stripes of a small VGG on MNIST: two penalties, two kinds of threshold",
        paper=PAPER,
        status="after the paper",
        data=mnist,
        arms=_digits(),
    ),
    Experiment(
        name="cdp-dtc-lengths",
        title="How much pressure a short training bears: stripes of a small VGG on 5,000 digits",
        paper=PAPER,
        status="after the paper",
        data=mnist_small,
        arms=_lengths(),
    ),
    Experiment(
        name="cdp-dtc-skeletons",
        title="Skeletons of a small VGG on 5,000 digits under four penalties, without a cut",
        paper=PAPER,
        status="after the paper",
        data=mnist_small,
        arms=_uncut(),
    ),
    Experiment(
        name="cdp-dtc-cifar",
        title="Learned stripes of residual networks and VGG-16 on CIFAR-10, from new weights",
        paper=PAPER,
        status="after the paper",
        data=cifar10,
        arms=_cifar(),
        claims=(
            Claim("SWP, VGG-16, parameters removed", 92.66, "%", SWP),
            Claim("SWP, VGG-16, operations removed", 71.16, "%", SWP),
            Claim("SWP, ResNet-56, parameters removed", 75.6, "%", SWP),
            Claim("SWP, ResNet-56, operations removed", 77.7, "%", SWP),
        ),
    ),
)
