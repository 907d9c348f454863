"""Figures: what they show is what they were given."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.patches import Rectangle
from tiny import tiny_data, tiny_model

from prunekit import plot
from prunekit.baselines.magnitude import magnitude
from prunekit.baselines.random import random
from prunekit.mask import Mask
from prunekit.prune import compare, prune
from prunekit.steps import Step, Tried


@pytest.fixture(autouse=True)
def fresh():
    """Every figure is drawn once, so that what cannot be drawn fails; then it goes."""
    yield
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    plt.close("all")
    matplotlib.rcdefaults()


def step(phase, index, of, kept, value):
    keep = torch.arange(4) < kept
    return Step(phase, index, of, Mask({"w": keep}), {"loss": 1 - value, "accuracy": value})


STEPS = [
    step("prune", 1, 2, 2, 0.7), step("finetune", 1, 1, 2, 0.9),
    step("prune", 2, 2, 1, 0.5), step("finetune", 1, 1, 1, 0.8),
]  # fmt: skip


def legend(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def test_axes_are_labelled():
    figure, axis = plot.axes("title", "across", "up", size=(5, 3))
    assert (axis.get_title(), axis.get_xlabel(), axis.get_ylabel()) == ("title", "across", "up")
    assert figure.get_size_inches().tolist() == [5, 3]


RUNS = {
    "magnitude": [[(0.0, 0.9), (0.5, 0.8)], [(0.0, 0.9), (0.5, 0.6)]],
    "random": [[(0.0, 0.9), (0.5, 0.3)]],
}


def test_curves_draw_the_mean_of_each_label_and_a_band_where_there_are_several_runs():
    figure = plot.curves(RUNS, title="t")
    (axis,) = figure.axes
    assert legend(axis) == ["magnitude", "random"]
    drawn = [line.get_xydata() for line in axis.lines]
    np.testing.assert_allclose(drawn, [[(0, 0.9), (0.5, 0.7)], [(0, 0.9), (0.5, 0.3)]])
    (band,) = axis.collections
    edges = band.get_paths()[0].vertices
    spread = np.std([0.8, 0.6], ddof=1)
    at_half = edges[np.isclose(edges[:, 0], 0.5), 1]
    assert at_half.min() == pytest.approx(0.7 - spread)
    assert at_half.max() == pytest.approx(0.7 + spread)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("sparsity", "validation accuracy")


def test_curves_have_different_colours_and_markers():
    lines = {str(i): [[(0, i), (1, i)]] for i in range(8)}
    axis = plot.curves(lines).axes[0]
    assert len({line.get_marker() for line in axis.lines}) == 8
    assert len({line.get_color() for line in axis.lines}) == 8


def test_the_dense_model_is_a_dashed_line_across():
    axis = plot.curves(RUNS, dense=0.95).axes[0]
    assert legend(axis) == ["magnitude", "random", "not pruned"]
    assert axis.lines[-1].get_ydata() == [0.95, 0.95]
    assert axis.lines[-1].get_linestyle() == "--"


def test_history_shows_every_step_its_phase_and_the_sparsity():
    figure = plot.history(STEPS, title="t")
    left, right = figure.axes
    assert left.lines[0].get_xydata().tolist() == [[1, 0.7], [2, 0.9], [3, 0.5], [4, 0.8]]
    assert legend(left) == ["prune", "fine-tune"]
    points = [dots.get_offsets().tolist() for dots in left.collections]
    assert points == [[[1, 0.7], [3, 0.5]], [[2, 0.9], [4, 0.8]]]
    assert right.lines[0].get_ydata().tolist() == [0.5, 0.5, 0.75, 0.75]
    assert right.get_ylabel().startswith("sparsity")
    assert left.get_ylabel() == "validation accuracy"
    assert right.get_ylim() == (0, 1)


def test_history_of_a_report_is_that_of_its_steps():
    report = prune(magnitude, tiny_model(), tiny_data(), sparsity=0.9, rounds=3, bar=False)
    assert len({s.metrics["accuracy"] for s in report.history}) > 1
    left, right = plot.history(report).axes
    assert left.lines[0].get_ydata().tolist() == [s.metrics["accuracy"] for s in report.history]
    assert right.lines[0].get_ydata().tolist() == [s.sparsity for s in report.history]


def test_dots_stand_at_their_values_in_their_rows_beside_what_they_are_compared_with():
    rows = {"first": {"few": [1.0, 3.0], "many": [0.5]}, "second": {"many": [2.0, 4.0]}}
    (axis,) = plot.dots(rows, x="error (%)", lines={"control": [5.0, 7.0]}, log=True).axes
    drawn = [c.get_offsets() for c in axis.collections if isinstance(c, PathCollection)]
    drawn = [d for d in drawn if len(d)]
    assert [d[:, 0].tolist() for d in drawn] == [[1.0, 3.0], [0.5], [2.0, 4.0]]
    assert [round(float(d[0, 1])) for d in drawn] == [0, 0, 1]
    assert drawn[0][0, 1] < drawn[1][0, 1] < drawn[2][0, 1]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["first", "second"]
    assert [t.get_text() for t in axis.get_legend().get_texts()] == ["control", "few", "many"]
    control = next(line for line in axis.lines if line.get_label() == "control")
    assert control.get_xdata() == [6.0, 6.0]
    assert axis.get_xscale() == "log"


def test_a_landscape_shows_values_dots_names_and_arrows():
    values = np.arange(6.0).reshape(2, 3)
    allowed = values < 4
    figure = plot.landscape(
        [0, 1, 2], [0, 1], values, allowed, x="a", y="b", label="kept",
        dots=[(0, 0), (1, 1)], names="x", arrows=[((0, 0), (1, 1), "there")],
    )  # fmt: skip
    axis, bar = figure.axes
    mesh = next(c for c in axis.collections if isinstance(c, QuadMesh))
    assert np.array_equal(np.asarray(mesh.get_array()).reshape(2, 3), values)
    dots = [tuple(map(float, np.ravel(line.get_xydata()))) for line in axis.lines]
    assert dots == [(0, 0), (1, 1)]
    assert [t.get_text() for t in axis.texts] == ["", "there", "x"]
    assert bar.get_ylabel() == "kept"
    hatched = [p.get_xy() for p in axis.patches if isinstance(p, Rectangle) and p.get_hatch()]
    assert hatched == [(0.5, 0.5), (1.5, 0.5)]


def test_a_tree_is_drawn_with_the_chosen_children_joined():
    tried = [Tried((3, 1, 2), 1), Tried((4, 6), 0)]
    steps = [Step("prune", 9, 9, Mask({}), {}, {"level": n + 1}, tried[n]) for n in (0, 1)]
    searched = Step("search", 1, 1, Mask({}), {}, tried=Tried((9,), 0, (5,), ((0.0,),)))
    (axis,) = plot.tree([*steps, Step("finetune", 1, 1, Mask({}), {}), searched], 10).axes
    dots = [c.get_offsets().tolist() for c in axis.collections if len(c.get_offsets())]
    assert dots[0] == [[1, pytest.approx(value)] for value in (0.7, 0.9, 0.8)]
    assert dots[1] == [[2, pytest.approx(value)] for value in (0.6, 0.4)]
    assert axis.lines[0].get_xydata().tolist() == [[1, 0.9], [2, 0.6]]


def test_a_population_is_drawn_with_its_best():
    tried = Tried((1, 2, 0), 0, (50, 20, 80), ((0.0,),) * 3)
    steps = [Step("search", i, 1, Mask({}), {}, tried=tried) for i in (0, 1)]
    (axis,) = plot.population([*steps, Step("prune", 1, 1, Mask({}), {})], 100).axes
    drawn = [c.get_offsets() for c in axis.collections if len(c.get_offsets())]
    assert [d.tolist() for d in drawn] == [[[i, 50], [i, 20], [i, 80]] for i in (0, 1)]
    assert axis.lines[0].get_ydata().tolist() == [50, 50]


def test_comparison_has_a_line_a_method_and_a_dot_a_seed():
    result = compare(
        {"by size": magnitude, "by chance": random}, tiny_model(), tiny_data(),
        seeds=(0, 1, 2), sparsity=0.6, bar=False,
    )  # fmt: skip
    (axis,) = plot.comparison(result, title="t").axes
    assert [text.get_text() for text in axis.get_yticklabels()] == ["by size", "by chance"]
    for i, reports in enumerate(result.reports.values()):
        values = [r.after["accuracy"] for r in reports]
        line = axis.containers[i]
        assert line[0].get_xdata()[0] == pytest.approx(np.mean(values))
        (left, right), *_ = (segment[:, 0] for segment in line[2][0].get_segments())
        assert right - left == pytest.approx(2 * np.std(values, ddof=1))
        dots = [c for c in axis.collections if isinstance(c, PathCollection)][i]
        assert dots.get_offsets()[:, 0].tolist() == pytest.approx(values)
    assert axis.get_xlabel() == "validation accuracy"


WEIGHTS = torch.tensor([[0.5, -1.25, 0.1], [0.0, 2.0, -0.33]])


def written(axis):
    return [text.get_text() for text in axis.texts]


def test_matrix_writes_out_every_number():
    axis = plot.matrix(WEIGHTS, title="t").axes[0]
    assert written(axis) == ["0.50", "-1.25", "0.10", "0.00", "2.00", "-0.33"]
    assert axis.images[0].get_clim() == (-2, 2)
    assert (axis.get_title(), axis.get_xlabel(), axis.get_ylabel()) == ("t", "input", "output")


def test_matrix_leaves_removed_weights_grey_with_a_zero():
    keep = WEIGHTS.abs() > 0.4
    axis = plot.matrix(WEIGHTS.requires_grad_(), keep).axes[0]
    assert written(axis) == ["0.50", "-1.25", "0", "0", "2.00", "0"]
    assert np.array_equal(np.ma.getmaskarray(axis.images[0].get_array()), ~keep.numpy())


def test_a_matrix_of_zeros_is_drawn():
    axis = plot.matrix(torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.bool)).axes[0]
    assert written(axis) == ["0"] * 4
    assert axis.images[0].get_clim() == (-1, 1)


def test_images_share_one_colour_scale_and_have_their_captions():
    pictures = [("a", torch.tensor([[0.0, 1.0]])), ("b", np.array([[-2.0, 0.5]]))]
    figure = plot.images(pictures, label="weight", title="t")
    first, second, bar = figure.axes
    assert [first.get_title(), second.get_title()] == ["a", "b"]
    assert first.images[0].get_clim() == second.images[0].get_clim() == (-2, 1)
    assert second.images[0].get_array().tolist() == [[-2.0, 0.5]]
    assert bar.get_ylabel() == "weight"
    assert figure.get_suptitle() == "t"


def test_images_keep_to_given_limits():
    figure = plot.images([("a", np.eye(2))], label="", limits=(-3, 3))
    assert figure.axes[0].images[0].get_clim() == (-3, 3)


def test_figures_are_white_also_where_the_theme_is_dark():
    plt.style.use("dark_background")
    figure, axis = plot.axes("t", "x", "y")
    assert figure.get_facecolor() == axis.get_facecolor() == (1, 1, 1, 1)
    assert axis.title.get_color() in ("black", ".15")
