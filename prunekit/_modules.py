"""What holds for every ``nn.Module``: its tensors by name, their key, its modes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from prunekit._files import digest


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A model's parameters and buffers by name."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def state_key(model: nn.Module) -> str:
    """The key of a model's parameters and buffers."""
    return digest(named_tensors(model))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module has its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def lay_out(parameters: Iterable[nn.Parameter], memory_format: torch.memory_format) -> None:
    """Lay out the kernels of convolutions anew; `contiguous` leaves those of one channel alone."""
    for p in parameters:
        if p.ndim == 4:
            p.data = torch.empty_like(p.data, memory_format=memory_format).copy_(p.data)
