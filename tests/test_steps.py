"""Knobs and their checks, the surroundings of a stream, and how it stops."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import numpy as np
import pytest
import torch
from tiny import tiny_data, tiny_model
from torch import nn

from prunekit.knobs import Choice, Count, Fraction, Names, Positive, Range, Scope, knobs
from prunekit.mask import Mask
from prunekit.method import method
from prunekit.steps import Run, Step, Stopped, derive


def flushes():
    return bool(torch.tensor(1e-40, dtype=torch.float32) * 1 == 0)


@pytest.fixture(autouse=True)
def _surroundings_come_back():
    threads = torch.get_num_threads()
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)
    torch.set_grad_enabled(True)


def step(index=1, of=1):
    return Step("prune", index, of, Mask({}), {"accuracy": 0.5})


given = []  # the settings that `toy` was run with


@method
def toy(
    model,
    data,
    *,
    sparsity: Fraction = 0.5,
    rounds: Count = 2,
    lr: Positive = 0.1,
    scope: Scope = "layer",
    biases: bool = False,
    ignore: Names = (),
    limit: Annotated[float, Range(0, 10)] | None = None,
    seed: int = 0,
    run: Run = Run(),
):
    given.append(
        dict(sparsity=sparsity, rounds=rounds, lr=lr, ignore=ignore, limit=limit, seed=seed)
    )
    for i in range(1, rounds + 1):
        run.poll()
        yield step(i, rounds)


def call(**settings):
    return toy(tiny_model(), tiny_data(), **settings)


# ---------------------------------------------------------------------------------------- knobs


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (dict(sparsity=95), "toy: sparsity must be in [0, 1), got 95. Pass 0.95 for 95 %."),
        (dict(sparsity=1.0), "toy: sparsity must be in [0, 1), got 1.0."),
        (dict(sparsity=-0.1), "toy: sparsity must be in [0, 1), got -0.1."),
        (dict(sparsity=True), "toy: sparsity must be a number in [0, 1), got True."),
        (dict(sparsity=float("nan")), "toy: sparsity must be in [0, 1), got nan."),
        (dict(sparsity="0.5"), "toy: sparsity must be a number in [0, 1), got '0.5'."),
        (dict(sparsity=None), "toy: sparsity must be a number in [0, 1), got None."),
        (dict(rounds=0), "toy: rounds must be in [1, inf), got 0."),
        (dict(rounds=True), "toy: rounds must be a whole number in [1, inf), got True."),
        (dict(rounds=2.0), "toy: rounds must be a whole number in [1, inf), got 2.0."),
        (dict(lr=0), "toy: lr must be in (0, inf), got 0."),
        (dict(lr=float("inf")), "toy: lr must be in (0, inf), got inf."),
        (
            dict(scope="globel"),
            "toy: scope must be one of 'layer', 'global', got 'globel'. Did you mean 'global'?",
        ),
        (dict(scope=1), "toy: scope must be one of 'layer', 'global', got 1."),
        (dict(biases=1), "toy: biases must be True or False, got 1."),
        (dict(ignore="0.weight"), "toy: ignore must be a tuple of parameter names or patterns"),
        (dict(ignore=(1,)), "toy: ignore must be a tuple of parameter names or patterns"),
        (dict(limit=11), "toy: limit must be in [0, 10], got 11."),
        (dict(seed=-1), "toy: seed must be in [0, inf), got -1."),
        (dict(seed=None), "toy: seed must be a whole number in [0, inf), got None."),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_when_the_method_is_called(setting, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        call(**setting)


def test_a_misspelt_knob_gets_a_suggestion():
    with pytest.raises(TypeError, match=r"toy: has no knob 'sparsty'.*Did you mean 'sparsity'\?"):
        call(sparsty=0.5)


def test_a_run_must_be_a_run():
    with pytest.raises(TypeError, match="toy: run must be a prunekit Run"):
        call(run=None)


def test_values_of_other_libraries_become_plain_ones():
    list(call(sparsity=np.float32(0.25), rounds=np.int64(1), ignore=["a"], seed=np.int64(7)))
    assert given[-1] == dict(sparsity=0.25, rounds=1, lr=0.1, ignore=("a",), limit=None, seed=7)
    assert [type(given[-1][name]) for name in ("sparsity", "rounds", "seed")] == [float, int, int]


def test_an_optional_knob_may_be_none_or_a_value():
    list(call(limit=3))
    assert given[-1]["limit"] == 3.0
    list(call(limit=None))
    assert given[-1]["limit"] is None


def test_nothing_runs_before_the_first_next():
    ran = len(given)
    stream = call()
    assert len(given) == ran
    next(stream)
    assert len(given) == ran + 1


def test_knobs_are_read_from_the_signature():
    found = knobs(toy)
    assert [*found] == ["sparsity", "rounds", "lr", "scope", "biases", "ignore", "limit"]
    assert [n for n, k in found.items() if k.whole] == ["rounds"]
    assert [n for n, k in found.items() if k.optional] == ["limit"]
    assert found["scope"].rule == Choice("layer", "global")
    assert found["sparsity"].default == 0.5


def test_a_check_beside_the_method_sees_model_data_and_knobs():
    seen = []

    def at_most_one(model, data, *, rounds, **others):
        seen.append((type(model), type(data), sorted(others)))
        if rounds > 1:
            raise ValueError("bounded: rounds must be 1 here")

    @method(check=at_most_one)
    def bounded(model, data, *, rounds: Count = 1, seed: int = 0, run: Run = Run()):
        yield step()

    with pytest.raises(ValueError, match="bounded: rounds must be 1 here"):
        bounded(tiny_model(), tiny_data(), rounds=2)
    assert len([*bounded(tiny_model(), tiny_data())]) == 1
    assert seen[0] == (nn.Sequential, type(tiny_data()), [])


# ---------------------------------------------------------------------------------------- models


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_refused(value):
    model = tiny_model()
    with torch.no_grad():
        model[0].weight[2, 3] = value
    with pytest.raises(ValueError, match=r"toy: every weight must be finite, 0.weight has 1 NaN"):
        toy(model, tiny_data())


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ValueError, match="toy: Sequential is empty: it has no parameters"):
        toy(nn.Sequential(nn.ReLU()), tiny_data())


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"toy: model must be a torch.nn.Module, got dict"):
        toy({}, tiny_data())


def test_a_model_that_does_not_fit_the_data_is_refused():
    with pytest.raises(ValueError, match="Linear on data tiny"):
        toy(nn.Linear(9, 3), tiny_data())


# --------------------------------------------------------------------------------- surroundings


def surroundings():
    return torch.is_grad_enabled(), flushes(), torch.get_num_threads()


def set_surroundings(grad, flush, threads):
    torch.set_grad_enabled(grad)
    torch.set_flush_denormal(flush)
    torch.set_num_threads(threads)


def watched(seen):
    @method
    def look(model, data, *, seed: int = 0, run: Run = Run()):
        try:
            for i in (1, 2, 3):
                seen.append(surroundings())
                torch.set_grad_enabled(False)  # what it changes does not get out
                torch.set_flush_denormal(True)
                torch.set_num_threads(3)
                yield step(i, 3)
        finally:
            seen.append(surroundings())

    return look(tiny_model(), tiny_data())


def test_every_next_runs_under_the_surroundings_of_the_call():
    seen = []
    set_surroundings(True, False, 1)
    stream = watched(seen)
    set_surroundings(False, True, 2)
    next(stream)
    assert surroundings() == (False, True, 2)
    set_surroundings(True, True, 1)
    next(stream)
    assert surroundings() == (True, True, 1)
    stream.close()
    assert surroundings() == (True, True, 1)
    assert seen == [(True, False, 1)] * 3


def test_every_next_runs_under_the_surroundings_of_the_call_in_another_thread_too():
    seen = []
    set_surroundings(True, True, 2)
    stream = watched(seen)

    def elsewhere():
        set_surroundings(False, False, 1)
        next(stream)
        return surroundings()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(elsewhere).result() == (False, False, 1)
    assert surroundings() == (True, True, 2)
    list(stream)
    assert seen == [(True, True, 2)] * 4


def test_the_surroundings_come_back_when_the_method_fails():
    @method
    def failing(model, data, *, seed: int = 0, run: Run = Run()):
        set_surroundings(False, True, 2)
        raise KeyError("inside")
        yield

    set_surroundings(True, False, 1)
    with pytest.raises(KeyError):
        next(failing(tiny_model(), tiny_data()))
    assert surroundings() == (True, False, 1)


def test_flush_denormal_comes_back_under_another_default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        stream = watched([])
        next(stream)
        assert not flushes()
    finally:
        torch.set_default_dtype(torch.float32)


# ------------------------------------------------------------------------- nested, stopped, drawn


class FakeJournal:
    def __init__(self):
        self.is_open, self.calls = False, []

    def open(self, function, knobs, seed, model, data, before):
        self.is_open = True
        self.calls.append(("open", function.__name__, knobs, seed))

    def close(self):
        self.is_open = False
        self.calls.append(("close",))


def nesting(after):
    @method
    def outer(model, data, *, times: Count = 1, seed: int = 0, run: Run = Run()):
        for _ in range(times):
            try:
                yield from toy(model, data, rounds=3, seed=seed, run=run)
            except Stopped:
                after.append("inner raised")
                raise
            after.append("inner ended")

    return outer


def test_only_the_outermost_method_opens_and_closes_the_journal():
    journal = FakeJournal()
    list(nesting([])(tiny_model(), tiny_data(), times=2, seed=5, run=Run(journal=journal)))
    assert journal.calls == [("open", "outer", {"times": 2}, 5), ("close",)]


def test_the_journal_is_closed_when_the_stream_is():
    journal = FakeJournal()
    stream = nesting([])(tiny_model(), tiny_data(), run=Run(journal=journal))
    next(stream)
    assert journal.is_open
    stream.close()
    assert not journal.is_open


def test_stopped_ends_the_outermost_method_quietly_and_passes_through_the_inner_one():
    after, stop = [], threading.Event()
    stream = nesting(after)(tiny_model(), tiny_data(), times=2, run=Run(stop=stop))
    steps = [next(stream)]
    stop.set()
    steps += stream
    assert len(steps) == 1
    assert after == ["inner raised"]


def test_a_method_that_runs_while_another_waits_is_outermost_too():
    stop = threading.Event()
    first = call()
    next(first)
    stop.set()
    assert [*call(run=Run(stop=stop))] == []
    assert len([*first]) == 1


def test_an_error_of_the_inner_method_names_the_inner_method():
    @method
    def outer(model, data, *, seed: int = 0, run: Run = Run()):
        yield from toy(model, data, rounds=0, run=run)

    with pytest.raises(ValueError, match="toy: rounds"):
        next(outer(tiny_model(), tiny_data()))


def test_derived_seeds_differ_by_seed_and_by_purpose_and_stay_the_same():
    purposes = [
        (seed, what, i) for seed in (0, 1) for what in ("epoch", "draws") for i in range(50)
    ]
    seeds = [derive(*purpose) for purpose in purposes]
    assert len(set(seeds)) == len(purposes)
    assert seeds == [derive(*purpose) for purpose in purposes]
    for seed in seeds:
        torch.Generator().manual_seed(seed)


def test_a_step_keeps_what_it_was_given_when_others_write_on():
    metrics, info = {"accuracy": 0.5}, {"note": 1}
    taken = Step("prune", 1, 1, Mask({}), metrics, info)
    metrics["accuracy"], info["note"] = 0.1, 2
    assert taken.metrics == {"accuracy": 0.5}
    assert taken.info == {"note": 1}


def test_a_step_of_an_unknown_phase_is_refused():
    with pytest.raises(ValueError, match="phase must be one of"):
        Step("pruned", 1, 1, Mask({}), {})


def test_a_steps_info_is_plain_json():
    for value in (1, 0.5, "a", [1, [2.0]], {"a": None}, (1, 2), True):
        assert Step("prune", 1, 1, Mask({}), {}, {"note": value}).info == {"note": value}
    for value in (torch.ones(2), {1, 2}, Mask({}), print):
        with pytest.raises(TypeError, match=r"Step: info must be plain JSON.*'note' is a"):
            Step("prune", 1, 1, Mask({}), {}, {"note": value})
