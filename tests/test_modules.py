"""What holds for every module: how a batch is handed to it."""

import collections
import functools
import re
import threading

import pytest
import torch
from tiny import tiny_data, tiny_model
from torch import nn

from prunekit import Journal, Run, evaluate, fit, magnitude, prune, score, search
from prunekit._modules import call, each, repeatably, structure
from prunekit.count import macs

ONE = torch.ones(2)


class Positional(nn.Module):
    def forward(self, first, second):
        return first + second


class Whole(nn.Module):
    def forward(self, both):
        return both[0] + both[1]


class Named(nn.Module):
    def forward(self, first, *, second=None):
        return first + second


class Mapped(nn.Module):
    def forward(self, batch):
        return batch["first"] + batch["second"]


class Anything(nn.Module):
    def forward(self, *args, **kwargs):
        return sum(args) + sum(kwargs.values())


AS_TUPLE, AS_MAPPING = (ONE, ONE), {"first": ONE, "second": ONE}


@pytest.mark.parametrize(
    ("kind", "x"),
    [
        (Positional, AS_TUPLE),
        (Positional, AS_MAPPING),
        (Whole, AS_TUPLE),
        (Named, AS_MAPPING),
        (Mapped, AS_MAPPING),
        (Anything, AS_TUPLE),
        (Anything, AS_MAPPING),
    ],
)
@pytest.mark.parametrize(
    "wrapped", [lambda m: m, nn.DataParallel, lambda m: torch.compile(m, backend="eager")]
)
def test_a_batch_of_several_tensors_is_spread_where_forward_takes_it_so(kind, x, wrapped):
    assert torch.equal(call(wrapped(kind()), x), 2 * ONE)


def test_each_keeps_the_form_of_what_holds_the_tensors():
    Pair = collections.namedtuple("Pair", "a b")
    assert each(Pair(ONE, ONE), lambda t: t + 1).b.tolist() == [2, 2]
    assert [*each({"a": [ONE, (ONE,)]}, lambda t: t[:1])["a"][1]] == [1]


class Apart(nn.Module):
    """The tiny model, its 8 inputs in two parts."""

    def __init__(self):
        super().__init__()
        self.net = tiny_model()

    def forward(self, left, right):
        return self.net(torch.cat([left, right], 1))


class Parts:
    """The tiny data in two parts, as a tuple or a mapping."""

    key = "parts"
    loss = staticmethod(nn.functional.cross_entropy)

    def __init__(self, named):
        self.named, self.metric = named, tiny_data().metric

    def batches(self, split, size, generator=None):
        for x, y in tiny_data().batches(split, size, generator):
            left, right = x[:, :4], x[:, 4:]
            yield ({"left": left, "right": right} if self.named else (left, right)), y


@pytest.mark.parametrize("named", [False, True])
def test_all_that_a_model_is_called_for_is_the_same_with_its_inputs_in_parts(named):
    parts, whole = Parts(named), tiny_data()
    apart, model = Apart(), tiny_model()
    assert evaluate(apart, parts) == evaluate(model, whole)
    slopes = [
        score.gradient(m, d, [name], examples=50)[name]
        for m, d, name in ((apart, parts, "net.0.weight"), (model, whole, "0.weight"))
    ]
    assert torch.equal(*slopes)
    x, _ = next(iter(parts.batches("train", 2)))
    assert macs(apart, x) == macs(model, torch.zeros(1, 8))
    last = [*fit(apart, parts, epochs=2, seed=1)][-1], [*fit(model, whole, epochs=2, seed=1)][-1]
    assert last[0].metrics == last[1].metrics
    reports = [prune(magnitude, m, d, bar=False) for m, d in ((apart, parts), (model, whole))]
    assert reports[0].after == reports[1].after
    assert reports[0].macs == reports[1].macs


# ----------------------------------------------------------------------------------- what it is


class Shortcut(nn.Module):
    """A module that holds whatever it is given, as ResNets hold lambdas."""

    def __init__(self, **held):
        super().__init__()
        for name, value in held.items():
            setattr(self, name, value)


def scaled(factor):
    def by(x):
        return factor * x

    return by


def add(module, inputs, outputs):
    return outputs + 1


def with_hook(kind, hook):
    module = nn.Identity()
    getattr(module, kind)(hook)
    return module


DIFFERENT = [
    lambda: [Shortcut(f=lambda x: x + 1), Shortcut(f=lambda x: x + 2), Shortcut(f=lambda y: y)],
    lambda: [Shortcut(f=scaled(1)), Shortcut(f=scaled(2)), Shortcut(f=[scaled(2)]),
             Shortcut(f={"a": scaled(3)}), Shortcut(f=functools.partial(scaled(3), 1))],
    lambda: [Shortcut(f=lambda x, by=1: x * by), Shortcut(f=lambda x, by=2: x * by)],
    lambda: [nn.Identity(), with_hook("register_forward_hook", add),
             with_hook("register_forward_hook", functools.partial(add, 1)),
             with_hook("register_forward_pre_hook", add),
             with_hook("register_forward_hook", lambda m, x, y: y + 2)],
    lambda: [Shortcut(a=1), Shortcut(a=2), Shortcut(b=1), Shortcut(a=torch.ones(2))],
]  # fmt: skip


@pytest.mark.parametrize("family", DIFFERENT)
def test_models_that_compute_otherwise_are_told_apart_without_addresses(family):
    texts = [structure(nn.Sequential(model)) for model in family()]
    assert len({*texts}) == len(texts)
    assert [structure(nn.Sequential(model)) for model in family()] == texts
    assert not re.search("0x[0-9a-f]{6}", "".join(texts))


def test_recurrent_layers_and_attention_have_a_structure():
    assert structure(nn.LSTM(2, 3)) != structure(nn.LSTM(2, 3, bidirectional=True))
    structure(nn.TransformerEncoderLayer(4, 2, 8))


def test_a_compiled_model_is_the_same_in_every_process():
    text = structure(torch.compile(nn.Linear(2, 2)))
    assert structure(torch.compile(nn.Linear(2, 2))) == text


@pytest.mark.parametrize(
    "make", [threading.Lock, lambda: (x for x in "ab"), lambda: [scaled, {1: threading.Lock()}]]
)
def test_an_attribute_that_cannot_be_told_is_named(make):
    model = nn.Sequential(Shortcut(thing=make()))
    with pytest.raises(TypeError, match=r"model: 0\.thing has no content"):
        structure(model)
    model = nn.Sequential(tiny_model(), Shortcut(thing=make()))
    keys = [
        search._Job({"model": model, "data": tiny_data(), "decode": search.itself}).keys
        for _ in "ab"
    ]
    assert keys[0]["model"] != keys[1]["model"]  # never taken for another's


def test_a_header_names_what_of_the_model_cannot_be_told(tmp_path):
    model = tiny_model()
    model[0].lock = threading.Lock()
    assert len([*fit(model, tiny_data(), epochs=1)]) == 1
    with pytest.raises(TypeError, match=r"model: 0\.lock has no content"):
        next(fit(model, tiny_data(), run=Run(journal=Journal(tmp_path))))
    model = tiny_model()
    model[0].f = scaled(2)
    list(fit(model, tiny_data(), run=Run(journal=Journal(tmp_path))))
    model = tiny_model()
    model[0].f = scaled(3)
    with pytest.raises(ValueError, match="its model is "):
        next(fit(model, tiny_data(), run=Run(journal=Journal(tmp_path))))


class Remembers(nn.Linear):
    """Its buffers are replaced by others of other shapes, resized in place, and registered late."""

    def __init__(self):
        super().__init__(8, 3)
        self.register_buffer("last", torch.zeros(1, 3))
        self.register_buffer("seen", torch.zeros(0))
        self.register_buffer("wide", torch.zeros(1).expand(5))

    def forward(self, x):
        self.last = super().forward(x).detach()
        self.seen.resize_(len(x)).fill_(1)
        if not hasattr(self, "late"):
            self.register_buffer("late", torch.zeros(1))
        return self.last + super().forward(x)


def test_buffers_of_whatever_shape_end_as_they_were():
    model = Remembers()
    last, seen = model.last, model.seen
    repeatably(model, lambda: model(torch.ones(4, 8)))
    assert model.last is last
    assert model.seen is seen
    assert not seen.numel()
    assert prune(magnitude, model, tiny_data(), sparsity=0.5, epochs=1, bar=False).sparsity == 0.5
