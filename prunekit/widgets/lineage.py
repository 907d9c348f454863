"""`LineageView`: who came from whom, in a tree of branches or in an evolving population."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import anywidget
import traitlets

from prunekit import experiments, plot
from prunekit._arguments import checked
from prunekit.report import Report
from prunekit.steps import Step, Tried
from prunekit.widgets import output
from prunekit.widgets._static import VIEWS, script, style
from prunekit.widgets.running import OfCell

MINUS = "minus the "  # what the name of a cost begins with that is a metric, turned around


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
        arm = experiment.showcase
        _, seed = experiment.pairs(arm)[0]
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
    or "" if nobody was tried. ``entries`` has one a step, None where nobody was; its ``values`` are
    the results of the children, or the weights that the candidates keep, and ``broken`` the
    candidates that cost more than allowed. `vectors` says whether the candidates' own numbers are
    told too.
    """
    tried = [step.tried for step in steps if step.tried is not None]
    counted = tried[0].unit.removeprefix(MINUS) if tried else "errors"
    population = any(each.vectors for each in tried)
    told = partial(_generation, vectors=vectors) if population else _level
    undone = [step.index for step in steps if step.phase == "rewind"]
    return {
        "kind": ("population" if population else "tree") if tried else "",
        "labels": ["generation", "weights kept"] if population else ["level", counted],
        "counted": counted,
        "seed": seed,
        "undone": undone if population else [],
        "entries": [told(step, step.tried) if step.tried else None for step in steps],
    }


def _results(tried: Tried, costs: Sequence[float]) -> list[float | None]:
    """Costs as one reads them: a metric has its own sign."""
    sign = -1 if tried.unit.startswith(MINUS) else 1
    return [finite(sign * cost) for cost in costs]


def _level(step: Step, tried: Tried) -> dict[str, Any]:
    return {
        "number": step.info.get("level", step.index),
        "round": None,
        "values": _results(tried, tried.costs),
        "chosen": tried.chosen,
        "kept": step.mask.kept,
    }


def _generation(step: Step, tried: Tried, vectors: bool) -> dict[str, Any]:
    entry = {
        "number": step.index,
        "round": step.info.get("round"),
        "values": [*tried.kept],
        "results": _results(tried, tried.costs),
        "chosen": tried.chosen,
        "replaced": [*tried.replaced],
    }
    if tried.allowed is not None:  # the cost that a candidate may have at most
        (entry["allowed"],) = _results(tried, [tried.allowed])
        # Infinite is who was given up, as it had lost: how far it is beyond the limit is not known.
        lost = [i for i, cost in enumerate(tried.costs) if tried.allowed < cost < math.inf]
        entry["broken"] = lost
    if vectors:
        entry["vectors"] = [[round(gene, 2) for gene in vector] for vector in tried.vectors]
    return entry


class LineageView(OfCell, anywidget.AnyWidget):
    """Who came from whom: the children of each level, or the population of each generation.

    `source` is a `Report`, its steps, or the name of an experiment with a recorded run
    (`experiments.showcase`). Point at a dot, or move with the arrow keys: its ancestors are drawn,
    and what the steps tell of it is written below. Raises ValueError if they tell of nobody.

    With `stored`, it goes into the notebook's file and lives on there without a kernel: by default
    if it is a recorded run. A run of your own differs from one processor to another.
    """

    _esm, _css = script(*VIEWS["LineageView"][0]), style(*VIEWS["LineageView"][1])
    family = traitlets.Dict().tag(sync=True)
    title = traitlets.Unicode().tag(sync=True)

    @checked
    def __init__(
        self,
        source: Report | Sequence[Step] | str,
        title: str = "",
        *,
        stored: bool | None = None,
    ):
        run = opened(source, title)
        self.stored = isinstance(source, str) if stored is None else stored
        shown = family(run.steps, run.seed)
        if not shown["kind"]:
            raise ValueError(
                f"LineageView: the steps of {run.method or 'this run'} hold nobody who was tried. "
                "Pass a run of roulette or differential_evolution."
            )
        super().__init__(family=shown, title=run.title)

    def lasting(self) -> Mapping[str, Any] | None:
        return {"family": self.family, "title": self.title} if self.stored else None

    def fallback(self) -> str:
        entries = [entry for entry in self.family["entries"] if entry is not None]
        groups = []
        for place, entry in enumerate(entries, start=1):
            known = [-math.inf if value is None else value for value in entry["values"]]
            groups.append((place, known, entry["chosen"]))
        x, y = self.family["labels"]
        names = {"names": plot.TREE} if self.family["kind"] == "tree" else {}
        figure = plot.generations(groups, x=x, y=y, title=self.title, **names)
        return output.picture(figure, repr(self))

    def __repr__(self) -> str:
        tried = [entry for entry in self.family["entries"] if entry is not None]
        what = "levels" if self.family["kind"] == "tree" else "generations"
        return f"LineageView({len(tried)} {what} × {len(tried[0]['values'])})"
