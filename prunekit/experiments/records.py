"""Recorded cells: what is in their files, and the figures that are made of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch

from prunekit.experiments.cells import LINEAGE, Cell, changed, shipped_results
from prunekit.experiments.grid import load
from prunekit.judge import SLACK
from prunekit.mask import Mask
from prunekit.report import mean_and_spread
from prunekit.steps import Step

if TYPE_CHECKING:
    import pandas


def recorded(name: str, folder: Path | None = None) -> list[dict[str, Any]]:
    """The recorded cells of an experiment, as they stand in its files."""
    folder = folder if folder is not None else shipped_results(name)
    order = [*load(name).arms]
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    known = [cell for cell in found if cell.get("experiment") == name and cell["arm"] in order]
    return sorted(known, key=lambda cell: (order.index(cell["arm"]), cell["seed"]))


def rows(cell: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The trace of a cell, a dictionary for each step with what was recorded of it."""
    columns = cell["trace"]
    table = zip(*columns.values(), strict=True)
    return [{n: v for n, v in zip(columns, row, strict=True) if v is not None} for row in table]


def path(cell: Mapping[str, Any], split: str = "test") -> list[tuple[float, float]]:
    """The way of a cell through the levels, ``(sparsity, metric)`` each, after any training."""
    levels: dict[float, float] = {}
    for row in rows(cell):
        sparsity = 1 - row["kept"] / cell["prunable"] if row["phase"] != "train" else 0.0
        if split == "validation":
            levels[sparsity] = row[cell["metric"]]
        elif split in row:
            levels[sparsity] = _metric(cell, row[split], split)
    return [*levels.items()]


def at(cell: Mapping[str, Any], sparsity: float, split: str = "test") -> float:
    """The metric of a cell at its recorded level that is nearest to a sparsity."""
    return min(path(cell, split), key=lambda point: abs(point[0] - sparsity))[1]


def stopped(cell: Mapping[str, Any], tolerance: float = 0.0, split: str = "validation") -> float:
    """The sparsity at which a run would have ended, had it stopped before the first level whose
    metric is more than `tolerance` below the one before pruning."""
    worst, reached = figure(cell, "before", split) - tolerance - SLACK, 0.0
    for sparsity, value in path(cell, split):
        if value < worst:
            break
        reached = sparsity
    return reached


def showcase(name: str) -> list[Step]:
    """The recorded run of an experiment that has its masks, as the steps that it yielded.

    Raises ValueError if there is none.
    """
    experiment, folder = load(name), shipped_results(name)
    cell = Cell(experiment, experiment.showcase, experiment.seeds[0], False, folder)
    if not experiment.showcase or not cell.path.exists():
        raise ValueError(f"showcase: {name} has no recorded run with masks")
    record = json.loads(cell.path.read_text(encoding="utf-8"))
    with numpy.load(folder / "showcase.npz") as opened:
        arrays = dict(opened)
    names = [key.removeprefix("0 ") for key in arrays if key.startswith("0 ")]
    masks = {name: torch.ones([*arrays[f"0 {name}"]], dtype=torch.bool) for name in names}
    found, steps = rows(record), []
    last = {row["phase"]: row["index"] for row in found}
    for number, row in enumerate(found, start=1):
        masks = changed(masks, number, arrays)
        metrics = {k: v for k, v in row.items() if k in ("loss", record["metric"])}
        info = {k: v for k, v in row.items() if k in LINEAGE} | row.get("population", {})
        of = row.get("of", last[row["phase"]])
        steps.append(Step(row["phase"], row["index"], of, Mask(masks), metrics, info))
    return steps


def table(found: list[dict[str, Any]]) -> pandas.DataFrame:
    """One row an arm: compression, validation and test figures as mean ± spread over the seeds."""
    import pandas

    rows: dict[str, dict[str, str]] = {}
    for arm in dict.fromkeys(cell["arm"] for cell in found):
        group = [cell for cell in found if cell["arm"] == arm]
        row = {"seeds": str(len(group))}
        ratios = [cell["parameters"] / cell["kept"] for cell in group]
        same = len({round(ratio, 1) for ratio in ratios}) == 1  # told the size, not finding it
        row["compression"] = mean_spread(ratios[:1] if same else ratios, 1) + "×"
        for split in ("validation", "test"):
            for when in ("before", "after"):
                row[f"{split} {when}"] = mean_spread([figure(cell, when, split) for cell in group])
        row["seconds"] = str(round(sum(cell["seconds"] for cell in group) / len(group)))
        rows[arm] = row
    return pandas.DataFrame.from_dict(rows, orient="index")


def tradeoff(
    found: list[dict[str, Any]], split: str = "test"
) -> dict[str, list[list[tuple[float, float]]]]:
    """Figures against sparsity for `plot.curves`: a line for all arms that differ in the sparsity
    alone, a run a seed, a point ``(sparsity, metric)`` a cell. Levels that some seed lacks are left
    out, so that a grid under way can be drawn."""
    lines: dict[str, dict[int, dict[float, float]]] = {}
    for cell in found:
        label, _, level = cell["arm"].removeprefix(cell["model"]).strip().rpartition(" ")
        if re.fullmatch(r"[\d.]+", level):
            run = lines.setdefault(label, {}).setdefault(cell["seed"], {})
            run[float(level)] = figure(cell, "after", split)
    drawn = {}
    for label, runs in lines.items():
        levels = sorted(set.intersection(*(set(run) for run in runs.values())))
        drawn[label] = [[(level, run[level]) for level in levels] for run in runs.values()]
    return drawn


def figure(cell: Mapping[str, Any], when: str, split: str) -> float:
    """The metric of a cell, ``when`` being "before" or "after"."""
    return _metric(cell, cell[when][split], split)


def _metric(cell: Mapping[str, Any], value: float, split: str) -> float:
    """The metric that a recorded result stands for: errors become an accuracy."""
    n = cell["examples"][split]
    return (n - value) / n if cell["metric"] == "accuracy" else value


def mean_spread(values: list[float], digits: int = 4) -> str:
    """Mean ± sample standard deviation; of one value the value alone."""
    mean, spread = mean_and_spread(values)
    return f"{mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if len(values) > 1 else "")
