"""What flows out of a method (`Step`) and what it needs from its surroundings (`Run`).

A method is a generator: it changes the model a little, yields a `Step`, and goes on when asked for
the next one. Everything that watches (bars, plots, reports) is a consumer of that one stream.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from prunekit._arguments import checked
from prunekit.knobs import shown
from prunekit.mask import Mask

PHASES = ("train", "prune", "rewind", "finetune", "search")


@checked
@dataclass(frozen=True)
class Tried:
    """The candidates among which a step chose; what recorder, plots and replay know of a search.

    costs: of each candidate; smaller is better, infinite where it had lost before the end.
    chosen: the place of the one that goes on.
    kept: how many weights each keeps; () where that is not asked.
    vectors: what each candidate is, if it is a vector of numbers; else ().
    replaced: the places whose candidates are new in this step.
    allowed: the largest cost with which a candidate may win, or None.
    unit: what a cost counts.
    """

    costs: tuple[float, ...]
    chosen: int
    kept: tuple[int, ...] = ()
    vectors: tuple[tuple[float, ...], ...] = ()
    replaced: tuple[int, ...] = ()
    allowed: float | None = None
    unit: str = "errors"


@checked
@dataclass(frozen=True)
class Step:
    """A snapshot of a run, taken after something changed.

    `phase` is one of `PHASES`; `index` (from 1) and `of` count within the phase; `mask` is what the
    model has applied; `metrics` are validation figures such as ``{"accuracy": 0.98}``; `info` is
    what else the method wants to record, as plain JSON; `tried` are the candidates that it chose
    from, if it did.
    """

    phase: str
    index: int
    of: int
    mask: Mask
    metrics: Mapping[str, float]
    info: Mapping[str, Any] = field(default_factory=dict)
    tried: Tried | None = None

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise ValueError(f"Step: phase must be one of {PHASES}, got {self.phase!r}")
        if not 1 <= self.index <= self.of:
            raise ValueError(
                f"Step: index must be from 1 to of, got {shown(self.index)} of {shown(self.of)}"
            )
        for name, value in self.info.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:
                raise TypeError(
                    f"Step: info must be plain JSON, so that it can be recorded; {name!r} is a "
                    f"{type(value).__name__}: {error}"
                ) from error
        object.__setattr__(self, "metrics", dict(self.metrics))
        object.__setattr__(self, "info", dict(self.info))

    @property
    def sparsity(self) -> float:
        return self.mask.sparsity

    def __str__(self) -> str:
        figures = ", ".join(f"{name} {value:.3f}" for name, value in self.metrics.items())
        return f"{self.phase:<8} {self.index:>2}/{self.of}  sparsity {self.sparsity:.3f}  {figures}"


class Stopped(Exception):
    """Raised inside a method when its `Run.stop` was set; the outermost method ends quietly."""


@checked
def serial(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """The default `Run.workers`: one item after the other, in this thread."""
    return map(function, items)


@dataclass(frozen=True)
class Run:
    """What a method needs from its surroundings; never what it computes.

    `workers(function, items)` gives results in the order of the items, like ``Executor.map``;
    `journal` is a `prunekit.journal.Journal` to resume from, or None; `stop` is an event that is
    polled at every minibatch; `memory` is about how many bytes a forward pass may take for what it
    computes outside training, where batches are as large as that allows (None: 64 MiB on a CPU,
    2 GiB on an accelerator). What draws, counts or norms a batch at a time in eval mode, as batch
    norm that is left in training mode does, answers otherwise in batches of another size.

    Raises TypeError or ValueError that names what is none of these.
    """

    workers: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]] = serial
    journal: Any = None
    stop: threading.Event | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        if not callable(self.workers):
            raise TypeError(
                "Run: workers must be a function like map, such as the map of an Executor, "
                f"got {shown(self.workers)}"
            )
        opens = all(callable(getattr(self.journal, what, None)) for what in ("open", "close"))
        if self.journal is not None and not opens:
            raise TypeError(
                f"Run: journal must be a Journal, got {shown(self.journal)}. Pass Journal('mine')."
            )
        if self.stop is not None and not callable(getattr(self.stop, "is_set", None)):
            raise TypeError(f"Run: stop must be a threading.Event, got {shown(self.stop)}")
        whole = isinstance(self.memory, int) and not isinstance(self.memory, bool)
        if self.memory is not None and not (whole and self.memory > 0):
            raise ValueError(
                f"Run: memory must be a number of bytes above 0, got {shown(self.memory)}"
            )

    def poll(self) -> None:
        """Raise `Stopped` if somebody set `stop`."""
        if self.stop is not None and self.stop.is_set():
            raise Stopped


@checked
def derive(seed: int, *parts: str | float) -> int:
    """A new seed from a seed and what it is for: ``derive(seed, "epoch", 3)``."""
    text = repr((int(seed), *parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "little")
