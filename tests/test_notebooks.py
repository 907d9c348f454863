"""The form of the notebooks; their outputs are compared by nbval, see conftest.py."""

import ast
import importlib
import json
import re
import statistics
from itertools import pairwise
from pathlib import Path

import pytest
from measured import unlike

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("[0-9][0-9]_*.ipynb"))
FORBIDDEN = {
    "interact": r"\binteract(ive)?\(",
    "an Output widget as context": r"with\s+\w*[Oo]utput\w*(\(\))?\s*:",
    "clear_output": r"clear_output\(",
    "display_id": r"display_id\s*=",
    "a bare tqdm": r"from tqdm import",
}
# Clock times, addresses in memory: different in every run.
CHANGING = r"\b0x[0-9a-f]{6,}|\b\d+(\.\d+)?\s*(s|ms|seconds|minutes)\b(?! *of)"

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    found = json.loads(path.read_text())["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def tags(cell):
    return cell["metadata"].get("tags", [])


def test_there_are_notebooks():
    assert NOTEBOOKS


@each_notebook
def test_it_has_the_eight_sections_in_order(path):
    text = "\n".join(source(cell) for cell in cells(path, "markdown"))
    numbers = re.findall(r"^## (\d)\. ", text, re.MULTILINE)
    assert numbers == list("12345678")


@each_notebook
def test_its_cells_are_few_and_short(path):
    code = [source(cell).splitlines() for cell in cells(path, "code")]
    # Beside the exercises, and the picture that 00 opens with.
    others = [s for s in code if not s[-1].startswith(("exercise(", "challenge(", "Playground("))]
    assert 12 <= len(others) <= 18
    assert max(map(len, code)) <= 15
    assert statistics.median(map(len, code)) <= 8
    assert max(len(line) for lines in code for line in lines) <= 88


def bindings(code):
    """The names that a cell binds at its top level, ``(name, is a loop's, how)`` each; what a
    function or a comprehension binds is its own."""
    waiting: list[ast.AST] = [*ast.parse(code).body]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, False, ast.dump(node)
        elif isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            module = importlib.import_module(node.module)
            yield from ((name, False, ast.dump(node)) for name in module.__all__)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                yield (alias.asname or alias.name).split(".")[0], False, ast.dump(node)
        elif isinstance(node, ast.For):
            how = ast.dump(node.target) + ast.dump(node.iter)
            yield from ((name, True, how) for name in stored(node.target))
            waiting += node.body
        elif isinstance(node, (ast.If, ast.With, ast.Try, ast.While)):
            for item in getattr(node, "items", []):
                if item.optional_vars:
                    yield from ((n, False, ast.dump(item)) for n in stored(item.optional_vars))
            waiting += [*node.body, *getattr(node, "orelse", [])]
        elif not isinstance(node, ast.Expr):
            yield from ((name, False, ast.dump(node)) for name in stored(node))


def stored(node):
    """The names that a target or a statement stores, without those inside comprehensions."""
    if isinstance(node, (ast.GeneratorExp, ast.ListComp, ast.DictComp, ast.SetComp, ast.Lambda)):
        return
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    for child in ast.iter_child_nodes(node):
        yield from stored(child)


def with_two_meanings(codes):
    """Names that are bound in two cells, or by a loop and otherwise, and not by the same code."""
    found: dict[str, list[tuple[int, bool, str]]] = {}
    for number, code in enumerate(codes):
        for name, loops, how in bindings(code):
            found.setdefault(name, []).append((number, loops, how))

    def differ(one, other):
        return one[2] != other[2] and (one[0] != other[0] or one[1] != other[1])

    return {n for n, all_of in found.items() if any(differ(all_of[0], o) for o in all_of[1:])}


@each_notebook
def test_no_name_has_two_meanings(path):
    assert not with_two_meanings([source(cell) for cell in cells(path, "code")])


@pytest.mark.parametrize(
    ("codes", "names"),
    [
        (["a = 1", "a = 2"], {"a"}),
        (["a = 1", "for a in b: pass"], {"a"}),
        (["for a in b: pass", "for a in c: pass"], {"a"}),
        (["for a, c in b: pass\na = 1"], {"a"}),
        (["a = 1", "if b:\n    a += 1"], {"a"}),
        (["a = 1", "def a(): ..."], {"a"}),
        (["import a", "a = 1"], {"a"}),
        (["with b as a: pass", "a = 1"], {"a"}),
        (["from prunekit import *", "prune = 1"], {"prune"}),
        (["a = 1", "a = 1"], set()),
        (["a = 1\na = 2"], set()),
        (["for a in b: pass", "for a in b: pass"], set()),
        (["a = 1", "c = [a for a in b]\nd = lambda: (a := 2)\ndef e(a): b = a"], set()),
    ],
)
def test_a_name_with_two_meanings_is_found(codes, names):
    assert with_two_meanings(codes) == names


@each_notebook
def test_the_marks_of_tests_are_not_shown(path):
    shown = [source(cell) for cell in json.loads(path.read_text())["cells"]]
    for cell in cells(path, "code"):
        shown += [
            "".join(o.get("text", o.get("data", {}).get("text/plain", ""))) for o in cell["outputs"]
        ]
    assert not re.search("≈|, expected |: ok", "\n".join(shown))


@each_notebook
def test_its_seventh_section_is_one_page(path):
    text = "\n".join(source(cell) for cell in cells(path, "markdown"))
    section = re.sub(r"\]\([^)]*\)", "]", text.split("\n## 7. ")[1].split("\n## 8. ")[0])
    assert len(section.split()) <= 350
    assert len(re.findall(r"\d[\d.,]*", section)) <= 25
    assert "(results/" in text


@pytest.mark.parametrize(
    ("path", "after"), [*pairwise([*NOTEBOOKS, None])], ids=lambda p: p and p.stem
)
def test_it_ends_with_what_one_knows_and_where_to_go(path, after):
    last = source(json.loads(path.read_text())["cells"][-1])
    known = last.split("### What you now know")[1].split("\n\n")[1]
    assert len(re.findall(r"[.?!](?:\s|$)", known)) == 3
    if after:
        assert f"({after.name})" in last


@each_notebook
def test_it_explains_what_it_does(path):
    text = "\n".join(source(cell) for cell in cells(path, "markdown"))
    words = len(re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL).split())
    lines = sum(len(source(cell).splitlines()) for cell in cells(path, "code"))
    assert 10 <= words / lines <= 20


@each_notebook
@pytest.mark.parametrize("pattern", FORBIDDEN.values(), ids=FORBIDDEN)
def test_it_uses_nothing_whose_output_cannot_be_compared(path, pattern):
    for cell in cells(path, "code"):
        if "nbval-ignore-output" not in tags(cell):
            assert not re.search(pattern, source(cell))


@each_notebook
def test_it_was_run_from_top_to_bottom_without_errors(path):
    counts = [cell["execution_count"] for cell in cells(path, "code")]
    assert counts == list(range(1, len(counts) + 1))
    kinds = {output["output_type"] for cell in cells(path, "code") for output in cell["outputs"]}
    assert "error" not in kinds
    streams = {output.get("name") for cell in cells(path, "code") for output in cell["outputs"]}
    assert "stderr" not in streams


@each_notebook
def test_it_carries_no_state_of_widgets_whose_kernel_is_gone(path):
    assert "widgets" not in json.loads(path.read_text())["metadata"]
    kinds = {kind for c in cells(path, "code") for o in c["outputs"] for kind in o.get("data", {})}
    assert "application/vnd.jupyter.widget-view+json" not in kinds


@each_notebook
def test_no_output_changes_from_run_to_run(path):
    for cell in cells(path, "code"):
        if "nbval-ignore-output" not in tags(cell):
            for output in cell["outputs"]:
                assert not re.search(CHANGING, "".join(output.get("text", [])))


@each_notebook
def test_its_pictures_travel_with_it(path):
    for cell in cells(path, "markdown"):
        places = re.findall(r"!\[[^]]*\]\(([^)]+)\)", source(cell))
        assert places == [f"attachment:{name}" for name in cell.get("attachments", {})]
        assert "<img" not in source(cell)


@each_notebook
def test_its_card_can_be_read_from_its_metadata(path):
    about = json.loads(path.read_text())["metadata"]["prunekit"]
    assert about["title"]
    assert about["paper"]
    assert about["minutes"] > 0


@each_notebook
def test_it_has_three_exercises_that_its_own_solutions_pass_and_an_open_task(
    path, capsys, monkeypatch
):
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    found = json.loads(path.read_text())["cells"]
    names: dict = {}
    exec(next(source(cell) for cell in cells(path, "code") if "import *" in source(cell)), names)
    solved = 0
    for cell, after in pairwise(found):
        solution = re.search(r"```python\n(.*?)```\s*(?:.*)</details>", source(after), re.DOTALL)
        if cell["cell_type"] != "code" or "exercise(" not in source(cell) or not solution:
            continue
        exercise = source(cell)
        capsys.readouterr()
        exec(exercise, names)
        assert "not answered yet" in capsys.readouterr().out
        asked = re.match(r"def .*?\n    return \.\.\.\n|\w+ = \.\.\.\n", exercise, re.DOTALL)[0]
        exec(exercise.replace(asked, solution[1]), names)
        assert capsys.readouterr().out.startswith("right")
        solved += 1
    assert solved >= 3
    (task,) = (source(cell) for cell in cells(path, "code") if "challenge(" in source(cell)[1:])
    exec(task, names)
    assert "not answered yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("now", "alike"),
    [
        ("accuracy 0.951, only 54 err", True),
        ("accuracy 0.955, only 61\nerr", True),
        ("accuracy 0.861, only 54 err", True),  # within a tenth
        ("accuracy 0.801, only 54 err", False),
        ("accuracy −0.951, only 54 err", False),
        ("accuracy 0.951, only 154 err", False),
        ("accuracy 0.951, only 54 erred", False),
    ],
)
def test_measured_text_is_compared_word_by_word_and_number_by_number(now, alike):
    assert (unlike("accuracy 0.951, only 54 err", now) == "") is alike
