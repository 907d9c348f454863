"""Roulette: the wheel against brute force, its limits, and how the tree grows."""

import copy
import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from scipy.stats import chisquare
from tiny import tiny_data, tiny_model

from prunekit import Journal, Run, evaluate, fit, prune
from prunekit._files import describe
from prunekit.experiments import Arm
from prunekit.experiments.records import complete
from prunekit.mask import Mask
from prunekit.methods.roulette import STEPS, _child, roulette
from prunekit.score import deviation, relative, sizes
from prunekit.select import WHEELS, log_wheel, spin, wheels

every_wheel = pytest.mark.parametrize("wheel", WHEELS)


@pytest.fixture(scope="module")
def model():
    """A trained tiny model; never changed."""
    trained = tiny_model()
    list(fit(trained, tiny_data(), epochs=4, batch=20, lr=0.1))
    return trained


def grown(model, run=Run(), seed=3, **knobs):
    """The steps of a run on a copy of the model."""
    knobs = dict(sparsity=0.7, branches=4, step=0.1) | knobs
    return prune(roulette, model, tiny_data(), bar=False, seed=seed, run=run, **knobs).history


def told(steps):
    return [
        (s.phase, s.index, s.of, s.mask, dict(s.metrics), describe(s.info), s.tried) for s in steps
    ]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ----------------------------------------------------------------------------------------- wheel

SIZES = torch.tensor([0.1, 0.3, 0.7, 1.0, 1.6, 2.5])


def ordered_pairs(p):
    """The chance of every ordered pair of picks without replacement, by enumeration."""
    pairs = itertools.permutations(range(len(p)), 2)
    return {(i, j): float(p[i] * p[j] / (1 - p[i])) for i, j in pairs}


def spun(logits, spins=20_000):
    """How often each pair of slices was picked, in whichever order."""
    counts = dict.fromkeys(itertools.combinations(range(len(logits)), 2), 0)
    draws = generator(1)
    for _ in range(spins):
        counts[tuple(sorted(spin(logits, 2, draws).tolist()))] += 1
    return counts


def agreement(counts, p):
    """The p-value of the counted pairs under the exact chances of both orders together."""
    exact = ordered_pairs(p)
    expected = [(exact[i, j] + exact[j, i]) * sum(counts.values()) for i, j in counts]
    return chisquare([*counts.values()], expected).pvalue


def test_pairs_of_picks_come_as_often_as_enumeration_says_and_a_wrong_wheel_is_found_out():
    logits = log_wheel(SIZES, "exp", 1.0)
    counts = spun(logits)
    assert agreement(counts, logits.exp()) > 0.001
    for wrong in (log_wheel(SIZES, "exp", 1.15), log_wheel(SIZES, "inv", 1.0)):
        assert agreement(counts, wrong.exp()) < 1e-6
    # so would be the chances of picks with replacement
    p = logits.exp()
    naive = torch.stack([p[i] * p[j] for i, j in counts])
    naive *= sum(counts.values()) / naive.sum()
    assert chisquare([*counts.values()], naive.numpy()).pvalue < 1e-6


def test_the_first_pick_of_many_spins_follows_the_wheel():
    logits = log_wheel(SIZES, "inv", 1.0)
    draws, counts = generator(2), [0] * len(SIZES)
    for _ in range(20_000):
        counts[int(spin(logits, 1, draws))] += 1
    expected = logits.exp() / logits.exp().sum() * 20_000
    assert chisquare(counts, expected.numpy()).pvalue > 0.001


@every_wheel
def test_chances_sum_to_one_fall_with_the_size_and_do_not_depend_on_the_scale(wheel):
    layer = torch.nn.Linear(40, 25, bias=False)
    with torch.no_grad():
        layer.weight.normal_(generator=generator())
    chances = []
    for _ in range(2):
        mask = Mask.ones(layer)
        sizes = relative(layer, mask)["weight"].flatten()
        chances.append(log_wheel(sizes, wheel, 4.0).exp())
        with torch.no_grad():
            layer.weight.mul_(3)
    assert chances[0].sum() == pytest.approx(1)
    assert (chances[0][sizes.argsort()].diff() <= 1e-15).all()
    assert torch.allclose(chances[0], chances[1], rtol=1e-4, atol=1e-12)


@every_wheel
@pytest.mark.parametrize("value", [0.0, 0.3, -2.0])
def test_equal_weights_have_equal_slices(wheel, value):
    layer = torch.nn.Linear(5, 4, bias=False)
    torch.nn.init.constant_(layer.weight, value)
    sizes = relative(layer, Mask.ones(layer))["weight"].flatten()
    assert torch.allclose(log_wheel(sizes, wheel, 4.0).exp(), torch.full((20,), 0.05).double())
    assert torch.allclose(
        log_wheel(torch.zeros(20), wheel, 4.0).exp(), torch.full((20,), 0.05).double()
    )
    assert log_wheel(torch.ones(1), wheel, 4.0).exp().tolist() == [1]


@pytest.mark.parametrize("wheel", ["inv", "exp", "rank"])
def test_a_very_strong_wheel_is_magnitude_pruning(wheel):
    a = torch.linspace(0.01, 5, 200)[torch.randperm(200, generator=generator())]
    picked = spin(log_wheel(a, wheel, 1e5), 60, generator(1))
    assert sorted(picked.tolist()) == sorted(a.topk(60, largest=False).indices.tolist())


@every_wheel
def test_the_strongest_allowed_wheel_still_has_a_finite_slice(wheel):
    a = torch.rand(1_000, generator=generator()) * 8
    logits = log_wheel(a, wheel, 64.0)
    assert not logits.isnan().any()
    assert logits.exp().sum() == pytest.approx(1)
    assert len(set(spin(logits, 999, generator(1)).tolist())) == 999


def test_the_literal_inverse_of_a_large_layer_is_nearly_uniform():
    a = torch.randn(100_000, generator=generator()).abs()
    chances = log_wheel(a, "sum", 1.0).exp() * len(a)
    assert (chances - 1).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_the_wheels_go_from_magnitude_to_blind(kind):
    w = torch.randn(784, 300, generator=generator())
    if kind == "laplace":
        u = torch.rand(784, 300, generator=generator()) - 0.5
        w = -u.sign() * (1 - 2 * u.abs()).log()
    w = w.flatten().double()
    a, n = w.abs() / w.std(), round(0.2 * w.numel())

    def share(picked):
        return float((w[picked] ** 2).sum() / (w**2).sum())

    order = [("rank", 4.0), ("inv", 1.0), ("exp", 1.0), ("lin", 1.0), ("uniform", 1.0)]
    shares = [share(spin(log_wheel(a, *named), n, generator(1))) for named in order]
    assert share(a.topk(n, largest=False).indices) < shares[0]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(0.2, abs=0.01)


# ----------------------------------------------------------------------------------------- child


def decoder(model, parent, *, scope="global", step=0.1, sparsity=0.9, draw_step=False, wheel="inv"):
    seen = sizes(model, parent, "absolute", deviation(model, Mask.ones(model)))
    return partial(
        _child, parent=parent, sparsity=sparsity, wheels=wheels(seen, wheel, 2.0, scope, parent),
        step=step, draw_step=draw_step,
    )  # fmt: skip


def half(model):
    """A mask that keeps every second weight."""
    return Mask(
        {n: torch.arange(k.numel()).reshape(k.shape) % 2 == 0 for n, k in Mask.ones(model).items()}
    )


def test_a_child_depends_on_level_number_and_seed_alone(model):
    candidates = [*itertools.product((1, 2), (0, 1, 2), (3, 4))]
    masks = []
    for disturbed, order in ((1, candidates), (2, candidates[::-1])):
        torch.manual_seed(disturbed)
        decode = decoder(model, half(model), wheel="uniform")
        masks.append({c: decode(model, c) for c in order})
    assert masks[0] == masks[1]
    assert len(set(masks[0].values())) == len(candidates)


@every_wheel
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_child_loses_exactly_the_step_and_nothing_returns(model, scope, wheel):
    parent = half(model)
    for number in range(5):
        mask = decoder(model, parent, scope=scope, wheel=wheel)(model, (1, number, 0))
        assert parent & mask == mask
        if scope == "global":
            assert parent.kept - mask.kept == round(0.1 * parent.kept)
        for name, keep in mask.items() if scope == "layer" else ():
            before = int(parent[name].sum())
            assert before - int(keep.sum()) == round(0.1 * before)


def test_no_child_goes_below_the_target(model):
    parent = half(model)
    for number in range(5):
        candidate = (1, number, 0)
        mask = decoder(model, parent, step=0.4, sparsity=0.6, draw_step=True)(model, candidate)
        assert mask.kept >= mask.total - round(0.6 * mask.total)


def test_drawn_steps_give_children_of_all_four_sizes(model):
    parent = half(model)
    decode = decoder(model, parent, draw_step=True)
    gone = {parent.kept - decode(model, (1, number, 0)).kept for number in range(40)}
    assert gone == {round(0.1 * factor * parent.kept) for factor in STEPS}


# ------------------------------------------------------------------------------------------ tree


def replayed(steps, model, **settings):
    """Each step with its parent and the children that it chose from; no fine-tuning."""
    parent = Mask.ones(model)
    pruned = tiny_model()
    pruned.load_state_dict(model.state_dict())
    for step in steps:
        decode = decoder(pruned, parent, **settings)
        number = range(len(step.tried.costs))
        yield step, [decode(pruned, (step.info["level"], i, 3)) for i in number]
        parent = step.mask.apply_(pruned) and step.mask


def test_the_chosen_child_has_the_fewest_errors_and_is_the_first_of_equals(model):
    tied = 0
    for step, masks in replayed(grown(model, strength=2.0), model, sparsity=0.7):
        errors, chosen = step.tried.costs, step.tried.chosen
        assert step.tried.unit == "errors"
        assert chosen == errors.index(min(errors))
        tied += errors.count(min(errors)) > 1
        assert step.mask == masks[chosen]
        assert step.metrics["accuracy"] == pytest.approx(1 - errors[chosen] / 60)
    assert tied


def test_of_drawn_steps_the_smallest_child_within_the_tie_wins(model):
    knobs = dict(draw_step=True, tie=0.05, strength=2.0, branches=6)
    against_the_best = 0
    for step, masks in replayed(grown(model, **knobs), model, draw_step=True, sparsity=0.7):
        errors, chosen = step.tried.costs, step.tried.chosen
        near = [i for i, e in enumerate(errors) if e <= min(errors) + 3]  # 5 % of 60
        assert chosen in near
        assert masks[chosen].kept == min(masks[i].kept for i in near)
        assert step.mask == masks[chosen]
        against_the_best += errors[chosen] > min(errors)
    assert against_the_best


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("draw_step", [False, True])
@pytest.mark.parametrize("sparsity", [0.0, 0.31, 0.8, 0.97])
def test_the_target_is_met_exactly(model, scope, draw_step, sparsity):
    steps = grown(model, scope=scope, draw_step=draw_step, sparsity=sparsity, branches=2, step=0.3)
    mask = steps[-1].mask if steps else Mask.ones(model)
    if scope == "global":
        assert mask.total - mask.kept == round(sparsity * mask.total)
    for keep in mask.values() if scope == "layer" else ():
        assert keep.numel() - int(keep.sum()) == min(
            round(sparsity * keep.numel()), keep.numel() - 1
        )
    assert [s.index for s in steps] == [*range(1, len(steps) + 1)]
    assert all(a.of <= b.of for a, b in itertools.pairwise(steps))


def test_biases_are_pruned_where_asked(model):
    steps = grown(model, biases=True)
    assert steps[-1].mask.total == 147
    assert steps[-1].sparsity == pytest.approx(0.7, abs=0.004)


def test_the_run_stops_before_the_best_child_falls_below_the_tolerance(model):
    dense = evaluate(model, tiny_data())
    free = grown(model, wheel="uniform", sparsity=0.97, branches=1)
    assert min(s.metrics["accuracy"] for s in free) < dense - 0.05
    report = prune(
        roulette, model, tiny_data(), bar=False, wheel="uniform", sparsity=0.97, branches=1,
        step=0.1, tolerance=0.05, seed=3,
    )  # fmt: skip
    within = [s.metrics["accuracy"] for s in report.history]
    assert within
    assert min(within) >= dense - 0.05 - 1e-6
    assert report.mask == report.history[-1].mask
    assert 0 < report.sparsity < 0.95
    assert report.after["accuracy"] == within[-1]
    assert all(
        not dict(report.model.named_parameters())[n][~k].any() for n, k in report.mask.items()
    )
    assert [s.index for s in report.history] == [*range(1, len(within) + 1)]
    levels = [s.info["level"] for s in report.history]
    assert len({*levels}) == len(levels)  # a level that failed is spun anew, as another level


def test_a_loss_of_exactly_the_tolerance_is_within_it(model):
    dense = evaluate(model, tiny_data())
    for step in grown(model, wheel="uniform"):
        loss = dense - step.metrics["accuracy"]
        if loss > 0:
            break
    steps = grown(model, wheel="uniform", tolerance=round(loss * 60) / 60)
    assert told(steps[: step.index]) == told(grown(model, wheel="uniform")[: step.index])


def test_one_branch_is_a_blind_walk_along_the_wheel(model):
    for step, (only,) in replayed(grown(model, branches=1, strength=2.0), model, sparsity=0.7):
        assert step.tried.chosen == 0
        assert step.mask == only


def test_two_threads_give_the_same_history(model):
    with ThreadPoolExecutor(2) as pool:
        assert told(grown(model, Run(workers=pool.map))) == told(grown(model))


@pytest.mark.parametrize("extra", [{}, dict(draw_step=True, tolerance=0.3, epochs=1)])
def test_killed_after_any_level_it_goes_on_to_the_same_history(model, tmp_path, extra):
    knobs = dict(sparsity=0.5, branches=3, step=0.2, **extra)
    whole = told(grown(model, **knobs))

    def fresh(journal):
        pruned = tiny_model()
        pruned.load_state_dict(model.state_dict())
        return roulette(pruned, tiny_data(), seed=3, run=Run(journal=journal), **knobs)

    for n in range(1, len(whole) + 1):
        killed = fresh(Journal(tmp_path / f"{n}"))
        assert told(itertools.islice(killed, n)) == whole[:n]
        killed.close()
        assert told(fresh(Journal(tmp_path / f"{n}"))) == whole


# ------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("knobs", "rule"),
    [
        *[(dict(strength=value), "strength must be in (0, 64]") for value in (0, -1.0, 65)],
        *[(dict(strength=value), "strength must be in (0, 64]") for value in (math.nan, math.inf)],
        (dict(branches=0), "branches must be in [1, inf)"),
        (dict(branches=2.5), "branches must be a whole number in [1, inf)"),
        *[(dict(step=value), "step must be in (0, 1)") for value in (0, 1, math.nan, -0.1, 5)],
        *[(dict(tie=value), "tie must be in [0, inf)") for value in (-0.1, math.nan, math.inf)],
        *[(dict(tolerance=value), "tolerance must be in [0, 1]") for value in (-0.1, math.nan, 5)],
        (dict(step=0.001), "step must remove at least one weight of the model (132)"),
        (dict(step=0.01, scope="layer"), "step must remove at least one weight of 2.weight (36)"),
        (dict(step=0.5, draw_step=True), "step must be below 0.5 if drawn"),
        (dict(wheel="square"), "wheel must be one of 'sum', 'lin'"),
    ],
)
def test_bad_knobs_are_refused_by_rule_and_value_before_any_work(knobs, rule):
    def no_work(function, items):
        raise AssertionError("work was done")

    model = tiny_model()
    before = str(model.state_dict())
    with pytest.raises(ValueError) as error:
        roulette(model, tiny_data(), run=Run(workers=no_work), **knobs)
    assert str(error.value).startswith(f"roulette: {rule}")
    name = rule.split()[0]
    assert f"got {knobs[name]!r}" in str(error.value)
    assert str(model.state_dict()) == before


def test_weights_that_are_not_finite_are_refused():
    model = tiny_model()
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    with pytest.raises(ValueError, match="roulette: every weight must be finite"):
        roulette(model, tiny_data())


def test_a_network_that_is_sparse_enough_is_told_as_it_is(model):
    pruned = prune(roulette, model, tiny_data(), sparsity=0.7, step=0.4, bar=False).model
    (step,) = grown(pruned, sparsity=0.5)
    assert step.sparsity == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize("measure", ["relative", "absolute"])
def test_a_steep_wheel_removes_what_is_small_by_the_measure(model, measure):
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed[2].weight.mul_(100)  # large beside the others, not beside its own layer
    steps = prune(
        roulette, changed, tiny_data(), measure=measure, wheel="exp", strength=64.0,
        branches=1, step=0.3, sparsity=0.3, bar=False,
    ).history  # fmt: skip
    removed = {name: int((~keep).sum()) for name, keep in steps[-1].mask.items()}
    assert (removed["2.weight"] == 0) == (measure == "absolute")


def test_absolute_sizes_keep_the_scale_of_the_start(model):
    """Not of what is left: then the wheel would change its strength from level to level."""
    mask, changed = Mask.ones(model), copy.deepcopy(model)
    dense = deviation(model, mask)
    w = torch.cat([model.get_parameter(n).detach().flatten() for n in mask])
    assert dense == pytest.approx(float(w.std(correction=0)), rel=1e-5)
    half(model).apply_(changed)
    first, later = (sizes(m, mask, "absolute", dense) for m in (model, changed))
    for name, keep in half(model).items():
        assert torch.equal(first[name][keep], later[name][keep])


def test_runs_of_before_there_was_a_measure_were_relative():
    knob = roulette.knobs["measure"]
    assert (knob.default, knob.before) == ("absolute", "relative")
    arm = Arm(roulette, dict(measure="relative"))
    cell = dict(given=["sparsity"], knobs=dict(sparsity=0.9))
    assert complete(cell, arm)["knobs"]["measure"] == "relative"
