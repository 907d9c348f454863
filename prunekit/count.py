"""What a network costs: parameters and multiply-adds, dense and with the zeros left out."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prunekit._arguments import checked
from prunekit._modules import call, repeatably
from prunekit.mask import Mask
from prunekit.products import Product, Removed, Watcher, first, watching, with_zeros


@checked
def params(model: nn.Module, mask: Mask | None = None) -> int:
    """How many parameters there are, biases too; with `mask`, how many are kept."""
    everything = sum(p.numel() for p in model.parameters())
    return everything - (mask.total - mask.kept if mask is not None else 0)


@checked
def compression(model: nn.Module, mask: Mask) -> float:
    """All parameters / kept parameters, biases too."""
    return params(model) / max(params(model, mask), 1)


@checked
@dataclass(frozen=True)
class Macs:
    """Multiply-adds of one example: all of them, and those with a kept weight."""

    dense: int
    sparse: int


@checked
def macs(model: nn.Module, x: Any, mask: Mask | None = None) -> Macs:
    """Count the multiply-adds of a forward pass of one example (not FLOPs, which are twice that).

    x: a batch as the model takes it, `(n, ...)`, or a tuple or mapping of such tensors; its first
        example is used.

    Every matrix product, convolution and dot product counts, wherever in the code it stands; a
    product with a masked parameter, or with what is worked out from one without the input, counts
    its kept share in `sparse`. Biases, activations, pooling, normalisation and elementwise products
    that are not summed up at once, outer ones among them, are not counted.

    No setting of the process is changed: other threads may go on training meanwhile.

    Raises ValueError for a mask that does not fit the model, or if the model fails on the example.
    """
    mask = mask if mask is not None else Mask({})
    mask.check(model)
    x = first("macs", model, x)
    try:
        counter = repeatably(model, lambda: _counted(model, mask, x))
    except Exception as error:
        raise ValueError(
            f"macs: the multiply-adds of {type(model).__name__} cannot be counted, it fails on the "
            f"first example: {type(error).__name__}: {error}"
        ) from error
    return Macs(counter.dense, round(counter.sparse))


def _counted(model: nn.Module, mask: Mask, x: Any) -> _Counter:
    counter = _Counter(model, mask, x)
    with watching(model, counter):
        call(model, x)
    return counter


class _Counter(Watcher):
    """Adds up the products, and the share of each that has no removed weight."""

    def __init__(self, model: nn.Module, mask: Mask, x: Any):
        from torch.utils.flop_counter import flop_registry  # slow to import

        parameters = dict(model.named_parameters())
        removed: Removed = {
            n: functools.partial(torch.logical_not, m) for n, m in mask.items() if not m.all()
        }
        removed = with_zeros(parameters) | removed if removed else {}
        super().__init__(parameters, {None: removed}, x)
        self.twins.keep(None)
        self.formulas = flop_registry
        self.dense, self.sparse = 0, 0.0

    def product(self, product: Product, out: Any) -> None:
        twins = [self.twins.of(a, None) for a in product.factors]
        self.dense += product.count
        self.sparse += product.kept(None if twin is None else twin != 0 for twin in twins)
