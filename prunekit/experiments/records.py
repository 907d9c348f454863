"""Recorded cells: what is in their files, and the figures that are made of them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy
import torch

from prunekit._arguments import Kind, checked
from prunekit._files import read_json
from prunekit.experiments.cells import (
    FORMAT,
    UNKNOWN,
    Cell,
    changed,
    check_record,
    read,
    read_showcase,
    shipped_results,
)
from prunekit.experiments.grid import load
from prunekit.experiments.grid import names as every_experiment
from prunekit.experiments.protocol import Arm
from prunekit.judge import SLACK
from prunekit.knobs import Choice, Natural, knobs, shown
from prunekit.mask import Mask
from prunekit.report import mean_and_spread
from prunekit.steps import Step, Tried

if TYPE_CHECKING:
    import pandas


Split = Annotated[str, Choice("train", "validation", "test")]
When = Annotated[str, Choice("before", "after")]
Recorded = Annotated[
    Mapping[str, Any],
    Kind(
        "a recorded cell",
        lambda cell: isinstance(cell, Mapping) and "metric" in cell,
    ),
]


@checked
def recorded(name: str, folder: Path | None = None) -> list[dict[str, Any]]:
    """The recorded cells of an experiment; what a cell's file does not hold is "unknown".

    Raises ValueError that names a file that is damaged.
    """
    cells, damaged = readable(name, folder)
    if damaged:
        raise damaged[0]
    return cells


@checked
def readable(
    name: str, folder: Path | None = None
) -> tuple[list[dict[str, Any]], list[ValueError]]:
    """The recorded cells of an experiment that can be read, and what is wrong with the others."""
    folder = folder if folder is not None else shipped_results(name)
    arms = load(name).arms
    cells, damaged = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            cell = read_json(path, FORMAT, "cell")
            if cell.get("experiment") == name and cell.get("arm") in arms:
                cells.append(complete(check_record(cell, path), arms[cell["arm"]]))
        except ValueError as error:
            damaged.append(error)
    order = [*arms]
    cells.sort(key=lambda c: (order.index(c["arm"]), c["network"] or 0, c["seed"]))
    return cells, damaged


def complete(cell: dict[str, Any], arm: Arm) -> dict[str, Any]:
    """A cell in the present form, whenever it was recorded.

    The first cells have one number for network and seed, and only the knobs that were asked for.
    """
    declared = knobs(arm.method)
    if "given" in cell:
        before = {name: knob.before for name, knob in declared.items()}
        return cell | {"knobs": before | cell["knobs"]}
    # Other knobs had the defaults of then.
    before = {n: k.before if k.before != k.default else UNKNOWN for n, k in declared.items()}
    names = ("weights", "codes", "commits", "precision")
    rest = {
        "network": None if arm.fresh else cell["seed"],
        "knobs": before | cell["knobs"],
        "given": sorted(cell["knobs"]),
        "trace": _columns([_present(row, cell["metric"]) for row in rows(cell)]),
    }
    return dict.fromkeys(names, UNKNOWN) | cell | rest


def _present(row: dict[str, Any], metric: str) -> dict[str, Any]:
    """A recorded step in the present form: who was tried, and what else the method told."""
    row = dict(row)
    info: dict[str, Any] = {
        name: row.pop(name) for name in ("sensitivities", "drop") if name in row
    }
    if "children" in row:
        results, chosen = row.pop("children"), row.pop("chosen")
        tried = {"costs": results, "chosen": chosen}
        if metric != "accuracy":
            costs = [None if result is None else -result for result in results]
            tried |= {"costs": costs, "unit": f"minus the {metric}"}
        row["tried"] = tried
    if "population" in row:
        held = dict(row.pop("population"))
        info["round"] = held.pop("round")
        row["tried"] = {"costs": held.pop("results"), "chosen": row.pop("chosen")} | held
    return row | ({"info": info} if info else {})


def _columns(table: list[dict[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in table for name in row)
    return {name: [row.get(name) for row in table] for name in names}


@checked
def where(cells: Sequence[Recorded], **wanted: Any) -> list[Recorded]:
    """The cells with these values, in fields such as `model`, `method`, `seed`, or in knobs:
    ``where(cells, model="lenet_5", sparsity=0.917)``. Raises ValueError for a name of neither.
    """
    plain = (str, int, float, list, tuple, dict, type(None))
    for name, value in wanted.items():
        if not isinstance(value, plain):
            raise TypeError(f"where: {name} must be a value of JSON, got {shown(value)}")
        if cells and not any(name in cell or name in cell["knobs"] for cell in cells):
            fields = [*cells[0], *dict.fromkeys(knob for cell in cells for knob in cell["knobs"])]
            raise ValueError(f"where: cells have no field and no knob {name!r}, only {fields}")

    def fits(cell: Recorded) -> bool:
        values = {**cell["knobs"], **cell}
        return all(name in values and values[name] == value for name, value in wanted.items())

    return [cell for cell in cells if fits(cell)]


@checked
def rows(cell: Recorded) -> list[dict[str, Any]]:
    """The trace of a cell, a dictionary for each step with what was recorded of it."""
    columns = _held(cell, "trace")
    table = zip(*columns.values(), strict=True)
    return [{n: v for n, v in zip(columns, row, strict=True) if v is not None} for row in table]


def _held(record: Mapping[str, Any], name: str) -> Any:
    if name not in record:
        raise ValueError(f"cell: nothing was recorded as {name!r}, there is {[*record]}")
    return record[name]


@checked
def path(cell: Recorded, split: Split = "test") -> list[tuple[float, float]]:
    """The way of a cell through the levels, ``(sparsity, metric)`` each, after any training."""
    levels: dict[float, float] = {}
    for row in rows(cell):
        sparsity = 1 - row["kept"] / cell["prunable"] if is_pruned(cell, row) else 0.0
        value = _of_step(cell, row, split)
        if value is not None:
            levels[sparsity] = value
        elif split == "validation":
            levels[sparsity] = math.nan
    return [*levels.items()]


def _of_step(cell: Recorded, row: Mapping[str, Any], split: Split) -> float | None:
    """The metric of a recorded step; of the test images a trace holds the errors."""
    if split == "validation":
        return row.get(cell["metric"])
    return _metric(cell, row[split], split) if split in row else None


def is_pruned(cell: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Whether a recorded step counts as one of pruning: all but training that removes nothing."""
    return row["phase"] != "train" or 0 < row["kept"] < cell["prunable"]


@checked
def at(cell: Recorded, sparsity: float, split: Split = "test") -> float:
    """The metric of a cell at its recorded level that is nearest to a sparsity."""
    levels = path(cell, split)
    if not levels:
        raise ValueError(f"at: the cell has no level that was judged on the {split} split")
    return min(levels, key=lambda point: abs(point[0] - sparsity))[1]


@checked
def stopped(cell: Recorded, tolerance: float = 0.0, split: Split = "validation") -> float:
    """The sparsity at which a run would have ended, had it stopped before the first level whose
    metric is more than `tolerance` below the one before pruning."""
    worst, reached = figure(cell, "before", split) - tolerance - SLACK, 0.0
    for sparsity, value in path(cell, split):
        if value < worst:
            break
        reached = sparsity
    return reached


@checked
def showcase(name: str) -> list[Step]:
    """The recorded run of an experiment that has its masks, as the steps that it yielded.

    Raises ValueError if there is none.
    """
    experiment, folder = load(name), shipped_results(name)
    record = None
    if experiment.showcase:
        network, seed = experiment.pairs(experiment.showcase)[0]
        record = read(Cell(experiment, experiment.showcase, network, seed, False, folder))
    if record is None:
        have = ", ".join(n for n in every_experiment() if n != name and load(n).showcase)
        raise ValueError(f"showcase: {name} has no recorded run with masks; those of {have} do")
    record = complete(record, experiment.arms[experiment.showcase])
    try:
        return _steps(record, read_showcase(folder, record))
    except (LookupError, TypeError, RuntimeError) as error:
        raise ValueError(f"showcase: {folder} holds masks that do not fit: {error}") from error


def _steps(record: Mapping[str, Any], arrays: Mapping[str, numpy.ndarray]) -> list[Step]:
    names = [key.removeprefix("0 ") for key in arrays if key.startswith("0 ")]
    masks = {name: torch.ones([*arrays[f"0 {name}"]], dtype=torch.bool) for name in names}
    steps, last = list[Step](), dict[str, int]()
    for row in rows(record):
        last[row["phase"]] = max(row["index"], last.get(row["phase"], 0))
    for number, row in enumerate(rows(record), start=1):
        masks = changed(masks, number, arrays)
        metrics = {k: v for k, v in row.items() if k in ("loss", record["metric"])}
        place = row["phase"], row["index"], row.get("of", last[row["phase"]])
        steps.append(Step(*place, Mask(masks), metrics, row.get("info", {}), _tried(row)))
        steps[-1].mask.rest()
    return steps


def _tried(row: Mapping[str, Any]) -> Tried | None:
    """The candidates of a recorded step, as the method told them."""
    if "tried" not in row:
        return None
    held: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in row["tried"].items()
    }
    held["costs"] = tuple(math.inf if cost is None else cost for cost in held["costs"])
    held["vectors"] = tuple(map(tuple, held.get("vectors", ())))
    return Tried(**held)


@checked
def table(cells: Sequence[Recorded]) -> pandas.DataFrame:
    """One row an arm: compression, validation and test figures as mean ± spread over the seeds, and
    the mean seconds of a core."""
    import pandas

    rows: dict[str, dict[str, str]] = {}
    for arm in dict.fromkeys(cell["arm"] for cell in cells):
        group = [cell for cell in cells if cell["arm"] == arm]
        row = {"seeds": str(len(group))}
        ratios = [cell["parameters"] / cell["kept"] for cell in group]
        same = len({round(ratio, 1) for ratio in ratios}) == 1  # told the size, not finding it
        row["compression"] = mean_spread(ratios[:1] if same else ratios, 1) + "×"
        for split in ("validation", "test"):
            for when in ("before", "after"):
                row[f"{split} {when}"] = mean_spread([figure(cell, when, split) for cell in group])
        seconds = round(60 * statistics.fmean(map(minutes, group)))
        row["seconds"] = f"{seconds:,}" if all(map(is_timed, group)) else f"≥ {seconds:,}"
        rows[arm] = row
    return pandas.DataFrame.from_dict(rows, orient="index")


@checked
def tradeoff(
    cells: Sequence[Recorded], split: Split = "test"
) -> dict[str, list[list[tuple[float, float]]]]:
    """Figures against sparsity for `plot.curves`: a line for all arms that differ in the sparsity
    alone, a run a network and seed, a point ``(sparsity, metric)`` a cell. Levels that some run
    lacks are left out, so that a grid under way can be drawn; so is what has one level only."""
    groups: dict[str, list[Recorded]] = {}
    for cell in cells:
        if "sparsity" in cell["given"]:
            others = {n: cell["knobs"][n] for n in cell["given"] if n != "sparsity"}
            kind = json.dumps([cell["model"], cell["method"], cell["data"], others])
            groups.setdefault(kind, []).append(cell)
    several = [g for g in groups.values() if len({c["knobs"]["sparsity"] for c in g}) > 1]
    with_model = len({group[0]["model"] for group in several}) > 1
    return {_label(group, with_model): _runs(group, split) for group in several}


def _label(group: Sequence[Recorded], with_model: bool) -> str:
    """The words that the names of all arms have in common."""
    model = "" if with_model else group[0]["model"]
    names = [cell["arm"].removeprefix(model).split() for cell in group]
    return " ".join(word for word in names[0] if all(word in name for name in names))


def _runs(group: Sequence[Recorded], split: str) -> list[list[tuple[float, float]]]:
    runs: dict[tuple[Any, int], dict[float, float]] = {}
    for cell in group:
        run = runs.setdefault((cell["network"], cell["seed"]), {})
        run[cell["knobs"]["sparsity"]] = figure(cell, "after", split)
    levels = sorted(set.intersection(*(set(run) for run in runs.values())))
    return [[(level, run[level]) for level in levels] for run in runs.values()]


@checked
def figure(cell: Recorded, when: When, split: Split) -> float:
    """The metric of a cell, ``when`` being "before" or "after"."""
    return _metric(cell, _held(_held(cell, when), split), split)


def _metric(cell: Mapping[str, Any], value: float | None, split: str) -> float:
    """The metric that a recorded result stands for: errors become an accuracy."""
    if value is None:  # the network gave no finite number
        return math.nan
    n = cell["examples"][split]
    return (n - value) / n if cell["metric"] == "accuracy" else value


# ---------------------------------------------------------- one number of a cell, and of many cells

Measure = Callable[[Recorded], float]


@checked
def size(cell: Recorded) -> float:
    """How many times smaller the network is: all parameters / those kept, biases too."""
    return cell["parameters"] / cell["kept"]


@checked
def error(cell: Recorded, split: Split = "test", *, last: bool = False) -> float:
    """The share of wrong answers after pruning, in per cent; another metric as it is.

    last: after the last epoch of training, where one before it was perhaps kept. Raises ValueError
    where that was not recorded.
    """
    if not last:
        return _shown(cell, figure(cell, "after", split))
    trained = [row for row in rows(cell) if row["phase"] == "train"]
    value = _of_step(cell, trained[-1], split) if trained else None
    if value is None:
        raise ValueError(
            f"error: the cell {cell['arm']!r} recorded no {split} metric after a last epoch"
        )
    return _shown(cell, value)


LEVELS = (0.5, 0.7, 0.8, 0.9, 0.95)  # sparsities at which runs level by level are compared


@checked
def cut(cell: Recorded) -> float:
    """The test error after the last cut, before any training, in percent."""
    row = [row for row in rows(cell) if row["phase"] == "prune"][-1]
    return 100 * row["test"] / cell["examples"]["test"]


@checked
def macs_saved(cell: Recorded) -> float:
    """The multiply-adds that are saved, in percent."""
    left, dense = cell["macs"]
    return 100 * (1 - left / dense)


@checked
def stripes_left(cell: Recorded, *, last: bool = False) -> float:
    """The share of the stripes that a method of stripes has left, in percent; NaN of others.

    last: after the last epoch, where one before it was perhaps kept.
    """
    return 100 * _told_last(cell, "stripes", last)


@checked
def filters_left(cell: Recorded, *, last: bool = False) -> float:
    """The share of the filters that a method of stripes has left, in percent; NaN of others.

    last: after the last epoch, where one before it was perhaps kept.
    """
    return 100 * _told_last(cell, "filters", last)


def _told_last(cell: Recorded, name: str, trained: bool) -> float:
    told = [row for row in rows(cell) if row["phase"] == "train" or not trained]
    found = [row["info"][name] for row in told if name in row.get("info", {})]
    return found[-1] if found and isinstance(found[-1], (int, float)) else math.nan


@checked
def time_saved(cell: Recorded) -> float:
    """How much less time one example takes on one thread, once what went is cut out, in percent.

    Raises ValueError where that was not measured.
    """
    times = cell.get("latency")
    if not times:
        raise ValueError(f"time_saved: the cell {cell['arm']!r} was not timed")
    return 100 * (1 - times["shrunk"][0] / times["dense"][0])


@checked
def has_levels(cell: Recorded) -> bool:
    """Whether the cell was judged on the test images near each of `LEVELS`."""
    there = [sparsity for sparsity, _ in path(cell)]
    return all(any(abs(sparsity - level) < 0.05 for sparsity in there) for level in LEVELS)


@checked
def error_name(cell: Recorded) -> str:
    """What `error` gives of a cell, in words."""
    metric = cell["metric"]
    return "error" if metric == "accuracy" else metric.replace("spearman", "rank correlation")


@checked
def error_at(cell: Recorded, sparsity: float, split: Split = "test") -> float:
    """The error (another metric as it is) at the recorded level that is nearest to a sparsity."""
    return _shown(cell, at(cell, sparsity, split))


@checked
def unpruned(cell: Recorded, split: Split = "test") -> float:
    """The same of the trained network before anything was removed; NaN where there was none, as of
    a network that was pruned before it was trained, or meanwhile."""
    if cell["network"] is None:
        if any(row["phase"] == "train" and is_pruned(cell, row) for row in rows(cell)):
            return math.nan
        levels = dict(path(cell, split))
        return _shown(cell, levels.get(0.0, math.nan))
    return _shown(cell, figure(cell, "before", split))


@checked
def lost(cell: Recorded, split: Split = "test") -> float:
    """What pruning cost: points of accuracy (another metric as it is); below 0 it gained."""
    change = error(cell, split) - unpruned(cell, split)
    return change if cell["metric"] == "accuracy" else -change


def _shown(cell: Recorded, metric: float) -> float:
    return 100 * (1 - metric) if cell["metric"] == "accuracy" else metric


@checked
def minutes(cell: Recorded) -> float:
    """How many minutes of a core the cell took: the clock's, times the most threads that a start
    had. Of a cell that `is_timed` in part this is the least."""
    return cell["seconds"] * max(place["threads"] for place in cell["environments"]) / 60


@checked
def is_timed(cell: Recorded) -> bool:
    """Whether all starts of a cell were timed: of the first cells only the last one was."""
    return cell["commits"] != UNKNOWN


@checked
def command(cell: Recorded) -> str:
    """What computes this cell alone."""
    network, name = cell["network"], cell["experiment"]
    of = Cell(load(name), cell["arm"], network, cell["seed"], False, shipped_results(name))
    return of.command


def network_of(cell: Recorded) -> int:
    """Which network it is; one that the cell trained itself has the number of its seed."""
    return cell["seed"] if cell["network"] is None else cell["network"]


@checked
def by_network(cells: Sequence[Recorded], measure: Measure) -> dict[int, float]:
    """A measure of each network: the mean over its seeds."""
    groups: dict[int, list[float]] = {}
    for cell in cells:
        groups.setdefault(network_of(cell), []).append(measure(cell))
    return {network: statistics.fmean(groups[network]) for network in sorted(groups)}


@checked
def within_networks(cells: Sequence[Recorded], measure: Measure) -> float:
    """The standard deviation of a measure over the seeds of one network, all networks together;
    NaN where none has several seeds. Networks count by the seeds that they have beyond one."""
    squares, free = 0.0, 0
    for network, mean in by_network(cells, measure).items():
        values = [measure(cell) for cell in cells if network_of(cell) == network]
        squares += sum((value - mean) ** 2 for value in values)
        free += len(values) - 1
    return math.sqrt(squares / free) if free else math.nan


FEWEST = 3  # networks from which on something is said of all networks
SURE = 0.05  # what p must be below


@dataclass(frozen=True)
class Difference:
    """A measure of one arm minus that of another, on each network that both started from; or minus
    a `fixed` number."""

    values: Mapping[int, float]
    fixed: float | None = None

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values.values())

    @property
    def spread(self) -> float:
        """The standard deviation of the differences over the networks; NaN for one network."""
        return mean_and_spread([*self.values.values()])[1]

    @property
    def above(self) -> int:
        """On how many networks it is above 0."""
        return sum(value > SLACK for value in self.values.values())

    @property
    def sign(self) -> int:
        """1 if it is above 0 on every network, −1 if below, 0 if the networks do not agree."""
        below = sum(value < -SLACK for value in self.values.values())
        return int(self.above == len(self.values)) - int(below == len(self.values))

    @property
    def p(self) -> float:
        """The chance of so large a mean, or a larger one, if there were no difference.

        Student's t-test of pairs, two-sided. It has little power with three networks: p is below
        0.05 only where the mean is more than 2.5 times the standard deviation.
        """
        n = len(self.values)
        if n < 2:
            return math.nan
        if not self.spread:
            return 0.0 if self.mean else 1.0
        return _two_tails(self.mean / self.spread * math.sqrt(n), n - 1)

    @property
    def is_apart(self) -> bool:
        """Whether the arms differ: on all networks alike, and more than chance would explain."""
        return bool(self.sign) and self.p < SURE

    @property
    def agreement(self) -> str:
        """On how many networks it has which sign."""
        n, than = len(self.values), "" if self.fixed is None else f" than {self.fixed:g}"
        if self.sign:
            return f"{'higher' if self.sign > 0 else 'lower'}{than} on all {n} networks"
        return f"higher{than} on {self.above} of {n} networks"

    def __str__(self) -> str:
        if self.fixed is not None:
            mean = f"{self.mean + self.fixed:.2f}"
        else:
            mean = f"{abs(self.mean):.2f} {'lower' if self.mean < 0 else 'higher'}"
        if len(self.values) < 2:
            return f"{mean} on one network: not tested"
        spread = f"standard deviation over the networks {self.spread:.2f}"
        weak = "; so few networks show only large differences" if self.is_weak else ""
        sure = "" if self.fixed is not None else f" (p = {self.p:.2g}{weak})"
        return f"{mean} on average, {spread}, {self.agreement}{sure}"

    @property
    def is_weak(self) -> bool:
        """Whether all networks agree, but too few to be sure."""
        return bool(self.sign) and not self.is_apart


def _two_tails(t: float, free: int) -> float:
    """The chance that Student's t with `free` degrees of freedom is beyond ±t: a finite sum where
    that is a whole number (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan(abs(t) / math.sqrt(free))
    term, total = (math.cos(angle), 0.0) if free % 2 else (1.0, 0.0)
    for k in range(1 + free % 2, free, 2):
        total += term
        term *= k / (k + 1) * math.cos(angle) ** 2
    inside = math.sin(angle) * total
    return 1 - (2 / math.pi * (angle + inside) if free % 2 else inside)


@checked
def difference(
    cells: Sequence[Recorded], others: Sequence[Recorded] | float, measure: Measure
) -> Difference:
    """Compare two arms on the networks that both started from, or one arm with a number.

    Where one does not know which images each got wrong, but both pruned the same networks, the
    networks are the pairs: what is hard about a network is hard for both, and drops out. Several
    seeds of a network count as their mean. Raises ValueError if there is no network in common.
    """
    ours = by_network(cells, measure)
    if isinstance(others, (int, float)):
        return Difference({n: value - others for n, value in ours.items()}, float(others))
    theirs = by_network(others, measure)
    common = {network: ours[network] - theirs[network] for network in ours if network in theirs}
    if not common:
        raise ValueError(
            f"difference: both must have a network in common, got {[*ours]} and {[*theirs]}"
        )
    return Difference(common)


# What a cell counts and judges at its end; what it went through is its trace.
RESULTS = ("before", "after", "kept", "parameters", "prunable", "macs")


@dataclass(frozen=True)
class Agreement:
    """Whether a cell that was computed again agrees: "equal", to the last bit that is recorded; "in
    numbers", where it ends with the same counts and results; or "not"; and what differs first."""

    how: str
    first: str = ""

    def __str__(self) -> str:
        return self.how + (f": {self.first}" if self.first else "")


def agreement(recorded: Mapping[str, Any], again: Mapping[str, Any]) -> Agreement:
    """Compare two records of one cell, both in the present form, in all that both hold."""
    for name in RESULTS:
        if difference := _difference(recorded[name], again[name], name):
            return Agreement("not", difference)
    steps = [rows(recorded), rows(again)]
    if len(steps[0]) != len(steps[1]):
        return Agreement("in numbers", f"{len(steps[0])} steps against {len(steps[1])}")
    for number, (one, other) in enumerate(zip(*steps, strict=True), start=1):
        if difference := _difference(one, other, f"step {number}"):
            pairs = zip(_metrics(recorded), _metrics(again), strict=True)
            apart = max(abs(a - b) for a, b in pairs)
            text = f"{difference}; the {recorded['metric']} of the steps is within {apart:.4f}"
            return Agreement("in numbers", text)
    return Agreement("equal")


def _metrics(cell: Mapping[str, Any]) -> list[float]:
    return [row.get(cell["metric"]) or 0.0 for row in rows(cell)]


def _difference(one: Any, other: Any, where: str) -> str:
    """The first place at which two values differ, in what both hold; "" if there is none."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        pairs = [(f"{where}, {name}", one[name], other[name]) for name in one if name in other]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [(where, a, b) for a, b in zip(one, other, strict=True)]
    else:
        return "" if one == other else f"{where}: {one} against {other}"
    return next((text for at, a, b in pairs if (text := _difference(a, b, at))), "")


@checked
def mean_spread(values: Sequence[float], digits: Natural = 4) -> str:
    """Mean ± sample standard deviation; of one value the value alone."""
    mean, spread = mean_and_spread(values)
    return f"{mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if len(values) > 1 else "")
