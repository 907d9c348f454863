"""tools/compare_histories.py: what counts as a difference of two histories."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "tools" / "compare_histories.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("compare_histories", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def history(*accuracies, state="s"):
    steps = [
        {"phase": "prune", "index": i, "of": 3, "mask": "m", "accuracy": float(a).hex()}
        for i, a in enumerate(accuracies, start=1)
    ]
    return [*steps, {"state": state}]


def test_equal_histories_are_the_same(script):
    line, differs = script.verdict("run", history(0.5, math.nan), history(0.5, math.nan))
    assert (line, differs) == ("run: same, 2 steps", False)


def test_the_first_difference_is_reported_down_to_the_last_bit(script):
    up = math.nextafter(0.5, 1)
    line, differs = script.verdict("run", history(0.1, 0.5, 0.5), history(0.1, up, up))
    assert differs
    assert line == f"run: step 2, accuracy: {(0.5).hex()} -> {up.hex()}"


@pytest.mark.parametrize("what", ["phase", "index", "of", "mask", "accuracy"])
def test_each_part_of_a_step_counts(script, what):
    new = history(0.1, 0.2)
    new[1][what] = "other"
    assert script.verdict("run", history(0.1, 0.2), new)[0].startswith(f"run: step 2, {what}: ")


def test_the_weights_at_the_end_count(script):
    line, differs = script.verdict("run", history(0.1), history(0.1, state="t"))
    assert (line, differs) == ("run: end, state: s -> t", True)


@pytest.mark.parametrize("lengths", [(2, 3), (3, 2)])
def test_a_step_that_only_one_history_has_is_a_difference(script, lengths):
    old, new = (history(*[0.5] * n) for n in lengths)
    line, differs = script.verdict("run", old, new)
    assert differs
    assert line.startswith("run: step 3, ")


def test_a_metric_that_only_one_history_has_is_a_difference(script):
    new = history(0.5)
    new[0]["loss"] = (0.1).hex()
    assert (
        script.verdict("run", history(0.5), new)[0] == f"run: step 1, loss: None -> {(0.1).hex()}"
    )


def test_a_run_that_fails_in_both_is_not_the_same(script):
    failed = [{"error": "TypeError: no knob"}]
    line, differs = script.verdict("run", failed, failed)
    assert differs
    assert "TypeError: no knob" in line


def test_a_new_method_is_no_difference_but_a_lost_one_is(script):
    assert not script.verdict("run", None, history(0.5))[1]
    assert script.verdict("run", history(0.5), None)[1]
    assert script.verdict("run", None, None)[1]


def test_an_exception_is_said_with_its_reason_and_passes(script, monkeypatch):
    monkeypatch.setitem(script.EXCEPTIONS, "run(*), lenet_5, *", "the sum was wrong")
    line, differs = script.verdict("run(lr=1), lenet_5, seed 0", history(0.1), history(0.2))
    assert not differs
    assert line.endswith("(expected: the sum was wrong)")
    assert script.verdict("run(lr=1), lenet_300_100, seed 0", history(0.1), history(0.2))[1]


def test_the_key_of_a_mask_depends_on_each_bit_and_shape_but_not_on_the_order(script):
    a, b = torch.tensor([[True, False], [True, True]]), torch.tensor([True])
    key = script.mask_key({"a": a, "b": b})
    assert key == script.mask_key({"b": b, "a": a})
    others = [{"a": a.T, "b": b}, {"a": a.view(4), "b": b}, {"a": a}, {"a": a, "c": b}]
    assert key not in [script.mask_key(mask) for mask in others]
