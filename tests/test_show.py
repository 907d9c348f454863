"""The command line: run, lab, list, reproduce."""

import importlib
import json
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import nbformat
import pytest
from tiny import tiny_data

from prunekit import experiments, magnitude, show
from prunekit.__main__ import _parser, main
from prunekit._files import seal
from prunekit.experiments.cells import _read
from prunekit.journal import Locked
from prunekit.steps import Stopped

ROOT = Path(__file__).parents[1]


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


def test_the_links_of_the_pages_lead_to_pages(small_notebook, tmp_path):
    links = "[next](01_b.ipynb), [table](results/table.md), [paper](https://a.org/b.md)"
    nb = nbformat.read(small_notebook, as_version=4)
    nb.cells.append(nbformat.v4.new_markdown_cell(links))
    nbformat.write(nb, small_notebook)
    (small_notebook.parent / "results").mkdir()
    (small_notebook.parent / "results/table.md").write_text("| a |\n|---|\n| 43 |\n")
    assert main(["run", "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out/00_small.html").read_text()
    for link in ("01_b.html", "results/table.html", "https://a.org/b.md"):
        assert f'href="{link}"' in page
    assert "<td>43</td>" in (tmp_path / "out/results/table.html").read_text()


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


def test_where_nothing_can_be_written_nothing_is_computed(
    small_notebook, tmp_path, capsys, monkeypatch
):
    def too_early(*_, **__):
        raise AssertionError("it was begun")

    monkeypatch.setattr(show, "prune", too_early)
    monkeypatch.setattr(experiments, "outcomes", too_early)
    monkeypatch.setattr("prunekit.widgets.replay.write_page", too_early)
    (tmp_path / "file").touch()
    (tmp_path / "pages" / "00_small.html").mkdir(parents=True)
    file, short = tmp_path / "file", ["--short", "--arm", "lenet_5 dense"]
    for words, named in (
        (["run", "--out", str(file)], file / "pruning.png"),
        (["run", "--out", str(tmp_path / "pages")], tmp_path / "pages" / "00_small.html"),
        (["page", "roulette", str(tmp_path)], tmp_path),
        (["page", "roulette", str(file / "page.html")], file / "page.html"),
        (["reproduce", "baselines", *short, "--results", str(file)], file / "lenet_5-dense-0.json"),
    ):
        assert main(words) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert f"error: {named} " in said.err
    monkeypatch.setenv("PRUNEKIT_HOME", str(file))  # where the journals would lie
    assert main(["reproduce", "baselines", *short, "--results", str(tmp_path / "cells")]) == 2
    assert f"error: {file / 'journals'}" in capsys.readouterr().err
    assert not (tmp_path / "cells").exists()


def test_a_page_is_not_written_when_a_cell_fails(small_notebook):
    cell = nbformat.v4.new_code_cell("1 / 0")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), small_notebook)
    with pytest.raises(Exception, match="ZeroDivisionError"):
        show.executed_page(small_notebook)


def test_lab_copies_what_is_missing_and_never_writes_over_a_copy(
    small_notebook, tmp_path, capsys, monkeypatch
):
    called = []
    monkeypatch.setattr(show, "_until_it_ends", lambda command: called.append(command) or 0)
    folder = tmp_path / "course"
    assert main(["lab", "--folder", str(folder), "--", "--no-browser"]) == 0
    copy = folder / small_notebook.name
    copied, original = (json.loads(p.read_text()) for p in (copy, small_notebook))
    for cell in original["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"execution_count": None, "outputs": []}  # the answers are not told
    assert copied["metadata"].pop("prunekit").keys() == {"original"}
    assert copied == original
    copy.write_text("mine")
    assert main(["lab", "--folder", str(folder)]) == 0
    assert copy.read_text() == "mine"
    assert f"kept:   {copy}" in capsys.readouterr().out
    assert called[0][:3] == [sys.executable, "-m", "jupyterlab"]
    assert called[0][-1] == "--no-browser"


def test_where_an_original_has_changed_the_new_one_is_put_beside_the_copy_once(
    small_notebook, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(show, "_until_it_ends", lambda command: 0)
    copy = tmp_path / "course" / small_notebook.name

    def lab():
        assert main(["lab", "--folder", str(copy.parent)]) == 0
        return capsys.readouterr().out

    lab()
    own = copy.read_text()
    assert "delete it to get the original again" in lab()
    assert [*copy.parent.glob("*.ipynb")] == [copy]
    content = nbformat.read(small_notebook, as_version=4)
    content.cells.append(nbformat.v4.new_markdown_cell("A new paragraph."))
    nbformat.write(content, small_notebook)
    said = lab()
    (newer,) = copy.parent.glob("*.new-??????.ipynb")
    assert f"its original has changed: {newer.name}" in said
    assert copy.read_text() == own
    assert "A new paragraph." in newer.read_text()
    newer.write_text("worked in")
    assert f"its original has changed: {newer.name}" in lab()
    assert newer.read_text() == "worked in"


def test_a_copy_keeps_what_a_cell_tagged_so_shows(small_notebook, tmp_path, monkeypatch):
    monkeypatch.setattr(show, "_until_it_ends", lambda command: 0)
    content = nbformat.read(small_notebook, as_version=4)
    shown = nbformat.v4.new_output("execute_result", {"text/plain": "a picture"}, execution_count=3)
    content.cells.append(nbformat.v4.new_code_cell("2", execution_count=3, outputs=[shown]))
    content.cells[1].metadata["tags"] = ["keep"]
    nbformat.write(content, small_notebook)
    assert main(["lab", "--folder", str(tmp_path)]) == 0
    copied = json.loads((tmp_path / small_notebook.name).read_text())["cells"]
    assert copied[0]["outputs"] == []
    (kept,) = copied[1]["outputs"]
    assert (kept["data"], kept["execution_count"]) == ({"text/plain": ["a picture"]}, None)
    assert {cell["execution_count"] for cell in copied} == {None}


def test_every_link_of_a_copy_leads_to_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(show, "_until_it_ends", lambda command: 0)
    (tmp_path / "results").mkdir()
    (tmp_path / "results/roulette.md").write_text("mine")
    assert main(["lab", "--folder", str(tmp_path)]) == 0
    copies = [*tmp_path.glob("*.ipynb")]
    cells = [cell for copy in copies for cell in json.loads(copy.read_text())["cells"]]
    words = "".join(
        line for cell in cells if cell["cell_type"] == "markdown" for line in cell["source"]
    )
    links = {link for link in re.findall(r"\]\(([^)#]+)", words) if "://" not in link}
    assert links >= {"results/baselines.md", "01_roulette.ipynb"}
    assert [link for link in links if not (tmp_path / link).is_file()] == []
    assert (tmp_path / "results/roulette.md").read_text() == "mine"


SHOWN = """from prunekit.widgets import GeneMap
GeneMap([1, 2], [1, 2], [[5, 6], [7, 8]], [[True, False]] * 2, x="one", y="two", stored={})"""


def test_a_page_shows_a_view_from_its_data_or_a_picture(tmp_path):
    code = [nbformat.v4.new_code_cell(SHOWN.format(stored)) for stored in (True, False)]
    nbformat.write(nbformat.v4.new_notebook(cells=code), tmp_path / "00_a.ipynb")
    page = show.executed_page(tmp_path / "00_a.ipynb")
    assert page.count('show(document.getElementById("prunekit-') == 1
    assert page.count('<img alt="GeneMap') == 1
    assert "to make it live" not in page  # nothing can be run there
    assert page.count("In JupyterLab it is live.") == 1
    assert "application/vnd.jupyter.widget-state+json" not in page


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
    who = "python -m prunekit reproduce: error: "
    assert main(["reproduce", "nothing"]) == 2
    assert capsys.readouterr().err == (
        f"{who}experiment must be one of {experiments.names()}, got 'nothing'\n"
    )
    for words, said in (
        (["--arm", "lenet_5 dens"], "baselines has no arm 'lenet_5 dens'. Did you mean"),
        (["--only", "no such"], "baselines has no arm that contains 'no such'"),
        (["--network", "3"], "baselines has no cell from network 3"),
        (["--short", "--again"], "there is no recorded cell of baselines to compare"),
    ):
        assert main(["reproduce", "baselines", *words]) == 2
        error = capsys.readouterr().err
        assert error.startswith(who + said)
        assert error.count("\n") == 1
    monkeypatch.setenv("PRUNEKIT_DATA", str(tmp_path))
    _read.cache_clear()
    assert main(["reproduce", "baselines", "--only", "dense"]) == 2
    said = capsys.readouterr().err
    assert str(tmp_path) in said
    assert "train-images-idx3-ubyte" in said
    assert "PRUNEKIT_DATA" in said


def command(*words, called="/somewhere/bin/prunekit"):
    """The command as its own process, called by that path."""
    code = f"import sys; sys.argv[0] = {called!r}\nfrom prunekit.__main__ import main\n"
    return [sys.executable, "-c", code + "sys.exit(main())", *words]


def run(*words, **settings):
    return subprocess.run(command(*words, **settings), capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("called", "prog"),
    [("/somewhere/bin/prunekit", "prunekit"), ("prunekit/__main__.py", "python -m prunekit")],
)
def test_it_is_called_by_its_name_and_says_what_is_wrong_in_one_line(
    called, prog, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", [called])
    for words, who, said in (
        ([], prog, "the following arguments are required: command"),
        (["page", "roulette"], f"{prog} page", "the following arguments are required: out"),
        (["reproduce", "x", "--jobs", "0"], f"{prog} reproduce",
         "argument --jobs: must be a whole number from 1, got '0'"),
        (["reproduce", "x", "--seed", "one"], f"{prog} reproduce",
         "argument --seed: must be a whole number from 0, got 'one'"),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
        assert capsys.readouterr() == ("", f"{who}: error: {said}; see {who} --help\n")


def test_a_process_of_its_own_ends_with_the_same_words_and_code():
    done = run("page", "roulette")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "prunekit page: error: the following arguments are required: out; "
        "see prunekit page --help\n"
    )


def test_the_help_explains_every_argument_with_its_default():
    done = run("--help")
    assert done.returncode == 0
    for name in ("run", "lab", "list", "reproduce", "page", "doctor"):
        assert re.search(rf"^    {name}\b", done.stdout, re.MULTILINE)
    assert ">>>" not in done.stdout
    for name, parser in parsers().items():
        for action in parser._actions:
            assert action.help, f"{name}: {action.dest}"
            optional = action.option_strings and action.dest not in ("help", "only")
            assert not optional or "default: " in action.help, f"{name}: {action.dest}"
    said = run("reproduce", "--help").stdout
    assert "prunekit reproduce baselines --short" in said
    assert "PRUNEKIT_DATA" in said


def parsers():
    (commands,) = (a for a in _parser()._actions if isinstance(a.choices, dict))
    return commands.choices


def test_the_installed_command_is_this_one():
    target = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["prunekit"]
    module, _, function = target.partition(":")
    assert getattr(importlib.import_module(module), function) is main


CHILD = """
import pathlib, signal, sys, time
def end(*_):
    pathlib.Path(sys.argv[1]).write_text("ended")
    sys.exit(int(sys.argv[2]))
signal.signal(signal.SIGTERM, end if sys.argv[2] != "never" else signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGTERM")
@pytest.mark.parametrize(("how", "code"), [("5", 5), ("never", 128 + signal.SIGKILL)])
def test_sigterm_to_lab_ends_jupyterlab(tmp_path, how, code):
    child = [sys.executable, "-c", CHILD, str(tmp_path / "said"), how]
    program = f"from prunekit.show import _until_it_ends as run; exit(run({child!r}, 1.0))"
    started = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert started.stdout.readline() == "ready\n"
    time.sleep(0.2)
    started.terminate()
    rest, _ = started.communicate(timeout=30)  # ends only when the child's output is closed too
    assert (started.returncode, rest) == (code, "")
    assert (tmp_path / "said").exists() == (how != "never")


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGTERM")
def test_sigterm_to_reproduce_is_an_interrupt(full_mnist, tmp_path):
    words = ["reproduce", "mnist-bases", "--short", "--jobs", "1", "--results", str(tmp_path)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    started = subprocess.Popen(command(*words), **pipes)
    for _ in range(2):
        assert started.stdout.readline()  # it has begun
    started.terminate()
    _, said = started.communicate(timeout=120)
    assert started.returncode == 130
    assert "prunekit reproduce: interrupted; what is finished is kept" in said


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


def test_a_cell_computed_again_agrees_until_its_record_is_another(full_mnist, tmp_path, capsys):
    words = ["reproduce", "baselines", "--short", "--jobs", "1"]
    words += ["--arm", "lenet_300_100 magnitude without fine-tuning", "--network", "0"]
    assert main(words) == 0
    assert main([*words, "--again"]) == 0
    line = "lenet_300_100 magnitude without fine-tuning, network 0, seed 0"
    said = capsys.readouterr()
    assert f"{line}: equal\n" in said.out
    folder = experiments.results_folder("baselines", short=True)
    (path,) = folder.glob("*.json")
    cell = json.loads(path.read_text())
    cell["after"]["test"] += 1
    path.write_text(json.dumps(seal(cell, cell["format"])))
    assert main([*words, "--again", "--results", str(tmp_path / "again")]) == 1
    said, n = capsys.readouterr(), cell["after"]["test"]
    assert f"{line}: not: after, test: {n} against {n - 1}\n" in said.out
    assert said.err.endswith(
        f"baselines, {line}: does not agree, after, test: {n} against {n - 1}\n"
    )
    assert len([*(tmp_path / "again").glob("*.json")]) == 1
    path.unlink()


ARM = experiments.Arm(magnitude, {}, "lenet_5")


def test_a_cell_that_fails_is_a_line_and_the_exit_code(monkeypatch, capsys, tmp_path):
    toy = experiments.Experiment(
        "toy", "A toy", "nobody", "reproduction", tiny_data, dict.fromkeys("abcd", ARM)
    )
    cells = [experiments.Cell(toy, name, None, 0, False, tmp_path) for name in "abcd"]
    outcomes = [{"seconds": 3}, ValueError("no\nluck"), Locked("in use"), Stopped()]
    failed, finished = show._outcomes(
        "toy", cells, 4, lambda cells: zip(cells, outcomes, strict=True)
    )
    assert failed == ["b, seed 0: failed: ValueError: no luck"]
    assert [cell.name for cell, _ in finished] == ["a"]
    said = capsys.readouterr()
    for line in ("a, seed 0: 3 s", "c, seed 0: runs elsewhere, passed over", "d, seed 0: its time"):
        assert line in said.out
    monkeypatch.setattr(experiments, "load", lambda name: toy)
    monkeypatch.setattr(experiments, "chosen", lambda *_, **__: cells)
    monkeypatch.setattr(show, "_grid", lambda *_: failed)
    monkeypatch.setattr(show, "_try_places", lambda *_, **__: None)
    assert show.reproduce(["toy"], which={}) == 1
    assert capsys.readouterr().err == "toy, b, seed 0: failed: ValueError: no luck\n"
