"""Which channels of a network hang together, followed operator by operator through a forward pass.

Every index of every dimension of a parameter or buffer is an *atom*. While the model answers one
example, each tensor carries, dimension by dimension, whose atoms its indices are: the result of a
convolution, along its channels, those of the rows of the weight. A rule for each operator says
which atoms are the same channel, so that they can only go together, and which cannot go at all, and
why. What no rule knows cannot go.
"""

from __future__ import annotations

import linecache
import math
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from prunekit._modules import call, repeatably
from prunekit.products import Operators, bound, first, name_of, watching

# Modules that compare the width of what they are given with a number that no rule writes anew.
SIZED = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
Atoms = np.ndarray  # (n,) int64, of the indices of a dimension; FIXED where nothing can go
Axes = list[Atoms | None]  # one a dimension; None: nothing along it can go
FIXED = -1


@dataclass(frozen=True)
class Slot:
    """A dimension of a tensor, or a number in an attribute of a module, with its atoms."""

    owner: str  # the tensor's name, or the module's
    dim: int  # the dimension, or which number of `attribute`
    start: int  # its first atom
    size: int
    attribute: str = ""

    def __str__(self) -> str:
        if self.attribute:
            return f"{self.owner}.{self.attribute}"
        return self.owner


@dataclass
class Followed:
    """What a watched pass told.

    ties: pairs of arrays of atoms that can only go together; pins: atoms that cannot go, and why.
    makes, takes: atoms of the outputs and of the inputs of products with a weight.
    counts: attributes of modules that say how many of some atoms there are: {(module, attribute):
    arrays}, an array for each time that the module ran.
    """

    slots: list[Slot] = field(default_factory=list)
    ties: list[tuple[Atoms, Atoms]] = field(default_factory=list)
    pins: list[tuple[Atoms, str]] = field(default_factory=list)
    makes: list[Atoms] = field(default_factory=list)
    takes: list[Atoms] = field(default_factory=list)
    counts: dict[tuple[str, str], list[Atoms]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    @property
    def size(self) -> int:
        return self.slots[-1].start + self.slots[-1].size if self.slots else 0


def follow(model: nn.Module, x: Any) -> Followed:
    """Follow the channels of `model`, whose modules get hooks meanwhile, on two examples of x, so
    that a batch is told from a single thing, or on its only one.

    Raises ValueError if the model fails on them.
    """
    x = first("surgery", model, x, 2)
    try:
        return repeatably(model, lambda: _followed(model, x))
    except Exception as error:
        raise ValueError(
            f"surgery: {type(model).__name__} fails on the example: {type(error).__name__}: {error}"
        ) from error


def _followed(model: nn.Module, x: Any) -> Followed:
    follower = _Follower(model, x)
    hooks = []
    try:
        for path, module in model.named_modules():
            enter, leave = follower.hooks(path, module)
            hooks.append(module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True))
            hooks.append(module.register_forward_hook(leave, always_call=True))
        with watching(model, follower):
            out = call(model, x)
    finally:
        for hook in hooks:
            hook.remove()
    for a in (a for a in tree_leaves(out) if isinstance(a, Tensor)):
        for atoms in follower.axes(a):
            follower.pin(atoms, "it is an output of the network", place=False)
    return follower.found


# ------------------------------------------------------------------------------------ the watcher


class _Follower(Operators):
    """Tensors carry their axes as an attribute; those of parameters and buffers are told before."""

    def __init__(self, model: nn.Module, x: Any):
        super().__init__()
        self.found = Followed()
        self.stack: list[tuple[str, nn.Module]] = []
        inputs = [a for a in tree_leaves(x) if isinstance(a, Tensor)]
        named = [*model.named_parameters(), *model.named_buffers()]
        self.held = [*inputs, *(a for _, a in named)]  # an id stands for a tensor that lives
        self.moving = set(map(id, inputs))
        self.known: dict[int, Axes] = {}
        self.pads: dict[tuple[str, int], Atoms] = {}
        owners: dict[int, str] = {}
        memories: dict[int, list[str]] = {}
        for name, a in named:
            if id(a) in owners:
                continue
            owners[id(a)] = name
            self.known[id(a)] = [self.slot(name, dim, n) for dim, n in enumerate(a.shape)]
            if a.layout is torch.strided and a.numel():
                memories.setdefault(a.untyped_storage().data_ptr(), []).append(name)
        self.owners = owners
        for names in memories.values():
            for name in names if len(names) > 1 else ():
                why = f"it lies in one memory with {next(n for n in names if n != name)}"
                for slot in [s for s in self.found.slots if s.owner == name]:
                    self.pin(np.arange(slot.start, slot.start + slot.size), why, place=False)

    def slot(self, owner: str, dim: int, size: int, attribute: str = "") -> Atoms:
        """New atoms."""
        start = self.found.size
        self.found.slots.append(Slot(owner, dim, start, size, attribute))
        return np.arange(start, start + size)

    def hooks(self, path: str, module: nn.Module) -> tuple[Callable[..., None], ...]:
        """What keeps `stack` what it is called: the modules that are at work, outermost first."""

        def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
            self.stack.append((path, module))
            if isinstance(module, SIZED):
                why = f"it goes into {type(module).__name__}, which holds how wide its input is"
                self.pin_all([a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)], why)

        def leave(*_: Any) -> None:
            self.stack.pop()

        return enter, leave

    # What a tensor carries -------------------------------------------------------------------

    def axes(self, a: Tensor) -> Axes:
        carried = self.known.get(id(a)) or getattr(a, "_axes", None)
        return carried if carried is not None and len(carried) == a.ndim else [None] * a.ndim

    def moves(self, a: Tensor) -> bool:
        """Whether a tensor depends on the input."""
        return id(a) in self.moving or getattr(a, "_moves", False)

    # What rules say --------------------------------------------------------------------------

    def tie(self, a: Atoms | None, b: Atoms | None, why: str) -> None:
        """Index by index the same channel; where one of the two is fixed, so is the other."""
        if a is b or (a is None and b is None):
            return
        if a is None or b is None:
            self.pin(b if a is None else a, why)
            return
        free = (a != FIXED) & (b != FIXED)
        if free.all():
            self.found.ties.append((a, b))
            return
        self.found.ties.append((a[free], b[free]))
        self.pin(a[~free], why)
        self.pin(b[~free], why)

    def pin(self, atoms: Atoms | None, why: str, place: bool = True) -> None:
        if atoms is None or not len(atoms := atoms[atoms != FIXED]):
            return
        if place and (line := line_of_model()):
            why = f"{why} ({line})"
        self.found.pins.append((atoms, why))

    def pin_all(self, tensors: Sequence[Tensor], why: str) -> None:
        for a in tensors:
            for atoms in self.axes(a):
                self.pin(atoms, why)

    def count(self, attribute: str, atoms: Atoms | None) -> bool:
        """Whether the module at work says in an attribute how many atoms these are; then it will
        say how many are left."""
        if atoms is None or not self.stack:
            return False
        path, module = self.stack[-1]
        said = getattr(module, attribute, None)
        if said != len(atoms):
            atoms = np.unique(atoms)  # each may be there for each example, as in an instance norm
            if said != len(atoms) or FIXED in atoms:
                return False
        self.found.counts.setdefault((path, attribute), []).append(atoms)
        return True

    def operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        self.found.used |= {self.owners[id(a)] for a in given if id(a) in self.owners}
        out = func(*args, **kwargs)
        moves = any(map(self.moves, given))
        outs = [a for a in tree_leaves(out) if isinstance(a, Tensor)]
        if any(atoms is not None for a in given for atoms in self.axes(a)):
            name = name_of(func)
            told = bound(func, args, kwargs)
            tagged = POINTWISE if torch.Tag.pointwise in func.tags else name
            rule = RULES.get(name, RULES.get(tagged))
            if rule is None:
                self.pin_all(given, f"it goes into {name}, of which nothing is known here")
            else:
                carried = rule(self, told, outs)
                for a, axes in zip(outs, carried, strict=True):
                    if any(id(a) == id(b) and id(a) in self.known for b in given):
                        continue  # written in place: what was told before stays
                    a._axes = axes  # type: ignore[attr-defined]
        for a in outs:
            if moves and id(a) not in self.owners:
                a._moves = True  # type: ignore[attr-defined]
        return out


_TORCH, _HERE = (
    str(Path(module.__file__ or "").parent) for module in (torch, sys.modules["prunekit"])
)
_PYTHON = sysconfig.get_path("stdlib")


def outside(file: str) -> bool:
    """Whether a file of code is neither torch's nor one that watches here."""
    watches = file.startswith(_HERE) and Path(file).stem in (
        "channels", "surgery", "products", "_modules", "_random", "_arguments",
    )  # fmt: skip
    library = file.startswith(_PYTHON) and "site-packages" not in file
    return not (watches or library or file.startswith((_TORCH, "<")))


def line_of_model() -> str:
    """The line of the model from which an operator is called."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file, number = frame.f_code.co_filename, frame.f_lineno
        if outside(file):
            return f"{Path(file).name}:{number}: {linecache.getline(file, number).strip()}"
        frame = frame.f_back
    return ""


# ------------------------------------------------------------------------------------------ rules

Given = dict[str, Any]  # the arguments of an operator by their names
Rule = Callable[[_Follower, Given, list[Tensor]], list[Axes]]
RULES: dict[str, Rule] = {}
POINTWISE = "any that torch calls pointwise"


def _for(*names: str) -> Callable[[Rule], Rule]:
    def keep(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return keep


def _none(ndim: int) -> Axes:
    return [None] * ndim


def _tensors(given: Given) -> list[Tensor]:
    return [a for a in tree_leaves(list(given.values())) if isinstance(a, Tensor)]


def _aligned(f: _Follower, tensors: Sequence[Tensor], shape: Sequence[int], why: str) -> Axes:
    """The axes of what tensors that broadcast to a shape give, element by element."""
    axes: Axes = [None] * len(shape)
    for axis, n in enumerate(shape):
        seen: list[Atoms | None] = []
        for a in tensors:
            at = axis - len(shape) + a.ndim
            if at < 0 or not a.ndim:
                continue
            atoms = f.axes(a)[at]
            if a.shape[at] == n:
                seen.append(atoms)
            else:
                f.pin(atoms, "it meets all others")  # one channel, broadcast
        axes[axis] = next((atoms for atoms in seen if atoms is not None), None)
        for atoms in seen:
            f.tie(axes[axis], atoms, why)
    return axes


@_for(
    POINTWISE, "clone", "_to_copy", "alias", "detach", "lift", "lift_fresh", "contiguous", "copy",
    "positive", "hardswish", "hardsigmoid", "hardtanh", "_prelu_kernel", "native_dropout",
    "bernoulli", "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like",
    "celu", "elu", "leaky_relu", "log_sigmoid_forward", "softplus", "fill", "zero", "masked_fill",
    "where", "lerp", "addcmul", "addcdiv", "nan_to_num", "mish", "silu", "gelu", "threshold",
    "uniform", "normal",
)  # fmt: skip
def _pointwise(f: _Follower, given: Given, outs: list[Tensor]) -> list[Axes]:
    tensors = [a for a in _tensors(given) if a.ndim]
    why = "it meets values that are not a channel's own"
    return [_aligned(f, tensors, out.shape, why) for out in outs]


NO_CHANNELS = "it is multiplied with what has no channels that can go, such as the network's input"
UNKNOWN_WEIGHT = "the weight that reads it is worked out in a way that is not known here"


def _product(f: _Follower, a: Tensor, b: Tensor, one: Atoms | None, two: Atoms | None) -> None:
    """A dimension of two factors over which a product sums up."""
    if f.moves(a) and f.moves(b):
        for atoms in (one, two):
            f.pin(atoms, "it is summed up in a product of two activations")
        return
    of_weight = (one is None and not f.moves(a)) or (two is None and not f.moves(b))
    f.tie(one, two, UNKNOWN_WEIGHT if of_weight else NO_CHANNELS)
    if not (f.moves(a) or f.moves(b)):  # a weight in two factors, of so many ranks
        _makes(f, b, two)
    for factor, atoms in ((a, one), (b, two)):
        if not f.moves(factor) and atoms is not None:
            f.found.takes.append(atoms[atoms != FIXED])


def _makes(f: _Follower, weight: Tensor, atoms: Atoms | None) -> None:
    if atoms is not None and not f.moves(weight):
        f.found.makes.append(atoms[atoms != FIXED])


@_for("mm", "bmm", "mv", "dot", "addmm", "addmv", "baddbmm", "_addmm_activation")
def _matmul(f: _Follower, given: Given, outs: list[Tensor]) -> list[Axes]:
    values = [a for a in given.values() if isinstance(a, Tensor)]
    a, b = values[-2:]
    first_, second = f.axes(a), f.axes(b)
    _product(f, a, b, first_[-1], second[0 if b.ndim == 1 else -2])
    batch: Axes = []
    if a.ndim == 3:
        f.tie(first_[0], second[0], "it meets what is no channel, product by product")
        batch = [first_[0] if first_[0] is not None else second[0]]
    rows = [] if a.ndim == 1 else [first_[-2]]
    columns = [] if b.ndim == 1 else [second[-1]]
    for weight, atoms in ((a, rows), (b, columns)):
        for each in atoms:
            _makes(f, weight, each)
    axes = [*batch, *rows, *columns]
    if len(values) > 2:  # the bias
        axes = _with(f, axes, outs[0], values[0])
    if columns and not f.moves(b):
        f.count("out_features", axes[-1])
        f.count("in_features", second[-2])
    return [axes]


def _with(f: _Follower, axes: Axes, out: Tensor, bias: Tensor) -> Axes:
    """The axes of a result to which a bias has been added that broadcasts to it."""
    own = f.axes(bias)
    for at in range(bias.ndim):
        axis = at - bias.ndim
        if bias.shape[axis] != out.shape[axis]:
            f.pin(own[axis], "it meets all others")
        elif axes[axis] is None:
            f.pin(own[axis], "it is added to what is no channel")
        else:
            f.tie(axes[axis], own[axis], "it meets values that are not a channel's own")
    return axes


@_for("convolution", "_convolution", "convolution_overrideable")
def _convolution(f: _Follower, given: Given, outs: list[Tensor]) -> list[Axes]:
    x, w, bias, groups = given["input"], given["weight"], given.get("bias"), given["groups"]
    transposed = given["transposed"]
    seen, own = f.axes(x), f.axes(w)
    for atoms in (*seen[2:], *own[2:]):
        f.pin(atoms, "it is a place in an image or a kernel")
    ins, made = (own[0], own[1]) if transposed else (own[1], own[0])
    if f.moves(w):
        f.pin_all([x, w], "it is in a convolution whose weight depends on the input")
        return [[None] * outs[0].ndim]
    if groups == 1:
        _product(f, x, w, seen[1], ins)
    else:
        made = _grouped(f, seen[1], own, x.shape[1], outs[0].shape[1], groups, transposed)
    _makes(f, w, made)
    if bias is not None:
        f.tie(made, f.axes(bias)[0], "it meets values that are not a channel's own")
    f.count("in_channels", seen[1] if groups > 1 else ins)
    f.count("out_channels", made)
    return [[seen[0], made, *[None] * (outs[0].ndim - 2)]]


def _grouped(
    f: _Follower,
    seen: Atoms | None,
    own: Axes,
    inputs: int,
    outputs: int,
    groups: int,
    transposed: bool,
) -> Atoms | None:
    """The outputs of a grouped convolution: each group goes as a whole, inputs and outputs."""
    rows = own[0]
    f.pin(own[1], "it is a place in the kernels of all groups")
    if rows is None or seen is None:
        f.pin(rows, "it is a group of a convolution over what cannot go")
        f.pin(seen, "it is in a group of a convolution that cannot go")
        return None
    each = len(rows) // groups  # rows are outputs; of a transposed convolution, inputs
    heads = rows[::each]
    f.tie(rows, np.repeat(heads, each), "its group cannot go")
    f.tie(seen, np.repeat(heads, inputs // groups), "its group cannot go")
    if not f.count("groups", heads):
        f.pin(heads, "how many groups there are is no attribute of a module")
    return np.repeat(heads, outputs // groups) if transposed else rows


@_for(
    "native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_no_update",
    "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "_batch_norm_with_update",
)  # fmt: skip
def _batch_norm(f: _Follower, given: Given, outs: list[Tensor]) -> list[Axes]:
    x, *others = [a for a in given.values() if isinstance(a, Tensor)]
    axes = f.axes(x)
    for a in others:
        f.tie(axes[1], f.axes(a)[0], "it normalises what cannot go")
    f.count("num_features", axes[1])
    return [axes, *(_none(a.ndim) for a in outs[1:])]


@_for("native_group_norm")
def _group_norm(f: _Follower, given: Given, outs: list[Tensor]) -> list[Axes]:
    x, groups = given["input"], given["group"]
    axes = f.axes(x)
    for name in ("weight", "bias"):
        if given.get(name) is not None:
            f.tie(axes[1], f.axes(given[name])[0], "it normalises what cannot go")
    if (atoms := axes[1]) is not None:
        heads = atoms[:: len(atoms) // groups]
        f.tie(atoms, np.repeat(heads, len(atoms) // groups), "its group of the norm cannot go")
        f.count("num_channels", atoms)
        if not f.count("num_groups", heads):
            f.pin(atoms, "how many groups the norm has is no attribute of a module")
    return [axes, *(_none(a.ndim) for a in outs[1:])]


@_for("native_layer_norm", "_fused_rms_norm", "rms_norm")
def _layer_norm(f: _Follower, given: Given, outs: list[Tensor]) -> list[Axes]:
    x = given["input"]
    axes = f.axes(x)
    first_normed = x.ndim - len(given["normalized_shape"])
    why = "it is normalised together with the other channels"
    for atoms in axes[first_normed:]:
        f.pin(atoms, why)
    f.pin_all([a for n, a in given.items() if n in ("weight", "bias") and a is not None], why)
    kept = [*axes[:first_normed], *[None] * (x.ndim - first_normed)]
    return [kept[: a.ndim] + [None] * (a.ndim - len(kept)) for a in outs]


# ------------------------------------------------------------------------- sums, and what goes over


def _dims(given: Given, ndim: int) -> set[int]:
    dims = given.get("dim", given.get("dims"))
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        return {*range(ndim)}
    return {d % ndim for d in ([dims] if isinstance(dims, int) else dims)} if ndim else set()


@_for(
    "sum", "mean", "amax", "amin", "max", "min", "argmax", "argmin", "var", "std", "var_mean",
    "std_mean", "prod", "any", "all", "logsumexp", "linalg_vector_norm", "norm", "median", "mode",
    "aminmax", "nansum", "nanmean", "count_nonzero",
)  # fmt: skip
def _reduced(f: _Follower, given: Given, outs: list[Tensor]) -> list[Axes]:
    values = [a for a in given.values() if isinstance(a, Tensor)]
    if len(values) > 1:  # the larger or smaller of two tensors
        return _pointwise(f, given, outs)
    axes, gone = f.axes(values[0]), _dims(given, values[0].ndim)
    for d in gone:
        f.pin(axes[d], "it is taken together with the other channels")
    kept = [None if d in gone else atoms for d, atoms in enumerate(axes)]
    left = [atoms for d, atoms in enumerate(axes) if d not in gone]
    return [kept if a.ndim == len(axes) else left for a in outs]


@_for(
    "_softmax", "_log_softmax", "cumsum", "cumprod", "sort", "logcumsumexp", "roll", "argsort",
    "_safe_softmax",
)  # fmt: skip
def _along(f: _Follower, given: Given, outs: list[Tensor]) -> list[Axes]:
    a = next(a for a in given.values() if isinstance(a, Tensor))
    axes, dims = f.axes(a), _dims(given, a.ndim)
    for d in dims:
        f.pin(axes[d], "what it becomes depends on the other channels")
    return [[None if d in dims else atoms for d, atoms in enumerate(axes)] for _ in outs]


@_for(
    *(f"{how}_pool{n}d{rest}"
      for how in ("avg", "max", "adaptive_avg", "_adaptive_avg", "adaptive_max", "fractional_max")
      for n in (1, 2, 3) for rest in ("", "_with_indices")),
    *(f"upsample_{how}" for how in ("nearest1d", "nearest2d", "nearest3d", "bilinear2d",
                                    "bicubic2d", "linear1d", "trilinear3d")),
    *(f"_upsample_{how}" for how in ("nearest_exact1d", "nearest_exact2d", "nearest_exact3d",
                                     "bilinear2d_aa", "bicubic2d_aa")),
    *(f"{how}_pad{n}d" for how in ("reflection", "replication") for n in (1, 2, 3)),
)  # fmt: skip
def _over_places(f: _Follower, given: Given, outs: list[Tensor]) -> list[Axes]:
    """Each channel by itself: what makes an image of an image."""
    x, *rest = [a for a in given.values() if isinstance(a, Tensor)]
    f.pin_all(rest, "it says where to look")
    leading = 2 if x.ndim > 3 or outs[0].shape[:2] == x.shape[:2] else 1
    axes = f.axes(x)
    for atoms in axes[leading:]:
        f.pin(atoms, "it is a place in an image")
    return [[*axes[:leading], *[None] * (a.ndim - leading)] for a in outs]


@_for("constant_pad_nd")
def _padded(f: _Follower, given: Given, outs: list[Tensor]) -> list[Axes]:
    x, pad = given["self"], [*given["pad"]]
    axes = [*f.axes(x)]
    for k in range(len(pad) // 2):
        atoms, (before, after) = axes[-1 - k], pad[2 * k : 2 * k + 2]
        if atoms is None or not (before or after):
            axes[-1 - k] = None if (before or after) else atoms
            continue
        sides = [_added(f, pad, 2 * k, before), _added(f, pad, 2 * k + 1, after)]
        axes[-1 - k] = np.concatenate([sides[0], atoms, sides[1]])
    return [axes]


def _added(f: _Follower, pad: list[int], at: int, size: int) -> Atoms:
    """Channels that padding adds: as many as an attribute of the module says, or fixed ones."""
    path, module = f.stack[-1] if f.stack else ("", None)
    told = getattr(module, "padding", None)
    if size < 0 or not isinstance(told, (list, tuple)) or [*told] != pad:
        return np.full(max(size, 0), FIXED)
    if (path, at) not in f.pads:
        f.pads[path, at] = f.slot(path, at, size, "padding")
    return f.pads[path, at]


# ------------------------------------------------------------------------------------ other shapes


@_for("view", "_unsafe_view", "_reshape_alias", "_reshape_copy", "reshape", "unflatten")
def _viewed(f: _Follower, given: Given, outs: list[Tensor]) -> list[Axes]:
    a = given["self"]
    if a.element_size() != outs[0].element_size():
        f.pin_all([a], "its bytes are taken for another kind of number")
        return [[None] * outs[0].ndim]
    axes: Axes = f.axes(a)
    new: Axes = []
    for old, to in _blocks(a.shape, outs[0].shape):
        merged = _merged(f, [axes[d] for d in old], [a.shape[d] for d in old])
        new += _split(f, merged, [outs[0].shape[d] for d in to])
    return [new]


def _blocks(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[range, range]]:
    """The smallest runs of dimensions, old and new, that have as many elements."""
    i = j = 0
    while i < len(old) or j < len(new):
        start, to = i, j
        a = b = 1
        if i < len(old):
            a, i = old[i], i + 1
        if j < len(new):
            b, j = new[j], j + 1
        while a != b:
            if (a < b or j >= len(new)) and i < len(old):
                a, i = a * old[i], i + 1
            elif j < len(new):
                b, j = b * new[j], j + 1
            else:
                break
        yield range(start, i), range(to, j)


def _merged(f: _Follower, axes: Axes, sizes: Sequence[int]) -> Atoms | None:
    """The axis that several make."""
    at = [d for d, atoms in enumerate(axes) if atoms is not None and sizes[d] > 1]
    if len(at) > 1:
        for d in at:
            f.pin(axes[d], "two dimensions of channels become one")
        return None
    single = [atoms for d, atoms in enumerate(axes) if atoms is not None and d not in at]
    if single and math.prod(sizes) == 1:
        return single[0]
    for one in single:
        f.pin(one, "its dimension is taken away")
    if not at:
        return None
    atoms = axes[at[0]]
    assert atoms is not None
    shape = [len(atoms) if d == at[0] else 1 for d in range(len(sizes))]
    return np.broadcast_to(atoms.reshape(shape), sizes).reshape(-1)


def _split(f: _Follower, atoms: Atoms | None, sizes: Sequence[int]) -> Axes:
    """The axes that one becomes. Where its channels lie along several, equal places of the longest
    go together."""
    axes: Axes = [None] * len(sizes)
    if not sizes:
        f.pin(atoms, "its dimension is taken away")
    if atoms is None or not sizes:
        return axes
    spread = atoms.reshape(sizes)
    wide = [d for d, n in enumerate(sizes) if n > 1]
    if not wide:
        axes[0] = atoms
        return axes
    for d in sorted(wide, key=lambda d: -sizes[d]):
        along = np.moveaxis(spread, d, 0).reshape(sizes[d], -1)
        if (along == along[:, :1]).all():  # as after it was merged
            axes[d] = along[:, 0]
            return axes
    longest = max(wide, key=lambda d: sizes[d])
    along = np.moveaxis(spread, longest, 0).reshape(sizes[longest], -1)
    for other in along.T[1:]:
        f.tie(along[:, 0], other, "it is split from what cannot go")
    axes[longest] = along[:, 0]
    return axes


@_for("t", "transpose", "permute", "movedim", "numpy_T", "swapaxes", "transpose_copy")
def _turned(f: _Follower, given: Given, outs: list[Tensor]) -> list[Axes]:
    a = given["self"]
    order = [*range(a.ndim)]
    if "dims" in given:
        order = [d % a.ndim for d in given["dims"]]
    elif a.ndim > 1:
        one, two = (d % a.ndim for d in (given.get("dim0", 0), given.get("dim1", 1)))
        order[one], order[two] = order[two], order[one]
    return [[f.axes(a)[d] for d in order]]


@_for("unsqueeze")
def _unsqueezed(f: _Follower, given: Given, outs: list[Tensor]) -> list[Axes]:
    axes = [*f.axes(given["self"])]
    axes.insert(given["dim"] % outs[0].ndim, None)
    return [axes]


@_for("squeeze")
def _squeezed(f: _Follower, given: Given, outs: list[Tensor]) -> list[Axes]:
    a = given["self"]
    gone = {d for d in _dims(given, a.ndim) if a.shape[d] == 1}
    for d in gone:
        f.pin(f.axes(a)[d], "its dimension is taken away")
    return [[atoms for d, atoms in enumerate(f.axes(a)) if d not in gone]]


@_for("expand")
def _expanded(f: _Follower, given: Given, outs: list[Tensor]) -> list[Axes]:
    return [_aligned(f, [given["self"]], outs[0].shape, "")]


@_for("repeat")
def _repeated(f: _Follower, given: Given, outs: list[Tensor]) -> list[Axes]:
    a, times = given["self"], given["repeats"]
    axes: Axes = [None for _ in range(len(times) - a.ndim)]
    axes += f.axes(a)
    for d, n in enumerate(times):
        if (atoms := axes[d]) is not None:
            axes[d] = np.tile(atoms, n)
    return [axes]


@_for("flip")
def _flipped(f: _Follower, given: Given, outs: list[Tensor]) -> list[Axes]:
    a = given["self"]
    dims = _dims(given, a.ndim)
    return [
        [
            atoms[::-1] if d in dims and atoms is not None else atoms
            for d, atoms in enumerate(f.axes(a))
        ]
    ]


@_for("slice", "narrow", "index_select", "select", "unbind")
def _taken(f: _Follower, given: Given, outs: list[Tensor]) -> list[Axes]:
    a = given["self"]
    dim = given.get("dim", 0) % a.ndim
    axes = [*f.axes(a)]
    whole = outs and outs[0].ndim == a.ndim and outs[0].shape[dim] == a.shape[dim]
    if not whole or "index" in given:
        f.pin(axes[dim], "places along it are chosen in forward")
        axes[dim] = None
    if outs and outs[0].ndim < a.ndim:
        del axes[dim]
    return [axes for _ in outs]


@_for("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_split_with_sizes")
def _parts(f: _Follower, given: Given, outs: list[Tensor]) -> list[Axes]:
    a = given["self"]
    dim = given.get("dim", 0) % a.ndim
    axes, found = f.axes(a), list[Axes]()
    atoms, start = axes[dim], 0
    sizes = [out.shape[dim] for out in outs]
    if atoms is not None and len({*sizes}) > 1:
        f.pin(atoms, "it is split into parts of unequal sizes")
        atoms = None
    for n in sizes:
        part = None if atoms is None else atoms[start : start + n]
        f.tie(None if atoms is None else atoms[: sizes[0]], part, "it is split from what stays")
        found.append([part if d == dim else own for d, own in enumerate(axes)])
        start += n
    return found


@_for("glu")
def _glu(f: _Follower, given: Given, outs: list[Tensor]) -> list[Axes]:
    a = given["self"]
    dim = given.get("dim", -1) % a.ndim
    axes = [*f.axes(a)]
    if (atoms := axes[dim]) is not None:
        half = len(atoms) // 2
        f.tie(atoms[:half], atoms[half:], "it gates what cannot go")
        axes[dim] = atoms[:half]
    return [axes]


@_for("cat", "concat")
def _joined(f: _Follower, given: Given, outs: list[Tensor]) -> list[Axes]:
    tensors = [a for a in given["tensors"] if a.numel() or a.ndim > 1]
    dim = given.get("dim", 0) % outs[0].ndim
    axes: Axes = []
    for d in range(outs[0].ndim):
        own = [f.axes(a)[d] for a in tensors]
        known = next((atoms for atoms in own if atoms is not None), None)
        if known is not None and d == dim:
            parts = zip(own, tensors, strict=True)
            known = np.concatenate(
                [np.full(a.shape[d], FIXED) if at is None else at for at, a in parts]
            )
        elif known is not None:
            for atoms in own:
                f.tie(known, atoms, "it is joined with what cannot go")
        axes.append(known)
    return [axes]


@_for("stack")
def _stacked(f: _Follower, given: Given, outs: list[Tensor]) -> list[Axes]:
    tensors, dim = given["tensors"], given.get("dim", 0) % outs[0].ndim
    axes = _aligned(f, tensors, tensors[0].shape, "it is stacked with what cannot go")
    axes.insert(dim, None)
    return [axes]


@_for("embedding")
def _looked_up(f: _Follower, given: Given, outs: list[Tensor]) -> list[Axes]:
    rows, columns = f.axes(given["weight"])
    f.pin(rows, "it is a row that is looked up")
    f.pin_all([given["indices"]], "it says which row is looked up")
    _makes(f, given["weight"], columns)
    f.count("embedding_dim", columns)
    return [[*[None] * (outs[0].ndim - 1), columns]]


@_for("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "im2col")
def _shuffled(f: _Follower, given: Given, outs: list[Tensor]) -> list[Axes]:
    """Places become channels, channels places, or channels take turns."""
    x, out = given["self"], outs[0]
    channel = 1 if "groups" in given or "kernel_size" in given else x.ndim - 3
    axes = f.axes(x)
    atoms = axes[channel]
    for other in axes[channel + 1 :]:
        f.pin(other, "it is a place in an image")
    if atoms is not None and "groups" in given:
        turns = atoms.reshape(given["groups"], -1)
        for other in turns[1:]:
            f.tie(turns[0], other, "it takes turns with what cannot go")
        atoms = turns.T.reshape(-1)
    elif atoms is not None and out.shape[channel] < x.shape[channel]:
        turns = atoms.reshape(out.shape[channel], -1)
        for other in turns.T[1:]:
            f.tie(turns[:, 0], other, "it is one channel with what cannot go")
        atoms = turns[:, 0]
    elif atoms is not None:
        atoms = np.repeat(atoms, out.shape[channel] // x.shape[channel])
    places: Axes = [None] * (out.ndim - channel - 1)
    return [[*axes[:channel], atoms, *places]]
