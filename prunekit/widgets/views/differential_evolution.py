"""A sensitivity for each layer: what it keeps, and what accuracy all of them together leave; and
the evolution of two of them."""

from __future__ import annotations

import html
from typing import Any

import torch
from torch import nn

from prunekit.data import Data
from prunekit.mask import Mask, prunable
from prunekit.report import shown_metric
from prunekit.train import SLACK, evaluate, metric_name, size
from prunekit.widgets.genemap import GeneMap
from prunekit.widgets.instant import Instant, bars


def differential_evolution(model: nn.Module, data: Any) -> Instant:
    """A slider a layer: weights below sensitivity × the layer's standard deviation are removed."""
    weights = {name: p.detach().cpu() for name, p in prunable(model).items()}
    deviations = {name: float(w.std(correction=0)) for name, w in weights.items()}
    metric, n = metric_name(data), size(data, "validation")

    def work(**sensitivities: float) -> str:
        limits = {name: s * deviations[name] for name, s in sensitivities.items()}
        mask = Mask({name: w.abs() >= limits[name] for name, w in weights.items()})
        value = evaluate(model, data, mask=mask)
        figure = shown_metric(value, metric, n)
        shares = [float(keep.float().mean()) for keep in mask.values()]
        each = ", ".join(f"{name} {s:.1%}" for name, s in zip(mask, shares, strict=True))
        says = f"{mask.density:.1%} of the weights kept, validation {metric} {figure} ({each})"
        picture = bars(
            [*shares, 1.0], [True] * len(shares) + [False], x="layer; the last bar is everything",
            y="share kept", ends=(next(iter(mask)), "everything"), says=says,
        )  # fmt: skip
        return f"<p>{html.escape(says)}</p>{picture}"

    return Instant(work, "Sensitivities", **dict.fromkeys(weights, (0.0, 2.5, 1.0)))


def two_genes(
    model: nn.Module,
    data: Any,
    layers: tuple[int, int] = (0, 1),
    *,
    places: int = 12,
    highest: float = 2.4,
    drop: float = 0.01,
    images: int = 1_000,
    **settings: Any,
) -> GeneMap:
    """The sensitivities of two layers, by their numbers; the other layers are left alone.

    A grid of `places` × `places` pairs up to `highest` is tried on at most `images` validation
    examples, which takes as many evaluations; a pair may cost `drop` of the accuracy. `settings`
    are handed on to `GeneMap`. Raises ValueError if there are no two such layers.
    """
    weights = {name: p.detach().cpu() for name, p in prunable(model).items()}
    names = [*weights]
    if (
        len(layers) != 2
        or layers[0] == layers[1]
        or not all(0 <= layer < len(names) for layer in layers)
    ):
        raise ValueError(
            f"two_genes: layers must be two numbers from 0 to {len(names) - 1}, got {layers}"
        )
    if isinstance(data, Data):
        data = data.only("validation").fewer(validation=min(images, data.size("validation")))
    grid = [highest * (i + 1) / places for i in range(places)]
    across, up = (
        [{names[layer]: w.abs() >= s * w.std(correction=0)} for s in grid]
        for layer, w in ((layer, weights[names[layer]]) for layer in layers)
    )
    whole = Mask.ones(model)
    masks = [[Mask({**whole, **first, **second}) for first in across] for second in up]
    kept = torch.tensor([[100 * mask.density for mask in row] for row in masks])
    least = evaluate(model, data) - drop - SLACK
    found = [[evaluate(model, data, mask=mask) for mask in row] for row in masks]
    over = 100 * (least - torch.tensor(found, dtype=torch.float64))
    x, y = (f"sensitivity of {names[layer]}" for layer in layers)
    return GeneMap(grid, grid, kept, over <= 0, over=over, x=x, y=y, **settings)
