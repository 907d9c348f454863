"""Exercises and open tasks: right answers, hints that fit their mistakes, and the board."""

import importlib
import json
import re
from itertools import combinations
from pathlib import Path

import pytest
import torch

from prunekit import course, evaluate, exercises, pretrained
from prunekit.datasets import mnist_small
from prunekit.mask import Mask, prunable

FOLDER = Path(exercises.__file__).parent
MODULES = {
    path.stem: importlib.import_module(f"prunekit.exercises.{path.stem}")
    for path in FOLDER.glob("[a-z]*.py")
}
ASKED = {name: one for module in MODULES.values() for name, one in module.EXERCISES.items()}
NOTEBOOKS = {
    path.stem[3:]: json.loads(path.read_text())
    for path in (FOLDER.parents[1] / "notebooks").glob("0*.ipynb")
}


@pytest.fixture
def board(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNEKIT_HOME", str(tmp_path))
    exercises._rivals.cache_clear()
    return tmp_path / "boards"


@pytest.fixture
def task(monkeypatch):
    """An open task that takes no time."""
    one = exercises.Challenge(
        lambda own: float(exercises.answered(own)), "points", "lowest", lambda: {"theirs": 2.5}
    )
    monkeypatch.setattr(MODULES["start"], "CHALLENGES", {"points": one})


def told(name, attempt):
    one = ASKED[name]
    return course.verdict(attempt, one.right, one.on, hints=one.hints, within=one.within)


@pytest.mark.parametrize("name", ASKED)
def test_the_right_answer_is_right_and_each_typical_mistake_gets_its_own_hint(name):
    assert told(name, ASKED[name].right) == f"right on all {len(ASKED[name].on)} examples"
    for text, typical in ASKED[name].hints.items():
        assert told(name, typical) == f"not quite: {text}"


@pytest.mark.parametrize("notebook", MODULES)
def test_a_notebook_asks_what_its_module_holds(notebook):
    text = "\n".join("".join(cell["source"]) for cell in NOTEBOOKS[notebook]["cells"])
    assert re.findall(r'^exercise\("(\w+)"', text, re.MULTILINE) == [*MODULES[notebook].EXERCISES]
    assert re.findall(r'^challenge\("(\w+)"', text, re.MULTILINE) == [*MODULES[notebook].CHALLENGES]
    assert {*MODULES} == {*NOTEBOOKS}


def _by_differences(one, other):
    """Right where labels are 0 and 1 alone, and there are four filters."""
    pairs = [*combinations(range(len(one)), 2)]
    alike = [abs(one[i] - one[j]) == abs(other[i] - other[j]) for i, j in pairs]
    return sum(alike) / 6


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("rand_index", _by_differences),
        ("just_lives", lambda base, m, k: (base * m) ** 0.5 / 3),
        ("macs_left", [0.25, 0.49, 0.81]),
    ],
)
def test_what_is_right_by_chance_or_typed_off_is_not_right(name, wrong, capsys):
    exercises.exercise(name, wrong)
    assert capsys.readouterr().out.startswith("not quite")


def test_a_mark_raises_unless_the_answer_is_right():
    own = exercises.Exercise(abs, [(-1,), (2,)])
    exercises.mark(own, lambda x: max(x, -x))
    exercises.mark("compression", ASKED["compression"].right)
    for asked, attempt, said in (
        (own, lambda x: x, "not quite for -1"),
        (own, ..., "not answered yet"),
        (own, [1, 2], "must be a function"),
        ("compression", lambda *given: 0, "not quite"),
    ):
        with pytest.raises(AssertionError, match=said):
            exercises.mark(asked, attempt)


def test_rivals_draw_from_a_seed_of_their_own():
    w, before = torch.zeros(3, 4), torch.get_rng_state()
    drawn = MODULES["start"]._drawn
    assert torch.equal(drawn(w), drawn(w))
    assert torch.equal(torch.get_rng_state(), before)


NO_LINES = "a line from 0 to 1 is needed for each of"


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ((-0.1, 0, 0), NO_LINES),
        ((0, 0, 1.1), NO_LINES),
        ((5, 5, 5), NO_LINES),
        ((0.9, 0.9, 0.9), "points of accuracy are lost"),
    ],
)
def test_lines_that_do_not_count_are_told_before_any_search(lines, why, monkeypatch):
    monkeypatch.delattr(MODULES["optimal_threshold"], "views")
    with pytest.raises(ValueError, match=why):
        MODULES["optimal_threshold"].CHALLENGES["lines"].judge(lines)


def test_names_are_of_one_exercise():
    assert len(ASKED) == sum(len(module.EXERCISES) for module in MODULES.values())
    for ask in (exercises.exercise, exercises.challenge):
        with pytest.raises(ValueError, match="exercises: 'nonsense' is none of "):
            ask("nonsense", ...)


def test_the_board_has_the_best_first_and_the_last_marked(board, task, capsys):
    for own in (3, 1, 2):
        exercises.challenge("points", own)
    *_, last = capsys.readouterr().out.split("points: ")
    lines = [line.split()[:3] for line in last.splitlines()]
    assert lines[0] == ["2"]
    assert [line[1] for line in lines[1:]] == ["1", "2", "2.5", "3"]
    assert [place for place, line in enumerate(last.splitlines()) if "←" in line] == [2]
    assert "theirs" in last


def test_an_unanswered_or_failing_answer_is_told_and_not_kept(board, task, capsys):
    for own, text in (
        (..., "not answered yet"), ("a", "does not count: could not convert"),
        (float("nan"), "no result"), ([1], "stops with TypeError"),
    ):  # fmt: skip
        exercises.challenge("points", own)
        assert text in capsys.readouterr().out
    assert not board.exists()


@pytest.mark.parametrize("text", ["", "{", '{"value": 1}', '[{"when": "now"}]'])
def test_a_damaged_board_begins_anew(board, task, text, capsys):
    board.mkdir()
    (board / "points.json").write_text(text)
    exercises.challenge("points", 1)
    exercises.challenge("points", 4)
    assert [own["value"] for own in json.loads((board / "points.json").read_text())] == [1, 4]


def test_a_board_that_cannot_be_kept_is_told_after_the_result(board, task, capsys, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exercises, "replacing", full)
    exercises.challenge("points", 1)
    said = capsys.readouterr().out
    assert said.startswith("points: 1\nthis result is not kept: ")
    assert "←" in said


def test_of_many_equal_results_the_last_is_shown(board, task, capsys):
    for _ in range(8):
        exercises.challenge("points", 1)
    last = capsys.readouterr().out.split("points: ")[-1]
    assert last.count("←") == 1
    assert last.count("yours") == exercises.SHOWN


def test_a_function_that_gives_nothing_or_never_ends_is_told_soon(monkeypatch, capsys, tmp_path):
    def endless(*given):
        while True:
            pass

    def unwritten(*given):
        raise NotImplementedError

    calling = exercises.Challenge(lambda f: float(f(1)), "points", "highest", lambda: {})
    monkeypatch.setattr(exercises, "_named", lambda kind, name: calling)
    monkeypatch.setattr(exercises, "_rivals", lambda name: {})
    monkeypatch.setattr(exercises, "SECONDS", 0.2)
    monkeypatch.setenv("PRUNEKIT_HOME", str(tmp_path))
    for own, text in (
        (lambda x: None, "your function returns None"),
        (endless, "your answer has not come back after 0.2 seconds"),
        (lambda x: ..., "stops with TypeError"),
        (lambda x: int("a"), "your answer stops with ValueError: invalid literal"),
        (unwritten, "not answered yet"),
        (lambda x: x + 1, "points: 2"),
    ):
        exercises.challenge("points", own)
        assert text in capsys.readouterr().out


def test_an_answer_may_not_end_the_kernel(board, task, capsys):
    class Leaves:
        def __float__(self):
            raise SystemExit

    exercises.challenge("points", Leaves())
    assert "stops with SystemExit" in capsys.readouterr().out


def test_three_numbers_may_be_any_three():
    judge_ = MODULES["differential_evolution"].CHALLENGES["sensitivities"].judge
    assert judge_(torch.tensor([0.5, 0.5, 0.5])) == judge_((0.5, 0.5, 0.5))


def test_a_score_is_judged_on_the_three_networks():
    values = []
    for number in range(3):
        net = pretrained("lenet_300_100", number)
        weights = prunable(net)
        row = torch.cat([w.detach().abs().flatten() for w in weights.values()])
        cut = row.kthvalue(round(0.95 * len(row))).values
        mask = Mask({name: w.detach().abs() > cut for name, w in weights.items()})
        values.append(evaluate(net, mnist_small(), mask=mask))
    assert MODULES["start"]._score(torch.abs) == pytest.approx(sum(values) / 3, abs=1e-3)


@pytest.mark.parametrize(
    ("notebook", "task", "wrong", "why"),
    [
        ("start", "score", lambda w: w[0], "a score is needed for each of the"),
        ("start", "score", lambda w: w / 0, "all finite"),
        ("roulette", "wheel", lambda a: -a, "not below 0"),
        ("roulette", "wheel", lambda a: a[:1], "a slice for each of the 235200"),
        ("roulette", "wheel", lambda a: a * float("nan"), "finite"),
        ("differential_evolution", "sensitivities", (1.0, 2.0), "three sensitivities"),
        ("differential_evolution", "sensitivities", "abc", "three sensitivities"),
        ("differential_evolution", "sensitivities", (3.0, 3.0, 3.0), "points of accuracy are lost"),
        ("filter_clustering", "survivors", lambda rows, k: [0] * k, "the places of 10 of the 20"),
        ("filter_clustering", "survivors", lambda rows, k: range(len(rows), len(rows) + k),
         "the places of 10 of the 20"),
        ("cdp_dtc", "knobs", 3, "knobs of cdp_dtc, by name"),
        ("cdp_dtc", "knobs", dict(epochs=60), "epochs is the same for all"),
        ("optimal_threshold", "lines", 0.5, "a line from 0 to 1 is needed for each of conv1"),
    ],
)  # fmt: skip
def test_what_is_no_answer_to_an_open_task_is_refused_with_a_reason(notebook, task, wrong, why):
    with pytest.raises(ValueError, match=why):
        MODULES[notebook].CHALLENGES[task].judge(wrong)
