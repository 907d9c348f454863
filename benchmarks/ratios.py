"""Speed as ratios against a peer in the same run: ``python benchmarks/ratios.py``.

Both sides of a ratio take turns, one thread, and the median over the turns counts, so that a busy
machine slows both. Each line says what was aimed at.
"""

from __future__ import annotations

import copy
import gc
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.utils import prune as torch_prune

from prunekit import fit, mnist_small, models, score, search, select
from prunekit.data import wrong
from prunekit.mask import Mask
from prunekit.steps import Run


def ratio(ours: Callable[[], object], peer: Callable[[], object], turns: int = 9) -> float:
    """Median time of `ours` over median time of `peer`, measured in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns + 1):
        for function, taken in zip((ours, peer), times, strict=True):
            start = time.perf_counter()
            function()
            if turn:  # the first turn warms up
                taken.append(time.perf_counter() - start)
    return statistics.median(times[0]) / statistics.median(times[1])


def show(what: str, value: float, aim: float | None = None) -> None:
    verdict = "" if aim is None else f"   aim ≤ {aim:.2f}: {'ok' if value <= aim else 'MISSED'}"
    print(f"{what:<75} {value:5.2f}×{verdict}", flush=True)


def training(name: str) -> None:
    data, start = mnist_small(), models.pretrained(name)
    weights = Mask.ones(start)
    mask = select.largest(score.magnitude(start, weights), 0.9, "global", weights)

    def epoch(model: torch.nn.Module, mask: Mask | None) -> None:
        list(fit(model, data, epochs=1, batch=128, mask=mask))

    dense, masked, hooked = (copy.deepcopy(start) for _ in range(3))
    for parameter, keep in mask.items():
        layer = hooked.get_submodule(parameter.removesuffix(".weight"))
        torch_prune.custom_from_mask(layer, "weight", keep)
    show(
        f"{name}: masked fine-tuning / dense training, batch 128",
        ratio(lambda: epoch(masked, mask), lambda: epoch(dense, None)),
        1.10,
    )
    show(
        f"{name}: the same with torch.nn.utils.prune / dense training",
        ratio(lambda: epoch(hooked, None), lambda: epoch(dense, None)),
    )


def evaluation(name: str) -> None:
    data, model = mnist_small(), models.pretrained(name)
    weights = Mask.ones(model)
    mask = select.largest(score.magnitude(model, weights), 0.9, "global", weights)

    @torch.no_grad()
    def plain() -> int:
        return sum(wrong(model(x), y) for x, y in data.batches("validation", 1_000))

    def candidate() -> list[float]:
        return search.costs(model, data, [mask], itself, Run())

    show(
        f"{name}: evaluating a masked candidate / dense forward", ratio(candidate, plain, 25), 1.10
    )


def itself(model: torch.nn.Module, mask: Mask) -> Mask:
    return mask


def peak(act: Callable[[], object]) -> int:
    """Bytes that the process grows by, at most, while ``act()`` runs."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    gc.collect()
    start = most = resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.002):
            most = max(most, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    act()
    done.set()
    watcher.join()
    return most - start


def selection() -> None:
    """A global cut of 84 million weights, against torch's own."""
    layers = [torch.nn.Linear(2048, 2048, bias=False) for _ in range(20)]
    model = torch.nn.Sequential(*layers)
    size = sum(p.nbytes for p in model.parameters())
    weights = Mask.ones(model)

    def ours() -> Mask:
        return select.largest(score.magnitude(model, weights), 0.9, "global", weights)

    def peer() -> None:
        chosen = [(layer, "weight") for layer in layers]
        torch_prune.global_unstructured(chosen, torch_prune.L1Unstructured, amount=0.9)
        for layer, name in chosen:
            torch_prune.remove(layer, name)

    if Path("/proc/self/statm").exists():
        show("selecting among 84 million weights: peak memory / model", peak(ours) / size, 4.0)
        show("the same with torch.nn.utils.prune", peak(peer) / size)
    show("the same: time / torch.nn.utils.prune", ratio(ours, peer, 1), 0.5)


def imports() -> None:
    code = (
        "import time, torch; start = time.perf_counter(); import prunekit; "
        "print(time.perf_counter() - start)"
    )
    cached = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

    def seconds() -> float:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, check=True, env=cached)
        return float(done.stdout)

    seconds()  # compiles
    median = statistics.median(seconds() for _ in range(7))
    show("import prunekit after import torch / 50 ms", median / 0.05, 1.0)


def main() -> None:
    torch.set_num_threads(1)
    for name in ("lenet_300_100", "lenet_5"):
        training(name)
        evaluation(name)
    selection()
    imports()


if __name__ == "__main__":
    main()
