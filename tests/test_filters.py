"""Filter pruning: what the criteria score, against loops, and which filters go."""

import threading

import numpy as np
import pytest
import torch
from tiny import tiny_data, tiny_images, tiny_model, tiny_residual
from torch import nn

from prunekit import (
    Data,
    Run,
    count,
    mnist_small,
    models,
    pretrained,
    prune,
    score,
    select,
    surgery,
    train,
)
from prunekit.baselines.filters import PLANS, TRUNK, _on_scales, filters
from prunekit.mask import Mask
from prunekit.steps import Stopped, derive


def rows(model, name):
    return model.get_parameter(name).detach().flatten(1).double().numpy()


CRITERIA = {
    "l1": lambda w: np.abs(w).sum(1),
    "l2": lambda w: np.sqrt((w * w).sum(1)),
    "median": lambda w: np.array([sum(np.linalg.norm(a - b) for b in w) for a in w]),
}


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_filters_with_the_smallest_figures_go(criterion):
    model = tiny_model()
    worth = CRITERIA[criterion](rows(model, "0.weight"))
    report = prune(filters, model, tiny_data(), criterion=criterion, share=0.5, bar=False)
    gone = ~report.mask["0.weight"].any(1).numpy()
    assert gone.sum() == 6
    assert worth[gone].max() < worth[~gone].min()
    assert not report.mask["0.bias"].numpy()[gone].any()
    assert not report.mask["2.weight"].numpy()[:, gone].any()


def test_groups_are_judged_as_one_and_by_the_scales_of_their_norms():
    model, data = tiny_residual(), tiny_images()
    with torch.no_grad():
        for norm in (model.bn1, model.bn2, model.bn3):
            norm.weight.uniform_(0.5, 1.5)
    groups = surgery.groups(model, data.example)
    trunk = next(n for n in groups.names if len(groups.filters(n)) == 2)
    both = [rows(model, name) for name, *_ in groups.filters(trunk)]
    pooled = select.pool(
        score.magnitude(model, ["conv1.weight", "conv2.weight", "conv3.weight"]), "filter", "norm",
        groups,
    )  # fmt: skip
    want = np.sqrt(sum((w * w).sum(1) for w in both))
    assert np.allclose(pooled[trunk].numpy()[:, 0], want, rtol=1e-6)
    mean = select.pool(score.median(model, ["conv2.weight"]), "filter", "mean", groups)
    assert {len(groups.members[name]) for name in mean} == {model.conv2.weight.shape[0]}
    report = prune(filters, model, data, criterion="scale", share=0.5, bar=False)
    for name in groups.names:
        weights = [n.removesuffix("weight") for n, *_ in groups.filters(name)]
        norms = [model.get_submodule(n[:-1].replace("conv", "bn")) for n in weights]
        scale = torch.stack([norm.weight.abs() for norm in norms]).mean(0)
        gone = ~report.mask[f"{weights[0]}weight"].flatten(1).any(1)
        assert gone.sum() == len(gone) // 2
        assert scale[gone].max() < scale[~gone].min()


@pytest.mark.parametrize("multiple", [2, 4, 5])
def test_widths_are_multiples_and_the_nearest_ones(multiple):
    report = prune(filters, tiny_model(), tiny_data(), share=0.4, multiple=multiple, bar=False)
    kept = int(report.mask["0.weight"].any(1).sum())
    assert kept % multiple == 0
    assert abs(kept - 7) <= multiple / 2  # 12 filters, 0.4 of them are 5


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_so_many_filters_go_as_was_asked(scope):
    model, data = tiny_residual(), tiny_images()
    groups = surgery.groups(model, data.example)
    report = prune(filters, model, data, share=0.5, rounds=3, scope=scope, bar=False)
    units = {
        name: report.mask[groups.filters(name)[0][0]].flatten(1).any(1) for name in groups.names
    }
    gone = sum(int((~keep).sum()) for keep in units.values())
    assert gone == sum(len(keep) for keep in units.values()) // 2
    if scope == "layer":
        assert all(int((~keep).sum()) == len(keep) // 2 for keep in units.values())
    # The masks are of whole groups, so that the report is of the network one gets.
    assert surgery.couple(model, report.mask, data.example) == report.mask
    small = surgery.shrink(report.model, report.mask, data.example)
    assert count.params(small) == count.params(report.model, report.mask)


@pytest.mark.parametrize("net", [(tiny_model, tiny_data), (tiny_residual, tiny_images)])
def test_training_what_is_left_is_training_under_the_mask(net):
    model, data = net[0](), net[1]()
    runs = [
        prune(filters, model, data, share=0.5, rounds=2, epochs=3, on=on, bar=False, seed=4)
        for on in ("masked", "shrunk")
    ]
    masked, shrunk = (run.history for run in runs)
    assert not any(run.model.training for run in runs)
    assert [(s.phase, s.index, s.of, s.mask) for s in masked] == [
        (s.phase, s.index, s.of, s.mask) for s in shrunk
    ]
    for one, two in zip(masked, shrunk, strict=True):
        assert one.metrics == pytest.approx(two.metrics, rel=1e-4, abs=1e-5)
    for (name, p), q in zip(
        runs[0].model.named_parameters(), runs[1].model.parameters(), strict=True
    ):
        assert torch.allclose(p, q, rtol=1e-3, atol=1e-5), name
    statistics = dict(runs[1].model.named_buffers())
    for name, b in runs[0].model.named_buffers():
        left = runs[0].mask.get(name.replace("running_mean", "weight"))
        if name.endswith("running_mean"):
            assert torch.allclose(b[left], statistics[name][left], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("on", ["masked", "shrunk"])
def test_zeros_of_an_earlier_pruning_stay_zeros_while_what_is_left_is_trained(on):
    model, data = tiny_residual(), tiny_images()
    sparse = Mask({"conv2.weight": torch.rand(model.conv2.weight.shape) < 0.6})
    sparse.apply_(model)
    report = prune(filters, model, data, share=0.5, epochs=2, on=on, bar=False)
    assert not report.model.conv2.weight[~sparse["conv2.weight"]].any()


class Decoder(nn.Module):
    """A transposed convolution, whose filters lie along its second dimension."""

    def __init__(self):
        super().__init__()
        self.up, self.out = nn.ConvTranspose2d(1, 6, 2), nn.Conv2d(6, 3, 7)

    def forward(self, x):
        return self.out(torch.relu(self.up(x))).flatten(1)


def test_the_median_is_told_along_the_dimension_of_the_filters():
    model = Decoder()
    w = model.up.weight.detach().double().numpy().transpose(1, 0, 2, 3).reshape(6, -1)
    order = CRITERIA["median"](w).argsort()
    report = prune(
        filters, model, tiny_images(), share=0.5, criterion="median", on="masked", bar=False
    )
    kept = report.mask["up.weight"].any(0).flatten(1).any(1)
    assert kept.nonzero().flatten().tolist() == sorted(order[3:].tolist())


def test_filters_that_can_only_go_all_together_are_refused():
    class Takes(nn.Module):
        """Both halves of the filters meet each other: there is one group of them."""

        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 3, 6)

        def forward(self, x):
            a, b = self.one(x).chunk(2, 1)
            return self.two(torch.relu(a + b)).flatten(1)

    with pytest.raises(ValueError, match="filters of one.weight of Takes can only go all together"):
        filters(Takes(), tiny_images())


def test_networks_without_filters_that_can_go_are_refused():
    x, y = torch.rand(30, 4), torch.arange(30) % 3
    model = nn.Linear(4, 3)
    with pytest.raises(ValueError, match="Linear has no filters that can go .*is an output"):
        filters(model, Data.of((x, y), 0.3))
    with pytest.raises(ValueError, match="Sequential has no norms whose scales"):
        filters(tiny_model(), tiny_data(), criterion="scale")


def test_a_network_that_cannot_be_cut_is_told_before_it_is_trained():

    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.out = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.out(torch.relu(self.inner(x)).view(-1, 6))

    model, x = Written(), torch.rand(30, 4)
    data = Data.of((x, torch.arange(30) % 3), 0.3)
    steps = filters(model, data, share=0.5, epochs=1, on="shrunk")
    next(steps)
    with pytest.raises(ValueError, match="Is a size written in forward"):
        next(steps)
    masked = [*filters(model, data, share=0.5, epochs=1, on="masked")]
    assert len(masked) == 2


def test_recalibrated_statistics_are_the_means_over_minibatches():
    model, data = tiny_residual(dropout=0.3), tiny_images()
    weights = [p.clone() for p in model.parameters()]
    train.recalibrate(model.train(), data, examples=10**6, batch=40, seed=3)
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    means, variances = [], []
    generator = torch.Generator().manual_seed(derive(3, "recalibrate"))
    for x, _ in data.batches("train", 40, generator):
        out = model.conv1(x).detach()
        means.append(out.mean((0, 2, 3)))
        variances.append(out.var((0, 2, 3)))
    assert torch.allclose(model.bn1.running_mean, torch.stack(means).mean(0), atol=1e-5)
    assert torch.allclose(model.bn1.running_var, torch.stack(variances).mean(0), rtol=1e-4)
    assert model.bn1.momentum == 0.1


def test_recalibration_that_is_stopped_or_fails_leaves_what_was():
    model, data = tiny_residual(), tiny_images()
    before = {name: b.clone() for name, b in model.named_buffers()}
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        train.recalibrate(model, data, run=Run(stop=stop))
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    assert model.bn1.momentum == 0.1
    plain = tiny_model()
    assert train.recalibrate(plain, tiny_data()) is plain


def test_a_recalibrated_cut_is_judged_with_its_new_statistics():
    model, data = tiny_residual(), tiny_images()
    one, two = (
        prune(filters, model, data, share=0.5, recalibrate=again, bar=False)
        for again in (False, True)
    )
    assert one.mask == two.mask
    assert not torch.equal(one.model.bn1.running_mean, two.model.bn1.running_mean)
    assert two.history[-1].metrics["accuracy"] == two.after["accuracy"]


@pytest.mark.parametrize("rounds", [1, 3])
def test_layers_keep_the_widths_that_are_asked_for(rounds):
    model, data = tiny_residual(), tiny_images()
    groups = surgery.groups(model, data.example)
    have = [len(groups.members[name]) for name in groups.names]
    widths = tuple(n - 1 - i for i, n in enumerate(have))
    report = prune(filters, model, data, widths=widths, rounds=rounds, scope="global", bar=False)
    left = select.pool(
        {n: keep.float() for n, keep in report.mask.items()}, "filter", groups=groups
    )
    assert tuple(int((units > 0).sum()) for units in left.values()) == widths
    for wrong in (widths[:-1], (have[0] + 1, *widths[1:])):
        with pytest.raises(ValueError, match="widths must be one for each of"):
            filters(model, data, widths=wrong)
    with pytest.raises(ValueError, match="widths must be a tuple of numbers .* whole"):
        filters(model, data, widths=(1.5,))
    with pytest.raises(ValueError, match="a budget or widths"):
        prune(filters, model, data, widths=widths, budget={"params": 0.5}, bar=False)


# What Li et al. 2017, table 1, tell of their plans: shares of parameters and multiply-adds removed.
TOLD = {
    "vgg_16": (0.640, 0.342),
    "resnet_56 A": (0.094, 0.104),
    "resnet_56 B": (0.137, 0.276),
}


@pytest.mark.parametrize("plan", TOLD)
def test_published_plans_remove_what_is_published(plan):
    model = models.build(plan.split()[0])
    x, y = torch.rand(20, 3, 32, 32), torch.arange(20) % 10
    ignore = TRUNK if plan.startswith("resnet") else ()
    steps = filters(
        model, Data.of((x, y), 0.5), widths=PLANS[plan], criterion="random", ignore=ignore
    )
    mask = next(steps).mask
    params = 1 - count.params(model, mask) / count.params(model)
    products = count.macs(model, x, mask)
    assert params == pytest.approx(TOLD[plan][0], abs=0.003)
    assert 1 - products.sparse / products.dense == pytest.approx(TOLD[plan][1], abs=0.003)


def test_the_penalty_makes_scales_small_and_is_what_autograd_adds():
    model, data = tiny_residual(), tiny_images()
    knobs = dict(criterion="scale", sparse_epochs=8, lr=0.05, batch=8, share=0.5, bar=False)
    free, held = (prune(filters, model, data, penalty=p, **knobs) for p in (0.0, 0.05))
    assert [s.phase for s in held.history] == ["train"] * 8 + ["prune"]
    sizes = [
        float(
            sum(
                m.weight.detach().abs().sum()
                for m in r.model.modules()
                if isinstance(m, nn.BatchNorm2d)
            )
        )
        for r in (free, held)
    ]
    assert sizes[1] < 0.8 * sizes[0]
    with pytest.raises(ValueError, match="sparse_epochs are for the criterion 'scale'"):
        filters(model, data, sparse_epochs=1)
    data.loss(model(data.example), torch.zeros(1, dtype=torch.int64)).backward()
    before = model.bn1.weight.grad.clone()
    _on_scales(model, 0.5, cost=0.1)
    scale = model.bn1.weight
    slope = torch.autograd.grad(0.1 * scale.abs().sum(), scale)[0]
    assert torch.allclose(scale.grad, before + slope)


def test_half_of_the_filters_are_a_quarter_of_the_work_and_fewer_than_half_of_the_parameters():
    """What the first notebook says of `vgg_small`, whose counts stand beside times there."""
    net, data = pretrained("vgg_small"), mnist_small()
    report = prune(filters, net, data, share=0.5, bar=False)
    small, x = report.shrink(), data.example
    assert count.params(small) < 0.4 * count.params(net)
    shares = count.macs(small, x).dense / count.macs(net, x).dense
    assert shares == pytest.approx(0.25, abs=0.01)
    assert count.macs(report.model, x, report.mask).sparse == count.macs(small, x).dense
    assert count.size(report.model) == count.size(net)
