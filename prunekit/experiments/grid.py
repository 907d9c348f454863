"""The grid of an experiment: which cells there are, and many of them side by side."""

from __future__ import annotations

import difflib
import importlib
import math
import multiprocessing
import os
import pkgutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from prunekit._arguments import checked
from prunekit.experiments.cells import Cell, is_done, results_folder, run_cell
from prunekit.experiments.cluster import Outcome, connected, on_workers
from prunekit.experiments.protocol import Experiment
from prunekit.journal import Locked
from prunekit.steps import Stopped


@lru_cache(maxsize=1)
def _experiments() -> dict[str, Experiment]:
    package = __name__.rpartition(".")[0]
    files = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    modules = [importlib.import_module(f"{package}.{name}") for name in files]
    return {e.name: e for module in modules for e in getattr(module, "EXPERIMENTS", ())}


def names() -> list[str]:
    """The experiments there are."""
    return sorted(_experiments())


@checked
def load(name: str) -> Experiment:
    """The experiment of that name. Raises ValueError if there is none."""
    if name not in names():
        raise ValueError(f"reproduce: experiment must be one of {names()}, got {name!r}")
    return _experiments()[name]


@checked
def cells_of(experiment: Experiment, short: bool, folder: Path) -> list[Cell]:
    """The cells of the grid, in the order of the arms; those that publish weights come first."""
    arms = sorted(experiment.arms, key=lambda name: not experiment.arms[name].publish)
    return [
        Cell(experiment, name, network, seed, short, folder)
        for name in arms
        if not short or experiment.arms[name].short is not None
        for network, seed in experiment.pairs(name, short)
    ]


@checked
def chosen(
    experiment: Experiment,
    *,
    short: bool = False,
    folder: Path | None = None,
    only: str = "",
    arm: str = "",
    network: int | None = None,
    seed: int | None = None,
) -> list[Cell]:
    """The cells of the arms whose names contain `only`, of the arm that is called `arm`, that start
    from `network`, or have `seed`. Raises ValueError if there are none."""
    place = folder if folder is not None else results_folder(experiment.name, short)
    cells = cells_of(experiment, short, place)
    if arm and arm not in experiment.arms:
        near = difflib.get_close_matches(arm, [*experiment.arms], 1)
        hint = f" Did you mean {near[0]!r}?" if near else " `--only PART` takes a part of a name."
        raise ValueError(f"reproduce: {experiment.name} has no arm {arm!r}.{hint}")
    wanted: dict[str, tuple[bool, Callable[[Cell], Any]]] = {
        f"no arm that contains {only!r}": (bool(only), lambda cell: only in cell.name),
        f"no cell of the arm {arm!r}": (bool(arm), lambda cell: cell.name == arm),
        f"no cell from network {network}": (
            network is not None, lambda cell: cell.network == network
        ),
        f"no cell with seed {seed}": (seed is not None, lambda cell: cell.seed == seed),
    }  # fmt: skip
    for what, (asked, fits) in wanted.items():
        cells = [cell for cell in cells if not asked or fits(cell)]
        if not cells:
            form = "the short form of " * short
            raise ValueError(f"reproduce: {form}{experiment.name} has {what}")
    return cells


def side_by_side(jobs: int | None = None) -> int:
    """How many cells run at a time: as asked for, or one a core; at most 4 on an accelerator."""
    if torch.cuda.is_available():
        return min(jobs or 4, 4)
    try:
        cores = len(os.sched_getaffinity(0))  # those that this process may use
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    return jobs or cores


@checked
def reproduce(
    name: str,
    *,
    jobs: int | None = None,
    threads: int = 1,
    until: float = math.inf,
    dask: str = "",
    **which: Any,
) -> Iterator[dict[str, Any]]:
    """Run the cells that are not yet recorded, `jobs` at a time with `threads` each, or one a
    worker of the Dask cluster whose scheduler has the address `dask`.

    Yields each record when its cell is finished. `which` goes to `chosen`. Cells that another
    process is at are passed over. A cell that fails does not stop the others: at the end all that
    failed are raised in an ExceptionGroup. No cell begins after `until` (seconds of the epoch), and
    one under way ends at its next step. Ctrl-C stops all at their next minibatch; run again to go
    on from there.
    """
    failures = []
    for cell, outcome in outcomes(chosen(load(name), **which), jobs, until, dask, threads):
        if isinstance(outcome, dict):
            yield outcome
        elif not isinstance(outcome, (Locked, Stopped)):
            outcome.add_note(f"in the cell {cell}")
            failures.append(outcome)
    if failures:
        raise ExceptionGroup(f"reproduce: {len(failures)} cells of {name} failed", failures)


@checked
def outcomes(
    cells: Sequence[Cell],
    jobs: int | None = None,
    until: float = math.inf,
    dask: str = "",
    threads: int = 1,
) -> Iterator[tuple[Cell, Outcome]]:
    """Run the cells that are not yet recorded, as `reproduce` does; each comes, when it ends, with
    its record or with what ended it: `Locked` if another process is at it, `Stopped` after `until`.
    """
    publishing = [cell for cell in cells if cell.arm.publish]
    others = [cell for cell in cells if not cell.arm.publish]
    with connected(dask) if dask else nullcontext() as client:
        here = partial(_in_processes, side_by_side(jobs), threads)
        run = partial(on_workers, client) if dask else here
        for stage in (publishing, others):
            missing = [cell for cell in stage if not is_done(cell)]
            if time.time() > until:
                yield from ((cell, Stopped()) for cell in missing)
            else:
                yield from run(missing, until)


def _in_processes(
    jobs: int, threads: int, cells: Sequence[Cell], until: float
) -> Iterator[tuple[Cell, Outcome]]:
    suspects = []
    for cell, outcome in _in_pool(cells, jobs, threads, until):
        if isinstance(outcome, BrokenProcessPool):
            suspects.append(cell)
        else:
            yield cell, outcome
    for cell in suspects:  # a process that dies takes its pool along: who it was, is found out
        yield from _in_pool([cell], 1, threads, until)


def _in_pool(
    cells: Sequence[Cell], jobs: int, threads: int, until: float
) -> Iterator[tuple[Cell, Outcome]]:
    if not cells:
        return
    context = multiprocessing.get_context("spawn")
    stop, jobs = context.Event(), min(jobs, len(cells))
    with ProcessPoolExecutor(jobs, context, _begin_worker, (stop, threads)) as pool:
        running: dict[Future[dict[str, Any]], Cell] = {}
        try:
            for cell in cells:
                running[pool.submit(_in_worker, cell, until)] = cell
            for future in as_completed(running):
                try:
                    outcome: Outcome = future.result()
                except Exception as error:
                    outcome = error
                yield running[future], outcome
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


_stop: Any = None  # the event of this worker process


def _begin_worker(stop: Any, threads: int) -> None:
    global _stop
    _stop = stop
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to stop
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _in_worker(cell: Cell, until: float) -> dict[str, Any]:
    if time.time() > until:
        raise Stopped
    return run_cell(cell, _stop, until)
