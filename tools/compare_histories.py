"""Show that every method does bit by bit what it did: ``compare_histories.py OLD NEW``.

OLD and NEW are commits. Each is checked out into a temporary git worktree, and there each method,
each baseline and `fit` run short on the trained LeNets, with one torch thread, in fp32. Phase,
index, number and mask of every step, its metrics as exact floats, and the weights at the end must
agree; what a step shows besides (its `info`) may change. Run it after a change of structure, which
must not change what is computed:

    python tools/compare_histories.py main HEAD --jobs 2
    python tools/compare_histories.py main HEAD --only roulette --seeds 1

One line a run: "same", or the first difference. Exit status 1 if there is one that `EXCEPTIONS`
does not expect, 2 if a commit could not be run. It compares on one machine: another processor
rounds otherwise. What is not committed is not seen. Takes about 5 minutes of one core.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

# A step, the end ({"state": ...}) or a failure ({"error": ...}).
Record = dict[str, Any]
History = list[Record] | None  # None: the commit has no such method

# Differences that are mended faults: shell pattern of labels, as printed, -> reason, such as
# "roulette(*epochs=1*), lenet_5, *": "the fine-tuning took the seed of the level before".
EXCEPTIONS: dict[str, str] = {}

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("methods", "baselines")  # folders of the package with one method a file
SIZES = dict(train=400, validation=280)  # not whole numbers of batches
PROBLEMS = {  # name -> network, and whether it is judged by minus the loss instead of the accuracy
    "lenet_300_100": ("lenet_300_100", False),
    "lenet_5": ("lenet_5", False),
    "lenet_300_100 by loss": ("lenet_300_100", True),
}

# What makes the runs of a method short; all else is the method's default.
SHORT: dict[str, dict[str, Any]] = {
    "fit": dict(epochs=2),
    "gradual": dict(epochs=3, every=2),
    "roulette": dict(sparsity=0.8, branches=3, step=0.45),
    "differential_evolution": dict(rounds=2, generations=3, population=5, epochs=1),
}
BUDGET = dict(fitness="budget", density=0.1, tolerance=1.0)
RUNS: dict[str, list[dict[str, Any]]] = {
    "fit": [
        {},
        dict(momentum=0.0, weight_decay=0.0, batch=50),
        *(
            dict(optimizer=optimizer, lr=0.002, schedule=schedule, epochs=1)
            for optimizer in ("sgd", "adam")
            for schedule in ("constant", "cosine", "one-cycle", "steps")
        ),
    ],
    "random": [{}, dict(rounds=2, epochs=1), dict(scope="layer", biases=True)],
    "magnitude": [
        {},
        dict(rounds=3, epochs=1),
        dict(scope="layer", biases=True),
        dict(ignore=("fc1.*",)),
        dict(sensitivities=(0.8,)),
        dict(sensitivities=(0.8,), rounds=2, epochs=1),
    ],
    "gradual": [{}, dict(scope="global", until=0.5)],
    "gradient": [
        {},
        dict(times_weight=True),
        dict(rounds=2, epochs=1),
        dict(times_weight=True, rounds=2, epochs=1, scope="layer"),
    ],
    "roulette": [
        {},
        *(dict(wheel=wheel) for wheel in ("sum", "lin", "exp", "rank", "uniform")),
        dict(draw_step=True),
        dict(tolerance=0.02),
        dict(tolerance=0.02, draw_step=True, epochs=1),
        dict(epochs=1, scope="layer"),
    ],
    "differential_evolution": [
        {},
        dict(fitness="weighted", rounds=1),
        dict(**BUDGET, rounds=1),
        dict(**BUDGET, judged_by="loss", splice=0.1, epochs=2),
        dict(judged_by="loss", strategy="current-to-best1bin", rounds=1),
        dict(uniform=True, rounds=1),
        dict(recovery="magnitude", recovered=0.2, strategy="best1bin", rounds=1),
        dict(recovery="off", skip=False, epochs=0, tolerance=0.01, rounds=1),
        dict(strategy="random", images=200, last_epochs=1, rounds=1),
        dict(drop=0.3, tolerance=0.0),  # rounds are taken back
    ],
}

# ------------------------------------------------------------------------- in each of both commits


def mask_key(mask: Mapping[str, Any]) -> str:
    """16 hex digits over names, shapes and bits, whatever the order; independent of the package."""
    hashed = hashlib.sha256()
    for name in sorted(mask):
        bits = mask[name].numpy()
        hashed.update(f"{name}{bits.shape}".encode() + np.packbits(bits).tobytes())
    return hashed.hexdigest()[:16]


def state_key(state: Mapping[str, Any]) -> str:
    """16 hex digits over names, types, shapes and bytes of a state dict."""
    hashed = hashlib.sha256()
    for name in sorted(state):
        values = state[name].detach().cpu().contiguous().numpy()
        hashed.update(f"{name}{values.dtype}{values.shape}".encode() + values.tobytes())
    return hashed.hexdigest()[:16]


def label(method: str, knobs: Mapping[str, Any], problem: str, seed: int) -> str:
    """What a run is called in the output and in `EXCEPTIONS`."""
    shown = ", ".join(f"{name}={value!r}" for name, value in knobs.items())
    return f"{method}({shown}), {problem}, seed {seed}"


def runs(seed: int, methods: Iterable[str]) -> dict[str, tuple[str, dict[str, Any], str]]:
    """Every run of a seed: its label -> method, knobs and problem."""
    return {
        label(method, knobs, problem, seed): (method, knobs, problem)
        for method in methods
        for knobs, problem in product(RUNS[method], PROBLEMS)
    }


def find(method: str) -> Any:
    """The method of this name in the package that is imported; None if it has none."""
    if method == "fit":
        return importlib.import_module("prunekit").fit
    for room in ROOMS:
        name = f"prunekit.{room}.{method}"
        if importlib.util.find_spec(name):
            return getattr(importlib.import_module(name), method)
    return None


def minus_loss(outputs: Any, targets: Any) -> float:
    """A metric that is not an accuracy."""
    import torch

    return -float(torch.nn.functional.cross_entropy(outputs, targets))


def problem_data(by_loss: bool) -> Any:
    import prunekit

    data = prunekit.mnist_small().fewer(**SIZES)
    if not by_loss:
        return data
    return prunekit.Data(data.splits, mean=data.mean, std=data.std, metric=minus_loss)


def history(method: str, knobs: Mapping[str, Any], problem: str, seed: int) -> History:
    """What a run did: a record a step and the weights at the end, or how it failed."""
    import prunekit

    function = find(method)
    if function is None:
        return None
    network, by_loss = PROBLEMS[problem]
    model = prunekit.pretrained(network, seed)
    settings = {"precision": "fp32", **SHORT.get(method, {}), **knobs, "seed": seed}
    records: list[Record] = []
    try:
        for step in function(model, problem_data(by_loss), **settings):
            metrics = {name: float(value).hex() for name, value in step.metrics.items()}
            place = {"phase": step.phase, "index": step.index, "of": step.of}
            records.append({**place, "mask": mask_key(step.mask), **metrics})
    except Exception as error:  # of a knob that one of the commits does not have, for example
        return [*records, {"error": f"{type(error).__name__}: {error}"}]
    return [*records, {"state": state_key(model.state_dict())}]


def print_histories(seed: int, methods: list[str]) -> None:
    """Write the histories of all runs of a seed as JSON: what the process in a commit does."""
    import torch

    import prunekit

    if not Path(prunekit.__file__).is_relative_to(os.environ["PYTHONPATH"]):
        raise RuntimeError(f"compare_histories: prunekit of another place: {prunekit.__file__}")
    torch.set_num_threads(1)
    histories = {name: history(*run, seed) for name, run in runs(seed, methods).items()}
    json.dump(histories, sys.stdout)


# ------------------------------------------------------------------------------------- comparison


def first_difference(old: list[Record], new: list[Record]) -> str:
    """Where two histories part: step, what, old and new; "" if they are the same."""
    for number, (a, b) in enumerate(zip_longest(old, new, fillvalue={}), start=1):
        for what in [*a, *(name for name in b if name not in a)]:
            if a.get(what) != b.get(what):
                end = number == len(old) == len(new)
                where = "end" if end else f"step {number}"
                return f"{where}, {what}: {a.get(what)} -> {b.get(what)}"
    return ""


def verdict(name: str, old: History, new: History) -> tuple[str, bool]:
    """The line of a run, and whether it is a difference that is not expected."""
    if old is None and new is not None:
        return f"{name}: only in NEW", False
    if old is None or new is None:
        found = f"only in {'neither' if old is None else 'OLD'}"
    elif not (found := first_difference(old, new)):
        if "error" not in new[-1]:
            return f"{name}: same, {len(new) - 1} steps", False
        found = f"fails in both: {new[-1]['error']}"
    for pattern, reason in EXCEPTIONS.items():
        if fnmatchcase(name, pattern):
            return f"{name}: {found} (expected: {reason})", False
    return f"{name}: {found}", True


# ------------------------------------------------------------------------------------ two commits


def git(*arguments: str) -> None:
    subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A worktree of the commit in a temporary folder, removed again whatever happens."""
    with tempfile.TemporaryDirectory(prefix="histories-") as folder:
        tree = Path(folder).resolve() / "tree"
        try:
            git("worktree", "add", "--quiet", "--detach", str(tree), commit)
            yield tree
        finally:
            if tree.exists():
                git("worktree", "remove", "--force", str(tree))


def histories(tree: Path, seed: int, methods: Iterable[str]) -> dict[str, History]:
    """The histories of all runs of a seed in a checkout, by label; one process."""
    with tempfile.TemporaryDirectory(prefix="histories-home-") as home:
        own = {"PYTHONPATH": str(tree), "PRUNEKIT_HOME": home, "OMP_NUM_THREADS": "1"}
        ran = subprocess.run(
            [sys.executable, __file__, "--histories", str(seed), *methods],
            env={**os.environ, **own}, capture_output=True, text=True,
        )  # fmt: skip
    if ran.returncode:
        raise RuntimeError(f"compare_histories: the runs in {tree} broke off:\n{ran.stderr}")
    return json.loads(ran.stdout)


def without_runs(trees: Iterable[Path]) -> list[str]:
    """The methods that all checkouts have but `RUNS` lacks."""
    each = [
        {path.stem for room in ROOMS for path in (tree / "prunekit" / room).glob("[!_]*.py")}
        for tree in trees
    ]
    return sorted(set.intersection(*each) - set(RUNS))


def compare(old: str, new: str, seeds: int, only: str | None, jobs: int) -> int:
    """Run both commits and print a line a run; how many differ."""
    differences = 0
    with ExitStack() as stack:
        trees = [stack.enter_context(checkout(commit)) for commit in (old, new)]
        for name in [] if only else without_runs(trees):
            print(f"{name}: has no runs in {Path(__file__).name}")
            differences += 1
        pool = stack.enter_context(ThreadPoolExecutor(jobs))
        stack.callback(pool.shutdown, cancel_futures=True)  # on an error, start no more
        methods = [only] if only else [*RUNS]
        tasks = [(tree, seed, methods) for seed in range(seeds) for tree in trees]
        results = pool.map(lambda task: histories(*task), tasks)
        for before, after in zip(results, results, strict=True):  # in turns: old, new
            for name in before:
                line, differs = verdict(name, before[name], after[name])
                print(line, flush=True)
                differences += differs
    return differences


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", metavar="OLD", help="commit to compare with")
    parser.add_argument("new", metavar="NEW", help="commit that must do the same")
    parser.add_argument(
        "--seeds", type=int, choices=(1, 2, 3), default=3, help="networks and draws (default 3)"
    )
    parser.add_argument("--only", metavar="METHOD", choices=RUNS, help=f"one of {', '.join(RUNS)}")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side (default 1)")
    given = parser.parse_args()
    try:
        differences = compare(given.old, given.new, given.seeds, given.only, given.jobs)
    except (RuntimeError, subprocess.CalledProcessError) as error:  # git has said why itself
        print(error, file=sys.stderr)
        return 2
    print(f"{differences} differences" if differences else "all same")
    return min(differences, 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--histories"]:
        print_histories(int(sys.argv[2]), sys.argv[3:])
    else:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the worktrees go
        sys.exit(main())
