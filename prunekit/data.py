"""Data: training, validation and test examples, with the loss and the metric that belong to them.

Methods decide on the validation split and never see the test split.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import Dataset

from prunekit._files import describe, digest
from prunekit.select import ranks

SPLITS = ("train", "validation", "test")
COUNTING = 250  # examples a batch while data of another kind are counted

Pair = tuple[Tensor, Tensor]


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """The share of examples whose largest output is the right class; outputs `(n, classes)`."""
    n = likeliest(targets).numel()
    return (n - wrong(outputs, targets)) / n


def wrong(outputs: Tensor, targets: Tensor) -> int:
    """How many examples are classified wrongly."""
    return int((outputs.argmax(1) != likeliest(targets)).sum())


def likeliest(targets: Tensor) -> Tensor:
    """The classes of targets; where they are probabilities, the likeliest."""
    return targets.argmax(1) if targets.is_floating_point() else targets


def spearman(outputs: Tensor, targets: Tensor) -> float:
    """Spearman's rank correlation in [-1, 1] of one output an example; 0 if all are equal."""
    if outputs.numel() != targets.numel():
        raise ValueError(
            "spearman: there must be one output an example, "
            f"got {tuple(outputs.shape)} for targets {tuple(targets.shape)}"
        )
    a, b = (r - r.mean() for r in (ranks(x.flatten().double()) for x in (outputs, targets)))
    scale = a.norm() * b.norm()
    return float(a @ b / scale) if scale > 0 else 0.0


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error, for outputs `(n, 1)` as well as `(n,)`."""
    return mse_loss(outputs.reshape(targets.shape), targets)


# What the keys of data call these functions; all others by module and name (`describe`).
SHORT_NAMES: dict[Callable[..., Any], str] = {
    function: function.__name__
    for function in (cross_entropy, mse_loss, accuracy, spearman, squared_error)
}


class Data:
    """Three splits in memory or on a device, the loss to train with and the metric to judge by.

    `splits` maps ``"train"``, ``"validation"`` and, if there is one, ``"test"`` to ``(x, y)``. x is
    `(n, c, h, w)` uint8, scaled to [0, 1] and normalised per batch with `mean` and `std` (one value
    a channel), or floating point of any shape, used as it is. y is `(n,)` int64 classes, or float32
    targets; for training also `(n, classes)` float32 probabilities, such as a teacher's answers.
    `loss(outputs, y)` gives a scalar tensor; `metric(outputs, y)` gives a float over a whole split,
    larger is better. `augment(x, generator)` is applied to training batches.

    `key` is for those who know all this by another name than its checksum, such as what it was
    computed from where its last bits depend on the processor. Parts of the data have keys of their
    own. What a subclass adds to the content belongs there, too.

    Raises ValueError that names the data, the split, the rule and the value.
    """

    def __init__(
        self,
        splits: Mapping[str, Pair],
        *,
        name: str = "data",
        classes: Sequence[str] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
        metric: Callable[[Tensor, Tensor], float] = accuracy,
        augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        key: str | None = None,
    ):
        self.name, self.loss, self.metric, self.augment = name, loss, metric, augment
        self.splits = {split: self._pair(split, *splits[split]) for split in splits}
        for split in ("train", "validation"):
            if split not in self.splits:
                raise ValueError(f"data {name}: there must be a {split} split, got {[*splits]}")
        self.mean, self.std = mean, std
        channels = self.splits["train"][0].shape[1:2]
        for what, given in (("mean", mean), ("std", std)):
            if given is not None and len(given) not in (1, *channels):
                raise ValueError(
                    f"data {name}: {what} must have one value a channel ({channels[0]}), "
                    f"got {given}"
                )
        if std is not None and not all(value > 0 for value in std):
            raise ValueError(f"data {name}: std must be above 0, got {std}")
        if key is not None and not (isinstance(key, str) and key):
            raise ValueError(f"data {name}: key must be a text that is not empty, got {key!r}")
        self.known_as = key
        self.classes = self._classes(classes)

    def _pair(self, split: str, x: Tensor, y: Tensor) -> Pair:
        who = f"data {self.name}, {split}"
        x, y = torch.as_tensor(x), torch.as_tensor(y)
        if not len(x) or len(x) != len(y):
            raise ValueError(
                f"{who}: needs as many inputs as targets, at least one, got {len(x)} and {len(y)}"
            )
        if x.is_floating_point() and not torch.isfinite(x).all():
            raise ValueError(f"{who}: inputs must be finite, {_count_bad(x)} values are not")
        if y.is_floating_point():
            if not torch.isfinite(y).all():
                raise ValueError(f"{who}: targets must be finite, {_count_bad(y)} values are not")
            return x, y.float()
        return x, y.long()

    def _classes(self, classes: Sequence[str] | None) -> tuple[str, ...]:
        """The class names; () where the metric is not the accuracy of classes."""
        if self.metric is not accuracy:
            return tuple(classes or ())
        targets = {split: y for split, (_, y) in self.splits.items()}
        if targets["train"].is_floating_point() and targets["train"].ndim == 2:
            columns = self._check_probabilities(targets.pop("train"))
            classes = classes or [str(i) for i in range(columns)]
            if len(classes) != columns:
                raise ValueError(
                    f"data {self.name}, train: there must be a probability for each of the "
                    f"{len(classes)} classes, got {columns}"
                )
        if floats := [split for split, y in targets.items() if y.is_floating_point()]:
            raise ValueError(
                f"data {self.name}, {floats[0]}: targets must be classes for the accuracy, got "
                "floats. Pass labels, or metric=..., a function of outputs and targets."
            )
        n = len(classes) if classes else 1 + max(int(y.max()) for y in targets.values())
        for split, y in targets.items():
            if y.min() < 0 or y.max() >= n:
                bad = y.min() if y.min() < 0 else y.max()
                raise ValueError(
                    f"data {self.name}, {split}: labels must be in [0, {n - 1}], got {int(bad)}"
                )
        labels = targets.get("train", torch.arange(n))  # in probabilities every class is there
        present = torch.bincount(labels.flatten(), minlength=n)
        if missing := (present == 0).nonzero().flatten().tolist():
            raise ValueError(
                f"data {self.name}, train: every class needs an example, class {missing[0]} "
                f"of {n} has none. Renumber the labels from 0, or add examples."
            )
        return tuple(map(str, classes)) if classes else tuple(str(i) for i in range(n))

    def _check_probabilities(self, y: Tensor) -> int:
        """How many classes these targets `(n, classes)` are probabilities of."""
        bad = (y.min(1).values < 0) | ((y.sum(1) - 1).abs() > 1e-3)
        if bad.any():
            first = int(bad.nonzero()[0])
            raise ValueError(
                f"data {self.name}, train: targets must be classes for the accuracy, or "
                "probabilities that add up to 1; number "
                f"{first} is {[round(p, 3) for p in y[first].tolist()]}"
            )
        return y.shape[1]

    @classmethod
    def of(
        cls,
        train: Dataset[Any] | Pair,
        validation: Dataset[Any] | Pair | float = 0.1,
        test: Dataset[Any] | Pair | None = None,
        **settings: Any,
    ) -> Data:
        """Data from your own data sets or tensors.

        Each split is a ``torch.utils.data.Dataset`` of `(x, y)` examples, read into memory once, or
        a pair of tensors. `validation` may be a share in (0, 1) of `train` instead: those examples
        are held out, evenly over the classes, always the same ones. `settings` go to `Data`.
        """
        name = settings.get("name", "data")
        pair = _in_memory(train, f"data {name}, train")
        if isinstance(validation, (int, float)):
            if not 0 < validation < 1:
                raise ValueError(
                    f"data {name}: validation must be a share in (0, 1) or a data set, "
                    f"got {validation!r}"
                )
            n = round(validation * len(pair[1]))
            if not 0 < n < len(pair[1]):
                raise ValueError(
                    f"data {name}: validation={validation} of {len(pair[1])} examples must leave "
                    f"some for both splits, it takes {n}"
                )
            held = hold_out(pair[1].cpu().numpy(), n, seed=0)
            rest = np.setdiff1d(np.arange(len(pair[1])), held)
            splits = {"train": rows_of(pair, rest), "validation": rows_of(pair, held)}
        else:
            splits = {"train": pair}
            splits["validation"] = _in_memory(validation, f"data {name}, validation")
        if test is not None:
            splits["test"] = _in_memory(test, f"data {name}, test")
        return cls(splits, **settings)

    def __getstate__(self) -> dict[str, Any]:
        """What is worked out from the rest stays here: copies may differ, workers do it again."""
        return {k: v for k, v in vars(self).items() if k not in ("key", "normalised")}

    def only(self, *splits: str) -> Data:
        """The same data without the other splits: what a worker needs that only evaluates."""
        part = copy.copy(self)
        part.splits = {split: self.splits[split] for split in splits}
        part.known_as = None
        return part

    def to(self, device: torch.device | str) -> Data:
        """The same data on a device; themselves if they lie there.

        Order and augmentation are drawn on the CPU, the same everywhere.
        """
        splits = {split: (x.to(device), y.to(device)) for split, (x, y) in self.splits.items()}
        pairs = zip(splits.values(), self.splits.values(), strict=True)
        if all(x is own_x and y is own_y for (x, y), (own_x, own_y) in pairs):
            return self
        part = copy.copy(self)
        part.splits = splits
        if "key" in vars(self):  # not to be worked out again from there
            part.key = self.key
        return part

    def fewer(self, **sizes: int) -> Data:
        """The same data with fewer examples in a split, such as ``validation=1_000``.

        They are spread evenly over the classes and always the same ones.
        """
        part = self
        for split, n in sizes.items():
            labels = self.splits[split][1]
            if not 0 < n <= len(labels):
                raise ValueError(
                    f"data {self.name}: {split} has {len(labels)} examples, cannot keep {n}"
                )
            part = part.take(split, torch.from_numpy(hold_out(labels.cpu().numpy(), n, seed=0)))
        return part

    def take(self, split: str, rows: Tensor) -> Data:
        """The same data with only these examples of a split, in this order; rows `(n,)` int64."""
        part = self.only(*self.splits)
        x, y = self.splits[split]
        part.splits[split] = (x[rows.to(x.device)], y[rows.to(y.device)])
        return part

    @property
    def kind(self) -> type:
        """The class that decides what the batches are."""
        return type(self)

    @property
    def reorderable(self) -> bool:
        """Whether examples can be chosen, and put into another order."""
        return True

    @property
    def metric_name(self) -> str:
        """What the metric is called in figures and tables, such as ``"accuracy"``.

        ``"metric"`` where it has no name, or that of the training loss.
        """
        name = getattr(self.metric, "__name__", "metric")
        return name if name.isidentifier() and name != "loss" else "metric"

    @property
    def counts_errors(self) -> bool:
        """Whether a cost is a number of errors: the metric is the accuracy."""
        return self.metric is accuracy

    @property
    def cost_name(self) -> str:
        """What a cost counts."""
        return "errors" if self.counts_errors else f"minus the {self.metric_name}"

    def unit(self, split: str) -> int:
        """What 1.0 of the metric costs: the number of targets for the accuracy, else 1."""
        return self.size(split) * self._targets(split) if self.counts_errors else 1

    def _targets(self, split: str) -> int:
        """How many targets an example of the split has, where they are classes."""
        return likeliest(self.splits[split][1][:1]).numel()

    def minibatches(self, size: int) -> int:
        """How many minibatches of at most `size` examples an epoch of training has.

        A subclass whose `batches` give others overrides this, too.
        """
        n = self.size("train")
        full, rest = divmod(n, size)
        left_out = rest == 1 < min(size, n)
        return full + (rest > 0) - left_out

    def size(self, split: str) -> int:
        """How many examples a split has. Raises ValueError if there is no such split."""
        if split not in self.splits:
            raise ValueError(f"data {self.name}: has no {split} split, only {[*self.splits]}")
        return len(self.splits[split][1])

    def batches(
        self, split: str, size: int, generator: torch.Generator | None = None
    ) -> Iterator[Pair]:
        """Minibatches `(x, y)` of at most `size` examples, normalised.

        With a generator they are for training: shuffled, augmented, and without a last batch of
        one example (batch normalisation cannot learn from one).
        """
        n = self.size(split)
        x, y = self.splits[split]
        order = None
        if generator is not None:  # drawn on the CPU: the same order on every device
            order = torch.randperm(n, generator=generator).to(x.device)
        for start in range(0, n, size):
            rows = slice(start, start + size) if order is None else order[start : start + size]
            inputs, targets = self.normalise(x[rows]), y[rows]
            if generator is not None:
                if len(targets) == 1 < min(size, n):
                    continue
                if self.augment is not None:
                    inputs = self.augment(inputs, generator)
            yield inputs, targets

    @property
    def example(self) -> Any:
        """The inputs of the first validation example, as a batch of one."""
        return next(iter(self.batches("validation", 1)))[0]

    def normalise(self, x: Tensor) -> Tensor:
        """What the model sees: uint8 becomes ``(x / 255 - mean) / std``, the rest stays."""
        if x.dtype != torch.uint8:
            return x
        mean = _in_255(tuple(self.mean or (0.0,)), x.ndim, x.device)
        std = _in_255(tuple(self.std or (1.0,)), x.ndim, x.device)
        return x.float().sub_(mean).div_(std)

    @cached_property
    def normalised(self) -> Data:
        """The validation split alone, normalised once for many passes, in memory of its own."""
        part = self.only("validation")
        x, y = part.splits["validation"]
        part.splits = {"validation": (self.normalise(x), y)}
        return part

    @cached_property
    def key(self) -> str | None:
        """Checksum of all examples, their normalisation, the loss and the metric (see `describe`).

        None where there is none: then no run can be journalled.
        """
        if self.known_as is not None:
            return self.known_as
        names = [_name(function) for function in (self.loss, self.metric, self.augment)]
        examples = [(split, *pair) for split, pair in self.splits.items()]
        subclass = [] if type(self) is Data else [type(self)]
        return digest(examples, self.mean, self.std, names, *subclass)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(y):,} {split}" for split, (_, y) in self.splits.items())
        shape = "×".join(map(str, next(iter(self.splits.values()))[0].shape[1:]))
        return f"Data({self.name}: {sizes}; inputs {shape}; {len(self.classes)} classes)"


class Foreign(Data):
    """Data of another kind with the whole interface of `Data`; x may be other than a tensor.

    `source` gives ``batches(split, size, generator)``, `loss` and `metric`. What else it has, of
    ``size(split)``, ``minibatches(size)``, ``to(device)``, `key` and `name`, is used; sizes are
    counted otherwise, once. Its examples cannot be put into another order.
    """

    def __init__(self, source: Any):
        kind = type(source).__name__
        needed = ("batches", "loss", "metric")
        if lacking := [what for what in needed if not callable(getattr(source, what, None))]:
            raise TypeError(
                f"data: must have batches(split, size, generator), loss(outputs, targets) and "
                f"metric(outputs, targets), a {kind} lacks {' and '.join(lacking)}. Add what "
                "lacks, or make prunekit's own with Data.of(train, validation)."
            )
        self.source, self.name = source, str(getattr(source, "name", kind))
        self.loss, self.metric, self.augment = source.loss, source.metric, None
        self.splits, self.classes, self.mean, self.std, self.known_as = {}, (), None, None, None
        self._counted: dict[tuple[str, str | int], int] = {}

    def _own(self, what: str) -> Any:
        """The method of the source of that name, or None."""
        own = getattr(self.source, what, None)
        return own if callable(own) else None

    def _once(self, what: str, of: str | int, count: Callable[[], int]) -> int:
        if (what, of) not in self._counted:
            self._counted[what, of] = int(count())
        return self._counted[what, of]

    def batches(
        self, split: str, size: int, generator: torch.Generator | None = None
    ) -> Iterator[Any]:
        """The batches of the source, as they are."""
        extra = () if generator is None else (generator,)
        return iter(self.source.batches(split, size, *extra))

    def size(self, split: str) -> int:
        """How many examples a split has, counted once where the source does not say."""
        if own := self._own("size"):
            return int(own(split))
        return self._once("size", split, lambda: self._count(split))

    def _count(self, split: str) -> int:
        if n := sum(len(y) for _, y in self.batches(split, COUNTING)):
            return n
        raise ValueError(f"data {self.name}: give no batch of the {split} split")

    def _targets(self, split: str) -> int:
        def count() -> int:
            _, y = next(self.batches(split, 1))
            return likeliest(y)[0].numel()

        return self._once("targets", split, count)

    def minibatches(self, size: int) -> int:
        """How many minibatches the source gives, counted once where it does not say."""
        if own := self._own("minibatches"):
            return int(own(size))
        drawn = torch.Generator().manual_seed(0)
        return self._once(
            "minibatches", size, lambda: sum(1 for _ in self.batches("train", size, drawn))
        )

    @property
    def kind(self) -> type:
        return type(self.source)

    @property
    def reorderable(self) -> bool:
        return False

    def only(self, *splits: str) -> Data:
        """The same data: nobody knows which part of the source a split is."""
        return copy.copy(self)

    def take(self, split: str, rows: Tensor) -> Data:
        """Refused, as `fewer` is."""
        raise ValueError(
            f"data {self.name}: cannot be put into another order, only prunekit's own data can"
        )

    def fewer(self, **sizes: int) -> Data:
        """Refused, as `take` is."""
        raise ValueError(
            f"data {self.name}: cannot be cut to {sizes}, only prunekit's own data can"
        )

    def to(self, device: torch.device | str) -> Data:
        """As the source moves itself; else it stays, and its batches are moved one by one."""
        own = self._own("to")
        return wrap(own(device)) if own else self

    def normalise(self, x: Any) -> Any:
        """x as it is."""
        return x

    @cached_property
    def normalised(self) -> Data:
        """Itself."""
        return self

    @cached_property
    def key(self) -> str | None:
        """The key of the source, if it has one."""
        key = getattr(self.source, "key", None)
        if key is not None and not isinstance(key, str):
            raise TypeError(f"data {self.name}: key must be a text, got {key!r}")
        return key or None

    def __repr__(self) -> str:
        return f"Data({self.name}: batches of a {type(self.source).__name__})"


def wrap(data: Any) -> Data:
    """The data, with the whole interface of `Data` where they are of another kind (`Foreign`).

    Raises TypeError that names what such data lack of `batches`, `loss` and `metric`.
    """
    return data if isinstance(data, Data) else Foreign(data)


def _name(function: Callable[..., Any] | None) -> str:
    """What tells a function from others in `Data.key`."""
    if function is None:
        return "None"
    short = [name for known, name in SHORT_NAMES.items() if known is function]
    return short[0] if short else describe(function)


@lru_cache(maxsize=64)
def _in_255(values: tuple[float, ...], ndim: int, device: torch.device) -> Tensor:
    """One value a channel, for pixels in 0 to 255, to broadcast over images: (1, c, 1, 1)."""
    shaped = torch.tensor(values, dtype=torch.float32).reshape((1, -1) + (1,) * (ndim - 2))
    return (255 * shaped).to(device)


def _count_bad(x: Tensor) -> int:
    return int((~torch.isfinite(x)).sum())


def rows_of(pair: Pair, rows: np.ndarray) -> Pair:
    index = torch.from_numpy(rows.astype(np.int64))
    return pair[0][index.to(pair[0].device)], pair[1][index.to(pair[1].device)]


def _in_memory(source: Dataset[Any] | Pair, who: str) -> Pair:
    """A data set or a pair of tensors as a pair of tensors."""
    if isinstance(source, (tuple, list)) and len(source) == 2:
        return torch.as_tensor(source[0]), torch.as_tensor(source[1])
    xs: list[Tensor] = []
    ys: list[Tensor] = []
    for i in range(len(source)):  # type: ignore[arg-type]
        x, y = source[i]
        x, y = torch.as_tensor(x), torch.as_tensor(y)
        if xs and x.shape != xs[0].shape:
            raise ValueError(
                f"{who}: all examples must have one shape, number 0 has {tuple(xs[0].shape)}, "
                f"number {i} has {tuple(x.shape)}"
            )
        xs.append(x)
        ys.append(y)
    if not xs:
        raise ValueError(f"{who}: the data set is empty")
    return torch.stack(xs), torch.stack(ys)


def hold_out(labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Sorted indices of `n` examples with the class shares of `labels`, or any `n` of targets.

    RandomState's stream is frozen by numpy, so the same examples are drawn everywhere, for ever.
    """
    random = np.random.RandomState(seed)
    if labels.ndim > 1 or labels.dtype.kind == "f":
        return np.sort(random.permutation(len(labels))[:n])
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * n / len(labels)  # (classes,), rarely whole
    take = np.floor(exact).astype(int)
    take[np.argsort(take - exact, kind="stable")[: n - take.sum()]] += 1  # largest remainders
    members = [random.permutation(np.flatnonzero(labels == c)) for c in classes]
    return np.sort(np.concatenate([m[:k] for m, k in zip(members, take, strict=True)]))
