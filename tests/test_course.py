"""What a notebook prints about a number or an answer."""

import math
import re
import sys
import threading
import time

import numpy as np
import pytest
import torch

from prunekit import _patience, course
from prunekit.course import Verdict, holds
from prunekit.experiments.records import Difference
from prunekit.mask import Mask


def check(*answer, **settings):
    """Print the verdict, and say whether it was "right"."""
    course.check(*answer, **settings)
    return course.verdict(*answer, **settings).startswith("right")


@pytest.fixture
def said(capsys):
    """What was printed since the last time it was asked for."""
    return lambda: capsys.readouterr().out.removesuffix("\n")


# ------------------------------------------------------------------------------------ check, values

MASK = Mask({"w": torch.tensor([True, False])})


@pytest.mark.parametrize(
    ("attempt", "like"),
    [
        (0.1 + 0.2, 0.3),
        (3, 3.0),
        (np.float32(0.5), 0.5),
        ([1, 2], torch.tensor([1.0, 2.0])),
        (torch.tensor([True, False]), torch.tensor([True, False])),
        (torch.ones(2, requires_grad=True), [1.0, 1.0]),
        (True, True),
        ("layer", "layer"),
        (Mask(MASK), MASK),
        ({"a": torch.ones(2), "b": 1}, {"b": 1, "a": torch.ones(2)}),
        ([torch.ones(2), torch.ones(3)], [torch.ones(2), torch.ones(3)]),
        (["a", "b"], ["a", "b"]),
    ],
)
def test_a_right_value_is_right(attempt, like, said):
    assert check(attempt, like) is True
    assert said() == "right"


@pytest.mark.parametrize(
    ("attempt", "like"),
    [
        (0.31, 0.3),
        (math.nan, 0.3),
        (1, True),
        (torch.tensor([True, False]), True),
        (np.array(["a", "b"]), "a"),
        ("layer", "global"),
        ("0.3", 0.3),
        (Mask({"w": torch.tensor([True, True])}), MASK),
        (torch.tensor([True, False]), MASK),
        (MASK, 0.5),
        ({"a": torch.ones(2)}, {"a": torch.zeros(2)}),
        ({"a": torch.ones(2)}, {"b": torch.ones(2)}),
        ([torch.ones(2)], {"a": torch.ones(2)}),
        ([torch.ones(2), torch.ones(3)], [torch.ones(2), torch.zeros(3)]),
        ([torch.ones(2)], [torch.ones(2), torch.ones(3)]),
        (5, [torch.ones(2), torch.ones(3)]),
        (object(), 1.0),
    ],
)
def test_a_wrong_value_is_shown_beside_the_right_one_and_nothing_is_raised(attempt, like, said):
    assert check(attempt, like) is False
    line = said()
    assert line.startswith("not quite: got ")
    assert ", expected " in line


@pytest.mark.parametrize(
    ("attempt", "like", "kind"),
    [
        ([1, 2, 3], torch.tensor([1.0, 2.0]), "of shape (2,)"),
        (object(), torch.tensor(1.0), "of shape ()"),
        (torch.ones(2, 1), torch.tensor([1.0, 2.0]), "of shape (2,)"),
        (torch.tensor([1, 0]), torch.tensor([True, False]), "of True and False of shape (2,)"),
    ],
)
def test_an_answer_of_another_kind_or_shape_is_told_so(attempt, like, kind, said):
    assert check(attempt, like) is False
    assert said() == f"not quite: the answer must be a tensor {kind}"


def test_got_and_expected_are_both_shown(said):
    check(0.5, 0.25)
    assert said() == "not quite: got 0.5, expected 0.25"


def test_the_tolerance_can_be_widened(said):
    assert not check(0.31, 0.3)
    assert check(0.31, 0.3, within=0.02)


def test_of_long_values_the_first_place_that_differs_is_shown(said):
    wrong = torch.zeros(30, 30)
    wrong[7, 20] = 0.123456
    check(wrong, torch.zeros(30, 30))
    assert said() == "not quite: at place 7, at place 20: got 0.1235, expected 0"


def test_long_texts_are_cut(said):
    check("a" * 100, "b" * 100)
    got, expected = said().removeprefix("not quite: got ").split(", expected ")
    assert len(got) == len(expected) == 70
    assert got.endswith("…")


def test_numbers_have_four_digits(said):
    check(torch.tensor([0.5, -0.9, 0.1]) * 2, torch.tensor([0.8, 0.2, -1 / 3]))
    assert said() == "not quite: got [1, -1.8, 0.2], expected [0.8, 0.2, -0.3333]"


def test_three_dots_are_not_yet_an_answer(said):
    assert check(..., 3) is False
    assert said() == "not answered yet: replace the ... above and run this cell again"


# --------------------------------------------------------------------------------- check, functions


def double(x):
    return 2 * x


def square(x):
    return x * x


def unanswered(x):
    return ...


def forgets_to_return(x):
    square(x)


def fails(x):
    raise KeyError("fc1")


def spoils(x):
    x += 1
    return x - 1


ON = [(0.0,), (2.0,), (3.0,)]


def test_a_function_must_agree_on_every_example(said):
    assert check(lambda x: x + x, double, ON) is True
    assert said() == "right on all 3 examples"


def test_the_first_example_that_differs_is_shown(said):
    assert check(square, double, ON) is False
    assert said() == "not quite for 3: got 9, expected 6"


def test_a_function_without_a_return_is_told_so(said):
    assert check(forgets_to_return, double, ON) is False
    assert said() == "your function returns None: does it end with return?"
    assert check(None, 3) is False
    assert said() == "your answer is None"


@pytest.mark.parametrize("attempt", [..., unanswered])
def test_a_function_without_an_answer_is_not_answered_yet(attempt, said):
    assert check(attempt, double, ON) is False
    assert said().startswith("not answered yet: ")


@pytest.mark.parametrize(
    ("attempt", "text"),
    [
        (fails, "your answer stops with KeyError: 'fc1'"),
        (lambda: 1, "your answer stops with TypeError: .* takes 0 positional arguments"),
        (5, "your answer stops with TypeError: 'int' object is not callable"),
    ],
)
def test_an_error_in_the_answer_is_shown_and_not_raised(attempt, text, said):
    assert check(attempt, double, ON) is False
    assert re.match(text, said())


def test_an_answer_that_changes_its_arguments_spoils_no_other_example(said):
    shared = torch.ones(2)
    assert check(spoils, lambda x: x, [(shared,), (shared,)])
    assert "but it changes what it is given" in said()


def test_an_answer_that_changes_its_arguments_harms_nobody_and_is_told(said):
    on = [(torch.zeros(2),)]
    assert check(spoils, lambda x: x, on)
    assert on[0][0].tolist() == [0.0, 0.0]
    text = "right on all 1 examples, but it changes what it is given: work on a copy"
    assert said() == text


# ------------------------------------------------------------------------------------ answers that
# do not come back


def loops(x):
    while True:
        pass


def loops_and_catches(x):
    while True:
        try:
            while True:
                pass
        except Exception:
            pass


def sleeps(x):
    time.sleep(60)  # nothing can end it before it wakes


def prints(x):
    while True:
        print("here")


@pytest.mark.parametrize("attempt", [loops, loops_and_catches, sleeps])
def test_an_answer_that_does_not_come_back_is_given_up(attempt, said, monkeypatch):
    monkeypatch.setattr(course, "SECONDS", 0.3)
    monkeypatch.setattr(_patience, "GRACE", 0.3)
    began = time.monotonic()
    course.check(attempt, double, ON)
    assert time.monotonic() - began < 5
    assert said() == "your answer has not come back after 0.3 seconds: does a loop never end?"


def test_prints_of_other_threads_are_nobody_s_fault(said, monkeypatch):
    stop = threading.Event()

    def talks():
        while not stop.is_set():
            print("x" * 100)

    other = threading.Thread(target=talks)
    other.start()
    try:
        verdict = course.verdict(lambda x: time.sleep(0.1) or 2 * x, double, ON)
    finally:
        stop.set()
        other.join()
    assert verdict == "right on all 3 examples"


def test_an_answer_that_catches_all_is_ended_and_prints_no_more(said, monkeypatch):
    def stubborn(x):
        caught = 0
        while caught < 5:
            try:
                while True:
                    print("y" * 50)
            except BaseException:
                caught += 1

    before, out = threading.active_count(), sys.stdout
    verdict = course.verdict(stubborn, double, ON)
    assert "does a loop never end?" in verdict
    assert threading.active_count() == before
    assert sys.stdout is out
    assert said().count("y") <= 2_000


def test_what_was_given_up_has_ended(monkeypatch):
    monkeypatch.setattr(course, "SECONDS", 0.2)
    before = threading.active_count()
    assert "does a loop never end?" in course.verdict(loops, double, ON)
    assert threading.active_count() == before


def test_prints_without_end_are_cut(said):
    course.check(prints, double, ON)
    *printed, line = said().split("\n")
    assert line.endswith("your answer prints more than 2,000 characters: does a loop never end?")
    assert 300 < len(printed) < 500


def test_prints_of_an_answer_are_seen(said):
    def answer(x):
        print("given", x)
        return 2 * x

    assert check(answer, double, ON)
    assert "given 3.0" in said()


def test_an_interrupt_is_told_in_one_line(said, monkeypatch):
    def press(thread, seconds=None):
        if seconds == course.SECONDS:
            raise KeyboardInterrupt
        return join(thread, seconds)

    join = threading.Thread.join
    monkeypatch.setattr(threading.Thread, "join", press)
    course.check(loops, double, ON)
    assert said() == "your answer was interrupted"


@pytest.mark.parametrize("wrong", [SystemExit(3), KeyboardInterrupt()])
def test_an_answer_cannot_end_the_kernel(wrong, said):
    def leaves(x):
        raise wrong

    course.check(leaves, double, ON)
    assert said().startswith(f"your answer stops with {type(wrong).__name__}")


# -------------------------------------------------------------------------------------------- hints


def test_a_typical_wrong_answer_gets_its_hint(said):
    hints = {"you squared": square, "you did nothing": lambda x: x}
    assert check(lambda x: x, double, ON, hints=hints) is False
    assert said() == "not quite: you did nothing"
    assert check(square, double, ON, hints=hints) is False
    assert said() == "not quite: you squared"


def test_another_wrong_answer_gets_no_hint(said):
    check(lambda x: 3 * x, double, ON, hints={"you squared": square})
    assert said() == "not quite for 2: got 6, expected 4"


def test_values_have_hints_too(said):
    hints = {"that is the density": 0.25}
    assert check(0.25, 0.75, hints=hints) is False
    assert said() == "not quite: that is the density"
    assert check(0.75, 0.75, hints=hints) is True


def test_a_reference_and_hints_may_be_lists_of_results_that_give_nothing_away(said):
    on, hints = [(1,), (3,)], {"you squared": [1, 9]}
    assert check(lambda x: x + x, [2, 6], on, hints=hints)
    said()
    assert not check(lambda x: x * x, [2, 6], on, hints=hints)
    assert said().startswith("not quite: you squared")
    assert not check(lambda x: x, [2, 6], on)
    assert said().startswith("not quite for 1: got 1, expected 2")


# ------------------------------------------------------------------------------------- claims


def over(*values, fixed=None):
    return Difference(dict(enumerate(values)), fixed)


SURELY, WEAKLY, MIXED = over(1.0, 1.1, 1.2), over(0.1, 0.5, 2.0), over(1.0, -0.5, 1.0)


@pytest.mark.parametrize(("asked", "answer", "condition"), [
    (dict(more=SURELY), "holds", ""),
    (dict(less=SURELY), "does not hold", ""),
    (dict(more=MIXED), "does not hold", ""),
    (dict(less=MIXED), "does not hold", ""),
    (dict(more=WEAKLY), "holds with", "doubt"),
    (dict(more=over(1.0, -0.5, 1.0, fixed=24)), "holds with", "exceptions"),
    (dict(more=over(0.1, -0.5, 0.1, fixed=24)), "does not hold", ""),  # the mean is below
    (dict(more=over(0.1, 0.5, 2.0, fixed=24)), "holds", ""),
    (dict(less=over(-1.0, 0.5, -1.0, fixed=24)), "holds with", "exceptions"),
    (dict(less=over(-1.0, 0.5, 0.1, fixed=24)), "does not hold", ""),
    (dict(more=over(3.0)), "not tested", ""),
    (dict(more=over(3.0, 3.1)), "not tested", ""),
    ({}, "not tested", ""),
])  # fmt: skip
def test_a_verdict_follows_from_the_networks(asked, answer, condition):
    found = holds("it works", **{side: {"size": found} for side, found in asked.items()})
    assert (found.answer, found.condition) == (answer, condition)


def test_a_verdict_needs_all_of_a_claim_and_tells_its_condition():
    both = holds("it works", more={"size": SURELY}, less={"error": over(-1.0, -1.1, -1.2)})
    assert both.answer == "holds"
    assert "error: 1.10 lower on average" in str(both).lower()
    assert "size: 1.10 higher on average" in str(both).lower()
    assert (
        holds("it works", more={"size": SURELY}, less={"error": SURELY}).answer == "does not hold"
    )
    assert holds("it works", more={"size": SURELY}, less={"error": over(-1)}).answer == "not tested"
    under = holds("it works", more={"size": SURELY}, condition="a steep wheel")
    assert str(under).startswith("it works: holds with a steep wheel. Size: ")
    assert repr(under) == str(under)
    weak = holds("it works", more={"size": WEAKLY}, condition="a steep wheel")
    assert weak.condition == "a steep wheel, doubt"


def test_a_verdict_says_the_same_in_a_box_and_no_text_gets_out_of_it():
    box = holds("<i>it</i> works", more={"size": SURELY})._repr_html_()
    assert "&lt;i&gt;it" in box
    assert "✓ holds" in box
    assert "on all 3 networks" in box
    assert "background" not in box  # the page's own colours, light or dark
    for answer, (sign, colour) in course.BOXES.items():
        assert f"{sign} {answer}" in Verdict("c", answer, "", "b.")._repr_html_()
        assert colour in Verdict("c", answer, "", "b.")._repr_html_()
