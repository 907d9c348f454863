"""`@method` refuses what no run could go through, and says by which rule."""

import functools
import inspect
import textwrap
from typing import Annotated, Unpack

import pytest
import torch
from tiny import tiny_data, tiny_model

from prunekit import Mask, Run, Step, magnitude, prune
from prunekit.knobs import Count, Fraction, Range, helps, knobs
from prunekit.method import RESERVED, method
from prunekit.prune import Pruning, compare
from prunekit.train import Tuning, fit
from prunekit.widgets import Panel


def a_step(model):
    return Step("prune", 1, 1, Mask.ones(model), {"accuracy": 0.5})


def a_method(model, data, *, share: Fraction = 0.5, seed: int = 0, run: Run = Run()):
    yield a_step(model)


def run_first(model, data, *, run: Run = Run(), seed: int = 0):
    yield a_step(model)


def knob_last(model, data, *, seed: int = 0, run: Run = Run(), share: Fraction = 0.5):
    yield a_step(model)


def no_seed(model, data, *, run: Run = Run()):
    yield a_step(model)


def no_run(model, data, *, seed: int = 0):
    yield a_step(model)


def no_default(model, data, *, share: Fraction, seed: int = 0, run: Run = Run()):
    yield a_step(model)


def no_rule(model, data, *, share: float = 0.5, seed: int = 0, run: Run = Run()):
    yield a_step(model)


def takes_bar(model, data, *, bar: Count = 1, seed: int = 0, run: Run = Run()):
    yield a_step(model)


def takes_draw(model, data, *, draw: bool = True, seed: int = 0, run: Run = Run()):
    yield a_step(model)


def returns(model, data, *, seed: int = 0, run: Run = Run()):
    return iter([a_step(model)])


def other_names(net, images, *, seed: int = 0, run: Run = Run()):
    yield a_step(net)


def positional(model, data, share: Fraction = 0.5, *, seed: int = 0, run: Run = Run()):
    yield a_step(model)


def untyped(model, data, *, seed: int = 0, run: Run = Run(), **knobs):
    yield a_step(model)


def bad_default(model, data, *, share: Fraction = 1.5, seed: int = 0, run: Run = Run()):
    yield a_step(model)


@pytest.mark.parametrize(
    ("function", "rule"),
    [
        (no_seed, "must take the keyword 'seed'"),
        (no_run, "must take the keyword 'run'"),
        (run_first, "must take its keywords in the order knobs, seed, run"),
        (knob_last, "must take its keywords in the order knobs, seed, run"),
        (no_default, "must give the keyword 'share' a default"),
        (no_rule, "must give the keyword 'share' a rule"),
        (takes_bar, "must not call a knob 'bar'"),
        (takes_draw, "must not call a knob 'draw'"),
        (returns, "must be a generator function"),
        (other_names, r"must take \(model, data, \*, knobs, seed, run\)"),
        (positional, r"must take \(model, data, \*, knobs, seed, run\)"),
        (untyped, "must name its knobs"),
        (bad_default, "must have defaults that its own rules allow: .*share must be in"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_broken_method_is_refused_at_decoration_by_rule(function, rule):
    with pytest.raises(TypeError, match=f"^@method: {function.__name__} {rule}"):
        method(function)


def test_inputs_that_are_no_keywords_are_refused():
    with pytest.raises(TypeError, match="@method: a_method has no keyword 'teacher', which inputs"):
        method(inputs=("teacher",))(a_method)


def test_what_is_no_method_is_refused_by_the_front_door():
    for wrong in (a_method, "magnitude", textwrap):
        with pytest.raises(
            TypeError, match="prune: method must be a function decorated with @meth"
        ):
            prune(wrong, tiny_model(), tiny_data())


@pytest.mark.parametrize(("model", "word"), [
    (torch.nn.Sequential(torch.nn.LazyLinear(3)), "lazy"), (tiny_model().to("meta"), "meta"),
])  # fmt: skip
def test_a_model_whose_weights_are_not_there_yet_is_refused(model, word):
    with pytest.raises(ValueError, match=rf"magnitude: .*{word}"):
        prune(magnitude, model, tiny_data(), bar=False)


@pytest.mark.parametrize("what", ["tuning", "quick"])
def test_defaults_of_knobs_that_are_not_there_are_refused(what):
    def trains(model, data, *, seed: int = 0, run: Run = Run(), **tuning: Unpack[Tuning]):
        yield a_step(model)

    with pytest.raises(TypeError, match=f"trains has no knob 'rate', which {what} names"):
        method(**{what: {"rate": 1}})(trains)


def test_the_reserved_names_are_the_arguments_of_prune_and_the_panel():
    taken = set()
    for front in (prune, Pruning.__init__, Panel.__init__):
        parameters = inspect.signature(front).parameters.values()
        taken |= {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    assert taken - {"self"} <= RESERVED
    assert "settings" in RESERVED


@method(tuning=dict(epochs=3, lr=0.5))
def trains(
    model,
    data,
    *,
    share: Annotated[float, Range(0, 1)] = 0.25,
    seed: int = 0,
    run: Run = Run(),
    **tuning: Unpack[Tuning],
):
    """Only trains.

    share: of nothing.
    """
    yield from fit(model, data, seed=seed, run=run, **tuning)


def test_the_knobs_of_training_are_knobs_of_a_method_with_its_own_defaults():
    assert [*knobs(trains)] == ["share", *Tuning.__annotations__]
    assert knobs(trains)["lr"].default == 0.5
    assert knobs(trains)["batch"].default == knobs(fit)["batch"].default == 128
    assert helps(trains)["share"] == "of nothing."
    assert helps(trains)["lr"] == "learning rate at its highest."
    with pytest.raises(ValueError, match=r"^trains: lr must be in \(0, inf\), got 0"):
        trains(tiny_model(), tiny_data(), lr=0)
    with pytest.raises(TypeError, match="has no knob 'leraning_rate'"):
        trains(tiny_model(), tiny_data(), leraning_rate=0.1)


def test_every_knob_of_training_reaches_the_training():
    def end(**settings):
        model = tiny_model()
        list(trains(model, tiny_data(), **settings))
        return [p.tolist() for p in model.parameters()]

    plain = end()
    other = dict(
        epochs=2, lr=0.1, batch=7, optimizer="adam", momentum=0.5, weight_decay=0.1,
        schedule="steps", precision="bf16",
    )  # fmt: skip
    for name, value in other.items():
        assert end(**{name: value}) != plain, name
    assert end(schedule="one-cycle", peak=0.5) != end(schedule="one-cycle")
    assert {*other, "peak"} == set(Tuning.__annotations__)


def test_the_settings_of_a_call_win_over_those_of_a_partial_function():
    half = functools.partial(magnitude, sparsity=0.5, scope="layer")
    report = prune(half, tiny_model(), tiny_data(), sparsity=0.9, bar=False)
    assert report.sparsity == pytest.approx(0.9, abs=0.01)
    assert (report.knobs["sparsity"], report.knobs["scope"]) == (0.9, "layer")
    assert Panel(half, tiny_model(), tiny_data(), sparsity=0.9).values()["sparsity"] == 0.9
    both = compare({"half": half}, tiny_model(), tiny_data(), seeds=[0], sparsity=0.9, bar=False)
    assert both.reports["half"][0].knobs["sparsity"] == 0.9
