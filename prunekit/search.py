"""Evaluate candidates through `Run.workers`, asking the journal first.

Workers in other processes, or on other machines, keep the model, the data and the decoder by the
hash of their contents, classes and functions; only candidates travel. What a worker lacks is sent
along once it says so.
"""

from __future__ import annotations

import copy
import functools
import math
import os
import platform
import threading
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from prunekit._files import digest
from prunekit._modules import state_key
from prunekit.data import Data, accuracy
from prunekit.judge import as_metric, judge, metric_name, stand_in
from prunekit.mask import Mask
from prunekit.steps import Run, Step, Stopped

Decode = Callable[[nn.Module, Any], Mask]

ATTEMPTS = 10  # how often the candidates of one call may be handed out
NOTE = "search: while evaluating the candidate"  # tells its errors from the workers' own
KEPT = 12  # parts that a worker keeps: those of four jobs


def evaluate(
    model: nn.Module,
    data: Any,
    candidates: Iterable[Any],
    decode: Decode,
    run: Run = Run(),
    limits: Sequence[float] | None = None,
) -> list[float]:
    """The validation result of each candidate, as if its mask were applied to the model.

    ``decode(model, candidate)`` gives the candidate's `Mask`; it runs in the worker and must be a
    function of a module, or a `functools.partial` of one. The result is the number of errors, or
    the metric where that is not the accuracy. With `limits`, one a candidate, the evaluation of a
    candidate with more errors than its limit ends early and its result is infinite.

    An error in a worker names the candidate. Raises RuntimeError if the workers themselves fail.
    """
    items = list(candidates)
    bounds = list(limits) if limits is not None else [math.inf] * len(items)
    if data.metric is not accuracy:
        bounds = [math.inf] * len(items)
    tasks = [*zip(items, bounds, strict=True)]
    job = _Job({"model": model, "data": data, "decode": decode}, run)
    if run.journal is None:
        return [result for _, result in sorted(_through_workers(job, tasks, run))]
    base = digest(state_key(model), data.key, decode)
    keys = [digest(base, i) if math.isinf(b) else digest(base, i, b) for i, b in tasks]
    found = dict(zip(keys, tasks, strict=True))
    waiting = [key for key in found if run.journal.get(key) is None]
    for place, result in _through_workers(job, [found[key] for key in waiting], run):
        run.journal.put(waiting[place], result)
    return [run.journal.get(key) for key in keys]


def _through_workers(job: _Job, tasks: Sequence[Any], run: Run) -> Iterator[tuple[int, float]]:
    """Place and result of each task; those whose worker lacked something come later."""
    rest = [*range(len(tasks))]
    sent, asked = job, len(rest)
    lacking: set[str] = set()
    seen: set[Any] = set()
    for _ in range(ATTEMPTS):
        places, rest = rest[:asked], rest[asked:]
        workers: set[Any] = set()
        try:
            results = run.workers(sent, [tasks[place] for place in places])
            for place, result in zip(places, results, strict=True):
                if isinstance(result, Lacking):
                    rest.append(place)
                    lacking |= set(result.parts)
                    workers.add(result.worker)
                else:
                    yield place, result
                run.poll()
        except Stopped:
            raise
        except Exception as error:
            if any(note.startswith(NOTE) for note in getattr(error, "__notes__", ())):
                raise
            raise RuntimeError(
                f"search: the workers failed ({type(error).__name__}: {error}). What they had "
                "evaluated is in the journal if there is one; run again to go on from there."
            ) from error
        if not rest:
            return
        # What was lacking travels with as many tasks as workers lacked it; the others come after.
        # Nobody says which worker takes a task: once one lacks it again, it travels with all.
        sent = job.sending(lacking) if workers else job
        asked = len(workers) if workers and not workers & seen else len(rest)
        seen |= workers
    raise RuntimeError(f"search: workers lost what they were sent {ATTEMPTS} times")


class Lacking:
    """What a worker answers that does not have these parts of its job.

    An answer, not an error: an error would end the call, and the other results would be lost.
    """

    def __init__(self, parts: Iterable[str]):
        self.parts = tuple(parts)
        self.worker = _process()


def _process() -> tuple[str, int]:
    return platform.node(), os.getpid()


_known: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def _names(thing: Any) -> list[str]:
    """Names of this very class or function, and of those in a partial function, while they live.

    What stands at the same place need not be the same: in a notebook it is defined again.
    """
    if isinstance(thing, functools.partial):
        return [
            n for part in (thing.func, *thing.args, *thing.keywords.values()) for n in _names(part)
        ]
    if not callable(thing):
        return []
    new = uuid.uuid4().hex
    try:
        return [_known.setdefault(thing, new)]
    except TypeError:  # an object that has no hash, or that cannot be held weakly
        return [new]


class _Job:
    """Evaluates one candidate, in whatever thread it is called, on that thread's own model.

    Pickled, it holds the keys of its parts, and of the parts themselves only those in `sent`.
    """

    def __init__(self, parts: dict[str, Any], run: Run = Run(), sent: Iterable[str] = ()):
        self.parts, self.run, self.sent = parts, run, sent
        self.remote = False
        self.local = threading.local()

    @functools.cached_property
    def keys(self) -> dict[str, str]:
        model, data, decode = (self.parts[name] for name in ("model", "data", "decode"))
        modules = [
            (
                name,
                _names(type(module)),
                {k: repr(v) for k, v in vars(module).items() if k[0] != "_"},
            )
            for name, module in model.named_modules()
        ]
        known = getattr(data, "key", None) or uuid.uuid4().hex
        functions = [_names(getattr(data, name, None)) for name in ("loss", "metric")]
        return {
            "model": digest(state_key(model), modules),
            "data": digest(known, _names(type(data)), functions),
            "decode": digest(decode, _names(decode)),
        }

    def sending(self, names: Collection[str]) -> _Job:
        """The same job, with these parts in what is pickled."""
        parts = dict(self.parts)
        if "model" in names:  # with whose memory torch lets workers share: nobody changes the copy
            parts["model"] = copy.deepcopy(parts["model"])
        job = _Job(parts, self.run, [*names])
        job.keys = self.keys
        return job

    def __reduce__(self) -> Any:
        sent = {name: self.parts[name] for name in self.sent}
        if isinstance(data := sent.get("data"), Data):
            sent["data"] = data.only("validation")
        return _arrived, (self.keys, sent)

    def __call__(self, task: tuple[Any, float]) -> float | Lacking:
        if lacking := {"model", "data", "decode"} - {*self.parts}:
            return Lacking(lacking)
        if self.remote:
            torch.set_num_threads(1)  # the workers share the cores
        candidate, limit = task
        try:
            result = self._result(candidate, limit)
            if math.isnan(result):
                raise ValueError("search: the metric of the data is NaN")
            return result
        except Stopped:
            raise
        except Exception as error:
            error.add_note(f"{NOTE} {candidate!r}")
            raise

    def _result(self, candidate: Any, limit: float) -> float:
        model, data, decode = (self.parts[name] for name in ("model", "data", "decode"))
        mask = decode(model, candidate)
        if not hasattr(self.local, "model"):
            self.local.model = stand_in(model)
        worn = dict(self.local.model.named_parameters())
        weights = dict(model.named_parameters())
        with torch.no_grad():
            for name, own in worn.items():  # what the candidate before wore goes, too
                if name in mask:
                    torch.mul(weights[name], mask[name].to(own.device), out=own)
                else:
                    own.copy_(weights[name])
        data = data.normalised if isinstance(data, Data) else data
        return judge(self.local.model, data, self.run, limit=limit)


# What this process was sent, if it is a worker: parts of jobs by their keys, the last used last.
_kept: OrderedDict[str, Any] = OrderedDict()
_keeping = threading.Lock()


def _arrived(keys: dict[str, str], sent: dict[str, Any]) -> _Job:
    """The job in a worker, with the parts that it was sent now or earlier."""
    with _keeping:
        for name, part in sent.items():
            _kept[keys[name]] = part
        for key in keys.values():  # what is used last goes last
            if key in _kept:
                _kept.move_to_end(key)
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
        # Who only passes it on, as Dask's scheduler does, sends what it was sent.
        job = _Job({name: _kept[key] for name, key in keys.items() if key in _kept}, sent=sent)
    job.keys, job.remote = keys, True
    return job


def itself(model: nn.Module, mask: Mask) -> Mask:
    """The decoder of candidates that are masks."""
    return mask


def cut(
    model: nn.Module, data: Any, mask: Mask, index: int, of: int, run: Run = Run(), **info: Any
) -> Step:
    """Remove what the mask removes, and give the ``"prune"`` step that says so.

    Evaluated first, then applied: nothing polls `run.stop` between the change and the step.
    """
    mask.check(model)
    (result,) = evaluate(model, data, [mask], itself, run)
    mask.apply_(model)
    return Step("prune", index, of, mask, {metric_name(data): as_metric(result, data)}, info)
