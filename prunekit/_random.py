"""Random draws that come from a seed and leave the global random state alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class LocalRandom(TorchDispatchMode):
    """Random draws inside, such as dropout's, come from a seed and not from the global generator.

    The mode belongs to the thread, so runs in two threads do not disturb each other.
    """

    def __init__(self, seed: int):
        super().__init__()
        self.seed = seed
        self.generators: dict[torch.device, torch.Generator] = {}

    def generator(self, device: torch.device) -> torch.Generator:
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self.generators[device]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        seeded = kwargs.get("generator") is not None
        if seeded or torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        first = args[0] if args and isinstance(args[0], Tensor) else None
        device = first.device if first is not None else torch.device(kwargs.get("device") or "cpu")
        if any(a.name == "generator" for a in func._schema.arguments):
            return func(*args, **{**kwargs, "generator": self.generator(device)})
        drawn = _WITHOUT_GENERATOR.get(func.overloadpacket)
        if drawn is not None:
            return drawn(self.generator(device), *args, **kwargs)
        if draws(func, args, kwargs):
            raise RuntimeError(f"the model draws random numbers with {func}, which takes no seed")
        return func(*args, **kwargs)


def draws(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operator marked as random draws: not with dropout of 0, nor outside training.

    The fused kernels of attention and of recurrent layers are marked, with dropout or without.
    """
    names = [a.name for a in func._schema.arguments]
    given = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
    given |= dict(zip(names, args, strict=False)) | kwargs
    chance = next((given[name] for name in ("dropout_p", "dropout", "p") if name in given), 1)
    return chance != 0 and given.get("train") is not False


def _native_dropout(
    generator: torch.Generator, x: Tensor, p: float, train: bool | None = True
) -> tuple[Tensor, Tensor]:
    if train is False:  # None: as in training
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    keep = torch.empty_like(x).bernoulli_(1 - p, generator=generator)
    scale = 1 / (1 - p) if p < 1 else 0.0
    return x * keep * scale, keep.bool()


# Operators that draw but take no generator.
_WITHOUT_GENERATOR: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.native_dropout: _native_dropout,
    torch.ops.aten.rand_like: lambda g, x, **kw: torch.empty_like(x, **kw).uniform_(generator=g),
    torch.ops.aten.randn_like: lambda g, x, **kw: torch.empty_like(x, **kw).normal_(generator=g),
    torch.ops.aten.rand: lambda g, *size, **kw: torch.rand(*size, **kw, generator=g),
    torch.ops.aten.randn: lambda g, *size, **kw: torch.randn(*size, **kw, generator=g),
    torch.ops.aten.randint: lambda g, *bounds, **kw: torch.randint(*bounds, **kw, generator=g),
    torch.ops.aten.randperm: lambda g, n, **kw: torch.randperm(n, **kw, generator=g),
}
