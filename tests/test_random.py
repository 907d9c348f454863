"""Draws: all from the seed, whoever draws and where, and the process's generators stay."""

import random
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import tiny_data, tiny_model
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from prunekit import (
    Data,
    Journal,
    Run,
    accuracy,
    evaluate,
    fit,
    gradual,
    magnitude,
    prune,
    score,
    search,
)
from prunekit._modules import snapshot
from prunekit._random import Generators, LocalRandom, always_seeded, repeatable
from prunekit.judge import paired
from prunekit.mask import Mask

CPU = torch.device("cpu")


def python(x):
    return x * (0 if random.random() < 0.5 else 1)


def numpy(x):
    return x * np.random.uniform()


def dropped(x):
    return F.dropout(x, 0.5)  # also outside training


class Backward(torch.autograd.Function):
    """Noise in the gradient, as for stochastic rounding."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, slope):
        return slope + torch.randn_like(slope)


class Noisy(nn.Module):
    """The tiny network, with something in its midst that draws."""

    def __init__(self, draw):
        super().__init__()
        self.net, self.draw = tiny_model(), draw

    def forward(self, x):
        return self.net[2](self.draw(self.net[1](self.net[0](x))))


def repeated(x):
    return checkpoint(dropped, x, use_reentrant=False)


def from_torchs_own(x):
    return x * torch.rand(x.shape, generator=torch.default_generator)


def often(x):
    """What takes a generator among its other arguments, or none at all."""
    x = F.rrelu(x, 0.1, 0.9, training=True) + torch.poisson(x.detach().abs())
    return x + torch.randint_like(x, 3) + torch.distributions.Gamma(x.abs() + 1, 1.0).rsample()


DRAWS = {"python": python, "numpy": numpy, "torch": dropped, "backward": Backward.apply}
DRAWS |= {"torch's own": from_torchs_own, "often": often}


def surround(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def same_whatever_the_surroundings(act):
    """What `act()` gives, which is the same in other states of the process's generators; these
    stay as they are."""
    given = []
    for seed in (1, 2):
        surround(seed)
        before = Generators(CPU)
        given.append(act())
        assert not before.moved()
    assert given[0] == given[1]
    return given[0]


def trained(model, **knobs):
    steps = [step.metrics for step in fit(model, tiny_data(), **{"epochs": 2, "batch": 30} | knobs)]
    return steps, [t.tolist() for t in snapshot(model).values()]


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_training_depends_on_the_seed_alone(draw):
    one, other = (
        same_whatever_the_surroundings(lambda s=seed: trained(Noisy(draw), seed=s))
        for seed in (0, 1)
    )
    assert one != other
    surround(1)
    model = Noisy(draw)
    stream = fit(model, tiny_data(), epochs=2, batch=30)
    first = next(stream)
    surround(9)  # in the midst
    assert [first.metrics, next(stream).metrics] == one[0]


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_evaluating_and_scoring_depend_on_model_and_data_alone(draw):
    model, data = Noisy(draw), tiny_data()
    names = ["net.0.weight"]
    same_whatever_the_surroundings(lambda: evaluate(model, data))
    same_whatever_the_surroundings(lambda: paired(model, tiny_model(), data))
    same_whatever_the_surroundings(lambda: score.gradient(model, data, names)[names[0]].tolist())
    masks = [Mask({"net.0.weight": torch.rand(12, 8) < 0.5}) for _ in range(3)]
    costs = same_whatever_the_surroundings(lambda: search.costs(model, data, masks, search.itself))
    backwards = search.costs(model, data, masks[::-1], search.itself)
    assert costs == backwards[::-1]


@pytest.mark.parametrize("method", [magnitude, gradual])
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_pruning_depends_on_its_seed_alone(method, draw):
    def run():
        report = prune(method, Noisy(draw), tiny_data(), epochs=2, seed=3, bar=False)
        return [step.metrics for step in report.history], report.mask.key, report.after

    same_whatever_the_surroundings(run)


def test_runs_in_several_threads_give_what_they_give_alone():
    alone = {name: trained(Noisy(draw)) for name, draw in DRAWS.items()}
    found = []
    threads = [
        threading.Thread(target=lambda n=name: found.append((n, trained(Noisy(DRAWS[n])))))
        for name in [*DRAWS] * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(threads)
    assert all(given == alone[name] for name, given in found)


class Loaded:
    """A shuffling loader, which draws from torch's global generator."""

    loss, metric = staticmethod(F.cross_entropy), staticmethod(accuracy)

    def batches(self, split, size, generator=None):
        set_ = TensorDataset(*tiny_data().splits[split])
        return iter(DataLoader(set_, size, shuffle=generator is not None))


def test_the_order_of_a_loader_of_ones_own_comes_from_the_seed():
    def run(seed):
        model = tiny_model()
        list(fit(model, Loaded(), epochs=2, batch=30, seed=seed))
        return model[0].weight.tolist()

    one, other = (same_whatever_the_surroundings(lambda s=s: run(s)) for s in (0, 1))
    assert one != other


def test_a_draw_that_begins_late_in_an_epoch_is_found_as_well():
    calls = []

    def late(x):
        calls.append(1)
        return python(x) if len(calls) % 5 == 0 else x

    def run():
        calls.clear()
        return trained(Noisy(late), epochs=1, optimizer="adam")

    same_whatever_the_surroundings(run)


# -------------------------------------------------------------------------- computed once more


class Deep(nn.Module):
    """Three blocks with dropout, which are computed again in the backward pass if asked."""

    def __init__(self, again):
        super().__init__()
        with LocalRandom(0):
            self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])
            self.last = nn.Linear(8, 3)
        self.again = again

    def forward(self, x):
        for layer in self.layers:
            x = self.again(lambda x, own=layer: dropped(own(dropped(x)).tanh()), x)
        return self.last(x)


def nested(block, x):
    return checkpoint(
        lambda x: checkpoint(block, dropped(x), use_reentrant=False), x, use_reentrant=False
    )


AGAIN = {
    "kept": lambda block, x: checkpoint(block, x, use_reentrant=False),
    "reentrant": lambda block, x: checkpoint(block, x, use_reentrant=True),
}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("again", AGAIN.values(), ids=AGAIN)
def test_what_is_computed_again_draws_the_same_numbers(again):
    once = trained(Deep(lambda block, x: block(x)))
    if again is AGAIN["reentrant"]:  # needs an input with gradients
        reentrant = Deep(again)
        reentrant.register_forward_pre_hook(lambda m, args: (args[0].clone().requires_grad_(),))
        assert trained(reentrant) == once
    else:
        assert trained(Deep(again)) == once
    same_whatever_the_surroundings(lambda: trained(Deep(again))[0])


def test_what_is_computed_again_inside_what_is_computed_again_draws_the_same_numbers():
    assert trained(Deep(nested)) == trained(Deep(lambda block, x: block(dropped(x))))


# ------------------------------------------------------------------------------------- repeatable


def test_work_that_draws_is_done_twice_the_first_time_and_other_work_once():
    model, done = tiny_model(), []
    for _ in range(2):
        assert repeatable(lambda draws: done.append(draws) or 5, model, CPU) == 5
    assert done == [None, None]
    one, other, third = (
        repeatable(lambda draws: (done.append(draws), random.random())[1], model, CPU, seed)
        for seed in (1, 2, 1)
    )
    assert (one == third, one == other) == (True, False)
    assert [draws is None for draws in done[2:]] == [True, False, False, False]


def test_always_seeded_work_is_done_once_also_where_other_threads_draw():
    done, model = [], tiny_model()
    with always_seeded():
        given = repeatable(lambda draws: done.append(draws) or random.random(), model, CPU, 1)
    assert [draws is None for draws in done] == [False]
    assert given == repeatable(lambda draws: random.random(), model, CPU, 1)


def test_generators_are_put_back_when_the_work_fails():
    def fail(draws):
        python(1.0)
        raise KeyError

    before = Generators(CPU)
    with pytest.raises(KeyError):
        repeatable(fail, tiny_model(), CPU)
    assert not before.moved()


@pytest.mark.parametrize(
    "draw", [lambda: torch.rand(1), random.random, np.random.rand, lambda: np.random.randn(3)]
)
def test_every_generator_of_the_process_is_watched(draw):
    before = Generators(CPU)
    assert not before.moved()
    draw()
    assert before.moved()
    before.put_back()
    assert not before.moved()


class Drawing(nn.Module):
    """Draws from a generator of its own, and counts how often."""

    def __init__(self, generator, draw):
        super().__init__()
        self.net, self.generator, self.draw, self.often = tiny_model(), generator, draw, 0

    def forward(self, x):
        self.often += 1
        return self.net(x * self.draw(self.generator)) * (1 + self.often % 3)


OWN = {
    "torch": lambda: Drawing(torch.Generator(), lambda g: torch.rand((), generator=g).item()),
    "numpy": lambda: Drawing(np.random.default_rng(0), np.random.Generator.normal),
    "old numpy": lambda: Drawing(np.random.RandomState(0), np.random.RandomState.randn),
    "python": lambda: Drawing(random.Random(0), random.Random.random),
}


@pytest.mark.parametrize("model", OWN.values(), ids=OWN)
def test_what_a_model_draws_from_its_own_generator_and_counts_comes_from_the_seed(model, tmp_path):
    judged = model()
    masks = [Mask({"net.0.weight": torch.rand(12, 8) < 0.5}) for _ in range(3)]
    costs = search.costs(judged, tiny_data(), masks, search.itself)
    assert costs[::-1] == search.costs(judged, tiny_data(), masks[::-1], search.itself)
    assert len({evaluate(judged, tiny_data()) for _ in range(3)}) == 1
    assert judged.often == 0

    def run(**more):
        knobs = dict(sparsity=0.8, rounds=2, epochs=2, batch=50, seed=3, bar=False)
        report = prune(magnitude, model(), tiny_data(), **knobs | more)
        return [step.metrics for step in report.history], report.after

    alone, journal = run(), Run(journal=Journal(tmp_path / "j"))
    # One that is stopped in the midst of an epoch, and goes on; then it is read back.
    polls = iter([False] * 7)
    run(run=Run(journal=journal.journal, stop=SimpleNamespace(is_set=lambda: next(polls, True))))
    assert alone == run(run=journal) == run(run=journal)
    assert alone != run(seed=4)


class Counting(nn.Module):
    """A buffer that moves with every forward pass, and what it does to the outputs."""

    def __init__(self):
        super().__init__()
        self.net = tiny_model()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += 1
        return self.net(x) * torch.where(self.seen > 1, -1.0, 1.0)


def test_buffers_that_move_are_the_same_for_each_candidate_and_stay():
    model = Counting()
    masks = [Mask({"net.0.weight": torch.rand(12, 8) < 0.5}) for _ in range(4)]
    costs = search.costs(model, tiny_data(), masks, search.itself)
    assert costs == [search.costs(model, tiny_data(), [m], search.itself)[0] for m in masks]
    assert evaluate(model, tiny_data()) == evaluate(model, tiny_data())
    assert model.seen == 0
    data = Data(tiny_data().splits)
    assert prune(magnitude, model, data, bar=False).model.seen == 0


def test_a_mode_that_an_interrupt_left_behind_ends():
    def interrupted(_):
        LocalRandom(0).__enter__()
        raise KeyboardInterrupt

    before = torch.random.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        repeatable(interrupted, nn.Identity(), torch.device("cpu"))
    torch.rand(1)
    assert not torch.equal(torch.random.get_rng_state(), before)
