"""`FilterView`: the filters of a convolution as pictures, kept and removed ones told apart."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import anywidget
import torch
import traitlets
from torch import Tensor, nn

from prunekit import surgery
from prunekit._arguments import checked
from prunekit.looks import FAINTEST, INK, NEGATIVE, POSITIVE
from prunekit.mask import Mask
from prunekit.widgets import output
from prunekit.widgets._static import VIEWS, script, style
from prunekit.widgets.running import OfCell

# Of the picture: filters side by side, weights between them, pixels a weight, and how much is seen
# of a removed filter.
ROW, GAP, PIXELS, FADED = 10, 1, 9, 0.35


def pictures(weight: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Filters (out, in, h, w) as their means over their inputs, (out, h, w), largest size 1.

    A mean is of the weights that `keep` keeps; of a filter of which it keeps none, of all. The
    second tensor says where there is a mean.
    """
    shown = keep | ~keep.flatten(1).any(1).reshape(-1, 1, 1, 1)
    means = (weight * shown).mean(1)
    return means / (float(means.abs().max()) or 1.0), shown.any(1)


def told(weight: Tensor, keep: Tensor, scores: Tensor | None, along: list[list[str]]) -> list[str]:
    """What is known of each filter, and of what goes along, in words; they are counted from 0, as
    in the tensor."""
    norms, lines = weight.abs().flatten(1).sum(1), []
    for i, kept in enumerate(keep.flatten(1)):
        left, all_of_it = int(kept.sum()), len(kept)
        parts = [f"filter {i}: {'kept' if left else 'removed'}"]
        if 0 < left < all_of_it:
            parts.append(f"{left} of {all_of_it} weights left")
        if scores is not None:
            rank = int((scores > scores[i]).sum()) + 1
            parts.append(f"score {scores[i]:.4g}, rank {rank} of {len(scores)}")
        parts.append(f"L1 norm {norms[i]:.4g}")
        if others := along[i]:
            parts.append(f"{'would take' if left else 'takes'} along {_listed(others)}")
        lines.append("; ".join(parts))
    return lines


def _listed(words: list[str]) -> str:
    if len(words) > surgery.SHOWN:
        words = [*words[: surgery.SHOWN - 1], f"{len(words) - surgery.SHOWN + 1} others"]
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


class FilterView(OfCell, anywidget.AnyWidget):
    """The filters of a convolution of `model` as pictures, by default of its first one.

    A filter with several inputs is shown as the mean over them. One of which `mask` keeps nothing
    is crossed out, and its weights stand back; of the others, removed weights are empty. Point at a
    filter, or move with the arrow keys, to read its number (counted from 0, as in the tensor), its
    score and its L1 norm. `scores` are a number a filter, or weights' scores by parameter name,
    which are summed. With the `groups` of `prunekit.surgery`, what can only go with it is read too.

    With `stored`, the picture goes into the notebook's file and lives on there without a kernel:
    say so only of what is alike on every processor, such as weights that were not trained there.

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
        groups: surgery.Groups | None = None,
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
        keep = torch.ones_like(weight, dtype=torch.bool) if keep is None else keep
        many, inputs = weight.shape[:2]
        kept = keep.flatten(1).any(1)
        self.stored, says = stored, f"{layer}: {int(kept.sum())} of {many} filters kept"
        picture, places = drawn(*pictures(weight, keep), kept, says)
        along = [groups.along(layer, i) if groups is not None else [] for i in range(many)]
        words = told(weight, keep, _of_filters(scores, layer, weight), along)
        tiles = [{"place": at, "says": text} for at, text in zip(places, words, strict=True)]
        note = f"each filter is the mean over its {inputs} inputs" if inputs > 1 else ""
        partly = bool((~keep.flatten(1).all(1) & kept).any())  # some filters have lost weights
        shown = {"picture": picture, "says": says, "note": note, "partly": partly, "tiles": tiles}
        super().__init__(filters=shown)

    def lasting(self) -> Mapping[str, Any] | None:
        """What a page without a kernel shows the view from."""
        return {"filters": self.filters} if self.stored else None

    def fallback(self) -> str:
        """The picture, as HTML that needs no script."""
        says = self.filters["says"]
        picture = output.image("svg+xml", self.filters["picture"], says)
        return f"<p>{html.escape(says)}</p>{picture}"

    def __repr__(self) -> str:
        return f"FilterView({self.filters['says']})"


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


def drawn(means: Tensor, there: Tensor, kept: Tensor, says: str) -> tuple[bytes, list[list[float]]]:
    """One SVG of all filters for light and dark pages, and the place of each in it.

    `means` and `there` are of `pictures`; filters that are not `kept`, (out,), are crossed out.
    A place is ``(left, top, width, height)`` in percent of the picture.
    """
    many, high, wide = means.shape
    width, height = GAP + min(many, ROW) * (wide + GAP), GAP + -(-many // ROW) * (high + GAP)
    squares: dict[tuple[str, float], list[str]] = {}  # by colour and opacity
    frames: dict[bool, list[str]] = {True: [], False: []}
    places = []
    for i, is_kept in enumerate(kept.tolist()):
        row, column = divmod(i, ROW)
        left, top = GAP + column * (wide + GAP), GAP + row * (high + GAP)
        places.append([round(100 * part, 3) for part in
                       (left / width, top / height, wide / width, high / height)])  # fmt: skip
        cross = "" if is_kept else f"m0 0l{wide} {high}m0 {-high}l{-wide} {high}"
        frames[is_kept].append(f"M{left} {top}h{wide}v{high}h{-wide}z{cross}")
        for y, x in there[i].nonzero().tolist():
            value = float(means[i, y, x])
            seen = (FAINTEST + (1 - FAINTEST) * abs(value)) * (1 if is_kept else FADED)
            paint = (NEGATIVE if value < 0 else POSITIVE, round(seen, 2))
            squares.setdefault(paint, []).append(f"M{left + x} {top + y}h1v1h-1z")
    paths = [
        f'<path fill="{colour}" fill-opacity="{seen}" d="{"".join(of_it)}"/>'
        for (colour, seen), of_it in squares.items()
    ]
    for is_kept, thick in ((True, 0.1), (False, 0.3)):
        look = f'fill="none" stroke="{INK}" stroke-width="{thick}"'
        paths.append(f'<path {look} d="{"".join(frames[is_kept])}"/>')
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{PIXELS * width}" height="{PIXELS * height}" role="img" '
        f'aria-label="{html.escape(says)}">{"".join(paths)}</svg>'
    )
    return svg.encode(), places
