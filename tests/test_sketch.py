"""A drawn prediction without a browser: what is taken, laid over the figure and said."""

import math
import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot
from tiny import tiny_data, tiny_model

from prunekit import magnitude
from prunekit.widgets import Panel, Sketch
from prunekit.widgets.sketch import PLACES

NAN, RUN = math.nan, SimpleNamespace(history=[0])
heights = st.lists(st.none() | st.floats(0, 1), min_size=PLACES, max_size=PLACES)


def sketch(answer=lambda steps: [], x=("sparsity", 0, 1), y=("accuracy", 0, 1)):
    return Sketch("How does it <fall>?", answer, x, y)


def send(made, drawn):
    made._handle_custom_msg({"commit": drawn}, [])


def committed(*places, **settings):
    """A sketch with a level curve, or with these heights at the first places."""
    made = sketch(**settings)
    send(made, [*places, *[None] * (PLACES - len(places))] if places else [0.5] * PLACES)
    return made


@given(heights.filter(lambda drawn: sum(h is not None for h in drawn) > 1))
def test_what_was_not_drawn_is_a_straight_line_between_and_nothing_outside(drawn):
    made = sketch()
    send(made, drawn)
    xs, ys = zip(*made.value, strict=True)
    at = [i for i, height in enumerate(drawn) if height is not None]
    span = range(at[0], at[-1] + 1)
    assert xs == pytest.approx([i / 20 for i in span])
    for i, y in zip(span, ys, strict=True):
        left, right = max(j for j in at if j <= i), min(j for j in at if j >= i)
        way = (i - left) / (right - left) if left < right else 0
        assert y == pytest.approx(drawn[left] * (1 - way) + drawn[right] * way, abs=1e-9)
    after = PLACES - 1 - at[-1]
    assert made.committed == [*[None] * at[0], *ys, *[None] * after]


@pytest.mark.parametrize(("drawn", "said"), [
    ([None] * PLACES, "First draw a curve."), ([], "First draw a curve."), (None, "First draw"),
    ([0.5] + [None] * 20, "One place is no curve"),
    ([0.5] * 20, "21 heights from 0 to 1"), ([0.5] * 20 + [1.5], "21 heights from 0 to 1"),
    ([0.5] * 20 + [NAN], "21 heights from 0 to 1"), ([-0.1] * 21, "from 0 to 1"),
])  # fmt: skip
def test_what_is_no_drawing_is_not_taken(drawn, said):
    made = sketch()
    send(made, drawn)
    assert made.value is None
    assert said in made.said


def test_it_is_committed_once_until_it_is_started_again():
    made = committed()
    value = made.value
    send(made, [0.9] * PLACES)
    assert made.value is value
    assert made.said == "committed"
    made._handle_custom_msg({"again": True}, [])
    assert made.value is None
    assert (made.said, made.committed, made.drawn) == ("", [], [None] * PLACES)
    send(made, [0.9] * PLACES)
    assert made.value[0] == (0, 0.9)


def test_each_run_has_a_prediction_and_a_drawing_of_its_own():
    made = committed()
    value = made.value
    made.turn("with training")
    assert (made.value, made.topic, made.said, made.committed) == (None, "with training", "", [])
    made.drawn = [0.1] * PLACES
    made.turn("")
    assert made.value == value
    assert made.committed == [0.5] * PLACES
    made.turn("with training")
    assert made.drawn == [0.1] * PLACES


def test_a_run_of_another_kind_is_pale():
    made = committed(answer=lambda steps: [(0.1, 0.5)])
    made.follow([1], earlier=True)
    made.turn("")
    assert (made.true, made.earlier) == ([[0.1, 0.5]], [])
    made.turn("with training")
    assert (made.true, made.earlier) == ([], [[[0.1, 0.5]]])


def test_only_what_was_drawn_is_judged():
    answer = [(0.0, 0.0), (0.05, 0.5), (0.1, 0.4), (0.9, 0.0)]
    made = committed(0.5, 0.5, 0.5, answer=lambda steps: answer)
    assert made.reveal(RUN) == (
        "On average you are 0.20 off; most at sparsity 0: you said 0.50, it is 0.00. "
        "You drew from sparsity 0 to 0.1, and only there it counts."
    )
    made = committed(0.5, 0.5, answer=lambda steps: [(0.9, 0.0)])
    assert made.reveal(RUN) == "This run gives no point of the curve from sparsity 0 to 0.05."


def test_the_run_is_drawn_into_it_over_those_before():
    made = committed(answer=lambda steps: [(step / 10, 0.5) for step in steps] + [(NAN, 1)])
    made.follow([1], earlier=True)
    made.follow([1, 2], earlier=True)
    assert made.true == [[0.1, 0.5], [0.2, 0.5]]
    assert made.earlier == []
    for _ in range(9):
        made.follow([], earlier=True)
        assert made.true == []
        assert made.earlier[-1] == [[0.1, 0.5], [0.2, 0.5]]
        made.follow([1, 2], earlier=True)
    assert len(made.earlier) == 5
    made.follow([], earlier=False)
    assert made.true == made.earlier == []


@pytest.mark.parametrize("axis", [
    ("x", 1, 0), ("x", 0, 0), ("x", 0, math.inf), ("x", NAN, 1), ("x", 0), ("x", "a", "b"), None,
])  # fmt: skip
def test_an_axis_has_a_label_and_a_length(axis):
    with pytest.raises(ValueError, match=r"Sketch: x must be \(label, low, high\) with low < high"):
        sketch(x=axis)
    with pytest.raises(ValueError, match="Sketch: y must be"):
        sketch(y=axis)


def test_the_gap_is_told_on_average_and_where_it_is_largest():
    made = committed(answer=lambda steps: [(0.3, 0.5), (0.9, 0.38), (0.6, 0.47)])
    said = made.reveal(RUN)
    assert said == ("On average you are 0.05 off; most at sparsity 0.9: you said 0.50, it is 0.38.")


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1))
def test_the_gap_is_taken_at_the_points_of_the_run(points):
    made = committed(answer=lambda steps: points)
    gaps = [abs(y - 0.5) for _, y in points]
    mean = sum(gaps) / len(gaps)
    said = made.reveal(RUN)
    if mean <= 0.01 and max(gaps) <= 0.03:
        assert said == "You are right on the spot."
        return
    told = float(re.search(r"([\d.]+) off", said)[1])
    assert told == pytest.approx(mean, abs=0.0051)
    worst = float(re.search(r"it is ([\d.]+)\.", said)[1])
    assert abs(worst - 0.5) == pytest.approx(max(gaps), abs=0.0051)


@pytest.mark.parametrize(("height", "said"), [
    (0.48, "You are right on the spot."),
    (0.4, "On average you are 0.00 off; most at sparsity 0.8: you said 0.50, it is 0.40."),
])  # fmt: skip
def test_one_large_gap_among_many_small_ones_is_not_right_on_the_spot(height, said):
    made = committed(answer=lambda steps: [*[(0.2, 0.5)] * 20, (0.8, height)])
    assert made.reveal(RUN) == said


def test_between_two_places_it_is_a_straight_line():
    made = committed(0.0, *[1.0] * 20, answer=lambda steps: [(0.025, 0.0)])
    assert "at sparsity 0.025: you said 0.50, it is 0.00." in made.reveal(RUN)


def test_the_drawing_itself_is_right_on_the_spot():
    made = committed(0.9, 0.3, 0.7)
    made.answer = lambda steps: made.value
    assert "right on the spot" in made.reveal(RUN)


@pytest.mark.parametrize(
    "answer", [[], [(0.5, NAN)], [(NAN, 0.5)], [(2.0, 0.5)], [(0.5, math.inf)], iter([])]
)
def test_a_run_without_an_answer_is_said(answer):
    said = committed(answer=lambda steps: answer).reveal(RUN)
    assert said == "This run gives no point of the curve from sparsity 0 to 1."


def test_points_without_a_value_are_counted_and_left_out():
    made = committed(answer=lambda steps: [(0.5, 0.6), (0.6, NAN), (NAN, 0.5), (0.2, 0.6)])
    assert made.reveal(RUN).endswith("it is 0.60. 2 of its 4 points have no value.")
    assert "0.10 off" in made.reveal(RUN)


def test_axes_need_not_be_shares():
    made = sketch(lambda steps: [(1, 80), (20, 40)], ("epoch", 1, 20), ("error", 0, 100))
    send(made, [50] * PLACES)
    said = "On average you are 20 off; most at epoch 1: you said 50, it is 80."
    assert made.reveal(RUN) == said
    assert made.value[0][0] == 1
    assert made.value[-1][0] == 20


def test_it_lies_dashed_over_the_figure():
    figure, axis = pyplot.subplots()
    sketch().draw(figure)
    assert not axis.lines
    made = committed(0.2, 0.4)
    made.draw(figure)
    (line,) = axis.lines
    assert [*zip(*line.get_data(), strict=True)] == made.value == [(0, 0.2), (0.05, 0.4)]
    assert line.is_dashed()
    assert [text.get_text() for text in axis.texts] == ["your guess"]
    pyplot.close(figure)


def test_a_panel_waits_for_it_and_tells_the_gap():
    def answer(steps):
        return [(step.sparsity, step.metrics["accuracy"]) for step in steps]

    made = sketch(answer)
    panel = Panel(magnitude, tiny_model(), tiny_data(), guess=made, rounds=2, epochs=1)
    panel.buttons["Run"].click()
    assert panel.report is None
    assert "commit" in panel.message.value
    send(made, [1.0] * PLACES)
    panel.buttons["Run"].click()
    assert made.true == [[*pair] for pair in answer(panel.report.history)]
    low = min(answer(panel.report.history), key=lambda point: point[1])
    said = f"most at sparsity {low[0]:.3g}: you said 1.00, it is {low[1]:.2f}."
    assert said in panel.message.value


def test_an_answer_that_is_no_curve_is_said_in_the_panel():
    made = committed(answer=lambda steps: 0.5)
    panel = Panel(magnitude, tiny_model(), tiny_data(), guess=made, rounds=1, epochs=1)
    panel.buttons["Run"].click()
    assert "the answer cannot be told: TypeError" in panel.message.value
    assert panel.report is not None


def test_repr_is_stable():
    assert repr(sketch()) == "Sketch('How does it <fall>?')"
