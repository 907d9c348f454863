"""Figures: what they show is what they were given."""

import inspect
import io

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from tiny import tiny_data, tiny_images, tiny_model, tiny_residual

from prunekit import plot, surgery
from prunekit.baselines.magnitude import magnitude
from prunekit.baselines.random import random
from prunekit.looks import COLOURS, FAINTEST, INK, NEGATIVE, POSITIVE
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
    legend = axis.get_legend() or axis.figure.legends[0]
    return [text.get_text() for text in legend.get_texts()]


def test_axes_are_labelled():
    figure, axis = plot.axes("title", "across", "up", size=(5, 3))
    assert (axis.get_title(), axis.get_xlabel(), axis.get_ylabel()) == ("title", "across", "up")
    assert figure.get_size_inches().tolist() == [5, 3]


def test_a_long_title_goes_on_in_another_line():
    words = "every weight that is there " * 6
    figure, axis = plot.axes(words, "x", "y")
    assert axis.get_title().split() == words.split()
    figure.canvas.draw()
    title = axis.title.get_window_extent()
    assert 0 <= title.x0 < title.x1 <= figure.bbox.x1
    assert title.y1 <= figure.bbox.y1


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


def test_curves_of_any_number_can_be_told_apart():
    lines = {str(i): [[(0, i), (1, i)]] for i in range(40)}
    axis = plot.curves(lines).axes[0]
    assert legend(axis) == [*lines]
    looks = [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in axis.lines]
    assert len(set(looks)) == 40
    assert len({colour for colour, *_ in looks}) == len(COLOURS)


def test_a_point_of_a_paper_and_the_part_that_is_shown():
    figure = plot.curves(RUNS, points={"the paper": (0.4, 0.95)}, xlim=(0, 0.5), ylim=(0.5, 1))
    (axis,) = figure.axes
    assert legend(axis) == ["magnitude", "random", "the paper"]
    assert axis.lines[-1].get_xydata().tolist() == [[0.4, 0.95]]
    assert (axis.get_xlim(), axis.get_ylim()) == ((0, 0.5), (0.5, 1))


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
    steps = [Step("search", i, 2, Mask({}), {}, tried=tried) for i in (1, 2)]
    (axis,) = plot.population([*steps, Step("prune", 1, 1, Mask({}), {})], 100).axes
    drawn = [c.get_offsets() for c in axis.collections if len(c.get_offsets())]
    assert [d.tolist() for d in drawn] == [[[i, 50], [i, 20], [i, 80]] for i in (1, 2)]
    assert axis.lines[0].get_ydata().tolist() == [50, 50]


def test_of_each_generation_the_chosen_one_is_joined():
    (axis,) = plot.generations([(1, [3.0, 4.0], 1), (3, [2.0], 0)], x="x", y="y").axes
    assert axis.lines[0].get_xydata().tolist() == [[1, 4], [3, 2]]
    assert legend(axis) == ["a candidate", "the best"]
    assert plot.generations([], x="x", y="y").axes[0].lines[0].get_xydata().tolist() == []


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


def test_matrix_writes_out_every_number_below_its_colour():
    axis = plot.matrix(WEIGHTS, title="t").axes[0]
    assert written(axis) == ["0.50", "-1.25", "0.10", "0.00", "2.00", "-0.33"]
    for patch, w in zip(axis.patches, WEIGHTS.flatten().tolist(), strict=True):
        *colour, opacity = patch.get_facecolor()
        assert colour == pytest.approx(to_rgb(POSITIVE if w >= 0 else NEGATIVE), abs=0.01)
        assert opacity == pytest.approx(FAINTEST + (1 - FAINTEST) * abs(w) / 2, abs=0.01)
    assert (axis.get_title(), axis.get_xlabel(), axis.get_ylabel()) == ("t", "input", "output")


def test_matrix_hatches_removed_weights_and_writes_a_zero():
    keep = WEIGHTS.abs() > 0.4
    axis = plot.matrix(WEIGHTS.clone().requires_grad_(), keep).axes[0]
    assert written(axis) == ["0.50", "-1.25", "0", "0", "2.00", "0"]
    assert [bool(patch.get_hatch()) for patch in axis.patches] == (~keep).flatten().tolist()


def test_a_matrix_of_zeros_is_drawn():
    axis = plot.matrix(torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.bool)).axes[0]
    assert written(axis) == ["0"] * 4


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


# ------------------------------------------------------------------- names, and light and dark pages

NAMES = ["magnitude", "random", "inv-4, B = 1", "inv-4, B = 40", "mine", "yours", "theirs"]
TRIED = [Step("prune", 1, 1, Mask({}), {}, {"level": n}, Tried((3, 1), 1)) for n in (1, 2)]
BRED = [
    Step("search", n, 2, Mask({}), {}, tried=Tried((1, 2), 0, (50, 20), ((0.0,),) * 2))
    for n in (1, 2)
]
FIGURES = {
    "axes": lambda: plot.axes("t", "x", "y")[0],
    "curves": lambda: plot.curves(
        {name: [[(0, i), (1, i + 1)], [(0, i), (1, i + 2)]] for i, name in enumerate(NAMES)},
        dense=1, points={"the paper": (0.5, 2)}, title="t",
    ),
    "scatter": lambda: plot.scatter(
        {name: [(i, i), (i + 1, i)] for i, name in enumerate(NAMES)},
        x="x", y="y", title="t", lines={"the paper": 2},
    ),
    "history": lambda: plot.history(STEPS, "t", dense=0.95),
    "dots": lambda: plot.dots(
        {row: {name: [1.0, 2.0 + i] for i, name in enumerate(NAMES)} for row in "abcdef"}, x="x",
        lines={"|gradient|": [3.0, 4.0], "the paper": [2.0]}, title="t",
    ),
    "comparison": lambda: plot.comparison(
        compare({"magnitude": magnitude, "random": random}, tiny_model(), tiny_data(),
                seeds=(0, 1), sparsity=0.6, bar=False), "t",
    ),
    "groups": lambda: plot.groups(surgery.groups(tiny_residual(), tiny_images().example)),
    "matrix": lambda: plot.matrix(WEIGHTS, WEIGHTS.abs() > 0.4, "t"),
    "images": lambda: plot.images([("a", WEIGHTS)], label="weight", cmap="weights", title="t"),
    "wheel": lambda: plot.wheel([0.5, 0.3, 0.2], [3.0, 2.0, 1.0], "t", [1]),
    "landscape": lambda: plot.landscape(
        [0, 1, 2], [0, 1], np.arange(6.0).reshape(2, 3), np.arange(6).reshape(2, 3) < 4,
        x="a", y="b", label="kept", title="t", dots=[(0, 0), (1, 1)], names="x",
        arrows=[((0, 0), (1, 1), "there")],
    ),
    "generations": lambda: plot.generations([(1, [3.0, 4.0], 0), (2, [2.0], 0)], x="x", y="y"),
    "population": lambda: plot.population(BRED, 100, "t"),
    "tree": lambda: plot.tree(TRIED, 10, "t"),
}  # fmt: skip
PAGES = {"white": 4.5, "#111111": 3.5}  # the contrast that ink has at least; data colours have 3


def test_no_figure_is_forgotten():
    made = {
        n for n, f in vars(plot).items() if inspect.isfunction(f) and f.__module__ == plot.__name__
    }
    assert {name for name in made if name[0] != "_"} == {*FIGURES, "style", "way", "prepare"}


@pytest.mark.parametrize("name", FIGURES)
def test_what_is_written_and_drawn_can_be_read_on_every_page(name):
    figure = FIGURES[name]()
    figure.set_dpi(200)
    figure.canvas.draw()
    rgba = np.asarray(figure.canvas.buffer_rgba()) / 255
    texts = shown_texts(figure)
    assert texts
    for page, least in PAGES.items():
        seen = luminance(
            rgba[..., :3] * rgba[..., 3:] + np.array(to_rgb(page)) * (1 - rgba[..., 3:])
        )
        assert np.allclose(seen[0, 0], luminance(to_rgb(page)))  # nothing is behind the figure
        for text in texts:
            box = text.get_window_extent()
            rows = slice(int(len(seen) - box.y1), int(len(seen) - box.y0) + 1)
            part = seen[rows, int(box.x0) : int(box.x1) + 1]
            assert contrast(part.max(), part.min()) >= least - 0.02, (text.get_text(), page)
        for colour in data_colours(figure):
            assert contrast(luminance(colour), luminance(to_rgb(page))) >= 3, (colour, page)


def shown_texts(figure):
    """All texts, but the ticks beyond the ends of their axes."""
    ticks = [
        tick for a in figure.axes for axis in (a.xaxis, a.yaxis) for tick in axis.get_major_ticks()
    ]
    beyond = {
        label for tick in ticks for label in (tick.label1, tick.label2)
        if not np.isclose(np.clip(tick.get_loc(), *sorted(tick.get_view_interval())), tick.get_loc())
    }  # fmt: skip
    texts = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_visible())
    return [text for text in texts if text.get_text().strip() and text not in beyond]


def data_colours(figure):
    """Those of lines and dots; what lies on a map of colours is outlined instead."""
    plain = [
        axis for axis in figure.axes if not any(isinstance(c, QuadMesh) for c in axis.collections)
    ]
    for axis in plain:
        yield from (to_rgb(line.get_color()) for line in axis.lines)
        dots = [c for c in axis.collections if isinstance(c, PathCollection)]
        yield from (tuple(colour[:3]) for c in dots for colour in c.get_facecolor())


def luminance(colour):
    """WCAG's relative luminance."""
    colour = np.asarray(colour, float)
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(one, other):
    light, dark = max(one, other), min(one, other)
    return (light + 0.05) / (dark + 0.05)


def test_a_name_has_the_same_colour_whatever_stands_before_it():
    def colours(names):
        lines = plot.curves({name: [[(0, 0), (1, 1)]] for name in names}).axes[0].lines
        dots = plot.dots({n: {n: [1.0]} for n in names}, x="x", lines={n: [1.0] for n in names})
        scattered = [c for c in dots.axes[0].collections if isinstance(c, PathCollection)]
        rows = plot.dots({n: {"": [1.0]} for n in names}, x="x").axes[0].collections
        rows = [c for c in rows if isinstance(c, PathCollection)]
        vertical = [line for line in dots.axes[0].lines if line.get_label() in names]
        return {
            name: {
                to_rgb(curve.get_color()), to_rgb(next(v for v in vertical if v.get_label() == name).get_color()),
                tuple(dot.get_facecolor()[0][:3]), tuple(row.get_facecolor()[0][:3]),
            }
            for name, curve, dot, row in zip(names, lines, scattered, rows, strict=False)
        }  # fmt: skip

    first = colours(NAMES)
    assert all(len(each) == 1 for each in first.values())
    assert colours(NAMES[::-1]) == first


def test_the_notebook_gets_a_picture_without_a_background_and_asks_for_none():
    from IPython.core.pylabtools import print_figure
    from matplotlib_inline.backend_inline import _fetch_figure_metadata

    figure = FIGURES["curves"]()
    picture = plt.imread(io.BytesIO(print_figure(figure, base64=False)))
    assert picture[0, 0, 3] == 0
    assert np.median(picture[..., 3]) == 0
    assert _fetch_figure_metadata(figure) is None  # else JupyterLab puts a white box behind it


def test_the_readers_own_settings_stay_and_do_not_show():
    plt.style.use("dark_background")
    before = dict(matplotlib.rcParams)
    figure, axis = plot.axes("t", "x", "y")
    figure.canvas.draw()
    assert dict(matplotlib.rcParams) == before
    assert axis.title.get_color() == axis.get_xticklabels()[0].get_color() == INK
    with plot.style():
        assert axis.annotate("here", (0, 0)).get_color() == INK
        plt.ion()  # as the first figure of a notebook does; else the next ones are not shown
    assert plt.isinteractive()
    plt.ioff()
    assert dict(matplotlib.rcParams) == before


def test_the_way_of_a_run_is_a_point_a_step():
    steps = [step("prune", 1, 2, 3, 0.75), step("finetune", 1, 2, 2, 0.5)]
    assert plot.way(steps) == [(s.sparsity, s.metrics["accuracy"]) for s in steps]
    assert plot.way(iter(steps)) == plot.way(steps)


def test_a_scatter_has_a_dot_a_run_and_a_line_at_the_paper():
    groups = {"evolution": [(20.0, 0.1), (30.0, 0.2)], "gradual": [(24.0, 0.3)]}
    (axis,) = plot.scatter(groups, x="size", y="lost", lines={"paper": 24}).axes
    first, second = (c for c in axis.collections if isinstance(c, PathCollection))
    assert first.get_offsets().tolist() == [[20.0, 0.1], [30.0, 0.2]]
    assert second.get_offsets().tolist() == [[24.0, 0.3]]
    assert [*axis.lines[0].get_xdata()] == [24, 24]
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ["paper", "evolution", "gradual"]
