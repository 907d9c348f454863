"""What a network costs: parameters and multiply-adds, dense and with the zeros left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from prunekit._modules import evaluating
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


def macs(model: nn.Module, x: Tensor, mask: Mask | None = None) -> Macs:
    """Count the multiply-adds of a forward pass of one example (not FLOPs, which are twice that).

    x: a batch as the model takes it, `(n, ...)`; its first example is used. Every matrix product
    and convolution counts, wherever in the code it stands; a product with a masked parameter counts
    its kept share in `sparse`. Biases, activations, pooling and normalisation are not counted.
    """
    counter = _Counter(model, mask if mask is not None else Mask({}))
    with evaluating(model), _unfused(), counter:
        model(x[:1].to(next(model.parameters()).device))
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
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            torch.backends.cudnn.flags(enabled=False),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._set_mkldnn_enabled(onednn)


class _Counter(TorchDispatchMode):
    """Adds up the products; a weight is recognised by its memory, also when transposed."""

    def __init__(self, model: nn.Module, mask: Mask):
        super().__init__()
        from torch.utils.flop_counter import flop_registry  # slow to import

        # The registry leaves out matrix × vector.
        self.flops = {**flop_registry, torch.ops.aten.mv: lambda a, *_, **__: 2 * a.numel()}
        self.dense, self.sparse = 0, 0.0
        self.density: dict[int, tuple[int, int]] = {
            p.untyped_storage().data_ptr(): (int(mask[name].sum()), p.numel())
            for name, p in model.named_parameters()
            if name in mask
        }

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        flops = self.flops.get(func.overloadpacket)
        if flops is not None:
            products = flops(*args, **(kwargs or {}), out_val=out) // 2
            kept, total = 1, 1
            for a in args:
                if isinstance(a, Tensor) and a.ndim >= 2:
                    kept, total = self.density.get(a.untyped_storage().data_ptr(), (kept, total))
            self.dense += products
            self.sparse += products * kept / total
        return out
