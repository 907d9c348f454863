"""A roulette wheel over a layer: its slices by the size of the weights, and what it removes."""

from __future__ import annotations

import torch
from torch import nn

from prunekit import select
from prunekit.methods.roulette import WHEELS, _log_wheel
from prunekit.widgets.instant import Instant, bars

BINS, SHARE = 20, 0.2  # of the weights


def roulette(model: nn.Module, layer: str = "fc1.weight") -> Instant:
    """A menu of wheels and a slider for their strength.

    The bars are twentieths of the layer's weights from the smallest to the largest, as high as the
    chance that the first pick is among them.
    """
    w = model.get_parameter(layer).detach().cpu().flatten().double()
    sizes = (w.abs() / w.std(correction=0)).sort().values
    squares, n = sizes**2, round(SHARE * len(sizes))
    smallest = float(squares[:n].sum() / squares.sum())

    def work(wheel: str, strength: float) -> str:
        logits = _log_wheel(sizes, wheel, strength)
        chances = [float(part.exp().sum()) for part in logits.chunk(BINS)]
        picked = select.spin(logits.float(), n, torch.Generator().manual_seed(0))
        lost = float(squares[picked].sum() / squares.sum())
        says = (
            f"spun once for {SHARE:.0%} of the weights it removes ≈{lost:.1%} of their squares; "
            f"blind removal ≈{SHARE:.0%}, the smallest weights {smallest:.2%}"
        )
        picture = bars(
            chances, [True] * len(chances), x="weights in order of size, a bar a twentieth",
            y="chance of a pick", ends=("smallest", "largest"), says=says,
        )  # fmt: skip
        return f"<p>{says}</p>{picture}"

    wheels = sorted(WHEELS, key=lambda wheel: wheel != "inv")  # the method's own first
    return Instant(work, f"A wheel over {layer}", wheel=wheels, strength=(0.25, 8.0, 4.0))
