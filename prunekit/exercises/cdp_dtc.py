"""Those of ``05_cdp_dtc``: a penalty, who just lives, what is stored; knobs of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prunekit import stripes
from prunekit.datasets import mnist_small
from prunekit.exercises import Challenge, Exercise, answered
from prunekit.methods.cdp_dtc import cdp_dtc
from prunekit.models import build
from prunekit.prune import prune

FLAT, THREE = torch.ones(2, 4), torch.tensor([[0.6, -0.2], [0.1, -0.1], [0.0, 0.0]])


def _penalty(skeletons: Tensor, a: float, b: float, k: float | None = None) -> Tensor:
    places = skeletons.shape[1] if k is None else k
    return a * skeletons.abs().sum() + b * places**0.5 * skeletons.norm(dim=1).sum()


EXERCISES = {
    "penalty": Exercise(
        _penalty,
        [(FLAT, 1.0, 1.0), (THREE, 1.0, 1.0), (THREE, 0.5, 2.0)],
        {
            "that is what the code computes: the filter term is the stripe term again": (
                lambda skeletons, a, b: (a + b) * skeletons.abs().sum()
            ),
            "the root of the number of places is missing": lambda skeletons, a, b: _penalty(
                skeletons, a, b, 1.0
            ),
            "the root of the number of places, not the number": lambda skeletons, a, b: _penalty(
                skeletons, a, b, float(skeletons.shape[1] ** 2)
            ),
            "a norm for each filter, not one for all": lambda skeletons, a, b: (
                a * skeletons.abs().sum() + b * skeletons.shape[1] ** 0.5 * skeletons.norm()
            ),
            "sizes, not values": lambda skeletons, a, b: (
                _penalty(skeletons, 0.0, b) + a * skeletons.sum()
            ),
            "a is for stripes, b for filters": lambda skeletons, a, b: _penalty(skeletons, b, a),
        },
    ),
    "just_lives": Exercise(
        lambda base, m, k: (base * m / k) ** 0.5,
        [(0.04, 9.0, 9), (0.05, 4.5, 9), (0.1, 2.5, 25)],
        {
            "the norm of the filter is k × v": lambda base, m, k: (base * m) ** 0.5,
            "the norm of the filter is k × v, and v is on both sides": lambda base, m, k: base * m,
            "take the root": lambda base, m, k: base * m / k,
            "the norm of the filter is k × v: divide by k, do not multiply": lambda base, m, k: (
                (base * m * k) ** 0.5
            ),
            "δ is a part of it": lambda base, m, k: (m / k) ** 0.5,
        },
    ),
    "held": Exercise(
        lambda n, c, k, left: (n * k * k * left * c, n * k * k * left),
        [(16, 8, 3, 0.25), (10, 4, 5, 0.5)],
        {
            "a stripe has a weight for each input": lambda n, c, k, left: (n * k * k * left,) * 2,
            "first the weights, then the places": lambda n, c, k, left: (
                n * k * k * left,
                n * k * k * left * c,
            ),
            "only the share that is left": lambda n, c, k, left: (n * k * k * c, n * k * k),
            "a kernel has k × k places": lambda n, c, k, left: (n * k * left * c, n * k * left),
        },
    ),
}
LEAST = 0.95  # of the validation accuracy
TRAINING: dict[str, Any] = dict(
    epochs=6, lr=0.05, batch=64, schedule="one-cycle", weight_decay=1e-4
)


def _left(own: Any) -> float:
    """The share of the stripes that six epochs leave, in per cent."""
    if not isinstance(answered(own), Mapping):
        raise ValueError("knobs of cdp_dtc, by name, and share: of the pressure")
    knobs = dict(own)
    if refused := {*knobs} & {"bar", "keep", "run", "seed", *TRAINING}:
        raise ValueError(f"{min(refused)} is the same for all: choose among the others")
    share, digits = float(knobs.pop("share", 0.4)), mnist_small()
    pressure = stripes.pressure(digits.minibatches(TRAINING["batch"]), share, **TRAINING)
    chosen = TRAINING | pressure | knobs
    report = prune(cdp_dtc, build("vgg_small", 0), digits, keep="last", bar=False, **chosen)
    if (accuracy := report.after["accuracy"]) < LEAST:
        raise ValueError(f"the accuracy is {accuracy:.3f}; it must be {LEAST} at least")
    return 100 * stripes.shares(report.mask)["stripes"]


CHALLENGES = {
    "knobs": Challenge(
        _left, f"stripes left, in per cent, at an accuracy of at least {LEAST}", "lowest",
        lambda: {"a line for each filter, as in section 5": _left(dict(delta=0.04))}, seconds=900.0,
    )
}  # fmt: skip
