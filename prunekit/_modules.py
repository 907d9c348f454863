"""What holds for every ``nn.Module``: its tensors by name, their key, its modes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from prunekit._files import describe, digest
from prunekit._random import LocalRandom, repeatable

T = TypeVar("T")
OF_TORCH = frozenset(vars(nn.Module()))  # layers, hooks, the mode: what every module has


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A model's parameters and buffers by name."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def state_key(model: nn.Module) -> str:
    """The key of a model's parameters and buffers."""
    return digest(named_tensors(model))


def structure(model: nn.Module) -> str:
    """What a model is besides its tensors: its modules' classes and plain attributes.

    The text is the same in every process: it holds no addresses.
    """
    lines = []
    for name, module in model.named_modules():
        kind = type(module)
        own = {k: _described(v) for k, v in vars(module).items() if k not in OF_TORCH}
        lines.append(f"{name}: {kind.__module__}.{kind.__qualname__} {own}")
    return re.sub(r" at 0x[0-9a-fA-F]+", "", f"{model}\n") + "\n".join(lines)


def _described(value: Any) -> str:
    try:
        return describe(value)
    except TypeError:  # it has no content that can be told; its class is what is known
        return type(value).__qualname__


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's parameters and buffers, on their device."""
    return {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}


@torch.no_grad()
def put_back(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy a `snapshot` into the model."""
    for name, tensor in named_tensors(model).items():
        tensor.copy_(tensors[name])


def device_of(model: nn.Module) -> torch.device:
    """Where the parameters lie; without any, the CPU."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def each(x: Any, change: Callable[[Tensor], Any]) -> Any:
    """A tensor, or a tuple or mapping of tensors, with each of them changed."""
    if isinstance(x, Tensor):
        return change(x)
    if isinstance(x, Mapping):
        return {name: each(part, change) for name, part in x.items()}
    parts = [each(part, change) for part in x]
    return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)  # a named tuple stays one


def call(model: nn.Module, x: Any) -> Any:
    """What the model answers to a batch: a tensor, or a tuple or mapping of tensors.

    A tuple is spread over the arguments, and a mapping over the keywords, where the signature of
    ``forward`` takes them so; else they are handed over whole.
    """
    if isinstance(x, Mapping) and _takes(model, (), x):
        return model(**x)
    if isinstance(x, tuple) and _takes(model, x, {}):
        return model(*x)
    return model(x)


def _takes(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether the model's ``forward`` can be called so; a wrapper's is that of what it wraps."""
    while (inner := getattr(model, "module", getattr(model, "_orig_mod", None))) is not None:
        if not isinstance(inner, nn.Module):
            break
        model = inner
    try:
        inspect.signature(model.forward).bind(*args, **kwargs)
    except (TypeError, ValueError):  # it cannot, or its signature cannot be told
        return False
    return True


def place(x: Any, device: torch.device) -> Any:
    """A tensor, or a tuple or mapping of tensors, on a device."""
    return each(x, lambda tensor: tensor.to(device))


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


def repeatably(model: nn.Module, work: Callable[[], T]) -> T:
    """What ``work()`` gives with a model, the same every time: what is drawn comes from a seed, and
    buffers that move meanwhile go back. It may be done twice."""
    buffers = {name: b.detach().clone() for name, b in model.named_buffers()}

    def once(draws: LocalRandom | None) -> tuple[T]:
        try:
            return (work(),)
        finally:
            with torch.no_grad():
                for name, b in model.named_buffers():
                    if name in buffers:
                        b.copy_(buffers[name])

    return repeatable(once, model, device_of(model))[0]


@torch.no_grad()
def lay_out(parameters: Iterable[nn.Parameter], memory_format: torch.memory_format) -> None:
    """Lay out the kernels of convolutions anew; `contiguous` leaves those of one channel alone."""
    for p in parameters:
        if p.ndim == 4:
            p.data = torch.empty_like(p.data, memory_format=memory_format).copy_(p.data)
