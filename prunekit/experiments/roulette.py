"""Roulette and branching tree on the LeNets: every wheel, with and without a branch.

The paper's text is not public: wheels, branch sizes, steps and networks are ours, after the
abstract (Chan, Yiu, Guo and Jiang 2024, doi 10.1007/s00521-024-09719-6). Every run goes on to a
sparsity of 95 %, so that the paper's stop rule (the first fall below the dense network) can be
read off.
"""

from __future__ import annotations

from typing import Any

from prunekit.baselines.gradient import gradient
from prunekit.baselines.magnitude import magnitude
from prunekit.baselines.random import random
from prunekit.data import mnist
from prunekit.experiments import Arm, Experiment
from prunekit.methods.roulette import roulette
from prunekit.report import Method

WHEELS = {
    "sum": ("sum", 1), "lin": ("lin", 1),
    "inv-1": ("inv", 1), "inv-2": ("inv", 2), "inv-4": ("inv", 4), "inv-8": ("inv", 8),
    "exp-1": ("exp", 1), "exp-3": ("exp", 3), "exp-6": ("exp", 6),
    "rank-1": ("rank", 1), "rank-4": ("rank", 4),
}  # fmt: skip
SMALL = {name: WHEELS[name] for name in ("lin", "inv-4", "exp-6", "rank-4")}
LEVELS = 59  # of 5 % each: 1 − 0.95^59 is a sparsity of 95 %
TUNED = 19  # of 15 % each: the same with fine-tuning


def _arms() -> dict[str, Arm]:
    arms = {}
    for model, wheels, sizes in (
        ("lenet_300_100", WHEELS, (1, 10, 40)),
        ("lenet_5", SMALL, (1, 10)),
    ):
        precision = "auto" if model == "lenet_5" else "fp32"
        for name, (wheel, strength) in wheels.items():
            quick = name in SMALL and model == "lenet_300_100"
            knobs: dict[str, Any] = dict(sparsity=0.95, wheel=wheel, strength=strength)
            for b in sizes:
                short = dict(branches=min(b, 3)) if quick and b == 10 else None
                plain = knobs | dict(branches=b)
                arms[f"{model} {name}, B = {b}"] = Arm(roulette, plain, model, short)
            for scope in (
                ("layer",) if model == "lenet_300_100" and name in ("inv-4", "rank-4") else ()
            ):
                layer = knobs | dict(branches=10, scope=scope)
                arms[f"{model} {name}, B = 10, wheel a layer"] = Arm(roulette, layer, model)
            tuning: dict[str, Any] = dict(
                step=0.15, epochs=1, precision="auto" if model == "lenet_5" else "fp32"
            )
            for b in (10,) if model == "lenet_300_100" else sizes:
                tuned = knobs | tuning | dict(branches=b)
                arms[f"{model} {name}, B = {b}, fine-tuned"] = Arm(roulette, tuned, model)
        controls: dict[str, tuple[Method, dict[str, Any]]] = {
            "magnitude": (magnitude, {}),
            "random": (random, {}),
            "|gradient|": (gradient, {}),
            "|w·gradient|": (gradient, dict(times_weight=True)),
        }
        for name, (control, extra) in controls.items():
            short = {} if model == "lenet_300_100" and "gradient" not in name else None
            control_knobs: dict[str, Any] = dict(sparsity=0.95, rounds=LEVELS)
            plain = control_knobs | extra
            arms[f"{model} {name}"] = Arm(control, plain, model, short)
            tuned = control_knobs | dict(rounds=TUNED, epochs=1) | extra
            tuned["precision"] = precision
            arms[f"{model} {name}, fine-tuned"] = Arm(control, tuned, model)
        best = dict(sparsity=0.95, wheel="uniform", branches=10)
        arms[f"{model} random, B = 10"] = Arm(roulette, best, model)
    return arms


EXPERIMENT = Experiment(
    name="roulette",
    title="Every wheel of roulette pruning on the LeNets, with and without a branch",
    paper="Chan, Yiu, Guo and Jiang 2024, doi 10.1007/s00521-024-09719-6",
    status="after the abstract",
    data=mnist,
    arms=_arms(),
    showcase="lenet_300_100 inv-4, B = 10",
)
