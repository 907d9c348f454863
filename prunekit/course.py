"""How a notebook answers its reader: `check` for exercises, `holds` for claims."""

from __future__ import annotations

import copy
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from prunekit._arguments import checked
from prunekit._patience import patiently
from prunekit.experiments.records import FEWEST, Difference
from prunekit.knobs import Choice, NonNegative, shown
from prunekit.looks import GREEN, INK, ORANGE, RED
from prunekit.mask import Mask

UNANSWERED = "not answered yet: replace the ... above and run this cell again"
SECONDS, CHARACTERS = 5.0, 2_000  # that an answer may take, and print
NOTHING = "your function returns None: does it end with return?"
WIDTH = 70  # characters of a value that are shown


@checked
def check(
    attempt: Any,
    like: Any,
    on: Sequence[tuple[Any, ...]] = (),
    *,
    hints: Mapping[str, Any] | None = None,
    within: NonNegative = 1e-6,
) -> None:
    """Compare an answer with a reference and print one line.

    Without `on`, both are values. With `on`, the answer is a function that is called with every
    tuple of arguments, and the reference is a function or the list of its results. `hints` maps a
    text to a typical wrong answer of the same kind; whoever gives that gets the text. An answer of
    ``...`` is not yet given. Errors of the answer are shown, never raised; one that does not come
    back is ended after `SECONDS`.
    """
    print(verdict(attempt, like, on, hints=hints, within=within))


@checked
def verdict(
    attempt: Any,
    like: Any,
    on: Sequence[tuple[Any, ...]] = (),
    *,
    hints: Mapping[str, Any] | None = None,
    within: NonNegative = 1e-6,
) -> str:
    """The line that `check` prints; it starts with "right" if the answer is right."""
    if attempt is ...:
        return UNANSWERED
    before, passed = _copies(on), _copies(on)
    try:
        given = patiently(lambda: _results(attempt, passed), SECONDS, CHARACTERS)
    except TimeoutError as late:
        return f"your answer {late}"
    except BaseException as error:
        return stops(error)
    if any(result is ... for result in given):
        return UNANSWERED
    if any(result is None for result in given):
        return NOTHING if on else "your answer is None"
    if on and not (callable(like) or isinstance(like, (list, tuple))):
        raise TypeError(
            "course: with `on`, like must be a function or the list of its results, got "
            f"{shown(like)}"
        )
    expected = _results(like, _copies(on))
    if len(given) != len(expected):
        return f"not quite: got {len(given)} results, expected {len(expected)}"
    pairs = zip(given, expected, strict=True)
    wrong = [i for i, pair in enumerate(pairs) if not _same(*pair, within)]
    if not wrong:
        changed = not _same(passed, before, 0.0) if on else False
        but = ", but it changes what it is given: work on a copy" if changed else ""
        return "right" + (f" on all {len(on)} examples{but}" if on else "")
    for text, typical in (hints or {}).items():
        mistake = _results(typical, _copies(on))
        if all(_same(g, m, within) for g, m in zip(given, mistake, strict=True)):
            return f"not quite: {text}"
    first = wrong[0]
    if isinstance(expected[first], Tensor) and not _alike(given[first], expected[first]):
        kind = "of True and False " if expected[first].dtype == torch.bool else ""
        shape = tuple(expected[first].shape)
        return f"not quite: the answer must be a tensor {kind}of shape {shape}"
    where = f" for {', '.join(map(_short, on[first]))}" if on else ""
    place, got, wanted = _differing(given[first], expected[first], within)
    return f"not quite{where}: {place}got {_short(got)}, expected {_short(wanted)}"


@checked
def stops(error: BaseException) -> str:
    """What is said of an answer that raises; one that says that it is not written is not given."""
    if isinstance(error, NotImplementedError):
        return UNANSWERED
    return f"your answer stops with {type(error).__name__}: {error}"


def _copies(on: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Arguments of which no call can spoil those of another."""
    return [copy.deepcopy(arguments) for arguments in on]


def _results(answer: Any, on: Sequence[tuple[Any, ...]]) -> list[Any]:
    if not on:
        return [answer]
    if isinstance(answer, (list, tuple)):
        return list(answer)
    return [answer(*arguments) for arguments in on]


def _same(given: Any, expected: Any, within: float) -> bool:
    if isinstance(expected, (Mask, str)):
        return isinstance(given, type(expected)) and given == expected
    if isinstance(expected, Mapping):
        fits = isinstance(given, Mapping) and set(given) == set(expected)
        return fits and all(_same(given[name], expected[name], within) for name in expected)
    try:
        a, b = torch.as_tensor(given), torch.as_tensor(expected)
    except Exception:  # no numbers, or tensors of several shapes
        if not isinstance(expected, (list, tuple)):
            return type(given) is type(expected) and bool(given == expected)
        fits = isinstance(given, (list, tuple)) and len(given) == len(expected)
        return fits and all(_same(g, e, within) for g, e in zip(given, expected, strict=True))
    if a.shape != b.shape or (a.dtype == torch.bool) != (b.dtype == torch.bool):
        return False
    if a.dtype == torch.bool:
        return torch.equal(a, b)
    return torch.allclose(a.double(), b.double(), rtol=0, atol=within)


def _alike(given: Any, expected: Tensor) -> bool:
    """Whether the answer is of the right kind and shape."""
    try:
        given = torch.as_tensor(given)
    except Exception:  # no numbers
        return False
    return given.shape == expected.shape and (
        (given.dtype == torch.bool) == (expected.dtype == torch.bool)
    )


def _differing(given: Any, expected: Any, within: float) -> tuple[str, Any, Any]:
    """Of two long lists the first place at which they differ, and what stands there; else both."""
    given, expected = (v.tolist() if isinstance(v, Tensor) else v for v in (given, expected))
    lists = isinstance(given, (list, tuple)) and isinstance(expected, (list, tuple))
    long = max(len(_written(given)), len(_written(expected))) > WIDTH
    if lists and long and len(given) == len(expected):
        pairs = zip(given, expected, strict=True)
        at = next((i for i, pair in enumerate(pairs) if not _same(*pair, within)), None)
        if at is not None:
            place, got, wanted = _differing(given[at], expected[at], within)
            return f"at place {at}{', ' if place else ': '}{place}", got, wanted
    return "", given, expected


def _short(value: Any) -> str:
    text = _written(value)
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def _written(value: Any) -> str:
    """A value with four digits."""
    if isinstance(value, Tensor):
        value = value.tolist()
    try:
        if type(value) in (list, tuple):
            ends = "[]" if type(value) is list else "()"
            return ends[0] + ", ".join(map(_written, value)) + ends[1]
        return f"{value:.4g}" if isinstance(value, float) else str(value)
    except Exception:  # whatever an answer's own do
        return shown(value)


# A sign and the colour of the bar: both are seen on a light page and on a dark one.
BOXES = {
    "holds": ("✓", GREEN),
    "holds with": ("≈", ORANGE),
    "does not hold": ("✗", RED),
    "not tested": ("?", INK),
}


@checked
@dataclass(frozen=True)
class Verdict:
    """Whether a claim holds here, in a box with one sentence: one of `BOXES`, and why."""

    claim: str
    answer: Annotated[str, Choice("holds", "holds with", "does not hold", "not tested")]
    condition: str
    because: str

    def __str__(self) -> str:
        return f"{self.claim}: {self.answer}{self._with}. {self.because}"

    __repr__ = __str__

    @property
    def _with(self) -> str:
        return f" {self.condition}" if self.condition else ""

    def _repr_html_(self) -> str:
        sign, colour = BOXES[self.answer]
        claim, condition, why = map(html.escape, (self.claim, self._with, self.because))
        return (
            f'<div role="note" style="border-left: 6px solid {colour}; padding: 6px 12px; '
            f'margin: 8px 0; max-width: 80ch"><div>{claim}</div>'
            f"<div><b>{sign} {self.answer}{condition}</b></div><div>{why}</div></div>"
        )


@checked
def holds(
    claim: str,
    *,
    less: Mapping[str, Difference] | None = None,
    more: Mapping[str, Difference] | None = None,
    condition: str = "",
) -> Verdict:
    """The verdict on a claim, from differences over networks (`experiments.difference`).

    The claim is that what is in `less` is below 0, and what is in `more` above it; their names say
    what was measured. It holds if that is so on every network, under a `condition` if it was tested
    under one. It holds with doubt if so few networks could agree by chance. A distance from a
    number, such as a size that a paper tells, holds with exceptions where most networks and their
    mean are beyond it. Fewer than three networks are no test.
    """
    found = {**{n: (d, -1) for n, d in (less or {}).items()},
             **{n: (d, 1) for n, d in (more or {}).items()}}  # fmt: skip
    if not found:
        return Verdict(claim, "not tested", "", "There is no run of it.")
    because = "; ".join(f"{name}: {difference}" for name, (difference, _) in found.items()) + "."
    because = because[0].upper() + because[1:]
    if (fewest := min(len(difference.values) for difference, _ in found.values())) < FEWEST:
        networks = "one network" if fewest == 1 else f"{fewest} networks"
        why = f"{networks[0].upper()}{networks[1:]} cannot tell it from luck. {because}"
        return Verdict(claim, "not tested", "", why)
    if not all(_holds(difference, side) for difference, side in found.values()):
        return Verdict(claim, "does not hold", "", because)
    but = [condition] if condition else []
    if any(difference.sign != side for difference, side in found.values()):
        but.append("exceptions")
    if any(difference.fixed is None and difference.is_weak for difference, _ in found.values()):
        but.append("doubt")
    return Verdict(claim, "holds with" if but else "holds", ", ".join(but), because)


def _holds(difference: Difference, side: int) -> bool:
    """Whether it is on this side of 0 on all networks; if it is from a number, then on most."""
    if difference.fixed is None:
        return difference.sign == side
    there = difference.above if side > 0 else len(difference.values) - difference.above
    return 2 * there > len(difference.values) and side * difference.mean > 0
