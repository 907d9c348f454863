"""The costs of candidates, found through `Run.workers` and asked of the journal first.

Workers in other processes, or on other machines, keep the model, the data and the decoder by the
hash of their contents, classes and functions; only candidates travel. What a worker lacks is sent
along once it says so.
"""

from __future__ import annotations

import copy
import functools
import math
import multiprocessing
import multiprocessing.util
import os
import pickle
import platform
import threading
import time
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunekit._arguments import checked
from prunekit._files import digest
from prunekit._modules import state_key, structure
from prunekit.data import wrap
from prunekit.judge import as_metric, judge, stand_in
from prunekit.knobs import shown
from prunekit.mask import Mask
from prunekit.recording import Changes, judged, put_on
from prunekit.steps import Run, Step, Stopped, serial

Decode = Callable[[nn.Module, Any], Changes]

ATTEMPTS = 10  # how often the candidates of one call may be handed out
NOTE = "search: while evaluating the candidate"  # tells its errors from the workers' own
KEPT = 12  # parts that a worker keeps: those of four jobs


@checked
def costs(
    model: nn.Module,
    data: Any,
    candidates: Iterable[Any],
    decode: Decode,
    run: Run = Run(),
    limits: Sequence[float] | None = None,
    together: bool = False,
) -> list[float]:
    """The validation cost of each candidate, as if its mask were applied to the model.

    ``decode(model, candidate)`` gives the candidate's `Mask`, or, by their names, new values of
    parameters; it runs in the worker and must be a function of a module, or a `functools.partial`
    of one. The cost is the number of errors, or minus the metric where that is not the accuracy;
    infinite if an output is not finite. With `limits`, one a candidate, a candidate with more
    errors than its limit is given up early and costs infinity.

    together: candidates change late layers alone: where no workers are given, they are judged batch
        by batch, and what comes before a change is computed once for all (`prunekit.recording`).

    An error in a worker names the candidate. Raises RuntimeError if the workers themselves fail.
    """
    data, items = wrap(data), list(candidates)
    bounds = list(limits) if limits is not None else [math.inf] * len(items)
    if len(bounds) != len(items):
        raise ValueError(f"search: {len(items)} candidates need as many limits, got {len(bounds)}")
    if not data.counts_errors:
        bounds = [math.inf] * len(items)
    tasks = [*zip(items, bounds, strict=True)]  # what travels: a candidate and its limit
    job = _Job({"model": model, "data": data, "decode": decode}, run)
    found = _together if together and run.workers is serial else _through_workers
    if run.journal is None:
        return [cost for _, cost in sorted(found(job, tasks, run))]
    base = digest(state_key(model), data.key, decode)
    keys = [digest(base, i) if math.isinf(b) else digest(base, i, b) for i, b in tasks]
    by_key = dict(zip(keys, tasks, strict=True))  # equal candidates are judged once
    waiting = [key for key in by_key if run.journal.get(key) is None]
    for place, cost in found(job, [by_key[key] for key in waiting], run):
        run.journal.put(waiting[place], cost)
    return [run.journal.get(key) for key in keys]


def _together(job: _Job, tasks: Sequence[Any], run: Run) -> Iterator[tuple[int, float]]:
    """As `_through_workers`, over one recorded pass, if it can be replayed."""
    model, data, decode = (job.parts[name] for name in ("model", "data", "decode"))
    changes = [_decoded(decode, model, candidate) for candidate, _ in tasks]
    limits = [limit for _, limit in tasks]
    results = judged(model, data.normalised, changes, run, limits) if tasks else []
    return iter(enumerate(results)) if results is not None else _through_workers(job, tasks, run)


def _decoded(decode: Decode, model: nn.Module, candidate: Any) -> Changes:
    changes = decode(model, candidate)
    fits = isinstance(changes, Mapping) and all(isinstance(a, Tensor) for a in changes.values())
    if not fits:
        raise TypeError(
            f"search: decode must give a Mask, or tensors by name, got {shown(changes)}"
        )
    return changes


def _through_workers(job: _Job, tasks: Sequence[Any], run: Run) -> Iterator[tuple[int, float]]:
    """Place and cost of each task; those whose worker lacked something come later."""
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
            _check_sendable(job)  # it says which part is at fault
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


def _check_sendable(job: _Job) -> None:
    """Raise TypeError that names the part of a job that cannot be sent to another process."""
    model, data, decode = (job.parts[name] for name in ("model", "data", "decode"))
    named = {"the data's loss": data.loss, "the data's metric": data.metric}
    for what, part in (
        named | {"the decoder": decode, "the data": data, "the model": model}
    ).items():
        try:
            pickle.dumps(part)
        except Exception as error:
            raise TypeError(
                f"search: {what} cannot be sent to workers in other processes, got "
                f"{_short(part)}: {error}. Define it with def or class at the top level of a "
                "module, or use threads."
            ) from error


def _short(part: Any) -> str:
    return repr(part) if callable(part) and not isinstance(part, nn.Module) else type(part).__name__


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


def _content(tell: Callable[[], str | None]) -> str | None:
    """What tells data or models from others; None where nothing does, as with a lambda."""
    try:
        return tell()
    except TypeError:
        return None


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
        kinds = [_names(kind) for kind in {type(module): None for module in model.modules()}]
        known = _content(lambda: data.key) or uuid.uuid4().hex
        built = _content(lambda: structure(model)) or uuid.uuid4().hex
        functions = [_names(function) for function in (data.loss, data.metric)]
        return {
            "model": digest(state_key(model), built, kinds),
            "data": digest(known, _names(data.kind), functions),
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
        if "data" in sent:
            sent["data"] = sent["data"].only("validation")
        return _arrived, (self.keys, sent)

    def __call__(self, task: tuple[Any, float]) -> float | Lacking:
        if lacking := {"model", "data", "decode"} - {*self.parts}:
            return Lacking(lacking)
        if self.remote:
            torch.set_num_threads(1)  # the workers share the cores
        candidate, limit = task
        try:
            return self._cost(candidate, limit)
        except Stopped:
            raise
        except Exception as error:
            error.add_note(f"{NOTE} {shown(candidate)}")
            raise

    def _cost(self, candidate: Any, limit: float) -> float:
        model, data, decode = (self.parts[name] for name in ("model", "data", "decode"))
        changes = _decoded(decode, model, candidate)
        if not hasattr(self.local, "model"):
            self.local.model = stand_in(model)
        worn = dict(self.local.model.named_parameters())
        weights = dict(model.named_parameters())
        with torch.no_grad():
            for name, own in worn.items():  # what the candidate before wore goes, too
                put_on(own, weights[name], changes.get(name))
        return judge(self.local.model, data.normalised, self.run, limit=limit)


# What this process was sent, if it is a worker: parts of jobs by their keys, the last used last.
_kept: OrderedDict[str, Any] = OrderedDict()
_keeping = threading.Lock()


def _arrived(keys: dict[str, str], sent: dict[str, Any]) -> _Job:
    """The job in a worker, with the parts that it was sent now or earlier."""
    _end_with_parent()
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


LOOKS = 0.5  # seconds between two looks at the parent
POOLS = ("concurrent.futures.process", "multiprocessing.pool")


def _end_with_parent(of_a_pool: object = None) -> None:
    """In a process that `multiprocessing` started, end soon after the one that started it.

    The processes of a pool wait for work at a pipe that they hold open themselves: where their
    parent is killed they would wait for ever. With `of_a_pool`, only in such a process: it may
    never get a job.
    """
    process, parent = multiprocessing.current_process(), multiprocessing.parent_process()
    target = getattr(process, "_target", None)
    if parent is None or (of_a_pool and getattr(target, "__module__", None) not in POOLS):
        return
    served = isinstance(process, getattr(multiprocessing.context, "ForkServerProcess", ()))
    _watch(os.getpid(), parent, os.getppid() if served and os.name == "posix" else parent.pid)


@functools.lru_cache(maxsize=1)  # once a process
def _watch(own: int, parent: Any, above: int) -> None:
    def is_gone() -> bool:
        # Siblings that were forked hold open the pipe by which one would hear of the parent's end.
        return os.getppid() != above if os.name == "posix" else not parent.is_alive()

    def watch() -> None:
        while not is_gone():
            time.sleep(LOOKS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _watch_once_started() -> None:
    while multiprocessing.parent_process() is None:  # still importing
        time.sleep(LOOKS)
    _end_with_parent(of_a_pool=True)


# In the new processes of multiprocessing alone: in those that are forked, and in those that import
# this module with their parent's program.
multiprocessing.util.register_after_fork(_end_with_parent, _end_with_parent)
if getattr(multiprocessing.current_process(), "_inheriting", False):
    threading.Thread(target=_watch_once_started, daemon=True).start()


@checked
def itself(model: nn.Module, changes: Changes) -> Changes:
    """The decoder of candidates that are masks, or new values of parameters."""
    return changes


@checked
def cost(model: nn.Module, data: Any, run: Run = Run()) -> float:
    """The validation cost of the model as it is, asked of the journal first."""
    return costs(model, data, [Mask({})], itself, run)[0]


@checked
def cut(
    model: nn.Module, data: Any, mask: Mask, index: int, of: int, run: Run = Run(), **info: Any
) -> Step:
    """Remove what the mask removes, and give the ``"prune"`` step that says so.

    Evaluated first, then applied: nothing polls `run.stop` between the change and the step.
    """
    mask.check(model)
    data = wrap(data)
    (result,) = costs(model, data, [mask], itself, run)
    step = Step("prune", index, of, mask, {data.metric_name: as_metric(result, data)}, info)
    mask.apply_(model)
    return step
