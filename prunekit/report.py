"""What comes out: the `Report` of one run, and the `Comparison` of several."""

from __future__ import annotations

import base64
import html
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from torch import nn

from prunekit import checkpoint, count, models, surgery
from prunekit._arguments import checked
from prunekit._files import describe
from prunekit.journal import environment
from prunekit.judge import evaluate
from prunekit.knobs import Choice, Natural
from prunekit.mask import Mask
from prunekit.steps import Step

if TYPE_CHECKING:
    import pandas

Method = Callable[..., Iterator[Step]]
Watch = Callable[[Iterator[Step]], Iterator[Step]]


@checked
@dataclass
class Report:
    """What a method did to a model.

    `before` and `after` are validation figures of the whole models; `history` holds the steps;
    `model` is the pruned model and `mask` what it has applied; `stopped` says whether the run was
    cut short; `missing` holds, by name, why a figure could not be worked out. Test figures are read
    only by `test()`.
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
    missing: dict[str, str] = field(default_factory=dict)
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
            ("change", f"{delta:+.3f}"),
        ]
        if self.tests:
            times = "once" if len(self.tests) == 1 else f"{len(self.tests)} times"
            n = self._data.size("test")
            figures.append((f"test {self.metric} (read {times})", self._figure(self.tests[-1], n)))
        if len(self.environments) > 1:
            figures.append(("note", "the run went on under another environment"))
        figures += [("note", f"{name} is missing: {why}") for name, why in self.missing.items()]
        unknown = {"MACs"} & {*self.missing} | ({"change"} if math.isnan(delta) else set())
        return [row for row in figures if row[0] not in unknown]

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

    @checked
    def shrink(self, ignore: Iterable[str] | str | None = None) -> nn.Module:
        """The network without the filters that the method removed (see `surgery.shrink`).

        It answers as `model` does; where no whole filter went, it is as large as before. The
        filters of weights that `ignore` names stay, by default of those that the method ignored.

        Raises ValueError if it cannot be cut.
        """
        if self._data is None:
            raise ValueError("shrink: this report has no data to try the smaller network on")
        if ignore is None:
            own: Any = self.knobs.get("ignore", ())  # of an own method it may be something else
            ignore = tuple(own) if isinstance(own, (tuple, list)) else ()
        example = self._data.example
        return surgery.shrink(self.model, self.mask, example, ignore=ignore, partial=True)

    @checked
    def save(
        self,
        path: str | os.PathLike[str],
        form: Annotated[str, Choice("masked", "packed", "shrunk")] = "masked",
    ) -> Path:
        """Write ``path.safetensors`` (the pruned model's ``state_dict``) and ``path.json``.

        form: "masked", the network as it was, with zeros; "packed", the kept weights alone and
            their places; "shrunk", the smaller network of `shrink`. `models.load` reads them all.

        Plain torch and safetensors load the first; the second holds method, knobs, figures,
        versions and the mask. Over an older report the two change together: killed at any moment,
        the older one is there or the new one. Weights that are tied are stored once; without this
        package, fill in their other names, which are in the JSON::

            state = load_file("path.safetensors")
            state |= {name: state[same] for name, same in info["tied"].items()}
            model.load_state_dict(state)

        Raises ValueError for a model that cannot be written without pickle, and OSError that names
        the file where the disk is full; then nothing is written.
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
        model = self.shrink() if form == "shrunk" else self.model
        packed = self.mask if form == "packed" else None
        example = None if self._data is None else self._data.example
        return models.save(path, model, info, mask=packed, example=example)


@checked
def load_mask(path: str | os.PathLike[str]) -> Mask:
    """The mask of a report that was saved under `path`.

    Raises ValueError that names the file if it is missing or damaged, or holds no mask.
    """
    info = checkpoint.read_info(path)
    what = f"load_mask: {checkpoint.text_of(path)}"
    if not isinstance(info.get("mask"), str):
        raise ValueError(f"{what} holds no mask. Pass the path of a report that was saved.")
    try:
        return Mask.from_bytes(_unpacked(base64.b64decode(info["mask"], validate=True)))
    except (ValueError, zlib.error) as error:
        raise ValueError(f"{what} is damaged: {error}") from error


START = 1 << 24  # bytes in which the names and shapes of a mask must be


def _unpacked(packed: bytes) -> bytes:
    """What was compressed, and not more than the shapes at its start tell."""
    stream = zlib.decompressobj()
    start = stream.decompress(packed, START)
    missing = Mask.length(start) - len(start)
    rest = stream.decompress(stream.unconsumed_tail, missing) if missing > 0 else b""
    if missing < 0 or (not stream.eof and stream.decompress(stream.unconsumed_tail, 1)):
        raise ValueError("mask: there are more bits than its shapes have")
    if not stream.eof:
        raise ValueError("mask: the compressed bits are cut short")
    return start + rest


def _plain(value: Any) -> Any:
    """A knob as JSON; what is none as text, without addresses."""
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    try:
        return describe(value)
    except TypeError:  # a lambda, say
        return f"{type(value).__module__}.{type(value).__qualname__}, without a name of its own"


@checked
def with_error(accuracy: float, n: Natural) -> str:
    """An accuracy with its binomial standard error, sqrt(p (1 − p) / n): ``0.973 ± 0.002``."""
    error = math.sqrt(max(accuracy * (1 - accuracy), 0) / n) if n else math.nan
    return f"{accuracy:.3f} ± {error:.3f}"


@checked
def shown_metric(value: float, metric: str, n: Natural) -> str:
    """A figure of the metric as text: an accuracy with its error, another one alone."""
    if math.isnan(value):
        return "none, as outputs are NaN or infinite"
    return with_error(value, n) if metric == "accuracy" else f"{value:.3f}"


@checked
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

    @checked
    def curve(
        self, x: Annotated[str, Choice("sparsity", "compression")] = "sparsity"
    ) -> list[list[tuple[float, float]]]:
        """A line for each seed through what the labels came to, points (x, metric) in order of x;
        ``plot.curves({"a name": result.curve()})`` draws their mean and spread."""
        seeds = min(map(len, self.reports.values()))
        runs = [[reports[i] for reports in self.reports.values()] for i in range(seeds)]
        return [sorted((float(getattr(r, x)), r.after[r.metric]) for r in run) for run in runs]

    def _shown(self) -> pandas.DataFrame:
        frame = self.frame
        metric = frame.columns[2]
        shown = frame[["seeds"]].astype(str)
        shown["sparsity"] = frame["sparsity"].map("{:.3f}".format)
        shown["compression"] = frame["compression"].map("{:.1f}×".format)
        shown[f"validation {metric} (spread)"] = [
            f"{mean:.3f} ({spread:.3f})"
            for mean, spread in zip(frame[metric], frame["spread"], strict=True)
        ]
        shown.index.name = None
        return shown

    def __str__(self) -> str:
        return self._shown().to_string()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self._shown().to_html(border=0)


@checked
def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the latter is NaN for one value."""
    values = [float(value) for value in values]
    if not values:
        raise ValueError("mean_and_spread: there must be at least one value, got none")
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
