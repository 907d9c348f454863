"""What a function is handed is checked by the annotations that it already has.

`checked` is for what people call, not for what is called within loops: a call takes some
microseconds longer, more where there are lists and mappings to look through.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np
import torch
from torch import Tensor, nn

from prunekit._modules import check_values
from prunekit.knobs import knob_of, shown

F = TypeVar("F", bound=Callable[..., Any])


class Kind(NamedTuple):
    """What an argument must be, in words, and whether a value is that."""

    words: str
    fits: Callable[[Any], bool]


@overload
def checked(function: F) -> F: ...
@overload
def checked(*, check: Callable[..., None]) -> Callable[[F], F]: ...
def checked(function: Any = None, *, check: Callable[..., None] | None = None) -> Any:
    """Check the arguments of every call by their annotations, before anything else happens.

    Of a class it checks what makes its objects. A number is any real number, an `int` one below
    2**63, a tensor a dense one of real numbers; what is `Annotated` with a rule, such as a
    `prunekit.knobs.Range`, keeps it. Entries of lists, tuples and mappings are looked at, those of
    iterators are not; of functions, how many arguments they take. `Any` is anything. `check` is
    called with the same arguments, for rules that bind several of them.

    Raises TypeError that names the function, the argument, what it must be and the value, and
    ValueError where a rule is broken.
    """
    if function is None:
        return functools.partial(checked, check=check)
    if isinstance(function, type):
        function.__init__ = checked(function.__init__)  # type: ignore[misc]
        return function
    parameters = [*inspect.signature(function).parameters.values()]
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    others = {p.kind: p.name for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    more = others.get(inspect.Parameter.VAR_POSITIONAL)
    rest = others.get(inspect.Parameter.VAR_KEYWORD)
    known = {p.name for p in parameters} - {*others.values()}
    who = function.__qualname__.removesuffix(".__init__")
    rules: dict[str, Callable[[str, Any], str | None]] = {}

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not rules:  # only now: annotations may name what is defined below
            rules.update(_rules(function, who))
        for place, value in enumerate(args):
            name = names[place] if place < len(names) else more
            if name in rules and (wrong := rules[name](name, value)):
                raise _error(wrong)
        for name, value in kwargs.items():
            rule = rules.get(name if name in known else rest or name)
            if rule is not None and (wrong := rule(name, value)):
                raise _error(wrong)
        if check is not None:
            check(*args, **kwargs)
        return function(*args, **kwargs)

    return call


class _Broken(str):
    """What a broken rule says, where the value is at least of the right kind."""


def _error(wrong: str) -> Exception:
    return ValueError(wrong) if isinstance(wrong, _Broken) else TypeError(wrong)


def _rules(
    function: Callable[..., Any], who: str
) -> Iterator[tuple[str, Callable[[str, Any], str | None]]]:
    """For each argument what says what is wrong with a value of it."""
    scope = vars(sys.modules[function.__module__])
    for name, hint in inspect.get_annotations(function).items():
        if isinstance(hint, str):
            if name == "return" or hint.startswith("Unpack["):
                continue
            hint = eval(hint, scope)
        if (knob := knob_of(name, hint, None)) is not None:
            yield name, functools.partial(_ruled, who, knob)
        elif hint is nn.Module:
            yield name, functools.partial(_module, who)
        elif (kind := kind_of(hint)) is not None:
            yield name, functools.partial(_of_kind, who, kind)
    yield "return", lambda name, value: None  # never empty


def _ruled(who: str, knob: Any, name: str, value: Any) -> str | None:
    try:
        knob.check(who, value)
    except ValueError as error:
        return _Broken(error)
    return None


def _of_kind(who: str, kind: Kind, name: str, value: Any) -> str | None:
    return None if kind.fits(value) else f"{who}: {name} must be {kind.words}, got {shown(value)}"


def _module(who: str, name: str, value: Any) -> str | None:
    if not isinstance(value, nn.Module):
        return _of_kind(who, KINDS[nn.Module], name, value)
    try:
        check_values(who, value, meta=False)
    except ValueError as error:
        return _Broken(error)
    return None


def _is_number(value: Any) -> bool:
    if isinstance(value, (Tensor, np.ndarray)):
        value = value.item() if value.ndim == 0 and _is_dense(value) else None
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        math.isnan(value)
    except OverflowError:  # more than any float
        return False
    return True


def _is_whole(value: Any) -> bool:
    if isinstance(value, Tensor) and value.ndim == 0 and _is_dense(value):
        value = value.item()
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and abs(int(value)) < 2**63


def _is_dense(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    strided = isinstance(value, Tensor) and value.layout is torch.strided
    return strided and not value.is_meta and not value.is_complex()


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike)) and "\0" not in os.fsdecode(value)


def as_array(value: Any) -> np.ndarray:
    """Numbers as numpy has them, of tensors too. Raises TypeError or ValueError for others."""
    if isinstance(value, Tensor) and _is_dense(value):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"numbers are needed, got {shown(value)}")
    return array


def numbers(*axes: str) -> Kind:
    """Numbers in an array, tensor or lists, of these axes, at least one and all of them finite."""

    def fits(value: Any) -> bool:
        try:
            array = as_array(value)
        except Exception:  # whatever those of others raise
            return False
        return array.ndim == len(axes) and array.size > 0 and bool(np.isfinite(array).all())

    return Kind(f"finite numbers ({', '.join(axes)})", fits)


def shaped(*axes: str) -> Kind:
    """A tensor of numbers, not of truths, with these axes."""

    def fits(value: Any) -> bool:
        dense = isinstance(value, Tensor) and _is_dense(value)
        return dense and value.dtype is not torch.bool and value.ndim == len(axes)

    return Kind(f"a dense tensor ({', '.join(axes)}) of real numbers", fits)


KINDS: dict[Any, Kind] = {
    None: Kind("None", lambda value: value is None),
    type(None): Kind("None", lambda value: value is None),
    bool: Kind("True or False", lambda value: isinstance(value, (bool, np.bool_))),
    int: Kind("a whole number", _is_whole),
    float: Kind("a number", _is_number),
    str: Kind("a text", lambda value: isinstance(value, str)),
    bytes: Kind("bytes", lambda value: isinstance(value, (bytes, bytearray))),
    Path: Kind("a pathlib.Path", lambda value: isinstance(value, Path) and _is_path(value)),
    os.PathLike: Kind("a path", _is_path),
    Tensor: Kind(
        "a dense tensor of real numbers", lambda v: isinstance(v, Tensor) and _is_dense(v)
    ),
    np.ndarray: Kind("a numpy array", lambda v: isinstance(v, np.ndarray) and _is_dense(v)),
    nn.Module: Kind("a torch.nn.Module", lambda value: isinstance(value, nn.Module)),
    threading.Event: Kind("an event", lambda value: callable(getattr(value, "is_set", None))),
    Callable: Kind("a function", callable),
    threading.Event: Kind("an event", lambda v: callable(getattr(v, "is_set", None))),
}


def kind_of(hint: Any) -> Kind | None:
    """What an annotation asks for; None where it is anything."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return None
    if origin in (typing.Union, types.UnionType):
        paths = any(part is os.PathLike or typing.get_origin(part) is os.PathLike for part in parts)
        kinds = [kind_of(part) for part in parts if not (part is str and paths)]
        if None in kinds:
            return None
        given = [kind for kind in kinds if kind is not None]
        words = dict.fromkeys(kind.words for kind in given)
        return Kind(" or ".join(words), lambda v: any(kind.fits(v) for kind in given))
    if origin is typing.Annotated:
        return next((part for part in parts[1:] if isinstance(part, Kind)), kind_of(parts[0]))
    if origin is typing.Literal:
        return Kind(" or ".join(map(repr, parts)), lambda v: isinstance(v, str) and v in parts)
    plain = Callable if origin in (Callable, typing.get_origin(Callable[..., Any])) else origin
    plain = plain if plain is not None else hint
    if plain is Callable and parts and isinstance(parts[0], list):
        return function_of(len(parts[0]))
    if plain in KINDS:
        return KINDS[plain]
    if not isinstance(plain, type):
        return None
    if plain in (dict, Mapping):
        return _mapping(plain, *map(kind_of, parts or (Any, Any)))
    if plain is tuple and parts and parts[-1] is not ...:
        return _fixed([kind_of(part) for part in parts])
    if issubclass(plain, (list, tuple)) or plain is Sequence:
        return _several(kind_of(parts[0]) if parts else None, hasattr, "__getitem__")
    if plain is Iterable:
        return _several(kind_of(parts[0]) if parts else None, hasattr, "__iter__")
    if plain is Iterator:
        return Kind("an iterator", lambda value: hasattr(value, "__next__"))
    article = "an" if plain.__name__[0] in "AEIOU" else "a"
    return Kind(f"{article} {plain.__name__}", lambda value: isinstance(value, plain))


def _mapping(plain: type, key: Kind | None, entry: Kind | None) -> Kind:
    words = (
        f"a mapping {key.words if key else 'anything'} -> {entry.words if entry else 'anything'}"
    )

    def fits(value: Any) -> bool:
        mapping: Any = value if isinstance(value, plain) else None
        return mapping is not None and all(
            (key is None or key.fits(name)) and (entry is None or entry.fits(part))
            for name, part in mapping.items()
        )

    return Kind(words, fits)


def function_of(n: int) -> Kind:
    """A function that can be called with `n` arguments by their places."""

    def fits(value: Any) -> bool:
        if not callable(value):
            return False
        takes = value.forward if isinstance(value, nn.Module) else value
        try:
            inspect.signature(takes).bind(*[None] * n)
        except TypeError:
            return False
        except ValueError:  # its signature cannot be told
            pass
        return True

    return Kind(f"a function of {n} argument{'s' * (n != 1)}", fits)


def _fixed(kinds: list[Kind | None]) -> Kind:
    words = ", ".join(kind.words if kind else "anything" for kind in kinds)

    def fits(value: Any) -> bool:
        if isinstance(value, (Tensor, np.ndarray)):
            value = list(value) if value.ndim and _is_dense(value) else None
        if not isinstance(value, (tuple, list)) or len(value) != len(kinds):
            return False
        return all(kind is None or kind.fits(v) for kind, v in zip(kinds, value, strict=True))

    return Kind(f"({words})", fits)


def _several(entry: Kind | None, has: Callable[[Any, str], bool], what: str) -> Kind:
    words = f"several, each {entry.words}" if entry else "several"
    fits_entry = entry.fits if entry else lambda value: True

    def fits(value: Any) -> bool:
        if isinstance(value, (Tensor, np.ndarray)):
            return (
                value.ndim > 0 and _is_dense(value) and fits_entry(value[0] if len(value) else 0.5)
            )
        if isinstance(value, str):
            return fits_entry(value)
        if isinstance(value, (bytes, type)) or not has(value, what):
            return False
        if what == "__getitem__" and (isinstance(value, Mapping) or not hasattr(value, "__len__")):
            return False
        looked = isinstance(value, (list, tuple, set, frozenset))
        return not looked or all(map(fits_entry, value))

    return Kind(words, fits)
