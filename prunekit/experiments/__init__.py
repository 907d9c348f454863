"""A paper's protocol, run as a grid of cells (arm × seed) that can be stopped and resumed.

``experiments/<paper>.py`` holds its `EXPERIMENTS`, ``experiments/results/<name>/`` their cells.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
import os
import pkgutil
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch
from torch import Tensor

from prunekit import checkpoint, count, models
from prunekit._files import describe, home, replacing
from prunekit._modules import state_key
from prunekit.data import Data
from prunekit.journal import Journal
from prunekit.judge import SLACK, judge, stand_in
from prunekit.mask import Mask
from prunekit.prune import Method
from prunekit.report import mean_and_spread
from prunekit.steps import Run, Step, Stopped

if TYPE_CHECKING:
    import pandas

HERE = Path(__file__).parent
# What of a step's info is recorded: who was tried, who went on, and what decided it.
LINEAGE = ("children", "chosen", "sensitivities", "drop")
POPULATION = ("round", "vectors", "kept", "results", "replaced", "allowed")  # of the showcase


@dataclass(frozen=True)
class Claim:
    """A figure of the paper: what it says, the value, and where it stands."""

    what: str
    value: float
    unit: str
    source: str

    def __str__(self) -> str:
        return f"{self.what}: {self.value:g} {self.unit} [{self.source}]"


@dataclass(frozen=True)
class Arm:
    """One line of the grid: a method with its knobs, on a model.

    `short` holds the knobs that the short form changes; None leaves the arm out of it. An arm with
    `publish` starts from fresh weights and its models become those of `models.pretrained`, which
    all others start from; `start` makes another model from the seed. `data` are other data than the
    experiment's. The model of the first seed is shipped as the `variant` of that name.
    """

    method: Method
    knobs: Mapping[str, Any]
    model: str = "lenet_300_100"
    short: Mapping[str, Any] | None = None
    publish: bool = False
    variant: str = ""
    start: Callable[[int], torch.nn.Module] | None = None
    data: Callable[..., Data] | None = None


@dataclass(frozen=True)
class Experiment:
    """A paper's protocol.

    `status` says whether the protocol is public: "reproduction", or "after the abstract". Of the
    arm `showcase`, with the first seed, masks and populations are recorded too.
    Trained models are `shipped` in the package, or else stay in the user's cache, and the other
    arms start from there.
    """

    name: str
    title: str
    paper: str
    status: str
    data: Callable[..., Data]
    arms: Mapping[str, Arm]
    claims: tuple[Claim, ...] = ()
    showcase: str = ""
    shipped: bool = True
    seeds: tuple[int, ...] = (0, 1, 2)
    short_seeds: tuple[int, ...] = field(default=(0,))


@lru_cache(maxsize=1)
def _experiments() -> dict[str, Experiment]:
    found = [m.name for m in pkgutil.iter_modules([str(HERE)])]
    modules = [importlib.import_module(f"{__name__}.{name}") for name in found]
    return {experiment.name: experiment for module in modules for experiment in module.EXPERIMENTS}


def names() -> list[str]:
    """The experiments there are."""
    return sorted(_experiments())


def load(name: str) -> Experiment:
    """The experiment of that name. Raises ValueError if there is none."""
    if name not in names():
        raise ValueError(f"reproduce: experiment must be one of {names()}, got {name!r}")
    return _experiments()[name]


def results_folder(name: str, short: bool = False) -> Path:
    """Where cells are written: beside the code in a checkout, else in the user's cache."""
    if short:
        return home() / "short" / name
    checkout = (HERE.parents[1] / "pyproject.toml").exists()
    return (HERE / "results" if checkout else home() / "results") / name


# ----------------------------------------------------------------------------------------- cells


@dataclass(frozen=True)
class Cell:
    """One run: an arm of an experiment with one seed."""

    experiment: str
    arm: str
    seed: int
    short: bool
    folder: Path

    @property
    def path(self) -> Path:
        slug = re.sub(r"[^a-z0-9._]+", "-", self.arm.lower()).strip("-")
        return self.folder / f"{slug}-{self.seed}.json"

    @property
    def shown(self) -> bool:
        """Whether masks and populations of this cell are recorded too."""
        experiment = load(self.experiment)
        first = (experiment.showcase, experiment.seeds[0])
        return not self.short and (self.arm, self.seed) == first

    @property
    def weights(self) -> Path | None:
        """Where the trained model goes, without the ending; None if it is not kept."""
        experiment = load(self.experiment)
        arm, first = experiment.arms[self.arm], self.seed == experiment.seeds[0]
        kept = arm.publish or (arm.variant and first)
        if not kept or (self.short and experiment.shipped):
            return None
        return self._weights_of(arm)

    def _weights_of(self, arm: Arm) -> Path:
        shipped = load(self.experiment).shipped
        if shipped and self.folder == HERE / "results" / self.experiment:
            folder = HERE.parent / models.SHIPPED
        elif shipped or self.short:
            folder = self.folder / models.SHIPPED
        else:
            folder = home() / models.SHIPPED
        return folder / models.file_name(arm.model, self.seed, arm.variant)

    def settings(self) -> tuple[Arm, dict[str, Any]]:
        arm = load(self.experiment).arms[self.arm]
        return arm, {**arm.knobs, **((arm.short or {}) if self.short else {})}

    def data(self, **download: bool) -> Data:
        experiment = load(self.experiment)
        return _read(experiment.arms[self.arm].data or experiment.data, **download)

    def start(self) -> torch.nn.Module:
        """The model before the method."""
        arm, _ = self.settings()
        if arm.start is not None:
            return arm.start(self.seed)
        if arm.publish:
            return models.build(arm.model, self.seed)
        if load(self.experiment).shipped:
            return models.pretrained(arm.model, self.seed)
        model = models.build(arm.model, self.seed)  # from what the grid itself has trained
        checkpoint.load_into(model, self._weights_of(replace(arm, variant="")))
        return model.eval()


@lru_cache(maxsize=2)  # the experiment's, and what an arm makes of them at some cost
def _read(source: Callable[..., Data], **download: bool) -> Data:
    return source(**download)


def _hash(cell: Cell, model: torch.nn.Module, data: Data) -> str:
    arm, knobs = cell.settings()
    name, weights = arm.method.__name__, state_key(model)
    content = [name, arm.model, describe(knobs), cell.seed, weights, data.key]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()


def is_done(cell: Cell) -> bool:
    """Whether the cell's file is there and was made with these knobs, weights and data."""
    try:
        found = json.loads(cell.path.read_text(encoding="utf-8"))["hash"]
        start = cell.start()  # there is none before its experiment has trained it
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if cell.weights is not None and not checkpoint.exists(cell.weights):
        return False
    return bool(found == _hash(cell, start, cell.data()))


def run_cell(cell: Cell, stop: threading.Event | None = None) -> dict[str, Any]:
    """Compute a cell, going on from its journal, and write its file.

    Raises `Stopped` if `stop` was set. Test errors are recorded beside validation errors, for the
    report alone: no method is given them.
    """
    arm, knobs = cell.settings()
    data, model = cell.data(), cell.start()
    started, key = time.monotonic(), _hash(cell, model, data)
    journal = Journal(home() / "journals" / cell.experiment / f"{cell.path.stem}-{key}")
    run = Run(journal=journal, stop=stop)
    before = _judged(model, data)
    last: Step | None = None
    trace: list[dict[str, Any]] = []
    changes: dict[str, Any] = {}
    for step in arm.method(model, data, **knobs, seed=cell.seed, run=run):
        trace.append(_traced(step, model, data, cell.shown))
        if cell.shown:
            changes |= _changes(last.mask if last is not None else None, step.mask, len(trace))
        last = step
    if stop is not None and stop.is_set():
        raise Stopped
    mask = last.mask if last is not None else Mask({})
    x, _ = next(data.batches("validation", 1))
    products = count.macs(model, x, mask)
    record = {
        "experiment": cell.experiment,
        "arm": cell.arm,
        "seed": cell.seed,
        "hash": key,
        "method": arm.method.__name__,
        "model": arm.model,
        "knobs": knobs,
        "data": data.key,
        "metric": data.metric_name,
        "examples": {split: data.size(split) for split in ("validation", "test")},
        "before": before,
        "after": _judged(model, data),
        "kept": count.params(model, mask),
        "parameters": count.params(model),
        "prunable": mask.total,
        "macs": [products.sparse, products.dense],
        "trace": {name: [row.get(name) for row in trace] for name in _columns(trace)},
        "environments": journal.environments,
        "seconds": round(time.monotonic() - started),
        "command": f"python -m prunekit reproduce {cell.experiment}" + " --short" * cell.short,
    }
    if cell.weights is not None:
        info = {k: v for k, v in record.items() if k != "trace"}
        info["accuracy"] = {split: figure(record, "after", split) for split in before}
        checkpoint.save(cell.weights, model, info)
    if cell.shown:
        with replacing(cell.folder / "showcase.npz") as beside, beside.open("wb") as file:
            numpy.savez_compressed(file, **changes)
    with replacing(cell.path) as beside:
        beside.write_text(_compact(record), encoding="utf-8")
    return record


def _errors(model: torch.nn.Module, data: Data, split: str) -> float:
    return judge(stand_in(model), data, split=split)


def _judged(model: torch.nn.Module, data: Data) -> dict[str, float]:
    return {split: _errors(model, data, split) for split in ("validation", "test")}


def _traced(step: Step, model: torch.nn.Module, data: Data, shown: bool) -> dict[str, Any]:
    """A step as plain numbers; test errors where the model is sure to have the step's weights."""
    row: dict[str, Any] = {"phase": step.phase, "index": step.index, "kept": step.mask.kept}
    row |= {name: round(value, 6) for name, value in step.metrics.items()}
    if step.phase in ("prune", "rewind") or (step.phase != "search" and step.index == step.of):
        row["test"] = _errors(model, data, "test")
    if shown:
        row["of"] = step.of
    if "vectors" in step.info:
        row["fewest"] = step.info["kept"][step.info["chosen"]]
        if shown:
            held = [name for name in POPULATION if name in step.info]
            row["population"] = {name: _rounded(step.info[name]) for name in held}
    lineage = {name: value for name, value in step.info.items() if name in LINEAGE}
    return row | {name: _rounded(value) for name, value in lineage.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, 6) if isinstance(value, float) else value


def _columns(trace: list[dict[str, Any]]) -> list[str]:
    return [*dict.fromkeys(name for row in trace for name in row)]


def _changes(before: Mask | None, after: Mask, number: int) -> dict[str, numpy.ndarray]:
    """What went with a step, and what came back, since the mask before it: bits of what was kept,
    or was not. Before the first step everything is; `0` holds the shapes."""
    if before is not None and (lost := [name for name in before if name not in after]):
        raise ValueError(f"showcase: the masks of a run must cover the same names, lost {lost}")
    found = {}
    for name, keep in after.items():
        was = before.get(name) if before is not None else None
        if was is None:
            was = torch.ones_like(keep)
            found[f"0 {name}"] = numpy.array(keep.shape)
        for what, bits in (("gone", ~keep[was]), ("back", keep[~was])):
            if bits.any():
                found[f"{number} {what} {name}"] = numpy.packbits(bits.numpy())
    return found


def _changed(masks: dict[str, Tensor], number: int, arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    """The masks after a step, from those before it; turns `_changes` around."""
    after = {}
    for name, was in masks.items():
        after[name] = was.clone()
        for what, place in (("gone", was), ("back", ~was)):
            if (key := f"{number} {what} {name}") in arrays:
                bits = numpy.unpackbits(arrays[key], count=int(place.sum())).astype(bool)
                after[name][place] ^= torch.from_numpy(bits)
    return after


def _compact(record: Mapping[str, Any]) -> str:
    """JSON with one line a key, and one line a column of the trace."""
    lines = []
    for key, value in record.items():
        if key == "trace":
            columns = (f"{json.dumps(n)}: {_dense(column)}" for n, column in value.items())
            lines.append(' "trace": {\n  ' + ",\n  ".join(columns) + "\n }")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _dense(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


# ------------------------------------------------------------------------------------------ grid


def cells(experiment: Experiment, short: bool, folder: Path) -> list[Cell]:
    """The cells of the grid, in the order of the arms; those that publish weights come first."""
    seeds = experiment.short_seeds if short else experiment.seeds
    arms = sorted(experiment.arms, key=lambda name: not experiment.arms[name].publish)
    return [
        Cell(experiment.name, arm, seed, short, folder)
        for arm in arms
        for seed in seeds
        if not short or experiment.arms[arm].short is not None
    ]


def reproduce(
    name: str,
    *,
    short: bool = False,
    folder: Path | None = None,
    jobs: int | None = None,
    only: str = "",
) -> Iterator[dict[str, Any]]:
    """Run the cells that are not yet recorded, `jobs` at a time with one thread each.

    Yields each record when its cell is finished. `only` keeps the arms whose names contain it.
    Ctrl-C stops the running cells at their next minibatch; run again to go on from there.
    """
    experiment = load(name)
    folder = folder if folder is not None else results_folder(name, short)
    grid = [cell for cell in cells(experiment, short, folder) if only in cell.arm]
    publishing = [cell for cell in grid if experiment.arms[cell.arm].publish]
    for stage in (publishing, [cell for cell in grid if cell not in publishing]):
        if missing := [cell for cell in stage if not is_done(cell)]:
            yield from _side_by_side(missing, min(jobs or os.cpu_count() or 1, len(missing)))


def _side_by_side(missing: list[Cell], jobs: int) -> Iterator[dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with ProcessPoolExecutor(jobs, context, _begin_worker, (stop,)) as pool:
        running: dict[Future[dict[str, Any]], Cell] = {}
        try:
            for cell in missing:
                running[pool.submit(_in_worker, cell)] = cell
            for future in as_completed(running):
                try:
                    yield future.result()
                except Exception as error:
                    cell = running[future]
                    error.add_note(f"in the cell {cell.arm!r}, seed {cell.seed}")
                    raise
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


_stop: Any = None  # the event of this worker process


def _begin_worker(stop: Any) -> None:
    global _stop
    _stop = stop
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to stop
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _in_worker(cell: Cell) -> dict[str, Any]:
    return run_cell(cell, _stop)


# --------------------------------------------------------------------------------------- results


def recorded(name: str, folder: Path | None = None) -> list[dict[str, Any]]:
    """The recorded cells of an experiment, as they stand in its files."""
    folder = folder if folder is not None else HERE / "results" / name
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
    experiment, folder = load(name), HERE / "results" / name
    cell = Cell(name, experiment.showcase, experiment.seeds[0], False, folder)
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
        masks = _changed(masks, number, arrays)
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
