"""A threshold on |w|: what it removes, and what accuracy is left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from prunekit._arguments import checked
from prunekit.data import wrap
from prunekit.judge import Recall, by_class, evaluate
from prunekit.mask import Mask, prunable
from prunekit.report import shown_metric
from prunekit.widgets.instant import Estimates, Instant, about, bars, estimate_of

BINS, FEW = 60, 20  # bars; classes whose recall is drawn


@checked
def magnitude(model: nn.Module, data: Any) -> Instant:
    """A slider for one threshold over all weights; below it they are removed, without training."""
    weights = {name: p.detach().cpu().abs() for name, p in prunable(model).items()}
    sizes = torch.cat([w.flatten() for w in weights.values()]).float()
    most = float(sizes.sort().values[int(0.999 * (len(sizes) - 1))]) or 1.0
    counts = torch.histc(sizes.clamp(max=most), BINS, 0, most).tolist()
    data = wrap(data)
    metric, n = data.metric_name, data.size("validation")
    estimate = estimate_of(model, data)

    def recalls(classes: Sequence[Recall]) -> str:
        """Of a few classes a picture of their recall."""
        if len(classes) > FEW:
            return ""
        told = ", ".join(f"{c.name}: {c.share:.1%}" for c in classes)
        return bars(
            [c.share for c in classes], [True] * len(classes), x="class", y="recall", most=1.0,
            ticks={share / 2: f"{share / 2:g}" for share in range(3)},
            names=[c.name for c in classes], says=f"recall of {told}",
        )  # fmt: skip

    def work(threshold: float) -> Estimates:
        mask = Mask({name: w >= threshold for name, w in weights.items()})
        if estimate is not None:
            classes = estimate.by_class(mask)
            value = sum(c.right for c in classes) / n
            yield page(mask, threshold, about(value, estimate, n), recalls(classes))
        if not data.counts_errors:
            value, classes = evaluate(model, data, mask=mask), []
        else:
            classes = by_class(model, data, mask=mask)
            value = sum(c.right for c in classes) / n
        figure = shown_metric(value, metric, n)
        return page(mask, threshold, figure, recalls(classes) if classes else "")

    def page(mask: Mask, threshold: float, figure: str, recall: str) -> str:
        says = (
            f"sparsity {mask.sparsity:.3f}: {mask.kept:,} of {mask.total:,} weights kept, "
            f"validation {metric} {figure}"
        )
        kept = [(i + 0.5) * most / BINS >= threshold for i in range(BINS)]
        picture = bars(
            [count**0.5 for count in counts], kept, x="size of the weight, |w|",
            y="weights (square root)", names=("0", f"{most:.3g} and more"), says=says,
        )  # fmt: skip
        return f"<p>{says}</p>{picture}{recall}"

    return Instant(work, "Threshold", threshold=(0.0, most, 0.0))
