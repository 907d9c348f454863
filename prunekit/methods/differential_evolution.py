"""Layer-wise pruning whose thresholds are found by differential evolution.

Each layer gets a sensitivity: weights below sensitivity × standard deviation go. Evolution searches
the sensitivities that keep the fewest weights at hardly any loss of accuracy; then some removed
weights come back at random, the network is fine-tuned, and the next round begins. Wu, Li, Zhou, Li
and Shi 2021, Sensors 21(3), 880, doi 10.3390/s21030880.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Unpack

import torch
from torch import Tensor, nn

from prunekit import score, search, select
from prunekit._modules import put_back, snapshot
from prunekit.data import Data
from prunekit.evolve import FEWEST, STRATEGIES, Generation, evolve, spread
from prunekit.judge import SLACK, as_metric, hardest_first
from prunekit.knobs import Choice, Count, Fraction, Names, Natural, Positive, Range, Useful
from prunekit.mask import Mask, prunable
from prunekit.method import method
from prunekit.steps import Run, Step, Tried, derive
from prunekit.train import Tuning, fit

# What is smallest in the best candidate, from its cost and the number of weights it keeps; `dense`
# is the cost before pruning, `allowed` the cost that pruning may have, `budget` the number of
# weights that may be kept.
# paper: its text, and so the formula of the fitness, was not available to us; here: Deb's rule, a
# weighted sum, or Deb's rule with the parts exchanged, so that the final size can be asked for.
FITNESS: dict[str, Callable[..., Any]] = {
    "constrained": lambda cost, kept, allowed, **_: (max(0.0, cost - allowed), kept),
    "weighted": lambda cost, kept, dense, total, scale, balance, **_: (
        (balance and balance * max(0.0, cost - dense) / scale) + (1 - balance) * kept / total
    ),
    "budget": lambda cost, kept, budget, **_: (max(0, kept - budget), cost),
}
SETTLED = 0.75  # share of a training after which no weight returns
GRID = 10  # sensitivities that the scan tries in each layer


@dataclass(frozen=True)
class _Layers:
    """The layers of a model under a mask: names of parameters, standard deviation over the
    survivors, and the survivors' magnitudes in order, (n,)."""

    names: list[list[str]]
    deviations: list[float]
    sizes: list[Tensor]

    def kept(self, sensitivities: Sequence[float]) -> int:
        """How many weights the mask of these sensitivities keeps, without making it."""
        limits = _thresholds(sensitivities, self.deviations)
        return sum(
            len(sizes) - int(torch.searchsorted(sizes, limit))
            for sizes, limit in zip(self.sizes, limits, strict=True)
        )


def _budget(density: float, total: int) -> int:
    """How many of all weights may be kept."""
    return int(density * total + SLACK)


def _layers(model: nn.Module, mask: Mask) -> _Layers:
    parameters = dict(model.named_parameters())
    names: dict[str, list[str]] = {}
    for name in mask:
        names.setdefault(name.rpartition(".")[0], []).append(name)
    deviations, sizes = [], []
    for group in names.values():
        w = torch.cat([parameters[name].detach().cpu()[mask[name]].float() for name in group])
        deviations.append(float(w.std(correction=0)) if len(w) else 0.0)
        sizes.append(w.abs().sort().values)
    return _Layers([*names.values()], deviations, sizes)


def _thresholds(sensitivities: Sequence[float], deviations: list[float]) -> list[Tensor]:
    """The threshold of each layer; one sensitivity stands for all of them.

    paper: a set of sensitivities, one for each layer; times what, its abstract does not say. Here:
    times the standard deviation.
    """
    repeats = len(deviations) if len(sensitivities) == 1 else 1
    pairs = zip([*sensitivities] * repeats, deviations, strict=True)
    return [
        torch.tensor(s * deviation, dtype=torch.float32, device="cpu") for s, deviation in pairs
    ]


def _cut(
    model: nn.Module,
    sensitivities: Sequence[float],
    *,
    mask: Mask,
    names: list[list[str]],
    deviations: list[float],
) -> Mask:
    """What is left of the mask at and above the thresholds."""
    parameters, kept = dict(model.named_parameters()), {}
    for group, limit in zip(names, _thresholds(sensitivities, deviations), strict=True):
        for name in group:
            kept[name] = parameters[name].detach().cpu().float().abs() >= limit
    return mask & Mask(kept)


def _recover(
    model: nn.Module, before: Mask, cut: Mask, how: str, share: float, generator: torch.Generator
) -> Mask:
    """The mask with a share of what this cut removed put back, in each parameter.

    `how` says which: "random" ones, or the largest by "magnitude"; with "off", none.
    """
    if how == "off":
        return cut
    parameters, kept = dict(model.named_parameters()), {}
    for name, keep in cut.items():
        removed = (before[name] & ~keep).flatten().nonzero().flatten()
        n = round(share * len(removed))
        if how == "random":
            order = torch.randperm(len(removed), generator=generator, device="cpu")
        else:
            sizes = parameters[name].detach().cpu().flatten()[removed].abs()
            order = sizes.argsort(descending=True, stable=True)
        flat = keep.flatten().clone()
        flat[removed[order[:n]]] = True
        kept[name] = flat.view(keep.shape)
    return Mask(kept)


def _splice(model: nn.Module, mask: Mask, t: float, *, share: float) -> Mask:
    """The mask with a share of each parameter's smallest weights exchanged for removed ones.

    Removed weights keep receiving gradients and may return: splicing, Guo, Yao and Chen 2016, arXiv
    1608.04493. There each return is decided by a copy that learns on unseen; here by the gradient
    of the last minibatch, and the share falls along a cosine to 0 at three quarters of the training
    (Evci et al. 2020, arXiv 1911.11134, who let the returned weights start at 0, as here). Those
    have an epoch to grow: asked sooner, they are the smallest and go again.
    """
    parameters = dict(model.named_parameters())
    slopes = {name: p.grad.abs() for name in mask if (p := parameters[name]).grad is not None}
    falling = (1 + math.cos(math.pi * min(t / SETTLED, 1))) / 2
    learning = Mask({name: mask[name] for name in slopes})
    after = select.exchange(score.magnitude(model, slopes), slopes, share * falling, learning)
    return mask if after is learning else Mask({**mask, **after})


def _last_mask(steps: Iterator[Step], mask: Mask) -> Generator[Step, None, Mask]:
    """The mask after these steps, which are handed on."""
    for step in steps:
        yield step
        mask = step.mask
    return mask


def _minus(loss: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, targets: Tensor) -> float:
    return -float(loss(outputs, targets))


def _judged_by_loss(data: Data) -> Data:
    """The same validation examples, with minus their mean loss as the metric."""
    part = data.only("validation")
    part.metric = functools.partial(_minus, data.loss)
    return part


class _Judge:
    """Scores the vectors of a round; skips what cannot win and stops what has lost."""

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        mask: Mask,
        layers: _Layers,
        rate: Callable[[float, int], Any],
        skip: bool,
        run: Run,
    ):
        self.model, self.data, self.layers, self.run = model, data, layers, run
        self.rate, self.skip, self.n = rate, skip, data.unit("validation")
        self.decode = functools.partial(
            _cut, mask=mask, names=layers.names, deviations=layers.deviations
        )
        self.known: dict[tuple[float, ...], tuple[int, float]] = {}  # vector -> kept, cost

    def most(self, rival: Any, kept: int) -> float:
        """The largest cost with which so many weights do not lose against the rival's score."""
        if not self.data.counts_errors:
            return -math.inf if self.rate(-math.inf, kept) > rival else math.inf
        return bisect.bisect_right(range(self.n + 1), rival, key=lambda e: self.rate(e, kept)) - 1

    def __call__(self, vectors: Tensor, rivals: Sequence[Any] | None) -> list[Any]:
        candidates = [tuple(vector) for vector in vectors.tolist()]
        kept = [self.layers.kept(candidate) for candidate in candidates]
        limits = [math.inf] * len(candidates)
        if rivals is not None and self.skip:
            limits = [self.most(*pair) for pair in zip(rivals, kept, strict=True)]
        asked = [i for i, limit in enumerate(limits) if limit >= 0]
        answers = search.costs(
            self.model, self.data, [candidates[i] for i in asked], self.decode, self.run,
            [limits[i] for i in asked],
        )  # fmt: skip
        costs = [math.inf] * len(candidates)
        for i, cost in zip(asked, answers, strict=True):
            costs[i] = cost
            pair = (kept[i], cost)  # infinite if stopped; a twin may have gone on to the end
            self.known[candidates[i]] = min(pair, self.known.get(candidates[i], pair))
        return [self.rate(*pair) for pair in zip(costs, kept, strict=True)]

    def tried(self, generation: Generation, allowed: float | None, unit: str) -> Tried:
        """The population as plain numbers."""
        vectors = tuple(map(tuple, generation.vectors.tolist()))
        kept, costs = zip(*(self.known[vector] for vector in vectors), strict=True)
        return Tried(costs, generation.best, kept, vectors, generation.replaced, allowed, unit)


def _scan(judge: _Judge, allowed: float, bound: float) -> list[float]:
    """The upper bound of each gene: the largest sensitivity, of a grid up to `bound`, with which a
    layer that is cut alone, and with each smaller one, costs no more than allowed."""
    genes, grid = len(judge.layers.names), [bound * ((i + 1) / GRID) for i in range(GRID)]
    if judge.data.counts_errors and allowed >= judge.n:
        return [bound] * genes  # nothing can cost more
    alone = [tuple(s * (g == gene) for g in range(genes)) for gene in range(genes) for s in grid]
    limits = [allowed] * len(alone)
    costs = search.costs(judge.model, judge.data, alone, judge.decode, judge.run, limits)
    highest = []
    for gene in range(genes):
        fine = [cost <= allowed for cost in costs[gene * GRID : (gene + 1) * GRID]]
        passed = fine.index(False) if False in fine else GRID
        highest.append(grid[passed - 1] if passed else 0.0)
    return highest


def _generations(
    judge: _Judge, highest: list[float], population: int, generator: torch.Generator, **knobs: Any
) -> Iterator[Generation]:
    """Evolution between 0 and the highest value of each gene, from vectors drawn evenly."""
    high = torch.tensor(highest, dtype=torch.float32, device="cpu").double()  # (genes,)
    first = spread(population, torch.zeros_like(high), high, generator)  # (population, genes)
    first[0] = 0  # which keeps everything
    yield from evolve(judge, first, torch.zeros_like(high), high, generator=generator, **knobs)


def _check(
    model: nn.Module, data: Any, *, images: int, judged_by: str, fitness: str, density: float,
    biases: bool, ignore: Names, drop: float, tolerance: float, epochs: int, **_: Any,
) -> None:  # fmt: skip
    total = sum(p.numel() for p in prunable(model, biases, ignore, data.example).values())
    if fitness == "budget" and not _budget(density, total):
        raise ValueError(
            f"differential_evolution: density must leave one of {total} weights, got {density}"
        )
    if fitness == "constrained" and judged_by == "metric" and not epochs and tolerance < drop:
        raise ValueError(
            f"differential_evolution: tolerance must be at least drop, {drop:g}, where no epochs "
            f"follow a cut, got {tolerance:g}. Else a cut that uses its drop is taken back."
        )
    if images and not data.reorderable:
        raise ValueError(f"differential_evolution: images must be 0 for own data, got {images}")
    if judged_by == "loss" and not data.reorderable:
        raise ValueError(
            "differential_evolution: judged_by must be 'metric' for own data, got 'loss'"
        )
    if images and images > (n := data.size("validation")):
        raise ValueError(f"differential_evolution: images must be at most {n}, got {images}")


def _work(
    rounds: int, generations: int, population: int, epochs: int, last_epochs: int, **_: Any
) -> tuple[int, int]:
    return rounds * (generations + 1) * population, rounds * epochs + last_epochs


@method(
    check=_check,
    work=_work,
    tuning=dict(epochs=4, lr=0.01),
    regrows=True,
    quick=dict(rounds=2, generations=2, population=8, epochs=2, last_epochs=2),
)
def differential_evolution(
    model: nn.Module,
    data: Any,
    *,
    rounds: Annotated[Count, Useful(1, 10)] = 3,
    drop: Annotated[float, Range(0, 1), Useful(0.001, 0.2, log=True)] = 0.01,
    tolerance: Annotated[float, Range(0, 1), Useful(0, 0.05)] = 0.005,
    generations: Annotated[Count, Useful(1, 60)] = 25,
    population: Annotated[int, Range(FEWEST), Useful(FEWEST, 60)] = 20,
    strategy: Annotated[str, Choice(*STRATEGIES)] = "rand1bin",
    scale: Annotated[float, Range(0, 2, low_open=True)] = 0.5,
    crossover: Annotated[float, Range(0, 1)] = 0.9,
    uniform: bool = False,
    fitness: Annotated[str, Choice(*FITNESS)] = "constrained",
    balance: Annotated[float, Range(0, 1)] = 0.7,
    density: Annotated[float, Range(0, 1, low_open=True), Useful(0.01, 1, log=True)] = 0.1,
    scan: Annotated[float, Range(0, 1)] = 0.1,
    bound: Annotated[Positive, Useful(0.1, 5)] = 2.5,
    later: Annotated[Positive, Useful(0.1, 5)] = 1.5,
    recovery: Annotated[str, Choice("random", "magnitude", "off")] = "random",
    recovered: Annotated[Fraction, Useful(0, 0.2)] = 0.02,
    images: Annotated[Natural, Useful(0, 5_000)] = 0,
    judged_by: Annotated[str, Choice("metric", "loss")] = "metric",
    skip: bool = True,
    splice: Annotated[Fraction, Useful(0, 0.2)] = 0.0,
    last_epochs: Annotated[Natural, Useful(0, 20)] = 0,
    biases: bool = False,
    ignore: Names = (),
    seed: int = 0,
    run: Run = Run(),
    **tuning: Unpack[Tuning],
) -> Iterator[Step]:
    """Search, prune, recover and fine-tune, `rounds` times; a generation is its step's `tried`.

    rounds: how often.
    drop: accuracy below the network at the start that pruning may cost, before fine-tuning.
    tolerance: accuracy below the network at the start that a round may cost in the end. A round
        that costs more is taken back, and `drop` halved; the second in a row ends the run.
    generations: of the search in each round, after the first that is drawn.
    population: sensitivity vectors in each generation.
    strategy: how a mutant is made; "random" draws it anew, which is random search.
    scale: F, what the difference of two vectors is multiplied with.
    crossover: CR, the chance of a gene to come from the mutant.
    uniform: one sensitivity for all layers, the control.
    fitness: "constrained" keeps the fewest weights within `drop`; "weighted" adds up both; "budget"
        loses the least accuracy with the number of weights that `density` allows.
    balance: of "weighted": the share of the accuracy.
    density: of "budget": the share of weights kept at the end; each round keeps an equal share. A
        wide `scan` and `tolerance` let it get there.
    scan: accuracy that a layer pruned alone may cost; bounds its sensitivity.
    bound: largest sensitivity in the first round.
    later: largest sensitivity in the rounds after it.
    recovery: which removed weights come back after a search; none where there is a budget.
    recovered: the share of a round's removed weights that come back.
    images: validation examples that candidates are judged by, 0 for all.
    judged_by: what decides on them: the "metric", for the accuracy the number of errors, or the
        mean "loss", which sees harm before it costs an image. Then `drop` and `scan` are the loss
        that may be added, not accuracy.
    skip: leave out evaluations that cannot change the outcome.
    splice: share of each parameter's kept weights that are exchanged for removed ones after an
        epoch of fine-tuning, at first; it falls to 0.
    last_epochs: passes over the training data at the end, which no tolerance judges.
    biases: prune biases too.
    ignore: names of parameters to leave alone.
    """
    mask = Mask.ones(model, biases, ignore, data.example).left(model)
    done, failures = 0, 0  # done: rounds not taken back
    # Candidates are judged by `few`, rounds by all of the validation data.
    few = data.only("validation").fewer(validation=images) if images else data
    by_loss, bounded = judged_by == "loss", fitness == "constrained"
    few = _judged_by_loss(few) if by_loss else few
    name, unit, n = data.metric_name, "loss" if by_loss else few.cost_name, few.unit("validation")
    start = now = search.cost(model, data, run)  # now: of the mask
    worst = start + (tolerance + SLACK) * data.unit("validation")
    dense = search.cost(model, few, run)
    train = functools.partial(
        fit, model, data, run=run, phase="finetune", every=0,
        remask=functools.partial(_splice, share=splice) if splice else None,
    )  # fmt: skip
    for index in range(1, rounds + 1):
        layers, allowed = _layers(model, mask), dense + drop * n + SLACK
        rate = functools.partial(
            FITNESS[fitness], allowed=allowed, dense=dense, total=mask.total,
            balance=balance, scale=(n - dense if few.counts_errors else abs(dense)) or 1,
            budget=_budget(density ** ((done + 1) / rounds), mask.total),
        )  # fmt: skip
        judge = _Judge(model, hardest_first(model, few, run), mask, layers, rate, skip, run)
        # What a layer alone may cost bounds its gene: evolution does not look beyond.
        highest = _scan(judge, dense + scan * n + SLACK, bound if index == 1 else later)
        generator = torch.Generator().manual_seed(derive(seed, "search", index))
        for generation in _generations(
            judge, [max(highest)] if uniform else highest, population, generator,
            generations=generations, strategy=strategy, scale=scale, crossover=crossover,
        ):  # fmt: skip
            limit = (int(allowed) if few.counts_errors else allowed) if bounded else None
            tried = judge.tried(generation, limit, unit)
            best, of = tried.costs[tried.chosen], generations + 1
            figures = {"loss": best} if by_loss else {name: as_metric(best, few)}
            yield Step("search", generation.index + 1, of, mask, figures, {"round": index}, tried)
        chosen = generation.vectors[generation.best].tolist()  # (genes,)
        # paper: a few connections come back during fine-tuning, says the abstract; here: once,
        # before it, in each round, as any may turn out to be the last; none where there is a
        # budget, which they would exceed.
        how = "off" if fitness == "budget" else recovery
        cut = _recover(model, mask, judge.decode(model, chosen), how, recovered, generator)
        before = snapshot(model)  # for a round that costs too much in the end
        yield search.cut(model, data, cut, index, rounds, run, sensitivities=chosen)
        steps = train(mask=cut, seed=derive(seed, index), **tuning)
        cut = yield from _last_mask(steps, cut)
        if (cost := search.cost(model, data, run)) <= worst:
            mask, now, done, failures = cut, cost, done + 1, 0
            continue
        # The round is taken back: the network is what it was, and less is asked of the next.
        drop, failures = drop / 2, failures + 1
        put_back(model, before)
        yield Step("rewind", index, rounds, mask, {name: as_metric(now, data)}, {"drop": drop})
        if failures == 2:
            break
    last = tuning | Tuning(epochs=last_epochs)
    yield from train(mask=mask, seed=derive(seed, 0), **last)
