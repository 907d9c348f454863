"""Nodes: the filters and hidden units that may go, and what data tell of them.

A node is a group of filters that can only go together (see `prunekit.surgery`): one filter of a
plain network with its bias and norm, one unit of a hidden layer; never a class.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from prunekit import select, surgery
from prunekit._arguments import checked
from prunekit._memory import examples_within
from prunekit._modules import answer, device_of, evaluating, place, repeatably
from prunekit._random import LocalRandom
from prunekit.data import wrap
from prunekit.knobs import Choice, Count
from prunekit.mask import Mask, prunable
from prunekit.recording import Recording
from prunekit.steps import Run, derive

DIGITS = 5  # of an importance, as many as a Step keeps
Kept = Mapping[str, Tensor]  # of each layer, which of its nodes stay: (n,) bool


@checked
class Nodes:
    """The nodes of a network by layer, and the masks that removing some of them stands for.

    `sizes` maps each layer, named by the weight that makes its nodes, to how many it has. Layers
    that are added up along shortcuts share theirs, and are one here. ignore: names, or shell
    patterns of names, of weights whose filters stay.

    Raises ValueError, which begins with `who`, if no node can go.
    """

    def __init__(self, who: str, model: nn.Module, data: Any, ignore: Iterable[str] = ()):
        example = wrap(data).example
        self.groups = surgery.groups(model, example, ignore)
        may = {*prunable(model, False, ignore, example)}
        self.sizes = {
            name: len(self.groups.members[name])
            for name in self.groups.names
            if all(weight in may for weight, *_ in self.groups.filters(name))
        }
        if not self.sizes:
            why = next((family.fixed for family in self.groups if family.fixed), "it has none")
            raise ValueError(f"{who}: {self.groups.model} has no filters that can go ({why})")
        self.start = self._start(model, example)

    def _start(self, model: nn.Module, example: Any) -> Mask:
        """What is there to remove: weights that are left, biases, scales and shifts."""
        others = {
            name: torch.ones(self.groups.shapes[name], dtype=torch.bool)
            for family in self.sizes
            for name, *_ in self.groups.carried(family)
            if name in self.groups.parameters
        }
        return Mask({**others, **Mask.ones(model, example=example).left(model)})

    def check(self, who: str, model: nn.Module) -> None:
        """Raise ValueError if these are nodes of another network."""
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        for name in self.groups.parameters:
            if shapes.get(name) != self.groups.shapes[name]:
                raise ValueError(
                    f"{who}: the nodes are of a {self.groups.model} with {name} of shape "
                    f"{self.groups.shapes[name]}, in this {type(model).__name__} it is "
                    f"{shapes.get(name)}"
                )

    def check_spare(self, who: str) -> None:
        """Raise ValueError unless a layer has more than the one node that it keeps."""
        if max(self.sizes.values()) < 2:
            names = ", ".join(self.sizes)
            raise ValueError(
                f"{who}: the filters of {names} of {self.groups.model} can only go all together, "
                "and every layer keeps at least one"
            )

    def among(self, names: Iterable[str]) -> Nodes:
        """The nodes of some layers alone."""
        part = copy.copy(self)
        part.sizes = {name: n for name, n in self.sizes.items() if name in {*names}}
        return part

    def all(self) -> dict[str, Tensor]:
        """All nodes stay."""
        return {name: torch.ones(n, dtype=torch.bool) for name, n in self.sizes.items()}

    def left(self, mask: Mask) -> dict[str, Tensor]:
        """Which nodes have a weight that the mask keeps."""
        made = {weight for name in self.sizes for weight, *_ in self.groups.filters(name)}
        counts = {name: mask[name].float() for name in made if name in mask}
        pooled = select.pool(counts, "filter", groups=self.groups)
        return {name: pooled[name].flatten() > 0 for name in self.sizes}

    @checked
    def empties(self, name: str, keep: Tensor) -> bool:
        """Whether a weight that makes nodes of a layer would have nothing left, keep (n,) bool: its
        filters may all be 0 in a network that was pruned before."""
        for weight, dim, rows, of in self.groups.filters(name):
            stays = keep[torch.from_numpy(of)]
            if weight in self.start:
                filters = self.start[weight].movedim(dim, 0).flatten(1)[torch.from_numpy(rows)]
                stays = stays & filters.any(1)
            if not bool(stays.any()):
                return True
        return False

    @checked
    def mask(self, model: nn.Module, kept: Kept, within: Mask | None = None) -> Mask:
        """What is left of `within` (default: of all) without the nodes that go: their filters, all
        that goes with them, and the columns that read them."""
        within = self.start if within is None else within
        units = Mask({name: keep.unsqueeze(1) for name, keep in kept.items()})
        gone = {
            name: within[name] & keep if name in within else keep
            for name, keep in select.spread(units, self.groups).items()
        }
        return surgery.couple(model, Mask({**within, **gone}), self.groups, partial=True)

    @checked
    def unread(self, kept: Kept) -> Mask:
        """The mask of the columns that read nodes that stay.

        A network under it answers as under `mask`: what nobody reads says nothing. But less of it
        has changed.
        """
        columns: dict[str, Tensor] = {}
        for name, keep in kept.items():
            if bool(keep.all()):
                continue
            for weight, dim, rows, of in self.groups.read(name):
                shape = self.groups.shapes[weight]
                own = columns.setdefault(weight, torch.ones(shape, dtype=torch.bool))
                own.index_fill_(dim, torch.from_numpy(rows)[~keep[torch.from_numpy(of)]], False)
        return Mask(columns)

    @checked
    def widths(self, who: str, widths: tuple[int, ...]) -> dict[str, float]:
        """The share of each layer's nodes that goes if it keeps so many, in their order.

        Raises ValueError unless there is one for each layer, and no more than it has.
        """
        pairs = [*zip(widths, self.sizes.values(), strict=False)]
        if len(widths) != len(self.sizes) or any(width > n for width, n in pairs):
            raise ValueError(
                f"{who}: widths must be one for each of {self.sizes}, and no more than there are, "
                f"got {widths}"
            )
        return {name: 1 - w / n for (name, n), w in zip(self.sizes.items(), widths, strict=True)}


# ------------------------------------------------------------------------------------- activity


@checked
@dataclass(frozen=True)
class Activity:
    """What examples tell of the n nodes of a layer.

    taylor: (n,) how much the loss of an example would change if the node were 0, to first order:
    the mean of |Σ a · ∂L/∂a| over its places. mean (n,) and covariance (n, n): of activations, over
    examples and places. outgoing: (n,) Σ |weights that read it|.
    """

    taylor: Tensor
    mean: Tensor
    covariance: Tensor
    outgoing: Tensor

    @property
    def deviation(self) -> Tensor:
        """(n,) the standard deviation of each node."""
        return self.covariance.diagonal().clamp(min=0).sqrt()

    @property
    def correlation(self) -> Tensor:
        """(n, n) Pearson's correlations; of a node that is constant, and with itself, 0."""
        own = self.deviation
        varies = own > 1e-6 * own.max()
        scale = torch.where(varies, own, 1.0)
        both = varies.unsqueeze(0) & varies.unsqueeze(1)
        found = torch.where(both, self.covariance / scale.unsqueeze(0) / scale.unsqueeze(1), 0.0)
        return found.clamp(-1, 1).fill_diagonal_(0.0)

    def among(self, keep: Tensor) -> Activity:
        """The same of those nodes alone that are kept; keep (n,) bool."""
        return Activity(
            self.taylor[keep], self.mean[keep], self.covariance[keep][:, keep], self.outgoing[keep]
        )


ROWS = 20_000  # activations of each node from which correlations are told
_READERS = (
    F.linear, F.conv1d, F.conv2d, F.conv3d,
    F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
)  # fmt: skip


class _Reads(TorchFunctionMode):
    """Keeps what the layers with some weights are given: {weight: inputs}, one for each call."""

    def __init__(self, weights: Mapping[int, str]):
        super().__init__()
        self.weights = weights
        self.seen: dict[str, list[Tensor]] = {}
        self.last: set[str] = set()  # whose inputs have the channels last

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if func in _READERS:
            given |= dict(zip(("input", "weight", "bias"), args, strict=False))
            rest = args[3:]
            if name := self.weights.get(id(given["weight"])):
                # Its own slope is not that of others who read the same.
                a = given["input"].view_as(given["input"])
                if torch.is_grad_enabled() and not a.requires_grad and a.is_floating_point():
                    a.requires_grad_()  # as where all weights are frozen
                given["input"] = a
                self.seen.setdefault(name, []).append(given["input"])
                if func is F.linear:
                    self.last.add(name)
            first = [given.pop(n) for n in ("input", "weight", "bias")[: len(args)]]
            return func(*first, *rest, **given)
        return func(*args, **given)


@checked
def activity(
    who: str,
    model: nn.Module,
    data: Any,
    nodes: Nodes,
    *,
    examples: Count = 5_000,
    seed: int = 0,
    run: Run = Run(),
) -> dict[str, Activity]:
    """What training examples, drawn with `seed`, tell of the nodes of each layer.

    A node's activation is what the layers that read it are given: after norm, ReLU and pooling.

    Raises ValueError, which begins with `who`, for a node that no linear layer or convolution
    reads, and for a model without gradients.
    """
    nodes.check(who, model)
    return repeatably(
        model, lambda: _Watched(who, model, wrap(data), nodes).over(examples, seed, run)
    )


class _Watched:
    """Sums over examples, by layer."""

    def __init__(self, who: str, model: nn.Module, data: Any, nodes: Nodes):
        self.who, self.model, self.data, self.nodes = who, model, data, nodes
        parameters = dict(model.named_parameters())
        self.readers = {
            name: [read for read in nodes.groups.read(name) if read[0] in parameters]
            for name in nodes.sizes
        }
        own = {weight for found in self.readers.values() for weight, *_ in found}
        self.weights = {id(parameters[weight]): weight for weight in own}
        self.taylor = {n: torch.zeros(size, dtype=torch.float64) for n, size in nodes.sizes.items()}
        self.sums = {n: torch.zeros_like(t) for n, t in self.taylor.items()}
        self.products = {
            n: torch.zeros(len(t), len(t), dtype=torch.float64) for n, t in self.taylor.items()
        }
        self.rows = dict.fromkeys(nodes.sizes, 0)
        self.outgoing = {name: self._outgoing(name, parameters) for name in nodes.sizes}

    def _outgoing(self, name: str, parameters: Mapping[str, Tensor]) -> Tensor:
        total = torch.zeros(self.nodes.sizes[name], dtype=torch.float64)
        for weight, dim, rows, of in self.readers[name]:
            sizes = parameters[weight].detach().cpu().double().abs().movedim(dim, 0).flatten(1)
            total.index_add_(0, torch.from_numpy(of), sizes.sum(1)[torch.from_numpy(rows)])
        return total

    def over(self, examples: int, seed: int, run: Run) -> dict[str, Activity]:
        generator = torch.Generator().manual_seed(derive(seed, "activity"))
        size = examples_within(run.memory, self.model, self.data, "train", 250, kept=True)
        each, n = math.ceil(ROWS / min(examples, self.data.size("train"))), 0
        for x, y in self.data.batches("train", size, generator):
            run.poll()
            x, y = place(x, device_of(self.model)), y.to(device_of(self.model))
            self._add(x, y, each, generator)
            n += len(y)
            if n >= examples:
                break
        return {name: self._told(name, n) for name in self.nodes.sizes}

    def _add(self, x: Any, y: Tensor, each: int, generator: torch.Generator) -> None:
        reads = _Reads(self.weights)
        with torch.enable_grad(), evaluating(self.model), LocalRandom(0):
            with reads:
                out = answer(self.who, self.model, x)
            loss = self.data.loss(out, y) * len(y)  # the sum over examples
            self._check(reads.seen, len(y))
            if not loss.requires_grad:
                raise ValueError(
                    f"{self.who}: {type(self.model).__name__} gives no gradients. Look for "
                    "detach() or torch.no_grad in its forward."
                )
            inputs = [a for found in reads.seen.values() for a in found if a.requires_grad]
            slopes = torch.autograd.grad(loss, inputs, allow_unused=True)
        slope = {id(a): g for a, g in zip(inputs, slopes, strict=True)}
        for name, readers in self.readers.items():
            n, change = self.nodes.sizes[name], torch.zeros(len(y), self.nodes.sizes[name])
            for number, (weight, _, rows, of) in enumerate(readers):
                last = weight in reads.last
                for a in reads.seen[weight]:
                    values = _by_node(a.detach(), rows, of, n, last)
                    if (g := slope.get(id(a))) is not None:
                        change += (values * _by_node(g, rows, of, n, last)).sum(2).cpu()
                    if number == 0:
                        self._relate(name, values, each, generator)
            self.taylor[name] += change.abs().sum(0).double()

    def _check(self, seen: Mapping[str, list[Tensor]], n: int) -> None:
        for name, readers in self.readers.items():
            leave = f"Pass ignore={self.nodes.groups.makers([name])!r} to leave them whole."
            lost = [weight for weight, *_ in readers if weight not in seen]
            if lost or not readers:
                what = f"{lost[0]} reads" if lost else "nothing reads"
                raise ValueError(
                    f"{self.who}: {what} the filters of {name}, which is no linear layer or "
                    f"convolution. {leave}"
                )
            for weight in (weight for weight, *_ in readers):
                if any(len(a) != n for a in seen[weight]):
                    raise ValueError(
                        f"{self.who}: {weight} reads the filters of {name} not once for each "
                        f"example. {leave}"
                    )

    def _relate(self, name: str, a: Tensor, each: int, generator: torch.Generator) -> None:
        """Add what `each` places of every example, drawn anew for each batch, tell."""
        if a.shape[2] > each:
            places = torch.randperm(a.shape[2], generator=generator)[:each]
            a = a[:, :, places.to(a.device)]
        rows = a.transpose(1, 2).flatten(0, 1).double().cpu()  # (examples × places, n)
        self.sums[name] += rows.sum(0)
        self.products[name] += rows.T @ rows
        self.rows[name] += len(rows)

    def _told(self, name: str, n: int) -> Activity:
        mean = self.sums[name] / self.rows[name]
        covariance = self.products[name] / self.rows[name] - torch.outer(mean, mean)
        return Activity(self.taylor[name] / n, mean, covariance, self.outgoing[name])


def _by_node(a: Tensor, rows: np.ndarray, of: np.ndarray, n: int, last: bool) -> Tensor:
    """Activations (examples, n, places) of what a layer is given, (examples, channels, ...) or, of
    linear layers, `last`, (examples, ..., channels)."""
    a = (a.movedim(-1, 1) if last else a).flatten(2) if a.ndim > 2 else a.unsqueeze(2)
    order = np.argsort(of, kind="stable")
    index = torch.from_numpy(rows[order])
    if len(rows) != a.shape[1] or not np.array_equal(rows[order], np.arange(a.shape[1])):
        a = a.index_select(1, index.to(a.device))
    return a.reshape(len(a), n, -1)


@checked
def ablation(
    who: str,
    model: nn.Module,
    data: Any,
    nodes: Nodes,
    *,
    examples: Count = 5_000,
    seed: int = 0,
    run: Run = Run(),
) -> dict[str, Tensor]:
    """By layer (n,), by how much the mean loss of training examples rises without each node, 0 if
    it falls: measured, node by node.

    Mozer and Smolensky 1988, "Skeletonization", call it relevance, and approximate it.
    """
    nodes.check(who, model)
    data, recording = wrap(data), Recording(model)
    changes = {}
    for name, n in nodes.sizes.items():
        for node in range(n):
            keep = torch.arange(n) != node
            changes[name, node] = nodes.unread({name: keep})
    generator = torch.Generator().manual_seed(derive(seed, "ablation"))
    rises = dict.fromkeys(changes, 0.0)

    def work() -> int:
        seen = 0
        for x, y in recording.batches(data, "train", run, generator):
            own = data.loss(recording.record(x), y)
            for node, change in changes.items():
                run.poll()
                rises[node] += float(data.loss(recording.replay(x, change), y) - own) * len(y)
            seen += len(y)
            if seen >= examples:
                break
        return seen

    seen = repeatably(recording.model, work)
    return {
        name: torch.tensor([max(rises[name, i], 0.0) for i in range(n)], dtype=torch.float64) / seen
        for name, n in nodes.sizes.items()
    }


# paper (Wang, Liu and Pan 2020, doi 10.1145/3395260.3395300): a node's importance is made of its
# sensitivity and its correlation, says the abstract; no formula is public; here: these.
SENSITIVITIES: dict[str, Callable[[Activity], Tensor]] = {
    "taylor": lambda found: found.taylor,
    "deviation": lambda found: found.deviation * found.outgoing,
}
CORRELATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "largest": lambda others: others.amax(1),
    "mean": lambda others: others.sum(1) / max(len(others) - 1, 1),
}
COMBINED: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "product": lambda s, c, share: s * (1 - share * c),
    "sum": lambda s, c, share: (1 - share) * s + share * (1 - c),
}
Correlation = Annotated[str, Choice(*CORRELATIONS)]
Combined = Annotated[str, Choice(*COMBINED)]


@checked
def importance(
    found: Mapping[str, Activity],
    *,
    sensitivity: Annotated[str, Choice(*SENSITIVITIES)] = "taylor",
    correlation: Correlation = "largest",
    redundancy: select.Share = 0.5,
    combined: Combined = "product",
    measured: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """How important each node of a layer is, (n,) in [0, 1]: large if the loss is sensitive to it,
    and if no other node of its layer says the same.

    sensitivity: "taylor"; or "deviation", how much a node varies times the weights that read it, as
        Zeng and Yeung 2006, doi 10.1016/j.neucom.2005.04.010, have it of hidden units. Or, in its
        place, what is `measured`, such as by `ablation`.
    correlation: of a node its "largest" or its "mean" absolute correlation with the others.
    combined: with s and c the ranks of these two within the layer, from 0 to 1 since sizes in two
        layers cannot be compared: "product", s × (1 − redundancy × c), or "sum", (1 − redundancy) ×
        s + redundancy × (1 − c).
    """
    if missing := [name for name in found if measured is not None and name not in measured]:
        raise ValueError(f"importance: nothing was measured of the nodes of {missing[0]}")
    worth = {}
    for name, each in found.items():
        sensitive = SENSITIVITIES[sensitivity](each) if measured is None else measured[name]
        alike = CORRELATIONS[correlation](each.correlation.abs())
        both = COMBINED[combined](_ranked(sensitive), _ranked(alike), redundancy)
        worth[name] = both.round(decimals=DIGITS)  # else equal ones differ in their last bit
    return worth


def _ranked(x: Tensor) -> Tensor:
    return select.ranks(x) / (len(x) - 1) if len(x) > 1 else torch.ones_like(x)


@checked
@torch.no_grad()
def folded(
    model: nn.Module, nodes: Nodes, kept: Kept, found: Mapping[str, Activity]
) -> dict[str, Tensor]:
    """New values of the weights that read the nodes that go, and of their biases: what the twin of
    each can say of it, α a + β by least squares, is read from the twin instead.

    The twin is the node that is kept and correlates with it most. β goes into the bias of the layer
    that reads them, where it has one. After NoiseOut: Babaeizadeh, Smaragdis and Campbell 2016,
    arXiv 1611.06211, which removes the more correlated of a pair of nodes.
    """
    nodes.check("folded", model)
    if missing := [name for name in kept if name not in found]:
        raise ValueError(f"folded: nothing is known of the nodes of {missing[0]}, {[*found]} are")
    parameters, values = dict(model.named_parameters()), dict[str, Tensor]()
    for name, keep in kept.items():
        if bool(keep.all()):
            continue
        gone, told = (~keep).nonzero().flatten(), found[name]
        alike = told.correlation.abs().masked_fill(~keep.unsqueeze(0), -1.0)
        twin = alike[gone].argmax(1)
        spread = told.covariance[twin, twin]
        slope = torch.where(spread > 0, told.covariance[gone, twin] / spread.clamp(min=1e-30), 0.0)
        rest = told.mean[gone] - slope * told.mean[twin]
        for weight, dim, rows, of in nodes.groups.read(name):
            p = parameters[weight]
            new = values.setdefault(weight, p.detach().clone()).movedim(dim, 0)  # (columns, ...)
            places = [torch.from_numpy(rows[of == node]) for node in range(len(keep))]
            bias = weight.removesuffix("weight") + "bias"
            for node, other, a, b in zip(gone.tolist(), twin.tolist(), slope, rest, strict=True):
                columns = new[places[node]]
                new[places[other]] += float(a) * columns
                if bias in parameters and dim == 1:
                    shift = columns.transpose(0, 1).flatten(1).sum(1)
                    values.setdefault(bias, parameters[bias].detach().clone()).add_(
                        float(b) * shift
                    )
                new[places[node]] = 0.0
    return values
