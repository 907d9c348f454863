"""The importance of all nodes, a column of bars a layer; and lines that rise over them."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunekit import count
from prunekit._arguments import checked
from prunekit.data import wrap
from prunekit.judge import evaluate
from prunekit.knobs import Count
from prunekit.looks import BLUE, RED
from prunekit.nodes import Nodes, activity, importance
from prunekit.report import shown_metric
from prunekit.widgets.instant import Instant

BARS = 40  # of a layer, at most: of more nodes every so many are shown
LEFT, TOP, HIGH, GAP = 46, 8, 150, 26  # pixels
ALL, START = "all layers", 0.2


@checked
def optimal_threshold(
    model: nn.Module, data: Any, tolerance: float = 0.02, examples: Count = 1_000
) -> Instant:
    """A slider for a threshold, and a menu for whose it is: one of all layers, or each its own.

    The bars are the nodes of a layer, from the least to the most important; the pale ones are gone.
    The text turns red where more than `tolerance` of the validation metric is lost.
    """
    data = wrap(data)
    nodes = Nodes("optimal_threshold", model, data)
    worth = importance(activity("optimal_threshold", model, data, nodes, examples=examples))
    short = {name: name.removesuffix(".weight") for name in worth}
    before, x = evaluate(model, data), data.example
    dense = count.macs(model, x).dense
    metric, n = data.metric_name, data.size("validation")

    line, chosen = dict.fromkeys(worth, START), [ALL]

    def work(line_of: str, threshold: float) -> str:
        if line_of == chosen[0]:  # a line moves with the slider, not with the menu
            line.update({name: threshold for name in worth if line_of in (ALL, short[name])})
        chosen[0] = line_of
        kept = {name: _kept(w, line[name]) for name, w in worth.items()}
        mask = nodes.mask(model, kept)
        value = evaluate(model, data, mask=mask)
        saved = 1 - count.macs(model, x, mask).sparse / dense
        left = ", ".join(
            f"{short[name]} {int(keep.sum())} of {len(keep)}" for name, keep in kept.items()
        )
        lost = before - value > tolerance
        says = f"validation {metric} {shown_metric(value, metric, n)}" + (
            f": more than {tolerance:g} is lost" if lost else ""
        )
        told = f"multiply-adds saved {saved:.1%}; nodes left: {left}"
        style = f' style="color:{RED}"' if lost else ""
        head = f"<p><span{style}>{html.escape(says)}</span><br>{html.escape(told)}</p>"
        named = {short[name]: (w, kept[name], line[name]) for name, w in worth.items()}
        return head + _drawn(named, f"{says}; {told}")

    menu = [ALL, *short.values()]
    return Instant(work, "Thresholds", line_of=menu, threshold=(0.0, 1.0, START))


def _kept(worth: Tensor, line: float) -> Tensor:
    keep = worth >= line
    keep[worth.argmax()] = True
    return keep


def _drawn(layers: Mapping[str, tuple[Tensor, Tensor, float]], says: str) -> str:
    """An SVG in the colours of the page: of each layer importances, what is kept, and the line."""
    wide = max(60, min(150, 520 // max(len(layers), 1)))
    bottom, parts = TOP + HIGH, []
    for number, (name, (worth, keep, line)) in enumerate(layers.items()):
        order = worth.argsort()
        if len(order) > BARS:
            order = order[torch.linspace(0, len(order) - 1, BARS).round().long()]
        start, step = LEFT + number * (wide + GAP), wide / len(order)
        for place, node in enumerate(order.tolist()):
            tall = max(HIGH * float(worth[node]), 1.0)
            full = bool(keep[node])
            paint = f'fill="{BLUE}"' if full else 'fill="currentColor" fill-opacity="0.25"'
            parts.append(
                f'<rect x="{start + place * step:.1f}" y="{bottom - tall:.1f}" '
                f'width="{0.86 * step:.2f}" height="{tall:.1f}" {paint}/>'
            )
        y = bottom - HIGH * line
        parts.append(
            f'<path d="M{start} {y:.1f}h{wide}" stroke="{RED}" stroke-width="2"/>'
            f'<text x="{start + wide / 2:.0f}" y="{bottom + 16}" text-anchor="middle" '
            f'font-size="12" fill="currentColor">{html.escape(name)}</text>'
        )
    right = LEFT + len(layers) * (wide + GAP)
    parts.append(
        f'<path d="M{LEFT} {bottom}H{right - GAP}" stroke="currentColor"/>'
        f'<text transform="translate(14 {TOP + HIGH / 2}) rotate(-90)" text-anchor="middle" '
        'font-size="12" fill="currentColor">importance</text>'
    )
    for value in (0, 0.5, 1):
        parts.append(
            f'<text x="{LEFT - 6}" y="{bottom - HIGH * value + 4:.0f}" text-anchor="end" '
            f'font-size="12" fill="currentColor">{value:g}</text>'
        )
    return (
        f'<svg width="{right}" height="{bottom + 24}" role="img" '
        f'aria-label="{html.escape(says)}">{"".join(parts)}</svg>'
    )
