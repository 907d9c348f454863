"""Differential evolution: its laws, and the optima of standard functions beside scipy's."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from prunekit.evolve import STRATEGIES, evolve, propose, spread


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def bounds(genes, low=-5.0, high=5.0):
    return torch.full((genes,), low).double(), torch.full((genes,), high).double()


def sphere(x):
    return (x**2).sum(-1)


def rosenbrock(x):
    return (100 * (x[..., 1:] - x[..., :-1] ** 2) ** 2 + (1 - x[..., :-1]) ** 2).sum(-1)


def rastrigin(x):
    return (x**2 - 10 * np.cos(2 * math.pi * x) + 10).sum(-1)


def judged(function):
    return lambda vectors, rivals: function(vectors.numpy()).tolist()


# ----------------------------------------------------------------------------------------- oracle

# function, strategy, F, CR, population, generations: what finds the optimum often but not always.
CASES = {
    "sphere": (sphere, "rand1bin", 0.5, 0.9, 25, 80),
    "sphere, best": (sphere, "best1bin", 0.5, 0.7, 25, 35),
    "rosenbrock": (rosenbrock, "rand1bin", 0.7, 0.9, 30, 270),
    "rosenbrock, current to best": (rosenbrock, "current-to-best1bin", 0.7, 0.9, 26, 210),
    "rastrigin": (rastrigin, "rand1bin", 0.5, 0.3, 20, 180),
    "rastrigin, best": (rastrigin, "best1bin", 0.6, 0.3, 30, 125),
}
SCIPY = {"current-to-best1bin": "currenttobest1bin"}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_optima_are_found_as_reliably_as_by_scipy(case):
    function, strategy, scale, crossover, population, generations = case
    low, high = bounds(5)
    ours, theirs = [], []
    for seed in range(20):
        start = spread(population, low, high, seeded(seed))
        *_, last = evolve(
            judged(function), start, low, high, generations=generations, strategy=strategy,
            scale=scale, crossover=crossover, generator=seeded(1000 + seed),
        )  # fmt: skip
        ours.append(last.scores[last.best])
        found = optimize.differential_evolution(
            lambda x: function(x.T), [(-5, 5)] * 5, strategy=SCIPY.get(strategy, strategy),
            init=start.numpy(), mutation=scale, recombination=crossover, maxiter=generations,
            tol=0, atol=0, polish=False, updating="deferred", vectorized=True, seed=seed,
        )  # fmt: skip
        assert found.nfev == generations + 1  # calls, each with the whole population
        theirs.append(found.fun)
    ours, theirs = np.array(ours), np.array(theirs)
    found, expected = (ours < 1e-6).sum(), (theirs < 1e-6).sum()
    assert expected >= 10  # else the case says nothing
    # As often as scipy, but for what two samples of 20 may differ by chance (p = 0.001).
    assert found >= expected - 9
    # As close: the mean of log10 differs by less than 4 of its standard errors.
    a, b = np.log10(ours + 1e-300), np.log10(theirs + 1e-300)
    assert abs(a.mean() - b.mean()) < 4 * np.sqrt(a.var(ddof=1) / 20 + b.var(ddof=1) / 20)


# ------------------------------------------------------------------------------------------- laws


def generations(strategy="rand1bin", n=12, genes=3, count=15, seed=0, judge=judged(rastrigin)):
    low, high = bounds(genes)
    start = spread(n, low, high, seeded(seed))
    return [
        *evolve(judge, start, low, high, generations=count, strategy=strategy, generator=seeded(1))
    ]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_vector_ever_gets_worse_and_only_the_replaced_change(strategy):
    found = generations(strategy)
    assert [g.index for g in found] == list(range(16))
    for before, after in itertools.pairwise(found):
        for i in range(12):
            same = torch.equal(before.vectors[i], after.vectors[i])
            assert same != (i in after.replaced)
            assert after.scores[i] <= before.scores[i]
        assert list(after.scores) == pytest.approx(rastrigin(after.vectors.numpy()))
        assert after.scores[after.best] == min(after.scores)


def test_a_trial_as_good_as_its_target_replaces_it():
    for generation in generations(judge=lambda vectors, rivals: [0.0] * len(vectors))[1:]:
        assert generation.replaced == (*range(12),)
        assert torch.equal(generation.vectors, generation.proposal.trials)


def test_of_coarse_scores_those_that_are_not_worse_replace():
    def coarse(vectors, rivals=None):
        return (sphere(vectors) / 10).floor().tolist()

    better, equal, worse = 0, 0, 0
    for before, after in itertools.pairwise(generations(judge=coarse)):
        pairs = [*zip(coarse(after.proposal.trials), before.scores, strict=True)]
        assert after.replaced == tuple(i for i, (new, old) in enumerate(pairs) if new <= old)
        for i, (new, old) in enumerate(pairs):
            origin = after.proposal.trials if new <= old else before.vectors
            assert torch.equal(after.vectors[i], origin[i])
            better, equal, worse = better + (new < old), equal + (new == old), worse + (new > old)
    assert min(better, equal, worse) > 0


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(st.integers(0, 10**6), st.integers(4, 9), st.integers(1, 4), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_trials_stay_in_bounds_and_take_a_gene_of_the_mutant(strategy, seed, n, genes, crossover):
    low, high = bounds(genes, -1.0, 2.0)
    vectors = spread(n, low, high, seeded(seed))
    trials = propose(
        vectors, vectors[0], low, high, strategy, 0.8, crossover, seeded(seed + 1)
    ).trials
    assert trials.shape == vectors.shape
    assert ((trials >= low) & (trials <= high)).all()
    changed = (trials != vectors).sum(1)
    if strategy == "rand1bin":  # the others may propose the target itself
        assert (changed >= 1).all()
    if crossover == 0:
        assert (changed <= 1).all()


def test_a_mutant_is_made_of_three_others():
    vectors = torch.tensor([[1.0], [2.0], [4.0], [8.0], [16.0]]).double()
    low, high = bounds(1, -1000.0, 1000.0)
    values, seen = vectors.flatten().tolist(), set()
    for seed in range(200):
        trials = propose(vectors, vectors[0], low, high, "rand1bin", 0.5, 1.0, seeded(seed)).trials
        for x, trial in zip(values, trials.flatten().tolist(), strict=True):
            others = [v for v in values if v != x]
            made = {
                a + 0.5 * (b - c): (a, b, c)
                for a in others for b in others for c in others if len({a, b, c}) == 3
            }  # fmt: skip
            assert trial in made
            seen.add((x, trial))
    possible = {
        (x, a + 0.5 * (b - c))
        for x in values for a in values for b in values for c in values
        if len({x, a, b, c}) == 4
    }  # fmt: skip
    assert seen == possible


def test_the_crossover_takes_each_gene_with_its_chance_and_one_for_certain():
    low, high = bounds(10, -1e6, 1e6)
    vectors = spread(4000, low, high, seeded())
    trials = propose(vectors, vectors[0], low, high, "rand1bin", 0.5, 0.3, seeded(1)).trials
    share = float((trials != vectors).double().mean())
    assert share == pytest.approx(0.3 + 0.7 / 10, abs=0.01)  # 4 standard errors: 0.009


def test_the_same_seed_gives_the_same_history():
    a, b, c = generations(), generations(), generations(seed=3)
    assert all(torch.equal(x.vectors, y.vectors) for x, y in zip(a, b, strict=True))
    assert not torch.equal(a[-1].vectors, c[-1].vectors)


def test_scores_of_losers_do_not_matter():
    """A judge that knows its rivals may stop early: nothing of it is seen."""

    def lazy(vectors, rivals):
        scores = judged(rastrigin)(vectors, rivals)
        if rivals is None:
            return scores
        return [s if s <= r else math.inf for s, r in zip(scores, rivals, strict=True)]

    for a, b in zip(generations(), generations(judge=lazy), strict=True):
        assert torch.equal(a.vectors, b.vectors)
        assert (a.scores, a.replaced) == (b.scores, b.replaced)


def test_scores_may_be_tuples_compared_in_order():
    def judge(vectors, rivals):
        return [(max(0.0, 1 - float(v[0])), float(v.sum())) for v in vectors]

    *_, last = generations(judge=judge, count=200)
    first, total = last.scores[last.best]
    assert first == 0
    assert total < -8  # the least is 1 - 5 - 5


# -------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("low", "high"),
    [([0.0, 2.0], [1.0, 1.0]), ([0.0, math.nan], [1.0, 1.0]), ([0, 0], [1, math.inf])],
)
def test_bounds_that_are_crossed_or_not_numbers_are_refused(low, high):
    low, high = torch.tensor(low).double(), torch.tensor(high).double()
    with pytest.raises(ValueError, match="evolve: gene 1 needs finite bounds"):
        next(
            evolve(judged(sphere), torch.zeros(4, 2), low, high, generations=1, generator=seeded())
        )


def test_fewer_than_four_vectors_are_refused():
    low, high = bounds(2)
    with pytest.raises(ValueError, match="at least 4 vectors, got 3"):
        next(
            evolve(judged(sphere), torch.zeros(3, 2), low, high, generations=1, generator=seeded())
        )


@pytest.mark.parametrize("bad", [math.nan, (0, math.nan)])
def test_a_score_that_is_not_a_number_is_refused_and_the_vector_named(bad):
    low, high = bounds(2)
    start = spread(5, low, high, seeded())

    def judge(vectors, rivals):
        return [0.0 if i != 3 or isinstance(bad, tuple) else bad for i in range(4)] + [bad]

    with pytest.raises(ValueError, match=r"evolve: the score of \[.*\] is .*nan.*, not a number"):
        next(evolve(judge, start, low, high, generations=1, generator=seeded()))


def test_too_few_scores_are_refused():
    low, high = bounds(2)
    with pytest.raises(ValueError, match="5 vectors need as many scores, got 1"):
        next(
            evolve(
                lambda v, r: [1.0], spread(5, low, high, seeded()), low, high,
                generations=1, generator=seeded(),
            )
        )  # fmt: skip
