"""Selection: laws of what goes and what stays, and torch's own pruning as an oracle."""

import itertools
import math
from functools import partial
from itertools import pairwise
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_model
from torch.nn.utils import prune as torch_prune

from prunekit import select
from prunekit.mask import Mask
from prunekit.score import magnitude
from prunekit.select import above, cubic, exchange, largest, pool, spread, stages

SPARSITY = st.floats(0, 1, exclude_max=True)
SCOPE = st.sampled_from(["layer", "global"])


@st.composite
def cases(draw, distinct=False):
    """Scores of up to three parameters, with many ties unless `distinct`, and a mask on them."""
    shape = st.lists(st.integers(1, 6), min_size=1, max_size=3)
    shapes = draw(st.lists(shape, min_size=1, max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    sizes = [math.prod(shape) for shape in shapes]
    flat = torch.randperm(sum(sizes), generator=generator).double()
    if not distinct:
        flat = torch.randint(0, 4, flat.shape, generator=generator).double()
    density = draw(st.sampled_from([0.2, 0.7, 1.0]))
    scores, kept = {}, {}
    for i, (part, shape) in enumerate(zip(flat.split(sizes), shapes, strict=True)):
        scores[f"p{i}"] = part.reshape(shape)
        kept[f"p{i}"] = torch.rand(shape, generator=generator) < density
    return scores, Mask(kept)


def groups(mask, scope):
    """The sets of names that compete."""
    return [[*mask]] if scope == "global" else [[name] for name in mask]


def joined(tensors, names):
    return torch.cat([tensors[name].flatten() for name in names])


@given(cases(), SPARSITY, SCOPE)
def test_survivors_score_at_least_as_much_as_victims(case, sparsity, scope):
    scores, within = case
    mask = largest(scores, sparsity, scope, within)
    for names in groups(mask, scope):
        # The last weight of a matrix stays, whatever it scores.
        several = Mask({n: mask[n] if mask[n].sum() > 1 else ~mask[n] & mask[n] for n in names})
        s, alive = joined(scores, names), joined(within, names)
        keep, alive = (
            joined(several, names),
            alive & (joined(several, names) | ~joined(mask, names)),
        )
        if keep.any() and (alive & ~keep).any():
            assert s[keep].min() >= s[alive & ~keep].max()


@given(cases(), SPARSITY, SCOPE)
def test_exactly_the_asked_number_goes_also_among_ties(case, sparsity, scope):
    scores, within = case
    mask = largest(scores, sparsity, scope, within)
    for names in groups(mask, scope):
        gone = int((~joined(mask, names)).sum())
        already = int((~joined(within, names)).sum())
        most = len(joined(mask, names)) - matrices(within, names)
        assert gone == max(already, min(round(sparsity * len(joined(mask, names))), most))


def matrices(mask, names):
    """How many weight matrices have something left."""
    return sum(mask[name].ndim > 1 and bool(mask[name].any()) for name in names)


@given(cases(), SPARSITY, SCOPE)
def test_no_weight_matrix_is_emptied_and_the_largest_is_what_stays(case, sparsity, scope):
    scores, within = case
    mask = largest(scores, sparsity, scope, within)
    assert matrices(mask, mask) == matrices(within, mask)
    for name, keep in mask.items():
        if keep.ndim > 1 and keep.sum() == 1 and within[name].sum() > 1:
            assert scores[name][keep] == scores[name][within[name]].max()


@given(cases(), SPARSITY, SCOPE)
def test_what_was_removed_stays_removed(case, sparsity, scope):
    scores, within = case
    mask = largest(scores, sparsity, scope, within)
    assert mask & within == mask


@given(cases(distinct=True), SPARSITY, SPARSITY, SCOPE)
def test_two_cuts_with_the_same_scores_are_the_deeper_one(case, one, two, scope):
    scores, within = case
    stepwise = largest(scores, two, scope, largest(scores, one, scope, within))
    assert stepwise == largest(scores, max(one, two), scope, within)


RISING = st.sampled_from([torch.exp, torch.atan, lambda s: 3 * s - 7])


@given(cases(distinct=True), SPARSITY, SCOPE, RISING)
def test_only_the_order_of_the_scores_matters(case, sparsity, scope, rise):
    scores, within = case
    risen = {name: rise(s / 100) for name, s in scores.items()}
    assert largest(risen, sparsity, scope, within) == largest(scores, sparsity, scope, within)


@given(st.floats(0, 1, exclude_max=True))
def test_layer_scope_gives_every_layer_its_share(sparsity):
    model = tiny_model()
    mask = largest(magnitude(model, Mask.ones(model)), sparsity, "layer", Mask.ones(model))
    for keep in mask.values():
        assert int((~keep).sum()) == min(round(sparsity * keep.numel()), keep.numel() - 1)


def test_among_equal_scores_the_first_go():
    scores = {"a": torch.ones(2, 2), "b": torch.ones(3)}
    ones = Mask({n: s > 0 for n, s in scores.items()})
    mask = largest(scores, 3 / 7, "global", ones)
    assert mask["a"].tolist() == [[False, False], [False, True]]
    mask = largest(scores, 5 / 7, "global", ones)  # the first of the last matrix stays
    assert mask["a"].tolist() == [[True, False], [False, False]]
    assert mask["b"].tolist() == [False, False, True]


def test_global_scope_compares_across_layers_and_layer_scope_does_not():
    scores = {"low": torch.tensor([1.0, 2.0]), "high": torch.tensor([8.0, 9.0])}
    ones = Mask({name: s > 0 for name, s in scores.items()})
    together = largest(scores, 0.5, "global", ones)
    apart = largest(scores, 0.5, "layer", ones)
    assert together["low"].tolist() == [False, False]
    assert together["high"].tolist() == [True, True]
    assert apart["low"].tolist() == apart["high"].tolist() == [False, True]


@pytest.mark.parametrize("lowest", [-math.inf, -1e30, 0.0])
def test_scores_without_a_floor_never_remove_too_many(lowest):
    # log |w| of a weight that is 0 is -inf, no less than what is removed already
    scores = {"w": torch.tensor([lowest, lowest, 3.0, 4.0])}
    within = Mask({"w": torch.tensor([True, True, True, False])})
    mask = largest(scores, 0.5, "global", within)
    assert mask["w"].tolist() == [False, True, True, False]


def test_whole_numbers_are_scores_too():
    within = Mask({"w": torch.tensor([True, True, False, True])})
    mask = largest({"w": torch.tensor([3, 1, 9, 2])}, 0.5, "layer", within)
    assert mask["w"].tolist() == [True, False, False, True]


def test_the_given_scores_are_not_changed():
    scores = {"w": torch.tensor([3.0, 1.0, 2.0])}
    largest(scores, 0.4, "global", Mask({"w": torch.tensor([True, False, True])}))
    assert scores["w"].tolist() == [3.0, 1.0, 2.0]


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.93])
def test_layer_scope_agrees_with_torch_l1_unstructured(sparsity):
    model, oracle = tiny_model(), tiny_model()
    ones = Mask.ones(model)
    mask = largest(magnitude(model, ones), sparsity, "layer", ones)
    for layer, name in ((oracle[0], "0.weight"), (oracle[2], "2.weight")):
        torch_prune.l1_unstructured(layer, "weight", amount=sparsity)
        kept = layer.weight_mask.bool()
        assert torch.equal(mask[name], kept)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.75])
def test_global_scope_agrees_with_torch_global_unstructured(sparsity):
    model, oracle = tiny_model(), tiny_model()
    ones = Mask.ones(model)
    mask = largest(magnitude(model, ones), sparsity, "global", ones)
    weights = [(oracle[0], "weight"), (oracle[2], "weight")]
    torch_prune.global_unstructured(weights, torch_prune.L1Unstructured, amount=sparsity)
    assert torch.equal(mask["0.weight"], oracle[0].weight_mask.bool())
    assert torch.equal(mask["2.weight"], oracle[2].weight_mask.bool())


def test_iterated_pruning_agrees_with_torch():
    model, oracle = tiny_model(), tiny_model()
    mask = Mask.ones(model)
    for sparsity in stages(0.875, 3):
        mask = largest(magnitude(model, mask), sparsity, "layer", mask)
        torch_prune.l1_unstructured(oracle[0], "weight", amount=0.5)  # half of what is left
    assert torch.equal(mask["0.weight"], oracle[0].weight_mask.bool())


@pytest.mark.parametrize(
    "rule",
    [partial(largest, sparsity=0.5, scope="global"), partial(above, thresholds={"w": 0.5})],
    ids=["largest", "above"],
)
@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"w": torch.tensor([1.0, torch.nan])}, "scores of w must be numbers, got NaN"),
        ({"v": torch.ones(2)}, r"w needs scores of shape \(2,\), got no scores"),
        ({"w": torch.ones(3)}, r"w needs scores of shape \(2,\), got \(3,\)"),
    ],
)
def test_scores_that_do_not_fit_are_refused(rule, scores, message):
    within = Mask({"w": torch.ones(2, dtype=torch.bool)})
    with pytest.raises(ValueError, match=f"select: {message}"):
        rule(scores, within=within)


@given(cases(), st.integers(-1, 4))
def test_above_keeps_what_reaches_the_threshold(case, threshold):
    scores, within = case
    mask = above(scores, dict.fromkeys(scores, threshold), within)
    for name in scores:
        assert torch.equal(mask[name], within[name] & (scores[name] >= threshold))


@given(st.floats(0, 0.999), st.integers(1, 12))
def test_stages_remove_the_same_share_of_the_survivors_every_round(sparsity, rounds):
    targets = [*stages(sparsity, rounds)]
    survivors = [1.0, *(1 - s for s in targets)]
    assert len(targets) == rounds
    assert targets[-1] == pytest.approx(sparsity, abs=1e-12)
    shares = [b / a for a, b in pairwise(survivors)]
    assert shares == pytest.approx([shares[0]] * rounds)


@given(st.floats(0, 0.999), st.floats(-0.5, 1.5), st.floats(0, 1))
def test_cubic_rises_from_nothing_to_the_target_and_stays(sparsity, t, more):
    assert cubic(sparsity, 0) == 0
    assert cubic(sparsity, 1) == cubic(sparsity, 1.5) == sparsity
    assert cubic(sparsity, t) <= cubic(sparsity, t + more) + 1e-12
    assert 0 <= cubic(sparsity, t) <= sparsity


def test_cubic_is_the_papers_formula():
    # s_f + (s_i - s_f) (1 - t)^3 with s_i = 0, s_f = 0.8
    assert cubic(0.8, 0.25) == pytest.approx(0.8 + (0 - 0.8) * 0.75**3)


def test_an_unknown_scope_is_refused():
    within = Mask({"w": torch.ones(4, dtype=torch.bool)})
    with pytest.raises(ValueError, match="scope must be 'layer' or 'global', got 'both'"):
        largest({"w": torch.rand(4)}, 0.5, "both", within)


def test_a_sparsity_in_percent_is_refused():
    within = Mask({"w": torch.ones(4, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\), got 95"):
        largest({"w": torch.rand(4)}, 95, "global", within)


@given(cases(), st.floats(0, 1), st.integers(0, 10**6))
def test_exchange_moves_the_smallest_out_and_the_most_wanted_in(case, share, seed):
    scores, within = case
    generator = torch.Generator().manual_seed(seed)
    wanted = {n: torch.rand(s.shape, generator=generator) for n, s in scores.items()}
    mask = exchange(scores, wanted, share, within)
    for name, keep in mask.items():
        was, s, w = within[name], scores[name], wanted[name]
        n = min(int(share * int(was.sum())), int((~was).sum()))
        gone, back = was & ~keep, keep & ~was
        assert int(gone.sum()) == int(back.sum()) == n
        if n:
            assert s[gone].max() <= s[was & keep].min() if (was & keep).any() else True
            assert w[back].min() >= w[~was & ~keep].max() if (~was & ~keep).any() else True


def test_exchange_of_equal_weights_takes_the_first():
    within = Mask({"w": torch.tensor([True, True, False, False])})
    same = {"w": torch.zeros(4)}
    assert exchange(same, same, 0.5, within)["w"].tolist() == [False, True, True, False]


def test_exchange_needs_numbers_for_every_name():
    within, fine = Mask({"w": torch.tensor([True, False])}), {"w": torch.zeros(2)}
    for scores, wanted in (({}, fine), (fine, {}), (fine, {"w": torch.tensor([math.nan, 0.0])})):
        with pytest.raises(ValueError, match="select: "):
            exchange(scores, wanted, 0.5, within)


# --------------------------------------------------------------------------------- pool, spread

UNITS = ["weight", "kernel", "stripe", "filter", "channel"]
REDUCE = {
    "sum": math.fsum,
    "mean": lambda unit: math.fsum(unit) / len(unit),
    "norm": lambda unit: math.hypot(*unit),
}


def unit_of(granularity, where):
    """The unit that the weight at `where`, (out, in, *place), belongs to; what it goes over is 0."""
    out, inner, *place = where if len(where) > 1 else (*where, 0)
    unit = {
        "weight": (out, inner, *place),
        "kernel": (out, inner, *[0] * len(place)),
        "stripe": (out, 0, *place),
        "filter": (out, 0, *[0] * len(place)),
        "channel": (0, inner, *[0] * len(place)),
    }[granularity]
    return unit[: len(where)]


def members(granularity, shape):
    """unit -> indices of its weights, by walking over all weights."""
    units = {}
    for where in itertools.product(*map(range, shape)):
        units.setdefault(unit_of(granularity, where), []).append(where)
    return units


@st.composite
def parameters(draw, whole=False):
    """Scores of weights of linear layers and of convolutions in one to three dimensions."""
    size = st.integers(1, 4)
    shapes = draw(st.lists(st.lists(size, min_size=2, max_size=5), min_size=1, max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scores = {
        f"p{i}": torch.randn(s, generator=generator, dtype=torch.double)
        for i, s in enumerate(shapes)
    }
    return {name: (9 * s).round() for name, s in scores.items()} if whole else scores


def ones(scores):
    return Mask({name: torch.ones(s.shape, dtype=torch.bool) for name, s in scores.items()})


@given(parameters(), st.sampled_from(UNITS), st.sampled_from([*REDUCE]))
def test_a_units_score_is_that_of_its_weights_taken_together_by_a_loop(scores, granularity, reduce):
    pooled = pool(scores, granularity, reduce)
    for name, s in scores.items():
        units = members(granularity, s.shape)
        assert pooled[name].ndim == s.ndim
        assert pooled[name].numel() == len(units)
        for unit, weights in units.items():
            expected = REDUCE[reduce]([float(s[w]) for w in weights])
            assert float(pooled[name][unit]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("granularity", "conv", "linear"),
    [
        ("weight", (4, 3, 2, 5), (4, 3)),
        ("kernel", (4, 3, 1, 1), (4, 3)),
        ("stripe", (4, 1, 2, 5), (4, 1)),
        ("filter", (4, 1, 1, 1), (4, 1)),
        ("channel", (1, 3, 1, 1), (1, 3)),
    ],
)
def test_the_axes_of_a_unit_stay_with_size_1(granularity, conv, linear):
    pooled = pool({"conv": torch.ones(4, 3, 2, 5), "fc": torch.ones(4, 3)}, granularity)
    assert (tuple(pooled["conv"].shape), tuple(pooled["fc"].shape)) == (conv, linear)


@given(parameters(), st.sampled_from(["sum", "mean"]))
def test_weights_pooled_are_the_weights(scores, reduce):
    pooled = pool(scores, "weight", reduce)
    assert all(torch.equal(pooled[name], s) for name, s in scores.items())


@given(parameters(whole=True), st.sampled_from(UNITS), SPARSITY, SCOPE)
def test_whole_units_go_and_as_many_as_asked(scores, granularity, sparsity, scope):
    pooled = pool(scores, granularity)
    mask = spread(largest(pooled, sparsity, scope, ones(pooled)), scores)
    gone = {}
    for name, keep in mask.items():
        assert keep.shape == scores[name].shape
        units = members(granularity, keep.shape).values()
        states = [{bool(keep[w]) for w in unit} for unit in units]
        assert all(len(state) == 1 for state in states)  # a unit is kept or goes, as a whole
        gone[name] = (states.count({False}), len(states))
    for names in groups(mask, scope):
        n, of = (sum(gone[name][i] for name in names) for i in (0, 1))
        assert n == min(round(sparsity * of), of - matrices(mask, names))


@given(parameters(), st.sampled_from(UNITS))
def test_all_units_spread_are_all_weights(scores, granularity):
    assert spread(ones(pool(scores, granularity)), scores) == ones(scores)


@given(parameters(), st.sampled_from(UNITS), SPARSITY)
def test_the_units_of_a_mask_that_was_spread_come_back(scores, granularity, sparsity):
    pooled = pool(scores, granularity)
    units = largest(pooled, sparsity, "global", ones(pooled))
    back = pool(spread(units, ones(scores)), granularity)
    assert Mask({name: n > 0 for name, n in back.items()}) == units


def test_a_bias_belongs_to_its_filter():
    scores = {"weight": torch.ones(3, 2, 1, 1), "bias": torch.tensor([1.0, 2.0, 3.0])}
    assert pool(scores, "filter")["bias"].tolist() == [1.0, 2.0, 3.0]
    mask = spread(Mask({"bias": torch.tensor([True, False, True])}), scores)
    assert mask["bias"].tolist() == [True, False, True]


@pytest.mark.parametrize("granularity", ["kernel", "stripe", "channel"])
def test_a_bias_has_no_smaller_units_and_no_channels(granularity):
    with pytest.raises(ValueError, match=rf"bias has no {granularity}s, .* got shape \(3,\)"):
        pool({"bias": torch.ones(3)}, granularity)


def test_an_unknown_unit_or_reduction_is_refused():
    with pytest.raises(ValueError, match="granularity must be one of 'weight', .*got 'neuron'"):
        pool({"w": torch.ones(2, 2)}, "neuron")
    with pytest.raises(ValueError, match="reduce must be one of 'sum', 'mean', 'norm', got 'max'"):
        pool({"w": torch.ones(2, 2)}, "filter", "max")


@pytest.mark.parametrize("shape", [(2, 1), (3, 2), (3,), (1, 3, 1)])
def test_units_that_do_not_fit_are_not_spread(shape):
    units = Mask({"w": torch.ones(shape, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"units of w .* \(3, 4\), got \(.*\)"):
        spread(units, {"w": torch.ones(3, 4)})


def test_units_of_an_unknown_parameter_are_not_spread():
    with pytest.raises(ValueError, match=r"nothing to spread 'w' over; there are \['v'\]"):
        spread(Mask({"w": torch.ones(1, dtype=torch.bool)}), {"v": torch.ones(1)})


def test_whole_numbers_and_half_precision_are_pooled():
    for dtype in (torch.int64, torch.bool, torch.bfloat16):
        for reduce, expected in (("sum", 4.0), ("mean", 1.0), ("norm", 2.0)):
            assert (
                float(pool({"w": torch.ones(1, 4, dtype=dtype)}, "filter", reduce)["w"]) == expected
            )


@given(cases(), SPARSITY, SCOPE)
def test_how_scores_lie_in_memory_changes_nothing(case, sparsity, scope):
    scores, within = case
    turned = {n: s.permute(*range(s.ndim)[::-1]).contiguous() for n, s in scores.items()}
    turned = {n: s.permute(*range(s.ndim)[::-1]) for n, s in turned.items()}  # the last axis first
    assert largest(turned, sparsity, scope, within) == largest(scores, sparsity, scope, within)


@given(
    st.lists(st.integers(-3, 3) | st.floats(-9, 9, width=32), min_size=1, max_size=400),
    st.floats(0, 1),
)
def test_a_sample_finds_the_nth_smallest_of_many(values, share):
    x, n = torch.tensor(values, dtype=torch.float32), 1 + round(share * (len(values) - 1))
    with mock.patch.multiple(select, SAMPLE=4, MARGIN=1):  # far too few: it often misses
        assert float(select._nth(x.split(30), n)) == sorted(x.tolist())[n - 1]


def test_each_layer_may_have_a_sparsity_of_its_own():
    torch.manual_seed(0)
    scores = {"a": torch.rand(10, 4), "b": torch.rand(20)}
    within = Mask({name: torch.ones(s.shape, dtype=torch.bool) for name, s in scores.items()})
    told = {"a": 0.25, "b": 0.9}
    mask = select.largest(scores, told, "layer", within)
    for name, share in told.items():
        alone = select.largest(scores, share, "layer", Mask({name: within[name]}))
        assert torch.equal(mask[name], alone[name])
    each = {name: [*select.stages(share, 2)] for name, share in told.items()}
    assert [*select.stages(told, 2)] == [{n: each[n][i] for n in told} for i in range(2)]
    for wrong, scope in (({"a": 0.5}, "layer"), (told, "global"), ({"a": 1.0, "b": 0.5}, "layer")):
        with pytest.raises(ValueError, match="sparsit"):
            select.largest(scores, wrong, scope, within)
