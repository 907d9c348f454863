"""What holds for every ``nn.Module``: its tensors by name, their key, its modes."""

from __future__ import annotations

import collections
import copy
import functools
import inspect
import operator
import random
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import repeat
from types import CodeType, FunctionType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.weight_norm import WeightNorm

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


def check_values(who: str, model: nn.Module, meta: bool = True) -> None:
    """Raise ValueError that names `who` and the first parameter that has no values yet; with
    ``meta=False``, as of lazy modules, and not those that only lack memory."""
    for name, p in model.named_parameters():
        if isinstance(p, nn.parameter.UninitializedParameter):
            raise ValueError(
                f"{who}: {type(model).__name__} is lazy, {name} is uninitialized. Call the "
                "model once on an example, so that forward gives it its shape."
            )
        if meta and p.is_meta:
            raise ValueError(
                f"{who}: {name} of {type(model).__name__} is on the meta device and has no "
                "values. Load them first, or build the model on the CPU."
            )


HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_backward_pre_hooks",
    "_backward_hooks",
)


def structure(model: nn.Module, first: bool = False) -> str:
    """What a model is besides its tensors: its modules' classes, plain attributes and hooks.

    The text is the same in every process: it holds no addresses. Raises TypeError that names the
    attribute that has no content by which two such models could be told apart. With `first`, the
    text is that of the first journals: such an attribute is its class alone, and hooks are not in.
    """
    lines = []
    for name, module in model.named_modules():
        kind = type(module)
        own = {
            attribute: _described(value, f"{name}.{attribute}".lstrip("."), first)
            for attribute, value in vars(module).items()
            if attribute not in OF_TORCH
            and (first or not kind.__module__.startswith("torch._dynamo"))
        }  # how a model is compiled is no part of what it is
        for attribute in () if first else HOOKS:
            if hooks := vars(module).get(attribute):  # without the numbers that torch gives them
                place = f"{name}.{attribute}".lstrip(".")
                own[attribute] = _described([*hooks.values()], place, first)
        lines.append(f"{name}: {kind.__module__}.{kind.__qualname__} {own}")
    return re.sub(r" at 0x[0-9a-fA-F]+", "", f"{model}\n") + "\n".join(lines)


def _described(value: Any, place: str, first: bool) -> str:
    try:
        return describe(value)
    except TypeError:
        if first or type(value).__module__.partition(".")[0] == "torch":  # as a process group
            return type(value).__qualname__
    try:
        return describe(_with_code(value))
    except TypeError as error:
        raise TypeError(
            f"model: {place} has no content by which this model could be told from another one, "
            f"got a {type(value).__qualname__}: {error}"
        ) from error


def _with_code(value: Any) -> Any:
    """The value with descriptions in the place of what has no name or content to go by: lambdas and
    functions in functions are what they are made of."""
    if isinstance(value, FunctionType) and "<" in value.__qualname__:
        return _Code(value)
    if isinstance(value, functools.partial):
        return [functools.partial, *map(_with_code, (value.func, value.args, value.keywords))]
    if isinstance(value, weakref.ref):  # as a recurrent layer's to its own weights
        return weakref.ref
    if type(value) in (list, tuple):
        return [_with_code(part) for part in value]
    if type(value) is dict:
        return {name: _with_code(part) for name, part in value.items()}
    return value


class _Code:
    """A function described by its code, defaults, and the values that it closes over."""

    def __init__(self, function: FunctionType):
        cells = [_with_code(cell.cell_contents) for cell in function.__closure__ or ()]
        rest = [_with_code(function.__defaults__), _with_code(function.__kwdefaults__)]
        place = f"{function.__module__}.{function.__qualname__}"
        self.key = digest(place, _instructions(function.__code__), cells, rest)


def _instructions(code: CodeType) -> list[Any]:
    constants = [_instructions(c) if isinstance(c, CodeType) else c for c in code.co_consts]
    return [code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants]


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's parameters and buffers, on their device."""
    return {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}


@torch.no_grad()
def put_back(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy a `snapshot` into the model."""
    for name, tensor in named_tensors(model).items():
        if name in tensors:  # others were registered since
            _restore(tensor, tensors[name])


def overlaps(tensor: Tensor) -> bool:
    """Whether several values of a tensor lie at one place, as after ``expand``."""
    if tensor.layout is not torch.strided:
        return False
    return any(s == 0 and n > 1 for s, n in zip(tensor.stride(), tensor.shape, strict=True))


def _restore(tensor: Tensor, before: Tensor) -> None:
    """Give a tensor its values back, and its shape, unless nobody can write into it."""
    if overlaps(tensor) or (tensor.is_inference() and not torch.is_inference_mode_enabled()):
        return
    if tensor.shape != before.shape:
        tensor.resize_(before.shape)
    tensor.copy_(before)


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


def answer(who: str, model: nn.Module, x: Any) -> Any:
    """As `call`. Raises ValueError where the inputs and the model do not fit together."""
    try:
        return call(model, x)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"{who}: {type(model).__name__} fails on these data: {type(error).__name__}: {error}"
        ) from error


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
    own = [vars(module) for module in model.modules()]
    modes = [module.training for module in model.modules()]
    try:
        model.eval()
        yield
    finally:  # in one go, which Python does not interrupt
        collections.deque(map(operator.setitem, own, repeat("training"), modes), maxlen=0)


def plain_attributes(model: nn.Module) -> dict[tuple[str, str], Any]:
    """Numbers, words and the like that modules hold beside their tensors, such as a counter, by the
    module's name and their own."""
    return {
        (name, attribute): value
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        if type(value) in _PLAIN and attribute not in OF_TORCH
    }


def put_back_attributes(model: nn.Module, attributes: Mapping[tuple[str, str], Any]) -> None:
    """Turns `plain_attributes` around."""
    modules = dict(model.named_modules())
    for (name, attribute), value in attributes.items():
        if name in modules:  # others have gone since
            modules[name].__dict__[attribute] = value


_PLAIN = (bool, int, float, str, type(None))  # what JSON has


class Remembered:
    """The tensors and plain attributes that a model has now; called, it gives them back."""

    def __init__(self, model: nn.Module):
        self.model, self.tensors = model, snapshot(model)
        self.attributes = plain_attributes(model)

    def __call__(self) -> None:
        put_back(self.model, self.tensors)
        put_back_attributes(self.model, self.attributes)

    def moved(self) -> str:
        """The first parameter that has other values now, or ""."""
        for name, p in self.model.named_parameters():
            if name not in self.tensors:
                continue
            before, now = self.tensors[name], p.detach()
            if before.shape != now.shape:
                return name
            if not bool(((before == now) | (before != before) & (now != now)).all()):
                return name
        return ""


@contextmanager
def own_generators(model: nn.Module, seed: int | None = None) -> Iterator[None]:
    """Generators that modules hold as attributes are afterwards what they were; with `seed`, they
    begin from it."""
    held = [
        value
        for module in model.modules()
        for value in vars(module).values()
        if type(value) in _GENERATORS
    ]
    begun = [copy.deepcopy(_GENERATORS[type(g)].state(g)) for g in held]
    try:
        if seed is not None:
            for g in held:
                _GENERATORS[type(g)].seed(g, seed)
        yield
    finally:
        for g, state in zip(held, begun, strict=True):
            _GENERATORS[type(g)].put_back(g, state)


class _Kind(NamedTuple):
    """What a kind of generators is handled with."""

    state: Callable[[Any], Any]
    put_back: Callable[[Any, Any], Any]
    seed: Callable[[Any, int], Any]


def _to_bits(g: np.random.Generator, state: Any) -> None:
    g.bit_generator.state = state


_GENERATORS = {
    torch.Generator: _Kind(
        torch.Generator.get_state, torch.Generator.set_state, torch.Generator.manual_seed
    ),
    random.Random: _Kind(random.Random.getstate, random.Random.setstate, random.Random.seed),
    np.random.Generator: _Kind(
        lambda g: g.bit_generator.state,
        _to_bits,
        lambda g, seed: _to_bits(g, type(g.bit_generator)(seed).state),
    ),
    np.random.RandomState: _Kind(
        np.random.RandomState.get_state,
        np.random.RandomState.set_state,
        lambda g, seed: g.seed(seed % 2**32),
    ),
}


def repeatably(model: nn.Module, work: Callable[[], T]) -> T:
    """What ``work()`` gives with a model, the same every time: what is drawn comes from a seed, and
    what moves meanwhile goes back: buffers, plain attributes, generators that the model holds. It
    may be done twice."""
    buffers = [(m, name, b) for m in model.modules() for name, b in m._buffers.items()]
    before = [None if b is None else b.detach().clone() for _, _, b in buffers]
    attributes = plain_attributes(model)

    def once(draws: LocalRandom | None) -> tuple[T]:
        try:
            with own_generators(model):
                return (work(),)
        finally:
            with torch.no_grad():
                for (module, name, b), was in zip(buffers, before, strict=True):
                    module._buffers[name] = b
                    if b is not None and was is not None:
                        _restore(b, was)
            put_back_attributes(model, attributes)

    return repeatable(once, model, device_of(model))[0]


@torch.no_grad()
def lay_out(parameters: Iterable[nn.Parameter], memory_format: torch.memory_format) -> None:
    """Lay out the kernels of convolutions anew; `contiguous` leaves those of one channel alone."""
    for p in parameters:
        if p.ndim == 4:
            p.data = torch.empty_like(p.data, memory_format=memory_format).copy_(p.data)


def normed_along(model: nn.Module, name: str) -> int | None:
    """The dimension of a parameter whose rows weight norm divides by their lengths, -1 for all as
    one; None if it divides by none."""
    path, _, own = name.rpartition(".")
    if own == "original1" and ".parametrizations." in f".{name}":
        kinds: Any = model.get_submodule(path)
        kind = next(iter(kinds), None)
        return kind.dim if isinstance(kind, parametrizations._WeightNorm) else None
    if own.endswith("_v"):
        for hook in model.get_submodule(path)._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm) and f"{hook.name}_v" == own:
                return hook.dim
    return None
