"""The dense LeNets that every experiment starts from, and what the baselines make of them.

Han, Pool, Tran and Dally 2015, arXiv 1506.02626, prune LeNet-300-100 and LeNet-5 12× on MNIST
without loss. Not all details of their training are told, so ours is stated in the knobs: one-shot,
iterative and gradual pruning get the same number of epochs. Their rule, a threshold for each layer
at a multiple of its standard deviation, is that of the arms named "Han's rule"; the others rank the
weights of the whole network, gradual pruning those of each layer, so they are after the method and
do not reproduce it.
"""

from __future__ import annotations

from typing import Any

from prunekit.baselines.gradual import gradual
from prunekit.baselines.magnitude import magnitude
from prunekit.baselines.random import random
from prunekit.datasets import mnist
from prunekit.experiments import Arm, Claim, Experiment
from prunekit.train import fit

HAN = "arXiv 1506.02626, table 1"

# The same fine-tuning for every arm that has any; "auto" trains in bf16 where the processor can.
EPOCHS = {"lenet_300_100": 20, "lenet_5": 10}
TUNING: dict[str, dict[str, Any]] = {
    "lenet_300_100": dict(lr=0.05),
    "lenet_5": dict(lr=0.01, precision="auto"),
}
LEVELS = {
    "lenet_300_100": (0.8, 0.9, 0.917, 0.95, 0.98, 0.99),
    "lenet_5": (0.917, 0.98),
}
# Sensitivities with which as many rounds, untrained, would leave what the paper's tables 3 and 4
# give for each layer; its own are not told.
HANS = {"lenet_300_100": (0.6, 0.65, 0.5), "lenet_5": (0.4, 0.8, 0.85, 0.7)}


def _arms() -> dict[str, Arm]:
    arms = {}
    recipes: dict[str, dict[str, Any]] = {
        "lenet_300_100": dict(epochs=30, lr=0.1, weight_decay=5e-4),
        "lenet_5": dict(epochs=15, lr=0.02, weight_decay=5e-4, precision="auto"),
    }
    for model, recipe in recipes.items():
        arms[f"{model} dense"] = Arm(fit, recipe, model, short=dict(epochs=1), publish=True)
    for model, levels in LEVELS.items():
        epochs, tuning = EPOCHS[model], TUNING[model]
        for name, method in (("magnitude", magnitude), ("random", random)):
            knobs = dict(sparsity=0.99, rounds=20, epochs=0)
            arms[f"{model} {name} without fine-tuning"] = Arm(method, knobs, model, dict(rounds=4))
        for s in levels:
            short = dict(epochs=1) if s == 0.917 else None
            once = dict(sparsity=s, rounds=1, epochs=epochs, **tuning)
            arms[f"{model} one-shot {s}"] = Arm(magnitude, once, model, short)
            arms[f"{model} random {s}"] = Arm(random, once, model, short)
            rounds = dict(sparsity=s, rounds=epochs // 2, epochs=2, **tuning)
            fewer = None if short is None else dict(rounds=2, epochs=1)
            arms[f"{model} iterative {s}"] = Arm(magnitude, rounds, model, fewer)
            knobs = dict(sparsity=s, epochs=epochs, every=100, **tuning)
            arms[f"{model} gradual {s}"] = Arm(gradual, knobs, model, short)
        by_layer = dict(sensitivities=HANS[model], rounds=epochs // 2, epochs=2, **tuning)
        arms[f"{model} Han's rule"] = Arm(magnitude, by_layer, model)
    return arms


EXPERIMENTS = (
    Experiment(
        name="baselines",
        title="Dense LeNets on MNIST, and pruning them by magnitude, at random and gradually",
        paper="Han, Pool, Tran and Dally 2015, arXiv 1506.02626",
        status="after the paper",
        data=mnist,
        arms=_arms(),
        claims=(
            Claim("LeNet-300-100, test error at 12×", 1.59, "%", HAN),
            Claim("LeNet-300-100, test error dense", 1.64, "%", HAN),
            Claim("LeNet-5, test error at 12×", 0.77, "%", HAN),
            Claim("LeNet-5, test error dense", 0.80, "%", HAN),
        ),
    ),
)
