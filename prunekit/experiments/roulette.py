"""Roulette and branching tree on the LeNets: every wheel, with and without a branch.

The paper's text was not available to us: wheels, branch sizes, steps and networks are ours, after
the abstract (Chan, Yiu, Guo and Jiang 2024, doi 10.1007/s00521-024-09719-6). Every run goes on to a
sparsity of 95 %, so that the paper's stop rule (the first fall below the dense network) can be
read off.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from prunekit.baselines.gradient import gradient
from prunekit.baselines.magnitude import magnitude
from prunekit.baselines.random import random
from prunekit.datasets import mnist
from prunekit.experiments import Arm, Experiment
from prunekit.methods.roulette import roulette
from prunekit.prune import Method

WHEELS = {
    "sum": ("sum", 1), "lin": ("lin", 1),
    "inv-1": ("inv", 1), "inv-2": ("inv", 2), "inv-4": ("inv", 4), "inv-8": ("inv", 8),
    "exp-1": ("exp", 1), "exp-3": ("exp", 3), "exp-6": ("exp", 6),
    "rank-1": ("rank", 1), "rank-4": ("rank", 4),
}  # fmt: skip
FEW = ("lin", "inv-4", "exp-6", "rank-4")  # the wheels of LeNet-5 and of the short form
CONTROLS: dict[str, tuple[Method, dict[str, Any]]] = {
    "magnitude": (magnitude, {}),
    "random": (random, {}),
    "|gradient|": (gradient, {}),
    "|w·gradient|": (gradient, dict(times_weight=True)),
}
# All wheels but those "on |w|" see |w| over the spread of their layer's survivors.
RELATIVE = dict(measure="relative")
LEVELS = 59  # of 5 % each: 1 − 0.95^59 is a sparsity of 95 %
TUNED = 19  # of 15 % each: the same with an epoch of training after each
PRECISION = {"lenet_300_100": "fp32", "lenet_5": "auto"}


def _wheel(model: str, name: str, sizes: tuple[int, ...], tuned: tuple[int, ...]) -> dict[str, Arm]:
    """The arms of a wheel with each number of children: without training, and with."""
    wheel, strength = WHEELS[name]
    knobs: dict[str, Any] = dict(sparsity=0.95, wheel=wheel, strength=strength, **RELATIVE)
    training = dict(step=0.15, epochs=1, precision=PRECISION[model])
    quick = dict(branches=3) if name in FEW and model == "lenet_300_100" else None
    arms = {}
    for b in sizes:
        short = quick if b == 10 else None
        arms[f"{model} {name}, B = {b}"] = Arm(roulette, knobs | dict(branches=b), model, short)
    for b in tuned:
        both = knobs | training | dict(branches=b)
        arms[f"{model} {name}, B = {b}, fine-tuned"] = Arm(roulette, both, model)
    return arms


def _measures(model: str) -> dict[str, Arm]:
    """What a wheel looks at: |w| itself, over one σ for all layers, instead of over a layer's own;
    and |w| over a layer's own σ without chance."""
    arms = {}
    for name, b in product(("inv-4", "exp-6"), (1, 10)):
        wheel, strength = WHEELS[name]
        seen = dict(wheel=wheel, strength=strength, branches=b, measure="absolute")
        arms[f"{model} {name} on |w|, B = {b}"] = Arm(roulette, dict(sparsity=0.95) | seen, model)
    knobs: dict[str, Any] = dict(sparsity=0.95, rounds=LEVELS, **RELATIVE)
    return arms | {f"{model} |w|/σ": Arm(magnitude, knobs, model)}


def _layer_wheel(name: str) -> dict[str, Arm]:
    wheel, strength = WHEELS[name]
    knobs: dict[str, Any] = dict(
        sparsity=0.95, wheel=wheel, strength=strength, branches=10, scope="layer", **RELATIVE
    )
    return {f"lenet_300_100 {name}, B = 10, wheel a layer": Arm(roulette, knobs)}


def _controls(model: str) -> dict[str, Arm]:
    """What the wheels are compared with, at the same levels."""
    short: dict[str, Any] | None = {} if model == "lenet_300_100" else None
    arms = {}
    for name, (control, extra) in CONTROLS.items():
        knobs: dict[str, Any] = dict(sparsity=0.95, rounds=LEVELS) | extra
        tuned = knobs | dict(rounds=TUNED, epochs=1, precision=PRECISION[model])
        arms[f"{model} {name}"] = Arm(control, knobs, model, short)
        arms[f"{model} {name}, fine-tuned"] = Arm(control, tuned, model)
    best: dict[str, Any] = dict(sparsity=0.95, wheel="uniform", branches=10, **RELATIVE)
    return arms | {f"{model} random, B = 10": Arm(roulette, best, model)}


def _arms() -> dict[str, Arm]:
    arms: dict[str, Arm] = {}
    for name in WHEELS:
        arms |= _wheel("lenet_300_100", name, sizes=(1, 10, 40), tuned=(10,))
    arms |= _layer_wheel("inv-4") | _layer_wheel("rank-4") | _controls("lenet_300_100")
    arms |= _measures("lenet_300_100")
    for name in FEW:
        arms |= _wheel("lenet_5", name, sizes=(1, 10), tuned=(1, 10))
    return arms | _controls("lenet_5") | _measures("lenet_5")


EXPERIMENTS = (
    Experiment(
        name="roulette",
        title="Every wheel of roulette pruning on the LeNets, with and without a branch",
        paper="Chan, Yiu, Guo and Jiang 2024, doi 10.1007/s00521-024-09719-6",
        status="after the abstract",
        data=mnist,
        arms=_arms(),
        showcase="lenet_300_100 inv-4, B = 10",
    ),
)
