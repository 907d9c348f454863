"""Cells on the workers of a Dask cluster, one a worker at a time.

Data root and journal folder are each worker's own; what a cell is made of comes from the client,
and its files go back there.
"""

from __future__ import annotations

import gc
import math
import platform
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from prunekit._files import digest, home, replacing, try_place
from prunekit._random import always_seeded
from prunekit.experiments.cells import Cell, run_cell
from prunekit.journal import Locked
from prunekit.steps import Stopped

Outcome = dict[str, Any] | Exception

ANSWER = 10.0  # seconds in which a scheduler must answer
DEATHS = 3  # workers that may die over one cell
PATIENCE = 60.0  # seconds without any worker after which a grid ends


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """A client of the cluster whose scheduler has this address.

    Raises ValueError if Dask is not installed or no scheduler answers there.
    """
    try:
        import dask
        from distributed import Client
    except ImportError:
        raise ValueError(
            "reproduce: --dask needs Dask, which is not installed. Run: pip install distributed"
        ) from None
    # Networks travel with their cells.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TiB"}):
        try:
            client = Client(address, timeout=ANSWER)
        except (OSError, ValueError) as error:
            client, text = None, " ".join(str(error).split())
        if client is None:
            gc.collect()  # one that failed ends now; later it could block the start of the next
            raise ValueError(
                f"reproduce: no Dask scheduler answers at {address!r} ({text}). `dask scheduler` "
                "starts one and prints its address, such as tcp://10.0.0.1:8786."
            )
        with client:
            yield client


def on_workers(
    client: Any, cells: Sequence[Cell], until: float = math.inf
) -> Iterator[tuple[Cell, Outcome]]:
    """Run the cells on the workers that are there or come; each comes with what it ended in.

    A cell whose worker dies is run again on another, where it goes on from the journal if they
    share its folder. Workers that lack the data, or cannot write their journals, are named and left
    out. Raises ValueError if they all do, OSError if scheduler or workers are gone.
    """
    queue, deaths = deque(cells), Counter[Path]()
    crew = _Crew(client, cells)
    try:
        while queue or crew.has_cells():
            if time.time() > until:
                yield from ((cell, Stopped()) for cell in queue)
                queue.clear()
            for worker in crew.free():
                if queue:
                    cell = queue.popleft()
                    try:
                        model = cell.start()
                    except Exception as error:  # such as a network that is not yet trained
                        yield cell, error
                    else:
                        crew.give(worker, cell, _run, cell, model, until - time.time())
            for worker, cell, result in crew.ended():
                deaths[cell.path] += isinstance(result, _Lost)
                if not isinstance(result, _Lost):
                    yield cell, _brought(cell, result)
                elif deaths[cell.path] < DEATHS:
                    queue.append(cell)
                else:
                    yield cell, RuntimeError(f"{DEATHS} workers died over it, {worker} the last")
            time.sleep(0.05)
    except BaseException:
        with suppress(Exception):  # a cluster that is gone must not hide why
            crew.end()
        raise


class _Lost(Exception):
    """The worker went while it was at it."""


class _Crew:
    """The workers of a cluster by their addresses, and what each is at: one thing at a time."""

    def __init__(self, client: Any, cells: Sequence[Cell]):
        self.client = client
        self.sources = [*{cell.arm.data: cell for cell in cells}.values()]
        self.fit: set[str] = set()
        self.unfit: dict[str, str] = {}
        self.at: dict[str, tuple[Any, Cell | None]] = {}  # no cell: a new worker is looked at
        self.alive: set[str] = set()
        self.last = time.monotonic()  # that somebody was there

    def has_cells(self) -> bool:
        return any(cell is not None for _, cell in self.at.values())

    def give(self, worker: str, cell: Cell | None, function: Any, *args: Any) -> None:
        alone = dict(workers=[worker], allow_other_workers=False, pure=False)
        self.at[worker] = self.client.submit(function, *args, **alone), cell

    def free(self) -> list[str]:
        """Those that can be given a cell; new ones are looked at first."""
        try:
            self.alive = {*self.client.nthreads()}
        except (OSError, CancelledError) as error:
            raise OSError(
                f"reproduce: the Dask scheduler does not answer any more ({error}). What is "
                "finished is kept, run again to go on."
            ) from error
        if self.alive and self.alive <= self.unfit.keys():
            raise ValueError(
                f"reproduce: no worker can run the cells: {'; '.join(self.unfit.values())}"
            )
        self.last = time.monotonic() if self.alive else self.last
        if time.monotonic() - self.last > PATIENCE:
            raise OSError(
                f"reproduce: the cluster has had no worker for {PATIENCE:.0f} s; `dask worker "
                "ADDRESS` starts one. What is finished is kept, run again to go on."
            )
        idle = self.alive - self.at.keys()
        for worker in idle - self.fit - self.unfit.keys():
            self.give(worker, None, _unready, self.sources)
        return sorted(idle & self.fit)

    def ended(self) -> Iterator[tuple[str, Cell, Any]]:
        """Workers that are done with their cell, or gone, with what the cell gave or raised."""
        for worker, (future, cell) in [*self.at.items()]:
            if not future.done() and worker in self.alive:
                continue
            del self.at[worker]
            result = _result(future)
            if cell is not None:
                yield worker, cell, result
            elif result is None:
                self.fit.add(worker)
            elif not isinstance(result, _Lost):
                self.unfit[worker] = f"{worker} {result}"
                _say(f"left out: {self.unfit[worker]}")

    def end(self) -> None:
        """Cancel all and wait until the workers let go of it, each at its next minibatch."""
        futures = [future for future, _ in self.at.values()]
        keys = {future.key for future in futures}
        self.client.cancel(futures)
        while any(keys & held for held in self.client.run(_held, on_error="ignore").values()):
            time.sleep(0.1)


def _say(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(line)


def _result(future: Any) -> Any:
    """What a task gave or raised; `_Lost` if it will never end."""
    try:
        if future.done():
            result = future.result()
            future.release()  # or it is computed again should the worker go
            return result
        future.cancel()
    except CancelledError:
        pass
    except Exception as error:
        return error
    return _Lost()


def _brought(cell: Cell, result: Any) -> Outcome:
    """Write the files that came from a worker; the cell's own comes last."""
    if isinstance(result, Exception):
        return result
    record, files = result
    try:
        for name, content in sorted(files.items(), key=lambda file: file[0] == cell.path.name):
            own = cell.folder if cell.weights is None or "/" not in name else cell.weights.parent
            with replacing(own / Path(name).name) as beside:
                beside.write_bytes(content)
    except OSError as error:
        return error
    return dict(record)


# ------------------------------------------------------------------------------- in the worker


def _held(dask_worker: Any) -> set[str]:
    """The tasks that a worker has, those that were cancelled and still run among them."""
    return {*dask_worker.state.tasks}


class _Cancelled:
    """An event that is set once the client wants this thread's task no more, or is gone itself."""

    def __init__(self) -> None:
        from distributed import get_worker

        worker = get_worker()
        self.task = worker.state.tasks[worker.get_current_task()]

    def is_set(self) -> bool:
        return bool(self.task.state != "executing")


def _unready(cells: Sequence[Cell]) -> str | None:
    """Why this worker cannot run such cells; None if it can."""
    from distributed import get_worker

    try:
        for cell in cells:
            cell.data()
        try_place(home() / "journals" / "cells")
    except (OSError, ValueError) as error:
        return f"on {platform.node()}, {get_worker().name}: {error}"
    return None


def _run(cell: Cell, model: torch.nn.Module, seconds: float) -> Any:
    """The record of a cell, computed here within so many seconds, and its files by name."""
    torch.set_num_threads(1)
    journals = None if cell.journals is None else home() / "again" / digest(str(cell.journals))
    with tempfile.TemporaryDirectory() as folder:
        here = replace(cell, folder=Path(folder), journals=journals)
        try:
            with always_seeded():  # Dask's own threads draw
                record = run_cell(
                    here,
                    _Cancelled(),  # type: ignore[arg-type]
                    time.time() + seconds,
                    model,
                )
        except (Locked, Stopped) as ended:
            return ended
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        return record, {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(files)
        }
