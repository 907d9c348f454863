"""Ctrl-C at any line: the report and its model agree, and the next run is as good as the first."""

import linecache
import random
import sys
import threading
from pathlib import Path

import pytest
import torch
from tiny import tiny_data, tiny_model
from torch import nn

import prunekit
from prunekit import Data, Journal, Run, accuracy, count, evaluate, magnitude, prune
from prunekit._modules import snapshot
from prunekit.methods.differential_evolution import differential_evolution
from prunekit.methods.roulette import roulette
from prunekit.prune import Pruning

PACKAGE = str(Path(prunekit.__file__).parent)
WATCHED = ("method.py", "prune.py", "rounds.py", "search.py", "train.py", "_modules.py", "mask.py")
RUNS = {
    "magnitude": (magnitude, dict(rounds=2, epochs=1, sparsity=0.8)),
    "roulette": (roulette, dict(step=0.5, branches=3, sparsity=0.8)),
    # Whose rounds are taken back: no cut costs nothing.
    "differential_evolution": (
        differential_evolution,
        dict(rounds=2, generations=1, population=4, drop=0.5, tolerance=0.0, epochs=1),
    ),
}


class Interrupt:
    """Raises KeyboardInterrupt at the n-th line that the package reaches."""

    def __init__(self, n=None):
        self.n, self.lines = n, 0

    def __call__(self, frame, event, arg):
        name = frame.f_code.co_filename
        watched = name.startswith(PACKAGE) and name.endswith(WATCHED)
        if event == "line" and watched and not _takes_none(frame):
            self.lines += 1
            if self.lines == self.n:
                raise KeyboardInterrupt
        return self if watched or name.endswith("tqdm/std.py") else None


def _takes_none(frame):
    """Whether this is the line before which Python takes no interrupt, right after a yield."""
    return "history.append" in (linecache.getline(frame.f_code.co_filename, frame.f_lineno))


def interrupted(name, n, **settings):
    """The report of a run that is interrupted at the n-th line, if it has one; the lines."""
    method, knobs = RUNS[name]
    interrupt = Interrupt(n)
    before = sys.gettrace()
    sys.settrace(interrupt)
    try:
        return prune(method, tiny_model(), tiny_data(), bar=False, **knobs, **settings), interrupt
    except KeyboardInterrupt:
        return None, interrupt
    finally:
        sys.settrace(before)


@pytest.fixture(scope="module", params=RUNS)
def undisturbed(request):
    """The name of a run, its lines, and the weights after each number of steps."""
    states = []

    def watch(steps):
        for step in steps:
            states.append(snapshot(model.model))
            yield step

    method, knobs = RUNS[request.param]
    model = Pruning(method, tiny_model(), tiny_data(), **knobs)
    states.append(snapshot(model.model))
    history = [*watch(model)]
    _, whole = interrupted(request.param, None)
    return request.param, whole.lines, states, history


def test_wherever_it_comes_the_model_is_that_of_the_last_step(undisturbed):
    name, lines, states, history = undisturbed
    found, places = 0, random.Random(0)
    for n in places.sample(range(1, lines + 1), 40):
        report, _ = interrupted(name, n)
        if report is None:  # before the first step, or while the report was made
            continue
        found += 1
        steps = len(report.history)
        assert [step.mask for step in report.history] == [s.mask for s in history[:steps]]
        for key, tensor in snapshot(report.model).items():
            assert torch.equal(tensor, states[steps][key]), (n, key)
        if report.history:
            assert report.mask == report.history[-1].mask
    assert found > 20


def test_the_thread_is_in_no_method_afterwards(undisturbed, tmp_path):
    name, lines, _, history = undisturbed
    grad, places = torch.is_grad_enabled(), random.Random(1)
    for n in places.sample(range(1, lines + 1), 10):
        interrupted(name, n)
        assert torch.is_grad_enabled() == grad
        assert torch.tensor(1e-40, dtype=torch.float32) * 1 != 0
        journal = Journal(tmp_path / str(n))
        report, _ = interrupted(name, None, run=Run(journal=journal))
        assert [step.metrics for step in report.history] == [step.metrics for step in history]
        assert (tmp_path / str(n) / "log.txt").exists()  # the outermost method opened it


def test_an_interrupt_while_the_report_is_made_costs_a_figure_and_not_the_model():
    calls, main = [], threading.current_thread()

    def metric(outputs, y):
        calls.append(1)
        if len(calls) == 4 and threading.current_thread() is main:  # trial, before, cut, after
            raise KeyboardInterrupt
        return accuracy(outputs, y)

    data = Data(tiny_data().splits, metric=metric)
    report = prune(magnitude, tiny_model(), data, bar=False)
    assert "metric is missing: KeyboardInterrupt" in str(report)
    assert report.mask.sparsity > 0.8
    assert report.mask.kept == sum(int((report.model[i].weight != 0).sum()) for i in (0, 2))


def test_a_figure_that_fails_is_left_out_and_named(monkeypatch):
    def fail(*args):
        raise LookupError("no such operator")

    monkeypatch.setattr(count, "macs", fail)
    report = prune(magnitude, tiny_model(), tiny_data(), bar=False)
    assert "MACs is missing: LookupError: no such operator" in str(report)
    assert [name for name, _ in report.rows()].count("MACs") == 0
    assert report.after["accuracy"] > 0


def test_an_interrupt_while_modes_change_leaves_each_module_its_own():
    class Interrupted(nn.Linear):
        def train(self, mode=True):
            super().train(mode)
            raise KeyboardInterrupt

    model = nn.Sequential(nn.Dropout(), Interrupted(8, 3), nn.Dropout())
    model[2].training = False
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, tiny_data())
    assert [module.training for module in model.modules()] == [True, True, True, False]
