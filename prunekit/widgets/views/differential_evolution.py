"""A sensitivity for each layer: what it keeps, and what accuracy all of them together leave."""

from __future__ import annotations

import html
from typing import Any

from torch import nn

from prunekit._arguments import checked
from prunekit.data import wrap
from prunekit.judge import evaluate
from prunekit.mask import Mask, prunable
from prunekit.report import shown_metric
from prunekit.widgets.instant import Estimates, Instant, about, bars, estimate_of

NAMED = 5  # bars that have room for their names


@checked
def differential_evolution(model: nn.Module, data: Any) -> Instant:
    """A slider a layer: weights below sensitivity × the layer's standard deviation are removed."""
    weights = {name: p.detach().cpu() for name, p in prunable(model).items()}
    deviations = {name: float(w.std(correction=0)) for name, w in weights.items()}
    data = wrap(data)
    metric, n = data.metric_name, data.size("validation")
    before = shown_metric(evaluate(model, data), metric, n)

    estimate = estimate_of(model, data)

    def work(**sensitivities: float) -> Estimates:
        limits = {name: s * deviations[name] for name, s in sensitivities.items()}
        mask = Mask({name: w.abs() >= limits[name] for name, w in weights.items()})
        if estimate is not None:
            value = sum(c.right for c in estimate.by_class(mask)) / n
            yield page(mask, about(value, estimate, n))
        return page(mask, shown_metric(evaluate(model, data, mask=mask), metric, n))

    def page(mask: Mask, figure: str) -> str:
        shares = [float(keep.float().mean()) for keep in mask.values()]
        each = ", ".join(f"{name} {s:.1%}" for name, s in zip(mask, shares, strict=True))
        says = (
            f"{mask.density:.1%} of the weights kept ({each}), validation {metric} {figure}, "
            f"before {before}"
        )
        names = [*mask, "everything"]
        picture = bars(
            [*shares, 1.0], [True] * len(shares) + [False], x="layer", y="share kept", says=says,
            names=names if len(names) <= NAMED else (names[0], names[-1]),
        )  # fmt: skip
        return f"<p>{html.escape(says)}</p>{picture}"

    return Instant(work, "Sensitivities", **dict.fromkeys(weights, (0.0, 2.5, 1.0)))
