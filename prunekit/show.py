"""What the command line shows: a run step by step, the notebooks, a list of what there is."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import pkgutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import prunekit
from prunekit import datasets, experiments, models, score
from prunekit._files import replacing
from prunekit.baselines.magnitude import magnitude
from prunekit.prune import prune
from prunekit.steps import Step


def notebooks() -> list[Path]:
    """The notebooks, in their order: inside the installed package, or beside it in a checkout."""
    package = Path(prunekit.__file__).parent
    for folder in (package / "notebooks", package.parent / "notebooks"):
        if found := sorted(folder.glob("[0-9][0-9]_*.ipynb")):
            return found
    raise FileNotFoundError(f"prunekit: no notebooks beside {package}; install the package again")


def run(out: Path) -> None:
    """Prune the shipped LeNet-300-100, print every step, write a figure and the executed pages."""
    from prunekit import plot

    digits, lenet = datasets.mnist_small(), models.pretrained("lenet_300_100")
    print(f"{type(lenet).__name__}, trained on MNIST; {digits!r}")
    print("Remove the smallest weights in 10 rounds, with an epoch of training after each:")
    report = prune(magnitude, lenet, digits, sparsity=0.95, rounds=10, epochs=1, watch=echo)
    if report.stopped:
        print(f"\n{report}\n\ninterrupted; run again to start over")
        return
    report.test()
    print(f"\n{report}\n")
    figure = plot.history(report, "LeNet-300-100 on 5,000 digits: 10 rounds of magnitude pruning")
    with replacing(out / "pruning.png") as path:
        figure.savefig(path, format="png")
    print(f"the figure:   {out / 'pruning.png'}")
    clients: list[Any] = []  # of the notebooks that are being executed, each in its own kernel
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        pages = pool.map(partial(executed_page, clients=clients), notebooks())
        try:
            for notebook, html in zip(notebooks(), pages, strict=True):
                page = out / f"{notebook.stem}.html"
                with replacing(page) as path:
                    path.write_text(html, encoding="utf-8")
                print(f"the notebook: {page}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for client in clients:
                _interrupt(client)
            raise
    print("\n`make lab` (or `python -m prunekit lab`) opens the notebooks in JupyterLab.")


def echo(steps: Iterator[Step]) -> Iterator[Step]:
    """Pass the steps through and print each, above the bar."""
    from tqdm import tqdm

    for step in steps:
        tqdm.write(str(step))
        yield step


def _interrupt(client: Any) -> None:
    """Interrupt the kernel of a notebook client: Ctrl-C does not reach it by itself."""
    pid = getattr(getattr(client.km, "provisioner", None), "pid", None)
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)


def executed_page(notebook: Path, clients: list[Any] | None = None) -> str:
    """The notebook run from top to bottom, as one HTML page. Raises if a cell fails.

    The client that executes it is in `clients` meanwhile.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbconvert import HTMLExporter
    from tqdm import tqdm

    content: Any = nbformat.read(notebook, as_version=4)
    with tqdm(total=len(content.cells), desc=notebook.stem, unit="cell", leave=False) as bar:
        client = NotebookClient(
            content,
            timeout=600,
            kernel_name="python3",
            extra_arguments=["--IPKernelApp.log_level=40"],  # errors alone
            on_cell_complete=lambda **_: bar.update(),
        )
        running = clients if clients is not None else []
        running.append(client)
        try:
            client.execute(cwd=str(notebook.parent))
        finally:
            running.remove(client)
    page, _ = HTMLExporter().from_notebook_node(content)
    return str(page)


def lab(folder: Path, arguments: list[str]) -> int:
    """Copy the notebooks that are not yet there into `folder` and open JupyterLab in it."""
    for notebook in notebooks():
        copy = folder / notebook.name
        if copy.exists():
            print(f"kept:   {copy} (delete it to get the original again)")
            continue
        with replacing(copy) as path:
            path.write_text(_not_yet_run(notebook), encoding="utf-8")
        print(f"copied: {copy}")
    first = folder / notebooks()[0].name
    command = [sys.executable, "-m", "jupyterlab", str(first), f"--notebook-dir={folder.resolve()}"]
    sys.stdout.flush()
    # Ctrl-C is JupyterLab's: it asks whether to stop, saves and cleans up.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return subprocess.call([*command, *arguments])
    finally:
        signal.signal(signal.SIGINT, before)


def _not_yet_run(notebook: Path) -> str:
    """The notebook's text without what its cells answer: that is for the reader to find out."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"execution_count": None, "outputs": []}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def functions(package: str) -> dict[str, Any]:
    """The public functions of ``prunekit.methods`` or ``prunekit.baselines``, by name."""
    parent = importlib.import_module(f"prunekit.{package}")
    names = sorted(module.name for module in pkgutil.iter_modules(parent.__path__))
    return {n: getattr(importlib.import_module(f"prunekit.{package}.{n}"), n) for n in names}


def catalogue() -> str:
    """Everything there is to run, a line each."""
    import nbformat

    groups: dict[str, dict[str, str]] = {
        package: {
            name: _first_line(sys.modules[f"prunekit.{package}.{name}"])
            for name in functions(package)
        }
        for package in ("methods", "baselines")
    }
    groups["criteria"] = {
        f.__name__: _first_line(f) for f in (score.magnitude, score.gradient, score.weight_gradient)
    }
    groups["models"] = {name: _first_line(make) for name, make in models.MODELS.items()}
    sets = (datasets.mnist_small, datasets.mnist, datasets.cifar10, datasets.cifar100)
    groups["data"] = {f.__name__: _first_line(f) for f in sets}
    groups["experiments"] = {
        name: f"{experiments.load(name).title} ({len(experiments.recorded(name))} cells recorded)"
        for name in experiments.names()
    }
    groups["notebooks"] = {}
    for path in notebooks():
        about = nbformat.read(path, as_version=4).metadata.get("prunekit", {})
        groups["notebooks"][path.stem] = about.get("title", "")
    width, lines = max(len(name) for entries in groups.values() for name in entries), []
    for group, entries in groups.items():
        if entries:
            lines += [group, *(f"  {name:<{width}} {text}" for name, text in entries.items())]
    return "\n".join(lines)


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")
