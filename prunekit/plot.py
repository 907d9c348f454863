"""Figures from reports, steps and recorded cells; no computation beyond means and spreads.

Colours are seaborn's colour-blind palette on white, so that a figure reads the same in light and
dark themes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, ScalarFormatter
from torch import Tensor

from prunekit._arguments import as_array, checked, numbers, shaped
from prunekit.knobs import Count
from prunekit.report import Comparison, Report
from prunekit.steps import Step

KEPT, REMOVED = sns.color_palette("colorblind")[0], "0.85"
Numbers = Annotated[Any, numbers("n")]
Table = Annotated[Any, numbers("rows", "columns")]
Matrix = Annotated[Tensor, shaped("rows", "columns")]
Point = tuple[float, float]
MARKERS = "osD^vPX*"


def style() -> None:
    """The look of all figures; called by every function here."""
    sns.set_theme(
        style="whitegrid",
        palette="colorblind",
        rc={
            "figure.facecolor": "white",
            "figure.dpi": 100,
            "savefig.dpi": 120,
            "axes.titlesize": 12,
        },
    )


@checked
def axes(title: str, x: str, y: str, size: tuple[float, float] = (7, 4)) -> tuple[Figure, Axes]:
    """An empty figure with its labels."""
    style()
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    axis.set(title=title, xlabel=x, ylabel=y)
    return figure, axis


@checked
def curves(
    lines: Mapping[str, Sequence[Sequence[tuple[float, float]]]],
    *,
    title: str = "",
    x: str = "sparsity",
    y: str = "validation accuracy",
    dense: float | None = None,
) -> Figure:
    """One line a label: the mean over its runs, with a band of one standard deviation.

    `lines` maps a label to runs, each a list of points (x, y); the runs of a label share their x.
    """
    figure, axis = axes(title, x, y)
    for (label, runs), marker in zip(lines.items(), MARKERS * 4, strict=False):
        xs = np.array([point[0] for point in runs[0]])
        ys = np.array([[point[1] for point in run] for run in runs])  # (runs, points)
        (line,) = axis.plot(xs, ys.mean(0), marker=marker, markersize=5, label=label)
        if len(runs) > 1:
            spread = ys.std(0, ddof=1)
            axis.fill_between(
                xs, ys.mean(0) - spread, ys.mean(0) + spread, color=line.get_color(), alpha=0.2
            )
    if dense is not None:
        axis.axhline(dense, color="0.3", linestyle="--", linewidth=1, label="not pruned")
    axis.legend()
    return figure


@checked
def history(source: Report | Sequence[Step], title: str = "", dense: float | None = None) -> Figure:
    """Accuracy and sparsity after every step of one run; `dense` is the accuracy before it."""
    steps = list(source) if isinstance(source, Sequence) else source.history
    if not steps:
        raise ValueError("plot.history: there is no step to draw, the run was stopped before")
    metric = next((name for step in steps for name in step.metrics if name != "loss"), "metric")
    figure, axis = axes(title, "step", f"validation {metric}")
    numbers = np.arange(1, len(steps) + 1)
    values = [step.metrics.get(metric, np.nan) for step in steps]
    axis.plot(numbers, values, color="0.6", linewidth=1, zorder=1)
    for phase, marker in zip(dict.fromkeys(s.phase for s in steps), MARKERS, strict=False):
        here = [i for i, step in enumerate(steps) if step.phase == phase]
        axis.scatter(
            numbers[here],
            [values[i] for i in here],
            marker=marker,
            zorder=2,
            label=phase.replace("finetune", "fine-tune"),
        )
    if not isinstance(source, Sequence):
        dense = source.before[metric]
    if dense is not None:
        axis.axhline(dense, color="0.3", linestyle="--", linewidth=1, label="not pruned")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    right = axis.twinx()
    color = sns.color_palette("colorblind")[3]
    sparsities = [s.sparsity for s in steps]
    dot = "." if len(steps) == 1 else None  # a line of one point cannot be seen
    right.step(numbers, sparsities, where="post", color=color, linestyle=":", marker=dot)
    right.set_ylabel("sparsity (dotted)", color=color)
    right.set_ylim(0, 1)
    right.grid(False)
    axis.legend(loc="lower left")
    return figure


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    array = as_array(values)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else 0.0


@checked
def dots(
    rows: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    x: str,
    title: str = "",
    lines: Mapping[str, Sequence[float]] | None = None,
    log: bool = False,
) -> Figure:
    """Every value a dot, in rows and in colours; mean and standard deviation a line.

    `rows` maps the label of a row to series, each a label and its values. `lines` are values that
    the rows are compared with: a vertical line at the mean, a band of one standard deviation.
    """
    figure, axis = axes(title, x, "", (7, 1.2 + 0.36 * len(rows)))
    series = list(dict.fromkeys(label for row in rows.values() for label in row))
    colors = dict(zip(series, sns.color_palette("colorblind"), strict=False))
    for label, dash in zip(lines or {}, ("--", ":", "-.", "-"), strict=False):
        mean, spread = _mean_and_spread((lines or {})[label])
        axis.axvspan(mean - spread, mean + spread, color="0.3", alpha=0.12, linewidth=0)
        axis.axvline(mean, color="0.3", linestyle=dash, linewidth=1.2, label=label)
    for number, row in enumerate(rows.values()):
        for label, values in row.items():
            place = number + 0.5 * ((series.index(label) + 0.5) / len(series) - 0.5)
            mean, spread = _mean_and_spread(values)
            style = {"color": colors[label], "marker": MARKERS[series.index(label)]}
            axis.errorbar(mean, place, xerr=spread, fmt="|", color=colors[label], capsize=3)
            axis.scatter(values, [place] * len(values), s=18, zorder=2, **style)
    for label in series if any(series) else ():
        style = {"color": colors[label], "marker": MARKERS[series.index(label)]}
        axis.scatter([], [], s=18, label=label, **style)
    axis.set_yticks(range(len(rows)), list(rows))
    axis.set_ylim(len(rows) - 0.5, -0.5)
    if log:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_locator(NullLocator())
    if lines or any(series):
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@checked
def comparison(result: Comparison, title: str = "") -> Figure:
    """Validation accuracy of each method: every seed a dot, mean and standard deviation a line."""
    metric = next(iter(result.reports.values()))[0].metric
    rows = {
        method: {"": [report.after[metric] for report in reports]}
        for method, reports in result.reports.items()
    }
    return dots(rows, x=f"validation {metric}", title=title)


@checked
def matrix(values: Matrix, keep: Tensor | None = None, title: str = "") -> Figure:
    """A small matrix with every number written out; removed ones are 0 on grey."""
    style()
    if keep is not None and (keep.dtype is not torch.bool or keep.shape != values.shape):
        raise ValueError(
            f"plot.matrix: keep must be True or False for each of {tuple(values.shape)}, got "
            f"{keep.dtype} {tuple(keep.shape)}"
        )
    grid = values.detach().cpu().numpy()
    rows, columns = grid.shape
    figure, axis = plt.subplots(
        figsize=(1.1 * columns + 1.2, 0.8 * rows + 0.8), layout="constrained"
    )
    limit = float(np.abs(grid).max()) or 1.0
    shown = np.ma.masked_where(~keep.numpy(), grid) if keep is not None else grid
    axis.set_facecolor(REMOVED)
    image = axis.imshow(shown, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto")
    for r in range(rows):
        for c in range(columns):
            kept = keep is None or bool(keep[r, c])
            strong = kept and abs(grid[r, c]) > 0.6 * limit
            axis.text(
                c,
                r,
                f"{grid[r, c]:.2f}" if kept else "0",
                ha="center",
                va="center",
                color="white" if strong else "black",
                fontsize=12,
            )
    axis.set(
        title=title, xlabel="input", ylabel="output", xticks=range(columns), yticks=range(rows)
    )
    axis.grid(False)
    figure.colorbar(image, label="weight")
    return figure


@checked
def images(
    pictures: Sequence[tuple[str, Table]],
    *,
    label: str,
    title: str = "",
    cmap: str = "viridis",
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Pictures side by side on one colour scale; each `(caption, (h, w) values)`."""
    if cmap not in plt.colormaps() or not len(pictures):
        raise ValueError(
            "plot.images: there must be a picture and a colour map of matplotlib, got "
            f"{len(pictures)} and {cmap!r}"
        )
    style()
    figure, panels = plt.subplots(
        1,
        len(pictures),
        figsize=(2.4 * len(pictures) + 0.8, 2.9),
        layout="constrained",
        squeeze=False,
    )
    arrays = [as_array(values) for _, values in pictures]
    low, high = limits or (min(a.min() for a in arrays), max(a.max() for a in arrays))
    for axis, (caption, _), values in zip(panels[0], pictures, arrays, strict=True):
        image = axis.imshow(values, cmap=cmap, vmin=low, vmax=high)
        axis.set_title(caption, fontsize=11)
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
    figure.colorbar(image, ax=panels[0].tolist(), label=label)
    figure.suptitle(title, fontsize=12)
    return figure


@checked
def wheel(
    probabilities: Numbers, sizes: Numbers, title: str = "", picked: Sequence[int] = ()
) -> Figure:
    """A roulette wheel: a slice a weight, as wide as its probability, coloured by its size |w|.

    The slices of `picked` stand out and are numbered.
    """
    style()
    figure, axis = plt.subplots(figsize=(5.4, 4.4), layout="constrained")
    probabilities, sizes = as_array(probabilities), as_array(sizes)
    if probabilities.shape != sizes.shape or min(probabilities) < 0 or not sum(probabilities):
        raise ValueError(
            f"plot.wheel: each of {len(sizes)} sizes needs a probability of 0 or more, not all of "
            f"them 0, got {probabilities.tolist()}"
        )
    shades = plt.get_cmap("viridis")(sizes / (sizes.max() or 1))
    labels = [str(i) if not len(picked) or i in picked else "" for i in range(len(sizes))]
    explode = [0.15 if i in picked else 0 for i in range(len(sizes))]
    edges = {"edgecolor": "white", "linewidth": 1}
    axis.pie(
        probabilities, colors=shades, labels=labels, explode=explode, wedgeprops=edges,
        startangle=90, counterclock=False,
    )  # fmt: skip
    scale = ScalarMappable(Normalize(0, sizes.max()), "viridis")
    figure.colorbar(scale, ax=axis, label="size of the weight, |w|", shrink=0.7)
    axis.set_title(title)
    return figure


def _caption(axis: Axes, text: str, point: Any) -> None:
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.9}
    axis.annotate(
        text, point, textcoords="offset points", xytext=(6, 6), fontsize=10, color="black", bbox=box
    )


@checked
def landscape(
    xs: Numbers,
    ys: Numbers,
    values: Table,
    allowed: Table,
    *,
    x: str,
    y: str,
    label: str,
    title: str = "",
    dots: Sequence[Point] = (),
    names: Sequence[str] = (),
    arrows: Sequence[tuple[Point, Point, str]] = (),
) -> Figure:
    """A map of `values` over two evenly spaced quantities, `(ys, xs)`, hatched where not `allowed`.

    `dots` are points (x, y), the first of which have `names`; `arrows` lead from a point to another
    and have a caption.
    """
    xs, ys, values, allowed = (as_array(part) for part in (xs, ys, values, allowed))
    if not (values.shape == allowed.shape == (len(ys), len(xs)) and len(xs) > 1 and len(ys) > 1):
        raise ValueError(
            "plot.landscape: values and allowed must be (ys, xs), at least 2 of each, got "
            f"{values.shape} and {allowed.shape} for {len(ys)} and {len(xs)}"
        )
    figure, axis = axes(title, x, y, (7, 5.2))
    colored = axis.pcolormesh(xs, ys, np.asarray(values), cmap="viridis", shading="nearest")
    wide, high = xs[1] - xs[0], ys[1] - ys[0]
    for row, column in np.argwhere(~np.asarray(allowed, dtype=bool)):
        corner = (xs[column] - wide / 2, ys[row] - high / 2)
        axis.add_patch(
            Rectangle(corner, wide, high, fill=False, hatch="///", edgecolor="white", linewidth=0)
        )
    figure.colorbar(colored, label=label)
    outline = [Stroke(linewidth=4, foreground="black"), Normal()]
    for start, end, _ in arrows:
        look = {"arrowstyle": "-|>", "color": "white", "linewidth": 1.8, "path_effects": outline}
        axis.annotate("", end, start, arrowprops=look)
    for start, end, caption in arrows:  # above all arrows
        if caption:
            _caption(axis, caption, (np.asarray(start) + np.asarray(end)) / 2)
    for point in dots:
        axis.plot(*point, marker="o", markersize=7, color="white", markeredgecolor="black")
    for name, point in zip(names, dots, strict=False):
        _caption(axis, name, point)
    axis.grid(False)
    return figure


@checked
def population(steps: Sequence[Step], total: Count, title: str = "") -> Figure:
    """Every member of every generation as a dot, by the share of the weights that it keeps."""
    searched = [(s.index, s.tried) for s in steps if s.tried is not None and s.tried.kept]
    figure, axis = axes(title, "generation", "kept weights (%)")
    for number, tried in searched:
        shares = [100 * kept / total for kept in tried.kept]
        axis.scatter([number] * len(shares), shares, s=12, color="0.6", zorder=1)
    numbers = [number for number, _ in searched]
    best = [100 * tried.kept[tried.chosen] / total for _, tried in searched]
    axis.plot(numbers, best, marker="o", markersize=5, color=KEPT, zorder=2)
    axis.scatter([], [], s=12, color="0.6", label="a member")
    axis.plot([], [], marker="o", color=KEPT, label="the best one that is allowed")
    _whole_steps(axis, numbers)
    axis.legend()
    return figure


@checked
def tree(steps: Sequence[Step], examples: Count, title: str = "") -> Figure:
    """Every child of every level as a dot, the chosen ones joined: how a branching tree grew."""
    grown = [s for s in steps if s.tried is not None and not s.tried.vectors]
    levels = [step.info.get("level", step.index) for step in grown]
    children = [_accuracies(step, examples) for step in grown]
    figure, axis = axes(title, "level", "validation accuracy")
    for level, values in zip(levels, children, strict=True):
        axis.scatter([level] * len(values), values, s=12, color="0.6", zorder=1)
    best = [v[s.tried.chosen] for s, v in zip(grown, children, strict=True) if s.tried is not None]
    axis.plot(levels, best, marker="o", markersize=5, color=KEPT, zorder=2)
    axis.scatter([], [], s=12, color="0.6", label="a child")
    axis.plot([], [], marker="o", color=KEPT, label="the chosen one")
    _whole_steps(axis, levels)
    axis.legend()
    return figure


def _accuracies(step: Step, examples: int) -> list[float]:
    return [1 - errors / examples for errors in step.tried.costs] if step.tried else []


def _whole_steps(axis: Axes, places: Sequence[int]) -> None:
    """Whole numbers along the axis, also where there is only one."""
    axis.set_xlim(0.5, max([*places, 1]) + 0.5)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
