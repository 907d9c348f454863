"""What a network costs: parameters and multiply-adds, dense and with the zeros left out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from prunekit._modules import call, device_of, each, evaluating, place
from prunekit.mask import Mask


def params(model: nn.Module, mask: Mask | None = None) -> int:
    """How many parameters there are, biases too; with `mask`, how many are kept."""
    everything = sum(p.numel() for p in model.parameters())
    return everything - (mask.total - mask.kept if mask is not None else 0)


def compression(model: nn.Module, mask: Mask) -> float:
    """All parameters / kept parameters, biases too."""
    return params(model) / max(params(model, mask), 1)


@dataclass(frozen=True)
class Macs:
    """Multiply-adds of one example: all of them, and those with a kept weight."""

    dense: int
    sparse: int


def macs(model: nn.Module, x: Any, mask: Mask | None = None) -> Macs:
    """Count the multiply-adds of a forward pass of one example (not FLOPs, which are twice that).

    x: a batch as the model takes it, `(n, ...)`, or a tuple or mapping of such tensors; its first
        example is used.

    Every matrix product and convolution counts, wherever in the code it stands; a product with a
    masked parameter, or with what is worked out from one without the input, counts its kept share
    in `sparse`. Biases, activations, pooling and normalisation are not counted.

    Raises ValueError for a mask that does not fit the model.
    """
    mask = mask if mask is not None else Mask({})
    mask.check(model)
    x = each(place(x, device_of(model)), lambda tensor: tensor[:1])
    counter = _Counter(model, mask, x)
    with evaluating(model), _unfused(), counter:
        call(model, x)
    return Macs(counter.dense, round(counter.sparse))


@contextmanager
def _unfused() -> Iterator[None]:
    """No fused kernels: attention and recurrent layers show the products they are made of."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    onednn = torch._C._get_mkldnn_enabled()  # its public switch warns on processors without TF32
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)
    try:
        with (
            torch.inference_mode(False),  # its operators show no products
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            torch.backends.cudnn.flags(enabled=False),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._set_mkldnn_enabled(onednn)


def _tensors(values: Any) -> list[Tensor]:
    """All dense tensors in nested arguments or results that have a memory."""
    leaves = [a for a in tree_leaves(values) if isinstance(a, Tensor)]
    return [a for a in leaves if a.layout is torch.strided and a.untyped_storage().nbytes()]


def _memory(a: Tensor) -> tuple[int, int]:
    """Where the memory of a tensor, which views share, begins, and how many bytes it has."""
    return a.untyped_storage().data_ptr(), a.untyped_storage().nbytes()


class _Twins(dict[tuple[int, int], torch.UntypedStorage]):
    """Of each memory with removed weights a copy where they alone are 0."""

    @torch.no_grad()
    def __init__(self, model: nn.Module, mask: Mask):
        super().__init__()
        parameters = dict(model.named_parameters())
        removed = {name: ~keep for name, keep in mask.items() if not bool(keep.all())}
        for name in removed:
            self.add(parameters[name])
        for p in _tensors([*parameters.values()]):
            if (twin := self.of(p)) is not None:
                twin.masked_fill_(twin == 0, 1)
        for name, gone in removed.items():
            if (twin := self.of(parameters[name])) is not None:
                twin.masked_fill_(gone.to(twin.device), 0)

    def of(self, a: Tensor) -> Tensor | None:
        """What lies in the twin at the place of a tensor, which may be a view."""
        memory = self.get(_memory(a))
        if memory is None:
            return None
        at = (a.storage_offset(), a.shape, a.stride())
        return torch.empty(0, dtype=a.dtype, device=a.device).set_(memory, *at)

    def add(self, a: Tensor) -> Tensor:
        """The same for a tensor without a twin, which gets a plain copy as its twin."""
        if (memory := _memory(a)) not in self:
            self[memory] = a.untyped_storage().clone()
        twin = self.of(a)
        assert twin is not None
        return twin


class _Counter(TorchDispatchMode):
    """Adds up the products, and the share of each that has no removed weight.

    A weight is recognised by its memory, also as a view or in a common buffer. What the model works
    out from parameters alone, such as a cast or a normed weight, is worked out from their twins
    too, and the result is a twin again. What depends on the input has none, nor has a product of
    matrices: zeros there are no removed weights.
    """

    def __init__(self, model: nn.Module, mask: Mask, x: Any):
        super().__init__()
        from torch.utils.flop_counter import flop_registry  # slow to import

        # The registry leaves out matrix × vector.
        self.flops = {**flop_registry, torch.ops.aten.mv: lambda a, *_, **__: 2 * a.numel()}
        self.dense, self.sparse = 0, 0.0
        self.twins = _Twins(model, mask)
        self.moving = {_memory(part) for part in _tensors(x)}  # what depends on the input

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs, flops = kwargs or {}, self.flops.get(func.overloadpacket)
        given = {_memory(a) for a in _tensors((args, kwargs))}
        if func.overloadpacket is torch.ops.aten.lift_fresh:
            given = set()  # a new constant, whatever lay there before
        moving = not given.isdisjoint(self.moving)
        weight = not (moving or flops or given.isdisjoint(self.twins))
        # Before the operator itself, which may write into what it is given.
        twins = self._on_twins(func, args, kwargs) if weight else []
        out = func(*args, **kwargs)
        if flops:
            self._count(func, args, flops(*args, **kwargs, out_val=out) // 2)
        for i, a in enumerate(_tensors(out)):
            memory = _memory(a)
            if moving or memory not in given:
                self.twins.pop(memory, None)
                (self.moving.add if moving else self.moving.discard)(memory)
            if weight and memory not in given and twins[i].shape == a.shape:
                self.twins.add(a).copy_(twins[i])
        return out

    def _on_twins(self, func: Any, args: Any, kwargs: Any) -> list[Tensor]:
        """What the operator gives for the twins; tensors without one stand for themselves."""

        def twin(a: Any) -> Any:
            if not isinstance(a, Tensor) or not _tensors(a):
                return a
            if func._schema.is_mutable:
                return self.twins.add(a)
            return a if (known := self.twins.of(a)) is None else known

        args, kwargs = tree_map(twin, (args, kwargs))
        return _tensors(func(*args, **kwargs))

    def _count(self, func: Any, args: tuple[Any, ...], products: int) -> None:
        """Add the products of a convolution or of matrices."""
        name = func.overloadpacket.__name__
        start = int(name.startswith(("add", "badd")))  # these begin with a summand
        twins = [self.twins.of(a) for a in args[start : start + 2]]
        kept = [(twin != 0).cpu() for twin in twins if twin is not None]
        share = math.prod(int(k.sum()) / max(k.numel(), 1) for k in kept)
        if len(kept) == 2 and products and "conv" not in name:
            a, b = (k.double() for k in kept)  # (..., m, k) and (..., k, n)
            share = float((a @ b).mean()) / a.shape[-1]
        self.dense += products
        self.sparse += products * share
