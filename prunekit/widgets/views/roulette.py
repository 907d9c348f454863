"""A roulette wheel over a layer, its slices and what it removes; and a tree grown by clicks."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets
import torch
from torch import Tensor, nn

from prunekit import score, select
from prunekit._arguments import checked
from prunekit.data import wrap
from prunekit.judge import evaluate
from prunekit.looks import BLUE, RED
from prunekit.mask import Mask, prunable
from prunekit.report import shown_metric
from prunekit.steps import derive
from prunekit.widgets.instant import Instant, bars
from prunekit.widgets.running import Latest, in_loop, loop_of_the_kernel

BINS, SHARE = 20, 0.2  # of the weights
DECADES = 6  # of the axis of shares
GOAL = 0.95  # the accuracy to which a tree may grow
WIDE, HIGH, LEFT, TOP, STEP = 560, 210, 52, 12, 36  # pixels of the tree; from level to level
LETTER = 14  # pixels that a line of text is high
CHILDREN, MOST = 5, 0.99  # of a level; the sparsity at which the tree ends


@checked
def roulette(model: nn.Module, data: Any = None, layer: str = "") -> Instant:
    """A menu of wheels and a slider for their strength; with `data`, a tree that grows by clicks.

    The wheel is over one layer, by default the first. The bars are twentieths of its weights from
    the smallest to the largest, as high as the chance that the first pick is among them.
    """
    layer = layer or next(iter(prunable(model)))
    w = model.get_parameter(layer).detach().cpu().flatten().double()
    ordered = (w.abs() / score.deviation(model, Mask.ones(model))).sort().values
    squares, n = ordered**2, round(SHARE * len(ordered))
    smallest = float(squares[:n].sum() / squares.sum())

    def work(wheel: str, strength: float) -> str:
        logits = select.log_wheel(ordered, wheel, strength)
        chances = [float(part.exp().sum()) for part in logits.chunk(BINS)]
        picked = select.spin(logits.float(), n, torch.Generator().manual_seed(0))
        lost = float(squares[picked].sum() / squares.sum())
        says = (
            f"spun once for {SHARE:.0%} of the weights it removes {lost:.2%} of their squares; "
            f"blind removal {SHARE:.0%}, the smallest weights {smallest:.2%}"
        )
        heights = [max(0.0, 1 + math.log10(max(c, 1e-99)) / DECADES) for c in chances]
        ticks = {
            1 - power / DECADES: f"10⁻{'⁰¹²³⁴⁵⁶'[power]}" for power in range(2, DECADES + 1, 2)
        }
        picture = bars(
            heights, [True] * len(chances), x="weights in order of size, a bar a twentieth",
            y="share of the wheel", names=("smallest", "largest"), says=says, most=1.0,
            ticks={1.0: "1", **ticks}, line=(1 + math.log10(1 / BINS) / DECADES, "blind removal"),
        )  # fmt: skip
        return f"<p>{says}</p>{picture}"

    wheels = sorted(select.WHEELS, key=lambda wheel: wheel != "inv")  # the method's own first
    view = Instant(work, f"A wheel over {layer}", wheel=wheels, strength=(0.25, 8.0, 4.0))
    _turn_off(view, ordered)
    if data is not None:
        view.children = (*view.children, Tree(model, data, view))
    return view


def _turn_off(view: Instant, sizes: Tensor) -> None:
    """Turn the strength off where the wheel has none."""

    def told(_: Any = None) -> None:
        wheel = select.WHEELS[view.controls["wheel"].value]
        view.controls["strength"].disabled = torch.equal(wheel(sizes, 1.0), wheel(sizes, 2.0))

    view.controls["wheel"].observe(told, "value")
    told()


class Tree(ipywidgets.VBox):
    """A level of the tree a click, spun with the wheel that `view` shows, over the whole model.

    The children are there at once, their accuracies follow. The best of them is the parent of the
    next level, which removes a fifth of what is left. Another wheel begins another tree.
    """

    def __init__(self, model: nn.Module, data: Any, view: Instant):
        self.model, self.data, self.view = model, wrap(data), view
        loop = loop_of_the_kernel()
        self.spin, self.again, self.shown = (
            ipywidgets.Button(description="Spin", button_style="primary"),
            ipywidgets.Button(description="Start over"), ipywidgets.HTML(),
        )  # fmt: skip
        self.spin.on_click(lambda _: in_loop(loop, self._spin))
        self.again.on_click(lambda _: in_loop(loop, self._start_over))
        for control in view.controls.values():
            control.observe(lambda _: in_loop(loop, self._start_over), "value")
        self.latest = Latest(self._tried, self._done)
        self.number = 0  # of the tree: what one that was given up still sends is not for this one
        super().__init__([ipywidgets.HBox([self.spin, self.again]), self.shown])
        self._start_over()

    def _start_over(self) -> None:
        self.number += 1
        self.parent, self.level = Mask.ones(self.model), 0
        self.dense = score.deviation(self.model, self.parent)
        self.masks, self.values = list[Mask](), list[float]()
        self.grown = list[list[float]]()  # of each level before, the accuracies
        self.spin.disabled, self.shown.value = False, "All weights are there. Spin for a level."

    def _spin(self) -> None:
        if self.spin.disabled:  # a click that was on its way
            return
        if self.values:
            self.parent = self.masks[self.values.index(max(self.values))]
            self.grown.append(self.values)
        self.level, self.values, self.spin.disabled = self.level + 1, [], True
        self.latest(self._drawn, self.number, self.level, self.parent, self.view.values())

    def _tried(self, work: Callable[..., Any], tree: int, *given: Any) -> Any:
        """In a thread: the result of some work, or its error, and the tree that it is for."""
        try:
            return tree, work(tree, *given), None
        except Exception as error:
            return tree, None, error

    def _drawn(self, tree: int, level: int, parent: Mask, chosen: dict[str, Any]) -> list[Mask]:
        """The children of a level."""
        seen = score.sizes(self.model, parent, "absolute", self.dense)
        wheels = select.wheels(seen, chosen["wheel"], chosen["strength"], "global", parent)
        children = []
        for child in range(CHILDREN):
            generator = torch.Generator().manual_seed(derive(tree, "spin", level, child))
            children.append(select.spun(parent, wheels, SHARE, MOST, generator))
        return children

    def _judged(self, tree: int, child: Mask) -> float:
        return evaluate(self.model, self.data, mask=child)

    def _done(self, result: Any) -> None:
        tree, found, error = result
        if tree != self.number:
            return
        if error is not None:
            self._start_over()
            self.shown.value = html.escape(f"{type(error).__name__}: {error}")
            return
        if isinstance(found, list):
            self.masks = found
        else:
            self.values.append(found)
        self._show()
        if len(self.values) < len(self.masks):
            self.latest(self._judged, tree, self.masks[len(self.values)])
        else:
            self.spin.disabled = self._ended()

    def _ended(self) -> bool:
        return self.masks[0].kept <= select.rest(self.parent, [*self.parent], MOST)

    def _show(self) -> None:
        metric, n = self.data.metric_name, self.data.size("validation")
        best = max(self.values) if len(self.values) == len(self.masks) else None
        says = f"level {self.level}, sparsity {self.masks[0].sparsity:.3f}"
        if self._ended():
            says += f": only {1 - MOST:.0%} is left, the tree is done"
        rows = [
            "<tr><th>child</th><th>share of the squared weights removed</th>"
            f"<th>validation {html.escape(metric)}</th></tr>"
        ]
        for number, lost in enumerate(_lost(self.model, self.masks)):
            figure = "…"
            if number < len(self.values):
                figure = shown_metric(self.values[number], metric, n)
            if best is not None and number == self.values.index(best):
                figure = f"<b>{figure}</b>, goes on"
            rows.append(f"<tr><td>{number + 1}</td><td>{lost:.1%}</td><td>{figure}</td></tr>")
        levels = [*self.grown, *([self.values] if self.values else [])]
        picture = _grown(levels, metric) if levels else ""
        self.shown.value = f"<p>{html.escape(says)}</p>{picture}<table>{''.join(rows)}</table>"

    def __repr__(self) -> str:
        return f"Tree(level {self.level})"


def _grown(levels: Sequence[Sequence[float]], metric: str) -> str:
    """A tree as SVG: of each level a dot a child, and the line of those that went on."""
    found = [v for level in levels for v in level if math.isfinite(v)]
    low, high = min([*found, GOAL - 0.02]), max([*found, GOAL])
    step = min(STEP, (WIDE - 16) / max(len(levels) - 1, 1))

    def place(level: int, value: float) -> str:
        x = LEFT + 8 + level * step
        return f"{x:.1f} {TOP + HIGH * (high - value) / (high - low):.1f}"

    parts, best = [], [max(level) for level in levels]
    for level, values in enumerate(levels):
        for value in filter(math.isfinite, values):
            if level:
                start, end = place(level - 1, best[level - 1]), place(level, value)
                parts.append(f'<path d="M{start}L{end}" stroke="currentColor" opacity="0.3"/>')
            x, y = place(level, value).split()
            full = BLUE if value == best[level] else "currentColor"
            parts.append(f'<circle cx="{x}" cy="{y}" r="3.5" fill="{full}"/>')
    line = "L".join(place(level, value) for level, value in enumerate(best))
    parts.append(f'<path d="M{line}" fill="none" stroke="{BLUE}" stroke-width="2"/>')
    y = place(0, GOAL).split()[1]
    dashed = f'<path d="M{LEFT} {y}h{WIDE}" stroke="{RED}" stroke-dasharray="6 4"/>'
    words = 'font-size="12" fill="currentColor"'
    for value in (GOAL, low, high):
        at = float(place(0, value).split()[1])
        if value == GOAL or abs(at - float(y)) > LETTER:  # else one would lie over the other
            end = f'text-anchor="end" {words}'
            parts.append(f'<text x="{LEFT - 6}" y="{at + 4}" {end}>{value:.2f}</text>')
    for level in range(0, len(levels), math.ceil(2 * LETTER / step)):
        x, middle = place(level, low).split()[0], f'text-anchor="middle" {words}'
        parts.append(f'<text x="{x}" y="{TOP + HIGH + 20}" {middle}>{level + 1}</text>')
    below = f'x="{LEFT}" y="{TOP + HIGH + 38}" {words}'
    about = f"level; dots: {metric} of the children, blue: the one that goes on"
    parts.append(f"<text {below}>{html.escape(about)}</text>")
    says = html.escape(f"{len(best)} levels, {metric} {best[-1]:.3f}")
    return (
        f'<svg viewBox="0 0 {LEFT + WIDE + 8} {TOP + HIGH + 46}" role="img" aria-label="{says}" '
        f'style="width: 100%; max-width: {LEFT + WIDE + 8}px">{dashed}{"".join(parts)}</svg>'
    )


def _lost(model: nn.Module, masks: Sequence[Mask]) -> list[float]:
    """For each mask the share of the model's squared weights that it removes."""
    squares = {name: p.detach().cpu() ** 2 for name, p in prunable(model).items()}
    whole = sum(float(s.sum()) for s in squares.values())
    return [1 - sum(float(squares[n][keep].sum()) for n, keep in m.items()) / whole for m in masks]
