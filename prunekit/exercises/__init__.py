"""The exercises and open tasks of the notebooks: examples, right answers, hints, and a board.

``exercises/<notebook>.py`` holds those of a notebook, as `EXERCISES` and `CHALLENGES`.
"""

from __future__ import annotations

import functools
import importlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

import torch

from prunekit._arguments import checked
from prunekit._files import home, replacing
from prunekit._patience import patiently
from prunekit.course import CHARACTERS, NOTHING, SECONDS, UNANSWERED, stops, verdict
from prunekit.knobs import Choice, NonNegative, Positive, shown

__all__ = ["Challenge", "Exercise", "challenge", "exercise", "mark"]

SHOWN = 5  # of one's own results


@checked
@dataclass(frozen=True)
class Exercise:
    """A function to write: it is called with each tuple of `on` and has to agree with `right`.

    hints: by a text the function that makes a typical mistake; whoever makes it gets the text.
    """

    right: Callable[..., Any]
    on: Sequence[tuple[Any, ...]]
    hints: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    within: NonNegative = 1e-4


@checked
@dataclass(frozen=True)
class Challenge:
    """An open task: `judge` gives an answer's result, or raises ValueError for one that is none.

    what: the result, in words. rivals: gives the results of others by name, for the board.
    seconds: that judging an answer may take.
    """

    judge: Callable[[Any], float]
    what: str
    best: Annotated[str, Choice("highest", "lowest")]
    rivals: Callable[[], Mapping[str, float]]
    seconds: Positive = 120.0


@checked
def exercise(name: str | Exercise, attempt: Any) -> None:
    """Compare the answer to an exercise with the right one and print one line.

    name: of an exercise of the notebooks, or one of your own. An answer of ``...`` is not yet
    given. Errors of the answer are shown, never raised; one that does not come back is ended, if
    it is Python. Raises ValueError for a name that no exercise has.
    """
    print(_verdict(name, attempt))


@checked
def mark(name: str | Exercise, attempt: Any) -> None:
    """The same for marks, such as those of nbgrader: nothing where the answer is right.

    Raises AssertionError, which says what is wrong, for every other answer. The right answers stand
    in this package, so mark what is handed in with examples of your own: ``mark(Exercise(...),
    answer)``.
    """
    if not (said := _verdict(name, attempt)).startswith("right"):
        raise AssertionError(said)


def _verdict(name: str | Exercise, attempt: Any) -> str:
    asked = name if isinstance(name, Exercise) else _named("EXERCISES", name)
    if attempt is not ... and asked.on and not callable(attempt):
        return f"not quite: the answer must be a function, got {shown(attempt)}"
    return verdict(attempt, asked.right, asked.on, hints=asked.hints, within=asked.within)


@checked
def challenge(name: str, attempt: Any) -> None:
    """Judge the answer to an open task, and print a board: the own best ones, and the rivals.

    An answer is ``...`` until it is given, or a function that returns that. Own results are kept in
    ``PRUNEKIT_HOME/boards``. Raises ValueError for a name that no task has.
    """
    task = _named("CHALLENGES", name)
    try:
        given = _watched(attempt) if callable(attempt) else attempt
        value = patiently(lambda: task.judge(given), task.seconds, CHARACTERS)
    except TimeoutError as late:
        return print(f"your answer {late}")
    except (Unanswered, Nothing) as said:
        return print(said)
    except ValueError as rule:  # of the task
        return print(f"this does not count: {rule}")
    except BaseException as error:  # SystemExit, too
        return print(stops(error.error if isinstance(error, Fails) else error))
    if not math.isfinite(value):
        return print(f"your answer has no result that counts: {value}")
    print(f"{task.what}: {value:.4g}")
    own = [*_board(name), {"value": value, "when": f"{datetime.now():%d %b %Y, %H:%M}"}]
    try:
        _keep(name, own)
    except OSError as error:
        print(f"this result is not kept: {error}")
    upwards = -1.0 if task.best == "highest" else 1.0
    lines = [(upwards * one["value"], f"yours, {one['when']}", one is own[-1]) for one in own]
    now = lines[-1]
    best = sorted(lines[:-1], key=itemgetter(0))[: SHOWN - 1]
    rivals = [(upwards * v, who, False) for who, v in _rivals(name).items()]
    ranked = sorted([now, *best, *rivals], key=itemgetter(0))
    for place, (worth, who, last) in enumerate(ranked, start=1):
        print(f"{place:>2}. {upwards * worth:<8.4g} {who}{'  ←' if last else ''}")


def _watched(attempt: Callable[..., Any]) -> Callable[..., Any]:
    """An answer of which each call has to come back soon, with something."""

    @functools.wraps(attempt)
    def call(*given: Any) -> Any:
        try:
            result = patiently(lambda: attempt(*given), SECONDS, CHARACTERS)
        except TimeoutError:
            raise
        except BaseException as error:
            raise Fails(error) from error
        if result is None:
            raise Nothing(NOTHING)
        return result

    return call


class Fails(Exception):
    """Raised for what an answer raises itself, its `error`."""

    def __init__(self, error: BaseException):
        super().__init__(error)
        self.error = error


class Nothing(Exception):
    """Raised by an answer that returns None."""


class Unanswered(Exception):
    """Raised by a judge that is given ``...``."""


def answered(result: Any) -> Any:
    """What an answer gave; raises `Unanswered` for ``...``."""
    if result is ...:
        raise Unanswered(UNANSWERED)
    return result


def numbers(own: Any, many: int, rule: str) -> list[float]:
    """An answer as so many numbers. Raises ValueError, which tells the rule, for others."""
    try:
        found = torch.as_tensor(own).double().flatten().tolist()
    except Exception:  # whatever an answer is
        found = []
    if len(found) != many or not all(map(math.isfinite, found)):
        raise ValueError(rule)
    return found


@functools.cache
def _rivals(name: str) -> Mapping[str, float]:
    found: Mapping[str, float] = _named("CHALLENGES", name).rivals()
    return found


def _named(kind: str, name: str) -> Any:
    found: dict[str, Any] = {}
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        found |= getattr(importlib.import_module(f"{__name__}.{path.stem}"), kind, {})
    if name not in found:
        raise ValueError(f"exercises: {name!r} is none of {', '.join(found)}")
    return found[name]


def _board(name: str) -> list[dict[str, Any]]:
    """One's own results so far; without what is damaged."""
    try:
        found = json.loads((home() / "boards" / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    kept = []
    for one in found if isinstance(found, list) else []:
        with suppress(ValueError, TypeError, KeyError):
            kept.append({"value": float(one["value"]), "when": str(one["when"])})
    return kept


def _keep(name: str, own: list[dict[str, Any]]) -> None:
    with replacing(home() / "boards" / f"{name}.json") as beside:
        beside.write_text(json.dumps(own, indent=1), encoding="utf-8")
