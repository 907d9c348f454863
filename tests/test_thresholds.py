"""Thresholds over nodes, without a browser: tables, the search's path, and recorded searches."""

import copy

import pytest
import torch
from tiny import tiny_data, tiny_images, tiny_model, tiny_residual

from prunekit import evaluate, prune
from prunekit.methods.optimal_threshold import GRID, optimal_threshold
from prunekit.nodes import Nodes
from prunekit.widgets import Thresholds, views

CASES = {
    "linear": (tiny_model, tiny_data),
    "residual": (tiny_residual, tiny_images),
}
KNOBS = dict(tolerance=0.2, examples=40, stride=0.3)


def view_of(case, **more):
    model, data = (make() for make in CASES[case])
    return model, data, views.of(optimal_threshold, model, data, **KNOBS, **more)


def judged(model, data, worth, lines):
    """Without the package's tables: the metric with the nodes on or above these lines."""
    nodes = Nodes("test", model, data)
    kept = {}
    for name, line in zip(nodes.sizes, lines, strict=True):
        kept[name] = worth[name] >= line
        kept[name][worth[name].argmax()] = True
    return evaluate(model, data, mask=nodes.mask(model, kept))


@pytest.mark.parametrize("case", CASES)
def test_the_path_is_the_method_s_own(case):
    model, data, view = view_of(case)
    report = prune(optimal_threshold, model, data, **KNOBS, bar=False)
    raises = [step for step in report.history if step.phase == "search"]
    names = [*raises[0].info["thresholds"]]
    path = view.shown["path"]
    assert [place["raised"] for place in path] == [
        -1, *(names.index(step.info["layer"]) for step in raises),
    ]  # fmt: skip
    for place, step in zip(path[1:], raises, strict=True):
        assert place["value"] == pytest.approx(step.metrics["accuracy"], abs=1e-5)
        assert place["macs"] == pytest.approx(step.info["macs"], abs=1e-5)
        left = Nodes("test", model, data).left(step.mask)
        for layer, name, line in zip(view.shown["layers"], names, place["lines"], strict=True):
            assert sum(w >= line for w in layer["worth"]) == int(left[name].sum())
        assert view.judge(place["lines"]) == pytest.approx(
            (place["value"], place["macs"]), abs=1e-5
        )


@pytest.mark.parametrize("case", CASES)
def test_the_tables_say_what_each_line_leaves(case):
    model, data, view = view_of(case)
    shown, names = view.shown, [*Nodes("test", model, data).sizes]
    report = prune(optimal_threshold, model, data, **KNOBS, bar=False)
    importance = report.history[0].info["importance"]
    assert [layer["worth"] for layer in shown["layers"]] == [sorted(importance[n]) for n in names]
    worth = {name: torch.tensor(importance[name]) for name in names}
    assert [entry["line"] for entry in shown["shared"]] == [i / GRID for i in range(GRID + 1)]
    for entry in shown["shared"][:: GRID // 5]:
        lines = [entry["line"]] * len(names)
        assert entry["value"] == pytest.approx(judged(model, data, worth, lines), abs=1e-5)
    for number, own in enumerate(shown["alone"]):
        assert len(own) == GRID + 1
        for place in (0, GRID // 2, GRID):
            lines = [0.0] * len(names)
            lines[number] = place / GRID
            assert own[place] == pytest.approx(judged(model, data, worth, lines), abs=1e-5)


def test_free_lines_are_judged_when_they_are_asked_for_and_the_model_stays():
    model, _, view = view_of("linear")
    before = copy.deepcopy(model.state_dict())
    lines = [0.5]
    view.latest(lines)
    value, macs = view.judge(lines)
    assert view.moved == {"lines": lines, "value": round(value, 5), "macs": round(macs, 5)}
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())


def cell(scope, **more):
    model, data = tiny_model(), tiny_data()
    report = prune(optimal_threshold, model, data, scope=scope, **KNOBS, bar=False)
    steps = report.history
    kept = [s.mask.kept for s in steps]
    return {
        "arm": scope, "model": "tiny", "network": 0, "metric": "accuracy",
        "examples": {"validation": 60}, "knobs": report.knobs,
        "before": {"validation": round(60 * (1 - report.before["accuracy"]))},
        "trace": {
            "phase": [s.phase for s in steps], "index": [s.index for s in steps], "kept": kept,
            "accuracy": [s.metrics["accuracy"] for s in steps], "info": [s.info for s in steps],
        },
    } | more  # fmt: skip


def test_a_recorded_search_is_shown_as_it_was():
    one, many = cell("global"), cell("layer")
    view, live = Thresholds.recorded(one, many), view_of("linear")[2]
    assert view.shown["path"] == live.shown["path"]
    assert view.shown["layers"] == live.shown["layers"]
    table = {entry["line"]: entry for entry in live.shown["shared"]}
    for entry in view.shown["shared"]:
        assert entry == table[entry["line"]]
    assert (view.shown["free"], live.shown["free"]) == (False, True)
    assert view.lasting() is not None
    assert live.lasting() is None
    with pytest.raises(ValueError, match="of one network, got tiny 0 and tiny 1"):
        Thresholds.recorded(one, many | {"network": 1})
    for info in (None, {"thresholds": {}}):
        old = many["trace"] | {"info": [info] * len(many["trace"]["info"])}
        with pytest.raises(ValueError, match="'layer', network 0, recorded no importance"):
            Thresholds.recorded(one, many | {"trace": old})


def test_a_network_from_which_nothing_may_go_has_no_raise():
    model, data = tiny_model(), tiny_data()
    view = views.of(optimal_threshold, model, data, tolerance=0.0, examples=40, stride=1.0)
    assert len(view.shown["path"]) == 1
