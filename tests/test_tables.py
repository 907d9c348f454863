"""The long tables: generated, equal to the cells, and nothing in them typed."""

import json
import re
import shutil
import statistics
from pathlib import Path

import pytest

from prunekit import experiments
from prunekit.__main__ import main
from prunekit.experiments import records, tables
from prunekit.experiments.cells import shipped_results

RESULTS = Path(__file__).parents[1] / "notebooks/results"
WITH_CELLS = tables.with_cells()


@pytest.mark.parametrize("name", WITH_CELLS)
def test_the_files_say_what_the_cells_give(name):
    again = "the cells or the template have changed: run `python -m prunekit report --all`"
    page = RESULTS / f"{name}.md"
    assert (page.read_text(encoding="utf-8") if page.exists() else "") == tables.page(name), again


def test_there_is_a_file_for_each_experiment_that_has_cells_and_no_other():
    assert sorted(path.stem for path in RESULTS.iterdir()) == sorted(WITH_CELLS)
    assert {path.stem for path in tables.TEMPLATES.iterdir()} <= {*WITH_CELLS}


def numbers(text):
    return re.findall(r"\d+\.\d+", text)


def test_the_rows_of_a_page_are_the_cells():
    cells = experiments.recorded("de-lenet5")
    page = tables.page("de-lenet5")
    for cell in cells:
        line = next(
            line for line in page.splitlines()
            if line.startswith(f"| {cell['arm']} | {cell['network']} | {cell['seed']} | ")
            and line.count("|") == 10
        )  # fmt: skip
        errors = [
            cell[when][s] / cell["examples"][s] * 100
            for s in ("validation", "test")
            for when in ("before", "after")
        ]
        expected = [f"{cell['parameters'] / cell['kept']:.1f}", *(f"{e:.2f}" for e in errors)]
        assert numbers(line)[:5] == expected
        least = "" if records.is_timed(cell) else "≥ "
        assert line.endswith(f"| {least}{cell['seconds'] / 60:.1f} |")
        assert records.command(cell).partition(" --seed")[0] in page


def test_where_the_best_epoch_is_kept_the_last_one_is_told_too():
    cells = experiments.where(experiments.recorded("cdp-dtc"), penalty="cdp", threshold="fixed")
    cells = [cell for cell in cells if cell["knobs"]["delta"] == 0.05]
    head, _, row = tables.arms(cells).splitlines()
    told = dict(zip(head.split(" | "), row.split(" | "), strict=True))
    last = [cell["trace"]["info"][19]["stripes"] for cell in cells]  # of 20 epochs
    right = [cell["trace"]["accuracy"][19] for cell in cells]
    for what, values in (
        ("stripes left by the last epoch, %", [100 * share for share in last]),
        ("validation error, %, last epoch", [100 * (1 - share) for share in right]),
        ("test error, %, last epoch", [cell["trace"]["test"][19] / 100 for cell in cells]),
    ):
        assert float(told[what].split()[0]) == pytest.approx(statistics.mean(values), abs=0.051)
    assert "last epoch" not in tables.arms(experiments.recorded("cdp-dtc-lengths"))


def test_what_was_before_fine_tuning_is_told_where_there_was_some():
    for name, tuned in (("optimal-threshold", True), ("cdp-dtc-cifar", False)):
        head = tables.arms(experiments.recorded(name)).splitlines()[0]
        assert "time saved" in head
        assert ("before fine-tuning" in head) == tuned


def test_the_rows_of_an_arm_are_means_over_networks():
    cells = experiments.where(experiments.recorded("de-lenet5"), arm="evolution")
    page = tables.page("de-lenet5")
    line = next(line for line in page.splitlines() if line.startswith("| evolution | 3 "))
    sizes = [c["parameters"] / c["kept"] for c in cells]
    mean = sum(sizes) / 3
    deviation = (sum((s - mean) ** 2 for s in sizes) / 2) ** 0.5
    assert numbers(line)[:2] == [f"{mean:.1f}", f"{deviation:.1f}"]


@pytest.mark.parametrize(
    "template", sorted(tables.TEMPLATES.glob("*.md")), ids=lambda path: path.stem
)
def test_no_figure_is_typed_in_a_template(template):
    text = re.sub(r"{[^}]*}", "", template.read_text(encoding="utf-8"))
    allowed = {"0.3", "0.5", "0.917", "0.95", "0.98", "0.99"}  # settings
    assert {*numbers(text)} <= allowed


@pytest.fixture
def three(tmp_path):
    """A folder with three cells."""
    for path in shipped_results("de-lenet300").glob("evolution-[012].json"):
        shutil.copy(path, tmp_path)
    return tmp_path


def test_texts_name_figures_and_differences(three):
    names = tables.Names("de-lenet300", three)
    sizes = [records.size(cell) for cell in experiments.recorded("de-lenet300", three)]

    def said(text):
        return text.format_map(names)

    assert said("{size[evolution]:.3f}") == f"{sum(sizes) / 3:.3f}"
    assert (
        said("{size.least[evolution]:.1f} {size.most[evolution]:.1f}")
        == f"{min(sizes):.1f} {max(sizes):.1f}"
    )
    assert said("{size.each[evolution]:.1f}") == ", ".join(f"{s:.1f}" for s in sizes)
    assert said("{size[evolution − evolution]:.1f}") == "0.0"
    assert said("{size.runs[evolution]:.1f}") == said("{size.each[evolution]:.1f}")
    every = experiments.where(experiments.recorded("de-lenet300"), arm="evolution")
    mean = statistics.fmean(experiments.by_network(every, records.size).values())
    assert said("{de-lenet300.size[evolution]:.3f}") == f"{mean:.3f}"
    last = next(c for c in every if (c["network"], c["seed"]) == (2, 2))
    assert said("{de-lenet300.size.runs[evolution][8]:.1f}") == f"{records.size(last):.1f}"
    assert said("{size.compared[evolution − evolution]}") == "+0.00 (0.00; higher on 0 of 3; p = 1)"
    assert "| evolution | 0 | 0 |" in said("{rounds}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{size[evolutions]}", "no recorded cells of an arm 'evolutions'"),
        ("{sizes[evolution]}", "a measure is one of"),
        ("{size.best[evolution]}", "comes one of"),
    ],
)
def test_a_text_that_names_what_there_is_not_is_refused(three, text, message):
    with pytest.raises((ValueError, AttributeError), match=message):
        text.format_map(tables.Names("de-lenet300", three))


def test_cells_that_are_missing_are_named(tmp_path):
    for path in shipped_results("mnist-bases").glob("*.json"):
        shutil.copy(path, tmp_path)
    assert "Not recorded yet" not in tables.page("mnist-bases", tmp_path)
    (tmp_path / "vgg_small-1.json").unlink()
    said = "Not recorded yet, with the number of cells: vgg_small (1)."
    assert said in tables.page("mnist-bases", tmp_path)


def test_the_command_writes_pages(tmp_path, capsys):
    assert main(["report", "mnist-bases", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "mnist-bases.md").read_text(encoding="utf-8") == tables.page("mnist-bases")
    assert main(["report", "--out", str(tmp_path)]) == 2
    assert "pass --all" in capsys.readouterr().err
    assert main(["report", "de-vgg16", "--out", str(tmp_path)]) == 2
    assert "`python -m prunekit reproduce de-vgg16` computes them" in capsys.readouterr().err
    assert main(["report", "--all", "--out", str(tmp_path)]) == 0
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(WITH_CELLS)


def test_a_damaged_cell_stops_the_page_and_is_named(three):
    broken = three / "evolution-1.json"
    broken.write_text(json.dumps(json.loads(broken.read_text()) | {"kept": "many"}))
    with pytest.raises(ValueError, match=r"evolution-1\.json"):
        tables.page("de-lenet300", three)
