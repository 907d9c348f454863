"""What the command line shows: a run step by step, the notebooks, a list of what there is."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import math
import os
import pkgutil
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

import prunekit
from prunekit import datasets, experiments, models, score
from prunekit._files import digest, home, replacing, try_place
from prunekit.baselines.magnitude import magnitude
from prunekit.experiments import Cell
from prunekit.experiments.cells import other_code, read
from prunekit.experiments.records import agreement, complete
from prunekit.journal import Locked
from prunekit.prune import prune
from prunekit.steps import Step, Stopped

PAGES = 20_000_000  # bytes that the pages of `run` take, about


def notebooks() -> list[Path]:
    """The notebooks, in their order: inside the installed package, or beside it in a checkout."""
    package = Path(prunekit.__file__).parent
    for folder in (package / "notebooks", package.parent / "notebooks"):
        if found := sorted(folder.glob("[0-9][0-9]_*.ipynb")):
            return found
    raise FileNotFoundError(f"prunekit: no notebooks beside {package}; install the package again")


def tables() -> list[Path]:
    """The pages of recorded cells, to which the notebooks link."""
    return sorted((notebooks()[0].parent / "results").glob("*.md"))


def run(out: Path) -> None:
    """Prune the shipped LeNet-300-100, print every step, write a figure and the executed pages."""
    import nbformat

    from prunekit import plot

    figure_at, pages_at = out / "pruning.png", [out / f"{n.stem}.html" for n in notebooks()]
    tables_at = [out / "results" / f"{table.stem}.html" for table in tables()]
    for path in (figure_at, *pages_at, *tables_at):
        try_place(path, PAGES)
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
    with replacing(figure_at) as path:
        figure.savefig(path, format="png", dpi=120)
    print(f"the figure:   {figure_at}")
    for table, table_at in zip(tables(), tables_at, strict=True):
        words = nbformat.v4.new_markdown_cell(table.read_text(encoding="utf-8"))
        html = _page(nbformat.v4.new_notebook(cells=[words]))
        with replacing(table_at) as path:
            path.write_text(html, encoding="utf-8")
    clients: list[Any] = []  # of the notebooks that are being executed, each in its own kernel
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        pages = pool.map(partial(executed_page, clients=clients), notebooks())
        try:
            for page, html in zip(pages_at, pages, strict=True):
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

    What a widget left in its output is alive in the page, if it needs no kernel. The client that
    executes the notebook is in `clients` meanwhile.
    """
    import nbformat
    from nbclient import NotebookClient
    from tqdm import tqdm

    content: Any = nbformat.read(notebook, as_version=4)
    with tqdm(
        total=len(content.cells), desc=notebook.stem, unit="cell", leave=False, disable=None
    ) as bar:  # which a file has not
        client = NotebookClient(
            content,
            timeout=600,
            kernel_name="python3",
            extra_arguments=["--IPKernelApp.log_level=40"],  # errors alone
            store_widget_state=False,  # it would be shown with scripts from elsewhere
            on_cell_complete=lambda **_: bar.update(),
        )
        running = clients if clients is not None else []
        running.append(client)
        try:
            client.execute(cwd=str(notebook.parent))
        finally:
            running.remove(client)
    _enliven(content)
    return _page(content)


def _page(content: Any) -> str:
    """A notebook as HTML, whose links lead to the pages beside it."""
    from nbconvert import HTMLExporter

    from prunekit.widgets import _static

    page, _ = HTMLExporter().from_notebook_node(content)
    page = re.sub(r'href="((?:results/)?\w[\w-]*)\.(?:ipynb|md)"', r'href="\1.html"', page)
    style = f"<style>{_static.style('course')}</style></head>"
    return page.replace("</head>", style, 1).replace("<main>", '<main class="prunekit-course">', 1)


def _enliven(content: Any) -> None:
    """Put the views that need no kernel in the place of their pictures."""
    from prunekit.widgets import output

    shown = [o["data"] for cell in content.cells for o in cell.get("outputs", ()) if "data" in o]
    for number, data in enumerate(shown):
        if data.get(output.MIME, {}).get("view"):
            data["text/html"] = output.alive(data[output.MIME], f"prunekit-{number}")
        elif output.MIME in data:
            data["text/html"] = data["text/html"].replace(output.HOW, output.ELSEWHERE)


def lab(folder: Path, arguments: list[str]) -> int:
    """Copy the notebooks that are not yet there into `folder` and open JupyterLab in it.

    Where the original of a copy has changed, the new one is put beside it.
    """
    for notebook in notebooks():
        copy, original = folder / notebook.name, digest(notebook.read_bytes())
        newer = copy.with_suffix(f".new-{original[:6]}.ipynb")
        if not copy.exists():
            _put(copy, _not_yet_run(notebook, original))
        elif _original_of(copy) in ("", original):
            print(f"kept:   {copy} (delete it to get the original again)")
        else:
            print(f"kept:   {copy} (its original has changed: {newer.name})")
            if not newer.exists():
                _put(newer, _not_yet_run(notebook, original))
    for table in tables():
        if not (copy := folder / "results" / table.name).exists():
            with replacing(copy) as path:
                path.write_bytes(table.read_bytes())
    first = folder / notebooks()[0].name
    command = [sys.executable, "-m", "jupyterlab", str(first), f"--notebook-dir={folder.resolve()}"]
    sys.stdout.flush()
    return _until_it_ends([*command, *arguments])


def _put(copy: Path, text: str) -> None:
    with replacing(copy) as path:
        path.write_text(text, encoding="utf-8")
    print(f"copied: {copy}")


def _until_it_ends(command: list[str], patience: float = 10.0) -> int:
    """Run a command to its end and give back its exit code.

    Ctrl-C is the command's: JupyterLab asks whether to stop, saves and cleans up. SIGTERM is handed
    on to it; what does not end within `patience` seconds is killed.
    """
    child = subprocess.Popen(command)

    def end(*_: object) -> None:
        child.terminate()
        timer = threading.Timer(patience, child.kill)
        timer.daemon = True
        timer.start()

    handlers = {signal.SIGINT: lambda *_: None, signal.SIGTERM: end}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code  # as a shell says it


def reproduce(
    names: Sequence[str],
    *,
    which: Mapping[str, Any],
    folder: Path | None = None,
    jobs: int | None = None,
    threads: int = 1,
    seconds: float | None = None,
    again: bool = False,
    download: bool = False,
    dask: str = "",
) -> int:
    """Run experiments one after the other and print what comes of them; 1 if a cell failed, or
    does not agree. `which` says which cells; see `prunekit.experiments.chosen`."""
    until = math.inf if seconds is None else time.time() + seconds
    grids = {}
    for name in names:  # what is asked for must exist before hours go by
        place = folder / name if folder is not None and len(names) > 1 else folder
        grids[name] = experiments.chosen(experiments.load(name), folder=place, **which)
        if download:
            for cell in {cell.arm.data: cell for cell in grids[name]}.values():
                cell.data(download=True)
        if not again or folder is not None:
            _try_places([cell for cell in grids[name] if not cell.path.exists()], here=not dask)
    failed = []
    for name, cells in grids.items():
        run = _again if again else _grid
        compute = partial(
            experiments.outcomes, jobs=jobs, threads=threads, until=until, dask=dask
        )
        failed += [f"{name}, {line}" for line in run(experiments.load(name), cells, compute)]
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


def _try_places(cells: Sequence[Cell], here: bool) -> None:
    """Raise OSError if what comes of the cells, computed here or elsewhere, cannot be written."""
    for cell in cells:
        size = _bytes(cell.arm.model)
        try_place(cell.path, 1_000_000)
        if cell.weights is not None:
            try_place(f"{cell.weights}.safetensors", size)
        if here:  # a fit with momentum, and the one that takes its place
            try_place((cell.journals or home() / "journals" / cell.experiment.name) / "x", 4 * size)


@lru_cache
def _bytes(model: str) -> int:
    with torch.device("meta"):
        network = models.MODELS[model]()
    return sum(4 * tensor.numel() for tensor in network.parameters())


# Computes cells, and gives each with its record or what ended it.
Compute = Callable[[Sequence[Cell]], Iterable[tuple[Cell, Any]]]


def _grid(experiment: experiments.Experiment, cells: Sequence[Cell], compute: Compute) -> list[str]:
    """Run the cells that are not done; a line for each that failed."""
    waiting = [cell for cell in cells if not experiments.is_done(cell)]
    print(f"{experiment.title} ({experiment.status}; {experiment.paper})")
    done = len(cells) - len(waiting)
    print(f"{len(cells)} cells, {done} already recorded in {cells[0].folder}", flush=True)
    _say_other_code([cell for cell in cells if cell not in waiting])
    failed, finished = _outcomes(experiment.name, cells, len(waiting), compute)
    arms = {cell.name for cell in cells}
    records = experiments.recorded(experiment.name, cells[0].folder)
    print(experiments.table([r for r in records if r["arm"] in arms]).to_string())
    for claim in experiment.claims:
        print(f"paper: {claim}")
    if left := len(waiting) - len(finished) - len(failed):
        print(f"{left} cells are left; run again to go on")
    return failed


def _say_other_code(cells: Sequence[Cell]) -> None:
    for cell in cells:
        record = read(cell)
        if record is not None and other_code(cell, record):
            commits = ", ".join(record["commits"])
            print(f"{cell}: recorded by other code, of commit {commits}; --again compares")


def _outcomes(
    name: str, cells: Sequence[Cell], total: int, compute: Compute
) -> tuple[list[str], list[tuple[Cell, dict[str, Any]]]]:
    """Run the cells and print a line for each; what failed, a line each, and what was finished."""
    from tqdm import tqdm

    failed, finished = [], []
    with tqdm(total=total, unit="cell", desc=name) as bar:
        for cell, outcome in compute(cells):
            bar.update()
            if isinstance(outcome, dict):
                finished.append((cell, outcome))
                bar.write(f"{cell}: {outcome['seconds']} s")
            elif isinstance(outcome, Locked):
                bar.write(f"{cell}: runs elsewhere, passed over")
            elif isinstance(outcome, Stopped):
                bar.write(f"{cell}: its time is over, run again to go on")
            else:
                text = " ".join(f"{type(outcome).__name__}: {outcome}".split())
                failed.append(f"{cell}: failed: {text}")
                bar.write(failed[-1])
    return failed, finished


def _again(
    experiment: experiments.Experiment, cells: Sequence[Cell], compute: Compute
) -> list[str]:
    """Compute recorded cells again and say whether they agree; a line for each that does not."""
    recorded = experiments.results_folder(experiment.name, cells[0].short)
    found = [(cell, read(replace(cell, folder=recorded))) for cell in cells]
    pairs = [(cell, record) for cell, record in found if record is not None]
    if not pairs:
        raise ValueError(f"reproduce: there is no recorded cell of {experiment.name} to compare")
    with tempfile.TemporaryDirectory() as temporary:
        here = cells[0].folder == recorded  # no other folder was asked for
        folder = Path(temporary) if here else cells[0].folder
        journals = folder / "journals"  # nothing of the first run is read
        others = [replace(cell, folder=folder, journals=journals) for cell, _ in pairs]
        print(f"{experiment.title}: {len(others)} cells again, in {folder}", flush=True)
        failed, _ = _outcomes(experiment.name, others, len(others), compute)
        for (cell, record), other in zip(pairs, others, strict=True):
            if (repeated := read(other)) is None:  # it failed, or its time is over
                continue
            said = agreement(complete(record, cell.arm), complete(repeated, cell.arm))
            print(f"{cell}: {said}")
            if said.how == "not":
                failed.append(f"{cell}: does not agree, {said.first}")
    return failed


def _not_yet_run(notebook: Path, original: str) -> str:
    """The notebook's text without what its cells answer: that is for the reader to find out.

    What a cell tagged `keep` shows stays, as something to see before anything is run.
    """
    content = json.loads(notebook.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            keep = "keep" in cell["metadata"].get("tags", [])
            cell |= {"execution_count": None, "outputs": cell["outputs"] if keep else []}
            for output in cell["outputs"]:
                if "execution_count" in output:
                    output["execution_count"] = None
    content["metadata"].setdefault("prunekit", {})["original"] = original
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _original_of(copy: Path) -> str:
    """The key of the original that a copy was made of; "" if it does not say."""
    try:
        content = json.loads(copy.read_text(encoding="utf-8", errors="replace"))
        return str(content["metadata"]["prunekit"]["original"])
    except (ValueError, LookupError, TypeError):
        return ""


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
