"""Differential evolution of thresholds: masks and bounds against brute force, the laws of the
search, and that skipping, threads and kills change nothing."""

import copy
import functools
import itertools
import json
import math
import os
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from tiny import tiny_data, tiny_model
from torch import nn

from prunekit import Data, Journal, Mask, Run, evaluate, fit, prune
from prunekit._files import describe
from prunekit._modules import state_key
from prunekit._random import LocalRandom
from prunekit.data import squared_error
from prunekit.evolve import STRATEGIES
from prunekit.methods.differential_evolution import (
    FITNESS,
    GRID,
    SETTLED,
    _cut,
    _Judge,
    _layers,
    _recover,
    _scan,
    _splice,
    differential_evolution,
)
from prunekit.widgets.lineage import family

N = 60  # validation examples of the tiny data
SMALL = dict(rounds=2, generations=4, population=6, epochs=1, drop=0.05, tolerance=0.05)
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
every_fitness = pytest.mark.parametrize("fitness", FITNESS)


@pytest.fixture(scope="module")
def model():
    """A trained tiny model; never changed."""
    trained = tiny_model()
    list(fit(trained, tiny_data(), epochs=4, batch=20, lr=0.1))
    return trained


@pytest.fixture(scope="module")
def normed():
    """A trained tiny model with buffers and dropout; never changed."""
    first, relu, last = tiny_model()
    trained = nn.Sequential(first, nn.BatchNorm1d(12), relu, nn.Dropout(0.2), last)
    list(fit(trained, tiny_data(), epochs=4, batch=20, lr=0.1))
    return trained


def stream(model, data=None, run=Run(), seed=3, **knobs):
    return differential_evolution(model, data or tiny_data(), seed=seed, run=run, **(SMALL | knobs))


def grown(model, data=None, run=Run(), seed=3, **knobs):
    """The steps of a run on a copy of the model."""
    return [*stream(copy.deepcopy(model), data, run, seed, **knobs)]


def watched(model, data=None, **knobs):
    """Each step of a run with a copy of the model from before it and one from after it."""
    pruned = copy.deepcopy(model)
    before = copy.deepcopy(pruned)
    for step in stream(pruned, data, **knobs):
        after = copy.deepcopy(pruned)
        yield step, before, after
        before = after


def told(steps):
    return [
        (s.phase, s.index, s.of, s.mask, dict(s.metrics), describe(s.info), s.tried) for s in steps
    ]


def searched(steps):
    """The search steps of each round."""
    found = [step for step in steps if step.phase == "search"]
    return [[*group] for _, group in itertools.groupby(found, lambda step: step.info["round"])]


class Counted:
    """Serial workers that count what they finished, and fail at one task if asked to."""

    def __init__(self, fails_at=None):
        self.tasks, self.fails_at = 0, fails_at

    def __call__(self, function, items):
        for item in items:
            if self.tasks == self.fails_at:
                raise OSError("the machine is gone")
            result = function(item)
            self.tasks += 1
            yield result


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def errors(model, data, mask=None):
    """How many validation examples a model gets wrong under a mask, in plain torch."""
    pruned = copy.deepcopy(model).eval()
    if mask is not None:
        mask.apply_(pruned)
    x, y = data.splits["validation"]
    with torch.no_grad():
        return int((pruned(x).argmax(1) != y).sum())


def layers_of(mask):
    """The names of each layer's parameters: those with the same module."""
    modules = dict.fromkeys(name.rpartition(".")[0] for name in mask)
    return [[n for n in mask if n.rpartition(".")[0] == module] for module in modules]


def thresholds(model, vector, mask):
    """Sensitivity × standard deviation of the survivors, for each parameter, by numpy."""
    weights = {n: p.detach().numpy().astype(np.float64) for n, p in model.named_parameters()}
    layers, found = layers_of(mask), {}
    for s, names in zip(vector * (len(layers) // len(vector)), layers, strict=True):
        survivors = np.concatenate([weights[n][mask[n].numpy()] for n in names])
        for name in names:
            found[name] = s * survivors.std() if len(survivors) else 0.0
    return found


def by_hand(model, vector, mask):
    """The mask that a vector stands for, by numpy."""
    weights, limits = dict(model.named_parameters()), thresholds(model, vector, mask)
    return Mask({n: k & (weights[n].detach().double().abs() >= limits[n]) for n, k in mask.items()})


# ----------------------------------------------------------------------------------------- masks


@st.composite
def cases(draw):
    """A model, a mask of it, and a vector of sensitivities.

    Coarse weights are often equal. A whole number in the vector stands for a threshold that lies
    exactly on a weight.
    """
    widths = draw(st.lists(st.integers(1, 7), min_size=2, max_size=4))
    share = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    coarse, biases, shared = (draw(st.booleans()) for _ in range(3))
    draws = generator(draw(st.integers(0, 10**6)))
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(widths)))
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(generator=draws)
            if coarse:
                p.copy_((p * 2).round() / 2)
    ones = Mask.ones(model, biases)
    mask = Mask({n: torch.rand(k.shape, generator=draws) < share for n, k in ones.items()})
    gene = st.one_of(st.just(0.0), st.floats(0, 3), st.integers(0, 60))
    n = 1 if shared else len(widths) - 1
    return model, mask, draw(st.lists(gene, min_size=n, max_size=n))


def on_the_spot(vector, layers):
    """The vector with its whole numbers replaced, and the sizes that then lie on a threshold."""
    made, hit = [], {}
    for gene, (s, deviation, sizes) in enumerate(
        zip(vector, layers.deviations, layers.sizes, strict=False)
    ):
        if isinstance(s, int):
            s = 0.0
            if deviation > 0:
                hit[gene] = sizes[vector[gene] % len(sizes)]
                s = float(hit[gene]) / deviation
        made.append(s)
    return made, hit


@given(cases())
@settings(max_examples=100)
def test_what_a_vector_keeps_is_counted_without_its_mask(case):
    model, mask, vector = case
    layers = _layers(model, mask)
    vector, hit = on_the_spot(vector, layers)
    cut = _cut(model, vector, mask=mask, names=layers.names, deviations=layers.deviations)
    assert layers.kept(vector) == cut.kept
    parameters = dict(model.named_parameters())
    for gene, size in hit.items():  # a weight at the threshold stays
        for name in layers.names[gene]:
            at = mask[name] & (parameters[name].detach().abs() == size)
            assert (cut[name] | ~at).all()


@given(cases())
@settings(max_examples=100)
def test_the_mask_of_a_vector_is_that_of_numpy(case):
    model, mask, vector = case
    layers = _layers(model, mask)
    assert layers.names == layers_of(mask)
    vector = [s if isinstance(s, float) else s / 20 for s in vector]
    cut = _cut(model, vector, mask=mask, names=layers.names, deviations=layers.deviations)
    expected, limits = by_hand(model, vector, mask), thresholds(model, vector, mask)
    assert cut & mask == cut
    for name, p in model.named_parameters():
        if name in mask:
            near = (p.detach().abs() - limits[name]).abs() <= 1e-5 * limits[name]
            assert ((cut[name] == expected[name]) | near).all()


def test_a_zero_vector_keeps_everything_and_a_huge_one_nothing(model):
    for mask in (Mask.ones(model), Mask.ones(model, biases=True)):
        layers = _layers(model, mask)
        cut = functools.partial(_cut, mask=mask, names=layers.names, deviations=layers.deviations)
        assert cut(model, [0.0, 0.0]) == mask
        assert cut(model, [0.0]) == mask
        assert cut(model, [100.0]).kept == layers.kept([100.0, 100.0]) == 0


def test_a_threshold_exactly_at_the_weights_keeps_them():
    layer = nn.Sequential(nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        layer[0].weight.copy_(torch.tensor([[1.0, -1.0, 1.0, -1.0]]))  # standard deviation 1
    mask = Mask.ones(layer)
    layers = _layers(layer, mask)
    for s, kept in ((0.999999, 4), (1.0, 4), (1.000001, 0)):
        assert layers.kept([s]) == kept
        assert _cut(layer, [s], mask=mask, names=layers.names, deviations=[1.0]).kept == kept


def test_removed_weights_do_not_count_for_the_standard_deviation():
    layer = nn.Sequential(nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        layer[0].weight.copy_(torch.tensor([[1.0, -1.0, 0.0, 50.0]]))
    layers = _layers(layer, Mask({"0.weight": torch.tensor([[True, True, False, False]])}))
    assert layers.deviations == [1.0]


# -------------------------------------------------------------------------------------- recovery


def cut_in_two(model, seed, biases=True):
    """A mask with some weights gone, and what a cut leaves of it."""
    draws = generator(seed)
    ones = Mask.ones(model, biases)
    before, stays = (
        Mask({n: torch.rand(k.shape, generator=draws) < share for n, k in ones.items()})
        for share in (0.8, 0.4)
    )
    return before, before & stays


@pytest.mark.parametrize("how", ["random", "magnitude", "off"])
@given(st.integers(0, 10**6), st.floats(0, 1, exclude_max=True))
@settings(max_examples=40)
def test_the_exact_share_of_what_the_cut_removed_comes_back(how, seed, share):
    model = tiny_model()
    before, cut = cut_in_two(model, seed)
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    found = _recover(model, before, cut, how, share, generator(seed))
    if how == "off":
        assert found == cut
    assert [*found] == [*cut]
    for name, keep in found.items():
        back, removed = keep & ~cut[name], before[name] & ~cut[name]
        assert not (cut[name] & ~keep).any()
        assert not (back & ~removed).any()
        if how == "off":
            continue
        assert int(back.sum()) == round(share * int(removed.sum()))
        sizes, gone = weights[name].abs(), removed & ~back
        if how == "magnitude" and back.any() and gone.any():
            assert sizes[back].min() >= sizes[gone].max()
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())


def test_what_comes_back_at_random_depends_on_the_seed_alone():
    one, other = tiny_model(), tiny_model(seed=1)
    before, cut = cut_in_two(one, 0)
    masks = [_recover(one, before, cut, "random", 0.3, generator(seed)) for seed in range(20)]
    assert len(set(masks)) == 20
    torch.manual_seed(5)
    for seed, mask in enumerate(masks):
        assert _recover(other, before, cut, "random", 0.3, generator(seed)) == mask


def test_every_removed_weight_comes_back_as_often():
    model, spins = tiny_model(), 500
    before, cut = cut_in_two(model, 0)
    draws = generator(1)
    found = [_recover(model, before, cut, "random", 0.25, draws) for _ in range(spins)]
    for name in ("0.weight", "2.weight"):
        removed = before[name] & ~cut[name]
        counts = torch.stack([mask[name][removed] for mask in found]).double().sum(0)
        m, k = len(counts), round(0.25 * len(counts))
        # k of m without replacement: the usual sum, times (m - 1) / (m - k)
        expected = spins * k / m
        statistic = float(((counts - expected) ** 2).sum()) / expected * (m - 1) / (m - k)
        assert 0.001 < chi2.sf(statistic, m - 1) < 0.999
        assert chi2.sf(2 * statistic, m - 1) < 0.05  # so unequal chances would be found out


@pytest.mark.parametrize(("how", "share"), [("random", 0.2), ("magnitude", 0.2), ("off", 0.2)])
def test_a_round_cuts_then_recovers_and_leaves_the_old_weights(model, how, share):
    came_back = 0
    mask = Mask.ones(model)
    knobs = dict(recovery=how, recovered=share, rounds=3, tolerance=1.0)
    for step, before, after in watched(model, **knobs):
        if step.phase == "prune":
            cut = by_hand(before, step.info["sensitivities"], mask)
            weights = dict(before.named_parameters())
            for name, p in after.named_parameters():
                if name not in mask:
                    assert torch.equal(p, weights[name])
                    continue
                back, removed = step.mask[name] & ~cut[name], mask[name] & ~cut[name]
                assert not (back & ~removed).any()
                assert not (cut[name] & ~step.mask[name]).any()
                n = 0 if how == "off" else round(share * int(removed.sum()))
                assert int(back.sum()) == n
                assert torch.equal(p, torch.where(step.mask[name], weights[name], 0.0))
                assert (p[back] != 0).all()
                if how == "magnitude" and n:
                    sizes = weights[name].detach().abs()
                    assert (sizes[removed & ~back] <= sizes[back].min()).all()
                came_back += n
        mask = step.mask
    assert (came_back > 0) == (how != "off")


# ------------------------------------------------------------------------------------------ scan


def scanned(model, mask, data, allowed, bound):
    """The scan by hand: each layer cut alone with each sensitivity of the grid, in plain torch."""
    layers, highest = layers_of(mask), []
    for gene in range(len(layers)):
        best = 0.0
        for i in range(1, GRID + 1):
            s = bound * (i / GRID)
            vector = [s if g == gene else 0.0 for g in range(len(layers))]
            if errors(model, data, by_hand(model, vector, mask)) > allowed:
                break
            best = s
        highest.append(best)
    return highest


def judge_of(model, data, score=None, mask=None, run=Run()):
    mask = mask if mask is not None else Mask.ones(model)
    return _Judge(model, data, mask, _layers(model, mask), score, True, run)


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("bound", [0.7, 2.5, 6.0])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 1.0])
def test_the_scan_finds_what_one_layer_at_a_time_finds(model, share, bound, biases):
    data, ones = tiny_data(), Mask.ones(model, biases)
    for mask in (ones, cut_in_two(model, 1, biases)[0]):
        worn = mask.apply_(copy.deepcopy(model))
        dense = errors(worn, data)
        allowed = dense + share * N + 1e-9
        found = _scan(judge_of(worn, data, mask=mask), allowed, bound)
        assert found == scanned(worn, mask, data, allowed, bound)
        if share == 1:
            assert found == pytest.approx([bound] * 2)


@pytest.mark.parametrize("uniform", [False, True])
def test_no_gene_exceeds_what_the_scan_allows(model, uniform):
    data = tiny_data()
    dense, bounds, reached = errors(model, data), set(), 0
    knobs = dict(scan=0.1, rounds=3, bound=3.0, later=2.0, drop=1.0, tolerance=1.0)
    for step, before, _ in watched(model, uniform=uniform, **knobs):
        if step.phase != "search":
            continue
        if step.index == 1:
            bound = 3.0 if step.info["round"] == 1 else 2.0
            high = scanned(before, step.mask, data, dense + 0.1 * N + 1e-9, bound)
            high = [max(high)] if uniform else high
            bounds.add(tuple(high))
            assert step.tried.vectors[0] == (0.0,) * len(high)
        for vector in step.tried.vectors:
            assert all(0 <= s <= h for s, h in zip(vector, high, strict=True))
            reached += any(s > 0.8 * h > 0 for s, h in zip(vector, high, strict=True))
    assert len(bounds) > 1
    assert reached


@every_strategy
def test_no_gene_exceeds_the_bound_of_its_round(model, strategy):
    knobs = dict(scan=1.0, bound=1.25, later=0.5, rounds=3, tolerance=1.0, strategy=strategy)
    for number, steps in enumerate(searched(grown(model, scale=1.5, **knobs))):
        limit = 0.5 if number else 1.25
        genes = [s for step in steps for vector in step.tried.vectors for s in vector]
        assert 0.8 * limit < max(genes) <= limit
        assert min(genes) == 0.0


def test_layers_that_cannot_be_cut_are_left_alone(model):
    """With no loss allowed in the scan, and every cut losing, all vectors are zero."""
    data = tiny_data()
    x, _ = data.splits["validation"]
    with torch.no_grad():
        margins = model(x).topk(2).values.diff().abs().flatten()
        y = model(x).argmax(1)
    edge = margins.argmin()  # an example that the smallest cut turns over
    pair = x[edge : edge + 1].repeat(N, 1), y[edge : edge + 1].repeat(N)
    data = Data({"train": data.splits["train"], "validation": pair})
    steps = grown(model, data, scan=0.0, drop=0.0, bound=6.0, tolerance=1.0, rounds=1, epochs=0)
    high = scanned(model, Mask.ones(model), data, 1e-9, 6.0)
    assert 0.0 in high
    for step in searched(steps)[0]:
        assert all(
            s == 0 for v in step.tried.vectors for s, h in zip(v, high, strict=True) if not h
        )


# ---------------------------------------------------------------------------------------- search

TINY = tiny_model(), tiny_data()


def negative_mse(outputs, targets):
    return -float(squared_error(outputs, targets))


def idle_judge(score, metric=None):
    """A judge with this score that is not asked to judge anything."""
    model, data = TINY
    if metric is not None:
        data = copy.copy(data)
        data.metric = metric
    return judge_of(model, data, score)


@every_fitness
@given(
    dense=st.integers(0, N - 1),
    share=st.floats(0, 1),
    balance=st.floats(0, 1),
    rival=st.tuples(st.integers(0, N), st.integers(0, 132)),
    kept=st.integers(0, 132),
    equal=st.booleans(),
)
@settings(max_examples=120)
def test_the_most_errors_that_do_not_lose_are_those_of_brute_force(
    fitness, dense, share, balance, rival, kept, equal
):
    score = functools.partial(
        FITNESS[fitness], allowed=dense + share * N + 1e-9, dense=dense, total=132,
        balance=balance, scale=N - dense, budget=round(share * 132),
    )  # fmt: skip
    kept = rival[1] if equal else kept
    judge = idle_judge(score)
    winners = [e for e in range(N + 1) if score(e, kept) <= score(*rival)]
    assert judge.most(score(*rival), kept) == max(winners, default=-1)


@pytest.fixture(scope="module")
def regression():
    """A trained tiny model with one output, and data that are judged by minus the squared error."""
    draws = generator(0)
    slope = torch.randn(8, generator=draws)
    splits = {}
    for split, n in (("train", 120), ("validation", N), ("test", N)):
        x = torch.randn(n, 8, generator=draws)
        splits[split] = x, x @ slope / 3 + 0.1 * torch.randn(n, generator=draws)
    data = Data(splits, name="slope", loss=squared_error, metric=negative_mse)
    model = nn.Sequential(*[*tiny_model()][:-1], nn.Linear(12, 1))
    with torch.no_grad():
        for p in model[-1].parameters():
            p.uniform_(-0.3, 0.3, generator=draws)
    list(fit(model, data, epochs=20, batch=20, lr=0.05))
    return model, data


@every_fitness
@given(
    st.floats(-2, 2).filter(bool), st.floats(0, 1), st.floats(0, 1),
    st.tuples(st.floats(-3, 3), st.integers(0, 132)), st.integers(0, 132),
)  # fmt: skip
def test_of_an_own_metric_only_what_cannot_win_is_skipped(
    fitness, dense, drop, balance, rival, kept
):
    score = functools.partial(
        FITNESS[fitness], allowed=dense + drop + 1e-9, dense=dense, total=132,
        balance=balance, scale=abs(dense), budget=round(drop * 132),
    )  # fmt: skip
    limit = idle_judge(score, negative_mse).most(score(*rival), kept)
    losses = np.linspace(-4, 4, 41)
    if limit == -math.inf:
        assert all(score(loss, kept) > score(*rival) for loss in losses)
    else:
        assert limit == math.inf
        assert score(min(dense, *losses), kept) <= score(*rival)


def pair(model, data=None, **knobs):
    """The same run with and without skipping: what each tells, and how many tasks it took."""
    found = []
    for skip in (True, False):
        workers = Counted()
        steps = grown(model, data, Run(workers=workers), skip=skip, **knobs)
        found.append((told(steps), workers.tasks))
    return found


@every_fitness
@every_strategy
@pytest.mark.parametrize("uniform", [False, True])
def test_skipping_changes_nothing_but_the_work(model, fitness, strategy, uniform):
    skipped = 0
    for seed, tolerance in ((0, 0.03), (1, 0.06), (2, 0.03)):
        knobs = dict(fitness=fitness, strategy=strategy, uniform=uniform, seed=seed)
        (lazy, fewer), (whole, tasks) = pair(model, tolerance=tolerance, **knobs)
        assert lazy == whole
        skipped += tasks - fewer
    assert skipped > 0


@given(
    fitness=st.sampled_from([*FITNESS]),
    strategy=st.sampled_from([*STRATEGIES]),
    uniform=st.booleans(),
    scale=st.floats(0.1, 2),
    crossover=st.floats(0, 1),
    balance=st.floats(0, 1),
    drop=st.floats(0, 0.3),
    tolerance=st.floats(0, 0.3),
    scan=st.floats(0, 1),
    population=st.integers(4, 9),
    recovery=st.sampled_from(["random", "magnitude", "off"]),
    images=st.sampled_from([0, 10, 33]),
    judged_by=st.sampled_from(["metric", "loss"]),
    biases=st.booleans(),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=20)
def test_skipping_changes_nothing_whatever_the_knobs(model, **knobs):
    (lazy, fewer), (whole, tasks) = pair(model, **knobs)
    assert lazy == whole
    assert fewer <= tasks


class Read(Data):
    """Data that count the validation batches that they, and their copies in part, give."""

    def __init__(self, *splits):
        super().__init__(*splits)
        self.given = []

    def batches(self, split, size, generator=None):
        for batch in super().batches(split, size, generator):
            if split == "validation" and size > 1:  # one is to find out how many fit into memory
                self.given.append(len(batch[1]))
            yield batch


@every_fitness
def test_what_has_lost_is_not_judged_to_the_end(model, fitness):
    x, y = tiny_data().splits["validation"]
    x = x.repeat(20, 1) + torch.randn(20 * N, 8, generator=generator())  # in five batches
    y, found = y.repeat(20), []
    for skip in (True, False):
        data, batches = Read(tiny_data().splits | {"validation": (x, y)}), []

        def workers(function, items, data=data, batches=batches):
            for item in items:
                before = len(data.given)
                yield function(item)
                batches.append(len(data.given) - before)

        knobs = dict(fitness=fitness, skip=skip, rounds=1, scan=1.0, density=0.7)
        steps = grown(model, data, Run(workers=workers), **knobs)
        found.append((told(steps), batches))
    (lazy, some), (whole, every) = found
    assert lazy == whole
    assert {*every} <= {1, 2, 3, 4, 5}  # the scan gives up what is too bad in either run
    assert sum(some) / len(some) < sum(every) / len(every)


def by_debs_rule(tried, allowed):
    """(violation, kept) of each vector of a generation."""
    return [(max(0.0, e - allowed), k) for e, k in zip(tried.costs, tried.kept, strict=True)]


def obeys_debs_rule(rounds, allowed):
    """Assert the rule in each round; how many vectors became feasible, and how many smaller."""
    became, shrank = 0, 0
    for steps in rounds:
        scores = [by_debs_rule(step.tried, allowed) for step in steps]
        for step, now in zip(steps, scores, strict=True):
            assert step.tried.chosen == now.index(min(now))
        for before, now in itertools.pairwise(scores):
            for (violation, kept), (then, kept_then) in zip(now, before, strict=True):
                if then == 0:
                    assert violation == 0
                    assert kept <= kept_then
                    shrank += kept < kept_then
                else:
                    assert violation <= then
                    became += violation == 0
        best = [min((k for v, k in now if v == 0), default=math.inf) for now in scores]
        assert best == sorted(best, reverse=True)
    return became, shrank


@every_strategy
def test_the_feasible_win_and_among_them_the_smaller(model, strategy):
    allowed = errors(model, tiny_data()) + 0.05 * N + 1e-9
    events = [0, 0]
    for seed in range(4):
        knobs = dict(strategy=strategy, seed=seed, tolerance=1.0, generations=6)
        rounds = searched(grown(model, **knobs))
        assert len(rounds) == 2
        for i, n in enumerate(obeys_debs_rule(rounds, allowed)):
            events[i] += n
        first = rounds[0][0].tried  # the zero vector is feasible at first
        assert first.kept[0] == 132
        assert first.costs[0] <= allowed
    assert min(events) > 0


def test_the_weighted_score_never_rises():
    model = tiny_model()
    list(fit(model, tiny_data(), epochs=1, batch=20, lr=0.05))
    dense = errors(model, tiny_data())
    assert dense > 10
    falls = 0
    for balance, seed in itertools.product((0.3, 0.7, 1.0), range(4)):
        knobs = dict(fitness="weighted", balance=balance, tolerance=1.0, scan=0.5)
        for steps in searched(grown(model, seed=seed, **knobs)):
            scores = [
                [
                    balance * max(0, e - dense) / (N - dense) + (1 - balance) * k / 132
                    for e, k in zip(step.tried.costs, step.tried.kept, strict=True)
                ]
                for step in steps
            ]
            for step, now in zip(steps, scores, strict=True):
                assert now[step.tried.chosen] == pytest.approx(min(now), abs=1e-12)
            for before, now in itertools.pairwise(scores):
                assert all(a <= b + 1e-12 for a, b in zip(now, before, strict=True))
                falls += sum(a < b - 1e-12 for a, b in zip(now, before, strict=True))
    assert falls


@pytest.mark.parametrize("density", [0.7, 0.2, 0.05])
def test_the_budget_falls_by_an_equal_share_and_is_kept(model, density):
    steps = grown(
        model, fitness="budget", density=density, recovery="off", tolerance=1.0, bound=4.0,
        later=4.0, scan=1.0, rounds=3, generations=12, epochs=4,
    )  # fmt: skip
    rounds = searched(steps)
    for i, generations in enumerate(rounds, start=1):
        budget = math.floor(132 * density ** (i / 3) + 1e-9)
        for before, now in itertools.pairwise(generations):
            then, later = (
                [(max(0, k - budget), e) for k, e in zip(s.tried.kept, s.tried.costs, strict=True)]
                for s in (before, now)
            )
            assert all(b <= a for a, b in zip(then, later, strict=True))
        found = [
            (max(0, k - budget), e) for k, e in zip(now.tried.kept, now.tried.costs, strict=True)
        ]
        assert now.tried.chosen == found.index(min(found))
    assert min(now.tried.kept) <= budget
    cuts = [step.mask.kept for step in steps if step.phase == "prune"]
    assert cuts[-1] <= budget
    assert cuts == sorted(cuts, reverse=True)


@every_fitness
def test_judged_by_the_loss_a_candidate_costs_its_mean_loss(model, fitness):
    data = tiny_data()
    x, y = data.splits["validation"]
    knobs = dict(fitness=fitness, judged_by="loss", rounds=1, density=0.5, scan=1.0, tolerance=1.0)
    steps = grown(model, data, skip=False, **knobs)
    layers = [name for name, p in model.named_parameters() if p.ndim > 1]
    for step in searched(steps)[0]:
        for vector, cost in zip(step.tried.vectors, step.tried.costs, strict=True):
            pruned = copy.deepcopy(model).eval()
            with torch.no_grad():
                for name, s in zip(layers, vector, strict=True):
                    w = pruned.get_parameter(name)
                    w *= w.abs() >= s * w.std(correction=0)
                loss = nn.functional.cross_entropy(pruned(x), y)
            assert cost == pytest.approx(loss.item(), rel=1e-5)
        assert step.metrics == {"loss": step.tried.costs[step.tried.chosen]}
        assert step.tried.unit == "loss"
    assert family(steps)["counted"] == "loss"


def test_nothing_comes_back_beyond_a_budget(model):
    knobs = dict(fitness="budget", rounds=1, density=0.05, scan=1.0, bound=4.0, tolerance=1.0)
    (cut,) = (s.mask for s in grown(model, recovered=0.5, **knobs) if s.phase == "prune")
    assert cut.kept <= 6


def test_a_round_that_is_taken_back_is_tried_again_with_its_own_budget(model):
    knobs = dict(fitness="budget", rounds=4, density=0.01, scan=1.0, bound=4.0, later=4.0,
                 tolerance=0.02, epochs=0)  # fmt: skip
    steps = [s for s in grown(model, **knobs) if s.phase in ("prune", "rewind")]
    assert [s.phase for s in steps[-4:]] == ["prune", "rewind"] * 2
    done = sum(a.phase == b.phase == "prune" for a, b in itertools.pairwise(steps))
    budget = math.floor(132 * 0.01 ** ((done + 1) / 4) + 1e-9)
    assert all(step.mask.kept <= budget for step in steps[-4::2])
    assert steps[-4].mask.kept > budget / 4  # and no smaller one


def test_a_density_that_leaves_nothing_is_refused(model):
    with pytest.raises(ValueError, match="density must leave one of 132 weights, got 0.001"):
        stream(model, fitness="budget", density=0.001)


# ---------------------------------------------------------------------------------------- replay


@every_fitness
@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("biases", [False, True])
def test_every_generation_can_be_replayed(normed, fitness, uniform, biases):
    data = tiny_data()
    knobs = dict(fitness=fitness, uniform=uniform, biases=biases, tolerance=1.0, scan=0.5)
    earlier, rounds, learned = None, 0, 0
    for step, before, after in watched(normed, data, **knobs):
        if step.phase == "prune":
            tried = earlier.tried
            assert step.info["sensitivities"] == [*tried.vectors[tried.chosen]]
            assert step.metrics["accuracy"] == pytest.approx(1 - errors(after, data) / N)
        if step.phase == "search":
            tried = step.tried
            rounds += step.index == 1
            assert step.info == {"round": rounds}
            assert all(len(v) == (1 if uniform else 2) for v in tried.vectors)
            masks = [by_hand(before, vector, step.mask) for vector in tried.vectors]
            assert tried.kept == tuple(mask.kept for mask in masks)
            assert tried.costs == tuple(errors(before, data, mask) for mask in masks)
            chosen = tried.costs[tried.chosen]
            assert step.metrics == {"accuracy": pytest.approx(1 - chosen / N)}
            assert state_key(before) == state_key(after)
            if step.index == 1:
                assert tried.replaced == (*range(6),)
            else:
                assert earlier.index == step.index - 1
                for i, old in enumerate(earlier.tried.vectors):
                    assert (tried.vectors[i] != old) == (i in tried.replaced)
                    learned += i in tried.replaced
        earlier = step
    assert rounds == 2
    assert learned


def test_another_seed_and_another_round_draw_other_vectors(model):
    drawn = [
        steps[0].tried.vectors[1]
        for seed in range(3)
        for steps in searched(grown(model, seed=seed, tolerance=1.0, scan=1.0, later=2.5))
    ]
    assert len({*drawn}) == 6  # though all bounds are the same


def test_steps_come_in_the_order_of_the_rounds(model):
    steps = grown(model, scan=0.5, drop=0.2, tolerance=1.0, epochs=2, last_epochs=1)
    one = [("search", i, 5) for i in range(1, 6)], [("finetune", i, 2) for i in (1, 2)]
    expected = [
        *one[0], ("prune", 1, 2), *one[1],
        *one[0], ("prune", 2, 2), *one[1], ("finetune", 1, 1),
    ]  # fmt: skip
    assert [(s.phase, s.index, s.of) for s in steps] == expected
    assert steps[-1].mask.sparsity > steps[6].mask.sparsity > steps[0].mask.sparsity == 0


# ------------------------------------------------------------------------------ rounds taken back


def outcomes(steps):
    """For each round whether it was taken back."""
    phases = [s.phase for s in steps if s.phase in ("prune", "rewind")]
    text = "".join(phase[0] for phase in phases).replace("pr", "R").replace("p", "A")
    return [letter == "R" for letter in text]


REJECTED = dict(rounds=5, generations=3, drop=0.2, epochs=1)


def check_rounds(normed, tolerance, seed, images=0):
    """Assert that each round is kept or taken back as it must be; which ones were taken back."""
    data, drop = tiny_data(), 0.2
    few = data.fewer(validation=images) if images else data
    dense, least = errors(normed, few), 1 - errors(normed, data) / N - tolerance - 1e-6
    entered = entered_mask = last = None
    steps = []
    knobs = dict(REJECTED, tolerance=tolerance, seed=seed, images=images)
    for step, before, after in watched(normed, data, **knobs):
        if last is not None and last.phase == "finetune":
            assert (step.phase == "rewind") == (last.metrics["accuracy"] < least)
        if step.phase == "search":
            now = by_debs_rule(step.tried, dense + drop * few.size("validation") + 1e-9)
            assert step.tried.chosen == now.index(min(now))  # by the drop of this round
        if step.phase == "prune":
            entered, entered_mask = before, last.mask
        if step.phase == "rewind":
            drop /= 2
            assert step.info == {"drop": drop}
            assert step.mask == entered_mask
            assert state_key(after) == state_key(entered)  # bit for bit, buffers too
            assert step.metrics == {"accuracy": evaluate(entered, data)}
            assert all(p.grad is None and p.requires_grad for p in after.parameters())
        steps.append(step)
        last = step
    back = outcomes(steps)
    twice = [a and b for a, b in itertools.pairwise(back)]
    assert True not in twice[:-1]
    assert len(back) == 5 or twice[-1]
    assert evaluate(after, data) >= least
    assert all(not dict(after.named_parameters())[n][~k].any() for n, k in last.mask.items())
    return back


def test_a_round_that_costs_too_much_is_taken_back(normed):
    found = [check_rounds(normed, *case) for case in itertools.product((0.02, 0.05), range(5))]
    # all of it did happen: two in a row before the last round, single ones, and none at the end
    assert any(back[-2:] == [True, True] and len(back) < 5 for back in found)
    assert any((True, False) in itertools.pairwise(back) for back in found)
    assert any(not any(back[-2:]) for back in found)


def test_all_images_decide_whether_a_round_is_taken_back(normed):
    found = [check_rounds(normed, 0.02, seed, images=6) for seed in range(5)]
    assert len({back for rounds in found for back in rounds}) == 2


def test_two_in_a_row_end_the_run_with_the_model_as_it_was(normed):
    pruned = copy.deepcopy(normed)
    # next to no fine-tuning, all accuracy may go, none of it is accepted
    knobs = dict(rounds=9, drop=1.0, tolerance=0.0, epochs=1, lr=1e-12, recovery="off", scan=1.0)
    steps = [*stream(pruned, **knobs)]
    assert outcomes(steps) == [True, True]
    assert [s.info["drop"] for s in steps if s.phase == "rewind"] == [0.5, 0.25]
    assert steps[-1].mask.sparsity == 0
    assert state_key(pruned) == state_key(normed)
    assert not any(module.training for module in pruned.modules())


@pytest.mark.parametrize("fitness", FITNESS)
@pytest.mark.parametrize("tolerance", [0.0, 0.04, 0.1])
def test_the_report_is_within_the_tolerance_of_the_dense_network(model, fitness, tolerance):
    for seed in range(2):
        report = prune(
            differential_evolution, model, tiny_data(), bar=False, seed=seed,
            **(REJECTED | dict(tolerance=tolerance, fitness=fitness, population=6)),
        )  # fmt: skip
        assert report.after["accuracy"] >= report.before["accuracy"] - tolerance - 1e-6
        assert report.mask == report.history[-1].mask
        assert (report.sparsity > 0) == (False in outcomes(report.history))


# -------------------------------------------------------------------------------------- splicing


def test_the_smallest_weights_go_and_those_with_the_largest_gradient_return():
    model = nn.Linear(5, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[5.0, 4, 3, 2, 1], [-1, 2, 0, 0, 0]]))
    model.weight.grad = torch.tensor([[9.0, 9, 9, 9, 9], [9, 9, 1, -3, 2]])
    mask = Mask({"weight": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()})
    after = _splice(model, mask, 0.0, share=0.3)  # 2.1 of 7
    assert after["weight"].int().tolist() == [[1, 1, 1, 1, 0], [0, 1, 0, 1, 1]]
    half = SETTLED / 2  # where the share is half of what it was
    assert _splice(model, mask, half, share=0.3)["weight"].sum() == 7
    assert (_splice(model, mask, half, share=0.3)["weight"] != mask["weight"]).sum() == 2
    assert _splice(model, mask, SETTLED, share=0.3) == _splice(model, mask, 1.0, share=0.3) == mask


def test_what_has_no_gradient_is_left_as_it_is():
    model = nn.Linear(5, 2)
    mask = Mask({"weight": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()})
    assert _splice(model, mask, 0.0, share=0.5) == mask


def test_fine_tuning_exchanges_weights_and_keeps_their_number(model):
    moved = 0
    for step, before, after in watched(model, splice=0.5, tolerance=1.0, epochs=4, last_epochs=4):
        if step.phase == "prune":
            mask = step.mask
        if step.phase == "finetune":
            for name, keep in step.mask.items():
                assert int(keep.sum()) == int(mask[name].sum())
                assert not after.get_parameter(name)[~keep].any()  # who returned may still be 0
            moved += step.mask != mask
            mask = step.mask
        if step.phase == "search":
            assert state_key(before) == state_key(after)
    assert moved > 1


def test_the_next_round_goes_on_from_what_was_exchanged(model):
    steps = grown(model, splice=0.5, tolerance=1.0, epochs=4)
    tuned = [a.mask for a, b in itertools.pairwise(steps) if b.index == 1 and b.phase == "search"]
    first = [step.mask for step in steps if step.phase == "search"][-1]
    assert tuned == [first]
    cut = next(step.mask for step in steps if step.phase == "prune")
    assert first != cut


def test_what_returns_has_time_to_stay(model):
    """A weight that comes back starts at 0; it is asked to go only after it could learn."""
    x, y = tiny_data().splits["train"]
    data = Data(tiny_data().splits | {"train": (x.repeat(20, 1), y.repeat(20))})
    before, back, stayed, came = None, None, 0, 0
    for step in stream(
        copy.deepcopy(model), data, splice=0.3, rounds=1, epochs=20, tolerance=1.0, lr=0.1
    ):
        if step.phase == "finetune" and step.index > 1:
            if back is not None:
                came += sum(int(b.sum()) for b in back.values())
                stayed += sum(int((back[n] & keep).sum()) for n, keep in step.mask.items())
            back = {n: keep & ~before[n] for n, keep in step.mask.items()}
        before = step.mask
    assert came >= 20
    assert stayed > came / 5  # hardly any, if they were asked again at once


# ------------------------------------------------------------------------------------ other data


@every_fitness
@pytest.mark.parametrize("uniform", [False, True])
def test_an_own_metric_is_searched_by_as_well(regression, fitness, uniform):
    model, data = regression
    dense, skipped = evaluate(model, data), 0
    for seed in range(2):
        knobs = dict(fitness=fitness, uniform=uniform, seed=seed, drop=0.1, tolerance=0.05)
        (lazy, fewer), (whole, tasks) = pair(model, data, scan=0.5, **knobs)
        assert lazy == whole
        skipped += tasks - fewer
        steps = grown(model, data, scan=0.5, **knobs)
        assert {*steps[0].metrics} == {"negative_mse"}
        rounds = searched(steps)
        if fitness == "constrained":
            obeys_debs_rule(rounds[:1], -dense + 0.1 + 1e-9)
        *_, last = rounds[0]
        for vector, cost in zip(last.tried.vectors, last.tried.costs, strict=True):
            cut = by_hand(model, vector, last.mask).apply_(copy.deepcopy(model))
            assert cost == pytest.approx(-evaluate(cut, data), abs=1e-6)
        pruned = [s for s in steps if s.phase == "finetune"][-1]
        assert pruned.mask.sparsity > 0.1
    assert skipped > 0
    report = prune(differential_evolution, model, data, bar=False, **(SMALL | dict(seed=1)))
    assert report.after["negative_mse"] >= report.before["negative_mse"] - 0.05 - 1e-6


@pytest.mark.parametrize("images", [3, 15, 30, N])
def test_candidates_are_judged_by_some_images_and_the_rest_by_all(normed, images):
    data = tiny_data()
    few = data.fewer(validation=images)
    x, y = few.splits["validation"]
    assert torch.bincount(y, minlength=3).tolist() == [images // 3] * 3
    rows = {tuple(row) for row in data.splits["validation"][0].tolist()}
    assert len({tuple(row) for row in x.tolist()} & rows) == images
    assert few.key == data.fewer(validation=images).key
    earlier = None
    for step, before, after in watched(normed, data, images=images, tolerance=1.0):
        if step.phase == "search":
            masks = [by_hand(before, vector, step.mask) for vector in step.tried.vectors]
            assert step.tried.costs == tuple(errors(before, few, mask) for mask in masks)
            chosen = step.tried.costs[step.tried.chosen]
            assert step.metrics == {"accuracy": pytest.approx(1 - chosen / images)}
            earlier = before
        else:
            assert step.metrics["accuracy"] == pytest.approx(1 - errors(after, data) / N)
    assert earlier is not None


@given(st.lists(st.integers(1, 40), min_size=2, max_size=5), st.floats(0.01, 1))
def test_fewer_images_have_the_class_shares_of_all(counts, share):
    y = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    data = Data(
        {split: (torch.arange(len(y)).float()[:, None], y) for split in ("train", "validation")}
    )
    n = max(1, round(share * len(y)))
    few = data.fewer(validation=n)
    x, found = few.splits["validation"]
    assert len(x) == len(set(x.flatten().tolist())) == n
    assert torch.equal(y[x.flatten().long()], found)
    got = torch.bincount(found, minlength=len(counts)).double()
    assert (got - torch.tensor(counts).double() * n / len(y)).abs().max() < 1
    assert few.size("train") == data.size("validation") == len(y)
    assert few.key != data.key or n == len(y)


def test_all_images_are_the_same_as_no_choice(model):
    def without(steps):
        return [(phase, index, mask, metrics) for phase, index, _, mask, metrics, *_ in told(steps)]

    assert without(grown(model, images=N)) == without(grown(model))


def test_a_drop_that_no_training_can_repair_is_refused(model):
    for fitness in ("weighted", "budget"):
        stream(model, drop=0.1, tolerance=0.05, epochs=0, fitness=fitness, density=0.5)
    stream(model, drop=0.1, tolerance=0.1, epochs=0)
    with pytest.raises(ValueError, match=r"tolerance must be at least drop, 0\.1, .* got 0\.05"):
        stream(model, drop=0.1, tolerance=0.05, epochs=0)


def test_too_many_images_are_refused_by_name_before_any_work(model):
    def no_work(function, items):
        raise AssertionError("work was done")

    with pytest.raises(
        ValueError, match=r"^differential_evolution: images must be at most 60, got 61$"
    ):
        stream(model, run=Run(workers=no_work), images=61)

    class Stream:
        """Data of one's own: only what a method may use of them."""

        def __init__(self):
            whole = tiny_data()
            self.batches, self.loss, self.metric = whole.batches, whole.loss, whole.metric

    with pytest.raises(ValueError, match=r"^differential_evolution: images must be .*got 10$"):
        stream(model, Stream(), run=Run(workers=no_work), images=10)
    with pytest.raises(ValueError, match="judged_by must be 'metric' for own data, got 'loss'"):
        stream(model, Stream(), run=Run(workers=no_work), judged_by="loss")
    assert told(grown(model, Stream())) == told(grown(model))


# -------------------------------------------------------------------------- threads, stops, kills


@pytest.mark.parametrize("knobs", [{}, dict(fitness="weighted", images=30), dict(uniform=True)])
def test_threads_give_the_same_history(normed, knobs):
    with ThreadPoolExecutor(3) as pool:
        assert told(grown(normed, run=Run(workers=pool.map), **knobs)) == told(
            grown(normed, **knobs)
        )


class After(threading.Event):
    """A stop that is set once it was polled so many times."""

    def __init__(self, polls=10**9):
        super().__init__()
        self.left = self.polls = polls

    def is_set(self):
        self.left -= 1
        return self.left < 0

    @property
    def seen(self):
        return self.polls - self.left


KILLED = dict(rounds=2, drop=0.2, tolerance=0.05, epochs=2, last_epochs=1)


@pytest.fixture(scope="module")
def whole(normed, tmp_path_factory):
    """What an uninterrupted run tells, its weights, and how often it polled and judged."""
    stop, workers = After(), Counted()
    pruned = copy.deepcopy(normed)
    journal = Journal(tmp_path_factory.mktemp("whole") / "journal")
    steps = [*stream(pruned, run=Run(workers, journal, stop), **KILLED)]
    assert {s.phase for s in steps} == {"search", "prune", "finetune", "rewind"}
    assert told(steps) == told(grown(normed, **KILLED))
    return told(steps), state_key(pruned), stop.seen, workers.tasks


def gone_on(normed, path, whole, before):
    """Run again: the same end, and nothing judged twice."""
    expected, weights, _, tasks = whole
    workers, pruned = Counted(), copy.deepcopy(normed)
    assert told(stream(pruned, run=Run(workers, Journal(path)), **KILLED)) == expected
    assert state_key(pruned) == weights
    assert before + workers.tasks == tasks


def test_stopped_at_any_poll_it_goes_on_to_the_same_end(normed, whole, tmp_path):
    moments = random.Random(1).sample(range(whole[2]), 12)
    for n in moments:
        workers, path = Counted(), tmp_path / f"{n}"
        steps = [
            *stream(copy.deepcopy(normed), run=Run(workers, Journal(path), After(n)), **KILLED)
        ]
        assert told(steps) == whole[0][: len(steps)]
        gone_on(normed, path, whole, workers.tasks)


def test_a_spliced_run_to_a_budget_goes_on_to_the_same_end(normed, tmp_path):
    knobs = KILLED | dict(fitness="budget", splice=0.5, biases=True, scan=1.0, epochs=4)
    stop, pruned = After(), copy.deepcopy(normed)
    expected = told(stream(pruned, run=Run(stop=stop), **knobs))
    assert {step[0] for step in expected} >= {"search", "prune", "finetune"}
    for n in random.Random(4).sample(range(stop.seen), 6):
        halted, path = copy.deepcopy(normed), tmp_path / f"{n}"
        list(stream(halted, run=Run(journal=Journal(path), stop=After(n)), **knobs))
        again = copy.deepcopy(normed)
        assert told(stream(again, run=Run(journal=Journal(path)), **knobs)) == expected
        assert state_key(again) == state_key(pruned)


def test_with_workers_that_die_it_goes_on_to_the_same_end(normed, whole, tmp_path):
    moments = random.Random(2).sample(range(whole[3]), 8)
    for n in moments:
        workers, path = Counted(fails_at=n), tmp_path / f"{n}"
        with pytest.raises(RuntimeError, match="the workers failed .OSError: the machine is gone"):
            list(stream(copy.deepcopy(normed), run=Run(workers, Journal(path)), **KILLED))
        gone_on(normed, path, whole, n)


def test_stopped_again_and_again_it_ends_the_same(normed, whole, tmp_path):
    draws, judged, ended = random.Random(3), 0, False
    for _ in range(100):
        workers = Counted()
        stop = After(draws.randrange(whole[2] // 10))
        steps = [
            *stream(copy.deepcopy(normed), run=Run(workers, Journal(tmp_path), stop), **KILLED)
        ]
        judged += workers.tasks
        assert told(steps) == whole[0][: len(steps)]
        if ended := len(steps) == len(whole[0]):
            break
    assert ended
    gone_on(normed, tmp_path, whole, judged)


# Kills itself at a random call of any function, even in the midst of writing the journal.
KILLS = """
import json, os, random, signal, sys
sys.path[:0] = {paths!r}
import torch
torch.set_num_threads(1)
from tiny import tiny_data, tiny_model
from prunekit import Journal, Run, fit
from prunekit._modules import state_key
from prunekit.methods.differential_evolution import differential_evolution

trained = tiny_model(dropout=0.2)
list(fit(trained, tiny_data(), epochs=4, batch=20, lr=0.1))
weights = {{name: tensor.clone() for name, tensor in trained.state_dict().items()}}

KNOBS = [
    dict(drop=0.1, tolerance=0.1),
    dict(
        fitness="budget", density=0.2, judged_by="loss", recovery="off", splice=0.3, biases=True,
        tolerance=1.0, images=40,
    ),
]

def run(knobs, path=None):
    model = tiny_model(dropout=0.2)
    model.load_state_dict(weights)
    steps = differential_evolution(
        model, tiny_data(), rounds=2, generations=2, population=4, epochs=1, seed=4,
        run=Run(journal=Journal(path) if path else None), **knobs,
    )
    told = [(s.phase, s.index, s.mask.key, s.metrics, s.info, str(s.tried)) for s in steps]
    return json.dumps([told, state_key(model)])

class Calls:
    def __init__(self, last):
        self.left = last
    def __call__(self, frame, event, argument):
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

def ended(knobs, path, moment):
    # the status of a child that is killed at this call, if it comes so far
    child = os.fork()
    if not child:
        sys.setprofile(Calls(moment))
        found = run(knobs, path)
        sys.setprofile(None)
        os._exit(found != run(knobs))
    return os.waitpid(child, 0)[1]

draws, killed, same = random.Random(0), 0, []
for number, knobs in enumerate(KNOBS):
    counted = Calls(10**12)
    sys.setprofile(counted)
    run(knobs, {folder!r} + f"/never{{number}}")
    sys.setprofile(None)
    calls = 10**12 - counted.left
    while killed < 10 * (number + 1):
        path = {folder!r} + f"/{{number}}-{{len(same)}}"
        while os.WIFSIGNALED(status := ended(knobs, path, draws.randrange(calls // 10, calls))):
            killed += 1
        same.append(os.WEXITSTATUS(status) == 0)
print(json.dumps([killed, same]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_calls_it_ends_as_if_never_killed(tmp_path):
    tests = Path(__file__).parent
    script = KILLS.format(paths=[str(tests), str(tests.parent)], folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    killed, same = json.loads(done.stdout)
    assert killed >= 20
    assert same
    assert all(same)


# ------------------------------------------------------------------------ what is easily overlooked


def test_a_stopped_twin_does_not_replace_a_known_cost(model):
    score = functools.partial(
        FITNESS["constrained"], allowed=4.0, dense=1, total=132, balance=0.7, scale=59
    )
    judge = judge_of(model, tiny_data(), score)
    vector = torch.tensor([[1.5, 1.5]]).double()
    judge(vector, None)
    judge(vector, [(0.0, 132)])
    assert judge.known[1.5, 1.5][1] < math.inf


def nothing(outputs, targets):
    return 0.0


def test_the_weighted_score_of_a_network_that_gets_nothing_right(model):
    splits = tiny_data().splits
    x, _ = splits["validation"]
    wrong = splits | {"validation": (x, (model(x).argmax(1) + 1) % 3)}
    assert grown(model, Data(wrong), fitness="weighted")
    assert grown(model, Data(splits, metric=nothing), fitness="weighted")


class Five(nn.Module):
    """Three classes for each of five targets."""

    def __init__(self):
        super().__init__()
        with LocalRandom(0):
            self.a, self.b = nn.Linear(8, 12), nn.Linear(12, 15)

    def forward(self, x):
        return self.b(torch.relu(self.a(x))).reshape(-1, 3, 5)


def test_several_targets_an_example_all_count():
    net, splits = Five(), tiny_data().splits
    data = Data(
        {k: (x, torch.stack([(y + i) % 3 for i in range(5)], 1)) for k, (x, y) in splits.items()}
    )
    list(fit(net, data, epochs=8, batch=20, lr=0.1))
    score = functools.partial(
        FITNESS["constrained"], allowed=4.0, dense=1, total=132, balance=0.7, scale=59
    )
    assert judge_of(net, data, score).most(score(100, 50), 50) == 100
    knobs = dict(drop=0.1, scan=1.0, tolerance=1.0, rounds=1, generations=15, population=12)
    found = [s.metrics["accuracy"] for s in grown(net, data, **knobs) if s.phase == "search"]
    assert evaluate(net, data) - 0.1 - 1e-9 <= min(found) < evaluate(net, data) - 0.03


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_are_counted_as_they_are_cut(dtype):
    net = nn.Sequential(nn.Linear(4, 1, bias=False)).to(dtype)
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[-1, 1, -1, 1 - 1e-12]], dtype=torch.float64))
    mask = Mask.ones(net)
    layers = _layers(net, mask)
    for s in (1.0, 1.0001):
        cut = _cut(net, [s], mask=mask, names=layers.names, deviations=layers.deviations)
        assert layers.kept([s]) == cut.kept
