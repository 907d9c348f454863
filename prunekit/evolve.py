"""Differential evolution of real vectors: mutation, crossover and one-to-one selection.

Storn and Price 1997, doi 10.1023/A:1008202821328. Nothing here knows what a vector stands for; the
scores come from a function, which may compare them with those that they have to beat.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from prunekit._arguments import checked, shaped
from prunekit.knobs import Choice, Natural, shown

# x: the targets, best: the best of them, a, b, c: three others of each target; all (n, genes).
STRATEGIES: dict[str, Callable[..., Tensor]] = {
    "rand1bin": lambda x, best, a, b, c, scale: a + scale * (b - c),
    "best1bin": lambda x, best, a, b, c, scale: best + scale * (b - c),
    "current-to-best1bin": lambda x, best, a, b, c, scale: x + scale * (best - x + b - c),
    # Outside all bounds, so every gene is drawn anew: random search, with a crossover of 1.
    "random": lambda x, best, a, b, c, scale: torch.full_like(x, torch.inf),
}
Strategy = Annotated[str, Choice(*STRATEGIES)]
Genes = Annotated[Tensor, shaped("genes")]
FEWEST = 4  # a target and three others
ROWS = 1_000  # of the drawn order of all vectors that are held at once

# judge(trials, rivals) -> scores: smaller is better. The rivals are the scores to beat, None in the
# first generation; a trial that is worse than its rival may get any score that is worse.
Judge = Callable[[Tensor, Sequence[Any] | None], Sequence[Any]]


@checked
@dataclass(frozen=True)
class Proposal:
    """How the trials of all targets were made; tensors of `(n, genes)`, `others` of `(n, 3)`.

    `others` are the places of a, b and c; `mutants` have genes that may lie outside the bounds,
    `mended` have these drawn anew; `crossed` is where a trial takes over the mended mutant.
    """

    others: Tensor
    mutants: Tensor
    mended: Tensor
    crossed: Tensor
    trials: Tensor


@checked
@dataclass(frozen=True)
class Generation:
    """The vectors that survive, `(n, genes)`, their scores, which of them are new, and the trials
    that they were chosen from; the first generation has none."""

    index: int
    vectors: Tensor
    scores: tuple[Any, ...]
    replaced: tuple[int, ...]
    proposal: Proposal | None = None

    @property
    def best(self) -> int:
        """The place of the best vector, the first among equals."""
        return min(range(len(self.scores)), key=lambda i: self.scores[i])


@checked
def spread(n: Natural, low: Genes, high: Genes, generator: torch.Generator) -> Tensor:
    """`n` vectors drawn evenly between the bounds, `(n, genes)`."""
    check_bounds(low, high)
    drawn = torch.rand(n, len(low), generator=generator, dtype=torch.float64, device="cpu")
    return low + drawn * (high - low)


@checked
def propose(
    vectors: Annotated[Tensor, shaped("n", "genes")],
    best: Genes,
    low: Genes,
    high: Genes,
    strategy: Strategy,
    scale: float,
    crossover: float,
    generator: torch.Generator,
) -> Proposal:
    """A trial for each vector, with all that leads to it; at least one gene comes from the mutant.

    Mutant genes outside the bounds are drawn anew between them.
    """
    n, genes = vectors.shape
    _check_vectors(vectors, low, high)
    places = torch.arange(n, device="cpu")
    others = torch.cat([_others(rows, n, generator) for rows in places.split(ROWS)])
    a, b, c = (vectors[places] for places in others.T)
    mutants = STRATEGIES[strategy](vectors, best, a, b, c, scale)
    anew = spread(n, low, high, generator)
    mended = torch.where((mutants < low) | (mutants > high), anew, mutants)
    crossed = (
        torch.rand(n, genes, generator=generator, dtype=torch.float32, device="cpu") < crossover
    )
    crossed[places, torch.randint(genes, (n,), generator=generator, device="cpu")] = True
    return Proposal(others, mutants, mended, crossed, torch.where(crossed, mended, vectors))


def _others(rows: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Three places of n, drawn for each of some rows, none of them its own; (rows, 3)."""
    order = torch.rand(len(rows), n, generator=generator, dtype=torch.float32, device="cpu")
    return order.scatter_(1, rows[:, None], 2.0).argsort(1)[:, :3]  # a vector itself comes last


@checked
def evolve(
    judge: Judge,
    start: Annotated[Tensor, shaped("n", "genes")],
    low: Genes,
    high: Genes,
    *,
    generations: Natural,
    strategy: Strategy = "rand1bin",
    scale: float = 0.5,
    crossover: float = 0.9,
    generator: torch.Generator,
) -> Iterator[Generation]:
    """Yield the start, `(n, genes)`, as generation 0, then each generation that follows.

    A trial takes the place of its target if its score is not worse. Raises ValueError for bounds
    that are crossed or not numbers, fewer than 4 vectors, and scores that are NaN.
    """
    _check_vectors(start, low, high)
    vectors = start.double()
    scores = _scores(judge, vectors, None)
    generation = Generation(0, vectors, tuple(scores), tuple(range(len(vectors))))
    yield generation
    for index in range(1, generations + 1):
        made = propose(
            vectors, vectors[generation.best], low, high, strategy, scale, crossover, generator
        )
        found = _scores(judge, made.trials, scores)
        replaced = [i for i, score in enumerate(found) if score <= scores[i]]
        vectors, scores = vectors.clone(), list(scores)
        for i in replaced:
            vectors[i], scores[i] = made.trials[i], found[i]
        generation = Generation(index, vectors, tuple(scores), tuple(replaced), made)
        yield generation


@checked
def check_bounds(low: Genes, high: Genes) -> None:
    """Raise ValueError unless every gene has two finite bounds in the right order."""
    if low.shape != high.shape:
        raise ValueError(f"evolve: {len(low)} low bounds need as many high ones, got {len(high)}")
    for gene, (a, b) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        if not (math.isfinite(a) and math.isfinite(b) and a <= b):
            raise ValueError(f"evolve: gene {gene} needs finite bounds, low <= high, got {a}, {b}")


def _check_vectors(vectors: Tensor, low: Tensor, high: Tensor) -> None:
    check_bounds(low, high)
    if len(vectors) < FEWEST:
        raise ValueError(f"evolve: there must be at least {FEWEST} vectors, got {len(vectors)}")
    if vectors.shape[1] != len(low):
        raise ValueError(f"evolve: {len(low)} bounds need as many genes, got {vectors.shape[1]}")


def _scores(judge: Judge, vectors: Tensor, rivals: Sequence[Any] | None) -> list[Any]:
    scores = judge(vectors, rivals)
    if not isinstance(scores, Iterable):
        raise TypeError(f"evolve: judge must give a score for each vector, got {shown(scores)}")
    scores = list(scores)
    if len(scores) != len(vectors):
        raise ValueError(f"evolve: {len(vectors)} vectors need as many scores, got {len(scores)}")
    for vector, score in zip(vectors, scores, strict=True):
        if any(math.isnan(part) for part in (score if isinstance(score, tuple) else (score,))):
            raise ValueError(f"evolve: the score of {vector.tolist()} is {score}, not a number")
    return scores
