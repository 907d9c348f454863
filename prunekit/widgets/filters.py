"""`FilterView`: the filters of a convolution as pictures, kept and removed ones told apart."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import anywidget
import torch
import traitlets
from torch import Tensor, nn

from prunekit._arguments import checked
from prunekit.looks import FAINTEST, INK, NEGATIVE, POSITIVE
from prunekit.mask import Mask
from prunekit.widgets import output
from prunekit.widgets._static import VIEWS, script, style
from prunekit.widgets.running import OfCell

WHOLE = 100  # what stands for the layer's largest weight
# Of the still picture: pictures side by side, weights between them, what is left of a removed one.
ROW, GAP, FADED = 10, 1, 0.35


def traits(
    weight: Tensor, keep: Tensor | None, scores: Tensor | None, layer: str
) -> dict[str, Any]:
    """Filters (out, in, h, w) as plain values: what the script of `FilterView` draws.

    ``pictures`` has the mean of each filter over its inputs, row by row, in hundredths of the
    largest, None where no input's weight is kept; of a filter of which nothing is kept, as if all
    were. ``left`` is the share of its weights that is kept, ``norms`` are the sums of all their
    sizes, ``scores`` (out,) as given.
    """
    keep = torch.ones_like(weight, dtype=torch.bool) if keep is None else keep
    left = keep.flatten(1).double().mean(1)
    shown = keep | (left == 0).reshape(-1, 1, 1, 1)
    means = (weight * shown).mean(1).flatten(1)
    hundredths = (WHOLE * means / (float(means.abs().max()) or 1.0)).round().int().tolist()
    seen = shown.any(1).flatten(1).tolist()
    return {
        "layer": layer,
        "inputs": weight.shape[1],
        "size": [*weight.shape[2:]],
        "pictures": [
            [value if there else None for value, there in zip(*one, strict=True)]
            for one in zip(hundredths, seen, strict=True)
        ],
        "left": [round(share, 4) for share in left.tolist()],
        "norms": _rounded(weight.abs().flatten(1).sum(1)),
        "scores": None if scores is None else _rounded(scores),
    }


def _rounded(values: Tensor) -> list[float]:
    return [float(f"{value:.4g}") for value in values.double().tolist()]


class FilterView(OfCell, anywidget.AnyWidget):
    """The filters of a convolution of `model` as pictures, by default of its first one.

    A filter with several inputs is shown as the mean over them. One of which `mask` keeps nothing
    is crossed out, and its weights stand back; of the others, removed weights are empty. Point at a
    filter, or move with the arrow keys, to read its number (counted from 0, as in the tensor), its
    score and its L1 norm. `scores` are a number a filter, or weights' scores by parameter name,
    which are summed.

    With `stored`, the pictures go into the notebook's file and live on there without a kernel: say
    so only of what is alike on every processor, such as weights that were not trained there.

    Raises ValueError for a layer that is no convolution over two axes, and for scores that do not
    fit.
    """

    _esm, _css = script(*VIEWS["FilterView"][0]), style(*VIEWS["FilterView"][1])
    filters = traitlets.Dict().tag(sync=True)

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: str = "",
        scores: Mapping[str, Tensor] | Tensor | None = None,
        mask: Mask | None = None,
        *,
        stored: bool = False,
    ):
        there = [name for name, p in model.named_parameters() if p.ndim == 4 and p.numel()]
        layer = layer or (there[0] if there else "")
        if layer not in there:
            raise ValueError(
                f"FilterView: {layer!r} has no filters over two axes; these have some: {there}"
            )
        if mask is not None:
            mask.check(model)
        weight = model.get_parameter(layer).detach().cpu().float()
        keep = mask.get(layer) if mask is not None else None
        self.stored = stored
        super().__init__(filters=traits(weight, keep, _of_filters(scores, layer, weight), layer))

    def lasting(self) -> Mapping[str, Any] | None:
        """What a page without a kernel draws the view from."""
        return {"filters": self.filters} if self.stored else None

    def fallback(self) -> str:
        """The pictures, as HTML that needs no script."""
        return output.drawn(still(self.filters))

    def __repr__(self) -> str:
        return f"FilterView({self.filters['layer']}, {len(self.filters['left'])} filters)"


def _of_filters(
    scores: Mapping[str, Tensor] | Tensor | None, layer: str, weight: Tensor
) -> Tensor | None:
    """A number a filter, (out,)."""
    if isinstance(scores, Mapping):
        if layer not in scores:
            raise ValueError(f"FilterView: no scores of {layer}; there are {[*scores]}")
        scores = scores[layer]
    if scores is None:
        return None
    if not scores.ndim or scores.shape[0] != weight.shape[0]:
        raise ValueError(
            f"FilterView: {weight.shape[0]} filters need as many scores, got {tuple(scores.shape)}"
        )
    return scores.detach().cpu().double().reshape(len(scores), -1).sum(1)


def still(filters: Mapping[str, Any]) -> str:
    """All filters as one SVG in colours for a light and a dark page; removed ones crossed out."""
    (high, wide), many = filters["size"], len(filters["pictures"])
    frames, crosses = [], []
    squares: dict[tuple[str, float], list[str]] = {}  # by colour and opacity
    for number, picture in enumerate(filters["pictures"]):
        row, column = divmod(number, ROW)
        left, top = GAP + column * (wide + GAP), GAP + row * (high + GAP)
        frames.append(f"M{left} {top}h{wide}v{high}h{-wide}z")
        removed = filters["left"][number] == 0
        if removed:
            crosses.append(f"M{left} {top}l{wide} {high}m0 {-high}l{-wide} {high}")
        for place, value in enumerate(picture):
            if value is not None:
                y, x = divmod(place, wide)
                seen = FAINTEST + (1 - FAINTEST) * abs(value) / WHOLE
                paint = (NEGATIVE if value < 0 else POSITIVE, round(seen * (FADED**removed), 2))
                squares.setdefault(paint, []).append(f"M{left + x} {top + y}h1v1h-1z")
    paths = [
        f'<path fill="{colour}" fill-opacity="{seen}" d="{"".join(of_it)}"/>'
        for (colour, seen), of_it in squares.items()
    ]
    for lines, thick in ((frames, 0.1), (crosses, 0.3)):
        look = f'fill="none" stroke="{INK}" stroke-width="{thick}"'
        paths.append(f'<path {look} d="{"".join(lines)}"/>')
    kept = sum(share > 0 for share in filters["left"])
    says = html.escape(f"{many} filters of {filters['layer']}, {kept} kept")
    width, height = GAP + min(many, ROW) * (wide + GAP), GAP + -(-many // ROW) * (high + GAP)
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{9 * width}" height="{9 * height}" role="img" '
        f'aria-label="{says}">{"".join(paths)}</svg>'
    )
