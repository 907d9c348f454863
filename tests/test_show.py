"""The command line: run, lab, list, reproduce."""

import json
import subprocess
import sys

import nbformat
import pytest

from prunekit import experiments, show
from prunekit.__main__ import main
from prunekit.experiments.cells import _read


@pytest.fixture
def small_notebook(tmp_path, monkeypatch):
    """A notebook of one cell in the place of the course."""
    path = tmp_path / "original" / "00_small.ipynb"
    path.parent.mkdir()
    said = nbformat.v4.new_output("stream", text="42\n")
    cell = nbformat.v4.new_code_cell("print(6 * 7)", execution_count=1, outputs=[said])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    monkeypatch.setattr(show, "notebooks", lambda: [path])
    return path


def test_run_prints_every_step_and_the_table_and_writes_figure_and_page(
    small_notebook, tmp_path, capsys
):
    before = small_notebook.read_bytes()
    assert main(["run", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    for i in range(1, 11):
        assert f"prune    {i:>2}/10" in said
    assert said.count("finetune  1/1") == 10
    for line in ("method", "sparsity", "compression", "parameters kept", "MACs", "make lab"):
        assert line in said
    assert "test accuracy (read once)" in said
    assert (tmp_path / "out" / "pruning.png").read_bytes().startswith(b"\x89PNG")
    assert "42" in (tmp_path / "out" / "00_small.html").read_text()
    assert small_notebook.read_bytes() == before


def test_an_interrupted_run_shows_its_partial_report_and_ends(
    small_notebook, tmp_path, capsys, monkeypatch
):
    def interrupted(steps):
        yield next(steps)
        raise KeyboardInterrupt

    monkeypatch.setattr(show, "echo", interrupted)
    assert main(["run", "--out", str(tmp_path / "out")]) == 0
    assert "magnitude (stopped)" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_page_is_not_written_when_a_cell_fails(small_notebook):
    cell = nbformat.v4.new_code_cell("1 / 0")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), small_notebook)
    with pytest.raises(Exception, match="ZeroDivisionError"):
        show.executed_page(small_notebook)


def test_lab_copies_what_is_missing_and_never_writes_over_a_copy(
    small_notebook, tmp_path, capsys, monkeypatch
):
    called = []
    monkeypatch.setattr(subprocess, "call", lambda command: called.append(command) or 0)
    folder = tmp_path / "course"
    assert main(["lab", "--folder", str(folder), "--", "--no-browser"]) == 0
    copy = folder / small_notebook.name
    copied, original = (json.loads(p.read_text()) for p in (copy, small_notebook))
    for cell in original["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"execution_count": None, "outputs": []}  # the answers are not told
    assert copied == original
    copy.write_text("mine")
    assert main(["lab", "--folder", str(folder)]) == 0
    assert copy.read_text() == "mine"
    assert f"kept:   {copy}" in capsys.readouterr().out
    assert called[0][:3] == [sys.executable, "-m", "jupyterlab"]
    assert called[0][-1] == "--no-browser"


def test_list_names_everything_there_is(capsys):
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    for name in (
        "magnitude",
        "gradual",
        "random",
        "lenet_5",
        "mnist_small",
        "cifar100",
        "00_start",
    ):
        assert f"  {name}" in said


def test_what_cannot_be_reproduced_is_said_in_one_line(capsys, monkeypatch, tmp_path):
    assert main(["reproduce", "nothing"]) == 2
    assert capsys.readouterr().err == (
        f"reproduce: experiment must be one of {experiments.names()}, got 'nothing'\n"
    )
    monkeypatch.setenv("PRUNEKIT_DATA", str(tmp_path))
    _read.cache_clear()
    assert main(["reproduce", "baselines", "--only", "dense"]) == 2
    said = capsys.readouterr().err
    assert str(tmp_path) in said
    assert "train-images-idx3-ubyte" in said
    assert "PRUNEKIT_DATA" in said
    assert main(["reproduce", "baselines", "--only", "no such arm"]) == 2
    assert "no arm of baselines contains 'no such arm'" in capsys.readouterr().err


def test_reproduce_computes_the_missing_cells_and_prints_the_table(full_mnist, tmp_path, capsys):
    arguments = ["reproduce", "baselines", "--short", "--jobs", "1", "--results", str(tmp_path)]
    arguments += ["--only", "lenet_300_100 random 0.917"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "1 cells, 0 already recorded" in said
    assert "arXiv 1506.02626, table 1" in said
    (path,) = tmp_path.glob("*.json")
    cell = json.loads(path.read_text())
    assert cell["kept"] / cell["parameters"] == pytest.approx(1 / 11.8, rel=0.01)
    assert main(arguments) == 0
    assert "1 cells, 1 already recorded" in capsys.readouterr().out
