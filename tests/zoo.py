"""Small networks, each with a way in which channels hang together or cannot go.

``ZOO[name]()`` gives a network in eval mode and an example; ``GOING[name]`` is how many groups of
channels can go, counted by hand.
"""

import torch
from tiny import Residual
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from prunekit._random import LocalRandom

ZOO, GOING = {}, {}


def network(going, *shape, x=None):
    """Keep what builds a network, under its name, with how many groups can go."""

    def keep(build):
        def made():
            with LocalRandom(5):
                return build().eval(), torch.rand(*shape) if x is None else x()

        ZOO[build.__name__], GOING[build.__name__] = made, going
        return build

    return keep


class Of(nn.Module):
    """Parts by name, and what forward makes of them: ``run(self, x, ...)``."""

    def __init__(self, run, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = run

    def forward(self, *args, **kwargs):
        return self.run(self, *args, **kwargs)


def head(channels, outputs=3):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs))


@network(9, 2, 4)
def linear():
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 3))


@network(6, 2, 5, 4)
def over_tokens():
    return nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3))


@network(10, 2, 1, 8, 8)
def flattened():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 6), nn.ELU(),
        nn.Linear(6, 3),
    )  # fmt: skip


@network(11, 2, 3, 8, 8)
def normed():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Sigmoid(), nn.Conv2d(6, 5, 3),
        nn.BatchNorm2d(5, affine=False), nn.AvgPool2d(2), head(5),
    )  # fmt: skip


@network(8, 2, 1, 6, 6)
def residual():
    return Residual()


@network(12, 2, 3, 8, 8)
def padded_shortcut():
    def run(m, x):
        x = m.one(x)
        return m.head(torch.relu(m.two(x) + m.shortcut(x)))

    pad = nn.Sequential(nn.AvgPool2d(1, 2), nn.ConstantPad3d((0, 0, 0, 0, 2, 2), 0.0))
    two = nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 1, 1))
    return Of(run, one=nn.Conv2d(3, 4, 3, 1, 1), two=two, shortcut=pad, head=head(8))


@network(9, 2, 3, 6, 6)
def joined():
    def run(m, x):
        a = m.a(x)
        b = m.b(torch.cat([a, x], 1))
        return m.head(torch.cat([a, b, x], 1))

    a, b = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(7, 5, 1)
    return Of(run, a=a, b=b, head=nn.Sequential(nn.BatchNorm2d(12), nn.ReLU(), head(12)))


@network(4, 2, 4)
def used_twice():
    def run(m, x):
        y = torch.tanh(m.inner(m.into(x)))
        return m.out(torch.tanh(m.inner(y)))

    return Of(run, into=nn.Linear(4, 4), inner=nn.Linear(4, 4), out=nn.Linear(4, 3))


@network(7, x=lambda: torch.randint(0, 9, (2, 5)))
def tied():
    def run(m, x):
        return m.out(m.inner(m.table(x)))

    table, out = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
    out.weight = table.weight
    inner = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 4))
    return Of(run, table=table, inner=inner, out=out)


@network(8, 2, 3, 6, 6)
def gated():
    def run(m, x):
        x = m.conv(x)
        return m.head(x * m.gate(x))

    gate = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 2, 1), nn.SiLU(), nn.Conv2d(2, 6, 1), nn.Sigmoid()
    )
    return Of(run, conv=nn.Conv2d(3, 6, 3), gate=gate, head=head(6))


@network(6, 2, 2, 4, 4)
def pixels_shuffled():
    return nn.Sequential(
        nn.Conv2d(2, 12, 3, 1, 1), nn.PixelShuffle(2), nn.Conv2d(3, 3, 1), nn.PixelUnshuffle(2),
        nn.Conv2d(12, 2, 1), nn.Flatten(2),
    )  # fmt: skip


@network(5, 2, 4)
def parameters_alone():
    def run(m, x):
        return torch.tanh(x @ m.w * m.scale + m.shift) @ m.v.t()

    made = {"w": (4, 5), "scale": (5,), "shift": (1, 5), "v": (3, 5)}
    return Of(run, **{name: nn.Parameter(torch.randn(shape)) for name, shape in made.items()})


@network(9, x=lambda: (torch.rand(2, 3), torch.rand(2, 4)))
def two_inputs():
    def run(m, a, b):
        return m.out(torch.relu(m.a(a) + m.b(b)) * torch.sigmoid(m.c(m.d(a))))

    parts = {"a": (3, 5), "b": (4, 5), "c": (4, 5), "d": (3, 4), "out": (5, 3)}
    return Of(run, **{name: nn.Linear(*sizes) for name, sizes in parts.items()})


@network(6, x=lambda: {"a": torch.rand(2, 3), "b": torch.rand(2, 3)})
def named_inputs():
    return Of(
        lambda m, a, b: m.out(torch.relu(m.into(a) - m.into(b))),
        into=nn.Linear(3, 6), out=nn.Linear(6, 2),
    )  # fmt: skip


@network(3, 2, 4, 6, 6)
def grouped():
    return nn.Sequential(
        nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 9, 3, groups=3), nn.ReLU(), head(9)
    )


@network(5, 2, 3, 6, 6)
def depthwise():
    return nn.Sequential(
        nn.Conv2d(3, 5, 1), nn.ReLU6(), nn.Conv2d(5, 5, 3, groups=5), nn.BatchNorm2d(5),
        nn.Hardswish(), nn.Conv2d(5, 10, 3, groups=5), head(10),
    )  # fmt: skip


@network(10, 2, 3, 5, 5)
def transposed():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 2, 3)
    )


@network(2, 2, 3, 5, 5)
def transposed_in_groups():
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ConvTranspose2d(6, 4, 3, groups=2), head(4))


@network(9, 2, 3, 12)
def along_time():
    return nn.Sequential(
        nn.Conv1d(3, 5, 3), nn.BatchNorm1d(5), nn.MaxPool1d(2), nn.ReLU(), nn.Conv1d(5, 4, 3),
        nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(8, 2),
    )  # fmt: skip


@network(4, 2, 1, 4, 6, 6)
def in_space():
    return nn.Sequential(
        nn.Conv3d(1, 4, 3), nn.AvgPool3d(2), nn.LeakyReLU(), nn.Flatten(), nn.Linear(16, 2)
    )


@network(5, 2, 3, 6, 6)
def group_norm():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.GroupNorm(3, 6), nn.ReLU(), nn.Conv2d(6, 4, 3),
        nn.GroupNorm(2, 4, affine=False), head(4),
    )  # fmt: skip


@network(10, 2, 3, 6, 6)
def each_instance():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6, affine=True), nn.PReLU(6), nn.Conv2d(6, 4, 3),
        nn.InstanceNorm2d(4, track_running_stats=True), nn.Softplus(), head(4),
    )  # fmt: skip


@network(6, 2, 3, 6, 6)
def halves():
    def run(m, x):
        a, b = m.conv(x).chunk(2, 1)
        return m.head(F.glu(m.other(a * torch.tanh(b)), 1))

    return Of(run, conv=nn.Conv2d(3, 6, 3), other=nn.Conv2d(3, 6, 1), head=head(3))


@network(5, 2, 4, 4, 4)
def channels_take_turns():
    def run(m, x):
        x = m.one(x)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return m.head(m.shuffle(m.two(x)))

    one, two = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 4, 3)
    return Of(run, one=one, two=two, shuffle=nn.ChannelShuffle(2), head=head(4))


@network(9, x=lambda: torch.randint(0, 7, (2, 6)))
def words():
    def run(m, x):
        x = m.conv(m.table(x).transpose(1, 2)).amax(2)
        return m.out(torch.relu(x))

    return Of(run, table=nn.Embedding(7, 5), conv=nn.Conv1d(5, 4, 3), out=nn.Linear(4, 2))


@network(13, 2, 3, 8, 8)
def down_and_up():
    def run(m, x):
        a = torch.relu(m.a(x))
        b = torch.relu(m.b(F.max_pool2d(a, 2)))
        up = F.interpolate(b, scale_factor=2, mode="bilinear", align_corners=False)
        return m.out(m.c(torch.cat([F.interpolate(up, a.shape[-2:]), a], 1)))

    a, b, c = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 5, 3, 1, 1), nn.Conv2d(9, 4, 1)
    return Of(run, a=a, b=b, c=nn.Sequential(nn.ReflectionPad2d(1), c), out=nn.Conv2d(4, 2, 3))


@network(6, 2, 3, 6, 6)
def weights_worked_out():
    """A convolution whose weight is divided by the norm of each filter: its inputs stay."""

    def run(m, x):
        w = m.conv.weight
        w = w / w.flatten(1).norm(dim=1).view(-1, 1, 1, 1).clamp(min=1e-6)
        return m.head(torch.relu(F.conv2d(m.before(x), w, m.conv.bias)))

    return Of(run, before=nn.Conv2d(3, 4, 1), conv=nn.Conv2d(4, 6, 3), head=head(6))


class Twice(nn.Module):
    def forward(self, w):
        return 2 * w


@network(5, 2, 4)
def parametrised():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    parametrize.register_parametrization(model[0], "weight", Twice())
    return model


@network(12, 2, 5, 4)
def transformer():
    return nn.Sequential(nn.TransformerEncoderLayer(4, 2, 12, batch_first=True), nn.Linear(4, 3))


@network(6, 2, 4)
def two_factors():
    """A product of two parameters, and sums written with letters."""

    def run(m, x):
        x = torch.einsum("nd,rd->nr", x, m.a @ m.b)
        return torch.einsum("nr,or->no", torch.tanh(x), m.c)

    made = {"a": (4, 2), "b": (2, 4), "c": (3, 4)}
    return Of(run, **{name: nn.Parameter(torch.randn(shape)) for name, shape in made.items()})


@network(5, 2, 3, 6, 6)
def turned_around():
    def run(m, x):
        x = torch.stack([m.one(x), m.two(x).flip(1).flip(1)]).mean(0).repeat(1, 2, 1, 1)
        return m.head(x.unsqueeze(2).squeeze(2))

    return Of(run, one=nn.Conv2d(3, 5, 3), two=nn.Conv2d(3, 5, 3), head=head(10))


@network(5, 2, 3, 6, 6)
def written_in_place():
    def run(m, x):
        x = m.conv(x)
        x += torch.zeros_like(x)
        x.mul_(m.scale)
        return m.head(F.relu(x, inplace=True))

    scale = nn.Parameter(torch.rand(5, 1, 1))
    return Of(run, conv=nn.Conv2d(3, 5, 3), scale=scale, head=head(5))


@network(4, 2, 3, 6, 6)
def unfolded():
    def run(m, x):
        x = F.unfold(torch.relu(m.conv(x)), 2)
        return m.out(x.mean(2))

    return Of(run, conv=nn.Conv2d(3, 4, 3), out=nn.Linear(16, 2))


@network(9, 2, 3, 6, 6)
def along_places():
    """A norm, a softmax and a crop that go over places, not over channels."""

    def run(m, x):
        x = m.norm(m.one(x)[:, :, 1:-1].flatten(2))
        x = m.two(torch.softmax(x, -1) * m.scale.expand_as(x))
        return m.out(x.select(-1, 0))

    one, scale = nn.Conv2d(3, 5, 3), nn.Parameter(torch.rand(5, 1))
    parts = {"norm": nn.LayerNorm(8), "two": nn.Conv1d(5, 4, 1), "out": nn.Linear(4, 2)}
    return Of(run, one=one, scale=scale, **parts)


# ------------------------------------------------------- where channels are there that cannot go


@network(4, 2, 3, 6, 6)
def mean_over_channels():
    def run(m, x):
        x = m.conv(x)
        return m.head(m.other(x * torch.sigmoid(x.mean(1, keepdim=True))))

    other = nn.Conv2d(5, 4, 1)
    return Of(run, conv=nn.Conv2d(3, 5, 3), other=other, head=head(4))


@network(4, 2, 3, 6, 6)
def softmax_over_channels():
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.Softmax(1), nn.Conv2d(5, 4, 1), head(4))


@network(4, 2, 4)
def drawn_as_images():
    """What linear layers make are places of images."""

    def run(m, x):
        pooled = F.max_pool2d(m.one(x).view(-1, 1, 4, 4), 2).flatten(1)
        return m.head(m.conv(m.two(x).view(-1, 1, 4, 4))) + m.out(pooled)

    one, two, out = nn.Linear(4, 16), nn.Linear(4, 16), nn.Linear(4, 3)
    return Of(run, one=one, two=two, out=out, conv=nn.Conv2d(1, 4, 2), head=head(4))


@network(4, 2, 5, 4)
def recurrent():
    return Of(
        lambda m, x: m.out(torch.relu(m.mid(m.lstm(m.into(x))[0]))),
        into=nn.Linear(4, 3), lstm=nn.LSTM(3, 5, batch_first=True), mid=nn.Linear(5, 4),
        out=nn.Linear(4, 2),
    )  # fmt: skip


@network(6, 2, 3, 6, 6)  # what is padded at places between fixed numbers can go
def padded_by_hand():
    def run(m, x):
        x = m.one(x)
        return m.head(m.two(x) + F.pad(x, (0, 0, 0, 0, 2, 2)))

    two = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 1))
    return Of(run, one=nn.Conv2d(3, 2, 1), two=two, head=head(6))


@network(4, 2, 3, 6, 6)
def half_of_them():
    def run(m, x):
        x = m.one(x)
        return m.head(m.two(x[:, :3]) + m.two(x[:, 3:]))

    return Of(run, one=nn.Conv2d(3, 6, 1), two=nn.Conv2d(3, 4, 1), head=head(4))


@network(4, 2, 3, 6, 6)
def meets_a_constant():
    def run(m, x):
        x = m.one(x) * torch.tensor([1.0, 2, 3, 4, 5]).view(5, 1, 1)
        return m.head(m.two(x))

    return Of(run, one=nn.Conv2d(3, 5, 1), two=nn.Conv2d(5, 4, 1), head=head(4))


@network(3, 2, 4)
def weight_normed():
    """What a layer whose filters are normed reads cannot go: it is part of their norms."""
    return nn.Sequential(
        nn.Linear(4, 5), nn.ReLU(), parametrizations.weight_norm(nn.Linear(5, 4)), nn.Linear(4, 3),
        nn.ReLU(), nn.Linear(3, 2),
    )  # fmt: skip


@network(3, 2, 5, 4)
def layer_normed():
    return nn.Sequential(
        nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 2)
    )


@network(0, 2, 5, 4)
def attention():
    def run(m, x):
        q, k, v = m.qkv(x).chunk(3, -1)
        return m.out(torch.softmax(q @ k.transpose(1, 2), -1) @ v)

    return Of(run, qkv=nn.Linear(4, 12), out=nn.Linear(4, 3))
