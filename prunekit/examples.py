"""Examples as people have them, as tensors: arrays, tables, data sets, streams; x of several parts.

What has one clear meaning is taken. All else is refused by split and kind, with what to pass
instead: nothing is guessed.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from prunekit._modules import each

# Inputs and targets. Inputs are a tensor, or a tuple or mapping of tensors, a row an example.
Pair = tuple[Any, Tensor]

STACKED = 1_024  # examples that are put together at a time while they are read
# How much is read of what has no length before it is taken for endless: examples, bytes.
STREAMED, STREAMED_BYTES = 250_000, 2**31

_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_WHOLE = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
_UNSIGNED = {torch.uint16, torch.uint32, torch.uint64}  # torch can hardly compute with them
_OF_NUMPY = (np.ndarray, np.generic)


# ---------------------------------------------------------------------------------------- tensors


def leaves(x: Any) -> list[Tensor]:
    """The tensors of inputs."""
    found: list[Tensor] = []
    each(x, found.append)
    return found


def tensor(value: Any) -> Tensor:
    """A tensor, an array, a table or column of pandas, a number or rows of numbers, as a tensor.

    It has no gradient. Floats become float32 but those of tensors and arrays. Raises TypeError that
    says what the value must be, and what it is.
    """
    if isinstance(value, Tensor):
        return _plain(value.detach())
    rows = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    items = value if rows else [value]
    for item in items:
        _refuse_words_and_things(item)
    if rows and any(isinstance(item, Tensor) for item in items):
        found = [tensor(item) for item in items]
        if len({t.shape for t in found}) > 1:
            raise TypeError("must have rows of one shape. Several inputs are a tuple: ((x, z), y)")
        return torch.stack(found)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise TypeError(f"must have rows of numbers of one length: {error}") from error
    if array.dtype.kind not in "biufc":
        for item in array.flat:
            _refuse_words_and_things(item)
        raise TypeError(f"must be numbers, got {array.dtype} such as {str(array.flat[0])[:40]}")
    if np.ma.is_masked(value):
        raise TypeError("must be there, got an array with masked values")
    of_numpy = isinstance(value, _OF_NUMPY) or any(isinstance(item, _OF_NUMPY) for item in items)
    if array.dtype.kind == "f" and (array.itemsize > 8 or not of_numpy):
        array = array.astype(np.float64 if of_numpy else np.float32)
    backwards = any(stride < 0 for stride in array.strides)
    if backwards or not array.flags.writeable or not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="), order="C")
    return _plain(torch.from_numpy(array))


def _refuse_words_and_things(item: Any) -> None:
    """Raise TypeError unless this may be a number, or hold some."""
    if isinstance(item, str):
        raise TypeError(
            f"must be numbers, got words such as {item[:40]!r}. Number them from 0, such as "
            "names.index(word) for each word, and pass classes=names"
        )
    if type(item).__module__.split(".")[0] == "PIL":
        raise TypeError(
            "must be numbers, got images of PIL. Give the data set "
            "transform=torchvision.transforms.ToTensor()"
        )
    counted = isinstance(item, (int, float, complex, Sequence)) and not isinstance(item, bytes)
    if not (counted or hasattr(item, "__array__")):
        raise TypeError(f"must be numbers, got {_kind(item)}")


def _plain(found: Tensor) -> Tensor:
    """A tensor that can be indexed and computed with; raises TypeError else."""
    if found.is_nested or found.layout is not torch.strided:
        raise TypeError(f"must be dense, got {found.layout}. Pass x.to_dense()")
    if found.device.type == "meta":
        raise TypeError("must have values, got a tensor on the device meta")
    if found.dtype in _UNSIGNED:
        if found.dtype is torch.uint64 and (found.long() < 0).any():
            raise TypeError("must fit into int64, got uint64 values that do not")
        found = found.long()
    if found.dtype not in _FLOATS | _WHOLE | {torch.bool}:
        kind = str(found.dtype).removeprefix("torch.")
        raise TypeError(f"must be real numbers, whole or with a point, got {kind}")
    return found.clone() if found.is_inference() else found


def tensors(x: Any) -> Any:
    """Inputs as a tensor; a tuple of tensors or arrays, or a mapping, as one of tensors.

    A tuple of numbers is a row. Raises TypeError as `tensor` does.
    """
    if isinstance(x, Mapping):
        if not x:
            raise TypeError("must not be an empty mapping")
        return {name: tensors(part) for name, part in x.items()}
    if _several(x):
        parts = [tensors(part) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return tensor(x)


def _several(x: Any) -> bool:
    """Whether this is a tuple of what holds numbers, not of numbers."""
    return isinstance(x, tuple) and any(
        isinstance(part, (Tensor, Mapping))
        or (hasattr(part, "__array__") and not isinstance(part, np.generic))
        or _several(part)
        for part in x
    )


def _kind(thing: Any) -> str:
    """What a thing is called in an error: "a dict of 'image' and 'label'", "a tuple of 3"."""
    name = type(thing).__name__
    if isinstance(thing, Mapping):
        return f"a {name} of {' and '.join(map(repr, itertools.islice(thing, 4)))}"
    return f"a {name} of {len(thing)}" if isinstance(thing, (tuple, list)) else f"a {name}"


# ------------------------------------------------------------------------------------------ pairs


@torch.inference_mode(False)  # whose tensors nobody can train with
def pair(x: Any, y: Any, who: str) -> Pair:
    """Inputs and targets as tensors of as many rows: y float32, or int64 where it is whole.

    Raises ValueError or TypeError that says `who`, the rule and the value.
    """
    inputs, targets = _converted(x, y, who)
    parts = leaves(inputs)
    if not all(part.ndim for part in (*parts, targets)):
        raise ValueError(f"{who}: inputs and targets must have a row an example, got one number")
    rows, n = [len(part) for part in parts], len(targets)
    if {*rows} != {n} or not n:
        hint = ""
        if isinstance(x, (list, tuple)):
            hint = ". Several inputs are a tuple, ((x, z), y), and rows of one input a list"
        raise ValueError(
            f"{who}: needs as many inputs as targets, at least one, got "
            f"{' and '.join(map(str, [*rows[:4], n]))}{hint}"
        )
    if len(devices := {str(part.device) for part in (*parts, targets)}) > 1:
        raise ValueError(f"{who}: must lie on one device, got {' and '.join(sorted(devices))}")
    targets = targets.float() if targets.is_floating_point() else targets.long()
    for what, found in (*(("inputs", part) for part in parts), ("targets", targets)):
        if not _finite(found):
            bad = int((~torch.isfinite(found)).sum())
            raise ValueError(f"{who}: {what} must be finite, {bad} values are not")
    return inputs, targets


def _finite(found: Tensor) -> bool:
    """Whether all values are; without a table of their size."""
    if not found.is_floating_point() or not found.numel():
        return True
    return all(bool(torch.isfinite(extreme)) for extreme in found.aminmax())


def _converted(x: Any, y: Any, who: str) -> Pair:
    what = "inputs"
    try:
        inputs = tensors(x)
        if isinstance(inputs, Tensor) and inputs.dtype is torch.bool:  # part of several: a mask
            raise TypeError("must be numbers, got bool. Pass x.float()")
        what = "targets"
        return inputs, tensor(y)
    except TypeError as error:
        raise TypeError(f"{who}: {what} {error}") from error


def form(x: Any) -> Any:
    """The shape of an example of such inputs, and the type of its numbers, tensor by tensor."""
    return each(x, lambda t: f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape[1:])}")


# -------------------------------------------------------------------------------------- data sets


def in_memory(source: Any, who: str) -> Pair:
    """Whatever gives `(x, y)` examples, or a pair of all inputs and all targets, as a `pair`.

    It takes twice the memory of what it gives. Raises ValueError or TypeError that says `who`, what
    is wrong and what to pass instead.
    """
    if isinstance(source, (tuple, list)) and len(source) == 2 and not _are_examples(source):
        return pair(source[0], source[1], who)
    _refuse_other(source, who)
    n = _length(source, who)
    examples, together = _examples(source, n, who), list[Pair]()
    first, count = None, 0
    while read := [*itertools.islice(examples, STACKED)]:
        first = first or read[0]
        _refuse_other_shapes(first, read, count, who)
        together.append(_joined(read, torch.stack))
        count += len(read)
    if not together:
        raise ValueError(f"{who}: the data set is empty")
    x, y = _joined(together, torch.cat)
    together.clear()
    return pair(x, y, who)


def _are_examples(source: Any) -> bool:
    """Whether a list of two is a data set of two examples, not a pair."""
    return isinstance(source, list) and all(isinstance(e, tuple) and _several(e) for e in source)


def _refuse_other(source: Any, who: str) -> None:
    """Raise TypeError for what is no data set, with what to pass instead."""
    hint = None
    if isinstance(source, DataLoader):
        hint = "Pass its data set: loader.dataset"
    elif isinstance(source, (str, bytes, os.PathLike)):
        hint = "Pass what is read from there"
    elif isinstance(source, Mapping):
        hint = "Pass its splits one by one: Data.of(train, validation, test)"
    elif isinstance(source, Set):
        hint = "It has no order. Pass a list of (x, y) examples"
    elif hasattr(source, "__array__"):
        hint = "Pass inputs and targets as a pair: (x, y)"
    elif isinstance(source, type) or not (
        hasattr(source, "__iter__") or hasattr(source, "__getitem__")
    ):
        hint = "Pass a data set, or a pair (x, y)"
    if hint:
        raise TypeError(
            f"{who}: must be a data set of (x, y) examples, or a pair of tensors, got "
            f"{_kind(source)}. {hint}."
        )


def _length(source: Any, who: str) -> int | None:
    """How many examples can be asked for by number; None where they come until they end."""
    if isinstance(source, IterableDataset) or not hasattr(source, "__getitem__"):
        return None
    if not hasattr(source, "__len__"):
        return None
    try:
        return len(source)
    except Exception as error:
        raise ValueError(
            f"{who}: the length of a {type(source).__name__} cannot be told: {error}. Add __len__, "
            "or pass a list of (x, y) examples."
        ) from error


def _examples(source: Any, n: int | None, who: str) -> Iterator[Pair]:
    """The examples of a data set, as tensors."""
    stream, size = iter(source) if n is None else iter(source[i] for i in range(n)), 0
    for i in itertools.count():
        try:
            example = next(stream)
        except StopIteration:
            return
        except Exception as error:
            of = "" if n is None else f" of {n:,}"
            raise ValueError(
                f"{who}: example {i}{of} cannot be read: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(example, (tuple, list)) or len(example) != 2:
            raise TypeError(
                f"{who}: examples must be pairs (x, y), number {i} is {_kind(example)}. "
                f"{_to_pair(example)}."
            )
        found = _converted(example[0], example[1], f"{who}, example {i}")
        if not i:
            size = sum(t.nbytes for t in leaves(found))
            _refuse_too_much(n, size, who)
        if n is None and (i == STREAMED or i * size > STREAMED_BYTES):
            raise ValueError(
                f"{who}: what has no length must end, {i:,} examples came without an end. Pass "
                "some of them with itertools.islice, or a data set with __len__ and __getitem__."
            )
        yield found


def _to_pair(example: Any) -> str:
    """How an example of another form becomes a pair, in words."""
    if isinstance(example, Mapping) and len(example) > 1:
        x, y = itertools.islice(example, 2)
        return f"Pass pairs, such as [(e[{x!r}], e[{y!r}]) for e in data]"
    if isinstance(example, (tuple, list)) and len(example) > 2:
        return "Pass [(x, y) for x, y, *_ in data], or several inputs as a tuple: ((x, w), y)"
    return "Put its target beside it"


def _refuse_too_much(n: int | None, size: int, who: str) -> None:
    """Raise ValueError if n examples of so many bytes are more than this machine can hold."""
    if n is None or not hasattr(os, "sysconf"):  # Windows
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if n * size > memory:
        raise ValueError(
            f"{who}: {n:,} examples of {size:,} bytes take {n * size / 1e9:,.0f} GB in memory, "
            f"there are {memory / 1e9:,.0f} GB. Pass part of them (torch.utils.data.Subset), or "
            "data of your own with batches(split, size, generator), loss and metric."
        )


def _refuse_other_shapes(first: Pair, read: list[Pair], start: int, who: str) -> None:
    """Raise ValueError unless all examples have the shapes of the first."""
    for part, what in enumerate(("inputs", "targets")):
        expected = each(first[part], _shape)
        for i, example in enumerate(read, start):
            if (found := each(example[part], _shape)) != expected:
                raise ValueError(
                    f"{who}: all examples must have {what} of one shape, number 0 has {expected}, "
                    f"number {i} has {found}"
                )


def _shape(part: Tensor) -> tuple[Any, ...]:
    """The shape; bytes are told apart, they are on another scale."""
    return (*part.shape, "uint8") if part.dtype is torch.uint8 else tuple(part.shape)


def _joined(xs: list[Any], join: Callable[[list[Tensor]], Tensor]) -> Any:
    """Things of one form as one, tensor by tensor."""
    first = xs[0]
    if isinstance(first, Tensor):
        return join(xs)
    if isinstance(first, Mapping):
        return {name: _joined([x[name] for x in xs], join) for name in first}
    parts = [_joined([*part], join) for part in zip(*xs, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
