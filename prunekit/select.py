"""From scores or a wheel to a mask: which weights go, and how many when."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from prunekit._arguments import checked, shaped
from prunekit._files import digest
from prunekit.knobs import Choice, Fraction, Knob, Natural, Range, Scope
from prunekit.mask import Mask

# What is removed as a unit -> the axes it goes over, of a weight (out, in, *kernel).
GRANULARITIES: dict[str, Callable[[int], list[int]]] = {
    "weight": lambda ndim: [],
    "kernel": lambda ndim: [*range(2, ndim)],
    "stripe": lambda ndim: [1],
    "filter": lambda ndim: [*range(1, ndim)],
    "channel": lambda ndim: [0, *range(2, ndim)],
}
Share = Annotated[float, Range(0, 1)]
_SPARSITY = Knob("sparsity", Range(0, 1, high_open=True), 0.0)
REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "sum": torch.sum,
    "mean": torch.mean,
    "norm": torch.linalg.vector_norm,  # L2
}
# Of many scores, so many are drawn to find two between which one lies: 8 standard deviations of its
# place in the sample, and more, away on either side.
SAMPLE, MARGIN, CHUNK = 2**16, 1_000, 2**22


@dataclass(frozen=True)
class Budget:
    """What a network may cost at the end, in the place of a sparsity as target.

    cost: of a mask, the cost of the network that is left over what is allowed: 1 just meets it.
    start: gives that of the network as it is; limit: what is allowed now, 1 at the end. told: what
    was asked for.
    """

    cost: Callable[[Mask], float]
    start: Callable[[], float]
    limit: float = 1.0
    told: tuple[tuple[str, float], ...] = ()

    @property
    def key(self) -> str:
        """What tells it from others, for one network."""
        return f"{self.told} {self.limit!r}"

    def after(self, share: float) -> Budget:
        """The budget when a share of the way is done, which each step makes shorter by as much."""
        return replace(self, limit=max(self.start(), 1.0) ** (1 - share))

    def over(self, whole: Callable[[Mask], Mask]) -> Budget:
        """The same for masks of units, of which `whole` gives the mask of weights."""
        return replace(self, cost=lambda units: self.cost(whole(units)))

    def met(self, mask: Mask) -> bool:
        return self.cost(mask) <= self.limit * (1 + 1e-9)


Target = float | Budget | Mapping[str, float]
TARGETS = ("sparsity", "share")  # knobs in whose place there may be a budget


@runtime_checkable
class Groups(Protocol):
    """What is known here of the groups of `prunekit.surgery`."""

    @property
    def names(self) -> list[str]: ...
    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...
    @property
    def members(self) -> Mapping[str, np.ndarray]: ...
    def filters(self, name: str) -> list[tuple[str, int, np.ndarray, np.ndarray]]: ...


@checked
def pool(
    scores: Mapping[str, Tensor],
    granularity: str,
    reduce: str = "sum",
    groups: Groups | None = None,
) -> dict[str, Tensor]:
    """The scores of units larger than a weight, from those of their weights.

    scores: of weights (out, in) or (out, in, *kernel); of biases (out,), which are filters' alone.
    granularity: "weight", "kernel" (one input of one filter), "stripe" (one place of a filter's
        kernels, over all inputs: Meng et al. 2020, arXiv 2009.14410), "filter" (one output; a row
        of a linear layer) or "channel" (one input of all filters).
    reduce: "sum", "mean" or "norm" (L2) over the weights of a unit.
    groups: of `prunekit.surgery`, for the granularity "filter": the units are then groups of
        filters that can only go together, `(n, 1)` for a family of n groups, by its name. Filters
        that cannot go are in none; weights without scores are left out.

    The axes that a unit goes over stay, with size 1: the filters of (out, in, 3, 3) are
    (out, 1, 1, 1). The weight of a transposed convolution is (in, out, *kernel): its filters are
    pooled as channels. Of a mask, the sums are how many weights each unit has left.

    Raises ValueError for an unknown granularity or reduction, and for a bias without such units.
    """
    for what, value, names in (
        ("granularity", granularity, GRANULARITIES),
        ("reduce", reduce, REDUCTIONS),
    ):
        if value not in names:
            raise ValueError(f"pool: {what} must be one of {str([*names])[1:-1]}, got {value!r}")
    if groups is not None:
        if granularity != "filter":
            raise ValueError(
                f"pool: groups are of filters, granularity must be, got {granularity!r}"
            )
        return _pooled_over(groups, scores, reduce)
    pooled = {}
    for name, s in scores.items():
        if s.ndim < 2 and granularity not in ("weight", "filter"):
            raise ValueError(
                f"pool: {name} has no {granularity}s, which need two axes (out, in), "
                f"got shape {tuple(s.shape)}. Leave it out."
            )
        if reduce != "sum" and not s.is_floating_point():
            s = s.float()
        axes = GRANULARITIES[granularity](s.ndim)
        # One more axis: torch takes no axes for all of them.
        unit = REDUCTIONS[reduce](s.unsqueeze(-1), dim=[*axes, -1], keepdim=True)
        pooled[name] = unit.squeeze(-1)
    return pooled


def _pooled_over(groups: Groups, scores: Mapping[str, Tensor], reduce: str) -> dict[str, Tensor]:
    pooled = {}
    for family in groups.names:
        n, parts = len(groups.members[family]), list[tuple[Tensor, Tensor]]()
        for weight, dim, rows, of in groups.filters(family):
            if weight in scores:
                s = scores[weight].detach().cpu().movedim(dim, 0).flatten(1)  # (filters, weights)
                parts.append((s[torch.from_numpy(rows)], torch.from_numpy(of)))
        if not parts:
            continue
        kind = torch.promote_types(parts[0][0].dtype, torch.float32)
        total, counted = torch.zeros(n, 1, dtype=kind), torch.zeros(n, 1, dtype=kind)
        for s, group in parts:
            s = s.to(kind)
            values = (s * s if reduce == "norm" else s).sum(1, keepdim=True)
            total.index_add_(0, group, values)
            counted.index_add_(0, group, torch.full_like(values, s.shape[1]))
        pooled[family] = total.sqrt() if reduce == "norm" else total
        if reduce == "mean":
            pooled[family] = total / counted
    return pooled


@checked
def spread(mask: Mask, like: Mapping[str, Tensor] | Groups) -> Mask:
    """The mask of weights that a mask of units (see `pool`) stands for.

    like: tensors with the parameters' shapes, such as the scores that were pooled; may hold more.
        For units that are groups of filters, these groups: the mask is then of their filters, which
        `prunekit.surgery.couple` completes.

    Raises ValueError for units without a tensor in `like`, or whose axes have other sizes than
    the tensor's or 1.
    """
    if not isinstance(like, Mapping):
        return _spread_over(like, mask)
    full = {}
    for name, units in mask.items():
        if name not in like:
            raise ValueError(f"spread: nothing to spread {name!r} over; there are {[*like]}")
        shape, given = tuple(like[name].shape), tuple(units.shape)
        if len(given) != len(shape) or any(
            n not in (1, m) for n, m in zip(given, shape, strict=True)
        ):
            raise ValueError(
                f"spread: units of {name} must have size 1 or the weights' along the axes of "
                f"{shape}, got {given}"
            )
        full[name] = units.expand(shape)
    return Mask(full)


def _spread_over(groups: Groups, mask: Mask) -> Mask:
    full: dict[str, Tensor] = {}
    for family, units in mask.items():
        n = len(groups.members.get(family, ()))
        if family not in groups.names or units.shape != (n, 1):
            raise ValueError(
                f"spread: {family!r} must be a family of groups that can go and its units (n, 1), "
                f"got {tuple(units.shape)}; there are {groups.names}"
            )
        for weight, dim, rows, of in groups.filters(family):
            keep = full.setdefault(weight, torch.ones(groups.shapes[weight], dtype=torch.bool))
            gone = torch.from_numpy(rows)[~units[torch.from_numpy(of), 0]]
            keep.index_fill_(dim, gone, False)
    return Mask(full)


@checked
def largest(
    scores: Mapping[str, Tensor], sparsity: Target, scope: str, within: Mask, multiple: Natural = 1
) -> Mask:
    """Keep the largest scores, so that a share `sparsity` of the weights of `within` is removed.

    What `within` has removed stays removed and counts. With scope ``"global"`` all weights compete,
    with ``"layer"`` each parameter gets the same sparsity. Exactly ``round(sparsity × all)`` go
    (more only if `within` has removed more); among equal scores the first go first. No weight
    matrix is emptied: its largest score stays, and another weight goes instead, if there is one.

    With the scores of larger units from `pool` and a mask of their shapes, the share is one of
    units, which `spread` makes a mask of weights; ``"global"`` is then fair only between units of
    as many weights. With `multiple`, each parameter keeps the nearest multiple of so many units, at
    least one multiple and at most what `within` has: processors compute widths in eights faster.

    In the place of a sparsity there may be one for each parameter, with scope ``"layer"``, or a
    `Budget`: then as few go as meet it.

    Raises ValueError for scores that are NaN, miss a name or have another shape.

    >>> scores = {"w": torch.tensor([[0.5, 0.1, 0.9], [0.2, 0.8, 0.3]])}
    >>> mask = largest(scores, 0.5, "global", Mask({"w": torch.ones(2, 3).bool()}))
    >>> mask["w"].int()
    tensor([[1, 0, 1],
            [0, 1, 0]], dtype=torch.int32)
    """
    if scope not in ("layer", "global"):
        raise ValueError(f"select: scope must be 'layer' or 'global', got {scope!r}")
    if isinstance(sparsity, Budget):
        return _affordable(scores, sparsity, scope, within, multiple)
    if isinstance(sparsity, Mapping) and (scope != "layer" or {*within} - {*sparsity}):
        raise ValueError(
            f"select: sparsities of layers must be one for each of {[*within]}, with scope "
            f"'layer', got {[*sparsity]} and {scope!r}"
        )
    if multiple < 1:
        raise ValueError(f"select: multiple must be 1 or more, got {multiple}")
    _check(scores, within)
    kept: dict[str, Tensor] = {}
    for names in scoped(within, scope):
        share = sparsity[names[0]] if isinstance(sparsity, Mapping) else sparsity
        share = float(_SPARSITY.check("select", share))
        kept |= _kept(scores, {name: within[name] for name in names}, share)
    if multiple > 1:
        kept = {
            name: _rounded(scores[name], keep, within[name], multiple)
            for name, keep in kept.items()
        }
    return within & Mask(kept)


def _affordable(
    scores: Mapping[str, Tensor], budget: Budget, scope: str, within: Mask, multiple: int
) -> Mask:
    """What is left where as few go as meet a budget, found by bisection."""

    def at(removed: int) -> Mask:
        return largest(scores, removed / total, scope, within, multiple)

    total = within.total
    few, many = -1, total - 1
    most = at(many)
    if not budget.met(most):
        raise ValueError(
            f"budget: cannot be met, without what may go the network costs {budget.cost(most):.3g} "
            "times of what is allowed. Allow more, or let more be removed."
        )
    while many - few > 1:
        middle = (few + many) // 2
        if budget.met(mask := at(middle)):
            many, most = middle, mask
        else:
            few = middle
    return most


def _rounded(scores: Tensor, keep: Tensor, within: Tensor, multiple: int) -> Tensor:
    """What is kept, or less or more of `within`, so that it is a multiple."""
    left, n = int(within.sum()), int(keep.sum())
    n = min(max((n + multiple // 2) // multiple, 1) * multiple, left)
    # The largest first, of equal ones the last, as where they are chosen.
    alone = scores.detach().cpu().masked_fill(~within, -torch.inf).flatten()
    order = alone.flip(0).argsort(descending=True, stable=True)[:n]
    rounded = torch.zeros(keep.numel(), dtype=torch.bool)
    rounded[keep.numel() - 1 - order] = True
    return rounded.reshape(keep.shape)


def _kept(
    scores: Mapping[str, Tensor], within: dict[str, Tensor], sparsity: float
) -> dict[str, Tensor]:
    """What is left of some parameters that compete, as in `largest`."""
    total, left = (sum(sizes) for sizes in zip(*map(_sizes, within.values()), strict=True))
    n = round(sparsity * total) - (total - left)  # what was gone counts towards the share
    spared: dict[str, int] = {}
    while True:
        kept = _without_smallest(scores, within, min(n, left - len(spared)), spared)
        emptied = [name for name in emptied_by(kept, within) if name not in spared]
        if not emptied:
            return kept
        for name in emptied:  # its largest stays, and others go
            alone = scores[name].detach().cpu().masked_fill(~within[name], -torch.inf)
            spared[name] = int(alone.argmax())


def _sizes(keep: Tensor) -> tuple[int, int]:
    return keep.numel(), int(keep.sum())


def emptied_by(kept: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> list[str]:
    """The weights, biases not counted, of which nothing is left, where something was."""
    return [n for n, k in kept.items() if k.ndim > 1 and not k.any() and before[n].any()]


def _without_smallest(
    scores: Mapping[str, Tensor], within: dict[str, Tensor], n: int, spared: Mapping[str, int]
) -> dict[str, Tensor]:
    """`within` without its `n` smallest scores, none of them spared; of equal ones the first go."""
    if n <= 0:
        return within
    kind = functools.reduce(torch.promote_types, (scores[name].dtype for name in within))
    eligible = dict(within)
    for name, place in spared.items():
        eligible[name] = within[name].clone()
        eligible[name].view(-1)[place] = False
    limit = _nth_smallest(scores, eligible, n, kind)
    kept, ties = {}, n
    for name, may_go in eligible.items():
        # In the order of the mask: scores lie as their parameter does, channels last, say.
        goes = (scores[name].detach().cpu().to(kind) < limit).contiguous().logical_and_(may_go)
        kept[name] = within[name] & ~goes
        ties -= int(goes.sum())
    for name, may_go in eligible.items():
        if ties <= 0:
            break
        equal = (scores[name].detach().cpu().to(kind) == limit).logical_and_(may_go)
        places = equal.flatten().nonzero().flatten()[:ties]
        kept[name].view(-1)[places] = False
        ties -= len(places)
    return kept


def _nth_smallest(
    scores: Mapping[str, Tensor], eligible: Mapping[str, Tensor], n: int, kind: torch.dtype
) -> Tensor:
    """The n-th smallest eligible score, n counted from 1."""
    whole = kind if kind not in (torch.float16, torch.bfloat16) else torch.float32  # sorted faster
    parts = []
    for name, keep in eligible.items():
        values = scores[name].detach().cpu().to(whole)
        parts += (values.flatten() if keep.all() else values[keep]).split(CHUNK)
    return _nth(parts, n).to(kind)


def _nth(parts: Sequence[Tensor], n: int) -> Tensor:
    """The n-th smallest entry of some vectors together, n counted from 1.

    ``kthvalue`` takes three times the memory of all, and numpy's ``partition`` ten times as long
    where most entries are equal. So what lies outside of two entries of a sample, between which
    the n-th is all but sure to be, is dropped until little is left.
    """
    generator = torch.Generator().manual_seed(0)

    def drawn(x: Tensor, share: float) -> Tensor:
        return x[torch.randint(len(x), (math.ceil(share * len(x)),), generator=generator)]

    while (total := sum(map(len, parts))) > 16 * SAMPLE:
        sample = torch.cat([drawn(x, SAMPLE / total) for x in parts if len(x)]).sort().values
        at, last = n * len(sample) // total, len(sample) - 1
        low, high = sample[max(at - MARGIN, 0)], sample[min(at + MARGIN, last)]
        below, upto = (sum(int(of(x).sum()) for x in parts) for of in (low.gt, high.ge))
        if n <= below:
            parts = [x[x < low] for x in parts]
        elif n > upto:
            parts, n = [x[x > high] for x in parts], n - upto
        else:
            below += sum(int((x == low).sum()) for x in parts)
            if n <= below:
                return low
            parts, n = [x[(x > low) & (x <= high)] for x in parts], n - below
    return torch.cat([*parts]).kthvalue(n).values


def _check(scores: Mapping[str, Tensor], within: Mask) -> None:
    for name, keep in within.items():
        if name not in scores or scores[name].shape != keep.shape:
            shape = tuple(scores[name].shape) if name in scores else "no scores"
            raise ValueError(
                f"select: {name} needs scores of shape {tuple(keep.shape)}, got {shape}"
            )
        if torch.isnan(scores[name]).any():
            raise ValueError(f"select: scores of {name} must be numbers, got NaN")


def _smallest(flat: Tensor, n: int) -> Tensor:
    """True at the `n` smallest entries; among equal ones at the first."""
    if n <= 0:
        return torch.zeros_like(flat, dtype=torch.bool)
    limit = flat.kthvalue(min(n, flat.numel())).values  # without sorting all of them
    chosen = flat < limit
    ties = (flat == limit).nonzero().flatten()
    chosen[ties[: n - int(chosen.sum())]] = True
    return chosen


@checked
def above(scores: Mapping[str, Tensor], thresholds: Mapping[str, float], within: Mask) -> Mask:
    """Keep what scores at least its parameter's threshold and was kept by `within`.

    Raises ValueError for scores that are NaN, miss a name or have another shape.
    """
    _check(scores, within)
    if missing := [name for name in within if name not in thresholds]:
        raise ValueError(f"select: {missing[0]} needs a threshold, there are {[*thresholds]}")
    return within & Mask({name: scores[name].cpu() >= thresholds[name] for name in within})


@checked
def exchange(
    scores: Mapping[str, Tensor], wanted: Mapping[str, Tensor], share: Share, within: Mask
) -> Mask:
    """Exchange a share of each parameter's kept weights for as many of its removed ones.

    Those with the smallest `scores` go, the removed weights with the largest `wanted` come back;
    among equal ones the first. Where fewer were removed, only so many change places.

    Raises ValueError for scores that are NaN, miss a name or have another shape.
    """
    _check(scores, within)
    _check(wanted, within)
    after = {}
    for name, keep in within.items():
        flat = keep.flatten().clone()  # (n,), written into below
        # As many go as come back, so the number of weights stays.
        n = min(int(share * int(flat.sum())), int((~flat).sum()))
        if n > 0:
            gone = _smallest(scores[name].detach().cpu().flatten()[flat], n)
            back = _smallest(-wanted[name].detach().cpu().flatten()[~flat], n)
            kept, removed = flat.nonzero().flatten(), (~flat).nonzero().flatten()
            flat[kept[gone]], flat[removed[back]] = False, True
            after[name] = flat.reshape(keep.shape)
    return Mask({**within, **after}) if after else within


@checked
def stages(sparsity: Target, rounds: int) -> Iterator[Any]:
    """Target sparsity after each round when every round removes the same share of the survivors,
    or that of each layer; of a `Budget`, when every round makes the network cheaper by the same
    factor.

    >>> [round(s, 3) for s in stages(0.875, 3)]
    [0.5, 0.75, 0.875]
    """
    if rounds < 1:
        raise ValueError(f"select: rounds must be 1 or more, got {rounds}")
    if isinstance(sparsity, Budget):
        return (sparsity.after(i / rounds) for i in range(1, rounds + 1))
    if isinstance(sparsity, Mapping):
        each = {name: [*stages(share, rounds)] for name, share in sparsity.items()}
        return ({name: values[i] for name, values in each.items()} for i in range(rounds))
    if not 0 <= sparsity < 1:
        raise ValueError(f"select: sparsity must be in [0, 1), got {sparsity}")
    return (1 - (1 - sparsity) ** (i / rounds) for i in range(1, rounds + 1))


@checked
def cubic(sparsity: float | Budget, t: float) -> Any:
    """Sparsity after a share t in [0, 1] of the pruning phase, rising fast and settling slowly; or
    so much of a `Budget`.

    Zhu and Gupta 2017, arXiv 1710.01878, equation 1, from an initial sparsity of 0.

    >>> cubic(0.9, 0.0), cubic(0.9, 1.0)
    (0.0, 0.9)
    """
    done = 1 - (1 - min(max(t, 0.0), 1.0)) ** 3
    return sparsity.after(done) if isinstance(sparsity, Budget) else sparsity * done


# ------------------------------------------------------------------------------------------ wheels


@checked
def ranks(x: Annotated[Tensor, shaped("n")]) -> Tensor:
    """0 for the smallest of x, (n,), n − 1 for the largest; equal ones share the mean of theirs.

    >>> ranks(torch.tensor([3.0, 1.0, 3.0, 7.0]))
    tensor([1.5000, 0.0000, 1.5000, 3.0000])
    """
    _, place, counts = x.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts + 1) / 2)[place].to(x.dtype)


# log of the share of the wheel, up to a constant, for a = |w| / σ, (n,), n > 0.
# paper (Chan et al. 2024, doi 10.1007/s00521-024-09719-6): "small weights are more likely to be
# pruned", says the abstract; the text was not available to us; here: a family.
WHEELS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "sum": lambda a, strength: torch.log1p(-_share(a, a.sum())),
    "lin": lambda a, strength: torch.log1p(-_share(a, a.max())),
    "inv": lambda a, strength: -strength * torch.log(a + 1e-3),
    "exp": lambda a, strength: -strength * a,
    "rank": lambda a, strength: strength * torch.log1p(-ranks(a) / len(a)),
    "uniform": lambda a, strength: torch.zeros_like(a),  # the control: blind removal
}


WheelName = Annotated[str, Choice(*WHEELS)]


def _share(a: Tensor, whole: Tensor) -> Tensor:
    """a / whole, and 0 where all weights are 0: then every slice is equal."""
    return a / whole if whole > 0 else torch.zeros_like(a)


@checked
def log_wheel(a: Annotated[Tensor, shaped("n")], wheel: WheelName, strength: float) -> Tensor:
    """The logarithms of a wheel's slices: of the chance that each weight is the first to be picked.

    `a` `(n,)` are the weights' sizes, |w| / σ; `wheel` is a name in `WHEELS`.
    """
    logits = WHEELS[wheel](a.double(), strength)
    if torch.isinf(logits).all():  # lin: all weights are equal, no slice is left
        logits = torch.zeros_like(logits)
    return torch.log_softmax(logits, 0)


@checked
@dataclass(frozen=True)
class Wheel:
    """A wheel over some parameters: names, survivors' places and the logs of their slices, (n,)."""

    names: list[str]
    alive: Tensor
    logits: Tensor

    @property
    def key(self) -> str:
        return digest(self.names, self.alive, self.logits)


@checked
def wheels(
    scores: Mapping[str, Tensor], wheel: WheelName, strength: float, scope: Scope, within: Mask
) -> list[Wheel]:
    """A wheel a layer, or one for the whole model, over what `within` keeps.

    scores: how large the weights are, such as `score.relative` gives them.

    Raises ValueError for scores that are NaN, miss a name or have another shape.
    """
    _check(scores, within)
    made = []
    for names in scoped(within, scope):
        alive = flat(within, names).nonzero().flatten()
        a = torch.cat([scores[name].detach().cpu()[within[name]] for name in names])
        made.append(Wheel(names, alive, log_wheel(a, wheel, strength).float()))
    return made


def scoped(mask: Mask, scope: str) -> list[list[str]]:
    """The names that compete with one another."""
    return [[*mask]] if scope == "global" else [[name] for name in mask]


def flat(mask: Mask, names: list[str]) -> Tensor:
    """What a mask keeps of some parameters, one after the other, (n,) bool."""
    return torch.cat([mask[name].flatten() for name in names])


def rest(mask: Mapping[str, Tensor], names: Sequence[str], sparsity: float) -> int:
    """How many of a wheel's weights stay to the end: at least one of every weight matrix."""
    total = sum(mask[name].numel() for name in names)
    matrices = sum(mask[name].ndim > 1 and bool(mask[name].any()) for name in names)
    return max(total - round(sparsity * total), matrices, 1)


@checked
def spun(
    parent: Mask,
    wheels: Sequence[Wheel],
    share: Share,
    sparsity: Fraction,
    generator: torch.Generator,
) -> Mask:
    """The parent's mask, less what each wheel picks: a share of its survivors, at least one weight,
    but never more than leaves `sparsity`, nor the last of a weight matrix."""
    kept: dict[str, Tensor] = {}
    for wheel in wheels:
        if missing := [name for name in wheel.names if name not in parent]:
            raise ValueError(f"spun: the mask lacks {missing[0]}, which a wheel has")
        left = len(wheel.alive)
        n = min(max(round(share * left), 1), left - rest(parent, wheel.names, sparsity))
        logits = wheel.logits
        while True:
            parts = _unpicked(parent, wheel, logits, n, generator)
            emptied = emptied_by(parts, parent)
            if not emptied:
                break
            logits = _sparing(parent, wheel, logits, emptied)
        kept |= parts
    return parent & Mask(kept)


def _unpicked(
    parent: Mask, wheel: Wheel, logits: Tensor, n: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """What is left when a wheel with these slices has picked `n` weights."""
    keep = flat(parent, wheel.names)
    if n > 0:
        keep[wheel.alive[spin(logits, n, generator)]] = False
    parts = keep.split([parent[name].numel() for name in wheel.names])
    return {n: part.view(parent[n].shape) for n, part in zip(wheel.names, parts, strict=True)}


def _sparing(parent: Mask, wheel: Wheel, logits: Tensor, names: Sequence[str]) -> Tensor:
    """The slices, of each of these parameters the narrowest closed."""
    start, spared = 0, logits.clone()
    for name in wheel.names:
        here = (wheel.alive >= start) & (wheel.alive < start + parent[name].numel())
        start += parent[name].numel()
        if name in names:
            spared[torch.where(here, wheel.logits, torch.inf).argmin()] = -torch.inf
    return spared


def _check_picks(log_chances: Tensor, n: int, generator: torch.Generator) -> None:
    if n > len(log_chances):
        raise ValueError(f"spin: n must be at most the {len(log_chances)} slices, got {n}")


@checked(check=_check_picks)
def spin(
    log_chances: Annotated[Tensor, shaped("m")], n: Natural, generator: torch.Generator
) -> Tensor:
    """Indices of `n` picks without replacement from a roulette wheel.

    `log_chances` (m,) are the logarithms of the slices, up to a constant; each pick has its share
    of what is left on the wheel. Everybody waits for an exponential time, shorter the wider the
    slice, and the first `n` are picked: exactly the same chances (Efraimidis and Spirakis 2006,
    doi 10.1016/j.ipl.2005.11.003; also known as Gumbel top-k).
    """
    waits = (
        torch.rand(len(log_chances), generator=generator, dtype=torch.float32, device="cpu")
        .log_()
        .neg_()
    )
    return (log_chances - waits.log_()).topk(n, sorted=False).indices
