"""What a lineage is given, without a browser."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tiny import tiny_data, tiny_model

from prunekit import Mask, Step, experiments, magnitude, prune
from prunekit.methods.differential_evolution import differential_evolution
from prunekit.methods.roulette import roulette
from prunekit.steps import Tried
from prunekit.train import fit
from prunekit.widgets import LineageView
from prunekit.widgets.lineage import family

EVOLVED = dict(rounds=2, generations=3, population=5, epochs=1, tolerance=1.0)


def run(method, **knobs):
    return prune(method, tiny_model(), tiny_data(), bar=False, **knobs)


def test_every_level_tells_its_children_and_what_the_chosen_one_keeps():
    report = run(roulette, branches=3, sparsity=0.5, step=0.1, epochs=1, seed=4)
    shown = LineageView(report).family
    assert (shown["kind"], shown["labels"], shown["seed"]) == ("tree", ["level", "errors"], 4)
    assert len(shown["entries"]) == len(report.history)
    kept = []
    for step, entry in zip(report.history, shown["entries"], strict=True):
        assert (entry is not None) == (step.phase == "prune")
        if entry is not None:
            assert entry["number"] == step.info["level"]
            right = round(60 * step.metrics["accuracy"])  # of tiny_data's validation examples
            assert min(entry["values"]) == entry["values"][entry["chosen"]] == 60 - right
            kept.append(entry["kept"])
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] == report.mask.kept


def test_a_candidate_stays_as_it_is_until_another_takes_its_place():
    report = run(differential_evolution, **EVOLVED)
    shown = LineageView(report).family
    assert shown["labels"] == ["generation", "weights kept"]
    assert LineageView(report.history).family["seed"] is None
    fields, changes = ("values", "results", "vectors"), 0
    for round_ in (1, 2):
        found = [entry for entry in shown["entries"] if entry and entry["round"] == round_]
        assert [entry["number"] for entry in found] == [1, 2, 3, 4]
        for before, now in pairwise(found):
            for who in range(5):
                same = all(before[name][who] == now[name][who] for name in fields)
                assert same or who in now["replaced"]
                changes += not same
    assert changes > 0
    assert shown["undone"] == []
    fewer = family(report.history, vectors=False)["entries"]
    assert all("vectors" not in entry for entry in fewer if entry)


def test_the_first_candidate_keeps_everything_and_the_last_best_is_pruned():
    steps = run(differential_evolution, **EVOLVED, recovery="off").history
    entries = family(steps)["entries"]
    assert entries[0]["values"][0] == 132  # all weights of tiny_model
    pruned = [number for number, step in enumerate(steps) if step.phase == "prune"]
    for number in pruned:
        best = entries[number - 1]
        assert best["values"][best["chosen"]] == steps[number].mask.kept


def test_a_round_that_was_taken_back_is_told():
    model, data = tiny_model(), tiny_data()
    list(fit(model, data, epochs=4, batch=20, lr=0.1))
    harsh = dict(rounds=2, drop=1.0, tolerance=0.0, epochs=1, recovery="off", scan=1.0)
    harsh |= dict(generations=3, population=5, bound=4.0, lr=1e-12)
    taken = prune(differential_evolution, model, data, bar=False, **harsh)
    undone = [step.index for step in taken.history if step.phase == "rewind"]
    assert undone == [1, 2]
    assert LineageView(taken).family["undone"] == undone


def test_the_recorded_run_is_told_as_it_was():
    steps, view = experiments.showcase("roulette"), LineageView("roulette")
    told = [tuple(entry["values"]) for entry in view.family["entries"]]
    assert told == [step.tried.costs for step in steps]
    assert view.family["seed"] == experiments.load("roulette").seeds[0]
    experiment = experiments.load("roulette")
    run = f"the recorded run “{experiment.showcase}”, seed {experiment.seeds[0]}"
    assert view.title == f"{experiment.title}: {run}"
    assert repr(view) == f"LineageView({len(steps)} levels × {len(steps[0].tried.costs)})"


MASK = Mask({"w": torch.ones(2, 3, dtype=torch.bool)})


def test_a_metric_is_told_with_its_own_sign_and_what_is_no_number_is_left_out():
    tried = Tried((-3.0, math.inf), 0, unit="minus the likeness")
    shown = family([Step("prune", 1, 1, MASK, {"likeness": 3.0}, tried=tried)])
    assert shown["labels"][1] == shown["counted"] == "likeness"
    assert shown["entries"][0]["values"] == [3.0, None]
    assert shown["entries"][0]["number"] == 1  # no level is told
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown


@pytest.mark.parametrize(
    ("unit", "allowed", "told"), [("errors", 3, 3), ("loss", 3, 3), ("minus the likeness", 3, -3)]
)
def test_who_costs_more_than_allowed_is_told(unit, allowed, told):
    found = Tried((2, 3, 4, math.inf), 0, (5, 6, 7, 8), ((1.0,),) * 4, (0, 1, 2, 3), unit=unit)
    bare, limited = (
        family([Step("search", 1, 1, MASK, {}, tried=replace(found, allowed=limit))])["entries"][0]
        for limit in (None, allowed)
    )
    assert not {"broken", "allowed"} & {*bare}
    # Who was given up had lost anyway: by how much is not known.
    assert (bare["round"], limited["allowed"], limited["broken"]) == (None, told, [2])
    assert limited["values"] == [5, 6, 7, 8]
    assert limited["results"][3] is None


def test_a_run_without_a_lineage_is_refused_by_name():
    report = run(magnitude)
    with pytest.raises(ValueError, match="steps of magnitude hold nobody who was tried"):
        LineageView(report)
    for steps in (report.history, []):
        with pytest.raises(ValueError, match="steps of this run hold nobody who was tried"):
            LineageView(steps)
    with pytest.raises(ValueError, match="no recorded run with masks"):
        LineageView("baselines")
