"""A search on two cores as ratios: ``python benchmarks/workers.py``; see `ratios`.

The same round of differential evolution, with its history asserted equal, one thread a worker:
serial, two processes, and two workers of a Dask cluster on this machine, as Dask starts them and
with memory kept. What starting them and sending them model and data costs is shown apart.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import dask.config
import distributed
import torch
from ratios import show

from prunekit import mnist_small, models
from prunekit.methods.differential_evolution import differential_evolution
from prunekit.steps import Run, serial

Workers = Callable[..., Any]
TRIM = "MALLOC_TRIM_THRESHOLD_"
KNOBS: dict[str, Any] = dict(rounds=1, generations=8, epochs=0, tolerance=1.0)


@contextmanager
def processes() -> Iterator[Workers]:
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        yield pool.map


@contextmanager
def dask_as_it_is() -> Iterator[Workers]:
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client.get_executor(pure=False).map
    os.environ.pop(TRIM, None)  # Dask sets it in this process, too, for all that start later


@contextmanager
def dask_keeping_memory() -> Iterator[Workers]:
    """Dask makes its workers give free memory back at once, and fetch it again for each forward."""
    keep = {f"distributed.nanny.pre-spawn-environ.{TRIM}": None}
    with dask.config.set(keep), dask_as_it_is() as workers:
        yield workers


def search(model: Any, data: Any, workers: Workers) -> tuple[float, list[Any]]:
    """Seconds and history of a round."""
    start = time.perf_counter()
    steps = differential_evolution(copy.deepcopy(model), data, **KNOBS, run=Run(workers=workers))
    history = [(step.phase, step.mask, str(step.info), step.tried) for step in steps]
    return time.perf_counter() - start, history


def main() -> None:
    torch.set_num_threads(1)
    data = mnist_small()
    for name, images in (("lenet_300_100", 5_000), ("lenet_5", 1_000)):
        part, model = data.fewer(validation=images), models.pretrained(name)
        search(model, part, serial)
        alone, expected = search(model, part, serial)
        print(f"{name}: {alone:.1f} s serial")
        for start in (processes, dask_as_it_is, dask_keeping_memory):
            begun = time.perf_counter()
            with start() as workers:
                _, history = search(model, part, workers)
                ready = time.perf_counter() - begun
                second, again = search(model, part, workers)
                assert history == again == expected
                show(
                    f"{name}: two workers ({start.__name__.replace('_', ' ')}) / serial",
                    second / alone,
                )
                print(f"    starting them and sending model and data: {ready - second:.1f} s")


if __name__ == "__main__":
    main()
