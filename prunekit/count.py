"""What a network costs: parameters, multiply-adds, bytes and time; dense, masked and shrunk."""

from __future__ import annotations

import functools
import html
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from prunekit import checkpoint, select, surgery
from prunekit._arguments import checked
from prunekit._files import digest
from prunekit._modules import call, device_of, evaluating, named_tensors, repeatably
from prunekit.knobs import Count, Names, Positive
from prunekit.mask import Mask
from prunekit.products import Product, Removed, Watcher, first, watching, with_zeros
from prunekit.steps import Run

TIMED = 0.5  # seconds in which a network is timed for a budget


@checked
def params(model: nn.Module, mask: Mask | None = None) -> int:
    """How many parameters there are, biases too; with `mask`, how many are kept.

    >>> params(nn.Linear(3, 2))
    8
    """
    everything = sum(p.numel() for p in model.parameters())
    return everything - (mask.total - mask.kept if mask is not None else 0)


@checked
def compression(model: nn.Module, mask: Mask) -> float:
    """All parameters / kept parameters, biases too."""
    return params(model) / max(params(model, mask), 1)


@checked
@dataclass(frozen=True)
class Macs:
    """Multiply-adds of one example: all of them, and those with a kept weight."""

    dense: int
    sparse: int


@checked
def macs(model: nn.Module, x: Any, mask: Mask | None = None) -> Macs:
    """Count the multiply-adds of a forward pass of one example (not FLOPs, which are twice that).

    x: a batch as the model takes it, `(n, ...)`, or a tuple or mapping of such tensors; its first
        example is used.

    Every matrix product, convolution and dot product counts, wherever in the code it stands; a
    product with a masked parameter, or with what is worked out from one without the input, counts
    its kept share in `sparse`; a product of two activations, as in attention, what is left of it in
    the network without the filters that go (see `surgery.planned`). Biases, activations, pooling,
    normalisation and elementwise products that are not summed up at once, outer ones among them,
    are not counted.

    No setting of the process is changed: other threads may go on training meanwhile.

    Raises ValueError for a mask that does not fit the model, or if the model fails on the example.

    >>> macs(nn.Conv2d(2, 4, 3), torch.zeros(1, 2, 8, 8))
    Macs(dense=2592, sparse=2592)
    """
    mask = mask if mask is not None else Mask({})
    mask.check(model)
    x = first("macs", model, x)
    try:
        counter = repeatably(model, lambda: _counted(model, mask, x))
        if counter.between and any(_has_empty_rows(keep) for keep in mask.values()):
            counter.sparse -= counter.between - _between(model, mask, x, counter.between)
    except Exception as error:
        raise ValueError(
            f"macs: the multiply-adds of {type(model).__name__} cannot be counted, it fails on the "
            f"first example: {type(error).__name__}: {error}"
        ) from error
    return Macs(counter.dense, round(counter.sparse))


def _has_empty_rows(keep: Tensor) -> bool:
    return keep.ndim > 1 and not bool(keep.flatten(1).any(1).all())


def _between(model: nn.Module, mask: Mask, x: Any, whole: int) -> int:
    """The multiply-adds between activations once the filters that go are cut out."""
    try:
        plan = surgery.planned(model, mask, x)
        small = surgery.rebuild(model, plan)
        return repeatably(small, lambda: _counted(small, Mask({}), x)).between
    except Exception:  # of what cannot be cut, as where a size is written in forward
        return whole


def _counted(model: nn.Module, mask: Mask, x: Any) -> _Counter:
    counter = _Counter(model, mask, x)
    with watching(model, counter):
        call(model, x)
    return counter


class _Counter(Watcher):
    """Adds up the products, and the share of each that has no removed weight."""

    def __init__(self, model: nn.Module, mask: Mask, x: Any):
        from torch.utils.flop_counter import flop_registry  # slow to import

        parameters = dict(model.named_parameters())
        removed: Removed = {
            n: functools.partial(torch.logical_not, m) for n, m in mask.items() if not m.all()
        }
        removed = with_zeros(parameters) | removed if removed else {}
        super().__init__(parameters, {None: removed}, x)
        self.twins.keep(None)
        self.formulas = flop_registry
        self.dense, self.sparse = 0, 0.0
        self.between = 0  # activations

    def product(self, product: Product, out: Any) -> None:
        twins = [self.twins.of(a, None) for a in product.factors]
        self.dense += product.count
        if len(product.factors) > 1 and all(map(self.moves, product.factors)):
            self.between += product.count
        self.sparse += product.kept(None if twin is None else twin != 0 for twin in twins)


# ----------------------------------------------------------------------------------------- budgets


@checked
def budget(
    model: nn.Module,
    x: Any,
    told: Mapping[str, float],
    *,
    ignore: Names = (),
    run: Run = Run(),
) -> select.Budget:
    """What a network may cost once it is pruned, in the place of a sparsity.

    told: of "macs", "params", "bytes" and "latency" how much: a share of what the network costs
        now, in (0, 1], or a number above 1, of latency in milliseconds. Of several all hold. See
        `macs`, `params` and `size`, packed; the latency is that of `latency` for one example on one
        thread, once the filters that are removed are cut out.
    x: a batch as the model takes it.
    ignore: names of weights whose filters stay where the network is cut to be timed.

    Networks of the same widths are timed once, beside the whole one, and the ratio is kept in a
    table, and in the journal of `run`: so a run that goes on chooses as it did, but another run may
    measure otherwise.

    Raises ValueError for another name, or a number out of range.
    """
    counted: dict[str, Callable[[Mask], float]] = {
        "macs": lambda mask: macs(model, x, mask).sparse,
        "params": lambda mask: params(model, mask),
        "bytes": lambda mask: size(model, mask),
    }
    names = [*counted, "latency"]
    if not told:
        raise ValueError(f"budget: must name one of {names}, got nothing")
    shares: dict[str, Callable[[Mask], float]] = {}  # of what is allowed
    for name, value in told.items():
        if name not in names:
            raise ValueError(f"budget: must be of {names}, got {name!r}")
        if not 0 < value < math.inf:
            raise ValueError(
                f"budget: {name} must be a share in (0, 1] or a number above 1, got {value!r}"
            )
        if name == "latency":
            shares[name] = _Times(model, x, ignore, run).share(value)
            continue
        if not (now := counted[name](Mask({}))):
            raise ValueError(f"budget: {type(model).__name__} has no {name} to spend less of")
        limit = value * now if value <= 1 else value
        shares[name] = functools.partial(_share, counted[name], limit)

    def cost(mask: Mask) -> float:
        return max(share(mask) for share in shares.values())

    start = functools.cache(lambda: cost(Mask({})))
    return select.Budget(cost, start, told=tuple(sorted(told.items())))


def _share(counted: Callable[[Mask], float], limit: float, mask: Mask) -> float:
    return counted(mask) / limit


class _Times:
    """How long the networks that are left take, each width timed once (see `budget`)."""

    def __init__(self, model: nn.Module, x: Any, ignore: Names, run: Run):
        self.groups, self.run = surgery.groups(model, x, ignore), run
        self.whole, self.x = surgery.copy_of("budget", model), first("budget", model, x)
        self.table: dict[str, float] = {}

    def share(self, limit: float) -> Callable[[Mask], float]:
        """Of a mask, the time over what is allowed: a share of the whole one's, or milliseconds."""
        if limit <= 1:
            return lambda mask: self.ratio(mask) / limit
        return lambda mask: self.ratio(mask) * self.of("whole", self._whole) / (1e-3 * limit)

    def ratio(self, mask: Mask) -> float:
        """The time of the network that a mask leaves over that of the whole one."""
        plan = surgery.planned(self.whole, mask, self.groups)
        return self.of(digest(plan.widths), lambda: self._beside(plan)) if plan.cuts else 1.0

    def of(self, widths: str, measured: Callable[[], float]) -> float:
        """What the journal or the table holds of these widths, else what is measured now."""
        key, journal = f"latency {widths}", self.run.journal
        # Asked before the run begins, as for how long it takes, there is none to write to.
        opened = journal if journal is not None and journal.is_open else None
        recorded = opened.get(key) if opened is not None else None
        if recorded is not None:
            self.table[key] = recorded
        elif key not in self.table:
            self.run.poll()
            self.table[key] = measured()
        if opened is not None and recorded is None:
            opened.put(key, self.table[key])
        return self.table[key]

    def _whole(self) -> float:
        return latency({"whole": self.whole}, self.x, seconds=TIMED)["whole"].median

    def _beside(self, plan: surgery.Plan) -> float:
        networks = {"whole": self.whole, "small": surgery.rebuild(self.whole, plan)}
        times = latency(networks, self.x, seconds=TIMED)
        return times["small"].median / times["whole"].median


# ------------------------------------------------------------------------------------ bytes, time


@checked
def size(model: nn.Module, mask: Mask | None = None) -> int:
    """How many bytes the parameters and buffers take; with `mask`, packed: the kept numbers, and
    in as few bits as that takes where they belong (see `checkpoint.pack`)."""
    total = 0
    for name, a in named_tensors(model).items():
        keep = None if mask is None else mask.get(name)
        if keep is None:
            total += a.numel() * a.element_size()
        else:
            total += int(keep.sum()) * a.element_size() + len(checkpoint.pack(keep))
    return total


@checked
@dataclass(frozen=True)
class Latency:
    """How long a forward pass takes, in seconds: the median of `runs`, and between which two times
    the middle half of them lies; for a batch of so many, on so many threads."""

    median: float
    low: float
    high: float
    runs: int
    batch: int
    threads: int

    def __str__(self) -> str:
        one, low, high = (1e3 * s for s in (self.median, self.low, self.high))
        return f"{one:.3g} ms ({low:.3g} to {high:.3g})"


@checked
def latency(
    models: Mapping[str, nn.Module],
    x: Any,
    *,
    seconds: Positive = 2.0,
    warmup: Count = 3,
    threads: Count = 1,
) -> dict[str, Latency]:
    """How long the forward passes of several networks take, in eval mode, beside each other.

    x: a batch as the models take it. They take turns, so that what slows the machine slows all of
        them, until `seconds` are over, five times at least.
    warmup: passes of each before the first that is timed.
    threads: on how many cores a pass may be computed; of this thread, and only meanwhile.
    """
    if not models:
        raise ValueError("latency: there must be at least one model, got none")
    placed = {name: first("latency", model, x, None) for name, model in models.items()}
    batch, before = len(tree_leaves(x)[0]), torch.get_num_threads()
    times: dict[str, list[float]] = {name: [] for name in models}
    torch.set_num_threads(threads)
    try:
        for name, model in models.items():
            for _ in range(warmup):
                _warmed(name, model, placed[name])
        begun = time.perf_counter()
        while len(next(iter(times.values()))) < 5 or time.perf_counter() - begun < seconds:
            for name, model in models.items():
                times[name].append(_timed(model, placed[name]))
    finally:
        torch.set_num_threads(before)
    found = {}
    for name, taken in times.items():
        low, median, high = statistics.quantiles(taken, n=4)
        found[name] = Latency(median, low, high, len(taken), batch, threads)
    return found


def _warmed(name: str, model: nn.Module, x: Any) -> None:
    try:
        _timed(model, x)
    except Exception as error:
        raise ValueError(
            f"latency: {name}, a {type(model).__name__}, fails on the batch: "
            f"{type(error).__name__}: {error}"
        ) from error


def _timed(model: nn.Module, x: Any) -> float:
    with torch.no_grad(), evaluating(model):
        begun = time.perf_counter()
        call(model, x)
        if device_of(model).type != "cpu":
            torch.accelerator.synchronize(device_of(model))
        return time.perf_counter() - begun


@checked
@dataclass(frozen=True)
class Costs:
    """What a network costs dense, masked and shrunk: by these names (see `costs`)."""

    rows: Mapping[str, Mapping[str, Any]]

    def lines(self) -> list[list[str]]:
        """The table as text, a column a network; their names come first."""
        told = {
            "parameters": "params", "of them 0": "zeros", "multiply-adds": "macs",
            "without zeros": "sparse", "bytes": "bytes", "packed": "packed",
        }  # fmt: skip
        lines = [
            [said, *(f"{row[of]:,}" for row in self.rows.values())] for said, of in told.items()
        ]
        times = ["time", *(str(row["latency"]) for row in self.rows.values())]
        return [["", *self.rows], *lines, times]

    def __str__(self) -> str:
        lines = self.lines()
        wide = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        return "\n".join(
            "  ".join(f"{text:>{n}}" if i else f"{text:<{n}}" for i, (text, n) in pairs).rstrip()
            for pairs in (enumerate(zip(line, wide, strict=True)) for line in lines)
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *lines = self.lines()
        cells = "".join(f"<th style='text-align:right'>{html.escape(text)}</th>" for text in head)
        rows = "".join(
            "<tr>"
            + "".join(f"<td style='text-align:right'>{html.escape(text)}</td>" for text in line)
            + "</tr>"
            for line in lines
        )
        return f"<table><tr>{cells}</tr>{rows}</table>"


@checked
def costs(
    model: nn.Module,
    mask: Mask,
    x: Any,
    *,
    small: nn.Module | None = None,
    ignore: Names = (),
    seconds: Positive = 2.0,
    threads: Count = 1,
) -> Costs:
    """What a network costs dense, under a mask, and once the filters that are removed are cut out.

    Why is a masked network no smaller and no faster? Its zeros are stored and multiplied like any
    number. Packed, it takes less room on disk, but is unpacked to run. Why do 30 % of the filters
    take half of the parameters along? A filter takes the columns of the layers that read it along.

    x: a batch as the model takes it, for the multiply-adds of one example and the time of all.
    small: the shrunk network, if it is there; else it is made by `surgery.shrink`, which leaves the
        filters of weights that `ignore` names whole.
    """
    masked = mask.apply_(surgery.copy_of("costs", model))
    if small is None:
        small = surgery.shrink(model, mask, x, ignore=ignore, partial=True)
    left = Mask.ones(small, example=x).left(small)
    left = Mask({name: keep for name, keep in left.items() if not keep.all()})
    networks = {"dense": (model, Mask({})), "masked": (masked, mask), "shrunk": (small, left)}
    times = latency({n: m for n, (m, _) in networks.items()}, x, seconds=seconds, threads=threads)
    rows = {}
    for name, (network, of) in networks.items():
        products = macs(network, x, of)
        rows[name] = {
            "params": params(network), "zeros": params(network) - params(network, of),
            "macs": products.dense, "sparse": products.sparse, "bytes": size(network),
            "packed": size(network, of), "latency": times[name],
        }  # fmt: skip
    return Costs(rows)
