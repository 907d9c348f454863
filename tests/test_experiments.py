"""Cells of an experiment: run once, redone when they change, resumed when stopped."""

import json
import math
import os
import re
import subprocess
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats
from tiny import tiny_data, tiny_model
from torch import nn

from prunekit import Data, Mask, count, experiments, fit, gradual, magnitude, models
from prunekit._files import seal
from prunekit._random import LocalRandom
from prunekit.data import spearman, squared_error
from prunekit.experiments import (
    Arm,
    Experiment,
    cells,
    cells_of,
    figure,
    is_done,
    mean_spread,
    path,
    recorded,
    results_folder,
    rows,
    run_cell,
    table,
)
from prunekit.experiments.cells import (
    UNKNOWN,
    _read,
    _session,
    _sessions,
    changed,
    changes,
    commit,
    other_code,
    read,
    same_settings,
)
from prunekit.experiments.grid import _experiments, side_by_side
from prunekit.experiments.records import agreement
from prunekit.journal import Journal, Locked
from prunekit.knobs import Range, knobs
from prunekit.method import method
from prunekit.methods.differential_evolution import differential_evolution
from prunekit.methods.roulette import roulette
from prunekit.prune import with_budget
from prunekit.steps import Run, Step, Stopped, Tried

ARMS = {
    "once 0.5": Arm(
        magnitude, dict(sparsity=0.5, rounds=2, epochs=2), "tiny", short=dict(epochs=1)
    ),
    "dense": Arm(fit, dict(epochs=2, batch=40), "tiny", short=dict(epochs=1), publish=True),
    "Gradual / 0.8": Arm(gradual, dict(sparsity=0.8, epochs=3, every=1), "tiny"),
}


def experiment(**changed):
    return Experiment(
        "toy", "A toy", "nobody, arXiv 0000.00000", "reproduction", tiny_data, {**ARMS, **changed},
        seeds=(0, 1, 2),
    )  # fmt: skip


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """Registers the experiment `toy`; called with other arms, it changes them."""
    monkeypatch.setenv("PRUNEKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(models.MODELS, "tiny", tiny_model)
    monkeypatch.setattr(models, "pretrained", models.build)
    _read.cache_clear()

    def register(settings=None, **changed):
        toy = replace(experiment(**changed), **(settings or {}))
        monkeypatch.setitem(_experiments(), "toy", toy)
        return toy

    register()
    yield register
    _read.cache_clear()


def cell(folder, arm="once 0.5", seed=0, short=False):
    toy = experiments.load("toy")
    network = None if toy.arms[arm].fresh else seed
    return experiments.Cell(toy, arm, network, seed, short, folder)


def lasting(record):
    return {k: v for k, v in record.items() if k not in ("seconds", "environments", "commits")}


def old(record):
    """A cell as the first ones were recorded."""
    new = ("network", "given", "weights", "codes", "commits", "precision")
    cell = {name: value for name, value in record.items() if name not in new}
    asked = {name: cell["knobs"][name] for name in record["given"]}
    return cell | {"hash": "00", "knobs": asked}


class StopAt:
    """An event that is set from the n-th time on that it is looked at."""

    def __init__(self, n):
        self.n, self.looks = n, 0

    def is_set(self):
        self.looks += 1
        return self.looks >= self.n


# ----------------------------------------------------------------------------------------- cells


def test_a_cell_is_what_the_method_makes_of_the_model(toy, tmp_path):
    record = run_cell(cell(tmp_path, seed=1))
    model, data = tiny_model(), tiny_data()
    steps = [*magnitude(model, data, sparsity=0.5, rounds=2, epochs=2, seed=1)]
    wrong = {}
    for split in ("validation", "test"):
        x, y = data.splits[split]
        wrong[split] = int((model(x).argmax(1) != y).sum())
    assert record["after"] == wrong
    assert record["kept"] == 147 - 66
    assert record["parameters"] == 147
    assert record["macs"] == [66, 132]
    assert record["examples"] == {"validation": 60, "test": 60}
    trace = rows(record)
    assert [(t["phase"], t["index"], t["kept"]) for t in trace] == [
        (s.phase, s.index, s.mask.kept) for s in steps
    ]
    assert trace[-1]["test"] == wrong["test"]
    assert ["test" in t for t in trace] == [True, False, True] * 2
    assert record["prunable"] == 132
    assert path(record) == [
        (pytest.approx(1 - steps[i].mask.kept / 132), (60 - trace[i]["test"]) / 60) for i in (2, 5)
    ]
    for (sparsity, accuracy), step in zip(path(record, "validation"), steps[2::3], strict=True):
        assert sparsity == pytest.approx(step.sparsity)
        assert accuracy == pytest.approx(step.metrics["accuracy"], abs=1e-6)  # rounded in the file


def test_the_file_of_a_cell_is_its_record(toy, tmp_path):
    made = cell(tmp_path)
    record = run_cell(made)
    said = json.loads(made.path.read_text())
    assert said.pop("format") == cells.FORMAT
    assert len(said.pop("seal")) == 32
    assert said == json.loads(json.dumps(record)) == read(made)
    assert [p.name for p in tmp_path.iterdir() if p.name != "home"] == ["once-0.5-0.json"]


def test_a_finished_cell_is_done_until_knobs_weights_or_data_change(toy, tmp_path, monkeypatch):
    name = "once 0.5"
    assert not is_done(cell(tmp_path))
    run_cell(cell(tmp_path))
    assert is_done(cell(tmp_path))
    assert not is_done(cell(tmp_path, seed=1))
    toy(**{name: replace(ARMS[name], data=partial(tiny_data, seed=1))})
    assert not is_done(cell(tmp_path))
    toy(**{name: replace(ARMS[name], start=partial(tiny_model, 0.0))})
    assert is_done(cell(tmp_path))  # the same weights from elsewhere
    toy(**{name: replace(ARMS[name], start=lambda seed: tiny_model(seed=seed + 1))})
    assert not is_done(cell(tmp_path))
    toy()
    monkeypatch.setattr(models, "pretrained", lambda name, seed: tiny_model(seed=9))
    assert not is_done(cell(tmp_path))


def test_a_cell_holds_what_it_was_made_of(toy, tmp_path):
    record = run_cell(cell(tmp_path, seed=1))
    assert (record["model"], record["network"], record["seed"]) == ("tiny", 1, 1)
    assert record["given"] == ["epochs", "rounds", "sparsity"]
    defaults = {name: knob.default for name, knob in knobs(magnitude).items()}
    asked = {"sparsity": 0.5, "rounds": 2, "epochs": 2}
    assert record["knobs"] == json.loads(json.dumps(defaults | asked))
    assert record["commits"] == [commit()]
    assert record["precision"] == ["fp32"]
    assert record["environments"][0]["threads"] == 1
    assert record["command"] == (
        "python -m prunekit reproduce toy --arm 'once 0.5' --seed 1 --network 1"
    )
    assert run_cell(cell(tmp_path, "dense", seed=2))["network"] is None


def test_network_and_seed_are_two_numbers(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "pretrained", lambda name, network: tiny_model(seed=network))
    toy(**{"once 0.5": replace(ARMS["once 0.5"], networks=(2, 1), seeds=(0, 5))})
    grid = [c for c in cells_of(experiments.load("toy"), False, tmp_path) if c.name == "once 0.5"]
    assert [(c.network, c.seed) for c in grid] == [(2, 0), (2, 5), (1, 0), (1, 5)]
    assert len({c.path for c in grid}) == 4
    short = cells_of(experiments.load("toy"), True, tmp_path)
    assert [(c.network, c.seed) for c in short if c.name == "once 0.5"] == [(2, 0)]
    records = [run_cell(c) for c in grid[:3]]
    assert records[0]["before"] == records[1]["before"] != records[2]["before"]
    assert all(map(is_done, grid[:3]))
    assert not is_done(grid[3])


def test_a_default_that_changes_is_another_cell_and_a_knob_that_goes_is_not(toy, tmp_path):
    record = json.loads(json.dumps(run_cell(cell(tmp_path))))

    def done(knobs):
        cell(tmp_path).path.write_text(json.dumps(record | {"knobs": knobs}))
        return is_done(cell(tmp_path))

    assert done(record["knobs"] | {"gone": 3})
    assert not done(record["knobs"] | {"momentum": 0.5})  # the default is 0.9 now
    fewer = {name: value for name, value in record["knobs"].items() if name != "momentum"}
    assert done(fewer)  # new since: the run was as its default is
    fewer.pop("rounds")
    assert not done(fewer)  # the arm asks for more than the default


def test_the_first_cells_are_done_if_what_they_were_asked_for_is(toy, tmp_path):
    record = run_cell(cell(tmp_path, seed=1))
    made = cell(tmp_path, seed=1)
    made.path.write_text(json.dumps(old(record)))
    assert is_done(made)
    (found,) = recorded("toy", tmp_path)
    assert (found["network"], found["seed"]) == (1, 1)
    assert found["given"] == record["given"]
    assert found["knobs"]["momentum"] == found["commits"] == found["precision"] == UNKNOWN
    assert found["knobs"]["sparsity"] == 0.5
    assert found["trace"] == json.loads(json.dumps(record["trace"]))
    for name, value in (("knobs", {"sparsity": 0.4}), ("method", "random"), ("data", "00")):
        made.path.write_text(json.dumps(old(record) | {name: value}))
        assert not is_done(made)


def test_the_first_steps_are_read_in_the_present_form():
    population = {"round": 2, "vectors": [[1.0]], "kept": [5], "results": [7], "replaced": [0],
                  "allowed": 8}  # fmt: skip
    trace = {"phase": ["prune", "search", "rewind"], "index": [1, 1, 1], "kept": [9, 9, 9],
             "children": [[3, 4], None, None], "chosen": [0, 1, None],
             "population": [None, population, None], "drop": [None, None, 0.5]}  # fmt: skip
    first = {"seed": 0, "knobs": {}, "metric": "accuracy", "trace": trace}
    tree, search, rewind = rows(experiments.records.complete(first, ARMS["once 0.5"]))
    assert tree["tried"] == {"costs": [3, 4], "chosen": 0}
    assert search["tried"] == {
        "costs": [7], "chosen": 1, "vectors": [[1.0]], "kept": [5], "replaced": [0], "allowed": 8
    }  # fmt: skip
    assert (search["info"], rewind["info"]) == ({"round": 2}, {"drop": 0.5})
    assert rewind["kept"] == 9
    turned = experiments.records.complete(first | {"metric": "likeness"}, ARMS["once 0.5"])
    assert rows(turned)[0]["tried"] == {
        "costs": [-3, -4], "chosen": 0, "unit": "minus the likeness"
    }  # fmt: skip


@method
def chatty(
    model, data, *, sparsity: Annotated[float, Range(0, 1)] = 0.5, seed: int = 0, run: Run = Run()
):
    """Tells much; its knobs and words are known to nothing else."""
    tried = Tried((2.0, math.inf), 0, (3, 4), ((0.1234567,), (1.0,)), (1,), 5.0, "stones")
    info = {"path": [{"at": 0.12345678}], "word": "yes", "worst": math.inf}
    yield Step("prune", 1, 1, Mask.ones(model), {"accuracy": 0.5}, info, tried)


def test_what_a_method_tells_is_recorded_without_knowing_its_words(toy, tmp_path):
    toy(**{"once 0.5": Arm(chatty, {}, "tiny")})
    (row,) = rows(run_cell(cell(tmp_path)))
    assert row["tried"] == {"costs": [2.0, None], "chosen": 0, "kept": [3, 4], "unit": "stones"}
    assert row["info"] == {"path": [{"at": 0.123457}], "word": "yes", "worst": None}


def test_seconds_are_those_of_all_starts_and_the_journal_goes_when_the_cell_is_done(
    toy, tmp_path, monkeypatch
):
    clock = iter(range(0, 10**6, 10))  # each look at it takes ten seconds
    monkeypatch.setattr(experiments.cells.time, "monotonic", lambda: next(clock))
    journals, made = tmp_path / "home" / "journals" / "toy", cell(tmp_path)
    with pytest.raises(Stopped):
        run_cell(made, StopAt(6))
    (folder,) = journals.iterdir()
    (first,) = folder.glob("session-*.json")
    seconds = json.loads(first.read_text())["seconds"]
    first.write_text(json.dumps({"seconds": seconds, "commit": "of yesterday"}))
    record = run_cell(made)
    assert record["seconds"] > seconds > 0
    assert record["commits"] == ["of yesterday", commit()]
    assert [*journals.iterdir()] == []


def ended_after(made, n):
    """The record of a cell whose time is over after its n-th step; None if that ended it."""
    clock = iter([0] * (n - 1) + [2] * 100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments.cells.time, "time", lambda: next(clock))
        try:
            return run_cell(made, until=1)
        except Stopped:
            return None


def test_a_cell_ends_at_the_first_step_after_its_time_and_goes_on_later(toy, tmp_path):
    whole = run_cell(cell(tmp_path / "whole"))
    starts = [ended_after(cell(tmp_path), n) for n in (1, 3, 4, 100)]
    assert starts[:3] == [None] * 3
    assert json.dumps(lasting(starts[3])) == json.dumps(lasting(whole))


def test_a_locked_journal_is_another_process_and_is_left_alone(toy, tmp_path):
    made = cell(tmp_path)
    with pytest.raises(Stopped):
        run_cell(made, StopAt(6))
    (folder,) = (tmp_path / "home" / "journals" / "toy").iterdir()
    before, run = sorted(folder.iterdir()), Run(journal=Journal(folder, any_code=True))
    steps = magnitude(tiny_model(), tiny_data(), **made.given, seed=0, run=run)
    next(steps)
    with pytest.raises(Locked):
        run_cell(made)
    assert sorted(folder.iterdir()) == before
    steps.close()


def test_other_code_is_told_and_no_reason_to_compute_anew(toy, tmp_path):
    run_cell(cell(tmp_path))
    record = read(cell(tmp_path))
    assert len(record["codes"]) == 1
    assert not other_code(cell(tmp_path), record)
    changed = record | {"codes": ["0123456789abcdef"]}
    assert other_code(cell(tmp_path), changed)
    assert not other_code(cell(tmp_path), old(record))  # nobody knows
    cell(tmp_path).path.write_text(json.dumps(changed))
    assert is_done(cell(tmp_path))


def test_the_commit_is_that_of_the_checkout():
    root = Path(__file__).parents[1]
    asked = ["git", "-C", str(root), "rev-parse", "HEAD"]
    head = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    assert head.startswith(commit().removesuffix("+changes")) if head else commit() == UNKNOWN


def test_a_cell_is_redone_when_a_knob_changes(toy, tmp_path):
    first = run_cell(cell(tmp_path))
    toy(**{"once 0.5": Arm(magnitude, dict(sparsity=0.25, rounds=2, epochs=2), "tiny")})
    assert not is_done(cell(tmp_path))
    second = run_cell(cell(tmp_path))
    assert is_done(cell(tmp_path))
    assert (first["kept"], second["kept"]) == (147 - 66, 147 - 33)
    toy()
    assert not is_done(cell(tmp_path))


def test_the_short_form_of_a_cell_is_another_run(toy, tmp_path):
    run_cell(cell(tmp_path, short=True))
    assert not is_done(cell(tmp_path))
    assert is_done(cell(tmp_path, short=True))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"hash": 1}', '{"knobs": {}}', "[" * 9999]
)
def test_a_damaged_file_is_a_cell_that_is_not_done_and_is_named(toy, tmp_path, text):
    made = cell(tmp_path)
    made.path.write_text(text)
    with pytest.warns(UserWarning, match=r"cell .*once-0\.5-0\.json .*counts as not there"):
        assert not is_done(made)
    assert told_or_equal(made, tmp_path, [])  # it may be somebody else's


def told_or_equal(made, folder, expected):
    """Whether the records are these, or an error names the cell's file."""
    try:
        return recorded("toy", folder) == expected
    except ValueError as error:
        return str(made.path) in str(error)


def test_every_flipped_bit_of_a_cell_is_told_or_changes_nothing(toy, tmp_path):
    made = cell(tmp_path)
    run_cell(made)
    expected, whole = recorded("toy", tmp_path), made.path.read_bytes()
    for place in range(0, len(whole), 5):
        harmed = bytearray(whole)
        harmed[place] ^= 1 << place % 8
        made.path.write_bytes(harmed)
        assert told_or_equal(made, tmp_path, expected)


def test_a_cell_of_a_newer_format_is_refused_by_name(toy, tmp_path):
    made = cell(tmp_path)
    run_cell(made)
    made.path.write_text(json.dumps(seal(json.loads(made.path.read_text()), cells.FORMAT + 1)))
    for ask in (lambda: is_done(made), lambda: recorded("toy", tmp_path)):
        with pytest.raises(ValueError, match=r"once-0\.5-0\.json is of a newer format, 3"):
            ask()


FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize("form", ["format_1", "format_2"])
def test_cells_and_masks_of_every_format_are_read(toy, tmp_path, monkeypatch, form):
    folder = FIXTURES / form / "cells"
    toy(dict(showcase="once 0.5"))
    assert [(c["seed"], c["kept"]) for c in recorded("toy", folder)] == [(0, 81)]
    monkeypatch.setattr(experiments.records, "shipped_results", lambda name: folder)
    steps = experiments.showcase("toy")
    assert [s.mask.kept for s in steps] == [93, 93, 93, 66, 66, 66]


def test_masks_that_are_damaged_or_another_cells_are_refused_by_name(toy, tmp_path, monkeypatch):
    toy(dict(showcase="once 0.5"))
    monkeypatch.setattr(experiments.cells, "HERE", tmp_path)
    folder = tmp_path / "results" / "toy"
    made = replace(cell(tmp_path), folder=folder)
    run_cell(made)
    expected, file = experiments.showcase("toy"), folder / "showcase.npz"
    assert is_done(made)
    whole = file.read_bytes()
    for place in range(0, len(whole), 23):
        harmed = bytearray(whole)
        harmed[place] ^= 1 << place % 8
        file.write_bytes(harmed)
        told = str(file)
        try:
            assert experiments.showcase("toy") == expected
        except ValueError as error:
            told = str(error)
        assert str(file) in told
    file.write_bytes(whole[: len(whole) // 2])
    assert not is_done(made)
    np.savez(file, **{"0 0.weight": np.array([12, 8])})
    with pytest.raises(ValueError, match=r"showcase\.npz is damaged, or does not belong"):
        experiments.showcase("toy")
    assert not is_done(made)  # a kill between the two files leaves such a pair


def test_a_damaged_session_costs_its_seconds_alone(toy, tmp_path):
    with _session(tmp_path):
        pass
    (tmp_path / "session-0.json").write_text('{"commit": "abc", "seconds": 7}')  # the first form
    assert _sessions(tmp_path)["seconds"] == 7
    (tmp_path / "session-1.json").write_text('{"commit": "abc", "sec')
    with pytest.warns(UserWarning, match=r"session-1\.json: its seconds are left out"):
        assert _sessions(tmp_path)["seconds"] == 7


@pytest.mark.parametrize("name", experiments.names())
def test_all_recorded_cells_are_whole(name):
    for file in cells.shipped_results(name).glob("*.json"):
        assert cells.read_record(file)["experiment"] == name


@pytest.mark.parametrize("arm", ARMS)
def test_a_stopped_cell_goes_on_to_the_same_record(toy, tmp_path, arm, monkeypatch):
    whole = run_cell(cell(tmp_path / "whole", arm))
    monkeypatch.setenv("PRUNEKIT_HOME", str(tmp_path / "other"))
    made, stops = cell(tmp_path / "stopped", arm), 0
    for n in range(2, 100):
        try:
            record = run_cell(made, StopAt(n))
            break
        except Stopped:
            stops += 1
            assert not made.path.exists()
    assert stops >= 2
    assert json.dumps(lasting(record)) == json.dumps(lasting(whole))


def test_a_regression_is_recorded_with_its_metric(toy, tmp_path):
    def ranked():
        splits = {split: (x, y.float()) for split, (x, y) in tiny_data().splits.items()}
        return Data(splits, loss=squared_error, metric=spearman)

    def start(seed):
        with LocalRandom(seed):
            return nn.Sequential(tiny_model(seed=seed), nn.Linear(3, 1))

    knobs = dict(sparsity=0.6, branches=3, step=0.3)
    toy(**{"once 0.5": Arm(roulette, knobs, "tiny", start=start, data=ranked)})
    record = run_cell(cell(tmp_path))
    model, data = start(0), ranked()
    steps = [*roulette(model, data, **knobs, seed=0)]
    for split in ("validation", "test"):
        x, y = data.splits[split]
        expected = stats.spearmanr(model(x).detach().flatten(), y).statistic
        assert figure(record, "after", split) == pytest.approx(expected)
    assert record["metric"] == "spearman"
    for row, step in zip(rows(record), steps, strict=True):
        assert row["tried"]["chosen"] == step.tried.chosen
        assert row["tried"]["costs"] == pytest.approx(step.tried.costs, abs=1e-6)
        assert row["tried"]["unit"] == step.tried.unit == "minus the spearman"
        assert row["info"] == step.info
    assert path(record)[-1] == (
        1 - steps[-1].mask.density,
        pytest.approx(figure(record, "after", "test")),
    )


def test_a_cell_that_fails_leaves_no_file(toy, tmp_path):
    toy(**{"once 0.5": Arm(magnitude, dict(sparsity=0.5, epochs=1, lr=1e30, rounds=9), "tiny")})
    with pytest.raises(FloatingPointError):
        run_cell(cell(tmp_path))
    assert not [*tmp_path.glob("*.json")]


def test_a_publishing_cell_saves_its_weights_beside_and_its_short_form_does_not(toy, tmp_path):
    run_cell(cell(tmp_path, "dense", seed=2, short=True))
    assert not (tmp_path / "weights").exists()
    record = run_cell(cell(tmp_path, "dense", seed=2))
    saved = models.build("tiny", 2)
    info = models.checkpoint.load_into(saved, tmp_path / "weights" / "tiny-2")
    x, y = tiny_data().splits["test"]
    assert int((saved(x).argmax(1) != y).sum()) == record["after"]["test"] == info["after"]["test"]


@pytest.mark.parametrize(("scale", "stored"), [(1.0, "fp16"), (1e-7, "fp32")])
def test_a_model_is_stored_with_half_the_bits_only_where_its_answers_stay(
    toy, tmp_path, monkeypatch, scale, stored
):
    def scaled():  # a last layer of tiny weights, most of which half the bits round away
        model = tiny_model()
        with torch.no_grad():
            model[2].weight *= scale
            model[2].bias *= scale
        return model

    monkeypatch.setitem(models.MODELS, "tiny", scaled)
    toy(dense=Arm(fit, dict(epochs=1, lr=1e-12), "tiny", publish=True, store="fp16"))
    record = run_cell(cell(tmp_path, "dense"))
    whole, (x, _) = scaled(), tiny_data().splits["test"]
    expected = int((whole(x).argmax(1) != scaled().half().float()(x).argmax(1)).sum())
    assert record["stored"] == {"as": stored, "changed by fp16": expected}
    assert (expected <= 2) == (stored == "fp16")
    tensors = load_file(tmp_path / "weights" / "tiny-0.safetensors")
    types = {tensor.dtype for tensor in tensors.values()}
    assert types == {torch.float16 if stored == "fp16" else torch.float32}
    assert models.checkpoint.read_info(tmp_path / "weights" / "tiny-0")["stored"]["as"] == stored


def test_a_variant_is_saved_for_the_first_seed_alone(toy, tmp_path):
    toy(**{"once 0.5": replace(ARMS["once 0.5"], variant="2x")})
    run_cell(cell(tmp_path, seed=1))
    run_cell(cell(tmp_path, seed=0, short=True))
    assert not (tmp_path / "weights").exists()
    record = run_cell(cell(tmp_path))
    saved = tiny_model()
    info = models.checkpoint.load_into(saved, tmp_path / "weights" / "tiny-0-2x")
    assert sum(int((p != 0).sum()) for p in saved.parameters()) == info["kept"] == record["kept"]


def test_a_cell_whose_weights_are_gone_is_not_done(toy, tmp_path):
    made = cell(tmp_path, "dense")
    run_cell(made)
    assert is_done(made)
    (tmp_path / "weights" / "tiny-0.safetensors").unlink()
    assert not is_done(made)


def test_a_cell_that_starts_from_a_model_that_is_not_there_is_not_done(toy, tmp_path, monkeypatch):
    made = cell(tmp_path)
    run_cell(made)

    def absent(name, seed):
        raise ValueError("pretrained: there are no weights")

    monkeypatch.setattr(models, "pretrained", absent)
    assert not is_done(made)
    with pytest.raises(ValueError, match="there are no weights"):
        run_cell(made)


# ------------------------------------------------------------------------------------------ grid


def test_cells_that_publish_come_first_and_the_rest_keeps_its_order(toy, tmp_path):
    grid = cells_of(experiment(), False, tmp_path)
    assert [c.name for c in grid] == ["dense"] * 3 + ["once 0.5"] * 3 + ["Gradual / 0.8"] * 3
    assert [c.seed for c in grid] == [0, 1, 2] * 3


def test_the_short_form_has_its_own_seeds_and_leaves_arms_out(toy, tmp_path):
    grid = cells_of(experiment(), True, tmp_path)
    assert [(c.name, c.seed) for c in grid] == [("dense", 0), ("once 0.5", 0)]
    assert grid[1].given == dict(sparsity=0.5, rounds=2, epochs=1)
    assert cell(tmp_path).given == dict(sparsity=0.5, rounds=2, epochs=2)


def test_short_results_lie_outside_the_package(toy, tmp_path):
    assert results_folder("toy", short=True) == tmp_path / "home" / "short" / "toy"
    assert results_folder("toy") == experiments.cells.HERE / "results" / "toy"


def test_cells_are_chosen_by_arm_network_and_seed(toy, tmp_path):
    toy(**{"once 0.5": replace(ARMS["once 0.5"], networks=(1, 2))})
    toy_ = experiments.load("toy")

    def of(**which):
        return [(c.name, c.network, c.seed) for c in experiments.chosen(toy_, **which)]

    assert len(of()) == 12
    assert of(arm="dense", seed=2) == [("dense", None, 2)]
    assert of(network=2, seed=1) == [("once 0.5", 2, 1)]
    assert of(only="0.8", network=2) == [("Gradual / 0.8", 2, 2)]
    assert {c.folder for c in experiments.chosen(toy_, folder=tmp_path)} == {tmp_path}
    for which, words in (
        (dict(arm="dens"), "toy has no arm 'dens'. Did you mean 'dense'?"),
        (dict(arm="0.5"), "toy has no arm '0.5'. `--only PART` takes a part of a name."),
        (dict(only="x"), "toy has no arm that contains 'x'"),
        (dict(arm="dense", network=0), "toy has no cell from network 0"),
        (dict(seed=7), "toy has no cell with seed 7"),
        (dict(short=True, arm="Gradual / 0.8"), "the short form of toy has no cell of the arm"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            of(**which)


def test_an_accelerator_is_shared_by_four_cells_at_most(monkeypatch):
    assert side_by_side(9) == 9
    assert 1 <= side_by_side() <= os.cpu_count()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (side_by_side(9), side_by_side(2), side_by_side()) == (4, 2, 4)


def spawned(**arms):
    """Arms that other processes can read: they know nothing of what the tests register here."""
    return {
        name: Arm(magnitude, dict(sparsity=0.5) | knobs, start=start, seeds=(0,))
        for name, (knobs, start) in arms.items()
    }


FRESH = partial(tiny_model, 0.0)


def test_a_cell_that_fails_or_runs_elsewhere_does_not_stop_the_others(toy, tmp_path, monkeypatch):
    arms = spawned(
        fails=(dict(epochs=1, lr=1e30, rounds=9), FRESH), elsewhere=(dict(epochs=2), FRESH),
        works=({}, FRESH),
    )  # fmt: skip
    toy(dict(arms=arms))
    with pytest.raises(Stopped):
        run_cell(cell(tmp_path, "elsewhere"), StopAt(6))
    (folder,) = (tmp_path / "home" / "journals" / "toy").iterdir()
    run = Run(journal=Journal(folder, any_code=True))
    other = magnitude(tiny_model(), tiny_data(), **arms["elsewhere"].knobs, seed=0, run=run)
    next(other)
    records = []
    with pytest.raises(ExceptionGroup, match="1 cells of toy failed") as raised:
        for record in experiments.reproduce("toy", folder=tmp_path, jobs=2):
            records.append(record)
    other.close()
    assert [record["arm"] for record in records] == ["works"]
    (error,) = raised.value.exceptions
    assert isinstance(error, FloatingPointError)
    assert "in the cell fails, seed 0" in error.__notes__
    assert [path.name for path in tmp_path.glob("*.json")] == ["works-0.json"]
    assert is_done(cell(tmp_path, "works"))


def test_a_process_that_dies_takes_no_other_cell_along(toy, tmp_path):
    toy(dict(arms=spawned(dies=({}, os._exit), works=({}, FRESH))))
    found = {c.name: o for c, o in experiments.outcomes(
        cells_of(experiments.load("toy"), False, tmp_path), jobs=2)}  # fmt: skip
    assert isinstance(found["dies"], BrokenProcessPool)
    assert found["works"]["arm"] == "works"


@pytest.mark.parametrize("threads", [1, 2])
def test_a_cell_has_as_many_threads_as_asked_for(toy, tmp_path, threads):
    toy(dict(arms=spawned(works=({}, FRESH))))
    (record,) = experiments.reproduce("toy", folder=tmp_path, threads=threads)
    assert [place["threads"] for place in record["environments"]] == [threads]


def test_after_the_time_no_cell_begins(toy, tmp_path):
    toy(dict(arms=spawned(works=({}, FRESH))))
    grid = cells_of(experiments.load("toy"), False, tmp_path)
    ((_, outcome),) = experiments.outcomes(grid, until=time.time() - 1)
    assert isinstance(outcome, Stopped)
    assert [*experiments.reproduce("toy", folder=tmp_path, until=0)] == []
    assert not [*tmp_path.glob("*.json")]


# --------------------------------------------------------------------------------------- results


def test_nothing_is_recorded_in_an_empty_folder_or_in_none(toy, tmp_path):
    assert recorded("toy", tmp_path) == []
    assert recorded("toy", tmp_path / "none") == []
    assert len(table([])) == 0


def test_recorded_cells_come_in_the_order_of_arms_and_seeds(toy, tmp_path):
    for arm, seed in (("Gradual / 0.8", 0), ("dense", 1), ("dense", 0), ("once 0.5", 2)):
        run_cell(cell(tmp_path, arm, seed))
    (tmp_path / "stray.json").write_text('{"arm": "of long ago", "seed": 0}')
    found = [(c["arm"], c["seed"]) for c in recorded("toy", tmp_path)]
    assert found == [("once 0.5", 2), ("dense", 0), ("dense", 1), ("Gradual / 0.8", 0)]


def test_the_table_is_mean_and_spread_over_the_seeds(toy, tmp_path):
    made = [run_cell(cell(tmp_path, seed=s)) for s in (0, 1, 2)]
    others = [{**made[0], "arm": "single"}]
    others += [{**made[0], "arm": "free", "kept": kept, "seed": kept} for kept in (49, 21)]
    rows = table([*recorded("toy", tmp_path), *others])
    accuracy = [1 - c["after"]["test"] / 60 for c in made]
    expected = f"{np.mean(accuracy):.4f} ± {np.std(accuracy, ddof=1):.4f}"
    assert np.std(accuracy) > 0
    assert rows.loc["once 0.5", "test after"] == expected
    assert rows.loc["once 0.5", "seeds"] == "3"
    assert rows.loc["once 0.5", "compression"] == f"{147 / 81:.1f}×"
    assert rows.loc["free", "compression"] == "5.0 ± 2.8×"  # 3 and 7
    assert rows.loc["single", "test after"] == f"{accuracy[0]:.4f}"


def test_a_cell_agrees_with_itself_however_it_was_recorded(toy, tmp_path):
    record = json.loads(json.dumps(run_cell(cell(tmp_path))))
    first = experiments.records.complete(old(record), ARMS["once 0.5"])
    for one, other in ((record, record), (first, record), (record, first)):
        assert str(agreement(one, other)) == "equal"


def test_where_two_records_of_a_cell_differ_is_told(toy, tmp_path):
    record = run_cell(cell(tmp_path))

    def other(**changed):
        return json.loads(json.dumps(record)) | changed

    after = record["after"] | {"test": record["after"]["test"] + 3}
    said = agreement(record, other(after=after))
    assert str(said) == f"not: after, test: {after['test'] - 3} against {after['test']}"
    trace = other()["trace"]
    trace["accuracy"][3] = round(trace["accuracy"][3] + 0.01, 6)
    said = agreement(record, other(trace=trace))
    assert said.how == "in numbers"
    assert said.first.startswith("step 4, accuracy: ")
    assert said.first.endswith("the accuracy of the steps is within 0.0100")
    shorter = {name: column[:-1] for name, column in record["trace"].items()}
    assert str(agreement(record, other(trace=shorter))) == "in numbers: 6 steps against 5"


def test_mean_spread_is_numpys():
    values = [0.1, 0.25, 0.7, 0.3]
    assert mean_spread(values) == f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"
    assert mean_spread([0.12345], digits=2) == "0.12"


def test_a_figure_is_an_accuracy_or_the_metric_itself():
    entry = dict(after={"test": 15}, examples={"test": 60}, metric="accuracy")
    assert figure(entry, "after", "test") == 0.75
    assert figure(entry | {"metric": "spearman"}, "after", "test") == 15.0


# ------------------------------------------------------------------------- those there really are


# model -> the networks that some experiment trains and all others start from
PUBLISHED = {}
for each in map(experiments.load, experiments.names()):
    for name, arm in each.arms.items():
        if arm.publish:
            PUBLISHED.setdefault(arm.model, set()).update(seed for _, seed in each.pairs(name))


@pytest.mark.parametrize("name", experiments.names())
def test_an_experiment_is_sound(name, tmp_path):
    found = experiments.load(name)
    assert found.name == name
    assert found.status in ("reproduction", "after the paper", "after the abstract")
    assert re.search(r"arXiv \d{4}\.\d{4,5}|10\.\d{4,9}/", found.paper)
    assert all(claim.what and claim.value and claim.source for claim in found.claims)
    for arm in found.arms.values():
        rules = knobs(arm.method)
        for settings in (arm.knobs, arm.short or {}):
            for knob, value in settings.items():
                if knob != "budget":
                    rules[knob].check(arm.method.__name__, value)
        assert arm.model in models.MODELS
    for short in (False, True):
        grid = cells_of(found, short, tmp_path)
        assert grid
        assert len({c.path for c in grid}) == len(grid)
        for c in grid:
            if c.arm.fresh or c.arm.model.startswith("lenet"):  # those that are shipped
                c.start()
            else:
                assert c.network in PUBLISHED[c.arm.model]


def test_an_unknown_experiment_is_refused():
    with pytest.raises(ValueError, match="experiment must be one of"):
        experiments.load("nothing")


@pytest.mark.parametrize("name", experiments.names())
def test_recorded_cells_tell_what_they_are(name):
    for found in recorded(name):
        assert found["experiment"] == name
        assert found["arm"] in experiments.load(name).arms
        assert found["method"] == experiments.load(name).arms[found["arm"]].method.__name__
        low = 0 if found["metric"] == "accuracy" else -1
        assert all(low <= figure(found, "after", split) <= 1 for split in found["examples"])
        assert rows(found)[-1]["test"] == found["after"]["test"]
        assert found["kept"] <= found["parameters"]


def walked(validation, kept=(90, 80, 70)):
    """A cell of three levels of a net with 100 weights, 100 validation and 1,000 test examples."""
    return {
        "metric": "accuracy", "prunable": 100, "examples": {"validation": 100, "test": 1000},
        "before": {"validation": 5, "test": 50},
        "trace": {
            "phase": ["prune"] * 3, "index": [1, 2, 3], "kept": [*kept],
            "accuracy": [*validation], "test": [51, 62, 73],
        },
    }  # fmt: skip


def test_at_reads_the_nearest_level():
    found = walked([0.95, 0.94, 0.93])
    assert experiments.at(found, 0.12) == pytest.approx(1 - 0.051)
    assert experiments.at(found, 0.29) == pytest.approx(1 - 0.073)
    assert experiments.at(found, 0.21, "validation") == 0.94


@pytest.mark.parametrize(
    ("validation", "tolerance", "reached"),
    [
        ([0.95, 0.95, 0.95], 0, 0.3),
        ([0.94, 0.99, 0.99], 0, 0.0),  # the first fall ends it, whatever would come later
        ([0.96, 0.95, 0.94], 0, 0.2),
        ([0.94, 0.93, 0.92], 0.02, 0.2),
    ],
)
def test_the_stop_rule_is_read_off_the_validation_curve(validation, tolerance, reached):
    assert experiments.stopped(walked(validation), tolerance) == pytest.approx(reached)
    by_test = experiments.stopped(walked(validation), 0.012, "test")
    assert by_test == pytest.approx(0.2)  # 50 errors of 1,000 at the start, then 51, 62, 73


def test_the_stop_rule_read_off_is_the_one_that_roulette_applies(toy, tmp_path):
    knobs = dict(sparsity=0.9, branches=2, step=0.1)
    toy(**{"once 0.5": Arm(roulette, knobs, "tiny", start=lambda seed: trained())})
    record = run_cell(cell(tmp_path))
    for tolerance in (0.0, 0.1, 0.3):
        steps = roulette(trained(), tiny_data(), tolerance=tolerance, **knobs, seed=0)
        *_, last = [s.sparsity for s in steps if s.info["level"] == s.index] or [0.0]
        assert experiments.stopped(record, tolerance) == pytest.approx(last)


def trained():
    model = tiny_model()
    [*fit(model, tiny_data(), epochs=5, batch=30)]
    return model


@pytest.mark.parametrize("name", ["roulette"])
def test_the_recorded_masks_are_those_of_the_trace(name):
    steps, shown = experiments.showcase(name), experiments.load(name).showcase
    found = next(c for c in recorded(name) if c["arm"] == shown)
    assert [s.mask.kept for s in steps] == found["trace"]["kept"]
    assert [s.phase for s in steps] == found["trace"]["phase"]
    for step in (steps[0], steps[-1]):
        assert step.metrics["accuracy"] == pytest.approx(1 - min(step.tried.costs) / 5_000)
    model = models.pretrained(found["model"], found["seed"])
    assert count.params(model, steps[-1].mask) == found["kept"]


def test_the_recorded_masks_of_a_toy_are_those_that_the_method_yields(toy, tmp_path, monkeypatch):
    shown = toy(dict(showcase="once 0.5"))
    monkeypatch.setattr(experiments.cells, "HERE", tmp_path)
    for seed in (0, 1):
        run_cell(replace(cell(tmp_path, seed=seed), folder=tmp_path / "results" / "toy"))
    arm = shown.arms["once 0.5"]
    expected = [*arm.method(tiny_model(), tiny_data(), **arm.knobs, seed=0)]
    found = experiments.showcase("toy")
    assert [s.mask for s in found] == [s.mask for s in expected]
    assert [(s.phase, s.index, s.of) for s in found] == [(s.phase, s.index, s.of) for s in expected]


def test_an_experiment_without_recorded_masks_says_so():
    with pytest.raises(ValueError, match="no recorded run with masks"):
        experiments.showcase("baselines")


def test_masks_in_which_weights_return_are_recorded_too():
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (3, 5), "b": (7,), "c": (2,)}
    masks = [
        Mask({n: torch.rand(s, generator=generator) < 0.6 for n, s in shapes.items() if n != "c"})
        for _ in range(4)
    ]
    masks = [Mask({**mask, "c": torch.ones(2, dtype=torch.bool)}) for mask in masks]
    masks.insert(2, masks[1])
    arrays, before = {}, None
    for number, mask in enumerate(masks, start=1):
        arrays |= changes(before, mask, number)
        before = mask
    assert not [
        key for key in arrays if key.startswith("3 ") or key.endswith("e c")
    ]  # nothing changed
    found = {n: torch.ones(s, dtype=torch.bool) for n, s in shapes.items()}
    for number, mask in enumerate(masks, start=1):
        found = changed(found, number, arrays)
        assert Mask(found) == mask


def test_the_populations_of_the_showcase_are_recorded(toy, tmp_path, monkeypatch):
    settings = dict(
        rounds=2, generations=3, population=5, epochs=2, last_epochs=1, drop=0.1, tolerance=0.05
    )
    arm = Arm(differential_evolution, settings, "tiny", start=lambda seed: trained())
    toy(dict(showcase="once 0.5"), **{"once 0.5": arm})
    monkeypatch.setattr(experiments.cells, "HERE", tmp_path)
    run_cell(replace(cell(tmp_path), folder=tmp_path / "results" / "toy"))
    expected = [*differential_evolution(trained(), tiny_data(), **settings, seed=0)]
    found = experiments.showcase("toy")
    assert any(step.phase == "rewind" for step in found)  # weights return
    for a, b in zip(found, expected, strict=True):
        assert (a.phase, a.index, a.of, a.mask) == (b.phase, b.index, b.of, b.mask)
        for name, value in b.info.items():
            assert a.info[name] == pytest.approx(value, abs=1e-6)
        if b.tried is None:
            assert a.tried is None
            continue
        assert a.tried == replace(b.tried, costs=a.tried.costs, vectors=a.tried.vectors)
        assert a.tried.costs == pytest.approx(b.tried.costs, abs=1e-6)
        assert np.allclose(a.tried.vectors, b.tried.vectors, atol=1e-6)


def level(arm, seed, sparsity, errors, **changed):
    """A cell of which little is known."""
    return {
        "arm": f"net {arm}", "model": "net", "network": seed, "seed": seed, "metric": "accuracy",
        "method": arm.split()[0], "data": "d", "given": ["rounds", "sparsity"],
        "knobs": {"rounds": 3, "sparsity": sparsity}, "examples": {"test": 100},
        "after": {"test": errors},
    } | changed  # fmt: skip


def test_a_grid_under_way_is_drawn_at_the_levels_that_all_seeds_have():
    cells = [level("magnitude a", 0, 0.5, 1), level("magnitude b", 0, 0.9, 7)]
    cells += [level("magnitude a", 1, 0.5, 3), level("random c", 0, 0.9, 20)]
    cells += [level("dense", 0, 0, 0) | {"given": []}]
    assert experiments.tradeoff(cells) == {"magnitude": [[(0.5, 0.99)], [(0.5, 0.97)]]}


def test_arms_that_differ_in_more_than_the_sparsity_are_two_lines():
    cells = [level(f"magnitude {n} {s}", 0, s, 1, knobs={"rounds": n, "sparsity": s})
             for n in (1, 2) for s in (0.5, 0.9)]  # fmt: skip
    assert [*experiments.tradeoff(cells)] == ["magnitude 1", "magnitude 2"]
    cells += [
        cell | {"model": "other", "arm": cell["arm"].replace("net", "other")} for cell in cells
    ]
    assert len(experiments.tradeoff(cells)) == 4


def test_cells_are_chosen_by_their_fields_and_knobs():
    cells = [level("magnitude a", 0, 0.5, 1), level("magnitude b", 0, 0.9, 7)]
    cells += [level("magnitude a", 1, 0.5, 3), level("random c", 0, 0.9, 20)]
    assert experiments.where(cells, sparsity=0.5) == [cells[0], cells[2]]
    assert experiments.where(cells, method="magnitude", seed=0, rounds=3) == cells[:2]
    assert experiments.where(cells, sparsity=0.4) == []
    assert experiments.where([], anything=1) == []
    with pytest.raises(ValueError, match="no field and no knob 'sparsty'"):
        experiments.where(cells, sparsty=0.5)


def test_masks_that_lose_a_name_are_not_recorded():
    with pytest.raises(ValueError, match=r"the same names, lost \['w'\]"):
        changes(Mask({"w": torch.ones(2).bool()}), Mask({}), 2)


def committed(name):
    grid = cells_of(experiments.load(name), False, experiments.cells.shipped_results(name))
    return [c for c in grid if c.path.exists()]


def test_nothing_that_is_recorded_has_lost_its_arm():
    on_disk = {*(experiments.cells.HERE / "results").glob("*/*.json")}
    assert on_disk == {c.path for name in experiments.names() for c in committed(name)}
    assert len(on_disk) >= 470


@pytest.mark.parametrize("name", experiments.names())
def test_no_recorded_cell_has_other_settings_than_today(name):
    assert [str(c) for c in committed(name) if not same_settings(c, read(c))] == []


@pytest.mark.parametrize("name", experiments.names())
def test_no_recorded_cell_would_be_computed_anew(name, full_mnist):
    assert [str(c) for c in committed(name) if not is_done(c)] == []


@pytest.mark.filterwarnings("ignore:.*may take .* days here:UserWarning")
@pytest.mark.parametrize("name", experiments.names())
def test_the_knobs_of_every_arm_go_together_in_short_too(name):
    for arm in experiments.load(name).arms.values():
        if arm.start is not None:  # its model is for other data than these
            continue
        model = models.build(arm.model)
        shape = (3, 32, 32) if next(model.parameters()).shape[1] == 3 else (1, 28, 28)
        part = (torch.zeros(5_000, *shape, dtype=torch.uint8), torch.arange(5_000) % 10)
        data = Data({"train": part, "validation": part})
        for settings in (arm.knobs, {**arm.knobs, **(arm.short or {})}):
            settings = with_budget(arm.method, model, data, settings)
            arm.method(model, data, **settings, seed=0)  # checks at once, and begins when asked to
