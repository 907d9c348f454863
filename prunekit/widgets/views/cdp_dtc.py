"""The skeletons of a layer, and who would go: under one line for all, under a line each."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from prunekit import stripes
from prunekit._arguments import checked
from prunekit.data import wrap
from prunekit.knobs import Count, NonNegative, knobs
from prunekit.methods import cdp_dtc as method
from prunekit.prune import prune
from prunekit.widgets.skeletons import Skeletons, run_of

TIMES = (1, 2, 4)  # the strengths, in multiples of what keeps the authors' pressure


@checked
def cdp_dtc(
    model: nn.Module,
    data: Any,
    layer: str = "",
    epochs: Count = 3,
    delta: NonNegative = 0.05,
    *,
    stored: bool = False,
) -> Skeletons:
    """Short trainings in which nothing is cut, one a strength of the penalty.

    The layer is by default the first convolution; for `stored` see `prunekit.widgets.Skeletons`.
    """
    data, convs = wrap(data), stripes.convolutions(model, who="cdp_dtc view")
    layer = layer or next(iter(convs))
    declared = {name: knob.default for name, knob in knobs(method.cdp_dtc).items()}
    told = ("lr", "batch", "momentum", "weight_decay", "schedule", "peak")
    training = {name: declared[name] for name in told} | dict(epochs=epochs)
    pressure = stripes.pressure(data.minibatches(training["batch"]), **training)
    runs = dict[str, list[Tensor]]()
    for times in TIMES:
        pressed = pressure | dict(strength=times * pressure["strength"])
        report = prune(
            method.cdp_dtc, model, data, delta=0.0, keep="last", skeletons_of=(layer,), bar=False,
            **training | pressed,
        )  # fmt: skip
        steps = [step.info["skeletons"][layer] for step in report.history if step.phase == "train"]
        runs |= run_of(steps, model.get_parameter(layer).shape, pressed["strength"])
    return Skeletons(layer, runs, delta, stored=stored)
