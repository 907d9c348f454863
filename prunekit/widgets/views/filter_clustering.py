"""The filters of a layer in piles: those of a cluster one below the other, the survivor framed."""

from __future__ import annotations

import html
from typing import Any

import torch
from torch import Tensor, nn

from prunekit import clusters
from prunekit._arguments import checked
from prunekit.data import wrap
from prunekit.looks import COLOURS, NEGATIVE, POSITIVE
from prunekit.nodes import Nodes
from prunekit.widgets.filters import pictures
from prunekit.widgets.instant import Instant

SIZE, GAP, LEFT = 30, 6, 4  # pixels: of a filter, between two, and at the edge


@checked
def filter_clustering(model: nn.Module, data: Any, layer: str = "", seed: int = 0) -> Instant:
    """A slider for the number of clusters of a layer's filters, by default of the first one, and
    menus for what is clustered and who stays."""
    data = wrap(data)
    nodes = Nodes("filter_clustering", model, data)
    layer = layer or next(iter(nodes.sizes))
    rows = clusters.rows(model, nodes, layer)
    points = clusters.turned(clusters.normalised(rows))
    weight = model.get_parameter(layer).detach().cpu().float()
    if weight.ndim != 4:  # of a unit one line
        weight = weight.flatten(1)[:, None, None, :]
    means, _ = pictures(weight, torch.ones_like(weight, dtype=torch.bool))
    codes: dict[str, Tensor] = {}

    def work(of: str, stays: str, **more: float) -> str:
        if of not in codes:
            codes[of] = clusters.features(points, of, seed=seed).codes(points)
        labels = clusters.clustered(codes[of], round(more["clusters"]), seed=seed)
        kept = clusters.survivors(codes[of], labels, rows.norm(dim=1), stays)
        sizes = labels.bincount()
        says = (
            f"{int(kept.sum())} of {len(kept)} filters of {layer} stay; clusters of "
            f"{', '.join(map(str, sizes.sort(descending=True).values.tolist()))}"
        )
        return f"<p>{html.escape(says)}</p>{_piles(means, labels, kept, says)}"

    n = nodes.sizes[layer]
    return Instant(
        work, f"Clusters of the filters of {layer}",
        clusters=(1.0, float(n), float(max(n // 2, 1))), of=[*reversed(clusters.FEATURES)],
        stays=[*clusters.SURVIVORS],
    )  # fmt: skip


def _piles(means: Tensor, labels: Tensor, kept: Tensor, says: str) -> str:
    """An SVG of filters, (n, h, w) in [-1, 1], a column a cluster, the largest
    first; who stays is framed."""
    sizes = labels.bincount()
    order = sizes.argsort(descending=True, stable=True).tolist()
    parts = []
    for column, cluster in enumerate(order):
        members = (labels == cluster).nonzero().flatten().tolist()
        members.sort(key=lambda i: (not bool(kept[i]), i))  # who stays lies on top
        x = LEFT + column * (SIZE + GAP)
        colour = COLOURS[column % len(COLOURS)]
        for row, i in enumerate(members):
            y = LEFT + row * (SIZE + GAP)
            parts.append(_picture(means[i], x, y))
            frame, width = (colour, 3) if kept[i] else ("currentColor", 0.6)
            parts.append(
                f'<rect x="{x}" y="{y}" width="{SIZE}" height="{SIZE}" fill="none" '
                f'stroke="{frame}" stroke-width="{width}"><title>filter {i}</title></rect>'
            )
    wide = 2 * LEFT + len(order) * (SIZE + GAP)
    high = 2 * LEFT + int(sizes.max()) * (SIZE + GAP)
    return (
        f'<svg width="{wide}" height="{high}" viewBox="0 0 {wide} {high}" role="img" '
        f'aria-label="{html.escape(says)}">{"".join(parts)}</svg>'
    )


def _picture(values: Tensor, x: float, y: float) -> str:
    """The weights of a filter as squares; (h, w) in [-1, 1]."""
    high, wide = values.shape
    tall, broad = SIZE / high, SIZE / wide
    return "".join(
        f'<rect x="{x + c * broad:.1f}" y="{y + r * tall:.1f}" width="{broad + 0.2:.1f}" '
        f'height="{tall + 0.2:.1f}" fill="{POSITIVE if v > 0 else NEGATIVE}" '
        f'fill-opacity="{abs(v):.2f}"/>'
        for r, line in enumerate(values.tolist())
        for c, v in enumerate(line)
    )
