"""Data: training, validation and test examples, with the loss and the metric that belong to them.

Methods decide on the validation split and never see the test split.
"""

from __future__ import annotations

import copy
import inspect
import math
import numbers
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import Dataset

from prunekit._arguments import checked
from prunekit._files import describe, digest
from prunekit._modules import each, place
from prunekit._random import repeatable
from prunekit.examples import Pair, form, in_memory, leaves, pair
from prunekit.knobs import Natural, Range, shown
from prunekit.select import ranks

SPLITS = ("train", "validation", "test")
Seed = Annotated[int, Range(0, 2**32 - 1)]  # of numpy
COUNTING = 250  # examples a batch while data of another kind are counted
COUNTED = 100_000  # examples after which they are taken for endless


def _check_answers(outputs: Tensor, targets: Tensor) -> None:
    """Raise ValueError unless there is a row of outputs, one a class, for every target."""
    expected = (
        targets.shape[:1] + targets.shape[2:] if targets.is_floating_point() else targets.shape
    )
    fits = (
        outputs.ndim > 1 and outputs.shape[1] and outputs.shape[:1] + outputs.shape[2:] == expected
    )
    if not fits or not targets.numel() or outputs.dtype is torch.bool:
        raise ValueError(
            f"accuracy: outputs must be numbers (n, classes) for n targets, at least one, got "
            f"{tuple(outputs.shape)} for targets {tuple(targets.shape)}"
        )


def _check_probable(targets: Tensor) -> None:
    if targets.is_floating_point() and (targets.ndim < 2 or not targets.shape[1]):
        raise ValueError(
            "likeliest: targets must be classes, or probabilities (n, classes), got floats of "
            f"shape {tuple(targets.shape)}"
        )


def _check_values(outputs: Tensor, targets: Tensor) -> None:
    if outputs.numel() != targets.numel():
        raise ValueError(
            "squared_error: there must be an output for every target, "
            f"got {tuple(outputs.shape)} for targets {tuple(targets.shape)}"
        )


@checked(check=_check_answers)
def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """The share of examples whose largest output is the right class; outputs `(n, classes)`."""
    n = likeliest(targets).numel()
    return (n - wrong(outputs, targets)) / n


@checked(check=_check_answers)
def wrong(outputs: Tensor, targets: Tensor) -> int:
    """How many examples are classified wrongly."""
    return int((outputs.argmax(1) != likeliest(targets)).sum())


@checked(check=_check_probable)
def likeliest(targets: Tensor) -> Tensor:
    """The classes of targets; where they are probabilities, the likeliest."""
    return targets.argmax(1) if targets.is_floating_point() else targets


@checked
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


@checked(check=_check_values)
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
    a channel), or of other numbers and any shape, used as it is. It may also be a tuple or mapping
    of tensors, with a row an example each: they are used as they are, bytes too. y is `(n,)` int64
    classes, or float32 targets; for training also `(n, classes)` float32 probabilities, such as a
    teacher's answers. Inputs and targets lose their gradients. `loss(outputs, y)` gives a scalar
    tensor; `metric(outputs, y)` gives a float over a whole split, larger is better.
    `augment(x, generator)` is applied to training batches. It and the metric may draw with torch,
    random or numpy.random; from a generator made anew at each call they get what no seed brings
    back.

    `key` is for those who know all this by another name than its checksum, such as what it was
    computed from where its last bits depend on the processor. Parts of the data have keys of their
    own. What a subclass adds to the content belongs there, too.

    Raises ValueError or TypeError that names the data, the split, the rule and the value.
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
        if not isinstance(name, str):
            raise TypeError(f"data: name must be a text, got {shown(name)}")
        self.name, self.loss, self.metric, self.augment = name, loss, metric, augment
        for what, function in (("loss", loss), ("metric", metric)):
            _refuse_no_function(f"data {name}: {what}", function, "outputs, targets")
        _refuse_loss(f"data {name}", metric)
        if augment is not None:
            _refuse_no_function(f"data {name}: augment", augment, "x, generator")
        self.splits = self._split(splits)
        self.mean, self.std = self._scale("mean", mean), self._scale("std", std)
        if self.std is not None and not all(value > 0 for value in self.std):
            raise ValueError(f"data {name}: std must be above 0, got {std}")
        if self.mean is not None and not all(0 <= value <= 1 for value in self.mean):
            raise ValueError(
                f"data {name}: mean must be in [0, 1], as pixels are once they are scaled, got "
                f"{mean}. Divide mean and std by 255 if they are those of bytes."
            )
        if key is not None and not (isinstance(key, str) and key):
            raise ValueError(f"data {name}: key must be a text that is not empty, got {shown(key)}")
        self.known_as = key
        self.classes = self._classes(classes)

    def _split(self, splits: Mapping[str, Pair]) -> dict[str, Pair]:
        """The splits as tensors, of one form."""
        who = f"data {self.name}"
        if not isinstance(splits, Mapping):
            raise TypeError(
                f"{who}: splits must map 'train' and 'validation' to (x, y), got a "
                f"{type(splits).__name__}. Data.of((x, y)) makes them."
            )
        if unknown := [split for split in splits if split not in SPLITS]:
            raise ValueError(f"{who}: splits must be of {[*SPLITS]}, got {unknown[0]!r}")
        for split in ("train", "validation"):
            if split not in splits:
                raise ValueError(f"{who}: there must be a {split} split, got {[*splits]}")
        found = {}
        for split, given in splits.items():
            if not isinstance(given, (tuple, list)) or len(given) != 2:
                raise TypeError(
                    f"{who}, {split}: must be a pair (x, y), got a {type(given).__name__}. Data.of "
                    "reads data sets."
                )
            found[split] = pair(*given, f"{who}, {split}")
        x, y = found["train"]
        for split, (other_x, other_y) in found.items():
            if form(other_x) != form(x):
                raise ValueError(
                    f"{who}, {split}: inputs must be of one form in all splits, got "
                    f"{form(other_x)}, those of train are {form(x)}"
                )
            floats = other_y.is_floating_point() and y.is_floating_point()  # labels may be several
            if floats and other_y.shape[1:] != y.shape[1:]:
                raise ValueError(
                    f"{who}, {split}: targets must be of one shape in all splits, got "
                    f"{tuple(other_y.shape[1:])}, those of train are {tuple(y.shape[1:])}"
                )
        return found

    def _scale(self, what: str, given: Any) -> tuple[float, ...] | None:
        """`mean` or `std` as numbers, one a channel or one for all."""
        if given is None:
            return None
        who, x = f"data {self.name}: {what}", self.splits["train"][0]
        if not (isinstance(x, Tensor) and x.dtype is torch.uint8 and x.ndim > 1):
            raise ValueError(
                f"{who} is for inputs (n, channels, ...) of uint8, others are used as they are; "
                f"got {form(x)}. Normalise them before, and leave {what} out."
            )
        try:
            array = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given)
            values = [float(value) for value in array.reshape(-1)]
        except (TypeError, ValueError):
            array = np.asarray(True)
        if array.dtype.kind not in "iuf":
            raise TypeError(f"{who} must be numbers, one a channel, got {shown(given)}")
        if not np.isfinite(values).all():
            raise ValueError(f"{who} must be finite, got {given}")
        if array.ndim > 1 or len(values) not in (1, x.shape[1]):
            raise ValueError(f"{who} must have one value a channel ({x.shape[1]}), got {given}")
        plain = isinstance(given, (tuple, list)) and all(type(v) in (int, float) for v in given)
        return tuple(given) if plain else tuple(values)

    def _classes(self, classes: Iterable[str] | None) -> tuple[str, ...]:
        """The class names; () where the metric is not the accuracy of classes."""
        who = f"data {self.name}"
        if classes is not None:
            if isinstance(classes, (Mapping, set, frozenset)) or not isinstance(classes, Iterable):
                raise TypeError(
                    f"{who}: classes must be the names in the order of their labels, got "
                    f"{shown(classes)}"
                )
            if isinstance(classes, (Tensor, np.ndarray)) and classes.ndim != 1:
                raise TypeError(f"{who}: classes must be names, got {shown(classes)}")
            try:
                classes = tuple(map(str, classes))
            except Exception as error:  # whatever those of others raise
                raise TypeError(f"{who}: classes must be names: {error}") from error
        if self.metric is not accuracy:
            return classes or ()
        targets = {split: y for split, (_, y) in self.splits.items()}
        if targets["train"].is_floating_point() and targets["train"].ndim == 2:
            columns = self._check_probabilities(targets.pop("train"))
            classes = classes or tuple(str(i) for i in range(columns))
            if len(classes) != columns:
                raise ValueError(
                    f"{who}, train: there must be a probability for each of the "
                    f"{len(classes)} classes, got {columns}"
                )
        for split, y in targets.items():
            _refuse_no_labels(f"{who}, {split}", y)
        n = len(classes) if classes else 1 + max(int(y.max()) for y in targets.values())
        for split, y in targets.items():
            _refuse_outside(f"{who}, {split}", y, n)
        if "train" in targets:  # in probabilities every class is there
            _refuse_missing(f"{who}, train", targets["train"], n)
        return classes or tuple(str(i) for i in range(n))

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
        train: Dataset[Any] | Iterable[Any] | Pair,
        validation: Dataset[Any] | Iterable[Any] | Pair | float = 0.1,
        test: Dataset[Any] | Iterable[Any] | Pair | None = None,
        **settings: Any,
    ) -> Data:
        """Data from your own data sets or tensors.

        Each split is a ``torch.utils.data.Dataset`` of `(x, y)` examples, read into memory once
        (whatever gives such examples and ends will do), or a pair of tensors, arrays, lists or
        tables of pandas. x may be a tuple or mapping of them: ``((x, z), y)``, ``({"ids": x}, y)``.
        `validation` may be a share in (0, 1) of `train` instead: those examples are held out,
        evenly over the classes, always the same ones. `settings` go to `Data`.

        Raises ValueError or TypeError that names the data, the split, the rule and the value.
        Takes twice the memory of the data while it reads them.

        >>> data = Data.of((torch.rand(50, 8), torch.arange(50) % 2), validation=0.2)
        >>> data.size("train"), data.size("validation")
        (40, 10)
        """
        who, known = f"data {settings.get('name', 'data')}", inspect.signature(cls).parameters
        if unknown := [name for name in settings if name not in known or name == "splits"]:
            raise TypeError(f"{who}: has no setting {unknown[0]!r}, only {[*known][1:]}")
        for source in (train, validation, test):
            if isinstance(source, Data):
                raise TypeError(
                    f"{who}: must be made of data sets or tensors, got {source!r}. Pass them as "
                    "they are, or their splits: data.splits['train']."
                )
        whole = in_memory(train, f"{who}, train")
        if isinstance(validation, numbers.Real):
            rest, held = _share(whole[1], _as_float(validation), settings, who)
            splits = {"train": rows_of(whole, rest), "validation": rows_of(whole, held)}
        elif validation is None:
            raise TypeError(f"{who}: validation must be a share in (0, 1) or a data set, got None")
        else:
            splits = {"train": whole, "validation": in_memory(validation, f"{who}, validation")}
        del whole
        if test is not None:
            splits["test"] = in_memory(test, f"{who}, test")
        return cls(splits, **settings)

    def __getstate__(self) -> dict[str, Any]:
        """What is worked out from the rest stays here: copies may differ, workers do it again."""
        return {k: v for k, v in vars(self).items() if k not in ("key", "normalised")}

    @checked
    def only(self, *splits: str) -> Data:
        """The same data without the other splits: what a worker needs that only evaluates."""
        for split in splits:
            self.size(split)  # refuses what is no split
        part = copy.copy(self)
        part.splits = {split: self.splits[split] for split in splits}
        part.known_as = None
        return part

    def to(self, device: torch.device | str) -> Data:
        """The same data on a device; themselves if they lie there.

        Order and augmentation are drawn on the CPU, the same everywhere.
        """
        try:
            where = torch.device(device)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"data {self.name}: there is no device {shown(device)}: {error}"
            ) from error
        splits = {split: place(pair, where) for split, pair in self.splits.items()}
        moved = zip(leaves([*splits.values()]), leaves([*self.splits.values()]), strict=True)
        if all(tensor is own for tensor, own in moved):
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
            if not (_is_whole(n) and 0 < n <= self.size(split)):
                raise ValueError(
                    f"data {self.name}: {split} has {self.size(split)} examples, cannot keep "
                    f"{shown(n)}. Pass a whole number of them."
                )
            labels = self.splits[split][1]
            part = part.take(split, torch.from_numpy(hold_out(labels.cpu().numpy(), n, seed=0)))
        return part

    def take(self, split: str, rows: Tensor) -> Data:
        """The same data with only these examples of a split, in this order; rows `(n,)` int64.

        Raises ValueError for rows that the split does not have.
        """
        n = self.size(split)
        if not (isinstance(rows, Tensor) and rows.dtype is torch.int64 and rows.ndim == 1):
            raise ValueError(
                f"data {self.name}: rows must be a tensor (n,) of int64, got {shown(rows)}"
            )
        if not len(rows) or rows.min() < 0 or rows.max() >= n:
            bad = [row for row in rows.tolist() if not 0 <= row < n][:1]
            raise ValueError(
                f"data {self.name}, {split}: rows must be in [0, {n - 1}], at least one, got {bad}"
            )
        part = self.only(*self.splits)
        part.splits[split] = each(self.splits[split], lambda tensor: tensor[rows.to(tensor.device)])
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

    @checked
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
        _refuse_no_number(f"data {self.name}: size", size)
        full, rest = divmod(n, size)
        left_out = rest == 1 < min(size, n)
        return full + (rest > 0) - left_out

    @checked
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
        _refuse_no_number(f"data {self.name}: size", size)
        if not isinstance(generator, (torch.Generator, type(None))):
            raise TypeError(f"data {self.name}: generator must be torch's, got {shown(generator)}")
        x, y = self.splits[split]
        order = None
        if generator is not None:  # drawn on the CPU: the same order on every device
            order = torch.randperm(n, generator=generator, device="cpu").to(y.device)
        for start in range(0, n, size):
            rows = slice(start, start + size) if order is None else order[start : start + size]
            inputs, targets = self.normalise(each(x, operator.itemgetter(rows))), y[rows]
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

    def normalise(self, x: Any) -> Any:
        """What the model sees: uint8 becomes ``(x / 255 - mean) / std``, the rest stays.

        The parts of a tuple or mapping stay, too: nobody knows which of them are images.
        """
        if not isinstance(x, Tensor) or x.dtype != torch.uint8:
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
        parts = each(next(iter(self.splits.values()))[0], lambda x: "×".join(map(str, x.shape[1:])))
        if isinstance(parts, dict):
            parts = [f"{name} {shape}" for name, shape in parts.items()]
        shapes = parts if isinstance(parts, str) else " and ".join(map(str, parts))
        return f"Data({self.name}: {sizes}; inputs {shapes}; {len(self.classes)} classes)"


class Foreign(Data):
    """Data of another kind with the whole interface of `Data`; x may be a tuple or mapping, too.

    `source` gives ``batches(split, size, generator)``, `loss` and `metric`. What else it has, of
    ``size(split)``, ``minibatches(size)``, ``to(device)``, `key` and `name`, is used; sizes are
    counted otherwise, once. Its examples cannot be put into another order.

    Each batch is looked at as it comes. Raises ValueError or TypeError that names the data, the
    split, the rule and what the source gave.
    """

    def __init__(self, source: Any):
        kind = type(source).__name__
        if isinstance(source, type) or inspect.isroutine(source):
            raise TypeError(
                f"data: must be an object, got {source.__name__} itself. Call it: "
                f"{source.__name__}(...)"
            )
        needed = ("batches", "loss", "metric")
        if lacking := [what for what in needed if not callable(getattr(source, what, None))]:
            raise TypeError(
                f"data: must have batches(split, size, generator), loss(outputs, targets) and "
                f"metric(outputs, targets), a {kind} lacks {' and '.join(lacking)}. Add what "
                "lacks, or make prunekit's own with Data.of(train, validation)."
            )
        for what in ("loss", "metric"):
            _refuse_no_function(f"data {kind}: {what}", getattr(source, what), "outputs, targets")
        _refuse_loss(f"data {kind}", source.metric)
        self.source, self.name = source, str(getattr(source, "name", kind))
        self.loss, self.metric, self.augment = source.loss, source.metric, None
        self.splits, self.classes, self.mean, self.std, self.known_as = {}, (), None, None, None
        self._known: dict[tuple[str, str | int], int] = {}

    def _own(self, what: str) -> Any:
        """The method of the source of that name, or None."""
        own = getattr(self.source, what, None)
        return own if callable(own) else None

    def _said(self, what: str, of: str | int) -> int | None:
        """What the source says of its size or minibatches, or what was counted; None if neither."""
        if (what, of) not in self._known and (own := self._own(what)):
            try:
                said = own(of)
            except Exception as error:
                raise ValueError(
                    f"data {self.name}: {what}({of!r}) fails: {type(error).__name__}: {error}"
                ) from error
            _refuse_no_number(f"data {self.name}: {what}({of!r})", said)
            self._known[what, of] = int(said)
        return self._known.get((what, of))

    def _refuse_endless(self, examples: int) -> None:
        """Raise ValueError if so many came of what may have no end."""
        said = self._known.get(("size", "train"), 0)
        if examples > (most := max(COUNTED, 10 * said)):  # training may give some repeatedly
            raise ValueError(
                f"data {self.name}: batches must end, they gave more than {most:,} examples. If "
                "they do, say how many there are: give size(split) and minibatches(size)."
            )

    def _count(self, what: str, of: str | int, given: Iterator[Any]) -> int:
        """How many examples or minibatches are given."""
        examples = minibatches = 0
        for _, y in given:
            examples, minibatches = examples + len(y), minibatches + 1
            self._refuse_endless(examples)
        if not examples:
            split = of if what == "size" else "train"
            raise ValueError(f"data {self.name}: give no batch of the {split} split")
        self._known[what, of] = examples if what == "size" else minibatches
        return self._known[what, of]

    def batches(
        self, split: str, size: int, generator: torch.Generator | None = None
    ) -> Iterator[Any]:
        """The batches of the source, as they are.

        Raises ValueError or TypeError where they are no pairs of x and a tensor y with as many
        rows, or are not as many as the source says: an epoch may have fewer minibatches than said,
        all else is exact.
        """
        what, of = ("size", split) if generator is None else ("minibatches", size)
        said, seen, examples = self._said(what, of), 0, 0
        for x, y in self._given(split, size, generator):
            examples += len(y)
            seen += len(y) if what == "size" else 1
            if said is None:
                self._refuse_endless(examples)
            elif seen > said:
                break
            yield x, y
        if said is not None and (seen > said or (what == "size" and seen < said)):
            raise ValueError(
                f"data {self.name}, {split}: batches of {size} must give what {what}({of!r}) is, "
                f"{said:,}, each time, got {'more' if seen > said else f'{seen:,}'}"
            )

    def _given(
        self, split: str, size: int, generator: torch.Generator | None = None
    ) -> Iterator[Any]:
        """The batches of the source, one by one, none of them looked at before its turn."""
        who, give = f"data {self.name}, {split}", self.source.batches
        args = (split, size) if generator is None else (split, size, generator)
        try:
            inspect.signature(give).bind(*args)
        except TypeError as error:
            raise TypeError(
                f"data {self.name}: must have batches(split, size, generator=None), these fail "
                f"with {len(args)} arguments: {error}"
            ) from error
        except ValueError:  # its signature cannot be told
            pass
        given = give(*args)
        if not isinstance(given, Iterable):
            raise TypeError(
                f"{who}: batches must give pairs (x, y), one after another, got "
                f"{type(given).__name__}"
            )
        for batch in given:
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                many = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
                raise TypeError(
                    f"{who}: batches must give pairs (x, y), got a {type(batch).__name__}{many}"
                )
            x, y = batch
            if isinstance(x, list):  # as loaders put a tuple together
                x = tuple(x)
            if not _of_tensors(x):
                raise TypeError(
                    f"{who}: x of a batch must be a tensor, or a tuple or mapping of tensors, got "
                    f"a {type(x).__name__}"
                )
            if not isinstance(y, Tensor):
                raise TypeError(f"{who}: y of a batch must be a tensor, got a {type(y).__name__}")
            rows = {len(part) for part in leaves(x) if part.ndim}
            if not y.ndim or not len(y) or len(y) not in rows:
                raise ValueError(
                    f"{who}: a batch must have as many targets as inputs, at least one, got "
                    f"{[*y.shape]} for {each(x, lambda part: [*part.shape])}"
                )
            yield x, y

    def size(self, split: str) -> int:
        """How many examples a split has, counted once where the source does not say."""
        if (said := self._said("size", split)) is not None:
            return said
        return self._alone(lambda: self._count("size", split, self._given(split, COUNTING)))

    def _targets(self, split: str) -> int:
        def count() -> int:
            for _, y in self._given(split, 1):
                return likeliest(y)[0].numel()
            raise ValueError(f"data {self.name}: give no batch of the {split} split")

        if ("targets", split) not in self._known:
            self._known["targets", split] = self._alone(count)
        return self._known["targets", split]

    def _alone(self, count: Callable[[], int]) -> int:
        """What is counted, without a trace in the generators that a shuffling source draws from."""
        return repeatable(lambda _: count(), self, torch.device("cpu"))

    def minibatches(self, size: int) -> int:
        """How many minibatches the source gives, counted once where it does not say."""
        if (said := self._said("minibatches", size)) is not None:
            return said
        self._said("size", "train")  # how many are too many

        def count() -> int:
            generator = torch.Generator("cpu").manual_seed(0)
            return self._count("minibatches", size, self._given("train", size, generator))

        return self._alone(count)

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
            raise TypeError(f"data {self.name}: key must be a text, got {shown(key)}")
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
    shape = (1, -1, *(1 for _ in range(ndim - 2)))[:ndim]
    shaped = torch.tensor(values, dtype=torch.float32, device="cpu").reshape(shape)
    return (255 * shaped).to(device)


def _check_rows(pair: Pair, rows: np.ndarray) -> None:
    n = min(map(len, leaves(pair)))
    whole = rows.dtype.kind in "iu"
    if rows.ndim != 1 or not whole or (len(rows) and not -n <= rows.min() <= rows.max() < n):
        raise ValueError(f"rows_of: rows must be whole numbers (m,) below {n}, got {shown(rows)}")


@checked(check=_check_rows)
def rows_of(pair: Pair, rows: np.ndarray) -> Pair:
    """These examples of a pair."""
    index = torch.from_numpy(rows.astype(np.int64))
    return each(pair, lambda tensor: tensor[index.to(tensor.device)])


def _share(
    y: Tensor, share: float, settings: Mapping[str, Any], who: str
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on, and the share that is held out for validation."""
    if not 0 < share < 1:
        raise ValueError(
            f"{who}: validation must be a share in (0, 1) or a data set, got {share:g}"
        )
    n = round(share * len(y))
    if not 0 < n < len(y):
        raise ValueError(
            f"{who}: validation={share:g} of {len(y)} examples must leave some for both splits, "
            f"it takes {n}"
        )
    stay = 0
    if settings.get("metric", accuracy) is accuracy and not y.is_floating_point():
        _refuse_no_labels(f"{who}, train", y)
        _refuse_outside(f"{who}, train", y, 1 + int(y.max()))
        _refuse_missing(f"{who}, train", y, 1 + int(y.max()))
        stay = 1 if y.ndim == 1 else 0
        if stay and n > (most := len(y) - 1 - int(y.max())):
            raise ValueError(
                f"{who}: validation={share:g} of {len(y)} examples takes {n}, at most {most} leave "
                "one of each class to train on"
            )
    held = hold_out(y.cpu().numpy(), n, seed=0, stay=stay)
    return np.setdiff1d(np.arange(len(y)), held), held


def _refuse_no_labels(who: str, y: Tensor) -> None:
    """Raise ValueError unless these targets may be the labels of classes."""
    hint, row = "", y[0]
    if y.is_floating_point():
        if y.ndim == 2 and ((y >= 0).all() and (y.sum(1) - 1).abs().max() < 1e-3):
            hint = " They look like probabilities: pass y.argmax(1)."
        elif (y == y.round()).all():
            hint = " They are whole: pass y.long()."
        raise ValueError(
            f"{who}: targets must be classes for the accuracy, got floats. Pass labels, or "
            f"metric=..., a function of outputs and targets.{hint}"
        )
    if y.ndim == 2 and y.shape[1] == 1:
        raise ValueError(f"{who}: labels must be (n,), got {tuple(y.shape)}. Pass y.squeeze(1)")
    if y.ndim == 2 and ((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all():
        raise ValueError(
            f"{who}: labels must be numbers of classes, got rows with a single 1, such as "
            f"{row.tolist()}. Pass y.argmax(1)"
        )


def _refuse_outside(who: str, y: Tensor, n: int) -> None:
    """Raise ValueError unless all labels are of n classes."""
    if y.min() < 0 or y.max() >= n:
        bad = y.min() if y.min() < 0 else y.max()
        raise ValueError(f"{who}: labels must be in [0, {max(n - 1, 0)}], got {int(bad)}")


def _refuse_missing(who: str, y: Tensor, n: int) -> None:
    """Raise ValueError unless each of n classes has an example; labels may be huge numbers."""
    few = n <= y.numel()  # else some are missing, and a table of all would be longer than the data
    seen = torch.bincount(y.flatten()).nonzero().flatten() if few else y.unique()
    gaps = (seen != torch.arange(len(seen), device=seen.device)).nonzero().flatten().tolist()
    missing = gaps[0] if gaps else len(seen)
    if missing < n:
        raise ValueError(
            f"{who}: every class needs an example, class {missing} of {n} has none. Renumber the "
            "labels from 0 (torch.unique(y, return_inverse=True)[1]), or add examples."
        )


def _of_tensors(x: Any) -> bool:
    """Whether this is a tensor, or a tuple or mapping of tensors."""
    if isinstance(x, (tuple, list, Mapping)):
        parts = [*x.values()] if isinstance(x, Mapping) else x
        return len(parts) > 0 and all(_of_tensors(part) for part in parts)
    return isinstance(x, Tensor)


def _as_float(value: Any) -> float:
    """The number, NaN for one that is more than any float."""
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _is_whole(n: Any) -> bool:
    return isinstance(n, numbers.Integral) and not isinstance(n, bool)


def _refuse_no_number(who: str, n: Any) -> None:
    """Raise ValueError unless n is a whole number above 0."""
    if not _is_whole(n) or n < 1:
        raise ValueError(f"{who} must be a whole number above 0, got {shown(n)}")


LOSSES = ("_loss", "cross_entropy", "_entropy_with_logits", "kl_div")  # how torch calls them


def _refuse_loss(who: str, metric: Any) -> None:
    """Raise ValueError for a loss of torch, of which the best network would have the most."""
    name = getattr(metric, "__name__", type(metric).__name__)
    function = getattr(metric, "__module__", "") == F.__name__ and name.endswith(LOSSES)
    if function or type(metric).__module__ == nn.modules.loss.__name__:
        raise ValueError(
            f"{who}: metric must be larger for better networks, {name} is smaller. Pass a function "
            "that gives minus the loss, as a float."
        )


def _refuse_no_function(who: str, function: Any, takes: str) -> None:
    """Raise TypeError unless this can be called with two arguments."""
    rule = f"{who} must be a function of ({takes}), got "
    if isinstance(function, type):
        name = function.__name__
        raise TypeError(f"{rule}the class {name}. Pass an object of the class: {name}()")
    if not callable(function):
        raise TypeError(f"{rule}{shown(function)}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # it cannot be told
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        name = getattr(function, "__name__", type(function).__name__)
        raise TypeError(f"{rule}{name}{signature}: {error}") from error


@checked
def hold_out(labels: np.ndarray, n: Natural, seed: Seed, stay: Natural = 0) -> np.ndarray:
    """Sorted indices of `n` examples with the class shares of `labels`, or any `n` of targets.

    Of each class, at least `stay` examples are left; where that is 0, whole numbers of more values
    than `n` are taken for targets.
    RandomState's stream is frozen by numpy, so the same examples are drawn everywhere, for ever.
    """
    random = np.random.RandomState(seed)
    targets = labels.ndim > 1 or labels.dtype.kind == "f"
    classes, counts = (labels, labels) if targets else np.unique(labels, return_counts=True)
    if targets or (len(classes) > n and not stay):
        return np.sort(random.permutation(len(labels))[:n])
    exact, most = counts * n / len(labels), counts - stay  # (classes,), rarely whole
    take = np.minimum(np.floor(exact).astype(int), most)
    while (lacking := n - take.sum()) > 0:
        largest = np.argsort(take - exact, kind="stable")  # remainders
        take[largest[(take < most)[largest]][:lacking]] += 1
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    drawn = [random.permutation(m)[:k] for m, k in zip(members, take, strict=True)]
    return np.sort(np.concatenate(drawn))
