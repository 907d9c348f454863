"""The form of the notebooks; their outputs are compared by nbval."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

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
    code = cells(path, "code")
    assert 12 <= len(code) <= 20
    assert max(len(source(cell).splitlines()) for cell in code) <= 15


@each_notebook
def test_it_explains_what_it_does(path):
    words = sum(len(source(cell).split()) for cell in cells(path, "markdown"))
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
def test_it_has_three_exercises_that_its_own_solutions_pass(path, capsys, monkeypatch):
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    found = json.loads(path.read_text())["cells"]
    names: dict = {}
    exec(source(cells(path, "code")[0]), names)
    solved = 0
    for cell, after in pairwise(found):
        solution = re.search(r"```python\n(.*?)```\s*(?:.*)</details>", source(after), re.DOTALL)
        if cell["cell_type"] != "code" or "check(" not in source(cell) or not solution:
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
