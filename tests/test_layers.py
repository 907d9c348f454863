"""A module imports only from modules above it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "prunekit"

# From the bottom up; `prunekit` itself is the package's `__init__`, which collects the names.
ORDER = [
    "_files", "_source", "_patience", "_torchvision", "_random", "_modules", "_memory", "knobs",
    "_arguments", "looks", "products", "channels", "mask", "steps", "select", "evolve", "checkpoint", "journal", "examples", "data", "datasets",
    "trial", "surgery", "interop", "method", "models", "score", "count", "judge",
    "train", "recording", "search", "nodes", "clusters", "stripes", "rounds", "baselines", "methods", "report", "prune", "prunekit",
    "experiments", "plot", "course", "widgets", "exercises", "doctor", "show", "__main__",
]  # fmt: skip
DRAWING = {"matplotlib", "seaborn"}
CONTROLS = {"ipywidgets", "anywidget"}

FILES = sorted(PACKAGE.rglob("*.py"))


def dotted(path):
    """prunekit/baselines/gradual.py -> ["prunekit", "baselines", "gradual"]."""
    parts = ["prunekit", *path.relative_to(PACKAGE).with_suffix("").parts]
    return parts[:-1] if parts[-1] == "__init__" else parts


def layer(parts):
    """The entry of `ORDER` that a dotted name belongs to."""
    return parts[1] if len(parts) > 1 else "prunekit"


def for_checkers_only(node):
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def statements(node, inside_functions=True):
    """All import statements below `node`, but those for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) and not inside_functions:
            continue
        elif not for_checkers_only(child):
            yield from statements(child, inside_functions)


def imported(path, source=None):
    """Dotted names of everything that a file imports, as lists of parts."""
    tree = ast.parse(source if source is not None else path.read_text(encoding="utf-8"))
    here = dotted(path)
    for statement in statements(tree, inside_functions=here != ["prunekit", "show"]):
        if isinstance(statement, ast.Import):
            yield from (alias.name.split(".") for alias in statement.names)
            continue
        base = statement.module.split(".") if statement.module else []
        if statement.level:
            package = here if path.name == "__init__.py" else here[:-1]
            base = package[: len(package) - statement.level + 1] + base
        for alias in statement.names:
            inner = PACKAGE.joinpath(*base[1:], alias.name)
            is_module = base[:1] == ["prunekit"] and (
                inner.is_dir() or inner.with_suffix(".py").exists()
            )
            yield [*base, alias.name] if is_module or base == ["prunekit"] else base


def faults(path, source=None):
    """What a file imports and must not."""
    here = dotted(path)
    at = ORDER.index(layer(here))
    for parts in imported(path, source):
        if parts[0] in DRAWING and layer(here) not in ("plot", "widgets"):
            yield f"{parts[0]} belongs to plot and widgets"
        if parts[0] in CONTROLS and layer(here) != "widgets":
            yield f"{parts[0]} belongs to widgets"
        if parts[0] != "prunekit" or parts == ["prunekit", "__version__"]:
            continue
        there = parts if layer(parts) in ORDER else ["prunekit"]  # a name that `__init__` collects
        siblings = layer(there) == layer(here) and layer(here) not in ("baselines", "methods")
        if ORDER.index(layer(there)) >= at and not siblings:
            yield f"{'.'.join(parts)} is not above {'.'.join(here)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: ".".join(dotted(path)[1:]) or "prunekit")
def test_a_module_imports_only_from_above(path):
    assert not [*faults(path)]


def test_every_module_has_its_place():
    assert {layer(dotted(path)) for path in FILES} <= set(ORDER)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("mask.py", "from prunekit.train import fit"),
        ("mask.py", "from prunekit import train"),
        ("mask.py", "from prunekit import fit"),
        ("mask.py", "import prunekit"),
        ("mask.py", "from .train import fit"),
        ("mask.py", "from . import train"),
        ("mask.py", "def later():\n    import prunekit.train"),
        ("baselines/gradual.py", "from prunekit.baselines.magnitude import magnitude"),
        ("baselines/gradual.py", "from . import magnitude"),
        ("methods/some.py", "from prunekit.methods import other"),
        ("report.py", "import matplotlib.pyplot as plt"),
        ("plot.py", "def show():\n    from ipywidgets import HBox"),
    ],
)
def test_a_wrong_import_would_be_found(file, source):
    assert [*faults(PACKAGE / file, source)]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "plot.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import prunekit.show",
        ),
        ("journal.py", "from prunekit import __version__"),
        (
            "experiments/some.py",
            "from prunekit.experiments import Arm\nfrom prunekit import magnitude",
        ),
        ("show.py", "def show():\n    import seaborn"),
    ],
)
def test_a_right_import_is_let_through(file, source):
    assert not [*faults(PACKAGE / file, source)]


def private_names(path):
    """Names with a leading underscore that a file takes from another one's inside."""
    for statement in statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith(
            "prunekit"
        ):
            for alias in statement.names:
                module = PACKAGE.joinpath(*statement.module.split(".")[1:], f"{alias.name}.py")
                private = alias.name[0] == "_" and not alias.name.startswith("__")
                if private and not module.exists():
                    yield f"{statement.module}.{alias.name}"


@pytest.mark.parametrize(
    "path",
    [*FILES, *sorted(PACKAGE.parent.glob("benchmarks/*.py")), *PACKAGE.parent.glob("tools/*.py")],
    ids=lambda path: path.stem,
)
def test_a_private_name_is_used_in_its_own_file_alone(path):
    assert not [*private_names(path)]


def test_importing_the_package_draws_nothing_in():
    heavy = sorted(DRAWING | CONTROLS | {"pandas", "torchvision"})
    code = f"import sys, prunekit; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent
    )
    assert done.stdout.strip() == "[]", done.stderr
