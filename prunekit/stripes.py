"""Stripes: the weights of a filter at one place of its kernel; and networks made of those left.

The *skeleton* of a filter has a trainable number for each place of its kernel, by which the weights
there are multiplied; where it is 0 the stripe is gone. After Meng, Cheng, Li, Luo, Guo, Lu and Sun
2020, "Pruning filter in filter", arXiv 2009.14410.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunekit import count, surgery
from prunekit._arguments import checked, shaped
from prunekit._modules import check_values, device_of, place
from prunekit.knobs import Choice, Count, NonNegative, Positive, knobs
from prunekit.mask import Mask
from prunekit.train import SCHEDULES, fit

Rows = Annotated[Tensor, shaped("n", "k")]  # the skeletons of n filters with k places each
THRESHOLDS = ("fixed", "dtc")
Threshold = Annotated[str, Choice(*THRESHOLDS)]
LEAST = 1e-12  # of a norm that something is divided by


# --------------------------------------------------------------------------------- the mathematics


@checked
def similarity(skeletons: Rows) -> Tensor:
    """How alike each skeleton is to the mean of all, (n,): 1 where it points the same way, 0.5 at a
    right angle, 0 the other way. After Li, Wang, Wu and Kang 2023, doi 10.3233/AIC-230046."""
    mean = skeletons.mean(0)
    norms = skeletons.norm(dim=1) * mean.norm()
    cosine = (skeletons @ mean / norms.clamp(min=LEAST)).clamp(-1, 1)
    return 1 - torch.acos(cosine) / torch.pi


@checked
def thresholds(skeletons: Rows, delta: NonNegative, threshold: Threshold) -> Tensor:
    """Below which size a stripe of each filter goes, (n,).

    "fixed": delta for all. "dtc", the dynamic threshold container: delta × the mean of the filters'
    L1 norms / the filter's own, so that weak filters have high thresholds and go as a whole. After
    Li, Wang, Wu and Kang 2023, doi 10.3233/AIC-230046.

    >>> thresholds(torch.tensor([[0.9, 0.6], [0.3, 0.2]]), 0.1, "dtc")
    tensor([0.0667, 0.2000])
    """
    norms = skeletons.abs().sum(1)
    if threshold == "fixed":
        return torch.full_like(norms, delta)
    return delta * norms.mean() / norms.clamp(min=LEAST)


# What presses on a skeleton over the authors' epochs, the learning rates added up (see `pressure`):
# 2 × strength, and the weight decay.
FULL_EPOCHS, FULL_L1, FULL_DECAY = 160, 0.66, 6.6


@checked
def pressure(minibatches: Count, share: NonNegative = 1.0, **tuning: Any) -> dict[str, float]:
    """The `strength` and `skeleton_decay` by which a training presses on skeletons as much, in all,
    as `share` of the authors' full one.

    minibatches: of an epoch. tuning: as for `prunekit.train.fit`, by SGD. A number that no gradient
    holds obeys d I = -(decay × I + 2 × strength) d T, where T is the sum of the learning rates /
    (1 - momentum): what counts is strength × T and decay × T.
    """
    declared = {name: knob.default for name, knob in knobs(fit).items()} | tuning
    schedule, steps = SCHEDULES[declared["schedule"]], minibatches * declared["epochs"]
    rates = sum(schedule(step / steps, declared["peak"]) for step in range(steps))
    whole = declared["lr"] * rates / (1 - declared["momentum"])
    return {
        "strength": share * FULL_L1 / 2 / whole,
        "skeleton_decay": share * FULL_DECAY / whole / declared["weight_decay"],
    }


@checked
def bearable(epochs: Count) -> float:
    """The share of the authors' full `pressure` that a training of so many epochs bears.

    A short training that presses as much, in all, as a long one has no time to learn with what is
    left. Found on validation images (``cdp-dtc-lengths``: a small VGG on 5,000 digits, 6 to 60
    epochs): about one point of accuracy is lost at the cube root of epochs / the authors' 160.

    >>> round(bearable(20), 2)
    0.5
    """
    return (epochs / FULL_EPOCHS) ** (1 / 3)


# ------------------------------------------------------------------------------ wrap and unwrap


class Striped(nn.Conv2d):
    """A convolution whose kernel is weight × skeleton; `wrap` makes it of one that is there.

    skeleton: (n, 1, h, w), trained. alive: the same, False where a stripe has gone for good.
    threshold: (n,), below which a stripe of each filter goes. state: how alike the skeletons are,
    in all. strengths: (2,), by which a penalty acts on stripes and on filters. epoch: in which
    these two were last told; 0: never.
    """

    skeleton: nn.Parameter
    alive: Tensor
    threshold: Tensor
    state: Tensor
    strengths: Tensor
    epoch: Tensor

    def kernel(self) -> Tensor:
        """The weights that it computes with, (n, c, h, w)."""
        return self.weight * (self.skeleton * self.alive)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.kernel(), self.bias)

    @torch.no_grad()
    def cut_(self, delta: float, threshold: str) -> None:
        """Take out the stripes that lie below the thresholds, and their slopes; for good.

        Of a layer that would lose all, the filter with the largest norm stays as it is.
        """
        sizes = (self.skeleton * self.alive).abs()  # momentum moves what has gone, too
        self.threshold.copy_(thresholds(sizes.flatten(1), delta, threshold))
        keep = self.alive & (sizes > self.threshold.reshape(-1, 1, 1, 1))
        if not keep.any():
            best = sizes.flatten(1).sum(1).argmax()
            keep[best] = self.alive[best]
        self.alive.copy_(keep)
        self.skeleton.mul_(keep)
        if self.skeleton.grad is not None:
            self.skeleton.grad.mul_(keep)


ADDED = (*Striped.__annotations__,)


@checked
def convolutions(
    model: nn.Module, ignore: Iterable[str] = (), who: str = "convolutions"
) -> dict[str, nn.Module]:
    """The convolutions over two axes that can have a skeleton, by the names of their weights.

    Left out: subclasses with a forward of their own, weights that several layers share or that are
    worked out from others, and those that `ignore`, names or shell patterns, names.

    Raises ValueError, which begins with `who`, if there is none, and for a pattern that matches no
    parameter.
    """
    check_values(who, model)
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    ignored = surgery.matching(who, names, ignore)
    found = {f"{place}.weight".lstrip("."): m for place, m in model.named_modules()}
    held = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    fits = {
        name: m
        for name, m in found.items()
        if _is_plain(m) and name not in ignored and held[id(m.weight)] == 1
    }
    if not fits:
        raise ValueError(
            f"{who}: {type(model).__name__} has no convolution over two axes that could have a "
            "skeleton"
        )
    return fits


@checked
def wrap(model: nn.Module, ignore: Iterable[str] = ()) -> list[str]:
    """Give the `convolutions` of a model skeletons of ones, in place; the names of their weights.

    The network answers as before, to the last bit, and the names of its parameters stay.
    """
    fits = convolutions(model, ignore, "wrap")
    for conv in fits.values():
        _striped(conv)
    return [*fits]


def _is_plain(module: nn.Module) -> bool:
    weight = module._parameters.get("weight")
    own = type(module) is nn.Conv2d and "forward" not in vars(module)
    return own and weight is not None and weight.is_floating_point() and weight.numel() > 0


def _striped(conv: Any) -> None:
    weight = conv.weight
    n, _, *places = weight.shape
    conv.__class__ = Striped
    ones = weight.new_ones(n, 1, *places)
    conv.skeleton = nn.Parameter(ones, requires_grad=weight.requires_grad)
    for name, value in (
        ("alive", ones.bool()), ("threshold", weight.new_zeros(n)), ("state", weight.new_zeros(())),
        ("strengths", weight.new_ones(2)), ("epoch", torch.zeros((), dtype=torch.int64)),
    ):  # fmt: skip
        conv.register_buffer(name, value.to(weight.device))


@torch.no_grad()
@checked
def unwrap(model: nn.Module) -> nn.Module:
    """Multiply the skeletons into the weights, in place, and take them off.

    The network answers as before, to the last bit. Without skeletons nothing happens.
    """
    conv: Any
    for conv in layers(model).values():
        conv.weight.copy_(conv.kernel())
        for name in ADDED:
            delattr(conv, name)
        conv.__class__ = nn.Conv2d
    return model


@checked
def layers(model: nn.Module) -> dict[str, Striped]:
    """The convolutions with skeletons, by the names of their weights."""
    return {
        f"{place}.weight".lstrip("."): module
        for place, module in model.named_modules()
        if isinstance(module, Striped)
    }


@checked
def left(model: nn.Module, mask: Mask, groups: surgery.Groups) -> Mask:
    """What is left of `mask` without the stripes that have gone, and without what goes with filters
    of which none is left; over the parameters that the network has without skeletons.

    groups: of the network with its skeletons. What goes with such filters stays where a layer
    would be left with nothing, as one of which an earlier pruning has left single weights.
    """
    convs = layers(model)
    gone = {
        name: mask.get(name, torch.ones_like(conv.weight, dtype=torch.bool, device="cpu"))
        & conv.alive.cpu()
        for name, conv in convs.items()
    }
    whole = Mask({**mask, **gone})
    with suppress(surgery.Emptied):
        whole = surgery.couple(model, whole, groups, partial=True)
    skeletons = {name.removesuffix("weight") + "skeleton" for name in convs}
    return Mask({name: keep for name, keep in whole.items() if name not in skeletons})


@checked
def shares(mask: Mask) -> dict[str, float]:
    """The shares of the stripes and of the filters of convolutions over two axes that are left."""
    kept = [keep.any(1) for keep in mask.values() if keep.ndim == 4]  # (n, h, w)
    filters = [keep.flatten(1).any(1) for keep in kept]
    return {
        "stripes": sum(int(k.sum()) for k in kept) / max(sum(k.numel() for k in kept), 1),
        "filters": sum(int(k.sum()) for k in filters) / max(sum(map(len, filters)), 1),
    }


# ------------------------------------------------------------------------------- a smaller network


class ByPosition(nn.Module):
    """A convolution that holds the stripes left and nothing else, and computes them place by place.

    What a place of the kernel gives is one product over all channels, added into the filters that
    have a stripe there. weight: (stripes, c). Input (b, c, height, width), output as of `conv`.
    """

    rows: Tensor

    def __init__(self, conv: nn.Conv2d, keep: Tensor):
        super().__init__()
        self.filters, self.stride, self.dilation = len(keep), conv.stride, conv.dilation
        self.reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        self.padding = conv._reversed_padding_repeated_twice
        self.mode = conv.padding_mode.replace("zeros", "constant")
        self.places: list[tuple[int, int]] = []
        self.sizes: list[int] = []
        weights, rows = [], []
        for u, v in keep.any(0).nonzero().tolist():
            own = keep[:, u, v].nonzero().flatten()
            weights.append(conv.weight.detach()[own, :, u, v])
            rows.append(own)
            self.places.append((u * conv.dilation[0], v * conv.dilation[1]))
            self.sizes.append(len(own))
        self.weight = nn.Parameter(torch.cat(weights))
        self.register_buffer("rows", torch.cat(rows))
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        if any(self.padding):
            x = F.pad(x, self.padding, self.mode)
        high, wide = (
            (n - reach - 1) // stride + 1
            for n, reach, stride in zip(x.shape[2:], self.reach, self.stride, strict=True)
        )
        x = x.permute(0, 2, 3, 1)  # (b, height, width, c)
        out = x.new_zeros(len(x), high, wide, self.filters)
        if self.bias is not None:
            out += self.bias
        parts = zip(
            self.places, self.weight.split(self.sizes), self.rows.split(self.sizes), strict=True
        )
        for (top, start), weight, rows in parts:
            down = slice(top, top + self.stride[0] * (high - 1) + 1, self.stride[0])
            across = slice(start, start + self.stride[1] * (wide - 1) + 1, self.stride[1])
            out.index_add_(3, rows, F.linear(x[:, down, across], weight))
        return out.permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        return f"{len(self.weight)} stripes of {self.weight.shape[1]}, {self.filters} filters"


FORMS = ("fastest", "dense", "stripes")


@dataclass(frozen=True)
class Form:
    """How a layer of a compact network is computed: "dense" or "stripes", and what is known of it.

    stripes: how many are left, of so many `places` in the filters that are left. seconds: of one
    pass in each form; None where there is only one.
    """

    chosen: str
    stripes: int
    places: int
    seconds: dict[str, float] | None = None

    @property
    def share(self) -> float:
        """The share of the living filters' stripes that is left."""
        return self.stripes / self.places


@checked
def compact(
    model: nn.Module,
    mask: Mask,
    example: Any,
    form: Annotated[str, Choice(*FORMS)] = "fastest",
    *,
    seconds: Positive = 0.1,
) -> tuple[nn.Module, dict[str, Form]]:
    """A network without the filters that `mask` removes whole, and of each layer the form in which
    the stripes that it leaves are computed; by the names of their weights.

    model: without skeletons (see `unwrap`); it stays as it is. example: a batch as it takes it. A
    layer is computed "dense", its kernel whole with zeros in it, or as "stripes" (`ByPosition`);
    the "fastest" of the two is found by timing both on what the layer is given, `seconds` long. A
    grouped convolution stays dense.

    Raises ValueError as `surgery.shrink` does, and for a network with skeletons.
    """
    if layers(model):
        raise ValueError(
            f"compact: {type(model).__name__} still has skeletons. Call stripes.unwrap first."
        )
    small, found = surgery.shrink(model, mask, example, partial=True), dict[str, Form]()
    given = _inputs(small, example)
    for name, x in given.items():
        parent, _, own = name.rpartition(".")
        conv: Any = small.get_submodule(name)
        keep = conv.weight.detach().abs().sum(1) > 0  # (n, h, w)
        chosen, times, stripes, places = "dense", None, int(keep.sum()), keep.numel()
        if conv.groups == 1 and stripes and form != "dense":
            other = ByPosition(conv, keep).eval()
            if form == "fastest":
                both = {"dense": conv, "stripes": other}
                timed = count.latency(both, x, seconds=seconds)
                times = {form: each.median for form, each in timed.items()}
            if times is None or times["stripes"] < times["dense"]:
                chosen = "stripes"
                setattr(small.get_submodule(parent), own, other)
        found[f"{name}.weight".lstrip(".")] = Form(chosen, stripes, places, times)
    return small, found


def _inputs(model: nn.Module, example: Any) -> dict[str, Tensor]:
    """What each plain convolution is given, by the place of its module."""
    given: dict[str, Tensor] = {}

    def watched(name: str) -> Callable[..., None]:
        def seen(_: nn.Module, x: tuple[Tensor, ...]) -> None:
            given.setdefault(name, x[0])

        return seen

    plain = {name: module for name, module in model.named_modules() if _is_plain(module)}
    hooks = [module.register_forward_pre_hook(watched(name)) for name, module in plain.items()]
    try:
        surgery.answers(model, place(example, device_of(model)))
    finally:
        for hook in hooks:
            hook.remove()
    return given
