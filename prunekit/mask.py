"""Mask: which weights a pruned network keeps.

A mask is data, keyed by parameter names. It holds no module and hooks into none, so it can be
saved, compared, applied to a copy of the model and sent to another process.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prunekit import products
from prunekit._arguments import checked
from prunekit._modules import normed_along
from prunekit.knobs import shown

_MAGIC, _FORMAT = b"prunekit mask ", 2  # how the bytes of a mask begin


@overload
def prunable(
    model: nn.Module,
    biases: bool = False,
    ignore: Iterable[str] = (),
    example: Any = None,
    why: Literal[False] = False,
) -> dict[str, nn.Parameter]: ...
@overload
def prunable(
    model: nn.Module,
    biases: bool = False,
    ignore: Iterable[str] = (),
    example: Any = None,
    *,
    why: Literal[True],
) -> dict[str, str]: ...
@checked
def prunable(
    model: nn.Module,
    biases: bool = False,
    ignore: Iterable[str] = (),
    example: Any = None,
    why: bool = False,
) -> dict[str, nn.Parameter] | dict[str, str]:
    """The parameters that may be pruned, ``{name: parameter}``: the matrices that feed a product.

    Without an example the module that holds a parameter decides: in are the matrices of linear,
    convolutional, recurrent, attention, bilinear and embedding layers (a lookup is a product with
    rows of which one element is 1), and of other modules the floating-point parameters of two or
    more dimensions, unless their shape is that of a scale, a token or a table: (1, ...) or (c, 1,
    1). Scales of normalisation, complex weights, and weights that a parametrisation makes dense
    again are out.

    With `example`, a batch as the model takes it, one forward pass in eval mode is watched. In is
    what is a factor of a product, as it is or worked out without the input, and whose zeros are
    zeros there. Tables that are read at places that the input does not choose are out, as are
    learned inputs. What the pass does not use, such as a head for training, its module decides.

    With ``biases`` the biases beside these matrices are in, too. Tied weights appear once, under
    their first name. ``ignore`` holds shell patterns of names to leave out, such as ``"head.*"``.
    With ``why`` the answer is, for every parameter, why it is in or out: ``{name: reason}``.

    Raises ValueError when nothing is left to prune, a pattern matches no parameter, parameters have
    no values yet, or the model fails on the example.
    """
    verdicts = products.verdicts(model, example)
    names = {id(p): name for name, p in model.named_parameters()}
    reasons = {n: f"{'in' if v.feeds else 'out'}: {v.why}" for n, v in verdicts.items()}
    if biases:
        for name in _biases(model, {n for n, v in verdicts.items() if v.feeds}):
            reasons[name] = "in: it is the bias beside a matrix"
    # Tied weights have several names; a pattern may match any of them.
    every = [(name, id(p)) for name, p in model.named_parameters(remove_duplicate=False)]
    for pattern in (ignore,) if isinstance(ignore, str) else ignore:
        if not isinstance(pattern, str):
            raise TypeError(f"ignore: must be names or patterns of them, got {shown(pattern)}")
        hit = {i for name, i in every if fnmatch.fnmatchcase(name, pattern)}
        if not hit:
            raise ValueError(
                f"ignore: no parameter is called {pattern!r}; there are {[*names.values()]}"
            )
        reasons |= {names[i]: f"out: it is to be ignored, {pattern!r}" for i in hit}
    if why:
        return reasons
    parameters = dict(model.named_parameters())
    found = {name: parameters[name] for name, why_ in reasons.items() if why_.startswith("in")}
    if not found:
        matrices = [n for n, p in parameters.items() if p.ndim > 1]
        told = "; ".join(f"{n} is {reasons[n]}" for n in matrices[:3]) or "it has no matrices"
        more = f", and {len(matrices) - 3} more" if len(matrices) > 3 else ""
        raise ValueError(f"{type(model).__name__}: has no weights to prune ({told}{more})")
    return found


def _biases(model: nn.Module, matrices: set[str]) -> set[str]:
    """The names of the biases of modules that hold one of these matrices, parametrised or not."""
    names, found = {id(p): name for name, p in model.named_parameters()}, set()
    for module in model.modules():
        own = dict(module.named_parameters(recurse=False))
        inner = getattr(module, "parametrizations", None)
        held = [*own.values(), *(inner.parameters() if isinstance(inner, nn.Module) else ())]
        if any(names[id(p)] in matrices for p in held):
            found |= {names[id(p)] for n, p in own.items() if p.ndim == 1 and "bias" in n}
    return found


def check_prunable(
    model: nn.Module, data: Any, *, biases: bool = False, ignore: Iterable[str] = (), **_: object
) -> None:
    """The `check` of methods with the knobs `biases` and `ignore`: something is left to prune."""
    prunable(model, biases, ignore, data.example)


class Mask(Mapping[str, Tensor]):
    """Immutable mapping parameter name -> bool tensor; True = the weight is kept.

    Each tensor has the shape of its parameter and lies on the CPU. Tensors are shared between
    masks where they are equal, so never write into one.

    >>> mask = Mask({"fc.weight": torch.tensor([[True, False], [True, True]])})
    >>> mask.sparsity
    0.25
    """

    def __init__(self, tensors: Mapping[str, Tensor]):
        if not isinstance(tensors, Mapping):
            raise TypeError(f"mask: must be a mapping name -> tensor, got {shown(tensors)}")
        for name, keep in tensors.items():
            if not isinstance(keep, Tensor) or keep.dtype != torch.bool or keep.is_meta:
                kind = str(keep.dtype) if isinstance(keep, Tensor) else type(keep).__name__
                if isinstance(keep, Tensor) and keep.is_meta:
                    kind = "one without values"
                raise ValueError(f"mask: {name!r} must be a bool tensor, got {kind}")
        # A copy: whoever made the tensors may go on writing into them.
        self._tensors: dict[str, Tensor | _Bits] = {
            name: keep.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, keep in tensors.items()
        }

    @classmethod
    def _sharing(cls, tensors: Mapping[str, Tensor | _Bits]) -> Mask:
        mask = cls({})
        mask._tensors = {**tensors}
        return mask

    def rest(self) -> None:
        """Keep a bit a weight instead of a byte, as the masks of steps that are long past do.

        Nothing else changes: a tensor is made again, and let go, each time that it is read.
        """
        self._tensors = {name: _Bits.of(keep) for name, keep in self._tensors.items()}

    @classmethod
    @checked
    def ones(
        cls,
        model: nn.Module,
        biases: bool = False,
        ignore: Iterable[str] = (),
        example: Any = None,
    ) -> Mask:
        """The mask that keeps every prunable weight (see `prunable`)."""
        return cls._sharing(
            {
                name: torch.ones(p.shape, dtype=torch.bool, device="cpu")
                for name, p in prunable(model, biases, ignore, example).items()
            }
        )

    @checked
    def left(self, model: nn.Module) -> Mask:
        """What of this mask was not removed from the model before: its weights that are not 0.

        Methods begin with it, so that a pruned network is pruned further: its zeros stay, and
        count. A parameter that is 0 throughout was never pruned but set so; all of it is kept.

        Raises ValueError unless the mask fits the model.
        """
        self.check(model)
        parameters, left = dict(model.named_parameters()), {}
        for name, keep in self.items():
            p = parameters[name].detach()
            stays = keep & (p != 0).cpu() if p.any() else keep
            left[name] = keep if torch.equal(stays, keep) else stays
        return Mask._sharing(left)

    def __getitem__(self, name: str) -> Tensor:
        keep = self._tensors[name]
        return keep.tensor() if isinstance(keep, _Bits) else keep

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mask) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __and__(self, other: Mask) -> Mask:
        """What both masks keep. Both must cover the same parameters."""
        if set(self) != set(other):
            raise ValueError(f"mask: & needs the same names, got {[*self]} and {[*other]}")
        both = {}
        for name, keep in self.items():
            if keep.shape != other[name].shape:
                raise ValueError(
                    f"mask: & needs equal shapes for {name!r}, "
                    f"got {tuple(keep.shape)} and {tuple(other[name].shape)}"
                )
            if keep is other[name]:
                both[name] = keep
                continue
            together = keep & other[name]
            both[name] = keep if torch.equal(together, keep) else together
        return Mask._sharing(both)

    @cached_property
    def kept(self) -> int:
        """How many weights are kept."""
        return sum(int(keep.sum()) for keep in self.values())

    @cached_property
    def total(self) -> int:
        """How many weights the mask covers."""
        return sum(math.prod(keep.shape) for keep in self._tensors.values())

    @property
    def density(self) -> float:
        """Kept weights / all weights."""
        return self.kept / self.total if self.total else 1.0

    @property
    def sparsity(self) -> float:
        """Removed weights / all weights, over the weights that the mask covers."""
        return (self.total - self.kept) / self.total if self.total else 0.0

    @cached_property
    def key(self) -> str:
        """32 hex digits that depend on the content alone, not on the order of the names."""
        content = Mask._sharing(dict(sorted(self._tensors.items())))._content()
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    @checked
    def check(self, model: nn.Module) -> None:
        """Raise ValueError unless every name and shape fits the model, and where weight norm
        divides by the lengths of rows, each row keeps a weight."""
        parameters = dict(model.named_parameters())
        if unknown := [name for name in self if name not in parameters]:
            raise ValueError(
                f"mask: {type(model).__name__} has no parameter {unknown[0]!r}; "
                f"it has {[*parameters]}"
            )
        for name, keep in self.items():
            if keep.shape != parameters[name].shape:
                raise ValueError(
                    f"mask: {name!r} must have shape {tuple(parameters[name].shape)}, "
                    f"got {tuple(keep.shape)}"
                )
            if (dim := normed_along(model, name)) is not None:
                others = [d for d in range(keep.ndim) if d != dim]
                if not bool((kept := keep.any(dim=others)).all()):
                    raise ValueError(
                        f"mask: place {int(kept.long().argmin())} of dimension {max(dim, 0)} of "
                        f"{name!r} would keep nothing, and weight norm divides by its length. "
                        f"Remove less, or ignore {name!r}."
                    )

    @torch.no_grad()
    def apply_(self, model: nn.Module) -> nn.Module:
        """Set the removed weights of `model` to exactly 0, in place, on its own device."""
        self.check(model)
        parameters = dict(model.named_parameters())
        for name, keep in self.items():
            p = parameters[name]
            p.masked_fill_(~keep.to(p.device), 0)
        return model

    def hold(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> RemovableHandle:
        """Keep the removed weights at exactly 0 while `optimizer` trains `model` in any loop.

        The mask is applied at once and again after every step of the optimizer: neither momentum
        nor weight decay brings a weight back. The hold ends with ``remove()`` of what is returned,
        or with its ``with`` block, and leaves nothing behind; a copy is not held::

            with mask.hold(model, optimizer):
                for x, y in batches:
                    ...

        The names are those of `model`. Where it is wrapped, as by ``DistributedDataParallel``, pass
        the model that the mask is for, which shares its parameters with the wrapper.

        Raises ValueError unless the mask fits `model` and the optimizer trains all that it covers.
        """
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ValueError(
                f"hold: optimizer must be a torch.optim.Optimizer, got {shown(optimizer)}"
            )
        self.check(model)
        parameters = dict(model.named_parameters())
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name in self:
            if id(parameters[name]) not in trained:
                raise ValueError(
                    f"hold: the optimizer {type(optimizer).__name__} does not train {name!r}, "
                    "which the mask covers. Pass the optimizer that does, or a mask without it."
                )
        cuts = [(parameters[name], ~keep) for name, keep in self.items() if not bool(keep.all())]
        _cut(cuts)
        return optimizer.register_step_post_hook(partial(_cut, cuts))

    def _content(self) -> bytes:
        """One line of JSON with names and shapes, then one bit a weight."""
        shapes = json.dumps({name: list(keep.shape) for name, keep in self._tensors.items()})
        packed = b"".join(_Bits.of(keep).packed for keep in self._tensors.values())
        return b"\n".join([shapes.encode(), packed])

    def to_bytes(self) -> bytes:
        """A line with format and checksum, one of JSON with names and shapes, one bit a weight."""
        content = self._content()
        return b"%s%d %s\n%s" % (_MAGIC, _FORMAT, _checksum(content), content)

    @classmethod
    @checked
    def from_bytes(cls, packed: bytes) -> Mask:
        """The mask that `to_bytes` wrote, the first form, without checksum, too.

        Raises ValueError if the bytes are damaged.
        """
        checksum, content = _opened(packed)
        shapes, bits = _shapes(content)
        sizes = [math.prod(shape) for shape in shapes.values()]
        if len(bits) != sum((n + 7) // 8 for n in sizes):
            raise ValueError(f"mask: {len(bits)} bytes of bits do not fit the shapes {shapes}")
        if checksum is not None and checksum != _checksum(content):
            raise ValueError("mask: these bytes are damaged, they do not fit their checksum")
        tensors, start = {}, 0
        for (name, shape), n in zip(shapes.items(), sizes, strict=True):
            stop = start + (n + 7) // 8
            tensors[name] = _Bits(shape, bits[start:stop])
            start = stop
        return cls._sharing(tensors)

    @staticmethod
    @checked
    def length(start: bytes) -> int:
        """How long the bytes of a mask are that begin so, with at least its names and shapes.

        Raises ValueError if the bytes are damaged.
        """
        _, content = _opened(start)
        shapes, bits = _shapes(content)
        return len(start) - len(bits) + sum((math.prod(s) + 7) // 8 for s in shapes.values())

    def __repr__(self) -> str:
        return (
            f"Mask({len(self)} tensors, {self.kept:,} of {self.total:,} kept, "
            f"sparsity {self.sparsity:.3f})"
        )


class _Bits:
    """A tensor of a mask at rest: its shape, and a bit a weight."""

    def __init__(self, shape: tuple[int, ...], packed: bytes):
        self.shape, self.packed = shape, packed

    @classmethod
    def of(cls, keep: Tensor | _Bits) -> _Bits:
        """The bits of a tensor. It remembers them: masks that share it share its bits."""
        if isinstance(keep, _Bits):
            return keep
        if not hasattr(keep, "_bits"):
            packed = np.packbits(keep.numpy().reshape(-1)).tobytes()
            keep._bits = cls(tuple(keep.shape), packed)  # type: ignore[attr-defined]
        return keep._bits  # type: ignore[attr-defined]

    def tensor(self) -> Tensor:
        flat = np.unpackbits(np.frombuffer(self.packed, np.uint8), count=math.prod(self.shape))
        return torch.from_numpy(flat.view(bool)).reshape(self.shape)


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=8).hexdigest().encode()


def _opened(packed: bytes) -> tuple[bytes | None, bytes]:
    """The checksum of the bytes of a mask, None in the first form, and what it is over."""
    if not packed.startswith(_MAGIC):
        return None, packed
    line, _, content = packed.partition(b"\n")
    version, _, checksum = line.removeprefix(_MAGIC).partition(b" ")
    if not version.isdigit():
        raise ValueError("mask: these bytes are damaged, they do not start with a format")
    if int(version[:9]) > _FORMAT:
        raise ValueError(
            f"mask: these bytes are of a newer format, {int(version[:9])}; this prunekit knows "
            f"those up to {_FORMAT}. Update prunekit."
        )
    return checksum, content


def _shapes(content: bytes) -> tuple[dict[str, tuple[int, ...]], bytes]:
    """Names and shapes in the bytes of a mask, and the bits behind them."""
    line, _, bits = content.partition(b"\n")
    try:
        shapes = {name: tuple(shape) for name, shape in json.loads(line).items()}
        if not all(type(n) is int and n >= 0 for shape in shapes.values() for n in shape):
            raise ValueError
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise ValueError("mask: these bytes do not start with names and shapes") from None
    return shapes, bits


@torch.no_grad()
def _cut(cuts: list[tuple[nn.Parameter, Tensor]], *_: object) -> None:
    """Set parameters to 0 where their tensor is True; it follows its parameter to its device."""
    for i, (p, removed) in enumerate(cuts):
        if removed.device != p.device:
            removed = removed.to(p.device)
            cuts[i] = p, removed
        p.masked_fill_(removed, 0)
