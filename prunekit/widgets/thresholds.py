"""`Thresholds`: the importance of all nodes as bars, a column a layer, and lines that rise."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anywidget
import traitlets

from prunekit import experiments
from prunekit._arguments import checked
from prunekit.experiments.records import Recorded
from prunekit.looks import BLUE, RED
from prunekit.nodes import DIGITS
from prunekit.widgets import output
from prunekit.widgets._static import VIEWS, script, style
from prunekit.widgets.connection import answer, connected
from prunekit.widgets.running import Latest, OfCell, loop_of_the_kernel

BARS = 40  # of a layer, at most: of more nodes every so many are shown
LEFT, TOP, HIGH, WIDE, GAP = 46, 8, 150, 110, 20  # pixels of the picture without scripts

Found = tuple[float, float]  # the validation metric, and the share of the multiply-adds left


class Thresholds(OfCell, anywidget.AnyWidget):
    """Bars that are the importance of the nodes of each layer; what lies below its line goes.

    One line for all layers is moved along ``shown["shared"]``, lines of their own along the search
    recorded in ``shown["path"]``. `judge`, given a line a layer, says what is left with these: then
    each line can be moved freely, too, where a kernel answers. `shown` is of `shown_of`.

    With `stored`, all but the free lines goes into the notebook's file and lives on there without a
    kernel: say so only of what is alike on every processor.
    """

    _esm = connected(script(*VIEWS["Thresholds"][0]))
    _css = style(*VIEWS["Thresholds"][1], "connection")
    shown = traitlets.Dict().tag(sync=True)
    moved = traitlets.Dict().tag(sync=True)  # lines that were asked for, and what they leave

    @checked
    def __init__(
        self,
        shown: Mapping[str, Any],
        judge: Callable[[Sequence[float]], Found] | None = None,
        *,
        stored: bool = False,
    ):
        self.judge, self.stored = judge, stored
        super().__init__(shown={**shown, "free": judge is not None})
        self.latest, self.loop = Latest(self._judged, self._show), loop_of_the_kernel()
        answer(self, lambda content: self.latest(content["lines"]))

    def _judged(self, lines: list[float]) -> dict[str, Any]:
        assert self.judge is not None
        return {"lines": lines, **left(*self.judge(lines))}

    def _show(self, result: Any) -> None:
        if isinstance(result, BaseException):
            raise result
        self.moved = result

    @classmethod
    @checked
    def recorded(cls, one: Recorded, many: Recorded) -> Thresholds:
        """The searches of two recorded cells of `optimal_threshold` on one network: with one
        threshold for all layers, and with one a layer. Raises ValueError for other cells."""
        if (one["model"], one["network"]) != (many["model"], many["network"]):
            raise ValueError(
                "Thresholds: both searches must be of one network, got "
                f"{one['model']} {one['network']} and {many['model']} {many['network']}"
            )
        (_, steps), (worth, path) = (_searched(cell) for cell in (one, many))
        shared = [{"line": step["threshold"], **left(value, step["macs"])} for value, step in steps]
        title = f"{many['model']}, network {many['network']}, as recorded"
        metric, split = many["metric"], many["examples"]["validation"]
        dense = experiments.figure(many, "before", "validation")
        tolerance = many["knobs"]["tolerance"]
        shown = shown_of(title, metric, split, dense, tolerance, worth, shared, path)
        return cls(shown, stored=True)

    def lasting(self) -> Mapping[str, Any] | None:
        return {"shown": self.shown} if self.stored else None

    def fallback(self) -> str:
        says = f"{self.shown['title']}: the importance of all nodes"
        return output.drawn(f"<p>{html.escape(says)}</p>{_drawn(self.shown['layers'], says)}")

    def __repr__(self) -> str:
        nodes = sum(len(layer["worth"]) for layer in self.shown["layers"])
        return f"Thresholds({nodes} nodes in {len(self.shown['layers'])} layers)"


def shown_of(
    title: str,
    metric: str,
    examples: int,
    dense: float,
    tolerance: float,
    worth: Mapping[str, Sequence[float]],
    shared: Sequence[Mapping[str, Any]],
    path: Sequence[tuple[float, Mapping[str, Any]]],
    alone: Sequence[Sequence[float]] = (),
) -> dict[str, Any]:
    """What `Thresholds` shows, as plain values.

    metric: of so many validation `examples`; before, `dense`; `tolerance` of it may be lost. worth:
    by layer the importance of its nodes. shared: by rising ``line`` what is left with one for all.
    path: of each raise of a search the metric, and what `optimal_threshold` tells of it. alone: by
    layer the metric if its own line rises in equal steps from 0 to 1; () if not known.
    """
    names = [*worth]
    ordered = [sorted(round(float(w), DIGITS) for w in worth[name]) for name in names]
    start: dict[str, Any] = {"raised": -1, "lines": [0.0] * len(names), **left(dense, 1.0)}
    raises = [
        {
            "raised": names.index(step["layer"]),
            "lines": [round(step["thresholds"][name], DIGITS) for name in names],
            **left(value, step["macs"]),
        }
        for value, step in path
    ]
    return {
        "title": title, "metric": f"validation {metric}", "dense": round(dense, 5),
        "examples": examples if metric == "accuracy" else 0, "tolerance": tolerance,
        "layers": [
            {"name": name.removesuffix(".weight"), "worth": own}
            for name, own in zip(names, ordered, strict=True)
        ],
        "shared": [{"line": 0.0, **left(dense, 1.0)}, *shared],
        "path": [start, *raises],
        "alone": [[round(value, 5) for value in own] for own in alone],
    }  # fmt: skip


def left(value: float, macs: float) -> dict[str, float]:
    """What some lines leave: the metric, and the share of the multiply-adds."""
    return {"value": round(value, 5), "macs": round(macs, 5)}


Searched = tuple[dict[str, list[float]], list[tuple[float, dict[str, Any]]]]


def _searched(cell: Recorded) -> Searched:
    """The importance of a recorded cell's nodes, and of each raise the metric and what is told."""
    found = [
        (row[cell["metric"]], row["info"])
        for row in experiments.rows(cell)
        if row["phase"] == "search" and "thresholds" in row.get("info", {})
    ]
    if not found or "importance" not in found[0][1]:
        raise ValueError(
            f"Thresholds: the cell {cell['arm']!r}, network {cell['network']}, recorded no "
            "importance of nodes"
        )
    return found[0][1]["importance"], found


def _drawn(layers: Sequence[Mapping[str, Any]], says: str) -> str:
    """An SVG in the colours of the page: of each layer the importance of its nodes."""
    bottom, parts = TOP + HIGH, []
    for number, layer in enumerate(layers):
        worth, start = layer["worth"], LEFT + number * (WIDE + GAP)
        last, shown = len(worth) - 1, min(len(worth), BARS)
        for place in range(shown):
            tall = max(HIGH * worth[round(place * last / max(shown - 1, 1))], 1.0)
            parts.append(
                f'<rect x="{start + place * WIDE / shown:.1f}" y="{bottom - tall:.1f}" '
                f'width="{0.86 * WIDE / shown:.2f}" height="{tall:.1f}" fill="{BLUE}"/>'
            )
        parts.append(
            f'<path d="M{start} {bottom}h{WIDE}" stroke="{RED}" stroke-width="2"/>'
            f'<text x="{start + WIDE / 2:.0f}" y="{bottom + 16}" text-anchor="middle" '
            f'font-size="12" fill="currentColor">{html.escape(layer["name"])}</text>'
        )
    width = LEFT + len(layers) * (WIDE + GAP)
    return (
        f'<svg width="{width}" height="{bottom + 24}" role="img" '
        f'aria-label="{html.escape(says)}">{"".join(parts)}</svg>'
    )
