"""What all tests share: one thread, a home of their own, the data sets."""

import functools
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import matplotlib
import pytest
import torch
from hypothesis import settings
from measured import unlike
from nbval.plugin import IPyNbCell, NbCellError, coalesce_streams
from shorter import HELD, shorter

from prunekit import datasets

matplotlib.use("Agg")  # not through the environment, which the notebooks' kernels inherit
torch.set_num_threads(1)
# Those that tests start have one thread too: two on as many cores wait for each other at every sum.
os.environ["OMP_NUM_THREADS"] = "1"

# No deadline: a busy machine is not a failure. The same examples everywhere.
settings.register_profile("prunekit", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("prunekit")


def pytest_addoption(parser):
    parser.addoption("--reverse", action="store_true", help="run the tests backwards")


def pytest_collection_modifyitems(config, items):
    """No test may depend on one before it; a notebook's cells do. After all of them, each runs
    again, last to first, in the same kernel, on fewer images: a reader goes back."""
    for notebook in {item.parent: None for item in items if isinstance(item, IPyNbCell)}:
        cells = [item for item in items if item.parent is notebook]
        at = items.index(cells[-1]) + 1
        items[at:at] = again = [*map(_again, reversed(cells))]
        again[0].cell["source"] = HELD + again[0].cell["source"]
        for cell in cells:
            if MEASURED in cell.cell.metadata.get("tags", []):
                cell.options["check"] = False  # in full
                cell.runtest = functools.partial(_measured, cell, cell.runtest)
    items.sort(key=lambda item: item.path.name not in LONG)  # or one core waits for them at the end
    if config.getoption("--reverse"):
        cells = [item for item in items if item.path.suffix == ".ipynb"]
        others = [item for item in items if item.path.suffix != ".ipynb"]
        items[:] = others[::-1] + cells


LONG = ("test_workers.py", "test_cluster.py")  # and notebooks and browsers, which come first anyway
MEASURED = "measured"  # the tag of cells whose numbers may differ from one processor to another


def _again(cell):
    options = cell.options | {"check": False}
    name, short = f"{cell.name} again", cell.cell | {"source": shorter(cell.cell.source)}
    return IPyNbCell.from_parent(
        cell.parent, name=name, cell_num=cell.cell_num, cell=type(cell.cell)(short), options=options
    )


def _measured(cell, runtest):
    """Run a cell that measures, and compare its text: the words exactly, the numbers roughly."""
    runtest()
    stored, now = (_text(outputs) for outputs in (cell.cell.outputs, cell.test_outputs))
    if difference := unlike(stored, now):
        raise NbCellError(cell.cell_num, difference, cell.cell.source)


def _text(outputs):
    """What a cell printed, and what its last value says of itself."""
    found = coalesce_streams(outputs)
    return "\n".join(o["text"] if "text" in o else o["data"].get("text/plain", "") for o in found)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Where the full data sets are required, a skipped test is a failed one."""
    report = yield
    if report.skipped and os.environ.get("PRUNEKIT_REQUIRE_DATA") == "1":
        report.outcome = "failed"
        report.longrepr = f"skipped although PRUNEKIT_REQUIRE_DATA=1: {report.longrepr}"
    return report


@pytest.fixture(scope="module", autouse=True)
def environment():
    """What is set for a module's processes ends with it: Dask sets an option of their memory, and
    every kernel started later would have it."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory):
    """`PRUNEKIT_HOME` is a temporary folder: no test reads or writes the user's own."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNEKIT_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def digits():
    """The embedded sample of MNIST."""
    return datasets.mnist_small()


@pytest.fixture(scope="session")
def data_root():
    """The folder with the full data sets; skips without one."""
    root = os.environ.get("PRUNEKIT_DATA")
    if not root:
        pytest.skip("needs the full MNIST in PRUNEKIT_DATA")
    return root


@pytest.fixture(scope="session")
def full_mnist(data_root):
    """All of MNIST. A root that was given but lacks the files is an error, not a skip."""
    return datasets.mnist()


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel of this checkout, built once."""
    out = tmp_path_factory.mktemp("wheel")
    code = (
        "from hatchling.builders.wheel import WheelBuilder as W; "
        f"print(next(W('.').build(directory={str(out)!r})))"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True)
    (built,) = out.glob("*.whl")
    return built
