"""The grid of an experiment: which cells there are, and many of them side by side."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pkgutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from prunekit.experiments.cells import Cell, is_done, results_folder, run_cell
from prunekit.experiments.protocol import Experiment


@lru_cache(maxsize=1)
def _experiments() -> dict[str, Experiment]:
    package = __name__.rpartition(".")[0]
    files = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    modules = [importlib.import_module(f"{package}.{name}") for name in files]
    return {e.name: e for module in modules for e in getattr(module, "EXPERIMENTS", ())}


def names() -> list[str]:
    """The experiments there are."""
    return sorted(_experiments())


def load(name: str) -> Experiment:
    """The experiment of that name. Raises ValueError if there is none."""
    if name not in names():
        raise ValueError(f"reproduce: experiment must be one of {names()}, got {name!r}")
    return _experiments()[name]


def cells_of(experiment: Experiment, short: bool, folder: Path) -> list[Cell]:
    """The cells of the grid, in the order of the arms; those that publish weights come first."""
    arms = sorted(experiment.arms, key=lambda name: not experiment.arms[name].publish)
    return [
        Cell(experiment, name, network, seed, short, folder)
        for name in arms
        if not short or experiment.arms[name].short is not None
        for network, seed in experiment.pairs(name, short)
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
    grid = [cell for cell in cells_of(experiment, short, folder) if only in cell.name]
    publishing = [cell for cell in grid if cell.arm.publish]
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
                    error.add_note(f"in the cell {cell.name!r}, seed {cell.seed}")
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
