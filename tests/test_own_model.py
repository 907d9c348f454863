"""What is not LeNet on MNIST: own models, losses, metrics and data; torchvision's networks."""

import copy

import pytest
import torch
from safetensors.torch import load_model
from scipy import stats
from tiny import tiny_data, tiny_model
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from prunekit import Data, Journal, Run, evaluate, fit, gradual, magnitude, prune, random
from prunekit._random import LocalRandom
from prunekit._torchvision import torchvision


class Tied(nn.Module):
    """An autoencoder of float inputs with dropout, whose two outer layers share their weight."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(6, 6)
        self.middle = nn.Linear(6, 6)
        self.decode = nn.Linear(6, 6)
        self.decode.weight = self.encode.weight
        self.drop = nn.Dropout(0.2)

    def forward(self, x):
        x = self.drop(torch.tanh(self.encode(x)))
        return self.decode(torch.tanh(self.middle(x)))


def tied():
    with LocalRandom(0):
        return Tied()


def spearman(outputs, targets):
    """Mean rank correlation of the columns; larger is better."""
    pairs = zip(outputs.T.tolist(), targets.T.tolist(), strict=True)
    found = [stats.spearmanr(a, b).statistic for a, b in pairs]
    return float(sum(found) / len(found))


def inputs(n=90):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, generator=generator) @ torch.randn(3, 6, generator=generator)


class Examples(Dataset):
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.x[i]


def as_tensors(x):
    return x, x


@pytest.fixture(params=[Examples, as_tensors])
def own(request):
    parts = [request.param(part) for part in inputs().split(30)]
    return Data.of(*parts, name="own", loss=F.mse_loss, metric=spearman)


def applied(model, mask):
    parameters = dict(model.named_parameters())
    return all(not parameters[name][~keep].any() for name, keep in mask.items())


@pytest.mark.parametrize(
    ("method", "knobs"),
    [
        (magnitude, dict(rounds=2, epochs=2)),
        (gradual, dict(epochs=4, every=1)),
        (random, dict(epochs=1)),
    ],
)
def test_an_own_model_with_its_own_loss_and_metric_is_pruned(own, method, knobs, tmp_path):
    model = tied()
    before = copy.deepcopy(model.state_dict())
    report = prune(
        method, model, own, sparsity=0.5, bar=False, run=Run(journal=Journal(tmp_path)), **knobs
    )
    assert [*report.mask] == ["encode.weight", "middle.weight"]  # the tied weight counts once
    assert report.mask.kept == 36
    assert applied(report.model, report.mask)
    assert report.model.decode.weight is report.model.encode.weight
    assert report.after == {"spearman": evaluate(report.model, own)}
    x = own.splits["validation"][0]
    with torch.no_grad():
        assert report.after["spearman"] == pytest.approx(spearman(report.model(x), x))
    assert "validation spearman after" in str(report)
    assert " ± " not in str(report)  # only an accuracy has a binomial error
    assert report.compression == pytest.approx((72 + 18) / (36 + 18))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_training_lowers_the_own_loss(own):
    losses = [step.metrics["loss"] for step in fit(tied(), own, epochs=15, batch=10, lr=0.1)]
    assert losses[-1] < 0.8 * losses[0]


def test_a_journalled_run_of_an_own_model_is_resumed(own, tmp_path):
    def run(journal=None):
        model = tied()
        stream = magnitude(model, own, sparsity=0.5, rounds=2, epochs=2, run=Run(journal=journal))
        return model, stream

    model, stream = run()
    whole = [(s.phase, s.mask, s.metrics) for s in stream]
    for n in range(1, len(whole)):
        _, stream = run(Journal(tmp_path / f"{n}"))
        for _ in range(n):
            next(stream)
        stream.close()
        resumed, stream = run(Journal(tmp_path / f"{n}"))
        assert [(s.phase, s.mask, s.metrics) for s in stream] == whole
        assert all(
            torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True)
        )


def test_a_model_with_tied_weights_is_saved_and_read_back(own, tmp_path):
    report = prune(magnitude, tied(), own, sparsity=0.5, epochs=1, bar=False)
    path = report.save(tmp_path / "tied")
    again = Tied()
    load_model(again, path)
    x = own.splits["test"][0]
    assert torch.equal(again.eval()(x), report.model(x))


# ----------------------------------------------------------------------------- data of other kinds


class Stream:
    """Nothing but what methods need: batches made on the fly, a loss, a metric and a key."""

    key = "stream-1"
    loss = staticmethod(F.cross_entropy)

    @staticmethod
    def metric(outputs, targets):
        return -float(F.cross_entropy(outputs, targets))

    def batches(self, split, size, generator=None):
        x, y = tiny_data().splits[split]
        order = (
            torch.arange(len(y))
            if generator is None
            else torch.randperm(len(y), generator=generator)
        )
        for rows in order.split(size):
            yield x[rows], y[rows]


def test_whatever_has_batches_loss_metric_and_key_is_data(tmp_path):
    models = [tiny_model(), tiny_model()]
    plain = Data(tiny_data().splits, metric=Stream.metric)
    for model, data in zip(models, (Stream(), plain), strict=True):
        steps = [*fit(model, data, epochs=2, batch=30)]
        assert steps[-1].metrics["metric"] == pytest.approx(evaluate(model, plain))
    assert torch.equal(models[0][0].weight, models[1][0].weight)
    report = prune(
        magnitude, tiny_model(), Stream(), sparsity=0.5, epochs=2, bar=False,
        run=Run(journal=Journal(tmp_path)),
    )  # fmt: skip
    again = prune(
        magnitude, tiny_model(), Stream(), sparsity=0.5, epochs=2, bar=False,
        run=Run(journal=Journal(tmp_path)),
    )  # fmt: skip
    assert report.sparsity == 0.5
    assert report.history == again.history
    assert report.after == {"metric": evaluate(report.model, Stream())}
    assert report.test() == evaluate(report.model, plain, "test")


# ------------------------------------------------------------------------------------ torchvision


def test_resnet18_is_pruned_and_its_batch_normalisation_left_alone():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, 32, 32, generator=generator)
    y = torch.arange(64) % 10
    data = Data.of((x[:32], y[:32]), (x[32:], y[32:]), name="noise")
    with LocalRandom(0):
        model = torchvision().models.resnet18(num_classes=10)
    report = prune(magnitude, model, data, sparsity=0.8, epochs=1, bar=False)
    weights = {name: p for name, p in report.model.named_parameters() if p.ndim > 1}
    total = sum(p.numel() for p in weights.values())
    assert {*report.mask} == {*weights}
    assert not any(".bn" in name or "downsample.1" in name for name in report.mask)
    assert report.mask.total == total
    assert report.mask.kept == total - round(0.8 * total)
    assert sum(int((p != 0).sum()) for p in weights.values()) == report.mask.kept
    assert applied(report.model, report.mask)
    for module in report.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.all()
            assert module.num_batches_tracked == 1
    assert [s.phase for s in report.history] == ["prune", "finetune"]
    dense = sum(p.numel() for p in model.parameters())
    assert report.compression == pytest.approx(dense / (dense - round(0.8 * total)))
    outputs = report.model(x[32:])
    assert report.after["accuracy"] == float((outputs.argmax(1) == y[32:]).float().mean())
