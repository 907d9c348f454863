"""`prune`, the front door, and the `Report` it gives back; `compare` runs several over seeds."""

from __future__ import annotations

import base64
import copy
import html
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from prunekit import checkpoint, count
from prunekit.journal import environment
from prunekit.mask import Mask
from prunekit.steps import Run, Step, knobs
from prunekit.train import evaluate, metric_name, size

if TYPE_CHECKING:
    import pandas

Method = Callable[..., Iterator[Step]]
Watch = Callable[[Iterator[Step]], Iterator[Step]]


# -------------------------------------------------------------------------------------- progress


def progress(steps: Iterator[Step], label: str = "") -> Iterator[Step]:
    """Pass the steps through and draw a bar with the time left, in a terminal or a notebook."""
    from tqdm.auto import tqdm

    bar, seen = tqdm(total=1.0, desc=label, bar_format=_BAR, leave=False), list[Step]()
    try:
        for step in steps:
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


@dataclass
class Report:
    """What a method did to a model.

    `before` and `after` are validation figures of the whole models; `history` holds the steps;
    `model` is the pruned model and `mask` what it has applied; `stopped` says whether the run was
    cut short. Test figures are read only by `test()`.
    """

    method: str
    knobs: dict[str, Any]
    before: dict[str, float]
    after: dict[str, float]
    history: list[Step]
    model: nn.Module
    mask: Mask
    stopped: bool
    metric: str = "accuracy"
    examples: int = 0
    macs: count.Macs = field(default=count.Macs(0, 0))
    environments: list[dict[str, Any]] = field(default_factory=list)
    tests: list[float] = field(default_factory=list)
    _data: Any = field(default=None, repr=False)

    def test(self) -> float:
        """The metric on the test split. Each reading is counted: choose nothing by it."""
        self.tests.append(evaluate(self.model, self._data, "test"))
        return self.tests[-1]

    @property
    def sparsity(self) -> float:
        return self.mask.sparsity

    @property
    def compression(self) -> float:
        """All parameters / kept parameters, biases too."""
        return count.compression(self.model, self.mask)

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of every line of the table."""
        kept, everything = count.params(self.model, self.mask), count.params(self.model)
        delta = self.after[self.metric] - self.before[self.metric]
        figures = [
            ("method", self.method + (" (stopped)" if self.stopped else "")),
            ("sparsity", f"{self.sparsity:.3f}"),
            ("compression", f"{self.compression:.1f}×"),
            ("parameters kept", f"{kept:,} of {everything:,}"),
            ("MACs", f"{self.macs.sparse:,} of {self.macs.dense:,}"),
            (f"validation {self.metric} before", self._figure(self.before[self.metric])),
            (f"validation {self.metric} after", self._figure(self.after[self.metric])),
            ("change", f"≈{delta:+.3f}"),
        ]
        if self.tests:
            times = "once" if len(self.tests) == 1 else f"{len(self.tests)} times"
            n = size(self._data, "test")
            figures.append((f"test {self.metric} (read {times})", self._figure(self.tests[-1], n)))
        if len(self.environments) > 1:
            figures.append(("note", "the run went on under another environment"))
        return figures

    def _figure(self, value: float, n: int | None = None) -> str:
        return shown_metric(value, self.metric, n or self.examples)

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.rows())
        return "\n".join(f"{name:<{width}}  {value}" for name, value in self.rows())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        lines = (
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self.rows()
        )
        return f"<table>{''.join(lines)}</table>"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write ``path.safetensors`` (the pruned model's ``state_dict``) and ``path.json``.

        Plain torch and safetensors load the first; the second holds method, knobs, figures,
        versions and the mask. Each file appears whole or not at all.
        """
        info = {
            "method": self.method,
            "knobs": {name: _plain(value) for name, value in self.knobs.items()},
            "before": self.before,
            "after": self.after,
            "test": self.tests,
            "stopped": self.stopped,
            "sparsity": self.sparsity,
            "environments": self.environments or [environment()],
            "mask": base64.b64encode(zlib.compress(self.mask.to_bytes(), 9)).decode(),
        }
        return checkpoint.save(path, self.model, info)


def load_mask(path: str | os.PathLike[str]) -> Mask:
    """The mask of a report that was saved under `path`."""
    packed = checkpoint.read_info(path)["mask"]
    return Mask.from_bytes(zlib.decompress(base64.b64decode(packed)))


def _plain(value: Any) -> Any:
    simple = value is None or isinstance(value, (bool, int, float, str, list, tuple))
    return value if simple else repr(value)


def with_error(accuracy: float, n: int) -> str:
    """An accuracy with its binomial standard error, sqrt(p (1 − p) / n): ``≈0.973 ± 0.002``."""
    error = math.sqrt(max(accuracy * (1 - accuracy), 0) / n) if n else math.nan
    return f"≈{accuracy:.3f} ± {error:.3f}"


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
        self.method, self.data, self.run = whole(method), data, run
        settings = {**settings, **bound(method)}
        defaults = {knob.name: knob.default for knob in knobs(self.method).values()}
        self.knobs = defaults | settings | {"seed": seed}
        self.model, self.history = copy.deepcopy(model), list[Step]()
        self.steps = self.method(self.model, data, seed=seed, run=run, **settings)  # checks them
        self.before, self.examples = evaluate(self.model, data), size(data, "validation")

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        self.history.append(next(self.steps))
        return self.history[-1]

    def close(self) -> None:
        """End the run; the model keeps what the last step gave it."""
        self.steps.close()  # type: ignore[attr-defined]

    def report(self, stopped: bool = False) -> Report:
        """What was done so far; marked `stopped` if that is said, or if `run.stop` is set."""
        mask, metric = self.history[-1].mask if self.history else Mask({}), metric_name(self.data)
        x, _ = next(iter(self.data.batches("validation", 1)))
        journal = self.run.journal
        return Report(
            method=self.method.__name__,
            knobs=self.knobs,
            before={metric: self.before},
            after={metric: evaluate(self.model, self.data)},
            history=[*self.history],
            model=self.model,
            mask=mask,
            stopped=stopped or (self.run.stop is not None and self.run.stop.is_set()),
            metric=metric,
            examples=self.examples,
            macs=count.macs(self.model, x, mask),
            environments=list(journal.environments) if journal is not None else [],
            _data=self.data,
        )


def shown_metric(value: float, metric: str, n: int) -> str:
    """A figure of the metric as text: an accuracy with its error, another one alone."""
    return with_error(value, n) if metric == "accuracy" else f"≈{value:.3f}"


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

    `settings` are the method's knobs; ``watch`` holds functions iterator -> iterator through which
    the steps pass. Ctrl-C or `run.stop` ends the run early: the report is then marked stopped, and
    its model is that of the last step.
    """
    pruning = Pruning(method, model, data, seed=seed, run=run, **settings)
    steps: Iterator[Step] = pruning
    for watcher in (watch,) if callable(watch) else watch:
        steps = watcher(steps)
    stopped = False
    try:
        for _ in progress(steps, pruning.method.__name__) if bar else steps:
            pass
    except KeyboardInterrupt:
        stopped = True
    finally:
        pruning.close()
    return pruning.report(stopped)


# --------------------------------------------------------------------------------------- compare


@dataclass
class Comparison:
    """Reports of several methods, each over several seeds: ``reports[label][i]``."""

    reports: dict[str, list[Report]]
    seeds: tuple[int, ...]

    @property
    def frame(self) -> pandas.DataFrame:
        """One row a method: mean and standard deviation over the seeds (validation)."""
        import pandas

        rows = []
        for label, reports in self.reports.items():
            metric = reports[0].metric
            mean, spread = mean_and_spread([r.after[metric] for r in reports])
            rows.append(
                {
                    "method": label,
                    "sparsity": mean_and_spread([r.sparsity for r in reports])[0],
                    "compression": mean_and_spread([r.compression for r in reports])[0],
                    metric: mean,
                    "spread": spread,
                    "seeds": len(reports),
                }
            )
        return pandas.DataFrame(rows).set_index("method")

    def _shown(self) -> pandas.DataFrame:
        frame = self.frame
        metric = frame.columns[2]
        shown = frame[["seeds"]].astype(str)
        shown["sparsity"] = frame["sparsity"].map("{:.3f}".format)
        shown["compression"] = frame["compression"].map("{:.1f}×".format)
        shown[f"validation {metric}"] = [
            f"≈{mean:.3f} ± {spread:.3f}"
            for mean, spread in zip(frame[metric], frame["spread"], strict=True)
        ]
        shown.index.name = None
        return shown

    def __str__(self) -> str:
        return self._shown().to_string()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self._shown().to_html(border=0)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the latter is NaN for one value."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


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
    knobs that all of them get. Ctrl-C keeps what is finished. Journals are for single runs.
    """
    if run.journal is not None:
        raise ValueError(
            "compare: a journal belongs to one run; use the experiments for long grids"
        )
    named = methods if isinstance(methods, Mapping) else {_label(m): m for m in methods}
    seeds = tuple(seeds)
    jobs = [(label, m, seed) for label, m in named.items() for seed in seeds]
    if not jobs:
        raise ValueError("compare: needs at least one method and one seed")
    reports: dict[str, list[Report]] = {label: [] for label in named}
    for label, m, seed in _bar(jobs, "compare") if bar else jobs:
        start = model if isinstance(model, nn.Module) else model(seed)
        try:
            report = prune(m, start, data, seed=seed, run=run, bar=False, **settings)
        except KeyboardInterrupt:
            break
        if report.stopped:  # half a run says nothing about its method
            break
        reports[label].append(replace(report, method=label))
    if not any(reports.values()):
        raise KeyboardInterrupt("compare: stopped before the first run was finished")
    return Comparison({label: found for label, found in reports.items() if found}, seeds)


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
    return whole(m).__name__ + (f" ({knobs_text})" if knobs_text else "")
