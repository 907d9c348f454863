"""`Results`: the recorded cells of an experiment, a mark each, by any two of their numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import anywidget
import traitlets

from prunekit import experiments, plot
from prunekit._arguments import checked
from prunekit.experiments.records import (
    LEVELS,
    Measure,
    Recorded,
    by_network,
    command,
    error_at,
    error_name,
    has_levels,
    is_pruned,
    is_timed,
    minutes,
    network_of,
    readable,
    within_networks,
)
from prunekit.looks import COLOURS, looks
from prunekit.report import mean_and_spread
from prunekit.widgets import output
from prunekit.widgets._static import VIEWS, script, style
from prunekit.widgets.running import OfCell

MANY = 8  # arms that are shown at first
SHAPES = "osD^v<>PX*hp"  # that a mark can have; results.js draws them


class Measured(NamedTuple):
    """A number that a cell has: its unit, and to how many decimals it is written."""

    of: Measure
    unit: str
    digits: int
    spreads: bool = True  # it is no mere name, so means and spreads say something


# Of cells of which it was told how long an example takes.
TIMED = {
    "multiply-adds saved": Measured(experiments.macs_saved, "%", 1),
    "time saved": Measured(experiments.time_saved, "%", 1),
}


def _sparsity(cell: Recorded) -> float:
    kept = [row["kept"] for row in experiments.rows(cell) if is_pruned(cell, row)]
    return 100 * (1 - kept[-1] / cell["prunable"]) if kept else 0.0


def _at(level: float, cell: Recorded) -> float:
    return error_at(cell, level) if has_levels(cell) else math.nan


def measures(cells: Sequence[Recorded]) -> dict[str, Measured]:
    """The numbers that such cells have, by name."""
    what, counts = error_name(cells[0]), cells[0]["metric"] == "accuracy"
    form, lost = (("%", 2), ("points", 2)) if counts else (("", 3), ("", 3))
    found = {
        "size": Measured(experiments.size, "×", 1),
        "weights removed": Measured(_sparsity, "%", 1),
        "stripes left": Measured(experiments.stripes_left, "%", 1),
        "filters left": Measured(experiments.filters_left, "%", 1),
        f"validation {what}": Measured(partial(experiments.error, split="validation"), *form),
        f"test {what}": Measured(experiments.error, *form),
        f"test {what} when dense": Measured(experiments.unpruned, *form),
        "lost in the test": Measured(experiments.lost, *lost),
        **(TIMED if any("latency" in cell for cell in cells) else {}),
        "minutes": Measured(minutes, "", 1),
        "network": Measured(network_of, "", 0, spreads=False),
        "seed": Measured(lambda cell: cell["seed"], "", 0, spreads=False),
        **{
            f"test {what} at {100 * level:.0f} % removed": Measured(partial(_at, level), *form)
            for level in LEVELS
        },
    }

    def usual(measure: Measured) -> bool:  # at least half of the cells have it
        return 2 * sum(math.isfinite(measure.of(cell)) for cell in cells) >= len(cells)

    return {name: measure for name, measure in found.items() if usual(measure)}


def _number(value: float) -> float | None:
    """To five digits, so that the file is the same everywhere; None for what is no number."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def told(name: str, title: str = "", folder: Path | None = None) -> dict[str, Any]:
    """The recorded cells of an experiment as plain values: what `Results` shows.

    ``measures`` says what the numbers are; of each arm there are the means over its networks, the
    standard deviations over them, and, where a network has several seeds, those over the seeds of
    one; of each cell its own. ``damaged`` tells what cannot be read.
    Raises ValueError if there is no cell.
    """
    experiment = experiments.load(name)
    cells, damaged = readable(name, folder)
    if not cells:
        raise ValueError(
            f"Results: {name} has no recorded cells that can be read. "
            f"`python -m prunekit reproduce {name}` computes them."
        )
    found = measures(cells)
    names = [*dict.fromkeys(cell["arm"] for cell in cells)]
    groups = {arm: [cell for cell in cells if cell["arm"] == arm] for arm in names}
    drawn = _looks(groups)
    return {
        "title": title or experiment.title,
        "measures": [
            {"name": n, "unit": m.unit, "digits": m.digits, "spreads": m.spreads}
            for n, m in found.items()
        ],
        "timed": [*found].index("minutes"),
        "arms": [
            {"name": arm, **drawn[arm], **_arm(group, found)} for arm, group in groups.items()
        ],
        "cells": [
            {
                "arm": names.index(cell["arm"]),
                "network": network_of(cell),
                "seed": cell["seed"],
                "values": [_number(m.of(cell)) for m in found.values()],
                "timed": is_timed(cell),
                "command": command(cell),
            }
            for cell in cells
        ],
        "damaged": [f"A cell is left out: {error}" for error in damaged],
    }


def _looks(groups: Mapping[str, Sequence[Recorded]]) -> dict[str, dict[str, Any]]:
    """Colour and mark of each arm: those that its name has everywhere. The mark is hollow where a
    line would be dashed. Where an arm before has the same it is the other way round, or another
    shape, or at last another colour."""
    short = {arm: arm.removeprefix(f"{cells[0]['model']} ") for arm, cells in groups.items()}
    found, drawn = looks(short.values()), dict[str, tuple[str, str, bool]]()
    for own in (True, False):  # what is an arm's own is given to no other before
        for arm in [arm for arm in short if arm not in drawn]:
            colour, marker, dash = found[short[arm]]
            colours, markers = [colour], [marker or "o"]
            if not own:
                colours, markers = [*colours, *COLOURS], [*markers, *SHAPES]
            every = [*product(colours, markers, (dash != "-", dash == "-"))]
            free = [look for look in every if look not in drawn.values()]
            if free or not own:
                drawn[arm] = (free or every)[0]
    return {a: dict(zip(("colour", "marker", "hollow"), drawn[a], strict=True)) for a in short}


def _arm(cells: Sequence[Recorded], found: Mapping[str, Measured]) -> dict[str, Any]:
    of = [[*by_network(cells, m.of).values()] for m in found.values()]
    return {
        "networks": len(of[0]),
        "timed": all(map(is_timed, cells)),
        "means": [_number(statistics.fmean(values)) for values in of],
        "spreads": [_number(mean_and_spread(values)[1]) for values in of],
        "seeds": [_number(within_networks(cells, m.of)) for m in found.values()],
    }


class Results(OfCell, anywidget.AnyWidget):
    """The recorded cells of an experiment: choose arms and two measures, point at a mark.

    `x` and `y` are the measures across and up: at first "size", or where all cells have the same
    the validation error, and the test error. `shown` are the arms that are drawn, at first eight. A
    cell that is damaged is named below, and the others are shown. Raises ValueError for a measure
    or an arm that there is not.
    """

    _esm, _css = script(*VIEWS["Results"][0]), style(*VIEWS["Results"][1])
    results = traitlets.Dict().tag(sync=True)
    x = traitlets.Unicode().tag(sync=True)
    y = traitlets.Unicode().tag(sync=True)
    shown = traitlets.List(traitlets.Unicode()).tag(sync=True)

    @checked
    def __init__(
        self,
        name: str,
        *,
        x: str = "",
        y: str = "",
        shown: Sequence[str] | None = None,
        title: str = "",
        folder: Path | None = None,
    ):
        results = told(name, title, folder)
        there = [arm["name"] for arm in results["arms"]]
        known = [measure["name"] for measure in results["measures"]]
        sizes = [cell["values"][0] for cell in results["cells"]]
        validation, test = known[2:4]
        x, y = x or ("size" if max(sizes) > 1.05 * min(sizes) else validation), y or test
        _among("measure", known, (x, y))
        _among("arm", there, shown or ())
        chosen = [*(shown if shown is not None else there[:MANY])]
        super().__init__(results=results, x=x, y=y, shown=chosen)

    def lasting(self) -> Mapping[str, Any]:
        return {name: getattr(self, name) for name in ("results", "x", "y", "shown")}

    def fallback(self) -> str:
        measures = self.results["measures"]
        at = [[m["name"] for m in measures].index(name) for name in (self.x, self.y)]
        labels = [", ".join(filter(None, (measures[i]["name"], measures[i]["unit"]))) for i in at]
        figure, axis = plot.axes("", labels[0], labels[1], (8, 4))
        with plot.style():
            figure.suptitle(self.results["title"])
            for number, arm in enumerate(self.results["arms"]):
                cells = [cell for cell in self.results["cells"] if cell["arm"] == number]
                if arm["name"] in self.shown:
                    points = ([cell["values"][i] for cell in cells] for i in at)
                    face = "none" if arm["hollow"] else arm["colour"]
                    axis.scatter(
                        *points, label=arm["name"], marker=arm["marker"],
                        facecolor=face, edgecolor=arm["colour"],
                    )  # fmt: skip
            if self.shown:
                axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=10)
        return output.picture(figure, repr(self))

    def __repr__(self) -> str:
        return f"Results({len(self.results['cells'])} cells of {len(self.results['arms'])} arms)"


def _among(what: str, known: Sequence[str], asked: Sequence[str]) -> None:
    for name in asked:
        if name not in known:
            raise ValueError(f"Results: {what} must be one of {[*known]}, got {name!r}")
