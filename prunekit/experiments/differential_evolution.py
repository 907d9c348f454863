"""Differential evolution of thresholds on LeNet-300-100, and what it is compared with.

Only the abstract of the paper (Wu, Li, Zhou, Li and Shi 2021, doi 10.3390/s21030880) is public: its
ratios are the claims; the constants of the search and the training are ours. Every arm starts from
the dense nets that the package ships and gets the same number of epochs.
"""

from __future__ import annotations

from typing import Any

from prunekit.baselines.gradual import gradual
from prunekit.baselines.magnitude import magnitude
from prunekit.data import mnist
from prunekit.experiments import Arm, Claim, Experiment
from prunekit.methods.differential_evolution import differential_evolution

ABSTRACT = "doi 10.3390/s21030880, abstract"

LENET_300_100: dict[str, Any] = dict(
    rounds=8, drop=0.02, tolerance=0.003, epochs=10, last_epochs=20, lr=0.02
)
EPOCHS = 8 * 10 + 20
SHORT = dict(rounds=4, drop=0.03, epochs=3, last_epochs=6)
RATIOS = (24, 48)  # compressions of the controls that are told where to stop


def _arms() -> dict[str, Arm]:
    searches: dict[str, dict[str, Any]] = {
        "evolution": {},
        "evolution, no recovery": dict(recovery="off"),
        "evolution, recovery by magnitude": dict(recovery="magnitude"),
        "evolution, weighted fitness": dict(fitness="weighted", balance=0.9),
        "one sensitivity": dict(uniform=True),
        "random search": dict(strategy="random", crossover=1.0),
        "one cut": dict(rounds=1, drop=0.1, recovery="off", epochs=0, last_epochs=EPOCHS),
    }
    arms = {}
    for name, changed in searches.items():
        short = SHORT if name == "evolution" else None
        arms[name] = Arm(differential_evolution, LENET_300_100 | changed, short=short)
    for ratio in RATIOS:
        goal: dict[str, Any] = dict(sparsity=round(1 - 1 / ratio, 6), lr=LENET_300_100["lr"])
        short = dict(epochs=SHORT["rounds"] * SHORT["epochs"] + SHORT["last_epochs"])
        arms[f"gradual {ratio}×"] = Arm(
            gradual, goal | dict(epochs=EPOCHS), short=short if ratio == 24 else None
        )
        iterative = goal | dict(rounds=10, epochs=EPOCHS // 10)
        arms[f"magnitude {ratio}×"] = Arm(magnitude, iterative)
    return arms


EXPERIMENTS = (
    Experiment(
        name="de-lenet300",
        title="Evolved thresholds on LeNet-300-100, and their controls",
        paper="Wu, Li, Zhou, Li and Shi 2021, doi 10.3390/s21030880",
        status="after the abstract",
        data=mnist,
        arms=_arms(),
        claims=(Claim("LeNet-300-100, compression", 24, "×", ABSTRACT),),
    ),
)
