"""`@method` turns a generator function into a method: checked, journalled, safe to interleave."""

from __future__ import annotations

import difflib
import functools
import inspect
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, TypeVar, overload

import torch
from torch import nn

from prunekit._modules import Remembered, device_of
from prunekit.data import Data, wrap
from prunekit.knobs import Knob, Range, read_knobs, shown, unpacked
from prunekit.mask import Mask
from prunekit.select import TARGETS, Budget
from prunekit.steps import Run, Step, Stopped
from prunekit.trial import check_model, check_writable, try_out

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


_thread = threading.local()  # .running: the streams that are inside one another in this thread


def _running() -> list[Generator[Step, None, Any]]:
    """Those that still run: an interrupt may have left others in the list."""
    _thread.running = [s for s in getattr(_thread, "running", ()) if s.gi_running]
    return _thread.running


class _Surroundings:
    """Grad mode, flush-denormal and thread count: captured once, set around every `next()`.

    All three belong to the thread, and the thread that asks for the next step may be another.
    Inside there is no inference mode, whose tensors cannot be trained.
    """

    def __init__(self) -> None:
        self.grad = torch.is_grad_enabled()
        self.flush = bool(torch.tensor(1e-40, dtype=torch.float32, device="cpu") * 1 == 0)
        self.threads = torch.get_num_threads()
        self._before: _Surroundings | None = None
        self._inference: Any = None

    def set(self, other: _Surroundings) -> None:
        torch.set_grad_enabled(self.grad)
        if self.flush != other.flush:
            torch.set_flush_denormal(self.flush)
        if self.threads != other.threads:
            torch.set_num_threads(self.threads)

    def __enter__(self) -> None:
        before = _Surroundings()
        # An interrupt may have hit `__exit__`: then what is to be put back is still the older.
        self._before = self._before or before
        if torch.is_inference_mode_enabled():
            self._inference = torch.inference_mode(False)
            self._inference.__enter__()
        self.set(before)

    def __exit__(self, *exc: object) -> None:
        if self._inference is not None:
            self._inference.__exit__(None, None, None)
        if self._before is not None:
            self._before.set(_Surroundings())
        self._before = self._inference = None


class _Told:
    """What the steps of a method have said so far, held against the model."""

    def __init__(self, who: str, model: nn.Module, regrows: bool):
        self.who, self.model, self.regrows = who, model, regrows
        self.mask: Mask | None = None

    def check(self, step: Any) -> None:
        """Raise TypeError or ValueError unless the model is what the step says, and nothing that
        was removed is back."""
        if not isinstance(step, Step):
            raise TypeError(f"{self.who}: must yield Steps, got {shown(step)}")
        who = f"{self.who}: step {step.phase} {step.index}/{step.of}"
        try:
            step.mask.check(self.model)
        except ValueError as error:
            raise ValueError(f"{who}: {error}") from None
        parameters = dict(self.model.named_parameters())
        for name, keep in step.mask.items():
            p = parameters[name].detach()
            if there := int(p.masked_select(~keep.to(p.device)).count_nonzero()):
                raise ValueError(
                    f"{who} says that weights of {name} are removed of which {there:,} are not 0. "
                    "Call mask.apply_(model) before the yield."
                )
            if not bool(p.isfinite().all()):
                raise ValueError(f"{who}: weights of {name} must be finite, and are not")
        back = self.mask is not None and not self.regrows and step.phase != "rewind"
        if back and step.mask is not self.mask:
            self._check_none_is_back(who, step.mask)
        self.mask = step.mask

    def _check_none_is_back(self, who: str, mask: Mask) -> None:
        assert self.mask is not None
        for name, kept in self.mask.items():
            if back := int((mask[name] & ~kept if name in mask else ~kept).sum()):
                raise ValueError(
                    f"{who} keeps {back:,} weights of {name} that were removed before. Let them "
                    "stay removed, or say @method(regrows=True)."
                )

    def end(self, before: Remembered) -> None:
        """Take back, with a warning, what was changed since the last step, or without any."""
        if name := before.moved():
            before()
            since = "after its last step" if self.mask is not None else "and yielded no step"
            warnings.warn(
                f"{self.who}: changed {name} {since}, which is taken back. Yield a Step for each "
                "change of the model.",
                stacklevel=4,
            )


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
    work: Callable[..., tuple[int, int]] | None = None,
) -> Callable[[M], M]: ...
def method(
    function: Any = None,
    *,
    check: Callable[..., None] | None = None,
    tuning: Mapping[str, Any] | None = None,
    inputs: tuple[str, ...] = (),
    regrows: bool = False,
    quick: Mapping[str, Any] | None = None,
    work: Callable[..., tuple[int, int]] | None = None,
) -> Any:
    """Turn a generator function ``(model, data, *, knobs, seed, run)`` into a method.

    Knobs, model and data are checked when it is called, before any work. The stream then runs
    under the grad mode, flush-denormal setting and thread count of the call, opens the journal if
    it is the outermost method, and ends quietly when `run.stop` is set. Each step of that one is
    held against the model: names and shapes of its mask are the model's, what it removes is 0,
    weights are finite, and none comes back; what changes after the last step is taken back.

    A knob `sparsity` or `share` may also come as a `Budget`: hand it on as it is to
    `select.largest`, `select.stages` or `rounds.in_rounds`, which take both.

    check: ``check(model, data, **knobs)``, for bounds that depend on the model or the data.
    tuning: defaults of the knobs of training, taken with ``**tuning: Unpack[Tuning]``, that differ
        from those of `prunekit.train.fit`.
    inputs: keywords that are no knobs: no rule binds them, and no slider shows them.
    regrows: the method may put weights back that an earlier step had removed; any may, in a rewind.
    quick: knobs with which it is done in moments on a tiny model; for its tests.
    work: ``work(**knobs)`` gives how often at most the method evaluates a model and how many epochs
        it trains; by default what its knobs `rounds` and `epochs` say. A run that would take more
        than a day is announced with a warning.

    Raises TypeError, at decoration, for a function that no run could go through; it says which rule
    is broken, and by what.
    """
    if function is None:
        return functools.partial(
            method,
            check=check,
            tuning=tuning,
            inputs=inputs,
            regrows=regrows,
            quick=quick,
            work=work,
        )
    if not inspect.isfunction(function):
        raise TypeError(f"@method: must stand over a generator function, got {shown(function)}")
    for what, others in (("tuning", tuning), ("quick", quick)):
        if others is not None and not isinstance(others, Mapping):
            raise TypeError(f"@method: {what} must be a mapping of knobs, got {shown(others)}")
    for what, called in (("check", check), ("work", work)):
        if called is not None and not callable(called):
            raise TypeError(f"@method: {what} must be a function, got {shown(called)}")
    if not isinstance(regrows, bool):
        raise TypeError(f"@method: regrows must be True or False, got {shown(regrows)}")
    if not isinstance(inputs, (tuple, list)) or not all(isinstance(n, str) for n in inputs):
        raise TypeError(f"@method: inputs must be a tuple of keywords, got {shown(inputs)}")
    who, declared = function.__name__, read_knobs(function, tuning)
    _check_signature(function, declared, inputs, tuning or {}, quick or {})
    seed_knob = Knob("seed", Range(0), 0, whole=True)
    defaults = {name: knob.default for name, knob in declared.items()} | {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }

    def settled(given: Mapping[str, Any]) -> dict[str, Any]:
        """All keywords, checked by their rules; the others have their defaults."""
        for name in given:
            if name not in defaults:
                near = difflib.get_close_matches(name, [*declared], 1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise TypeError(f"{who}: has no knob {name!r}; it has {[*declared]}.{hint}")
        settings = {**defaults, **given}
        for name, knob in declared.items():
            if not (name in TARGETS and isinstance(settings[name], Budget)):
                settings[name] = knob.check(who, settings[name])
        return settings

    @functools.wraps(function)
    def call(model: nn.Module, data: Any, **given: Any) -> Iterator[Step]:
        settings = settled(given)
        settings["seed"] = seed_knob.check(who, settings["seed"])
        if not isinstance(settings["run"], Run):
            raise TypeError(f"{who}: run must be a prunekit Run, got {shown(settings['run'])}")
        outermost = not _running()  # nested methods were checked by it
        if outermost:
            check_model(who, model)
            check_writable(who, model)
            # Once, and for all that happens inside: one interface, on the model's device.
            data = wrap(data).to(device_of(model))
        if check is not None:
            own = {k: v for k, v in settings.items() if k not in ("seed", "run")}
            check(model, data, **own)
        if outermost:
            trains = any(settings[name] for name in declared if name.endswith("epochs"))
            with torch.inference_mode(False):
                seconds = try_out(who, model, data, trains)
            _announce(who, data, seconds, (work or _in_rounds)(**settings))
        before = defaults | {name: knob.before for name, knob in declared.items()}
        return _drive(function, model, data, settings, before, _Surroundings(), regrows)

    call.knobs, call.regrows, call.quick = declared, regrows, dict(quick or {})  # type: ignore[attr-defined]
    call.settled = settled  # type: ignore[attr-defined]
    return call


def _in_rounds(rounds: int = 1, epochs: int = 0, **_: Any) -> tuple[int, int]:
    """Evaluations and epochs of a method that cuts and fine-tunes."""
    return rounds, rounds * epochs


def _announce(who: str, data: Data, seconds: tuple[float, float], work: tuple[int, int]) -> None:
    """Warn of a run that will not come back for long."""
    evaluations, epochs = work
    examples = evaluations * data.size("validation"), epochs * data.size("train")
    days = sum(n * s for n, s in zip(examples, seconds, strict=True)) / 86_400
    if days > 1:
        warnings.warn(
            f"{who}: {evaluations:,} evaluations and {epochs:,} epochs are asked for, which may "
            f"take {days:,.0f} days here, going by two examples. Stop it and ask for less, or give "
            "it a journal to be resumed from.",
            stacklevel=4,
        )


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
    for name, value in quick.items():
        if not (name in TARGETS and isinstance(value, Budget)):
            try:
                declared[name].check("quick", value)
            except ValueError as error:
                refuse(f"must be done with values that its rules allow: {error}")


def _drive(
    function: Callable[..., Generator[Step, None, Any]],
    model: nn.Module,
    data: Any,
    settings: dict[str, Any],
    before: Mapping[str, Any],
    surroundings: _Surroundings,
    regrows: bool,
) -> Generator[Step, None, Any]:
    outermost = not _running()  # of nested methods only this one opens a journal
    journal = settings["run"].journal if outermost else None
    stream = function(model, data, **settings)
    opened, told = None, _Told(function.__name__, model, regrows)
    try:
        if journal is not None:
            plain = {name: settings[name] for name in settings if name not in ("seed", "run")}
            plain = {n: dict(v.told) if isinstance(v, Budget) else v for n, v in plain.items()}
            with surroundings:
                journal.open(function, plain, settings["seed"], model, data, before)
                opened = journal
        while True:
            # On any exception the weights of the last step return: whoever catches it, an
            # interrupt above all, has a model that agrees with the steps that he has seen.
            go_back = Remembered(model) if outermost else None
            try:
                with surroundings:
                    _running().append(stream)
                    step = next(stream)
                if outermost:
                    told.check(step)
                yield step
            except StopIteration as end:
                if go_back is not None:
                    told.end(go_back)
                return end.value
            except GeneratorExit:  # the consumer has had the step
                raise
            except BaseException as error:
                if go_back is not None:
                    go_back()
                    if isinstance(error, Stopped):
                        return None
                raise
    finally:
        with surroundings:
            stream.close()
        if opened is not None:
            opened.close()
