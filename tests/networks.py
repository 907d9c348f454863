"""Random networks over sequences `(n, length, width)`, with what each layer costs, layer by layer.

`random_network(seed)` gives the model, an input, and a function from a keep-tensor a parameter name
to the multiply-adds of one example that a loop over the layers finds.
"""

import random

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from prunekit._random import LocalRandom

WIDTHS = (4, 6, 8)


class Turned(nn.Module):
    """A layer over `(n, width, length)`."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.transpose(1, 2)).transpose(1, 2)


class Attends(nn.Module):
    def __init__(self, width, weights):
        super().__init__()
        self.layer, self.weights = nn.MultiheadAttention(width, 2, batch_first=True), weights

    def forward(self, x):
        return self.layer(x, x, x, need_weights=self.weights)[0]


class Recurs(nn.Module):
    def __init__(self, kind, width, hidden):
        super().__init__()
        self.layer = kind(width, hidden, batch_first=True)

    def forward(self, x):
        return self.layer(x)[0]


class Cast(nn.Module):
    """Its layer computes in bfloat16."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.layer(x).float()


class Network(nn.Module):
    """One layer after the other; a layer may stand there several times."""

    def __init__(self, layers):
        super().__init__()
        self.own = nn.ModuleList(dict.fromkeys(layers))
        self.order = [[*dict.fromkeys(layers)].index(layer) for layer in layers]

    def forward(self, x):
        for place in self.order:
            x = torch.relu(self.own[place](x))
        return x.mean(1)


class Twice(nn.Module):
    def forward(self, w):
        return 2 * w


def parametrised(draw, layer, norms):
    """The layer, or with a weight that is worked out from its parameters with the same zeros."""
    how = draw.choice(["", "", "norm", "twice"])
    if how == "norm" and norms:
        return parametrizations.weight_norm(layer)
    if how == "twice":
        parametrize.register_parametrization(layer, "weight", Twice())
    return layer


def a_layer(draw, width, norms):
    """A layer that takes a width, and the width that it gives."""
    out = draw.choice(WIDTHS)
    kind = draw.choice(
        ["linear", "conv", "transposed", "attention", "lstm", "gru", "cast", "fused"]
    )
    if kind == "linear":
        return parametrised(draw, nn.Linear(width, out, bias=draw.random() < 0.5), norms), out
    if kind == "cast":
        return Cast(nn.Linear(width, out)), out
    if kind == "conv":
        groups = draw.choice([1, 2])
        settings = {"stride": draw.choice([1, 2]), "padding": draw.choice([1, 2])}
        return Turned(
            parametrised(draw, nn.Conv1d(width, out, 3, groups=groups, **settings), norms)
        ), out
    if kind == "transposed":
        groups = draw.choice([1, 2])
        return Turned(nn.ConvTranspose1d(width, out, 3, stride=2, padding=1, groups=groups)), out
    if kind == "attention":
        return Attends(width, draw.random() < 0.5), width
    if kind == "fused":
        return nn.TransformerEncoderLayer(width, 2, 10, batch_first=True), width
    return Recurs(nn.LSTM if kind == "lstm" else nn.GRU, width, out), out


def random_network(seed, classes=None, norms=True):
    """A network of two to six layers in eval mode, and a batch of inputs.

    classes: as many outputs. norms: weights may be normed; then no row of theirs may be emptied.
    """
    draw = random.Random(seed)
    with LocalRandom(seed):
        width = start = draw.choice(WIDTHS)
        layers = []
        for _ in range(draw.randint(2, 5)):
            layer, width = a_layer(draw, width, norms)
            layers.append(layer)
            if draw.random() < 0.3:  # shared
                again = nn.Linear(width, width)
                layers += [again, again]
        if classes:
            layers.append(nn.Linear(width, classes))
        x = torch.rand(3, draw.randint(3, 7), start)
        return Network(layers).eval(), x


def loop(model, x, keeps):
    """The multiply-adds of one example, dense and kept, by a loop over the layers that run.

    keeps: bool tensors by parameter name; what has none is kept.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    totals = [0, 0]

    def add(places, layer, *weights):
        for weight in weights:
            holder = layer
            if parametrize.is_parametrized(layer, weight):
                holder = layer.parametrizations[weight]
                weight = "original1" if hasattr(holder, "original1") else "original"
            p = getattr(holder, weight)
            keep = keeps.get(names[id(p)], torch.ones(p.shape, dtype=torch.bool))
            totals[0] += places * p.numel()
            totals[1] += places * int(keep.sum())

    def count(layer, given, out):
        length = given[0].shape[1]
        if isinstance(layer, nn.Linear):
            add(length, layer, "weight")
        elif isinstance(layer, nn.ConvTranspose1d):
            add(given[0].shape[2], layer, "weight")
        elif isinstance(layer, nn.Conv1d):
            add(out.shape[2], layer, "weight")
        elif isinstance(layer, (nn.LSTM, nn.GRU)):
            add(length, layer, "weight_ih_l0", "weight_hh_l0")
        elif isinstance(layer, nn.MultiheadAttention):
            add(length, layer, "in_proj_weight")
            add(length, layer.out_proj, "weight")
            for i in (0, 1):  # queries and keys, weights and values
                totals[i] += 2 * length * length * layer.embed_dim

    leaves = (nn.Linear, nn.Conv1d, nn.ConvTranspose1d, nn.RNNBase, nn.MultiheadAttention)
    # With hooks and gradients no fused kernel runs: each layer is called.
    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, leaves)]
    with torch.enable_grad():
        model(x[:1])
    for hook in hooks:
        hook.remove()
    return tuple(totals)


class Computes(nn.Module):
    """`act` of the input and of parameters of these shapes, called p.0, p.1, ..."""

    def __init__(self, act, *shapes):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.p = nn.ParameterList([torch.randn(shape, generator=g) for shape in shapes])
        self.act = act

    def forward(self, x):
        return self.act(x, *self.p)
