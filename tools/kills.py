"""Kill runs at random moments, resume them until they end, and compare with undisturbed ones.

    python tools/kills.py --kills 100

Each kind of run is started again and again in a child, which is ended by SIGKILL at a random
moment, until it ends by itself; what it gives, history and weights, is compared with what a run
gave that nobody disturbed, bit by bit. This is repeated until there were that many kills. Needs a
system that forks. Ends with 1 if any result differed or a file was left over.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from prunekit import Data, Journal, Run, checkpoint, fit, magnitude, prune
from prunekit._modules import state_key
from prunekit._random import LocalRandom
from prunekit.experiments import Arm, Experiment
from prunekit.experiments.cells import Cell, run_cell
from prunekit.methods.differential_evolution import differential_evolution
from prunekit.methods.roulette import roulette
from prunekit.models import MODELS
from prunekit.report import load_mask

Work = Callable[[Path], str]  # does its work in a folder, and tells its result

INPUTS, CLASSES = 8, 3


def data(n: int = 120) -> Data:
    """Points around three centres."""
    generator = torch.Generator().manual_seed(0)
    centres = 1.5 * torch.randn(CLASSES, INPUTS, generator=generator)
    splits = {}
    for split in ("train", "validation", "test"):
        y = torch.arange(n) % CLASSES
        splits[split] = (centres[y] + torch.randn(n, INPUTS, generator=generator), y)
    return Data(splits, name="points")


def model(seed: int = 0, width: int = 12) -> nn.Module:
    """Linear layers with batch norm and dropout."""
    with LocalRandom(seed):
        layers = [nn.Linear(INPUTS, width), nn.BatchNorm1d(width), nn.ReLU()]
        return nn.Sequential(*layers, nn.Dropout(0.3), nn.Linear(width, CLASSES)).eval()


def _journalled(method: Callable[..., object], **knobs: object) -> Work:
    def work(folder: Path) -> str:
        net = model()
        run = Run(journal=Journal(folder / "journal"))
        steps = method(net, data(), **knobs, run=run)
        told = [(s.phase, s.index, s.mask.key, s.metrics, s.info, s.tried) for s in steps]  # type: ignore[attr-defined]
        return _key(told, state_key(net))

    return work


def _cell(folder: Path) -> str:
    """One cell of an experiment, as ``reproduce --short`` computes it, with its weights."""
    MODELS["points"] = model
    knobs = dict(sparsity=0.8, rounds=4, epochs=6)
    arms = {"once": Arm(magnitude, knobs, "points", start=model, short={})}
    toy = Experiment(
        "points", "Points", "nobody, arXiv 0000.00000", "reproduction", data, arms, seeds=(0,)
    )
    cell = Cell(toy, "once", None, 0, True, folder / "cells", folder / "journals")
    changing = ("seconds", "commits", "environments")
    if not cell.path.exists():
        run_cell(cell)
    record = json.loads(cell.path.read_text())
    return _key({n: value for n, value in record.items() if n not in (*changing, "seal")})


def _key(*things: object) -> str:
    return hashlib.sha256(repr(things).encode()).hexdigest()[:16]


@dataclass
class Tally:
    """What was seen of one kind of run."""

    kills: int = 0
    runs: int = 0
    starts: int = 0
    differed: int = 0
    left_over: int = 0

    @property
    def sound(self) -> bool:
        return not (self.differed or self.left_over)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills in {self.runs} runs ({self.starts} starts): "
            f"{self.runs - self.differed} of {self.runs} as undisturbed, "
            f"{self.left_over} files left over"
        )


def _child(work: Work, folder: Path, wait: float | None) -> str | None:
    """The result of the work in a child of its own; None if it was killed after `wait` seconds."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, work(folder).encode())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writing)
    if wait is not None:
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reading) as opened:
        told = opened.read()
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError(f"a resumed run failed, in {folder}")
    return told if os.WIFEXITED(status) else None


def resumed(work: Work, kills: int, chance: random.Random, folder: Path) -> Tally:
    """Kill and resume the work until there were so many kills."""
    tally = Tally()
    work(folder / "warm")  # what a process does once is done before it forks
    begun = time.monotonic()
    expected = _child(work, folder / "whole", None)
    seconds = time.monotonic() - begun
    while tally.kills < kills:
        place, told = folder / f"{tally.runs}", None
        while told is None:
            tally.starts += 1
            wait = chance.uniform(0.0, 0.6) * seconds if tally.kills < kills else None
            told = _child(work, place, wait)
            tally.kills += told is None
        tally.runs += 1
        tally.differed += told != expected
        tally.left_over += len([*place.rglob("*.tmp")])
        shutil.rmtree(place)
    return tally


def replaced(kills: int, chance: random.Random, folder: Path) -> Tally:
    """Kill a report that is saved over an older one: the older one is there, or the new one."""
    tally, path = Tally(), folder / "report"
    width = 200  # large enough for a kill to meet the writing
    reports = [
        prune(magnitude, model(seed, width), data(), sparsity=0.5 + seed / 4, bar=False)
        for seed in (0, 1)
    ]
    known = {_key(r.mask.key, state_key(r.model)) for r in reports}
    reports[0].save(path)

    def work(_: Path) -> str:
        for number in range(1, 1000):
            reports[number % 2].save(path)
        return ""

    while tally.kills < kills:
        tally.starts += 1
        if _child(work, folder, chance.uniform(0.01, 0.15)) is None:
            tally.kills += 1
        tally.runs += 1
        net = model(2, width)
        checkpoint.load_into(net, path)
        tally.differed += _key(load_mask(path).key, state_key(net)) not in known
    reports[0].save(path)
    tally.left_over += len([*folder.rglob("*.tmp")])
    return tally


SEARCH = dict(rounds=2, generations=6, population=8, epochs=2, drop=0.2, tolerance=0.2, seed=3)
KINDS: dict[str, Callable[[int, random.Random, Path], Tally]] = {
    name: lambda kills, chance, folder, work=work: resumed(work, kills, chance, folder)
    for name, work in {
        "differential evolution": _journalled(differential_evolution, **SEARCH),
        "roulette": _journalled(roulette, sparsity=0.9, branches=6),
        "fit": _journalled(fit, epochs=25, batch=20),
        "reproduce": _cell,
    }.items()
} | {"report.save": replaced}


def main() -> int:
    """Print a line for each kind of run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--kills", type=int, default=100, help="for each kind of run")
    parser.add_argument("--seed", type=int, default=None, help="of the moments")
    parser.add_argument("--only", choices=[*KINDS], help="one kind of run")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("error")  # nothing may be damaged
    sound = True
    for name in [given.only] if given.only else KINDS:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["PRUNEKIT_HOME"] = folder
            begun = time.monotonic()
            tally = KINDS[name](given.kills, random.Random(given.seed), Path(folder))
            print(f"{name}: {tally}, {time.monotonic() - begun:.0f} s", flush=True)
            sound = sound and tally.sound
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
