"""Cells: one run of an arm each, resumed when it was stopped, and the file that it ends in."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from prunekit import checkpoint, count, models
from prunekit._files import describe, home, replacing
from prunekit._modules import state_key
from prunekit.data import Data
from prunekit.experiments.protocol import Arm, Experiment
from prunekit.journal import Journal
from prunekit.judge import as_metric, judge, metric_name, size, stand_in
from prunekit.mask import Mask
from prunekit.steps import Run, Step, Stopped

HERE = Path(__file__).parent
# What of a step's info is recorded: who was tried, who went on, and what decided it.
LINEAGE = ("children", "chosen", "sensitivities", "drop")
POPULATION = ("round", "vectors", "kept", "results", "replaced", "allowed")  # of the showcase


def results_folder(name: str, short: bool = False) -> Path:
    """Where cells are written: beside the code in a checkout, else in the user's cache."""
    if short:
        return home() / "short" / name
    checkout = (HERE.parents[1] / "pyproject.toml").exists()
    return shipped_results(name) if checkout else home() / "results" / name


def shipped_results(name: str) -> Path:
    """Where the cells lie that come with the package."""
    return HERE / "results" / name


@dataclass(frozen=True)
class Cell:
    """One run: the arm `name` of an experiment with one seed."""

    experiment: Experiment
    name: str
    seed: int
    short: bool
    folder: Path

    @property
    def arm(self) -> Arm:
        return self.experiment.arms[self.name]

    @property
    def knobs(self) -> dict[str, Any]:
        """The knobs that the arm gives its method."""
        return {**self.arm.knobs, **((self.arm.short or {}) if self.short else {})}

    @property
    def path(self) -> Path:
        slug = re.sub(r"[^a-z0-9._]+", "-", self.name.lower()).strip("-")
        return self.folder / f"{slug}-{self.seed}.json"

    @property
    def shown(self) -> bool:
        """Whether masks and populations of this cell are recorded too."""
        first = (self.experiment.showcase, self.experiment.seeds[0])
        return not self.short and (self.name, self.seed) == first

    @property
    def weights(self) -> Path | None:
        """Where the trained model goes, without the ending; None if it is not kept."""
        kept = self.arm.publish or (self.arm.variant and self.seed == self.experiment.seeds[0])
        if not kept or (self.short and self.experiment.shipped):
            return None
        return self._weights_of(self.arm.variant)

    def _weights_of(self, variant: str) -> Path:
        shipped = self.experiment.shipped
        if shipped and self.folder == shipped_results(self.experiment.name):
            folder = HERE.parent / models.SHIPPED
        elif shipped or self.short:
            folder = self.folder / models.SHIPPED
        else:
            folder = home() / models.SHIPPED
        return folder / models.file_name(self.arm.model, self.seed, variant)

    def data(self, **download: bool) -> Data:
        return _read(self.arm.data or self.experiment.data, **download)

    def start(self) -> torch.nn.Module:
        """The model before the method."""
        if self.arm.start is not None:
            return self.arm.start(self.seed)
        if self.arm.publish:
            return models.build(self.arm.model, self.seed)
        if self.experiment.shipped:
            return models.pretrained(self.arm.model, self.seed)
        model = models.build(self.arm.model, self.seed)  # from what the grid itself has trained
        checkpoint.load_into(model, self._weights_of(""))
        return model.eval()


@lru_cache(maxsize=2)  # the experiment's, and what an arm makes of them at some cost
def _read(source: Callable[..., Data], **download: bool) -> Data:
    return source(**download)


def _hash(cell: Cell, model: torch.nn.Module, data: Data) -> str:
    method, weights = cell.arm.method.__name__, state_key(model)
    content = [method, cell.arm.model, describe(cell.knobs), cell.seed, weights, data.key]
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
    arm, knobs = cell.arm, cell.knobs
    data, model = cell.data(), cell.start()
    started, key = time.monotonic(), _hash(cell, model, data)
    journal = Journal(home() / "journals" / cell.experiment.name / f"{cell.path.stem}-{key}")
    run = Run(journal=journal, stop=stop)
    before = _judged(model, data)
    last: Step | None = None
    trace: list[dict[str, Any]] = []
    masks: dict[str, Any] = {}
    for step in arm.method(model, data, **knobs, seed=cell.seed, run=run):
        trace.append(_traced(step, model, data, cell.shown))
        if cell.shown:
            masks |= changes(last.mask if last is not None else None, step.mask, len(trace))
        last = step
    if stop is not None and stop.is_set():
        raise Stopped
    mask = last.mask if last is not None else Mask({})
    x, _ = next(data.batches("validation", 1))
    products = count.macs(model, x, mask)
    record: dict[str, Any] = {
        "experiment": cell.experiment.name,
        "arm": cell.name,
        "seed": cell.seed,
        "hash": key,
        "method": arm.method.__name__,
        "model": arm.model,
        "knobs": knobs,
        "data": data.key,
        "metric": metric_name(data),
        "examples": {split: size(data, split) for split in ("validation", "test")},
        "before": before,
        "after": _judged(model, data),
        "kept": count.params(model, mask),
        "parameters": count.params(model),
        "prunable": mask.total,
        "macs": [products.sparse, products.dense],
        "trace": {name: [row.get(name) for row in trace] for name in _columns(trace)},
        "environments": journal.environments,
        "seconds": round(time.monotonic() - started),
        "command": f"python -m prunekit reproduce {cell.experiment.name}" + " --short" * cell.short,
    }
    if cell.weights is not None:
        info = {k: v for k, v in record.items() if k != "trace"}
        info["accuracy"] = {s: as_metric(n, data, s) for s, n in record["after"].items()}
        checkpoint.save(cell.weights, model, info)
    if cell.shown:
        with replacing(cell.folder / "showcase.npz") as beside, beside.open("wb") as file:
            numpy.savez_compressed(file, **masks)
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


def changes(before: Mask | None, after: Mask, number: int) -> dict[str, numpy.ndarray]:
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
