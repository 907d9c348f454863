"""`LineageView`: who came from whom, in a tree of branches or in an evolving population."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import anywidget
import traitlets

from prunekit import experiments
from prunekit.report import Report
from prunekit.steps import Step
from prunekit.widgets._static import script, style
from prunekit.widgets.running import OfCell


@dataclass(frozen=True)
class Source:
    """A run to look at; what is not known of it is empty or None."""

    steps: Sequence[Step]
    title: str = ""
    method: str = ""
    dense: float | None = None  # the metric before pruning
    seed: int | None = None


def opened(source: Report | Sequence[Step] | str, title: str = "") -> Source:
    """The run of a report, of its steps, or of the experiment of this name that has one recorded.

    Raises ValueError if that experiment has none.
    """
    if isinstance(source, str):
        experiment = experiments.load(source)
        steps = experiments.showcase(source)
        method = experiment.arms[experiment.showcase].method.__name__
        arm, seed = experiment.showcase, experiment.seeds[0]
        title = title or f"{experiment.title}: the recorded run “{arm}”, seed {seed}"
        return Source(steps, title, method, seed=seed)
    if isinstance(source, Report):
        title, dense = title or source.method, source.before[source.metric]
        return Source(source.history, title, source.method, dense, source.knobs.get("seed"))
    return Source(source, title)


def finite(value: float | None) -> float | None:
    """The value to 5 decimals, None for what is no number."""
    return round(value, 5) if value is not None and math.isfinite(value) else None


def metric_of(steps: Sequence[Step]) -> str:
    """The name of the metric that the steps hold, "loss" if they hold no other."""
    return next((name for step in steps for name in step.metrics if name != "loss"), "loss")


def family(steps: Sequence[Step], seed: int | None = None, vectors: bool = True) -> dict[str, Any]:
    """Who was tried at each step and who went on, as plain values.

    ``kind`` is "tree" for the children of levels, "population" for the candidates of generations,
    or "" if the steps hold neither. ``entries`` has one a step, None where nobody was tried; its
    ``values`` are the results of the children, or the weights that the candidates keep. `vectors`
    says whether the candidates' own numbers are told too.
    """
    metric = metric_of(steps)
    counted = "errors" if metric == "accuracy" else metric
    counted = next((step.info["counted"] for step in steps if "counted" in step.info), counted)
    if any("vectors" in step.info for step in steps):
        kind, labels = "population", ["generation", "weights kept"]
        entries = [_population(step, vectors) if "vectors" in step.info else None for step in steps]
    else:
        kind = "tree" if any("children" in step.info for step in steps) else ""
        labels = ["level", counted]
        entries = [_level(step) if "children" in step.info else None for step in steps]
    undone = [step.index for step in steps if step.phase == "rewind"]
    return {
        "kind": kind,
        "labels": labels,
        "counted": counted,
        "seed": seed,
        "undone": undone if kind == "population" else [],
        "entries": entries,
    }


def _level(step: Step) -> dict[str, Any]:
    info = step.info
    return {
        "number": info.get("level", step.index),
        "round": None,
        "values": [finite(value) for value in info["children"]],
        "chosen": info["chosen"],
        "kept": step.mask.kept,
    }


def _population(step: Step, vectors: bool) -> dict[str, Any]:
    info = step.info
    entry = {
        "number": step.index,
        "round": info.get("round"),
        "values": info["kept"],
        "chosen": info["chosen"],
        "replaced": info["replaced"],
    }
    if "results" in info:
        entry["results"] = [finite(value) for value in info["results"]]
    if "allowed" in info:  # the result that a candidate may have at worst
        entry["allowed"] = finite(info["allowed"])
    if vectors:
        entry["vectors"] = [[round(gene, 2) for gene in vector] for vector in info["vectors"]]
    return entry


class LineageView(OfCell, anywidget.AnyWidget):
    """Who came from whom: the children of each level, or the population of each generation.

    `source` is a `Report`, its steps, or the name of an experiment with a recorded run
    (`experiments.showcase`). Point at a dot, or move with the arrow keys: its ancestors are drawn,
    and what the steps tell of it is written below. Raises ValueError if they tell of nobody.
    """

    _esm = script("chart", "lineage", "lineageview")
    _css = style("chart", "lineage")
    family = traitlets.Dict().tag(sync=True)
    title = traitlets.Unicode().tag(sync=True)

    def __init__(self, source: Report | Sequence[Step] | str, title: str = ""):
        run = opened(source, title)
        shown = family(run.steps, run.seed)
        if not shown["kind"]:
            raise ValueError(
                f"LineageView: the steps of {run.method or 'this run'} hold no children and no "
                "population. Pass a run of roulette or differential_evolution."
            )
        super().__init__(family=shown, title=run.title)

    def __repr__(self) -> str:
        tried = [entry for entry in self.family["entries"] if entry is not None]
        what = "levels" if self.family["kind"] == "tree" else "generations"
        return f"LineageView({len(tried)} {what} × {len(tried[0]['values'])})"
