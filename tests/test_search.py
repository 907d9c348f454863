"""Candidates are judged as if their masks were applied, by any workers, and only once."""

import copy
import functools
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny import tiny_data, tiny_model
from torch import nn
from torch.nn import functional as F

from prunekit import Data, Journal, Mask, Run, evaluate, fit, search
from prunekit.judge import as_metric, judge
from prunekit.method import method
from prunekit.steps import Step, Stopped

decoded = []  # the candidates that `thin` was called with


def thin(model, candidate):
    """A mask whose every weight is kept with the chance `share`, drawn with `seed`."""
    share, seed = candidate
    decoded.append(candidate)
    generator = torch.Generator().manual_seed(seed)
    return Mask(
        {n: torch.rand(k.shape, generator=generator) < share for n, k in Mask.ones(model).items()}
    )


def negative_error(outputs, targets):
    return -float((outputs - targets).abs().max())


CANDIDATES = [(share / 10, seed) for share in (2, 5, 8) for seed in range(5)]


def normed():
    """A trained tiny model with buffers and dropout."""
    first, relu, last = tiny_model()
    model = nn.Sequential(first, nn.BatchNorm1d(12), relu, nn.Dropout(0.3), last)
    list(fit(model, tiny_data(), epochs=4, batch=20))
    return model


def by_hand(model, data):
    """Errors of each candidate: apply its mask to a copy, then count."""
    found = []
    for candidate in CANDIDATES:
        pruned = thin(model, candidate).apply_(copy.deepcopy(model)).eval()
        x, y = data.splits["validation"]
        found.append(int((pruned(x).argmax(1) != y).sum()))
    return found


def test_a_cost_is_that_of_the_mask_applied():
    model, data = normed(), tiny_data()
    results = search.costs(model, data, CANDIDATES, thin)
    assert results == by_hand(model, data)
    assert len(set(results)) > 3
    masks = [thin(model, c) for c in CANDIDATES]
    assert [as_metric(r, data) for r in results] == [evaluate(model, data, mask=m) for m in masks]


def one_layer(model, candidate):
    """A mask over a single layer, another one for each candidate."""
    name, mask = candidate, thin(model, (0.5, 1))
    return Mask({name: mask[name]})


def test_masks_over_different_layers_do_not_mix():
    model, data = normed(), tiny_data()
    names = [*Mask.ones(model)] * 2
    alone = [search.costs(model, data, [name], one_layer)[0] for name in names]
    assert search.costs(model, data, names, one_layer) == alone
    assert len(set(alone)) == 2


def test_the_model_is_untouched():
    model = normed().train()
    before = copy.deepcopy(model)
    search.costs(model, tiny_data(), CANDIDATES, thin)
    assert str(model.state_dict()) == str(before.state_dict())
    assert all(m.training for m in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_three_threads_give_what_one_gives_and_leave_the_model_as_it_is():
    model, data = normed().train(), tiny_data()
    x, y = data.splits["validation"]
    big = Data({"train": (x, y), "validation": (x.repeat(100, 1), y.repeat(100))})
    before = copy.deepcopy(model)
    serial = search.costs(model, big, CANDIDATES, thin)
    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            assert search.costs(model, big, CANDIDATES, thin, Run(workers=pool.map)) == serial
            assert all(m.training for m in model.modules())
    assert str(model.state_dict()) == str(before.state_dict())


def test_results_come_in_the_order_of_the_candidates_whoever_finishes_first():
    def last_first(function, items):
        items = list(items)
        return [
            result
            for _, result in sorted((i, function(items[i])) for i in reversed(range(len(items))))
        ]

    model, data = normed(), tiny_data()
    assert search.costs(model, data, CANDIDATES, thin, Run(workers=last_first)) == by_hand(
        model, data
    )


def test_an_own_metric_costs_minus_itself():
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    model = nn.Linear(8, 8)
    data = Data(
        {"train": (x, x), "validation": (x, x)},
        loss=F.mse_loss,
        metric=negative_error,
    )
    (cost,) = search.costs(model, data, [(0.5, 1)], thin)
    pruned = thin(model, (0.5, 1)).apply_(copy.deepcopy(model))
    assert cost == pytest.approx((pruned(x) - x).abs().max().item(), rel=1e-5)
    assert as_metric(cost, data) == -cost


class Quotient(nn.Linear):
    """A linear layer over the sum of its weights, which is 0 once all are gone."""

    def forward(self, x):
        return super().forward(x) / self.weight.abs().sum()


@pytest.mark.parametrize("bias", [1.0, 0.0], ids=["infinite", "NaN"])
@pytest.mark.parametrize("metric", [None, negative_error], ids=["accuracy", "own"])
def test_a_candidate_whose_outputs_are_not_finite_costs_infinity(bias, metric):
    model, x = Quotient(8, 3), tiny_data().splits["validation"][0]
    nn.init.constant_(model.bias, bias)
    y = tiny_data().splits["validation"][1] if metric is None else x[:, :3]
    data = Data(
        {"train": (x, y), "validation": (x, y)},
        **({} if metric is None else dict(loss=F.mse_loss, metric=metric)),
    )
    gone = thin(model, (0.0, 0)).apply_(copy.deepcopy(model))(x)
    assert gone.isinf().all() if bias else gone.isnan().all()
    for limits in (None, [math.inf] * 3, [60] * 3):
        found = search.costs(model, data, [(0.5, 1), (0.0, 0), (0.5, 1)], thin, limits=limits)
        assert found[1] == math.inf
        assert found[0] == found[2] < math.inf


def test_the_cost_of_a_model_is_that_of_the_model_as_it_is():
    model, data = normed().train(), tiny_data()
    x, y = data.splits["validation"]
    own = Data(
        {"train": (x, x[:, :3]), "validation": (x, x[:, :3])},
        loss=F.mse_loss,
        metric=negative_error,
    )
    counted = int((copy.deepcopy(model).eval()(x).argmax(1) != y).sum())
    assert search.cost(model, data) == judge(model, data) == counted
    assert search.cost(model, own) == judge(model, own) == -evaluate(model, own)
    mask = thin(model, (0.4, 1))
    (masked,) = search.costs(model, data, [(0.4, 1)], thin)
    assert search.cost(mask.apply_(model), data) == judge(model, data) == masked > 0


def test_no_candidates_give_no_results():
    assert search.costs(tiny_model(), tiny_data(), [], thin) == []


# --------------------------------------------------------------------------------------- journal


@method
def judged(model, data, *, seed: int = 0, run: Run = Run()):
    for index, chosen in enumerate((CANDIDATES[:4], CANDIDATES[2:8], CANDIDATES[:1] * 3), 1):
        results = search.costs(model, data, chosen, thin, run)
        yield Step("search", index, 3, Mask({}), {}, {"results": results})


def results(stream):
    return [step.info["results"] for step in stream]


def test_the_journal_is_asked_first(tmp_path):
    expected = results(judged(normed(), tiny_data()))
    decoded.clear()
    stream = judged(normed(), tiny_data(), run=Run(journal=Journal(tmp_path)))
    found = [next(stream).info["results"]]
    assert decoded == CANDIDATES[:4]
    stream.close()
    decoded.clear()
    found = results(judged(normed(), tiny_data(), run=Run(journal=Journal(tmp_path))))
    assert decoded == CANDIDATES[4:8]  # the first four were recorded, the last are repetitions
    assert found == expected
    decoded.clear()
    assert results(judged(normed(), tiny_data(), run=Run(journal=Journal(tmp_path)))) == expected
    assert decoded == []


def test_threads_with_a_journal_give_what_one_gives(tmp_path):
    expected = results(judged(normed(), tiny_data()))
    with ThreadPoolExecutor(3) as pool:
        run = Run(workers=pool.map, journal=Journal(tmp_path))
        assert results(judged(normed(), tiny_data(), run=run)) == expected
    decoded.clear()
    assert results(judged(normed(), tiny_data(), run=Run(journal=Journal(tmp_path)))) == expected
    assert decoded == []


def scaled(model, candidate, *, share):
    return thin(model, (share, candidate))


def test_the_journal_tells_decoders_and_weights_apart(tmp_path):
    @method
    def two(model, data, *, seed: int = 0, run: Run = Run()):
        found = []
        for share in (0.2, 0.8):
            found += search.costs(model, data, [1, 2], functools.partial(scaled, share=share), run)
        with torch.no_grad():
            model[0].weight.mul_(-1)
        found += search.costs(model, data, [1, 2], functools.partial(scaled, share=0.8), run)
        yield Step("search", 1, 1, Mask({}), {}, {"results": found})

    decoded.clear()
    run = Run(journal=Journal(tmp_path))
    assert results(two(tiny_model(), tiny_data(), run=run)) == results(
        two(tiny_model(), tiny_data())
    )
    assert len(decoded) == 6 + 6


def test_a_decoder_without_a_name_is_refused_only_with_a_journal(tmp_path):
    @method
    def nameless(model, data, *, seed: int = 0, run: Run = Run()):
        found = search.costs(model, data, [1], lambda m, c: Mask.ones(m), run)
        yield Step("search", 1, 1, Mask({}), {}, {"results": found})

    assert len([*nameless(tiny_model(), tiny_data())]) == 1
    with pytest.raises(TypeError, match="needs a name of its own"):
        next(nameless(tiny_model(), tiny_data(), run=Run(journal=Journal(tmp_path))))


# ------------------------------------------------------------------------------------------ keys


class Shifted(nn.Linear):
    """A linear layer with a plain tensor, no parameter and no buffer, in what it computes."""

    def __init__(self, shift):
        super().__init__(8, 3)
        with torch.no_grad():
            self.weight.fill_(0.5)
            self.bias.zero_()
        self.shift = torch.tensor(shift)

    def forward(self, x):
        return super().forward(x) + self.shift


def test_models_that_differ_in_a_plain_tensor_have_different_keys_for_workers():
    data = tiny_data()

    def keys(model):
        return search._Job({"model": model, "data": data, "decode": thin}).keys

    one, same, other = Shifted([0.0, 0, 9]), Shifted([0.0, 0, 9]), Shifted([0.0, 9, 0])
    assert search.cost(one, data) == search.cost(same, data)
    assert keys(one) == keys(same) == keys(copy.deepcopy(one))
    assert {n for n, key in keys(one).items() if keys(other)[n] != key} == {"model"}


# ------------------------------------------------------------------------------------- stop, cut


def test_a_stop_keeps_what_was_judged_before(tmp_path):
    stop = threading.Event()

    def one_by_one(function, items):
        for i, item in enumerate(items):
            if i == 2:
                stop.set()
            yield function(item)

    decoded.clear()
    run = Run(workers=one_by_one, journal=Journal(tmp_path), stop=stop)
    assert [*judged(normed(), tiny_data(), run=run)] == []
    stop.clear()
    decoded.clear()
    next(judged(normed(), tiny_data(), run=Run(journal=Journal(tmp_path))))
    assert decoded == CANDIDATES[2:4]


def test_cut_judges_first_and_then_applies():
    model, data = normed(), tiny_data()
    mask = thin(model, (0.4, 1))
    step = search.cut(model, data, mask, 2, 5, note="here")
    assert (step.phase, step.index, step.of, step.mask, step.info) == (
        "prune",
        2,
        5,
        mask,
        {"note": "here"},
    )
    assert all(not dict(model.named_parameters())[n][~keep].any() for n, keep in mask.items())
    assert step.metrics == {"accuracy": evaluate(model, data)}


def test_a_stopped_cut_has_changed_nothing():
    model, stop = normed(), threading.Event()
    before = str(model.state_dict())
    stop.set()
    with pytest.raises(Stopped):
        search.cut(model, tiny_data(), thin(model, (0.4, 1)), 1, 1, Run(stop=stop))
    assert str(model.state_dict()) == before


def test_cut_refuses_a_mask_that_does_not_fit():
    with pytest.raises(ValueError, match="mask"):
        search.cut(tiny_model(), tiny_data(), Mask({"0.weight": torch.ones(2, 2) > 0}), 1, 1)
