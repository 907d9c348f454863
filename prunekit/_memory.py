"""How many examples of a batch fit into some memory; memory that is kept, and that goes back."""

from __future__ import annotations

import ctypes
import os
import sys
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prunekit._modules import call, device_of, each, evaluating, place, repeatably
from prunekit._random import LocalRandom

_C = ctypes.CDLL(None) if sys.platform == "linux" else None
_TRIM, _OPTION = getattr(_C, "malloc_trim", None), getattr(_C, "mallopt", None)
# mallopt(3): pieces of so many bytes come from the system, and freed ones up to so many are kept.
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = (-3, 32 * 2**20), (-1, 256 * 2**20)
CHOSEN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
AT_ONCE = 3  # tensors of the largest layer that a forward pass holds


def keep_freed() -> None:
    """Let glibc keep what one batch frees for the next, unless somebody chose otherwise.

    By itself it gives large pieces back at once, and every batch waits for new pages.
    """
    if _OPTION is not None and not any(name in os.environ for name in CHOSEN):
        _OPTION(*M_MMAP_THRESHOLD)
        _OPTION(*M_TRIM_THRESHOLD)


def give_back() -> None:
    """Give what was freed back to the system: glibc keeps it, in a notebook's kernel all day."""
    if _TRIM is not None:
        _TRIM(0)


class _Sizes(TorchDispatchMode):
    """Bytes of all that operators make inside, and of the largest."""

    def __init__(self) -> None:
        super().__init__()
        self.all = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {id(a.untyped_storage()) for a in _dense((args, kwargs))}
        for made in _dense(out):
            if id(made.untyped_storage()) not in given:  # a view takes none
                self.all += made.nbytes
                self.largest = max(self.largest, made.nbytes)
        return out


def _dense(values: Any) -> list[Tensor]:
    leaves = (a for a in tree_leaves(values) if isinstance(a, Tensor))
    return [a for a in leaves if a.layout is torch.strided]


_measured: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()


def examples_within(
    memory: int | None, model: nn.Module, data: Any, split: str, most: int, kept: bool
) -> int:
    """How many examples of a split, up to `most`, a forward pass can take within `memory` bytes.

    kept: all that is computed on the way is kept, for a backward pass.
    memory: None stands for 64 MiB on a CPU, 2 GiB on an accelerator.
    """
    if memory is None:
        memory = 64 * 2**20 if device_of(model).type == "cpu" else 2**31
    of_model = _measured.setdefault(model, weakref.WeakKeyDictionary())
    if data not in of_model:
        of_model[data] = _bytes_an_example(model, data, split)
    everything, largest = of_model[data]
    # The backward pass holds a gradient beside it; it frees what it has passed.
    an_example = everything + largest if kept else AT_ONCE * largest
    return max(min(memory // max(an_example, 1), most), 1)


def _bytes_an_example(model: nn.Module, data: Any, split: str) -> tuple[int, int]:
    """Of all that a forward pass computes, and of the largest tensor in it."""
    x, _ = next(iter(data.batches(split, 1)), (None, None))
    sizes = _Sizes()
    try:
        x = place(each(x, lambda tensor: tensor[:1]), device_of(model))
        with torch.no_grad(), evaluating(model):
            repeatably(model, lambda: _within(sizes, model, x))
    except Exception:
        return 0, 0  # what is wrong is said where the model is asked in earnest
    return sizes.all, sizes.largest


def _within(sizes: _Sizes, model: nn.Module, x: Any) -> None:
    with LocalRandom(0), sizes:
        call(model, x)


keep_freed()
