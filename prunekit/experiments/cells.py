"""Cells: one run of an arm each, resumed when it was stopped, and the file that it ends in."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from prunekit import checkpoint, count, models, surgery
from prunekit._arguments import checked
from prunekit._files import NewerFormat, describe, digest, home, read_json, replacing, seal
from prunekit._modules import each, state_key
from prunekit._source import code_key
from prunekit.data import Data
from prunekit.experiments.protocol import MAY_CHANGE, Arm, Experiment
from prunekit.journal import Journal, Locked
from prunekit.judge import as_metric, judge, stand_in
from prunekit.knobs import knobs
from prunekit.mask import Mask
from prunekit.prune import with_budget
from prunekit.select import TARGETS
from prunekit.steps import Run, Step, Stopped
from prunekit.trial import check_model

HERE = Path(__file__).parent
UNKNOWN = "unknown"
FORMAT = 2  # of cells and of what is kept of their sessions
FIELDS = {
    "experiment": str, "arm": str, "model": str, "method": str, "seed": int, "data": str,
    "metric": str, "knobs": dict, "examples": dict, "before": dict, "after": dict, "trace": dict,
    "kept": int, "parameters": int,
}  # fmt: skip


@checked
def results_folder(name: str, short: bool = False) -> Path:
    """Where cells are written: beside the code in a checkout, else in the user's cache."""
    if short:
        return home() / "short" / name
    return shipped_results(name) if _in_checkout() else home() / "results" / name


def shipped_results(name: str) -> Path:
    """Where the cells lie that come with the package."""
    return HERE / "results" / name


def _in_checkout() -> bool:
    return (HERE.parents[1] / "pyproject.toml").exists()


@checked
@dataclass(frozen=True)
class Cell:
    """One run: the arm `name` of an experiment, from one network, with one seed.

    `network` is None where the arm starts from weights that the seed draws. Journals lie in the
    user's cache, or in `journals`.
    """

    experiment: Experiment
    name: str
    network: int | None
    seed: int
    short: bool
    folder: Path
    journals: Path | None = None

    def __str__(self) -> str:
        network = "" if self.network is None else f", network {self.network}"
        return f"{self.name}{network}, seed {self.seed}"

    @property
    def arm(self) -> Arm:
        return self.experiment.arms[self.name]

    @property
    def given(self) -> dict[str, Any]:
        """The knobs that the arm asks for."""
        return {**self.arm.knobs, **((self.arm.short or {}) if self.short else {})}

    @property
    def knobs(self) -> dict[str, Any]:
        """All knobs of the method, those with their default too, as plain JSON."""
        settings = {name: knob.default for name, knob in knobs(self.arm.method).items()}
        if "budget" in self.given:  # it stands for one of them
            settings = {n: v for n, v in settings.items() if n not in TARGETS}
        return {name: _plain(value) for name, value in (settings | self.given).items()}

    @property
    def path(self) -> Path:
        slug = re.sub(r"[^a-z0-9._]+", "-", self.name.lower()).strip("-")
        network = "" if self.network in (None, self.seed) else f"{self.network}-"
        return self.folder / f"{slug}-{network}{self.seed}.json"

    @property
    def _first(self) -> bool:
        return (self.network, self.seed) == self.experiment.pairs(self.name)[0]

    @property
    def shown(self) -> bool:
        """Whether masks and populations of this cell are recorded too."""
        return not self.short and self.name == self.experiment.showcase and self._first

    @property
    def weights(self) -> Path | None:
        """Where the trained model goes, without the ending; None if it is not kept."""
        arm = self.arm
        if self.short or not (arm.publish or (arm.variant and self._first)):
            return None
        if self.folder != results_folder(self.experiment.name):
            folder = self.folder / models.SHIPPED
        else:
            folder = (HERE.parent if _in_checkout() else home()) / models.SHIPPED
        number = self.seed if self.network is None else self.network
        return folder / models.file_name(arm.model, number, arm.variant)

    @property
    def command(self) -> str:
        """What computes this cell alone."""
        words = ["reproduce", self.experiment.name, "--arm", self.name, "--seed", str(self.seed)]
        words += [] if self.network is None else ["--network", str(self.network)]
        return "python -m prunekit " + shlex.join(words + ["--short"] * self.short)

    def data(self, **download: bool) -> Data:
        return _read(self.arm.data or self.experiment.data, **download)

    def start(self) -> torch.nn.Module:
        """The model before the method."""
        if self.arm.start is not None:
            return self.arm.start(self.seed)
        if self.network is None:
            return models.build(self.arm.model, self.seed)
        return models.pretrained(self.arm.model, self.network)


@lru_cache(maxsize=2)  # the experiment's, and what an arm makes of them at some cost
def _read(source: Callable[..., Data], **download: bool) -> Data:
    return source(**download)


def _plain(value: Any) -> Any:
    """A knob as it comes back from JSON."""
    try:
        return json.loads(json.dumps(value))
    except TypeError:
        return describe(value)


# ------------------------------------------------------------------------------- what is done


@checked
def is_done(cell: Cell) -> bool:
    """Whether the cell's file is there and was made with these knobs, weights and data.

    Code is not asked for: `other_code` tells whether it was other code.
    """
    record = read(cell)
    if record is None or not same_settings(cell, record):
        return False
    if cell.weights is not None and not checkpoint.exists(cell.weights):
        return False
    if cell.shown and "showcase" in record:
        try:
            read_showcase(cell.folder, record)
        except ValueError:  # its writer was killed between the two files
            return False
    if record.get("weights", UNKNOWN) != UNKNOWN:
        try:
            start = cell.start()  # there is none before its experiment has trained it
        except (OSError, ValueError):
            return False
        if record["weights"] != state_key(start):
            return False
    return bool(record["data"] == cell.data().key)


def read(cell: Cell) -> dict[str, Any] | None:
    """The cell's file; None if there is none, or, with a warning, if it is damaged."""
    if not cell.path.exists():
        return None
    try:
        return read_record(cell.path)
    except NewerFormat:
        raise
    except ValueError as error:
        warnings.warn(f"{error}. It counts as not there.", stacklevel=2)
        return None


def read_record(path: Path) -> dict[str, Any]:
    """The record in a cell's file. Raises ValueError that names it if it is damaged."""
    return check_record(read_json(path, FORMAT, "cell"), path)


def check_record(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """The record without its seal. Raises ValueError that names its file unless it is a cell's."""
    for name, kind in FIELDS.items():
        if type(record.get(name)) is not kind:
            raise ValueError(f"cell {path} is damaged: its {name} is {record.get(name)!r:.60}")
    columns = record["trace"].values()
    lengths = {len(column) if isinstance(column, list) else -1 for column in columns}
    if len(lengths) > 1 or -1 in lengths:
        raise ValueError(f"cell {path} is damaged: the columns of its trace are not of one length")
    return {name: value for name, value in record.items() if name not in ("format", "seal")}


def read_showcase(folder: Path, record: Mapping[str, Any]) -> dict[str, numpy.ndarray]:
    """The masks of a cell as `changes` wrote them. Raises ValueError that names their file if it is
    missing, damaged, or another cell's."""
    path = folder / "showcase.npz"
    try:
        with numpy.load(path, allow_pickle=False) as opened:
            arrays = dict(opened)
    except Exception as error:  # zipfile and numpy tell of damage in many ways
        raise ValueError(f"showcase: {path} cannot be read: {error}") from error
    if record.get("showcase", digest(arrays)) != digest(arrays):
        raise ValueError(f"showcase: {path} is damaged, or does not belong to its cell")
    return arrays


def same_settings(cell: Cell, record: Mapping[str, Any]) -> bool:
    """Whether a record has the cell's method, model and seed, and its knobs as far as they still
    exist; a knob that did not exist then was what it declares as before."""
    same = ("method", cell.arm.method.__name__), ("model", cell.arm.model), ("seed", cell.seed)
    if any(record.get(name) != value for name, value in same):
        return False
    recorded, complete = record.get("knobs", {}), "given" in record
    if recorded.get("budget") != cell.knobs.get("budget"):
        return False
    before = {name: _plain(knob.before) for name, knob in knobs(cell.arm.method).items()}
    for name, value in cell.knobs.items():
        # Cells of before hold only the knobs that were asked for: the others are not known.
        missing = before.get(name) if complete else value
        if recorded.get(name, missing) != value:
            return False
    return True


def other_code(cell: Cell, record: Mapping[str, Any]) -> bool:
    """Whether the code of method, model, loss, metric or augmentation is written otherwise now."""
    codes = record.get("codes", UNKNOWN)
    return codes != UNKNOWN and codes != [_code(cell, cell.start(), cell.data())]


def _code(cell: Cell, model: torch.nn.Module, data: Data) -> str:
    functions = filter(callable, cell.given.values())
    return code_key(cell.arm.method, *functions, model, data.loss, data.metric, data.augment)


# ---------------------------------------------------------------------------------- running it


@checked
def run_cell(
    cell: Cell,
    stop: threading.Event | None = None,
    until: float = math.inf,
    model: torch.nn.Module | None = None,
) -> dict[str, Any]:
    """Compute a cell, going on from its journal, and write its file; `model` is what `Cell.start`
    gives, where that is not to be had here.

    Raises `Stopped` if `stop` was set, at the next minibatch, or once the time is after `until`
    (seconds of the epoch), at the next step. Test errors are recorded beside validation errors, for
    the report alone: no method is given them.
    """
    data, model = cell.data(), cell.start() if model is None else model
    check_model("run_cell", model)
    weights = state_key(model)
    place = cell.journals or home() / "journals" / cell.experiment.name
    about = digest(cell.arm.method.__name__, cell.arm.model, cell.knobs, weights, data.key)
    journal = Journal(place / f"{cell.path.stem}-{about}", any_code=True)
    run = Run(journal=journal, stop=stop)
    masks: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    last: Step | None = None
    with _session(journal.path) as note:
        before = _judged(model, data)
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        settings = with_budget(cell.arm.method, model, data, cell.given, run)
        stream = cell.arm.method(model, data, **settings, seed=cell.seed, run=run)
        for step in stream:
            rows.append(_row(step, model, data, cell.shown))
            if cell.shown:
                masks |= changes(last.mask if last is not None else None, step.mask, len(rows))
            last = step
            note()
            if time.time() > until:
                stream.close()  # type: ignore[attr-defined]
                raise Stopped
        if stop is not None and stop.is_set():
            raise Stopped
        model.cpu()
        record = _described(cell, model, data, last.mask if last is not None else Mask({}))
        record |= {"before": before, "after": _judged(model, data), "weights": weights}
        if cell.arm.timed and last is not None:
            record["latency"] = _timed(cell.start(), model, last.mask, data)
    form = record["knobs"].get("precision", "fp32")
    record |= {
        "trace": {name: [row.get(name) for row in rows] for name in _columns(rows)},
        "codes": journal.codes,
        "environments": journal.environments,
        "precision": journal.precisions if form == "auto" else [form],
        **_sessions(journal.path),
    }
    if cell.weights is not None and cell.arm.store == "fp16":
        otherwise = _changed_answers(model, data)
        stored = "fp16" if otherwise <= MAY_CHANGE else "fp32"
        record["stored"] = {"as": stored, "changed by fp16": otherwise}
    _write(cell, record, model, data, masks)
    shutil.rmtree(journal.path, ignore_errors=True)
    return record


def _described(cell: Cell, model: torch.nn.Module, data: Data, mask: Mask) -> dict[str, Any]:
    """What a cell is, and what is counted at its end."""
    x, _ = next(data.batches("validation", 1))
    products = count.macs(model, x, mask)
    return {
        "experiment": cell.experiment.name,
        "arm": cell.name,
        "model": cell.arm.model,
        "network": cell.network,
        "seed": cell.seed,
        "method": cell.arm.method.__name__,
        "knobs": cell.knobs,
        "given": sorted(cell.given),
        "command": cell.command,
        "data": data.key,
        "metric": data.metric_name,
        "examples": {split: data.size(split) for split in ("validation", "test")},
        "kept": count.params(model, mask),
        "parameters": count.params(model),
        "prunable": mask.total,
        "macs": [products.sparse, products.dense],
    }


def _timed(dense: torch.nn.Module, model: torch.nn.Module, mask: Mask, data: Data) -> Any:
    """How many seconds one example takes before and after, on one thread, in turns."""
    small = surgery.shrink(model, mask, data.example, partial=True)
    x = each(data.example, lambda a: a[:1])
    times = count.latency({"dense": dense, "shrunk": small}, x, seconds=10.0)
    told = {n: [float(f"{v:.4g}") for v in (t.median, t.low, t.high)] for n, t in times.items()}
    return told | {"runs": times["dense"].runs, "batch": 1, "threads": 1}


def _write(
    cell: Cell, record: dict[str, Any], model: torch.nn.Module, data: Data, masks: dict[str, Any]
) -> None:
    """The cell's file comes last: it says that all others are there."""
    if cell.weights is not None:
        info = {name: value for name, value in record.items() if name != "trace"}
        info["accuracy"] = {s: as_metric(_cost(model, data, s), data, s) for s in record["after"]}
        half = "stored" in record and record["stored"]["as"] == "fp16"
        checkpoint.save(cell.weights, model, info, half=half)
    if cell.shown:
        record["showcase"] = digest(masks)
        with replacing(cell.folder / "showcase.npz") as beside, beside.open("wb") as file:
            numpy.savez_compressed(file, **masks)
    with replacing(cell.path) as beside:
        beside.write_text(_compact(seal(record, FORMAT)), encoding="utf-8")


def _cost(model: torch.nn.Module, data: Data, split: str) -> float:
    return judge(stand_in(model), data, split=split)


def _result(model: torch.nn.Module, data: Data, split: str) -> float | None:
    """The number of errors, or the metric where it is not the accuracy; None for no number."""
    cost = _cost(model, data, split)
    if not math.isfinite(cost):
        return None
    return cost if data.counts_errors else -cost


def _judged(model: torch.nn.Module, data: Data) -> dict[str, float | None]:
    return {split: _result(model, data, split) for split in ("validation", "test")}


def _changed_answers(model: torch.nn.Module, data: Data) -> int:
    """How many test examples a model answers otherwise with weights of half the bits."""
    whole, rounded = stand_in(model), stand_in(model).half().float()
    with torch.no_grad():
        return sum(
            int((whole(x).argmax(1) != rounded(x).argmax(1)).sum())
            for x, _ in data.batches("test", 250)
        )


def _row(step: Step, model: torch.nn.Module, data: Data, shown: bool) -> dict[str, Any]:
    """A step as plain numbers; test errors where the model is sure to have the step's weights."""
    row: dict[str, Any] = {
        "phase": step.phase, "index": step.index, "of": step.of, "kept": step.mask.kept,
    }  # fmt: skip
    row |= {name: _rounded(value) for name, value in step.metrics.items()}
    if step.phase in ("prune", "rewind") or (step.phase != "search" and step.index == step.of):
        row["test"] = _result(model, data, "test")
    if step.tried is not None:
        row["tried"] = _tried(step, shown)
    if step.info:
        row["info"] = _rounded(step.info)
    return row


def _tried(step: Step, shown: bool) -> dict[str, Any]:
    """Costs, the chosen one and what each keeps; what else is known of it in the showcase alone."""
    assert step.tried is not None
    names = ("costs", "chosen", "kept", *(("vectors", "replaced", "allowed") if shown else ()))
    held = {name: _rounded(getattr(step.tried, name)) for name in names}
    held = {name: value for name, value in held.items() if value not in ([], None)}
    return held if step.tried.unit == "errors" else held | {"unit": step.tried.unit}


def _rounded(value: Any) -> Any:
    """Plain JSON: six digits, lists, None for what is no finite number."""
    if isinstance(value, Mapping):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(each) for each in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    return [*dict.fromkeys(name for row in rows for name in row)]


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


# ------------------------------------------------------------------------- sessions of a cell


@contextmanager
def _session(folder: Path) -> Iterator[Callable[[], None]]:
    """Keep the seconds and the commit of one start of a cell in a file beside its journal.

    What it gives is called after each step: a start that is killed counts up to its last step.
    """
    path, begun, written = folder / f"session-{time.time_ns()}.json", time.monotonic(), -math.inf

    def write() -> None:
        nonlocal written
        written = time.monotonic()
        with replacing(path) as beside:
            part = seal({"commit": commit(), "seconds": written - begun}, FORMAT)
            beside.write_text(json.dumps(part), encoding="utf-8")

    def note() -> None:
        if time.monotonic() - written > 1:
            write()

    try:
        yield note
    except Locked:  # the journal's folder belongs to another process
        raise
    except BaseException:
        write()
        raise
    write()


def _sessions(folder: Path) -> dict[str, Any]:
    """The commits under which a cell ran, and the seconds of all its starts."""
    commits, seconds = [], 0.0
    for path in sorted(folder.glob("session-*.json")):
        try:
            part = read_json(path, FORMAT, "session")
            seconds += float(part["seconds"])
            commits.append(str(part["commit"]))
        except (LookupError, TypeError, ValueError) as error:  # no reason to lose the cell
            warnings.warn(f"session {path}: its seconds are left out: {error}", stacklevel=2)
    return {"commits": [*dict.fromkeys(commits)], "seconds": round(seconds)}


@lru_cache(maxsize=1)
def commit() -> str:
    """The commit of this code, with "+changes" if it differs; "unknown" outside a checkout."""
    root = Path(__file__).parents[2]

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    # What a run writes is no code.
    written = [f":(exclude)prunekit/{path}" for path in ("experiments/results", models.SHIPPED)]
    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return UNKNOWN  # installed somewhere below another repository
        changed = git("status", "--porcelain", "--", "prunekit", *written)
        return git("rev-parse", "--short=12", "HEAD") + "+changes" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN


# ------------------------------------------------------------------------ masks of the showcase


def changes(before: Mask | None, after: Mask, number: int) -> dict[str, numpy.ndarray]:
    """What went with a step, and what came back, since the mask before it: bits of what was kept,
    or was not. Before the first step everything is; `0` holds the shapes."""
    if before is not None and (lost := [name for name in before if name not in after]):
        raise ValueError(f"showcase: the masks of a run must cover the same names, lost {lost}")
    arrays = {}
    for name, keep in after.items():
        was = before.get(name) if before is not None else None
        if was is None:
            was = torch.ones_like(keep)
            arrays[f"0 {name}"] = numpy.array(keep.shape)
        for what, bits in (("gone", ~keep[was]), ("back", keep[~was])):
            if bits.any():
                arrays[f"{number} {what} {name}"] = numpy.packbits(bits.numpy())
    return arrays


def changed(masks: dict[str, Tensor], number: int, arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    """The masks after a step, from those before it; turns `changes` around."""
    after = {}
    for name, was in masks.items():
        after[name] = was.clone()
        for what, place in (("gone", was), ("back", ~was)):
            if (key := f"{number} {what} {name}") in arrays:
                bits = numpy.unpackbits(arrays[key], count=int(place.sum())).astype(bool)
                after[name][place] ^= torch.from_numpy(bits)
    return after
