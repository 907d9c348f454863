"""`@method` refuses what no run could go through, and says by which rule."""

import functools
import inspect
import textwrap
from typing import Annotated, Unpack

import pytest
import torch
from tiny import tiny_data, tiny_model
from torch import nn

from prunekit import Mask, Run, Step, evaluate, magnitude, prune
from prunekit.knobs import Count, Fraction, Range, helps, knobs
from prunekit.method import RESERVED, method
from prunekit.methods.differential_evolution import differential_evolution
from prunekit.methods.roulette import roulette
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


def test_quick_knobs_and_flags_that_no_run_would_take_are_refused_at_decoration():
    with pytest.raises(TypeError, match="a_method must be done .*quick: share must be in"):
        method(quick={"share": -3})(a_method)
    with pytest.raises(TypeError, match="@method: regrows must be True or False, got 'yes'"):
        method(regrows="yes")(a_method)


def test_inputs_that_are_no_keywords_are_refused():
    with pytest.raises(TypeError, match="@method: a_method has no keyword 'teacher', which inputs"):
        method(inputs=("teacher",))(a_method)


def test_what_is_no_method_is_refused_by_the_front_door():
    for wrong in (a_method, "magnitude", textwrap):
        with pytest.raises(
            TypeError, match="prune: method must be a function decorated with @meth"
        ):
            prune(wrong, tiny_model(), tiny_data())


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


# ------------------------------------------------------------------ steps that the model belies


def masked(model, first, name="0.weight"):
    """A mask that removes the first so many weights of a parameter."""
    keep = torch.ones(model.get_parameter(name).shape, dtype=torch.bool)
    keep.view(-1)[:first] = False
    return Mask({name: keep})


def step_of(mask, index=1, phase="prune"):
    return Step(phase, index, 3, mask, {"accuracy": 0.5})


def not_applied(model, data, *, seed: int = 0, run: Run = Run()):
    yield step_of(masked(model, 7))


def unknown_name(model, data, *, seed: int = 0, run: Run = Run()):
    yield step_of(Mask({"first.weight": torch.ones(2, 2, dtype=torch.bool)}))


def other_shape(model, data, *, seed: int = 0, run: Run = Run()):
    yield step_of(Mask({"0.weight": torch.ones(2, 2, dtype=torch.bool)}))


def no_step(model, data, *, seed: int = 0, run: Run = Run()):
    yield step_of(Mask({}))
    yield 3


def no_number(model, data, *, seed: int = 0, run: Run = Run()):
    model[0].weight.data[1, 1] = torch.nan
    yield step_of(Mask.ones(model))


def comes_back(model, data, *, seed: int = 0, run: Run = Run()):
    for index, first in enumerate((7, 5), start=1):
        mask = masked(model, first)
        mask.apply_(model)
        yield step_of(mask, index)


def left_out(model, data, *, seed: int = 0, run: Run = Run()):
    for index, name in enumerate(("0.weight", "2.weight"), start=1):
        mask = masked(model, 7, name)
        mask.apply_(model)
        yield step_of(mask, index)


def afterwards(model, data, *, seed: int = 0, run: Run = Run()):
    yield step_of(Mask.ones(model))
    masked(model, 7).apply_(model)


def without_any(model, data, *, seed: int = 0, run: Run = Run()):
    masked(model, 7).apply_(model)
    yield from ()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            not_applied,
            r"step prune 1/3 says that weights of 0.weight are removed of which 7 are no",
        ),
        (unknown_name, "step prune 1/3: mask: Sequential has no parameter 'first.weight'"),
        (other_shape, r"step prune 1/3: mask: '0.weight' must have shape \(12, 8\)"),
        (no_step, "must yield Steps, got 3"),
        (no_number, "step prune 1/3: weights of 0.weight must be finite"),
        (comes_back, "step prune 2/3 keeps 2 weights of 0.weight that were removed before"),
        (left_out, "step prune 2/3 keeps 7 weights of 0.weight that were removed before"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_step_that_the_model_belies_ends_the_run_with_the_weights_of_the_last_one(
    function, message
):
    model, steps = tiny_model(), []
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises((TypeError, ValueError), match=f"^{function.__name__}: {message}"):
        for step in method(function)(model, tiny_data()):
            steps.append(step)
    told = steps[-1].mask if steps else Mask({})
    for name, p in model.named_parameters():
        now = before[name] * told[name] if name in told else before[name]
        assert torch.equal(p.detach(), now)


@pytest.mark.parametrize(
    ("function", "since"), [(afterwards, "after its last step"), (without_any, "and yielded no st")]
)
def test_what_no_step_tells_is_taken_back_with_a_warning(function, since):
    with pytest.warns(UserWarning, match=f"^{function.__name__}: changed 0.weight {since}"):
        report = prune(method(function), tiny_model(), tiny_data(), bar=False)
    dense = dict(tiny_model().named_parameters())
    assert all(torch.equal(p, dense[name]) for name, p in report.model.named_parameters())
    assert report.after == report.before


def renames(model, data, *, seed: int = 0, run: Run = Run()):
    normed = nn.utils.parametrizations.weight_norm(model[2])
    try:
        yield step_of(Mask({}))
    finally:
        nn.utils.parametrize.remove_parametrizations(normed, "weight")


def test_a_method_may_put_parameters_in_other_names_meanwhile():
    report = prune(method(renames), tiny_model(), tiny_data(), bar=False)
    assert {*dict(report.model.named_parameters())} == {*dict(tiny_model().named_parameters())}


def test_weights_may_come_back_where_that_is_said_and_in_a_rewind():
    assert len([*method(regrows=True)(comes_back)(tiny_model(), tiny_data())]) == 2

    def rewound(model, data, *, seed: int = 0, run: Run = Run()):
        for index, first in enumerate((7, 5), start=1):
            masked(model, first).apply_(model)
            yield step_of(masked(model, first), index, "prune" if index == 1 else "rewind")

    assert len([*method(rewound)(tiny_model(), tiny_data())]) == 2


@pytest.mark.parametrize(("index", "of"), [(0, 0), (0, 3), (4, 3)])
def test_a_step_counts_from_1_to_as_many_as_there_are(index, of):
    with pytest.raises(ValueError, match=f"Step: index must be from 1 to of, got {index} of {of}"):
        Step("prune", index, of, Mask({}), {})


# ---------------------------------------------------------------------------- before the first step


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(workers=3), "Run: workers must be a function like map"),
        (
            dict(journal="mine"),
            r"Run: journal must be a Journal, got 'mine'. Pass Journal\('mine'\)",
        ),
        (dict(stop=True), "Run: stop must be a threading.Event, got True"),
        (dict(memory=0), "Run: memory must be a number of bytes above 0, got 0"),
        (dict(memory=True), "Run: memory must be a number of bytes"),
    ],
)
def test_surroundings_that_are_none_are_refused_by_name(settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Run(**settings)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda m, d: prune("magnitude", m, d), "prune: method must be a function"),
        (lambda m, d: prune(m, magnitude, d), "prune: method must be a function"),
        (lambda m, d: prune(magnitude, None, d), "prune: model must be a torch.nn.Module"),
        (lambda m, d: prune(magnitude, m, d, run=3), "prune: run must be a prunekit Run"),
        (lambda m, d: prune(magnitude, m, d, watch=3), "prune: watch must be a function"),
        (
            lambda m, d: prune(magnitude, m, d, watch=lambda steps: None, bar=False),
            "prune: watch must give an iterator of steps",
        ),
        (lambda m, d: evaluate(m, d, mask={}), "evaluate: mask must be a Mask, got dict"),
        (lambda m, d: compare(magnitude, m, d), "compare: methods must be several functions"),
        (lambda m, d: compare("magnitude", m, d), "compare: methods must be several functions"),
        (lambda m, d: compare(["magnitude"], m, d), "compare: every method must be a function"),
        (lambda m, d: compare([magnitude], None, d), "compare: model must be a torch.nn.Module"),
        (lambda m, d: compare([magnitude], m, d, seeds=3), "compare: seeds must be several"),
        (lambda m, d: compare([magnitude] * 2, m, d), "two methods are called 'magnitude'"),
        (lambda m, d: fit(m, d, remask=3), "fit: remask must be a function"),
        (lambda m, d: fit(m, d, penalty="l1"), "fit: penalty must be a function"),
        (lambda m, d: fit(m, d, tell="all"), "fit: tell must be a function"),
        (lambda m, d: fit(m, d, decay=0.1), "fit: decay must be a mapping"),
    ],
)
def test_what_is_no_method_model_or_setting_is_refused_by_name(act, message):
    with pytest.raises((TypeError, ValueError), match=message):
        act(tiny_model(), tiny_data())


@pytest.mark.parametrize(
    ("m", "knobs"),
    [
        (magnitude, dict(rounds=10**9)),
        (magnitude, dict(epochs=10**8)),
        (differential_evolution, dict(population=10**7)),
        (roulette, dict(branches=10**9)),
    ],
)
def test_a_run_that_will_not_come_back_for_long_is_announced(m, knobs):
    with pytest.warns(
        UserWarning, match=rf"{m.__name__}: .*[0-9]{{3}} (evaluations|epochs).* days"
    ):
        stream = m(tiny_model(), tiny_data(), **knobs)
    assert inspect.isgenerator(stream)


@pytest.mark.parametrize("device", ["meta"])
def test_another_default_device_changes_nothing(device):
    model, data = tiny_model(), tiny_data()
    for m, settings in (
        (magnitude, dict(epochs=1)),
        (roulette, dict(branches=3, step=0.4, draw_step=True)),
        (differential_evolution, dict(rounds=1, generations=2, population=6, epochs=1)),
    ):
        plain = prune(m, model, data, bar=False, **settings)
        torch.set_default_device(device)
        try:
            other = prune(m, model, data, bar=False, **settings)
        finally:
            torch.set_default_device(None)
        assert other.history == plain.history
        assert other.macs == plain.macs


def test_training_inside_inference_mode_is_training():
    model, data = tiny_model(), tiny_data()
    plain = prune(magnitude, model, data, epochs=2, bar=False)
    with torch.inference_mode():
        inside = prune(magnitude, model, data, epochs=2, bar=False)
        made = prune(magnitude, tiny_model(), tiny_data(), epochs=2, bar=False)
    assert inside.history == plain.history == made.history
    assert not inside.model[0].weight.is_inference()
