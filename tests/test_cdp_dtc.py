"""Learned stripes: the penalty's slopes by autograd, the laws of the cuts, the code that differs."""

import itertools
import math

import pytest
import torch
from tiny import tiny_images, tiny_model, tiny_residual
from torch import nn

from prunekit import Journal, Run, prune, stripes
from prunekit.methods import cdp_dtc as module
from prunekit.methods.cdp_dtc import cdp_dtc

QUICK = dict(cdp_dtc.quick, bar=False)


def wrapped(seed=0):
    model = tiny_residual()
    stripes.wrap(model)
    generator = torch.Generator().manual_seed(seed)
    for conv in stripes.layers(model).values():
        conv.skeleton.data = torch.randn(conv.skeleton.shape, generator=generator)
        conv.skeleton.grad = torch.zeros_like(conv.skeleton)
    return model


def loss_of(conv, penalty, a, b):
    """The penalty as a loss, from which autograd takes the slopes."""
    skeletons = conv.skeleton.flatten(1)
    l1 = skeletons.abs().sum()
    if penalty == "swp":
        return 2 * l1
    return a * l1 + b * skeletons.shape[1] ** 0.5 * skeletons.norm(dim=1).sum()


@pytest.mark.parametrize("penalty", ["swp", "cdp"])
def test_its_slopes_are_those_of_the_loss(penalty):
    model = wrapped()
    module._press(model, 0.2, penalty=penalty, strength=0.3, per="epoch", epochs=5)
    for conv in stripes.layers(model).values():
        a, b = conv.strengths.tolist()
        (slope,) = torch.autograd.grad(0.3 * loss_of(conv, penalty, a, b), conv.skeleton)
        assert torch.allclose(conv.skeleton.grad, slope, atol=1e-6)
        assert a * b == pytest.approx(1)


@pytest.mark.parametrize("per", ["epoch", "step"])
def test_the_strengths_are_the_change_of_how_alike_skeletons_are(per):
    model, states = wrapped(), []
    convs = stripes.layers(model)
    press = dict(penalty="cdp", strength=0.1, per=per, epochs=2)
    for number, t in enumerate((0.25, 0.5, 0.75, 1.0)):
        module._press(model, t, **press)
        told = per == "step" or number in (0, 2)
        now = {n: float(stripes.similarity(c.skeleton.detach().flatten(1)).sum())
               for n, c in convs.items()}  # fmt: skip
        if told:
            states.append(now)
        for name, conv in convs.items():
            assert float(conv.state) == pytest.approx(states[-1][name], rel=1e-5)
            b = 1.0 if len(states) < 2 else states[-1][name] / states[-2][name]
            b = min(max(b, 0.5), 2.0)
            assert conv.strengths.tolist() == pytest.approx([1 / b, b], rel=1e-4)
            conv.skeleton.data += 0.3 * torch.randn(
                conv.skeleton.shape, generator=torch.Generator().manual_seed(number)
            )


def test_the_released_group_term_is_the_sum_of_sizes():
    skeletons = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    released = (skeletons.abs().sum(1) ** 2).sqrt().sum()
    assert float(released) == pytest.approx(float(skeletons.abs().sum()))


@pytest.mark.parametrize("threshold", ["fixed", "dtc"])
def test_what_has_gone_stays_gone_and_the_mask_is_that_of_the_skeletons(threshold):
    report = prune(
        cdp_dtc, tiny_residual(), tiny_images(), threshold=threshold, keep="last",
        skeletons_of=["conv*"], **QUICK,
    )  # fmt: skip
    steps = [step for step in report.history if step.phase == "train"]
    for one, other in itertools.pairwise(steps):
        assert other.mask & one.mask == other.mask
    for step in steps:
        for name, rows in step.info["skeletons"].items():
            alive = torch.tensor(rows) != 0
            kept = step.mask[name].any(1).flatten(1)
            assert not (kept & ~alive).any()
        assert step.info["stripes"] == stripes.shares(step.mask)["stripes"]
    assert report.history[-1].mask.sparsity >= steps[-1].mask.sparsity > 0
    assert {type(m) for m in report.model.modules()} == {type(m) for m in tiny_residual().modules()}
    x = tiny_images().splits["validation"][0][:20]
    small = report.shrink()
    assert torch.allclose(small(x), report.model(x), atol=1e-5)


def test_the_base_rule_at_the_end_takes_small_stripes_of_strong_filters():
    knobs = dict(QUICK, threshold="dtc", keep="last")
    training = prune(cdp_dtc, tiny_residual(), tiny_images(), **knobs)
    base = prune(cdp_dtc, tiny_residual(), tiny_images(), final="base", **knobs)
    assert [s.mask for s in base.history[:-1]] == [s.mask for s in training.history[:-1]]
    assert base.mask & training.history[-2].mask == base.mask
    model = nn.Sequential(nn.Conv2d(1, 2, 2))
    stripes.wrap(model)
    (conv,) = stripes.layers(model).values()
    conv.skeleton.data = torch.tensor([[0.9, 0.9, 0.9, 0.045], [0.2] * 4]).view(2, 1, 2, 2)
    for rule, left in (("dtc", [4, 4]), ("fixed", [3, 4])):
        conv.cut_(0.05, rule)
        assert conv.alive.flatten(1).sum(1).tolist() == left


def test_without_pressure_and_threshold_it_is_plain_training():
    report = prune(
        cdp_dtc, tiny_residual(), tiny_images(), strength=0.0, delta=0.0, epochs=2, bar=False
    )
    assert report.mask.sparsity == 0
    assert math.isfinite(report.after["accuracy"])


def test_a_run_that_goes_on_from_a_journal_tells_the_skeletons_of_every_epoch(tmp_path):
    def start(**run):
        settings = cdp_dtc.quick | dict(epochs=4, skeletons_of=["conv1*", "conv2*"])
        return cdp_dtc(tiny_residual(), tiny_images(), **settings, **run)

    whole = [dict(step.info) for step in start()]
    assert len({str(info["skeletons"]) for info in whole[:4]}) == 4
    for n in range(1, 5):
        run = Run(journal=Journal(tmp_path / f"{n}"))
        killed = start(run=run)
        assert [dict(step.info) for step in itertools.islice(killed, n)] == whole[:n]
        killed.close()
        assert [dict(step.info) for step in start(run=run)] == whole


def test_networks_without_convolutions_are_refused_before_any_work():
    with pytest.raises(ValueError, match=r"^cdp_dtc: Sequential has no convolution over two axes"):
        prune(cdp_dtc, tiny_model(), tiny_images(), bar=False)
    with pytest.raises(ValueError, match="cdp_dtc: ignore: no parameter is called 'x'"):
        prune(cdp_dtc, tiny_residual(), tiny_images(), skeletons_of=["x"], bar=False)


def test_networks_without_norms_are_pruned_too():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    report = prune(cdp_dtc, model, tiny_images(), **QUICK | dict(delta=0.95))
    assert 0 < report.mask.sparsity < 1


def test_a_run_that_diverges_says_so_and_the_good_state_is_kept():
    model = tiny_residual()
    stream = cdp_dtc(model, tiny_images(), lr=1e9, epochs=3, strength=1e-3)
    with pytest.raises(FloatingPointError, match="epoch"):
        list(stream)
    assert all(p.isfinite().all() for p in model.parameters())
    assert not stripes.layers(model)
