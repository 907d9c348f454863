"""`Piles`: the filters of a layer as pictures, a pile a cluster, the survivors framed."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Annotated, Any

import anywidget
import traitlets
from torch import Tensor

from prunekit._arguments import checked, shaped
from prunekit.looks import COLOURS, NEGATIVE, POSITIVE
from prunekit.widgets import output
from prunekit.widgets._static import VIEWS, script, style
from prunekit.widgets.running import OfCell

SIZE, GAP = 30, 6  # pixels of the picture without scripts: of a filter, and between two


class Piles(OfCell, anywidget.AnyWidget):
    """Filters that slide into piles, one a cluster: how many, of what, and who stays are chosen.

    layer: its name. means: (n, h, w) in [-1, 1], what is seen of each filter. counts: the numbers
    of clusters to choose from. found: by what is clustered, ``labels``, the cluster of each filter,
    and ``stay``, by rule the filters that stay; both a list a number of clusters.

    It needs no kernel. With `stored` it goes into the notebook's file and lives on there: say so
    only of what is alike on every processor.
    """

    _esm, _css = script(*VIEWS["Piles"][0]), style(*VIEWS["Piles"][1])
    shown = traitlets.Dict().tag(sync=True)

    @checked
    def __init__(
        self,
        layer: str,
        means: Annotated[Tensor, shaped("n", "h", "w")],
        counts: list[int],
        found: Mapping[str, Mapping[str, Any]],
        *,
        stored: bool = False,
    ):
        if not found:
            raise ValueError("Piles: found must have at least one way to cluster, got none")
        self.stored = stored
        filters = [[round(v, 2) for v in each] for each in means.flatten(1).tolist()]
        shown: dict[str, Any] = {"layer": layer, "filters": filters, "shape": [*means.shape[1:]]}
        # In a notebook's file names are in the order of the alphabet.
        shown |= {"of": [*found], "who": [*next(iter(found.values()))["stay"]]}
        shown |= {"start": start(counts, len(filters)), "colours": COLOURS}
        super().__init__(shown={**shown, "counts": counts, "clusters": found})

    def lasting(self) -> Mapping[str, Any] | None:
        return {"shown": self.shown} if self.stored else None

    def fallback(self) -> str:
        return output.drawn(_drawn(self.shown))

    def __repr__(self) -> str:
        return f"Piles({len(self.shown['filters'])} filters of {self.shown['layer']})"


def _drawn(shown: Mapping[str, Any]) -> str:
    """An SVG of the piles that are shown first."""
    filters, counts = shown["filters"], shown["counts"]
    number = shown["start"]
    clusters = shown["clusters"][shown["of"][0]]
    labels, stay = clusters["labels"][number], clusters["stay"][shown["who"][0]][number]
    piles: list[list[int]] = [[] for _ in range(counts[number])]
    for i, cluster in enumerate(labels):
        piles[cluster].append(i)
    piles.sort(key=lambda members: -len(members))
    says = f"{len(stay)} of {len(filters)} filters of {shown['layer']} stay, framed and on top"
    parts = []
    for column, members in enumerate(piles):
        members.sort(key=lambda i: (i not in stay, i))
        for row, i in enumerate(members):
            x, y = (GAP + place * (SIZE + GAP) for place in (column, row))
            parts.append(_picture(filters[i], shown["shape"], x, y))
            frame, width = (COLOURS[column % len(COLOURS)], 3) if i in stay else ("gray", 0.6)
            parts.append(
                f'<rect x="{x}" y="{y}" width="{SIZE}" height="{SIZE}" fill="none" '
                f'stroke="{frame}" stroke-width="{width}"/>'
            )
    wide, high = (GAP + n * (SIZE + GAP) for n in (len(piles), len(piles[0])))
    return (
        f"<p>{html.escape(says)}</p>"
        f'<svg width="{wide}" height="{high}" viewBox="0 0 {wide} {high}" role="img" '
        f'aria-label="{html.escape(says)}">{"".join(parts)}</svg>'
    )


def start(counts: list[int], n: int) -> int:
    """The place of the number of clusters that is shown first: about half of n."""
    return next((at for at, k in enumerate(counts) if 2 * k >= n), len(counts) - 1)


def _picture(values: list[float], shape: list[int], x: float, y: float) -> str:
    """The weights of a filter as squares."""
    tall, broad = SIZE / shape[0], SIZE / shape[1]
    return "".join(
        f'<rect x="{x + place % shape[1] * broad:.1f}" y="{y + place // shape[1] * tall:.1f}" '
        f'width="{broad + 0.2:.1f}" height="{tall + 0.2:.1f}" '
        f'fill="{POSITIVE if v > 0 else NEGATIVE}" fill-opacity="{abs(v):.2f}"/>'
        for place, v in enumerate(values)
    )
