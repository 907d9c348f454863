"""What a notebook's kernel holds: ``python benchmarks/memory.py [NOTEBOOK...]``.

Each notebook is run from the top in a kernel of its own; then the kernel says how much memory it
has had at most, in megabytes (resident, without JupyterLab and the browser). Binder gives 2 GB to
both together; the aim is 1,000. First, how long evaluations take with the memory that the package
lets glibc keep between batches, beside what glibc does by itself.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from prunekit._memory import CHOSEN

ROOT, MOST = Path(__file__).parents[1] / "notebooks", 1_000
ASK = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"

EVALUATES = """
import time
import torch
from prunekit import evaluate, mnist_small, pretrained
torch.set_num_threads(1)
net, digits = pretrained("vgg_small"), mnist_small()
evaluate(net, digits)
begun = time.perf_counter()
for _ in range(5):
    evaluate(net, digits)
print(time.perf_counter() - begun)
"""


def seconds(**environment: str) -> float:
    """Of five evaluations, in a process of their own."""
    command = [sys.executable, "-c", EVALUATES]
    free = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    return float(subprocess.check_output(command, env=free | environment))


def kept() -> float:
    """The time with kept memory over that without, the median of three pairs."""
    pairs = [(seconds(), seconds(GLIBC_TUNABLES="")) for _ in range(3)]  # where somebody chose, not
    return statistics.median(one / other for one, other in pairs)


def peak(path: Path) -> int:
    """Megabytes at the most."""
    notebook = nbformat.read(path, 4)
    notebook.cells.append(nbformat.v4.new_code_cell(ASK))
    place = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=1_800, resources=place).execute()
    return int(notebook.cells[-1].outputs[0].text)


if __name__ == "__main__":
    print(f"evaluations with kept memory: {kept():.2f} × the time without")
    for path in map(Path, sys.argv[1:] or sorted(ROOT.glob("[0-9][0-9]_*.ipynb"))):
        held = peak(path)
        print(f"{path.stem:<30} {held:5} MB  aim ≤ {MOST}: {'ok' if held <= MOST else 'MISSED'}")
