"""`@method` turns a generator function into a method: checked, journalled, safe to interleave."""

from __future__ import annotations

import difflib
import functools
import inspect
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, TypeVar, overload

import torch
from torch import nn

from prunekit._modules import device_of
from prunekit.data import wrap
from prunekit.knobs import Knob, Range, read_knobs, unpacked
from prunekit.products import check_values
from prunekit.steps import Run, Step, Stopped

# What `prune` and `Panel` call their own arguments: a knob of that name would never be reached.
RESERVED = frozenset(
    [
        "method",
        "model",
        "data",
        "seed",
        "run",
        "watch",
        "bar",
        "show",
        "presets",
        "draw",
        "guess",
        "settings",
    ]
)


def check_model(who: str, model: Any) -> None:
    """Raise unless `model` is an ``nn.Module`` with parameters, all finite."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{who}: model must be a torch.nn.Module, got {type(model).__name__}")
    if next(model.parameters(), None) is None:
        raise ValueError(f"{who}: {type(model).__name__} is empty: it has no parameters")
    check_values(who, model)
    for name, p in model.named_parameters():
        if not torch.isfinite(p).all():
            bad = int((~torch.isfinite(p)).sum())
            raise ValueError(
                f"{who}: every weight must be finite, {name} has {bad} NaN or infinite values"
            )


_thread = threading.local()  # .depth: how many methods are inside one another in this thread


class _Surroundings:
    """Grad mode, flush-denormal and thread count: captured once, set around every `next()`.

    All three belong to the thread, and the thread that asks for the next step may be another.
    """

    def __init__(self) -> None:
        self.grad = torch.is_grad_enabled()
        self.flush = bool(torch.tensor(1e-40, dtype=torch.float32) * 1 == 0)
        self.threads = torch.get_num_threads()

    def set(self, other: _Surroundings) -> None:
        torch.set_grad_enabled(self.grad)
        if self.flush != other.flush:
            torch.set_flush_denormal(self.flush)
        if self.threads != other.threads:
            torch.set_num_threads(self.threads)

    def __enter__(self) -> None:
        before = _Surroundings()
        self.set(before)
        self._before = before
        _thread.depth = getattr(_thread, "depth", 0) + 1

    def __exit__(self, *exc: object) -> None:
        _thread.depth -= 1
        self._before.set(_Surroundings())


M = TypeVar("M", bound=Callable[..., Iterator[Step]])


@overload
def method(function: M) -> M: ...
@overload
def method(
    *,
    check: Callable[..., None] | None = None,
    tuning: Mapping[str, Any] | None = None,
    inputs: tuple[str, ...] = (),
    regrows: bool = False,
    quick: Mapping[str, Any] | None = None,
) -> Callable[[M], M]: ...
def method(
    function: Any = None,
    *,
    check: Callable[..., None] | None = None,
    tuning: Mapping[str, Any] | None = None,
    inputs: tuple[str, ...] = (),
    regrows: bool = False,
    quick: Mapping[str, Any] | None = None,
) -> Any:
    """Turn a generator function ``(model, data, *, knobs, seed, run)`` into a method.

    Knobs, model and data are checked when it is called, before any work. The stream then runs
    under the grad mode, flush-denormal setting and thread count of the call, opens the journal if
    it is the outermost method, and ends quietly when `run.stop` is set.

    check: ``check(model, data, **knobs)``, for bounds that depend on the model or the data.
    tuning: defaults of the knobs of training, taken with ``**tuning: Unpack[Tuning]``, that differ
        from those of `prunekit.train.fit`.
    inputs: keywords that are no knobs: no rule binds them, and no slider shows them.
    regrows: the method may put weights back that an earlier step had removed.
    quick: knobs with which it is done in moments on a tiny model; for its tests.

    Raises TypeError, at decoration, for a function that no run could go through; it says which rule
    is broken, and by what.
    """
    if function is None:
        return functools.partial(
            method, check=check, tuning=tuning, inputs=inputs, regrows=regrows, quick=quick
        )
    who, declared = function.__name__, read_knobs(function, tuning)
    _check_signature(function, declared, inputs, tuning or {}, quick or {})
    seed_knob = Knob("seed", Range(0), 0, whole=True)
    defaults = {name: knob.default for name, knob in declared.items()} | {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }

    @functools.wraps(function)
    def call(model: nn.Module, data: Any, **given: Any) -> Iterator[Step]:
        for name in given:
            if name not in defaults:
                near = difflib.get_close_matches(name, [*declared], 1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise TypeError(f"{who}: has no knob {name!r}; it has {[*declared]}.{hint}")
        settings = defaults | given
        for name, knob in declared.items():
            settings[name] = knob.check(who, settings[name])
        settings["seed"] = seed_knob.check(who, settings["seed"])
        if not isinstance(settings["run"], Run):
            raise TypeError(f"{who}: run must be a prunekit Run, got {settings['run']!r}")
        if not getattr(_thread, "depth", 0):  # the outermost method: nested ones were checked by it
            check_model(who, model)
            # Once, and for all that happens inside: one interface, on the model's device.
            data = wrap(data).to(device_of(model))
            data.check(model)
        if check is not None:
            own = {k: v for k, v in settings.items() if k not in ("seed", "run")}
            check(model, data, **own)
        return _drive(function, model, data, settings, _Surroundings())

    call.knobs, call.regrows, call.quick = declared, regrows, dict(quick or {})  # type: ignore[attr-defined]
    return call


def _check_signature(
    function: Callable[..., Any],
    declared: Mapping[str, Knob],
    inputs: tuple[str, ...],
    tuning: Mapping[str, Any],
    quick: Mapping[str, Any],
) -> None:
    """Raise TypeError unless every run can go through the function; the rule is named."""

    def refuse(rule: str) -> None:
        raise TypeError(f"@method: {function.__name__} {rule}")

    parameters = inspect.signature(function).parameters
    keywords = {n: p for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    positional = [n for n, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    if not inspect.isgeneratorfunction(function):
        refuse("must be a generator function: it yields Steps")
    if positional != ["model", "data"]:
        refuse(f"must take (model, data, *, knobs, seed, run), it takes {positional} before the *")
    for name in ("seed", "run"):
        if name not in keywords:
            refuse(f"must take the keyword {name!r}")
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()) and not unpacked(function):
        refuse("must name its knobs: what it takes with ** is typed as Unpack[...] of a TypedDict")
    if [*keywords][-2:] != ["seed", "run"]:
        refuse(f"must take its keywords in the order knobs, seed, run, it takes {[*keywords]}")
    if unknown := [name for name in inputs if name not in keywords]:
        refuse(f"has no keyword {unknown[0]!r}, which inputs names; it has {[*keywords]}")
    for name, parameter in keywords.items():
        if parameter.default is parameter.empty:
            refuse(f"must give the keyword {name!r} a default")
        if name not in declared and name not in ("seed", "run", *inputs):
            refuse(
                f"must give the keyword {name!r} a rule, such as Annotated[float, Range(0, 1)], "
                "Count, bool"
            )
    for name in declared:
        if name in RESERVED:
            refuse(f"must not call a knob {name!r}: prune or Panel has an argument of that name")
    for what, others in (("tuning", tuning), ("quick", quick)):
        if unknown := [name for name in others if name not in declared]:
            refuse(f"has no knob {unknown[0]!r}, which {what} names; it has {[*declared]}")
    for knob in declared.values():
        try:
            knob.check(function.__name__, knob.default)
        except ValueError as error:
            refuse(f"must have defaults that its own rules allow: {error}")


def _drive(
    function: Callable[..., Iterator[Step]],
    model: nn.Module,
    data: Any,
    settings: dict[str, Any],
    surroundings: _Surroundings,
) -> Generator[Step, None, Any]:
    outermost = not getattr(_thread, "depth", 0)  # of nested methods only this one opens a journal
    journal = settings["run"].journal if outermost else None
    stream = function(model, data, **settings)
    opened = None
    try:
        if journal is not None:
            plain = {name: settings[name] for name in settings if name not in ("seed", "run")}
            with surroundings:
                journal.open(function, plain, settings["seed"], model, data)
                opened = journal
        while True:
            with surroundings:
                try:
                    step = next(stream)
                except StopIteration as end:
                    return end.value
                except Stopped:
                    if _thread.depth > 1:
                        raise
                    return None
            yield step
    finally:
        with surroundings:
            stream.close()  # type: ignore[attr-defined]
        if opened is not None:
            opened.close()
