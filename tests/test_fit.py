"""What can be added to a fit, what it gives back, and that it goes on as if never killed."""

import functools
import itertools

import pytest
import torch
from tiny import tiny_data, tiny_images, tiny_model, tiny_residual
from torch import nn
from torch.nn import functional as F

from prunekit import Journal, Mask, Run, Step, fit
from prunekit.knobs import Fraction
from prunekit.method import method
from prunekit.train import FORMS, fastest_form


def weights(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def history(steps):
    return [(s.phase, s.index, s.of, s.mask, dict(s.metrics)) for s in steps]


# ------------------------------------------------------------------- penalties, of a module's scope


def shrink_scales(model, t, *, strength):
    """L1 on the scales of the batch norms: its subgradient is added."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.grad.add_(strength * module.weight.sign())


def rising(model, t):
    """A state a layer, in a buffer: the mean |w| so far; the pull grows with it."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            if not hasattr(module, "state"):
                module.register_buffer("state", torch.zeros(()))
            module.state.mul_(0.9).add_(0.1 * module.weight.abs().mean())
            module.weight.grad.add_(module.state * module.weight.sign(), alpha=0.1)


def broken(model, t):
    next(model.parameters()).grad.add_(torch.nan if t > 0.5 else 0.0)


def noted(model, t, *, times):
    times.append(t)


def with_states(model):
    """The buffers that `rising` needs, there from the start."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_buffer("state", torch.zeros(()))
    return model


def test_a_penalty_adds_what_a_loop_by_hand_adds():
    by_hand, model, data = tiny_residual(), tiny_residual(), tiny_images()
    penalty = functools.partial(shrink_scales, strength=0.1)
    knobs = dict(lr=0.1, batch=200, momentum=0.0, weight_decay=0.0, schedule="constant")
    list(fit(model, data, penalty=penalty, **knobs))  # one minibatch holds all examples
    by_hand.train()
    x, y = data.splits["train"]
    scales = [m.weight for m in by_hand.modules() if isinstance(m, nn.BatchNorm2d)]
    loss = F.cross_entropy(by_hand(x), y) + 0.1 * sum(s.abs().sum() for s in scales)
    loss.backward()
    with torch.no_grad():
        for p in by_hand.parameters():
            p -= 0.1 * p.grad
    for p, q in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-5)


def test_a_penalty_is_told_the_share_of_training_done():
    times = []
    list(
        fit(
            tiny_model(),
            tiny_data(),
            epochs=2,
            batch=30,
            penalty=functools.partial(noted, times=times),
        )
    )
    assert times == pytest.approx([i / 8 for i in range(1, 9)])


def test_a_penalty_that_is_not_finite_is_told_and_the_last_good_state_stays():
    model, steps = tiny_model(), []
    with pytest.raises(FloatingPointError, match=r"fit: the penalty .*broken.* in epoch 2"):
        for step in fit(model, tiny_data(), epochs=2, penalty=broken):
            steps.append(step)
            kept = weights(model)
    assert len(steps) == 1
    assert same(weights(model), kept)


def test_a_diverging_loss_is_not_blamed_on_the_penalty():
    penalty = functools.partial(shrink_scales, strength=0.0)
    with pytest.raises(FloatingPointError, match=r"fit: the loss is .*try a smaller lr"):
        list(fit(tiny_residual(), tiny_images(), epochs=5, lr=1e30, penalty=penalty))


# ------------------------------------------------------------------------------------ remask, decay


def cut_smallest(model, mask, t, *, most):
    """Each call removes the smallest weight of each parameter, up to a share of them."""
    after = {}
    for name, keep in mask.items():
        w = model.get_parameter(name).detach().abs().masked_fill(~keep, torch.inf)
        flat = keep.flatten().clone()
        if int((~flat).sum()) < most * len(flat):
            flat[w.flatten().argmin()] = False
        after[name] = flat.view(keep.shape)
    return Mask(after)


def has_gradients(model, mask, t, *, seen):
    p = model.get_parameter("0.weight")
    seen.append((p.grad is not None, p.detach().clone()))
    return mask


@pytest.mark.parametrize("when", ["before", "after"])
def test_remask_sees_the_weights_before_or_after_the_step(when):
    model, seen = tiny_model(), []
    first = model[0].weight.detach().clone()
    remask = functools.partial(has_gradients, seen=seen)
    list(fit(model, tiny_data(), batch=200, remask=remask, remask_when=when, every=1))
    there, w = seen[0]
    assert there
    assert torch.equal(w, first) == (when == "before")


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_remask_removes_is_0_after_the_same_minibatch(when):
    model = tiny_model()
    mask = Mask.ones(model)
    remask = functools.partial(cut_smallest, most=0.5)
    for step in fit(
        model, tiny_data(), epochs=3, batch=30, mask=mask, remask=remask, remask_when=when, every=1
    ):
        for name, keep in step.mask.items():
            assert not model.get_parameter(name)[~keep].any()
    assert step.mask.sparsity > 0


def test_weight_decays_of_their_own_are_those_of_an_optimiser_with_groups():
    model, by_hand, data = tiny_model(), tiny_model(), tiny_data()
    knobs = dict(lr=0.1, batch=200, schedule="constant", weight_decay=0.1)
    list(fit(model, data, decay={"0.*": 0.5, "*.bias": 0.0}, **knobs))
    x, y = data.splits["train"]
    F.cross_entropy(by_hand(x), y).backward()
    groups = [
        {"params": [*by_hand[0].parameters()], "weight_decay": 0.5},
        {"params": [by_hand[2].weight], "weight_decay": 0.1},
        {"params": [by_hand[2].bias], "weight_decay": 0.0},
    ]
    torch.optim.SGD(groups, 0.1, 0.9, nesterov=True).step()
    for p, q in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        (dict(decay={"head.*": 0.1}), r"fit: decay has 'head\.\*', but no parameter is called so"),
        (dict(decay={"*": -0.1}), r"fit: decay of '\*' must be in \[0, inf\), got -0.1"),
        (dict(early=3, epochs=2), "fit: early must be at most epochs, 2, got 3"),
        (dict(keep="first"), "fit: keep must be one of 'last', 'best', got 'first'"),
        (dict(remask_when="never"), "fit: remask_when must be one of 'after', 'before'"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(knobs, words):
    with pytest.raises(ValueError, match=words):
        fit(tiny_model(), tiny_data(), **knobs)


# ------------------------------------------------------------------- early weights, the best epoch


def run_to_its_end(steps):
    """The steps of a generator, and the value that it gives back."""
    taken = []
    while True:
        try:
            taken.append(next(steps))
        except StopIteration as end:
            return taken, end.value


def test_early_weights_are_those_after_that_epoch():
    model, after = tiny_residual(), [weights(tiny_residual())]
    for _ in fit(model, tiny_images(), epochs=3):
        after.append(weights(model))
    for early in range(4):
        _, kept = run_to_its_end(fit(tiny_residual(), tiny_images(), epochs=3, early=early))
        assert same(kept, after[early])
    assert run_to_its_end(fit(tiny_residual(), tiny_images()))[1] is None


BAD_END = dict(
    epochs=6, lr=2.0, schedule="constant", momentum=0.0
)  # its last epoch is not its best


def test_with_keep_best_a_fit_ends_on_its_best_epoch():
    model, after = tiny_model(), {}
    steps = []
    for step in fit(model, tiny_data(), **BAD_END):
        steps.append(step)
        after[step.index] = weights(model)
    values = [step.metrics["accuracy"] for step in steps]
    best = values.index(max(values)) + 1
    assert best != len(values), "the example must get worse at its end"
    model = tiny_model()
    kept = [*fit(model, tiny_data(), keep="best", **BAD_END)]
    assert history(kept[:-1]) == history(steps)
    assert (kept[-1].phase, kept[-1].index, kept[-1].of) == ("rewind", best, 6)
    assert kept[-1].metrics == steps[best - 1].metrics
    assert same(weights(model), after[best])


def test_the_best_epoch_comes_back_with_its_own_mask():
    model = tiny_model()
    remask = functools.partial(cut_smallest, most=0.9)
    steps = [
        *fit(
            model, tiny_data(), mask=Mask.ones(model), remask=remask, every=1, batch=30,
            keep="best", **BAD_END,
        )
    ]  # fmt: skip
    last = steps[-1]
    assert last.phase == "rewind"
    assert last.mask == steps[last.index - 1].mask
    assert last.mask != steps[-2].mask
    for name, keep in last.mask.items():
        w = model.get_parameter(name)
        assert not w[~keep].any()
        assert w[keep].all()


# ------------------------------------------------------------------------------- killed and resumed


def sizes(model):
    return {"sizes": [round(float(p.detach().norm()), 6) for p in model.parameters()]}


FITS = {
    "what is told": dict(tell=sizes, keep="best", lr=1.0, schedule="constant"),
    "a constant penalty": dict(penalty=functools.partial(shrink_scales, strength=0.02)),
    "a penalty with a state": dict(penalty=rising),
    "early weights": dict(early=2),
    "the best epoch": dict(keep="best", lr=1.0, schedule="constant"),
    "all of it": dict(
        penalty=rising,
        early=1,
        keep="best",
        remask=functools.partial(cut_smallest, most=0.5),
        remask_when="before",
        every=1,
        decay={"bn*": 0.0},
        lr=1.0,
        optimizer="adam",
        schedule="constant",
    ),
}


@pytest.mark.parametrize("knobs", FITS.values(), ids=[*FITS])
def test_a_fit_that_was_killed_gives_an_equal_history_weights_and_value(knobs, tmp_path):
    def start():
        model = with_states(tiny_residual(dropout=0.2))
        return model, dict(epochs=4, mask=Mask.ones(model), **knobs)

    model, settings = start()
    whole, value = run_to_its_end(fit(model, tiny_images(), **settings))
    for n in range(1, len(whole) + 1):
        again = Run(journal=Journal(tmp_path / f"{n}"))
        killed, settings = start()
        taken = [*itertools.islice(fit(killed, tiny_images(), run=again, **settings), n)]
        assert history(taken) == history(whole[:n])
        resumed, settings = start()
        steps, given = run_to_its_end(fit(resumed, tiny_images(), run=again, **settings))
        assert history(steps) == history(whole)
        assert same(weights(resumed), weights(model))
        assert (given is None and value is None) or same(given, value)


def test_what_is_told_is_of_the_weights_after_each_epoch():
    model, seen = tiny_model(), []
    for step in fit(model, tiny_data(), epochs=3, tell=sizes):
        seen.append((dict(step.info), sizes(model)))
    assert len(seen) == 3
    assert all(told == now for told, now in seen)


def says(model, what):
    return what


@pytest.mark.parametrize("what", [3, {"x": torch.zeros(1)}])
def test_what_is_told_must_be_plain_json(what):
    with pytest.raises(TypeError, match="fit: tell must give"):
        list(fit(tiny_model(), tiny_data(), tell=functools.partial(says, what=what)))


@method
def late_rewinding(model, data, *, sparsity: Fraction = 0.5, seed: int = 0, run: Run = Run()):
    """Train, cut the smallest, go back to the weights after the first epoch, train again."""
    early = yield from fit(model, data, epochs=3, early=1, seed=seed, run=run)
    w = {n: p.detach().abs() for n, p in model.named_parameters() if p.ndim > 1}
    mask = Mask(
        {n: a > a.flatten().kthvalue(max(int(sparsity * a.numel()), 1))[0] for n, a in w.items()}
    )
    model.load_state_dict(early)
    mask.apply_(model)
    yield Step("rewind", 1, 1, mask, {})
    yield from fit(model, data, epochs=2, mask=mask, phase="finetune", seed=seed + 1, run=run)


def test_a_method_that_rewinds_to_early_weights_resumes_to_an_equal_history(tmp_path):
    model = tiny_model()
    whole = history(late_rewinding(model, tiny_data()))
    for n in range(1, len(whole) + 1):
        run = Run(journal=Journal(tmp_path / f"{n}"))
        list(itertools.islice(late_rewinding(tiny_model(), tiny_data(), run=run), n))
        resumed = tiny_model()
        assert history(late_rewinding(resumed, tiny_data(), run=run)) == whole
        assert same(weights(resumed), weights(model))


# --------------------------------------------------------- one journal, several fits: never mixed up


def halved(outputs, y):
    return F.cross_entropy(outputs, y) / 2


@method
def twice(model, data, *, what: Fraction = 0.0, seed: int = 0, run: Run = Run()):
    """Two fits from the same weights that differ in one thing each."""
    start = weights(model)
    other = tiny_data(seed=1)
    smoother = tiny_data()
    smoother.loss = halved
    for first, second in (
        (dict(seed=1), dict(seed=2)),
        (dict(data=data), dict(data=other)),
        (dict(data=data), dict(data=smoother)),
        (dict(), dict(penalty=functools.partial(pull, strength=0.1))),
        (dict(penalty=functools.partial(pull, strength=0.1)), dict(penalty=functools.partial(pull, strength=0.2))),
        (dict(), dict(decay={"*": 0.1})),
    ):  # fmt: skip
        for settings in (first, second):
            model.load_state_dict(start)
            own = dict(data=data, seed=seed, batch=30, epochs=2) | settings
            yield from fit(model, run=run, **own)


def pull(model, t, *, strength):
    for p in model.parameters():
        p.grad.add_(strength * p)


def test_fits_that_differ_in_seed_data_loss_or_penalty_alone_are_not_mixed(tmp_path):
    plain = history(twice(tiny_model(), tiny_data()))
    run = Run(journal=Journal(tmp_path))
    assert history(twice(tiny_model(), tiny_data(), run=run)) == plain
    assert history(twice(tiny_model(), tiny_data(), run=run)) == plain
    fits = [plain[i : i + 2] for i in range(0, len(plain), 2)]
    for first, second in zip(fits[::2], fits[1::2], strict=True):
        assert first != second


# --------------------------------------------------------------------------------------- precision


def test_auto_is_one_of_the_forms_and_trains_as_that_form_does():
    form = fastest_form(tiny_residual(), tiny_images())
    assert form in FORMS
    assert fastest_form(tiny_model(), tiny_data()) in (
        "fp32",
        "bf16",
    )  # there is no kernel to order


def test_the_choice_of_auto_is_made_once_a_fit_and_kept_by_a_resumed_one(tmp_path, monkeypatch):
    answers = iter(["fp32-channels-last", "bf16", "fp32"])
    monkeypatch.setattr("prunekit.train.fastest_form", lambda *_: next(answers))
    named = history(fit(tiny_residual(), tiny_images(), epochs=3, precision="fp32-channels-last"))
    run = Run(journal=Journal(tmp_path))
    list(
        itertools.islice(
            fit(tiny_residual(), tiny_images(), epochs=3, precision="auto", run=run), 1
        )
    )
    assert (
        history(fit(tiny_residual(), tiny_images(), epochs=3, precision="auto", run=run)) == named
    )
    assert run.journal.precisions == ["fp32-channels-last"]
    assert next(answers) == "bf16"  # nobody asked again


def test_kernels_come_back_in_their_own_order_from_every_form():
    for form in FORMS:
        model = tiny_residual()
        list(fit(model, tiny_images(), precision=form))
        assert all(p.is_contiguous() for p in model.parameters())
        assert all(p.dtype == torch.float32 for p in model.parameters())


def test_denormals_are_flushed_inside_the_models_forward_while_training_and_not_after():
    def flushes():
        return bool(torch.tensor(1e-40) * 1 == 0)

    seen = []

    class Watched(nn.Linear):
        def forward(self, x):
            if self.training:
                seen.append(flushes())
            return super().forward(x)

    model = nn.Sequential(Watched(8, 3))
    before = flushes()
    steps = fit(model, tiny_data(), epochs=2)
    seen.clear()  # what was tried before the training
    for _ in steps:
        assert flushes() == before
    assert seen
    assert all(seen)
    assert flushes() == before
