"""The map of two genes without a browser: the method's own evolution, and what is sent of it."""

import asyncio
import itertools
import json
import math

import pytest
import torch

from prunekit.evolve import STRATEGIES, evolve, propose, spread
from prunekit.methods.differential_evolution import FITNESS
from prunekit.widgets import GeneMap

XS, YS = [0.2 * i for i in range(1, 13)], [0.3 * i for i in range(1, 11)]
AXES = dict(x="first", y="second")


def parts():
    """Less is kept towards the upper right, where the limit is broken; (10, 12)."""
    y, x = torch.meshgrid(torch.tensor(YS), torch.tensor(XS), indexing="ij")
    over = 4 * (x + 0.7 * y - 2.6)
    return 100 * torch.exp(-x - y / 3), over <= 0, over


def gene_map(**settings):
    kept, allowed, over = parts()
    return GeneMap(XS, YS, kept, allowed, **{"over": over, **AXES, **settings})


def by_hand(point):
    """What the nearest place keeps, and by how much it breaks the limit."""
    kept, _, over = parts()
    c, r = (
        min(range(len(p)), key=lambda i: abs(p[i] - v))
        for p, v in zip((XS, YS), point, strict=True)
    )
    return float(kept[r, c]), max(0.0, float(over[r, c]))


def beats(trial, x):
    """Deb's rule as the notebook says it."""
    (kept_t, over_t), (kept_x, over_x) = trial, x
    return over_t < over_x or (over_t == over_x and kept_t <= kept_x)


def sent(dots):
    return torch.tensor([dot[:2] for dot in dots], dtype=torch.float64)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("scale", "crossover", "seed"), [(0.5, 0.9, 0), (1.3, 0.2, 7)])
def test_the_populations_are_those_of_the_methods_loop(strategy, scale, crossover, seed):
    view = gene_map(strategy=strategy, scale=scale, crossover=crossover, seed=seed, generations=15)
    draws = torch.Generator().manual_seed(seed)
    low, high = torch.tensor([0.2, 0.3]).double(), torch.tensor([2.4, 3.0]).double()
    x = spread(12, low, high, draws)
    assert len(view.run["generations"]) == 16
    for told in view.run["generations"]:
        assert torch.allclose(sent(told["dots"]), x, atol=1e-4)
        values = [by_hand(v) for v in x.tolist()]
        assert [(d[2], d[3]) for d in told["dots"]] == [pytest.approx(v, abs=1e-4) for v in values]
        best = min(range(12), key=lambda i: values[i][::-1])
        assert told["best"] == best
        trials = propose(x, x[best], low, high, strategy, scale, crossover, draws).trials
        assert torch.allclose(sent(told["trials"]), trials, atol=1e-4)
        won = [i for i in range(12) if beats(by_hand(trials[i].tolist()), values[i])]
        assert told["won"] == won
        x = x.clone()
        x[won] = trials[won]


def test_the_loop_is_the_one_that_the_method_runs():
    view = gene_map(seed=3)
    grid, draws = view.grid, torch.Generator().manual_seed(3)
    low, high = torch.stack([grid.xs[0], grid.ys[0]]), torch.stack([grid.xs[-1], grid.ys[-1]])

    def judge(vectors, rivals):
        found = [by_hand(v) for v in vectors.tolist()]
        return [FITNESS["constrained"](cost=o, kept=k, allowed=0.0) for k, o in found]

    start = spread(12, low, high, draws)
    found = [*evolve(judge, start, low, high, generations=20, generator=draws)]
    for told, generation in zip(view.run["generations"], found, strict=True):
        assert torch.allclose(sent(told["dots"]), generation.vectors, atol=1e-4)
        assert told["new"] == ([*generation.replaced] if generation.index else [])


def test_no_dot_and_no_best_ever_gets_worse_and_who_is_new_was_its_trial():
    generations = gene_map(scale=0.8).run["generations"]
    for now, then in itertools.pairwise(generations):
        assert then["new"] == now["won"]
        for i in range(12):
            assert then["dots"][i] == now["trials" if i in then["new"] else "dots"][i]
            assert then["dots"][i][3:1:-1] <= now["dots"][i][3:1:-1]
        scores = [now["dots"][now["best"]][3:1:-1], then["dots"][then["best"]][3:1:-1]]
        assert scores[1] <= scores[0]
    assert generations[0]["new"] == []
    assert any(g["new"] for g in generations)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_arrows_of_a_trial_add_up(strategy):
    view = gene_map(strategy=strategy, scale=0.9, crossover=0.5)
    drawn_anew, from_x = 0, 0
    for told in view.run["generations"]:
        dots = sent(told["dots"])
        best = dots[told["best"]]
        for i in range(12):
            x, (a, b, c) = dots[i], (dots[other] for other in told["others"][i])
            assert len({i, *told["others"][i]}) == 4
            mutant, mended, trial = (
                torch.tensor(told[name][i][:2], dtype=torch.float64)
                for name in ("mutants", "mended", "trials")
            )
            way = {
                "rand1bin": a + 0.9 * (b - c),
                "best1bin": best + 0.9 * (b - c),
                "current-to-best1bin": x + 0.9 * (best - x + b - c),
                "random": mended,
            }[strategy]
            assert torch.allclose(mutant, way, atol=1e-3)
            outside = torch.tensor(told["outside"][i])
            assert torch.equal(mended[~outside], mutant[~outside])
            if strategy != "random":
                off = (mutant < torch.tensor([0.2, 0.3])) | (mutant > torch.tensor([2.4, 3.0]))
                assert torch.equal(outside, off)
            crossed = torch.tensor(told["crossed"][i])
            assert torch.equal(trial, torch.where(crossed, mended, x))
            assert crossed.any()
            drawn_anew, from_x = drawn_anew + bool(outside.any()), from_x + (not crossed.all())
    assert min(drawn_anew, from_x) > 0


def test_without_amounts_all_that_break_the_limit_break_it_equally():
    kept, allowed, _ = parts()
    view = GeneMap(XS, YS, kept, allowed, **AXES)
    assert view.map["measured"] is False
    assert view.grid.over.tolist() == (~allowed).double().tolist()
    both = [
        (now["dots"][i], now["trials"][i], i in now["won"])
        for now in view.run["generations"]
        for i in range(12)
        if now["dots"][i][3] and now["trials"][i][3]
    ]
    assert both
    for x, trial, won in both:
        assert won == (trial[2] <= x[2])


def test_moving_a_control_evolves_anew_from_the_same_dots():
    view = gene_map(seed=5)
    before = view.run["generations"]
    view.scale = 1.5
    assert view.run["scale"] == 1.5
    assert view.run["generations"][0]["dots"] == before[0]["dots"]
    assert view.run["generations"][0]["others"] == before[0]["others"]
    assert view.run["generations"][5]["dots"] != before[5]["dots"]
    view.scale = 0.5
    assert view.run["generations"] == before
    view.seed = 6
    assert view.run["generations"][0]["dots"] != before[0]["dots"]
    view.strategy = "best1bin"
    assert view.run["generations"] == gene_map(seed=6, strategy="best1bin").run["generations"]
    json.dumps([view.map, view.run], allow_nan=False)


def test_while_it_is_dragged_the_newest_value_wins():
    async def drag():
        view, shown = gene_map(), []
        view.observe(lambda change: shown.append(change["new"]["scale"]), "run")
        for i in range(1, 101):
            view.scale = i / 100
        while view.latest.busy or view.run["scale"] != 1:
            await asyncio.sleep(0.01)
        return view, shown

    view, shown = asyncio.run(drag())
    assert len(shown) < 50
    assert view.run["generations"] == gene_map(scale=1.0).run["generations"]


def changed(name, row, column, value):
    kept, allowed, over = parts()
    part = {"kept": kept, "allowed": allowed, "over": over}[name]
    part[row, column] = value
    return dict(kept=kept, allowed=allowed, over=over)


@pytest.mark.parametrize(("settings", "said"), [
    (dict(population=3), r"GeneMap: population must be in \[4, inf\), got 3"),
    (dict(generations=0), r"generations must be in \[1, inf\), got 0"),
    (dict(scale=0), r"scale must be in \(0, 2\], got 0"),
    (dict(scale=math.nan), r"scale must be in \(0, 2\], got nan"),
    (dict(crossover=1.5), r"crossover must be in \[0, 1\], got 1.5"),
    (dict(strategy="best"), "strategy must be one of 'rand1bin'.*got 'best'"),
    (dict(xs=XS[::-1]), r"xs must be at least 2 rising numbers, got \[2.4"),
    (dict(ys=[1.0]), r"ys must be at least 2 rising numbers, got \[1.0\]"),
    (dict(ys=[0.1, math.inf]), "ys must be finite numbers, got inf"),
    (dict(kept=parts()[0].T), r"kept must have the shape \(10, 12\), \(ys, xs\), got \(12, 10\)"),
    (dict(allowed=parts()[1][:9]), r"allowed must have the shape \(10, 12\).*got \(9, 12\)"),
    (dict(allowed=parts()[2]), "allowed must be True or False, got torch.float32"),
    (changed("kept", 3, 4, math.nan), "kept must be finite numbers, got nan"),
    (changed("over", 0, 0, math.nan), "over must be finite numbers, got nan"),
    (changed("kept", 0, 0, 120.0), r"kept must be in \[0, 100\], per cent, got .* to 120"),
    (changed("over", 9, 11, -1.0), "over must be above 0 where not allowed, got -1"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(settings, said):
    kept, allowed, over = parts()
    given = dict(xs=XS, ys=YS, kept=kept, allowed=allowed, over=over) | AXES | settings
    with pytest.raises(ValueError, match=said):
        GeneMap(given.pop("xs"), given.pop("ys"), given.pop("kept"), given.pop("allowed"), **given)


def test_a_value_that_no_control_gives_is_refused_and_the_view_goes_on():
    view = gene_map()
    before = view.run
    with pytest.raises(ValueError, match=r"GeneMap: scale must be in \(0, 2\], got 3"):
        view.scale = 3.0
    assert view.run == before
    view.scale = 1.0
    assert view.run["scale"] == 1.0


def test_the_view_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    gene_map().scale = 1.0
    assert torch.equal(torch.get_rng_state(), state)
