"""How the notebooks check themselves: `close` for measured numbers, `check` for exercises."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prunekit._arguments import checked
from prunekit.knobs import NonNegative, shown
from prunekit.mask import Mask


@checked
def close(value: float, expected: float, within: float = 0.02) -> None:
    """Print a measured number beside the expected one: ``≈0.973, expected 0.97 ± 0.02: ok``."""
    verdict = "ok"
    if not abs(value - expected) <= within:  # also for NaN
        verdict = (
            "not a number" if math.isnan(value) else "too low" if value < expected else "too high"
        )
    print(f"≈{value:.3f}, expected {expected:g} ± {within:g}: {verdict}")


UNANSWERED = "not answered yet: replace the ... above and run this cell again"


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
    ``...`` is not yet given. Errors of the answer are shown, never raised.
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
    try:
        given = _results(attempt, on)
    except Exception as error:
        return f"your answer stops with {type(error).__name__}: {error}"
    if any(result is ... or result is None for result in given):
        return UNANSWERED
    if on and not (callable(like) or isinstance(like, (list, tuple))):
        raise TypeError(
            "course: with `on`, like must be a function or the list of its results, got "
            f"{shown(like)}"
        )
    expected = _results(like, on)
    if len(given) != len(expected):
        return f"not quite: got {len(given)} results, expected {len(expected)}"
    pairs = zip(given, expected, strict=True)
    wrong = [i for i, pair in enumerate(pairs) if not _same(*pair, within)]
    if not wrong:
        return "right" + (f" on all {len(on)} examples" if on else "")
    for text, typical in (hints or {}).items():
        if all(_same(g, t, within) for g, t in zip(given, _results(typical, on), strict=True)):
            return f"not quite: {text}"
    first = wrong[0]
    if isinstance(expected[first], Tensor) and not _alike(given[first], expected[first]):
        kind = "of True and False " if expected[first].dtype == torch.bool else ""
        shape = tuple(expected[first].shape)
        return f"not quite: the answer must be a tensor {kind}of shape {shape}"
    where = f" for {', '.join(map(_short, on[first]))}" if on else ""
    return f"not quite{where}: got {_short(given[first])}, expected {_short(expected[first])}"


def _results(answer: Any, on: Sequence[tuple[Any, ...]]) -> list[Any]:
    if not on:
        return [answer]
    if isinstance(answer, (list, tuple)):
        return list(answer)
    return [answer(*copy.deepcopy(arguments)) for arguments in on]


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
    if not isinstance(given, Tensor) or given.shape != expected.shape:
        return False
    return (given.dtype == torch.bool) == (expected.dtype == torch.bool)


def _short(value: Any, width: int = 70) -> str:
    if isinstance(value, Tensor):
        value = value.tolist()
    try:
        text = f"{value:.6g}" if isinstance(value, float) else str(value)
    except Exception:  # whatever an answer's own do
        text = shown(value)
    return text if len(text) <= width else text[: width - 1] + "…"
