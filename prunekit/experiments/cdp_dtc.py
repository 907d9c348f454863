"""Learned stripes: the paper's two pieces and what came before them, on MNIST.

The paper (Li, Wang, Wu and Kang 2023, doi 10.3233/AIC-230046) is described by its abstract and by
the authors' code, which has no value for the strength and the threshold; its tables were not
available to us. Networks start from weights of their seed, as the authors' do.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from prunekit import models, stripes
from prunekit.datasets import mnist, mnist_small
from prunekit.experiments import Arm, Experiment
from prunekit.methods.cdp_dtc import cdp_dtc

PAPER = "Li, Wang, Wu and Kang 2023, doi 10.3233/AIC-230046"
LENGTHS, SHARES = (6, 15, 30, 60), (0.3, 0.4, 0.6, 1.0)
RECIPE: dict[str, Any] = dict(lr=0.05, batch=64, weight_decay=1e-4, schedule="one-cycle")


def pressed(examples: int, epochs: int, share: float) -> dict[str, Any]:
    """The recipe, and knobs that press with a share of the authors' pressure."""
    recipe = RECIPE | dict(epochs=epochs)
    minibatches = math.ceil(examples / RECIPE["batch"])
    found = stripes.pressure(minibatches, share, **recipe)
    return recipe | {name: float(f"{value:.3g}") for name, value in found.items()}


def _lengths() -> dict[str, Arm]:
    digits = dict(delta=0.05, keep="last", precision="fp32-channels-last")
    return {
        f"{epochs} epochs, pressure {share:g}": Arm(
            cdp_dtc, digits | pressed(5_000, epochs, share), "vgg_small",
            short=dict(epochs=1) if (epochs, share) == (6, 0.4) else None,
            start=partial(models.build, "vgg_small"), seeds=(0, 1),
        )
        for epochs in LENGTHS
        for share in SHARES
    }  # fmt: skip


LAYER, TIMES = "features.3.weight", (0, 1, 2, 4)


def _uncut() -> dict[str, Arm]:
    knobs = pressed(5_000, 15, 0.4) | dict(delta=0.0, skeletons_of=(LAYER,), keep="last")
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
    knobs = dict(keep="best", precision="fp32-channels-last") | pressed(55_000, 20, 0.4)
    return {
        f"{name}, threshold {delta:g}": Arm(
            cdp_dtc, knobs | changed | dict(delta=delta), "vgg_small",
            short=dict(epochs=1) if (name, delta) == ("cdp, dtc", 0.05) else None,
            start=partial(models.build, "vgg_small"),
        )
        for delta in DELTAS
        for name, changed in ARMS.items()
    }  # fmt: skip


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
)
