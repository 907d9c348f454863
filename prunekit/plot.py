"""Figures from reports, steps and recorded cells; no computation beyond means and spreads.

They have no background: one ink and colours that can be read on a light and on a dark page. What a
name looks like stands in `prunekit.looks`.
"""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import matplotlib.pyplot as plt
import numpy as np
import torch
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, ScalarFormatter
from torch import Tensor

from prunekit._arguments import as_array, checked, numbers, shaped
from prunekit.knobs import Count, shown
from prunekit.looks import BLUE, COLOURS, FAINTEST, INK, NEGATIVE, POSITIVE, looks
from prunekit.report import Comparison, Report
from prunekit.steps import Step
from prunekit.surgery import Groups

Numbers = Annotated[Any, numbers("n")]
Table = Annotated[Any, numbers("rows", "columns")]
Matrix = Annotated[Tensor, shaped("rows", "columns")]
Point = tuple[float, float]
F = TypeVar("F", bound=Callable[..., Any])
LETTERS = 9  # of a title to an inch
TREE = ("a child", "the chosen one")  # as `generations` calls who was tried and chosen
FEW, COLUMN = 4, 12  # lines of a legend that have room among the curves, and beside them
STYLE: Any = {  # beside seaborn's "whitegrid"
    "figure.dpi": 100,
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.prop_cycle": cycler(color=COLOURS),
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}
# Weights, as `MaskView` shows them: the smaller, the more of the page is seen through.
WEIGHTS = LinearSegmentedColormap.from_list(
    "weights",
    [
        (0.0, to_rgba(NEGATIVE)),
        (0.5, to_rgba(NEGATIVE, FAINTEST)),
        (0.5, to_rgba(POSITIVE, FAINTEST)),
        (1.0, to_rgba(POSITIVE)),
    ],
)
plt.colormaps.register(WEIGHTS, force=True)


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures, for more that is drawn into one: ``with plot.style(): ...``."""
    # Not matplotlib's rc_context, which puts all settings back: also that a notebook shows figures
    # at the end of a cell, which the first figure switches on.
    settings = _settings()
    before = {name: plt.rcParams[name] for name in settings}
    plt.rcParams.update(settings)
    try:
        yield
    finally:
        plt.rcParams.update(before)


def prepare() -> None:
    """Load what figures need, which takes a second; else the first of them does."""
    _settings()


@functools.cache
def _settings() -> Any:
    import seaborn  # takes a second: with the first figure, not with the first cell

    base = seaborn.axes_style("whitegrid") | seaborn.plotting_context("notebook")
    return {n: v for n, v in base.items() if n != "figure.facecolor"} | STYLE


def _styled(function: F) -> F:
    @functools.wraps(function)
    def drawn(*args: Any, **kwargs: Any) -> Any:
        with style():
            return function(*args, **kwargs)

    return drawn  # type: ignore[return-value]


def _figure(size: tuple[float, float], columns: int = 1) -> tuple[Figure, Any]:
    """A figure without a background, with its axes in a row, (1, columns)."""
    # JupyterLab puts a white page behind a figure whose colour is transparent and its ink dark, not
    # behind one that has no background at all.
    return plt.subplots(
        1, columns, figsize=size, layout="constrained", squeeze=False, frameon=False
    )


@checked
@_styled
def axes(title: str, x: str, y: str, size: tuple[float, float] = (7, 4)) -> tuple[Figure, Axes]:
    """An empty figure with its labels; see `style` for drawing into it."""
    figure, ((axis,),) = _figure(size)
    axis.set(title=textwrap.fill(title, int(LETTERS * size[0])), xlabel=x, ylabel=y)
    return figure, axis


@checked
@_styled
def curves(
    lines: Mapping[str, Sequence[Sequence[Point]]],
    *,
    title: str = "",
    x: str = "sparsity",
    y: str = "validation accuracy",
    dense: float | None = None,
    points: Mapping[str, Point] | None = None,
    xlim: Point | None = None,
    ylim: Point | None = None,
) -> Figure:
    """One line a label: the mean over its runs, with a band of one standard deviation.

    `lines` maps a label to runs, each a list of points (x, y); the runs of a label share their x.
    `dense` is a line across, `points` are single ones, such as a paper's; `xlim` and `ylim` say
    what part is shown.
    """
    figure, axis = axes(title, x, y)
    look = looks([*lines, *(points or {})])
    for label, runs in lines.items():
        xs = np.array([point[0] for point in runs[0]])
        ys = np.array([[point[1] for point in run] for run in runs])  # (runs, points)
        colour, marker, dash = look[label]
        axis.plot(xs, ys.mean(0), dash, color=colour, marker=marker, markersize=5, label=label)
        if len(runs) > 1:
            spread = ys.std(0, ddof=1)
            axis.fill_between(
                xs, ys.mean(0) - spread, ys.mean(0) + spread, color=colour, alpha=0.2, linewidth=0
            )
    for label, point in (points or {}).items():
        marker = look[label].marker or "o"
        axis.plot(*point, marker, color=look[label].colour, markersize=11, label=label)
    _not_pruned(axis, dense)
    axis.set(**{k: ends for k, ends in (("xlim", xlim), ("ylim", ylim)) if ends is not None})
    many = len(axis.get_legend_handles_labels()[1])
    beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "ncols": -(-many // COLUMN)}
    axis.legend(**(beside if many > FEW else {}))
    return figure


def _not_pruned(axis: Axes, dense: float | None) -> None:
    """A dashed line across, at the figure of the network that was not pruned."""
    if dense is not None:
        axis.axhline(dense, color=INK, linestyle="--", linewidth=1, label="not pruned")


@checked
def way(steps: Iterable[Step]) -> list[Point]:
    """The way of a run for `curves`: a point ``(sparsity, metric)`` for each of its steps."""
    points = []
    for step in steps:  # which may come one by one, from a method
        if not isinstance(step, Step):
            raise TypeError(f"way: steps must be several, each a Step, got {shown(step)}")
        points += [(step.sparsity, v) for name, v in step.metrics.items() if name != "loss"]
    return points


@checked
@_styled
def scatter(
    groups: Mapping[str, Sequence[Point]],
    *,
    x: str,
    y: str,
    title: str = "",
    lines: Mapping[str, float] | None = None,
) -> Figure:
    """Every run a dot (x, y), its group told by colour and marker.

    `lines` are vertical ones at a value of x, such as a size that a paper tells.
    """
    figure, axis = axes(title, x, y)
    look = looks([*groups, *(lines or {})])
    for label, value in (lines or {}).items():
        axis.axvline(value, color=look[label].colour, linestyle=":", linewidth=1.5, label=label)
    for label, points in groups.items():
        across, up = [point[0] for point in points], [point[1] for point in points]
        marker = look[label].marker or "o"
        axis.scatter(across, up, 36, look[label].colour, marker=marker, label=label)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@checked
@_styled
def history(source: Report | Sequence[Step], title: str = "", dense: float | None = None) -> Figure:
    """Accuracy and sparsity after every step of one run; `dense` is the accuracy before it."""
    steps = list(source) if isinstance(source, Sequence) else source.history
    if not steps:
        raise ValueError("plot.history: there is no step to draw, the run was stopped before")
    metric = next((name for step in steps for name in step.metrics if name != "loss"), "metric")
    figure, axis = axes(title, "step", f"validation {metric}")
    numbers = np.arange(1, len(steps) + 1)
    values = [step.metrics.get(metric, np.nan) for step in steps]
    axis.plot(numbers, values, color=INK, linewidth=1, zorder=1)
    phases = [step.phase.replace("finetune", "fine-tune") for step in steps]
    for phase, look in looks(phases).items():
        here = [i for i, other in enumerate(phases) if other == phase]
        there = [values[i] for i in here]
        axis.scatter(
            numbers[here], there, color=look.colour, marker=look.marker, zorder=2, label=phase
        )
    if not isinstance(source, Sequence):
        dense = source.before[metric]
    _not_pruned(axis, dense)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    right = axis.twinx()
    sparsities = [s.sparsity for s in steps]
    dot = "." if len(steps) == 1 else None  # a line of one point cannot be seen
    right.step(numbers, sparsities, where="post", color=INK, linestyle=":", marker=dot)
    right.set_ylabel("sparsity (dotted)")
    right.set_ylim(0, 1)
    right.grid(False)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    array = as_array(values)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else 0.0


@checked
@_styled
def dots(
    rows: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    x: str,
    title: str = "",
    lines: Mapping[str, Sequence[float]] | None = None,
    log: bool = False,
) -> Figure:
    """Every value a dot, in rows and in colours; mean and standard deviation a line.

    `rows` maps the label of a row to series, each a label, which may be empty, and its values.
    `lines` are values that
    the rows are compared with: a vertical line at the mean, a band of one standard deviation.
    """
    figure, axis = axes(title, x, "", (7, 1.2 + 0.36 * len(rows)))
    series = list(dict.fromkeys(label for row in rows.values() for label in row))
    look = looks([*(label for label in series if label), *rows, *(lines or {})])
    for label, dash in zip(sorted(lines or {}), ("--", ":", "-.", "-") * len(rows), strict=False):
        mean, spread = _mean_and_spread((lines or {})[label])
        line: dict[str, Any] = {"color": look[label].colour, "linewidth": 1.2, "label": label}
        axis.axvspan(mean - spread, mean + spread, color=line["color"], alpha=0.15, linewidth=0)
        axis.axvline(mean, linestyle=dash, **line)
    for number, (name, row) in enumerate(rows.items()):
        for label, values in row.items():
            place = number + 0.5 * ((series.index(label) + 0.5) / len(series) - 0.5)
            mean, spread = _mean_and_spread(values)
            colour, marker, _ = look[label or name]
            axis.errorbar(mean, place, xerr=spread, fmt="|", color=colour, capsize=3)
            axis.scatter(values, [place] * len(values), 18, colour, marker=marker or "o", zorder=2)
    for label in series if any(series) else ():
        colour, marker, _ = look[label]
        axis.scatter([], [], 18, colour, marker=marker or "o", label=label)
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
@_styled
def groups(found: Groups, title: str = "") -> Figure:
    """What hangs together in a network: a column for each family of groups of channels, a row for
    each layer; a mark says that a layer makes these channels, carries or reads them.

    Below a column stands how many groups it has; one that is dashed and hollow cannot go.
    """
    layers = dict.fromkeys(
        layer for family in found for of in family.layers().values() for layer in of
    )
    order = [name.rpartition(".")[0] or name for name in found.parameters]
    rows = [*dict.fromkeys([*(name for name in order if name in layers), *layers])]
    size = (2.5 + 0.55 * len(found), 1.6 + 0.28 * len(rows))
    figure, axis = axes(title or f"What can only go together in a {found.model}", "", "", size)
    shown_once, names = set[str](), looks(["made by", "carried by", "read by"])
    for column, family in enumerate(found):
        places = [rows.index(layer) for of in family.layers().values() for layer in of]
        dash = "--" if family.fixed else "-"
        axis.plot([column] * 2, [min(places), max(places)], dash, color=INK, linewidth=1, zorder=1)
        for shift, (what, of) in enumerate(family.layers().items()):
            look, label = names[what], what if what not in shown_once and of else None
            shown_once |= {what} if of else set()
            xs = [column + 0.22 * (shift - 1)] * len(of)
            ys = [rows.index(layer) for layer in of]
            axis.plot(
                xs, ys, look.marker, color=look.colour, label=label, markersize=7,
                fillstyle="none" if family.fixed else "full",
            )  # fmt: skip
    counts = [f"{family.size}" + ("\nstay" if family.fixed else "") for family in found]
    axis.set_xticks(range(len(found)), counts)
    axis.set_yticks(range(len(rows)), rows)
    axis.set(xlabel="number of such groups")
    axis.set(xlim=(-0.6, len(found) - 0.4), ylim=(len(rows) - 0.5, -0.5))
    axis.grid(axis="x", visible=False)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@checked
@_styled
def matrix(values: Matrix, keep: Tensor | None = None, title: str = "") -> Figure:
    """A small matrix, each number below its colour; removed ones are 0 and hatched."""
    if keep is not None and (keep.dtype is not torch.bool or keep.shape != values.shape):
        raise ValueError(
            f"plot.matrix: keep must be True or False for each of {tuple(values.shape)}, got "
            f"{keep.dtype} {tuple(keep.shape)}"
        )
    grid = values.detach().cpu().numpy()
    rows, columns = grid.shape
    figure, ((axis,),) = _figure((1.1 * columns + 1.2, 0.8 * rows + 0.8))
    limit = float(np.abs(grid).max()) or 1.0
    scale = ScalarMappable(Normalize(-limit, limit), WEIGHTS)
    for (r, c), value in np.ndenumerate(grid):
        kept = keep is None or bool(keep[r, c])
        paint = {"facecolor": scale.to_rgba(value)} if kept else {"fill": False, "hatch": "////"}
        axis.add_patch(Rectangle((c - 0.45, r - 0.45), 0.9, 0.5, edgecolor=INK, lw=0.6, **paint))
        axis.text(c, r + 0.27, f"{value:.2f}" if kept else "0", ha="center", va="center")
    axis.set(title=title, xlabel="input", ylabel="output")
    axis.set(xticks=range(columns), yticks=range(rows))
    axis.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    axis.grid(False)
    figure.colorbar(scale, ax=axis, label="weight")
    return figure


@checked
@_styled
def images(
    pictures: Sequence[tuple[str, Table]],
    *,
    label: str,
    title: str = "",
    cmap: str = "viridis",
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Pictures side by side on one colour scale; each `(caption, (h, w) values)`.

    For weights there is the map "weights", with `limits` alike on both sides of 0.
    """
    if cmap not in plt.colormaps() or not len(pictures):
        raise ValueError(
            "plot.images: there must be a picture and a colour map of matplotlib, got "
            f"{len(pictures)} and {cmap!r}"
        )
    wide = min(2.4 * len(pictures), 8.5)  # or the words are too small where there is less room
    figure, panels = _figure((wide + 0.8, wide / len(pictures) + 0.5), len(pictures))
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
@_styled
def wheel(
    probabilities: Numbers, sizes: Numbers, title: str = "", picked: Sequence[int] = ()
) -> Figure:
    """A roulette wheel: a slice a weight, as wide as its probability, coloured by its size |w|.

    The slices of `picked` stand out and are numbered.
    """
    figure, ((axis,),) = _figure((5.4, 4.4))
    probabilities, sizes = as_array(probabilities), as_array(sizes)
    if probabilities.shape != sizes.shape or min(probabilities) < 0 or not sum(probabilities):
        raise ValueError(
            f"plot.wheel: each of {len(sizes)} sizes needs a probability of 0 or more, not all of "
            f"them 0, got {probabilities.tolist()}"
        )
    shades = plt.get_cmap("viridis")(sizes / (sizes.max() or 1))
    labels = [str(i) if not len(picked) or i in picked else "" for i in range(len(sizes))]
    explode = [0.15 if i in picked else 0 for i in range(len(sizes))]
    edges = {"edgecolor": INK, "linewidth": 1}
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
@_styled
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
@_styled
def generations(
    groups: Sequence[tuple[float, Sequence[float], int]],
    *,
    x: str,
    y: str,
    title: str = "",
    names: tuple[str, str] = ("a candidate", "the best"),
) -> Figure:
    """Who was tried, a column of dots a group, and the one of each that was chosen, joined.

    Each group is its place across, its values, and the number of the chosen one among them, counted
    from 0; `names` are what the legend calls one that was tried and one that was chosen.
    """
    figure, axis = axes(title, x, y)
    for place, values, _ in groups:
        axis.scatter([place] * len(values), values, s=12, color=INK, zorder=1)
    places, chosen = [g[0] for g in groups], [values[which] for _, values, which in groups]
    axis.plot(places, chosen, marker="o", markersize=5, color=BLUE, zorder=2)
    axis.scatter([], [], s=12, color=INK, label=names[0])
    axis.plot([], [], marker="o", color=BLUE, label=names[1])
    axis.set_xlim(0.5, max([*places, 1]) + 0.5)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))  # also where there is only one
    axis.legend()
    return figure


@checked
def population(steps: Sequence[Step], total: Count, title: str = "") -> Figure:
    """Every member of every generation as a dot, by the share of the weights that it keeps."""
    groups = [
        (s.index, [100 * kept / total for kept in s.tried.kept], s.tried.chosen)
        for s in steps
        if s.tried is not None and s.tried.kept
    ]
    names = ("a candidate", "the best one that is allowed")
    return generations(groups, x="generation", y="kept weights (%)", title=title, names=names)


@checked
def tree(steps: Sequence[Step], examples: Count, title: str = "") -> Figure:
    """Every child of every level as a dot, the chosen ones joined: how a branching tree grew."""
    groups = [
        (
            s.info.get("level", s.index),
            [1 - cost / examples for cost in s.tried.costs],
            s.tried.chosen,
        )
        for s in steps
        if s.tried is not None and not s.tried.vectors
    ]
    return generations(groups, x="level", y="validation accuracy", title=title, names=TREE)
