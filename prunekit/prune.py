"""`prune`, the front door; `compare`, the same for several methods and seeds; their progress."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from torch import nn

from prunekit import count, select
from prunekit._arguments import checked
from prunekit._memory import give_back
from prunekit.data import wrap
from prunekit.judge import evaluate
from prunekit.knobs import knobs, shown
from prunekit.mask import Mask
from prunekit.report import Comparison, Report
from prunekit.steps import Run, Step
from prunekit.trial import check_apart, check_model, copied

T = TypeVar("T")

Method = Callable[..., Iterator[Step]]
Watch = Callable[[Iterator[Step]], Iterator[Step]]

# -------------------------------------------------------------------------------------- progress


@checked
def progress(steps: Iterator[Step], label: str = "") -> Iterator[Step]:
    """Pass the steps through and draw a bar with the time left, in a terminal or a notebook."""
    from tqdm.auto import tqdm

    bar, seen = tqdm(total=1.0, desc=label, bar_format=_BAR, leave=False), list[Step]()
    try:
        for step in steps:
            if not isinstance(step, Step):
                raise TypeError(f"progress: steps must be prunekit Steps, got {shown(step)}")
            seen.append(step)
            bar.n = max(bar.n, min(share_done(seen), 1.0))  # a last training starts anew
            bar.set_postfix_str(str(step).split("  ", 1)[0], refresh=False)
            bar.refresh()
            yield step
    finally:
        bar.close()


_BAR = "{desc} {percentage:3.0f}%|{bar:20}| {elapsed} gone, {remaining} left  {postfix}"


def share_done(steps: Sequence[Step]) -> float:
    """About the share of the run that is done: rounds count equally, and in a round a search as
    much as the training after it."""
    last, searches = steps[-1], any(step.phase == "search" for step in steps)
    inside = last.index / last.of
    cut = next((step for step in reversed(steps) if step.phase == "prune"), None)
    if cut is None:
        return 0.0 if searches else inside
    if last.phase == "search":
        return (cut.index + inside / 2) / cut.of
    inside = 0.0 if last is cut else inside
    return (cut.index - 1 + ((1 + inside) / 2 if searches else inside)) / cut.of


# ----------------------------------------------------------------------------------------- prune


def with_budget(
    method: Method, model: nn.Module, data: Any, settings: Mapping[str, Any], run: Run = Run()
) -> dict[str, Any]:
    """The settings with their `budget` in the knob that it takes the place of, a sparsity or share.

    Raises TypeError if the method has no such knob, or is given both.
    """
    settings = dict(settings)
    if (told := settings.pop("budget", None)) is None:
        return settings
    target = _target(method, settings)
    ignore, x = settings.get("ignore", ()), wrap(data).example
    return settings | {target: count.budget(model, x, told, ignore=ignore, run=run)}


def _target(method: Method, settings: Mapping[str, Any]) -> str:
    """The knob that a budget takes the place of. Raises TypeError if there is none to take."""
    target = next((n for n in select.TARGETS if n in knobs(method)), None)
    if target is None:
        raise TypeError(
            f"prune: {method.__name__} takes no budget, it has none of {select.TARGETS}"
        )
    if target in settings:
        raise TypeError(f"prune: {method.__name__} takes a budget or {target}, not both")
    return target


class Pruning:
    """A run of `prune` that is taken step by step: iterate over it, and ask for its `report` at any
    time. The arguments are those of `prune`; the given model stays as it is."""

    def __init__(
        self,
        method: Method,
        model: nn.Module,
        data: Any,
        *,
        seed: int = 0,
        run: Run = Run(),
        **settings: Any,
    ):
        self.method = whole(method)
        if not (callable(self.method) and hasattr(self.method, "knobs")):
            raise TypeError(
                f"prune: method must be a function decorated with @method, got {shown(method)}. "
                "Pass the function itself, such as prunekit.magnitude."
            )
        check_model("prune", model)
        if not isinstance(run, Run):
            raise TypeError(f"prune: run must be a prunekit Run, got {shown(run)}")
        self.data, self.run = wrap(data), run
        settings = {**bound(method), **settings}  # the call wins, as in functools.partial
        defaults = {knob.name: knob.default for knob in knobs(self.method).values()}
        self.knobs = defaults | settings | {"seed": seed}
        self.model, self.history = copied("prune", model), list[Step]()
        told = self.knobs.pop("budget", None)
        settings = with_budget(self.method, self.model, self.data, settings, run)
        if told is not None:
            self.knobs = {n: v for n, v in self.knobs.items() if n not in select.TARGETS}
            self.knobs["budget"] = dict(told)
        steps = self.method(self.model, self.data, seed=seed, run=run, **settings)  # checks them
        check_apart("prune", model, self.model, self.data)
        self.steps, self.examples = steps, self.data.size("validation")
        self.before = evaluate(self.model, self.data)
        if not math.isfinite(self.before):
            raise ValueError(
                f"prune: outputs and {self.data.metric_name} of {type(model).__name__} must be "
                "finite over the validation split before anything is pruned, and are not"
            )

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        for step in self.steps:  # Python takes no interrupt between a yield and this line
            if self.history and self.history[-1].mask is not step.mask:
                self.history[-1].mask.rest()
            self.history.append(step)
            return step
        raise StopIteration

    def close(self) -> None:
        """End the run; the model keeps what the last step gave it."""
        self.steps.close()  # type: ignore[attr-defined]

    def report(self, stopped: bool = False) -> Report:
        """What was done so far; marked `stopped` if that is said, or if `run.stop` is set.

        A figure that cannot be worked out is left out, and the report says why.
        """
        mask = self.history[-1].mask if self.history else Mask({})
        metric, journal = self.data.metric_name, self.run.journal
        missing: dict[str, str] = {}

        def figure(name: str, work: Callable[[], T], otherwise: T) -> T:
            try:
                return work()
            except (Exception, KeyboardInterrupt) as error:  # the model is worth more
                missing[name] = f"{type(error).__name__}: {error}"
                return otherwise

        after = figure(metric, lambda: evaluate(self.model, self.data), math.nan)
        give_back()
        return Report(
            method=self.method.__name__,
            knobs=self.knobs,
            before={metric: self.before},
            after={metric: after},
            history=[*self.history],
            model=self.model,
            mask=mask,
            stopped=stopped or (self.run.stop is not None and self.run.stop.is_set()),
            metric=metric,
            examples=self.examples,
            macs=figure("MACs", lambda: self._macs(mask), count.Macs(0, 0)),
            missing=missing,
            environments=list(journal.environments) if journal is not None else [],
            _data=self.data,
        )

    def _macs(self, mask: Mask) -> count.Macs:
        x, _ = next(iter(self.data.batches("validation", 1)))
        return count.macs(self.model, x, mask)


def prune(
    method: Method,
    model: nn.Module,
    data: Any,
    *,
    seed: int = 0,
    run: Run = Run(),
    watch: Sequence[Watch] | Watch = (),
    bar: bool = True,
    **settings: Any,
) -> Report:
    """Prune a copy of `model` with `method`, and report. The given model stays as it is.

    `settings` are the method's knobs; instead of a sparsity there may be a `budget`, such as
    ``budget={"macs": 0.5}`` or ``{"latency": 0.5}``, see `count.budget`: as little goes as meets
    it. ``watch`` holds functions iterator -> iterator through which the steps pass. Ctrl-C or
    `run.stop` ends the run early: the report is then marked stopped, and its model is that of the
    last step.

    >>> from prunekit import magnitude, mnist_small, pretrained
    >>> net, digits = pretrained("lenet_300_100"), mnist_small()
    >>> report = prune(magnitude, net, digits, sparsity=0.9, rounds=2, bar=False)
    >>> [step.index for step in report.history], round(report.sparsity, 3)
    ([1, 2], 0.9)
    """
    _check_settings("prune", run, bar)
    pruning = Pruning(method, model, data, seed=seed, run=run, **settings)
    steps: Iterator[Step] = pruning
    for watcher in (watch,) if callable(watch) or not isinstance(watch, Iterable) else watch:
        steps = _watched(watcher, steps)
    stopped = False
    try:
        for _ in progress(steps, pruning.method.__name__) if bar else steps:
            pass
    except KeyboardInterrupt:
        stopped = True
    finally:
        pruning.close()
    return pruning.report(stopped)


def _check_settings(who: str, run: Any, bar: Any) -> None:
    if not isinstance(run, Run):
        raise TypeError(f"{who}: run must be a prunekit Run, got {shown(run)}")
    if not isinstance(bar, bool):
        raise TypeError(f"{who}: bar must be True or False, got {shown(bar)}")


def _watched(watcher: Watch, steps: Iterator[Step]) -> Iterator[Step]:
    if not callable(watcher):
        raise TypeError(
            f"prune: watch must be a function iterator -> iterator, or several, got "
            f"{shown(watcher)}"
        )
    watched = watcher(steps)
    if not isinstance(watched, Iterable):
        raise TypeError(
            f"prune: watch must give an iterator of steps, {shown(watcher)} gave "
            f"{shown(watched)}. Write it with `for step in steps: ...; yield step`."
        )
    return iter(watched)


# --------------------------------------------------------------------------------------- compare


def compare(
    methods: Mapping[str, Method] | Iterable[Method],
    model: nn.Module | Callable[[int], nn.Module],
    data: Any,
    *,
    seeds: Iterable[int] = (0, 1, 2),
    run: Run = Run(),
    bar: bool = True,
    **settings: Any,
) -> Comparison:
    """Prune with every method and every seed, from the same model or from ``model(seed)``.

    `methods` may be functions, partial functions, or a mapping label -> function; `settings` are
    knobs that all of them get. Ctrl-C keeps what is finished. Where a run fails, its error says
    which, and has the finished ones as `finished`. Journals are for single runs.
    """
    _check_settings("compare", run, bar)
    if run.journal is not None:
        raise ValueError(
            "compare: a journal belongs to one run; use the experiments for long grids"
        )
    named = _named(methods)
    if not isinstance(seeds, Iterable):
        raise TypeError(f"compare: seeds must be several whole numbers, got {shown(seeds)}")
    try:
        seeds = tuple(seeds)
    except TypeError as error:  # as tensors without an axis
        raise TypeError(f"compare: seeds must be several whole numbers: {error}") from error
    if not isinstance(model, nn.Module) and not callable(model):
        raise TypeError(
            f"compare: model must be a torch.nn.Module or a function of a seed, got {shown(model)}"
        )
    jobs = [(label, m, seed) for label, m in named.items() for seed in seeds]
    if not jobs:
        raise ValueError("compare: needs at least one method and one seed")
    for m in named.values():
        _check_knobs(m, settings)
    reports: dict[str, list[Report]] = {label: [] for label in named}
    for label, m, seed in _bar(jobs, "compare") if bar else jobs:
        start = model if isinstance(model, nn.Module) else model(seed)
        try:
            report = prune(m, start, data, seed=seed, run=run, bar=False, **settings)
        except KeyboardInterrupt:
            break
        except Exception as error:
            error.add_note(f"compare: this was {label} with seed {seed}")
            if any(reports.values()):
                error.finished = _comparison(reports, seeds)  # type: ignore[attr-defined]
                error.add_note(
                    "compare: `finished` of this error has the runs before it; in a notebook that "
                    "is sys.last_value.finished"
                )
            raise
        if report.stopped:  # half a run says nothing about its method
            break
        reports[label].append(replace(report, method=label))
    if not any(reports.values()):
        raise KeyboardInterrupt("compare: stopped before the first run was finished")
    return _comparison(reports, seeds)


def _comparison(reports: Mapping[str, list[Report]], seeds: tuple[int, ...]) -> Comparison:
    return Comparison({label: found for label, found in reports.items() if found}, seeds)


def _check_knobs(m: Method, settings: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError that names a knob that the method has not, or refuses."""
    given = {name: value for name, value in {**bound(m), **settings}.items() if name != "watch"}
    if given.pop("budget", None) is not None:
        _target(whole(m), given)
    whole(m).settled(given)  # type: ignore[attr-defined]


def sweep(
    method: Method,
    model: nn.Module | Callable[[int], nn.Module],
    data: Any,
    *,
    seeds: Iterable[int] = (0, 1, 2),
    run: Run = Run(),
    bar: bool = True,
    **settings: Any,
) -> Comparison:
    """Prune with one method at several values of one knob, or to several budgets, and every seed.

    The values are a list: ``sweep(magnitude, model, data, sparsity=[0.5, 0.9, 0.98])``, or
    ``budget=[{"macs": 0.5}, {"macs": 0.25}]``. The rest is as in `compare`; the result's `curve` is
    what `plot.curves` draws.

    >>> from prunekit import magnitude, mnist_small, pretrained
    >>> net, digits = pretrained("lenet_300_100"), mnist_small().fewer(validation=500)
    >>> found = sweep(magnitude, net, digits, sparsity=[0.5, 0.99], seeds=(0,), bar=False)
    >>> list(found.reports)
    ['sparsity 0.5', 'sparsity 0.99']
    """
    several = [name for name, value in settings.items() if isinstance(value, list)]
    if len(several) != 1 or not settings[several[0]]:
        raise ValueError(
            "sweep: exactly one knob must have a list of values, such as sparsity=[0.5, 0.9], "
            f"got {len(several)}"
        )
    knob, named = several[0], dict[str, Method]()
    for value in settings.pop(knob):
        text = shown(value)
        if isinstance(value, Mapping):
            text = ", ".join(f"{name} {shown(number)}" for name, number in value.items())
        named[f"{knob} {text}"] = partial(method, **{knob: value})
    return compare(named, model, data, seeds=seeds, run=run, bar=bar, **settings)


def _named(methods: Any) -> dict[str, Method]:
    """The methods by their labels. Raises TypeError or ValueError unless each has its own."""
    if isinstance(methods, str) or not isinstance(methods, Iterable):
        raise TypeError(
            f"compare: methods must be several functions decorated with @method, got "
            f"{shown(methods)}"
        )
    try:
        given = methods if isinstance(methods, Mapping) else [(_label(m), m) for m in methods]
        pairs = [*(given.items() if isinstance(given, Mapping) else given)]
    except TypeError as error:  # as tensors without an axis
        raise TypeError(f"compare: methods must be several functions: {error}") from error
    named: dict[str, Method] = {}
    for label, m in pairs:
        if not (callable(m) and hasattr(whole(m), "knobs")):
            raise TypeError(
                f"compare: every method must be a function decorated with @method, got {shown(m)}"
            )
        if label in named:
            raise ValueError(
                f"compare: two methods are called {label!r}. Give them names: "
                "compare({'one': ..., 'other': ...}, ...)."
            )
        named[label] = m
    return named


def _bar(jobs: list[Any], label: str) -> Iterable[Any]:
    from tqdm.auto import tqdm

    return tqdm(jobs, desc=label, leave=False)


def whole(m: Method) -> Method:
    """The method itself, of a partial function too."""
    return m.func if isinstance(m, partial) else m


def bound(m: Method) -> dict[str, Any]:
    """The settings that a partial function brings along."""
    return dict(m.keywords) if isinstance(m, partial) else {}


def _label(m: Method) -> str:
    knobs_text = ", ".join(f"{name}={value}" for name, value in bound(m).items())
    name = getattr(whole(m), "__name__", shown(m))
    return name + (f" ({knobs_text})" if knobs_text else "")
