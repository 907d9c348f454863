"""Training and evaluation against plain torch, and what is left when they are interrupted."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny import tiny_data, tiny_model
from torch import nn
from torch.nn import functional as F

from prunekit import Data, Journal, Mask, Run, Step, accuracy, evaluate, fit, magnitude, prune
from prunekit._random import LocalRandom, draws
from prunekit.data import wrap
from prunekit.judge import as_metric, hardest_first, judge
from prunekit.method import method
from prunekit.steps import Stopped, derive
from prunekit.train import SCHEDULES


def weights(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def half(model, seed=0):
    """A mask that keeps about half of each weight."""
    generator = torch.Generator().manual_seed(seed)
    return Mask(
        {n: torch.rand(k.shape, generator=generator) < 0.5 for n, k in Mask.ones(model).items()}
    )


def normed(dropout=0.3):
    """A tiny model with buffers and dropout."""
    first, relu, last = tiny_model()
    return nn.Sequential(first, nn.BatchNorm1d(12), relu, nn.Dropout(dropout), last)


def figures(steps):
    return [(step.phase, step.index, step.mask, step.metrics) for step in steps]


# --------------------------------------------------------------------------------- against torch


def by_hand(model, data, epochs, lr, batch, seed, optimizer, mask=None):
    """The loop that everybody writes; `fit` must do the same."""
    x, y = data.splits["train"]
    keep = {n: k.float() for n, k in (mask or {}).items()}
    with torch.no_grad():
        for name, k in keep.items():
            dict(model.named_parameters())[name].mul_(k)
    n, losses = math.ceil(len(x) / batch), []
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(derive(seed, "epoch", epoch + 1))
        total = 0.0
        for i, rows in enumerate(torch.randperm(len(x), generator=generator).split(batch)):
            t = (epoch + i / n) / epochs
            optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * t))
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for name, k in keep.items():
                    dict(model.named_parameters())[name].mul_(k)
            total += loss.item() * len(rows)
        losses.append(total / len(x))
    return losses


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_fit_is_the_loop_that_one_writes_by_hand(name, masked):
    data, ours, plain = tiny_data(), tiny_model(), tiny_model()
    mask = half(ours) if masked else None
    optimizer = {
        "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.8, weight_decay=0.01, nesterov=True),
        "adam": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.01),
    }[name](plain.parameters())
    losses = by_hand(plain, data, 3, 0.1, 50, 4, optimizer, mask)
    steps = fit(
        ours, data, epochs=3, lr=0.1, batch=50, optimizer=name, momentum=0.8, weight_decay=0.01,
        seed=4, mask=mask,
    )  # fmt: skip
    assert [s.metrics["loss"] for s in steps] == pytest.approx(losses, rel=1e-5)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert not torch.equal(ours[0].weight, tiny_model()[0].weight)


def test_sgd_without_momentum_works_too():
    assert len([*fit(tiny_model(), tiny_data(), momentum=0.0)]) == 1


def test_training_learns():
    model, data = tiny_model(), tiny_data()
    list(fit(model, data, epochs=10, batch=20))
    assert evaluate(model, data) > 0.8


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_masked_weights_are_exactly_zero_at_every_update(optimizer):
    model = tiny_model()
    mask = half(model)
    removed = [(model[0].weight, ~mask["0.weight"]), (model[2].weight, ~mask["2.weight"])]
    seen = []

    def loss(out, y):
        seen.append(all(not w[r].any() for w, r in removed))
        return F.cross_entropy(out, y)

    data = Data(tiny_data().splits, loss=loss)
    for step in fit(model, data, epochs=3, batch=20, optimizer=optimizer, mask=mask):
        assert step.mask == mask
        assert all(not w[r].any() and not torch.signbit(w[r]).any() for w, r in removed)
    assert all(seen[3:])  # the first are those of the trial before any work
    assert len(seen) == 3 + 3 * 6


def test_fit_ends_in_eval_mode_without_gradients():
    model = normed().train()
    for _ in fit(model, tiny_data(), epochs=2):
        assert not any(m.training for m in model.modules())
        assert all(p.grad is None for p in model.parameters())


def test_fit_of_no_epochs_leaves_the_model_alone():
    model = normed()
    before = weights(model)
    assert [*fit(model, tiny_data(), epochs=0)] == []
    assert same(weights(model), before)


def test_fit_leaves_frozen_parameters_alone_and_says_when_all_are():
    model = tiny_model()
    model[0].requires_grad_(False)
    list(fit(model, tiny_data()))
    assert torch.equal(model[0].weight, tiny_model()[0].weight)
    assert not torch.equal(model[2].weight, tiny_model()[2].weight)
    with pytest.raises(
        ValueError, match="fit: Sequential has no parameter that requires gradients"
    ):
        list(fit(model.requires_grad_(False), tiny_data()))


def test_fit_trains_also_where_gradients_are_off():
    on, off = tiny_model(), tiny_model()
    list(fit(on, tiny_data()))
    with torch.no_grad():
        list(fit(off, tiny_data()))
    assert same(weights(on), weights(off))


def test_a_loss_that_is_not_finite_is_an_error_and_the_weights_return():
    model = tiny_model()
    before = weights(model)
    with pytest.raises(FloatingPointError, match=r"loss is .* in epoch 1: .*try a smaller lr"):
        list(fit(model, tiny_data(), lr=1e30, batch=10))
    assert same(weights(model), before)


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("constant", {0: 1, 0.5: 1, 1: 1}),
        ("cosine", {0: 1, 0.5: 0.5, 1: 0}),
        ("one-cycle", {0: 0, 0.25: 1, 0.625: 0.5, 1: 0}),
        ("steps", {0: 1, 0.49: 1, 0.5: 0.1, 0.74: 0.1, 0.75: 0.01, 1: 0.01}),
    ],
)
def test_learning_rate_schedules_end_where_they_should(name, ends):
    assert {t: SCHEDULES[name](t, 0.25) for t in ends} == pytest.approx(ends)
    assert max(SCHEDULES[name](i / 100, 0.25) for i in range(101)) == pytest.approx(1)


def test_one_cycle_is_highest_at_its_peak():
    for peak in (0.1, 0.2, 0.5, 0.9):
        rates = [SCHEDULES["one-cycle"](i / 100, peak) for i in range(101)]
        assert rates.index(max(rates)) == round(100 * peak)
        assert max(rates) == pytest.approx(1)
        assert min(rates) >= 0


def test_every_schedule_has_its_end():
    assert {*SCHEDULES} == {"constant", "cosine", "one-cycle", "steps"}


def test_bf16_trains_and_gives_float32_weights_back_in_their_own_order():
    def net():
        with LocalRandom(0):
            return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))

    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 2, 4, 4, generator=generator), torch.arange(60) % 3
    data = Data.of((x, y), (x, y))
    trained = {}
    for precision in ("fp32", "bf16", "auto"):
        trained[precision] = net()
        list(fit(trained[precision], data, epochs=2, batch=20, precision=precision))
    for p in trained["bf16"].parameters():
        assert p.dtype == torch.float32
        assert p.is_contiguous()
    assert not torch.equal(trained["bf16"][0].weight, trained["fp32"][0].weight)
    torch.testing.assert_close(
        trained["bf16"][0].weight, trained["fp32"][0].weight, atol=0.02, rtol=0.1
    )
    again = net()
    list(fit(again, data, epochs=2, batch=20, precision="bf16"))
    assert same(weights(again), weights(trained["bf16"]))


def test_bf16_puts_the_channels_of_every_convolution_last_while_it_trains():
    strides = []

    class Noted(nn.Conv2d):
        def forward(self, x):
            if self.training:
                strides.append(self.weight.stride())
            return super().forward(x)

    x, y = torch.zeros(6, 1, 4, 4), torch.arange(6) % 3
    model = nn.Sequential(Noted(1, 3, 2), nn.Flatten(), nn.Linear(27, 3))  # of one channel
    steps = fit(model, Data.of((x, y), (x, y)), precision="bf16")
    strides.clear()  # of the trial before any work
    list(steps)
    assert strides == [(4, 1, 2, 1)]
    assert model[0].weight.stride() == (4, 4, 2, 1)


# ------------------------------------------------------------------------------------- remasking


def drop_one_more(model, mask, t):
    calls.append(t)
    flat = mask["0.weight"].flatten().clone()
    flat[flat.nonzero()[0]] = False
    return Mask({**mask, "0.weight": flat.reshape(mask["0.weight"].shape)})


calls: list[float] = []


def test_remask_is_called_every_so_many_minibatches_and_after_every_epoch():
    calls.clear()
    model = tiny_model()
    steps = fit(
        model, tiny_data(), epochs=2, batch=20, mask=Mask.ones(model), remask=drop_one_more, every=4
    )
    removed = []
    for step in steps:
        removed.append(step.mask.total - step.mask.kept)
        assert not model[0].weight[~step.mask["0.weight"]].any()
    assert calls == pytest.approx([4 / 12, 6 / 12, 8 / 12, 12 / 12])
    assert removed == [2, 4]


# ----------------------------------------------------------------------------------- interrupted


class StopAt:
    """An event that is set from the n-th time on that it is looked at."""

    def __init__(self, n):
        self.n, self.looks = n, 0

    def is_set(self):
        self.looks += 1
        return self.looks >= self.n


@pytest.mark.parametrize(("every", "expected"), [(0, 3), (2, 3 * 3), (3, 3 * 2), (6, 3)])
def test_remask_is_called_once_at_a_time(every, expected):
    calls.clear()  # 120 examples in batches of 20 are 6 minibatches an epoch
    mask = Mask.ones(tiny_model())
    list(fit(tiny_model(), tiny_data(), epochs=3, batch=20, every=every, mask=mask,
             remask=drop_one_more))  # fmt: skip
    assert len(calls) == len({*calls}) == expected
    assert calls[-1] == 1


def see_gradients(model, mask, t):
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    return mask


def test_remask_sees_the_gradients_of_the_last_minibatch():
    model = tiny_model()
    list(fit(model, tiny_data(), batch=50, mask=half(model), remask=see_gradients))


def needs_numbers(model, mask, t):
    if not all(p.isfinite().all() and p.grad.isfinite().all() for p in model.parameters()):
        raise ValueError("scores must be numbers")
    return mask


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("every", [0, 1])
def test_a_remask_that_fails_on_diverged_weights_is_not_blamed_for_them(when, every):
    with pytest.raises(FloatingPointError, match="training has diverged; try a smaller lr"):
        list(fit(tiny_model(), tiny_data(), lr=1e30, epochs=9, mask=Mask.ones(tiny_model()),
                 remask=needs_numbers, remask_when=when, every=every))  # fmt: skip


def gives_nothing(model, mask, t):
    return None


@pytest.mark.parametrize("every", [0, 1])
def test_a_remask_that_gives_no_mask_is_refused_by_name(every):
    with pytest.raises(TypeError, match="fit: remask must give a Mask, got None"):
        list(fit(tiny_model(), tiny_data(), mask=Mask.ones(tiny_model()), remask=gives_nothing,
                 every=every))  # fmt: skip


def test_a_loss_that_is_not_finite_is_said_before_remask_sees_it():
    with pytest.raises(FloatingPointError, match="the loss is"):
        list(fit(tiny_model(), tiny_data(), lr=1e30, epochs=9, mask=Mask.ones(tiny_model()),
                 remask=see_gradients, every=1))  # fmt: skip


def test_a_stop_at_any_poll_ends_with_the_weights_of_the_last_step():
    data, at, finished = tiny_data(), 1, False
    while not finished:
        model, stop = normed(), StopAt(at)
        kept, n = weights(model), 0
        for _ in fit(model, data, epochs=2, batch=40, run=Run(stop=stop)):
            kept, n = weights(model), n + 1
        finished = stop.looks < at
        assert same(weights(model), kept)
        assert stop.looks <= at  # nothing more is looked at, so nothing more is done
        assert all(p.grad is None for p in model.parameters())
        assert n == (2 if finished else (at - 1) // 4)  # 3 minibatches and 1 evaluation an epoch
        at += 1
    assert at == 10


def test_a_stop_ends_within_one_minibatch():
    stop, seen = StopAt(10**9), []

    def loss(out, y):
        seen.append(len(y))
        if len(seen) == 6:
            stop.n = 0
        return F.cross_entropy(out, y)

    data = Data(tiny_data().splits, loss=loss)
    assert [*fit(tiny_model(), data, epochs=3, batch=10, run=Run(stop=stop))] == []
    assert len(seen) == 6


def test_a_stop_is_raised_where_fit_is_part_of_a_method():
    raised = []

    @method
    def outer(model, data, *, seed: int = 0, run: Run = Run()):
        try:
            yield from fit(model, data, run=run)
        except Stopped:
            raised.append(True)
            raise

    assert [*outer(tiny_model(), tiny_data(), run=Run(stop=StopAt(2)))] == []
    assert raised == [True]


def test_evaluate_polls_every_batch():
    x = torch.zeros(625, 8)
    data = Data({"train": (x[:3], torch.arange(3)), "validation": (x, torch.arange(625) % 3)})
    with pytest.raises(Stopped):
        judge(tiny_model(), data, Run(stop=StopAt(3)))
    judge(tiny_model(), data, Run(stop=StopAt(4)))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_any_exception_inside_the_loss_puts_the_last_step_back(error, call):
    seen = []

    def loss(out, y):
        seen.append(1)
        if len(seen) == 3 + call:  # the first are those of the trial before any work
            raise error
        return F.cross_entropy(out, y)

    model = normed().train()
    kept = weights(model)
    data = Data(tiny_data().splits, loss=loss)
    stream = fit(model, data, epochs=2, batch=60)
    if call > 2:  # in the second epoch
        next(stream)
        kept = weights(model)
    with pytest.raises(error):
        next(stream)
    assert same(weights(model), kept)
    assert not any(m.training for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert torch.is_grad_enabled()


def test_an_exception_inside_the_metric_puts_the_last_step_back():
    def metric(out, y):
        raise KeyboardInterrupt

    model = normed()
    before = weights(model)
    with pytest.raises(KeyboardInterrupt):
        next(fit(model, Data(tiny_data().splits, metric=metric)))
    assert same(weights(model), before)


def test_a_loop_that_breaks_off_has_the_weights_of_the_step_it_saw():
    whole = normed()
    list(fit(whole, tiny_data(), epochs=1))
    broken = normed()
    for _ in fit(broken, tiny_data(), epochs=1):
        break
    assert same(weights(broken), weights(whole))


# ------------------------------------------------------------------------------------ randomness


def alone(seed, epochs=3):
    model = normed()
    steps = figures(fit(model, tiny_data(), epochs=epochs, batch=30, seed=seed))
    return steps, weights(model)


def equal_runs(a, b):
    return a[0] == b[0] and same(a[1], b[1])


def test_dropout_depends_on_the_seed_alone():
    torch.manual_seed(1)
    first = alone(0)
    torch.manual_seed(2)
    assert equal_runs(first, alone(0))
    assert not equal_runs(first, alone(1))


def test_two_interleaved_fits_are_each_as_if_alone():
    a, b = normed(), normed()
    streams = [fit(m, tiny_data(), epochs=3, batch=30, seed=s) for m, s in ((a, 0), (b, 1))]
    pairs = [*zip(*streams, strict=True)]
    for i, model in enumerate((a, b)):
        assert equal_runs((figures(p[i] for p in pairs), weights(model)), alone(i))


def test_fits_in_two_threads_are_each_as_if_alone():
    before = torch.get_rng_state()
    with ThreadPoolExecutor(2) as pool:
        together = [*pool.map(lambda seed: alone(seed, epochs=8), [0, 1, 0, 1])]
    assert torch.equal(torch.get_rng_state(), before)
    for seed, run in zip([0, 1, 0, 1], together, strict=True):
        assert equal_runs(run, alone(seed, epochs=8))


DRAWS = {
    "dropout": lambda x: F.dropout(x, 0.4),
    "dropout2d": lambda x: F.dropout2d(x.reshape(1, 100, 10, 10), 0.4),
    "alpha dropout": lambda x: F.alpha_dropout(x, 0.4, training=True),
    "native dropout": lambda x: torch.native_dropout(x, 0.4, True)[0],
    "rrelu": lambda x: F.rrelu(-x, training=True),
    "bernoulli": lambda x: torch.bernoulli(torch.full_like(x, 0.4)),
    "in place": lambda x: torch.empty_like(x).uniform_(),
    "rand_like": torch.rand_like,
    "randn_like": torch.randn_like,
    "rand": lambda x: torch.rand(100, 100),
    "randn": lambda x: torch.randn((100, 100), dtype=torch.float64),
    "randint": lambda x: torch.randint(2, 9, (100,)),
    "randperm": lambda x: torch.randperm(100),
    "gumbel": lambda x: F.gumbel_softmax(x, dim=-1),
    "normal": lambda x: torch.normal(x, 1.0),
    "attention": lambda x: F.scaled_dot_product_attention(
        *[x.reshape(1, 100, 100)] * 3, dropout_p=0.4
    ),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_local_draws_depend_on_their_seed_and_leave_the_global_generator_alone(draw):
    x = torch.ones(100, 100, requires_grad=True)
    before, drawn = torch.get_rng_state(), []
    for seed in (0, 0, 1):
        with LocalRandom(seed):
            drawn.append(draw(x).detach())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("draw", [F.dropout, lambda x, p: torch.native_dropout(x, p, True)[0]])
def test_local_dropout_is_dropout(draw):
    x = torch.ones(100_000, requires_grad=True)
    with LocalRandom(0):
        out = draw(x, 0.3)
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert float((out == 0).float().mean()) == pytest.approx(0.3, abs=0.01)  # 7 standard errors
    out.sum().backward()
    torch.testing.assert_close(x.grad, out.detach())


def test_draws_that_name_their_generator_and_modes_inside_are_left_alone():
    expected = torch.rand(9, generator=torch.Generator().manual_seed(7))
    with LocalRandom(0):
        assert torch.equal(torch.rand(9, generator=torch.Generator().manual_seed(7)), expected)
        with LocalRandom(7):
            assert torch.equal(torch.rand(9), expected)


def test_draws_inside_go_on_and_do_not_repeat():
    with LocalRandom(0):
        assert not torch.equal(F.dropout(torch.ones(100)), F.dropout(torch.ones(100)))


def seeded_without_generator():
    """All operators of torch that may draw and cannot be given a generator."""
    for name in torch._C._dispatch_get_all_op_names():
        packet, _, overload = name.removeprefix("aten::").partition(".")
        if name.startswith("aten::") and torch._C._dispatch_has_kernel(name):
            func = getattr(getattr(torch.ops.aten, packet), overload or "default")
            names = {a.name for a in func._schema.arguments}
            if torch.Tag.nondeterministic_seeded in func.tags and "generator" not in names:
                yield func, names


def test_dropout_of_0_and_outside_training_draws_nothing_whatever_the_kernel():
    seen = set()
    for func, names in seeded_without_generator():
        chance = names & {"dropout_p", "dropout", "p"}
        if not chance:
            assert draws(func, (), {}), func
            continue
        (chance,) = chance
        assert draws(func, (), {chance: 0.3}), func
        assert not draws(func, (), {chance: 0.0}), func
        if "train" in names:
            assert draws(func, (), {chance: 0.3, "train": None}), func  # None: as in training
            assert not draws(func, (), {chance: 0.3, "train": False}), func
        seen.add(func.overloadpacket.__name__)
    assert seen >= {
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_cudnn_rnn",
        "miopen_rnn",
    }


@pytest.mark.parametrize("p", [0.0, 1.0])
@pytest.mark.parametrize(
    "draw", [F.dropout, torch.bernoulli, torch.Tensor.bernoulli_, F.alpha_dropout]
)
def test_a_chance_of_0_or_1_leaves_the_global_generator_alone(draw, p):
    before = torch.get_rng_state()
    with LocalRandom(0):
        draw(torch.ones(100), p)
    assert torch.equal(torch.get_rng_state(), before)


Q = torch.empty(1, 2, 4, 8, device="meta")  # (n, heads, length, width), without a GPU
KERNELS = {
    "_scaled_dot_product_efficient_attention": lambda p: (Q, Q, Q, None, False, p),
    "_scaled_dot_product_flash_attention": lambda p: (Q, Q, Q, p),
    "_scaled_dot_product_cudnn_attention": lambda p: (Q, Q, Q, None, False, p),
    "_cudnn_rnn": lambda p: (
        Q[0], [Q[0]], 1, None, Q[0], Q[0], 2, 8, 0, 1, False, p, True, False, [], None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KERNELS)
def test_a_gpus_kernels_are_let_through_without_dropout_and_refused_by_name_with_it(name):
    call = getattr(torch.ops.aten, name)
    with LocalRandom(0):
        assert len(call(*KERNELS[name](0.0))) > 1
        with pytest.raises(RuntimeError, match=rf"with aten\.{name}\.default, which takes no seed"):
            call(*KERNELS[name](0.3))


@pytest.mark.parametrize("p", [0.0, 0.5])
@pytest.mark.parametrize("train", [None, True, False])
def test_native_dropout_draws_from_the_seed_alone(p, train):
    x, before = torch.ones(1000), torch.get_rng_state()
    with LocalRandom(0):
        out, keep = torch.native_dropout(x, p, train)
    assert torch.equal(torch.get_rng_state(), before)
    dropped = p > 0 and train is not False
    assert bool(keep.all()) != dropped
    torch.testing.assert_close(out, x * keep * (2 if dropped else 1))


# ------------------------------------------------------------------------------------- evaluate


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("masked", [False, True])
def test_evaluate_is_the_share_of_right_answers(split, masked):
    model, data = normed().train(), tiny_data()
    mask, plain = None, copy.deepcopy(model).eval()
    if masked:
        mask = half(model)
        with torch.no_grad():
            for name, keep in mask.items():
                dict(plain.named_parameters())[name].mul_(keep)
    x, y = data.splits[split]
    right = sum(int(plain(x[i : i + 1]).argmax() == y[i]) for i in range(len(y)))
    before = weights(model)
    assert evaluate(model, data, split, mask=mask) == right / len(y)
    assert same(weights(model), before)
    assert all(m.training for m in model.modules())


def test_judge_counts_errors_and_as_metric_turns_them_into_an_accuracy():
    model, data = tiny_model(), tiny_data()
    errors = judge(model, data)
    assert isinstance(errors, int)
    assert as_metric(errors, data) == evaluate(model, data)


def test_evaluate_gives_the_metric_the_whole_split_at_once():
    seen = []

    def metric(out, y):
        seen.append(len(y))
        return float(out.sum())

    x = torch.randn(2500, 8, generator=torch.Generator().manual_seed(0))
    data = Data({"train": (x, x), "validation": (x, x)}, loss=F.mse_loss, metric=metric)
    model = nn.Linear(8, 8)
    assert evaluate(model, data) == pytest.approx(model(x).sum().item(), rel=1e-4)
    assert seen == [2500]


def test_evaluate_counts_every_target_where_an_example_has_many():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 1, 5, 5, generator=generator), torch.arange(1000).reshape(40, 5, 5) % 3
    data = Data({"train": (x, y), "validation": (x, y)})
    model = nn.Conv2d(1, 3, 1)
    assert evaluate(model, data) == pytest.approx(float((model(x).argmax(1) == y).float().mean()))


def hard(model, x, y):
    """By how much the right class leads, for each example, one by one."""
    with torch.no_grad():
        outputs = model(x).numpy()
    leads = []
    for out, right in zip(outputs, y.tolist(), strict=True):
        others = [value for c, value in enumerate(out) if c != right]
        leads.append(out[right] - max(others))
    return leads


def test_the_hardest_examples_come_first_and_none_is_lost():
    model, data = normed().train(), tiny_data()
    sorted_ = hardest_first(model, data)
    x, y = sorted_.splits["validation"]
    assert [*sorted_.splits] == ["validation"]
    plain = copy.deepcopy(model).eval()
    leads = hard(plain, x, y)
    assert leads == sorted(leads)
    assert leads == sorted(hard(plain, *data.splits["validation"]))
    errors = sum(lead < 0 for lead in leads)
    assert 0 < errors == judge(model, sorted_) == judge(model, data)
    assert max(leads[:errors]) < 0
    assert sorted_.key != data.key
    assert all(m.training for m in model.modules())


def test_examples_with_many_targets_are_as_hard_as_their_hardest():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 1, 5, 5, generator=generator), torch.arange(1000).reshape(40, 5, 5) % 3
    model = nn.Conv2d(1, 3, 1)
    x, y = hardest_first(model, Data({"train": (x, y), "validation": (x, y)})).splits["validation"]
    flat = x.permute(0, 2, 3, 1).flatten(0, 2)[:, :, None, None], y.flatten()
    leads = torch.tensor(hard(lambda x: model(x).flatten(1), *flat)).view(40, 25).amin(1)
    assert leads.tolist() == sorted(leads.tolist())


def test_data_without_an_accuracy_or_an_order_stay_as_they_are():
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    data = Data({"train": (x, x), "validation": (x, x)}, loss=F.mse_loss, metric=lambda out, y: 0.0)
    assert hardest_first(nn.Linear(8, 8), data) is data

    class Own:
        loss, metric = staticmethod(F.cross_entropy), staticmethod(accuracy)

        def batches(self, split, size, generator=None):
            return tiny_data().batches(split, size, generator)

    own = wrap(Own())
    assert hardest_first(tiny_model(), own) is own


def test_the_steps_of_a_fit_tell_loss_and_metric():
    steps = [*fit(tiny_model(), tiny_data(), epochs=2, phase="finetune")]
    assert all(isinstance(step, Step) and {*step.metrics} == {"loss", "accuracy"} for step in steps)
    assert [(s.phase, s.index, s.of) for s in steps] == [("finetune", 1, 2), ("finetune", 2, 2)]


def test_every_minibatch_of_every_epoch_draws_its_own_dropout():
    class Noted(nn.Dropout):
        def forward(self, x):
            out = super().forward(x)
            if self.training:
                drawn.append(tuple((out == 0).flatten().tolist()))
            return out

    drawn = []
    steps = fit(nn.Sequential(Noted(0.5), nn.Linear(8, 3)), tiny_data(), epochs=3, batch=60)
    drawn.clear()  # of the trial before any work
    list(steps)
    assert len(set(drawn)) == len(drawn) == 3 * 2


# ---------------------------------------------------------------------- what once went wrong


def test_batches_of_one_example_train():
    model = tiny_model()
    before = weights(model)
    (step,) = fit(model, tiny_data(), batch=1)
    assert step.metrics["loss"] > 0
    assert not same(weights(model), before)


def test_an_error_while_the_journal_is_written_puts_the_last_step_back(tmp_path, monkeypatch):
    model = tiny_model()
    stream = fit(model, tiny_data(), epochs=3, run=Run(journal=Journal(tmp_path / "j")))
    next(stream)
    kept = weights(model)
    monkeypatch.setattr(Journal, "save_fit", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        next(stream)
    assert same(weights(model), kept)


def test_a_fit_is_not_read_back_for_other_frozen_layers(tmp_path):
    journal = Journal(tmp_path / "j")
    list(fit(tiny_model(), tiny_data(), run=Run(journal=journal)))
    frozen = tiny_model()
    first = next(frozen.parameters()).requires_grad_(False)
    before = first.clone()
    list(fit(frozen, tiny_data(), run=Run(journal=journal)))
    assert torch.equal(first, before)


def test_a_frozen_model_can_be_pruned_without_training():
    model = tiny_model().requires_grad_(False).train()
    report = prune(magnitude, model, tiny_data(), sparsity=0.5, bar=False)
    assert report.sparsity == pytest.approx(0.5, abs=0.01)
    assert not report.model.training


def test_attention_without_dropout_trains():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.project, self.read = nn.Linear(8, 32), nn.Linear(32, 3)

        def forward(self, x):
            h = self.project(x).reshape(-1, 1, 4, 8)
            return self.read(F.scaled_dot_product_attention(h, h, h).flatten(1))

    (step,) = fit(Attention(), tiny_data())
    assert math.isfinite(step.metrics["loss"])


def test_data_of_a_fixed_batch_size_are_judged_rightly():
    class Fixed:
        loss, metric = staticmethod(F.cross_entropy), staticmethod(accuracy)

        def batches(self, split, size, generator=None):
            return tiny_data().batches(split, 7, generator)

    assert evaluate(tiny_model(), Fixed()) == evaluate(tiny_model(), tiny_data())


def test_the_learning_rate_ends_where_it_should_for_data_of_a_fixed_batch_size(monkeypatch):
    class Fixed:
        loss, metric = staticmethod(F.cross_entropy), staticmethod(accuracy)

        def batches(self, split, size, generator=None):
            return tiny_data().batches(split, 7, generator)

    def watched(t, peak):
        times.append(t)
        return plain(t, peak)

    times, plain = [], SCHEDULES["one-cycle"]
    monkeypatch.setitem(SCHEDULES, "one-cycle", watched)
    list(fit(tiny_model(), Fixed(), epochs=3, batch=128, schedule="one-cycle"))
    minibatches = 120 // 7  # the last one, of one example, is left out
    assert times == pytest.approx([i / (3 * minibatches) for i in range(3 * minibatches)])
    assert all(0 <= plain(t, 0.25) <= 1 for t in times)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_networks_over_volumes_and_with_normed_weights_are_judged_and_trained():
    x, y = torch.randn(12, 1, 4, 4, 4), torch.arange(12) % 3
    volumes = nn.Sequential(nn.Conv3d(1, 2, 3), nn.Flatten(), nn.Linear(16, 3))
    data = Data.of((x, y), (x, y))
    for precision in ("fp32", "bf16"):
        list(fit(volumes, data, precision=precision))
    assert evaluate(volumes, data, mask=half(volumes)) <= 1
    normed = nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(64, 3)))
    normed(x)  # whose weight is then no leaf, and cannot be copied
    list(fit(normed, data))


def test_fp32_leaves_the_storage_of_kernels_alone():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    place = model[0].weight.data_ptr()
    x, y = torch.randn(12, 1, 4, 4), torch.arange(12) % 3
    list(fit(model, Data.of((x, y), (x, y)), precision="fp32"))
    assert model[0].weight.data_ptr() == place


def test_soft_targets_train_and_are_judged_by_the_likeliest():
    x, y = tiny_data().splits["train"]
    soft = 0.7 * torch.eye(3)[y] + 0.1
    data = Data({**tiny_data().splits, "train": (x, soft)})
    model = tiny_model()
    list(fit(model, data, epochs=3, batch=20, lr=0.1))
    assert evaluate(model, data, "train") == evaluate(model, tiny_data(), "train") > 0.5


def test_a_mask_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="fit: mask must be a Mask, got dict"):
        fit(tiny_model(), tiny_data(), mask={})
