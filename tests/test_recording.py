"""A pass that is recorded once, and replayed with changes, answers as a whole pass does."""

import copy
import math

import pytest
import torch
from tiny import tiny_data, tiny_images, tiny_model, tiny_residual
from torch import nn
from zoo import ZOO, Of

from prunekit import search
from prunekit._modules import call
from prunekit.data import Data
from prunekit.judge import judge, stand_in
from prunekit.mask import Mask
from prunekit.recording import Recording, judged
from prunekit.steps import Run


def changes_of(model, seed):
    """Random changes of one, two or all parameters: what is kept, or new values."""
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(model.named_parameters())
    names = [*parameters]
    some = [names[int(torch.randint(len(names), (), generator=generator))] for _ in range(2)]
    for chosen in (some[:1], some, names):
        yield {
            n: torch.rand(parameters[n].shape, generator=generator) > 0.3
            if seed % 2
            else torch.randn(parameters[n].shape, generator=generator).to(parameters[n].dtype)
            for n in chosen
        }


def changed(model, changes):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, p in twin.named_parameters():
            if name in changes:
                change = changes[name]
                p.copy_(p * change if change.dtype is torch.bool else change)
    return twin


def tensors(out):
    return [a for a in torch.utils._pytree.tree_leaves(out) if isinstance(a, torch.Tensor)]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


@pytest.mark.parametrize("name", ZOO)
def test_a_replay_answers_bit_by_bit_as_a_whole_pass(name):
    model, x = ZOO[name]()
    recording = Recording(model)
    with torch.no_grad():
        assert same(recording.record(x), call(stand_in(model), x))
        assert recording.repeats
        for seed in range(6):
            for changes in changes_of(model, seed):
                whole = call(stand_in(changed(model, changes)), x)
                assert same(recording.replay(x, changes), whole)
        assert same(recording.replay(x, {}), call(stand_in(model), x))


class Counts(nn.Linear):
    calls = 0

    def forward(self, x):
        Counts.calls += 1
        return super().forward(x)


def test_what_comes_before_a_change_is_not_computed_again():
    block = nn.Sequential(Counts(4, 4), nn.ReLU(inplace=True), Counts(4, 4))
    model = nn.Sequential(Counts(4, 4), block, Counts(4, 3))
    recording, x = Recording(model), torch.rand(2, 4)
    recording.record(x)
    for name, computed in (("0.weight", 4), ("1.0.bias", 3), ("1.2.weight", 2), ("2.weight", 1)):
        Counts.calls = 0
        recording.replay(x, {name: model.get_parameter(name).detach() + 1})
        assert Counts.calls == computed


def test_what_is_written_into_later_is_computed_again():
    def run(self, x):
        a = self.first(x)
        a += self.second(x)  # what the first gave is no longer there
        return self.last(a.relu_())

    model = Of(run, first=nn.Linear(4, 4), second=nn.Linear(4, 4), last=nn.Linear(4, 3)).eval()
    recording, x = Recording(model), torch.rand(5, 4)
    recording.record(x)
    for name in ("first.weight", "second.weight", "last.weight"):
        change = {name: model.get_parameter(name).detach() * 0.5}
        for _ in range(2):
            with torch.no_grad():
                assert same(recording.replay(x, change), changed(model, change)(x))


def test_a_parameter_that_another_module_uses_first_begins_there():
    def run(self, x):
        return self.own(self.early(x))

    class Early(nn.Module):
        def __init__(self, late):
            super().__init__()
            self.late = [late]  # not registered here

        def forward(self, x):
            return x @ self.late[0].weight.T

    own = nn.Linear(4, 4)
    model = Of(run, early=Early(own), own=own).eval()
    recording, x = Recording(model), torch.rand(3, 4)
    recording.model.early.late[0] = recording.model.own  # a copy's own
    recording.record(x)
    change = {"own.weight": torch.randn(4, 4)}
    with torch.no_grad():
        w, b = change["own.weight"], model.own.bias
        torch.testing.assert_close(recording.replay(x, change), (x @ w.T) @ w.T + b)


class Draws(nn.Module):
    def forward(self, x):
        return x + torch.rand(())


class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.steps = 0

    def forward(self, x):
        self.steps += 1
        return x * self.steps


class Buffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("n", torch.zeros(()))

    def forward(self, x):
        return x * self.n.add_(1)


@pytest.mark.parametrize("part", [Draws, Steps, Buffers, lambda: nn.BatchNorm1d(8)])
def test_networks_whose_passes_differ_are_judged_one_by_one(part):
    model = nn.Sequential(part(), tiny_model())
    if isinstance(model[0], nn.BatchNorm1d):
        model[0].eval = model[0].train  # its statistics are each batch's own
    data = tiny_data()
    candidates = [Mask({"1.0.weight": torch.arange(8).expand(12, 8) % k != 0}) for k in (2, 3, 4)]
    alone = search.costs(model, data, candidates, search.itself)
    assert search.costs(model, data, candidates, search.itself, together=True) == alone


@pytest.mark.parametrize(("build", "data"), [(tiny_model, tiny_data), (tiny_residual, tiny_images)])
def test_judged_together_the_costs_are_those_of_each_alone(build, data):
    model, data = build(), data()
    variants = [changes for seed in range(4) for changes in changes_of(model, seed)]
    alone = [judge(stand_in(changed(model, changes)), data) for changes in variants]
    assert judged(model, data.normalised, variants) == alone
    assert judged(model, data.normalised, variants, Run(memory=1)) == alone  # one by one
    median = sorted(alone)[len(alone) // 2]
    given_up = judged(model, data.normalised, variants, limits=[median] * len(alone))
    assert given_up == [cost if cost <= median else math.inf for cost in alone]
    assert search.costs(model, data, variants, search.itself, together=True) == alone
    assert search.costs(model, data, variants, search.itself) == alone


def test_a_metric_of_another_kind_is_told_of_each():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(60, 8, generator=generator), torch.rand(60, generator=generator)
    data = Data.of((x, y), 0.5, loss=nn.functional.mse_loss, metric=spread)
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 1), nn.Flatten(0))
    variants = [{"1.weight": torch.full((1, 4), v)} for v in (0.0, 1.0, math.nan)]
    costs = judged(model, data.normalised, variants)
    assert costs == [judge(stand_in(changed(model, v)), data) for v in variants]
    assert costs[-1] == math.inf


def spread(outputs, y):
    return float(outputs.std() - y.std())


def test_the_journal_holds_each_cost(tmp_path):
    class Notes(dict):
        def put(self, key, value):
            self[key] = value

    model, data, notes = tiny_model(), tiny_data(), Notes()
    variants = [*changes_of(model, 1)]
    run = Run(journal=None)
    object.__setattr__(run, "journal", notes)
    first = search.costs(model, data, variants, search.itself, run, together=True)
    assert [*notes.values()] == first
    notes.update(dict.fromkeys(notes, 7.0))
    assert search.costs(model, data, variants, search.itself, run, together=True) == [7.0] * 3


def test_what_decode_must_give_is_said():
    with pytest.raises(TypeError, match="^search: decode must give a Mask, or tensors by name"):
        search.costs(tiny_model(), tiny_data(), [1], number, together=True)


def number(model, candidate):
    return candidate
