"""The numbers that a notebook's text quotes from recorded runs are those of the runs."""

import json
import statistics
from pathlib import Path

import pytest

from prunekit import experiments, models

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def mean(measure, name, arm):
    return statistics.mean(map(measure, cells(name, arm)))


def cells(name, arm):
    found = [c for c in experiments.recorded(name) if c["arm"] == arm]
    assert found, f"{name} has no cells of {arm!r}"
    return found


def ratio(cell):
    return cell["parameters"] / cell["kept"]


def error(cell, when="after"):
    """Per cent of the test images."""
    return 100 * (1 - experiments.figure(cell, when, "test"))


def dense(cell):
    return error(cell, "before")


def lost(cell):
    """Points of test accuracy."""
    return error(cell) - dense(cell)


def added(cell):
    """Test errors that the first cut adds."""
    cut = next(row for row in experiments.rows(cell) if row["phase"] == "prune")
    return cut["test"] - cell["before"]["test"]


def kept(name, variant):
    """How many weights of each layer are left."""
    state = models.pretrained(name, variant=variant).state_dict()
    return [int(tensor.count_nonzero()) for key, tensor in state.items() if key.endswith("weight")]


def de_lenet300():
    name = "de-lenet300"
    yield f"one of its networks stops at {min(map(ratio, cells(name, 'evolution'))):.0f}×"
    at = round(mean(ratio, name, "evolution"))
    told, searched = mean(lost, name, f"gradual {at}×"), mean(lost, name, "evolution")
    yield f"to {at}×, where evolution ends on average, loses a little more: {told:.2f} points to"
    yield f"points to {searched:.2f}."
    weighted = mean(ratio, name, "evolution, weighted fitness")
    yield f"after all eight rounds it is at {weighted:.0f}×"
    yield f"its first cut adds {mean(added, name, 'evolution'):.0f} errors on average"
    yield f"random search's {mean(added, name, 'random search'):.0f}, and"
    yield f"that of one sensitivity {mean(added, name, 'one sensitivity'):.0f}."


def de_lenet5():
    name = "de-lenet5"
    yield f"loses {mean(lost, name, 'evolution'):.2f} points on average. It goes further"
    at = round(mean(ratio, name, "evolution"))
    assert cells(name, f"gradual {at}×")
    yield f"but at {at}×, where evolution ends on average"


def de_beyond_of_lenet_300_100():
    def of(measure, arm):
        return mean(measure, "de-beyond", f"lenet_300_100 {arm}")

    def over(arm, than):
        return of(error, arm) - of(error, than)

    yield f"Ours start from {of(dense, '56×'):.2f} %"
    yield f"lose {of(lost, '56×'):.2f} points at 56× and {of(lost, '114×'):.2f} at 114×."
    yield f"At 28× ours gain, too: {-of(lost, '28×'):.2f} points."
    yield f"*unpruned* gains {-of(lost, 'unpruned'):.2f} with the same teachers"
    yield f"Against *unpruned*, 28× costs {over('28×', 'unpruned'):.2f} points"
    yield f"56× {over('56×', 'unpruned'):.2f} and 114× {over('114×', 'unpruned'):.2f}."
    yield f"every network, by {over('114× without teachers', '114×'):.2f} points on average"
    without = over("114× without returning weights", "114×")
    yield f"Without returning weights the error is {without:.2f} higher"
    yield f"which searches nothing, is {over('114× gradual', '114×'):.2f} behind"


def de_beyond_of_lenet_5():
    def of(measure, arm):
        return mean(measure, "de-beyond", f"lenet_5 {arm}")

    yield f"and {max(map(lost, cells('de-beyond', 'lenet_5 56×'))):.2f} on one network."
    yield f"LeNet-5 at 108× errs on {of(error, '108×'):.2f} %"
    yield f"it is {of(lost, '108×'):.2f} points more than our dense networks"
    yield f"*unpruned* errs on {of(error, 'unpruned'):.2f} %"
    yield f"the dense networks on {of(dense, 'unpruned'):.2f} %."
    yield f"At 298× it errs on {of(error, '298×'):.2f} %."
    yield "keeps {}, {}, {} and {}. These are more".format(*kept("lenet_5", "298x"))
    yield f"one sensitivity for all layers errs on {of(error, '298× with one sensitivity'):.2f} %"
    yield f"evolution on {of(error, '298×'):.2f} %, and on each network"
    ahead = of(error, "298× gradual") - of(error, "298×")
    yield f"ahead of *gradual*, too, on each network, by {ahead:.2f} points on average."


@pytest.mark.parametrize(
    "quotes", [de_lenet300, de_lenet5, de_beyond_of_lenet_300_100, de_beyond_of_lenet_5]
)
def test_the_text_quotes_what_was_recorded(quotes):
    notebook = json.loads((NOTEBOOKS / "02_differential_evolution.ipynb").read_text())
    texts = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown"]
    for quote in quotes():
        assert any(quote in text for text in texts), quote
