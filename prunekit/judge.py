"""What a model costs on a split, and what its metric is; nothing here changes a model.

A cost is the number of errors, or minus the metric where that is not the accuracy: smaller is
better, everywhere. Only what is shown or recorded turns it into the metric (`as_metric`).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunekit._arguments import checked
from prunekit._memory import examples_within
from prunekit._modules import answer, device_of, evaluating, lay_out, place, repeatably
from prunekit.data import Data, likeliest, wrap
from prunekit.knobs import Count
from prunekit.mask import Mask
from prunekit.steps import Run, Stopped
from prunekit.trial import check_model, copied, number, try_out

SLACK = 1e-9  # what rounding adds to a difference of two metrics
# Examples a forward pass: what the cache of a core holds beside the weights of a small network, and
# what keeps an accelerator busy. Fewer where `Run.memory` does not allow so many.
EVALUATION_BATCH, ON_ACCELERATORS = 250, 2_000


@checked
def stand_in(model: nn.Module) -> nn.Module:
    """A copy in eval mode, in the memory order in which a CPU convolves about twice as fast."""
    twin = copied("evaluate", model)
    twin.eval()  # what it gives may be anything
    lay_out(twin.parameters(), torch.channels_last)
    return twin


def _outputs(model: nn.Module, data: Data, run: Run, split: str) -> Any:
    """Outputs and targets of a split, batch by batch, on the model's device."""
    device = device_of(model)
    most = EVALUATION_BATCH if device.type == "cpu" else ON_ACCELERATORS
    size = examples_within(run.memory, model, data, split, most, kept=False)
    for x, y in data.batches(split, size):
        run.poll()
        with torch.no_grad(), evaluating(model):
            yield answer("judge", model, place(x, device)), y.to(device)


@checked
def judge(
    model: nn.Module,
    data: Any,
    run: Run = Run(),
    split: str = "validation",
    limit: float = math.inf,
) -> float:
    """The cost of a model over a split: its errors, or minus the metric.

    Infinite as soon as there are more than `limit` errors (the rest is not looked at), and if an
    output or the metric is NaN or infinite. The same every time: what a model draws while it is
    evaluated comes from a seed, and its buffers end as they were.

    Raises ValueError if the data give no batch of the split, the model nothing for one, or the
    metric no number.
    """
    data = wrap(data)
    return repeatably(model, lambda: _judge(model, data, run, split, limit))


def _judge(model: nn.Module, data: Data, run: Run, split: str, limit: float) -> float:
    tally = Tally(model, data, limit, split)
    for outputs, y in _outputs(model, data, run, split):
        tally.add(outputs, y)
        if tally.over:
            break
    return tally.cost()


class Tally:
    """Adds up what a model costs, batch by batch; `over` tells that it has more errors than
    `limit`, so that the rest need not be looked at."""

    def __init__(self, model: nn.Module, data: Data, limit: float, split: str = "validation"):
        self.data, self.limit, self.split = data, limit if data.counts_errors else math.inf, split
        self.model, self.over = type(model).__name__, False
        # There, where the model is: no wait a batch.
        self.errors = torch.zeros((), dtype=torch.int64, device=device_of(model))
        self.extremes: list[Tensor] = []  # of the outputs; those of NaN are NaN
        self.kept: list[tuple[Tensor, Tensor]] = []

    def add(self, outputs: Tensor, y: Tensor) -> None:
        if not outputs.numel():
            raise ValueError(
                f"judge: outputs of {self.model} must hold a number, got shape "
                f"{tuple(outputs.shape)}"
            )
        real = torch.view_as_real(outputs) if outputs.is_complex() else outputs
        self.extremes += real.aminmax()  # one pass, where isfinite makes several
        if not self.data.counts_errors:
            self.kept.append((outputs, y))
            return
        self.errors += (outputs.argmax(1) != likeliest(y)).sum()  # without holding all outputs
        self.over = self.limit < math.inf and bool(self.errors > self.limit)

    def cost(self) -> float:
        if not self.extremes:
            raise ValueError(f"judge: the data give no batch of the {self.split} split")
        if self.over or not torch.stack(self.extremes).isfinite().all():
            return math.inf
        if self.data.counts_errors:
            return int(self.errors)
        outputs, expected = (torch.cat(parts) for parts in zip(*self.kept, strict=True))
        value = number(self.data, "metric", self.data.metric(outputs, expected))
        return -value if math.isfinite(value) else math.inf


@checked
def hardest_first(model: nn.Module, data: Data, run: Run = Run()) -> Data:
    """The data's validation examples alone, those first whose right class leads by the least.

    What errs at all then errs early, and a candidate with too many errors is soon given up. Data
    that cannot be put into another order, or have no accuracy, stay as they are.
    """
    if not (data.reorderable and data.counts_errors):
        return data
    part = data.only("validation")
    leads = repeatably(model, lambda: _leads(model, part, run))
    return part.take("validation", leads.argsort(stable=True))


def _leads(model: nn.Module, data: Data, run: Run) -> Tensor:
    """By how much the right class of each validation example leads, (n,); NaN: by nothing."""
    leads = []
    for outputs, y in _outputs(model, data, run, "validation"):
        classes = likeliest(y).unsqueeze(1)
        others = outputs.scatter(1, classes, -math.inf).amax(1, keepdim=True)
        lead = (outputs.gather(1, classes) - others).nan_to_num(-math.inf)
        leads.append(lead.flatten(1).amin(1).cpu())  # the least of several targets
    return torch.cat(leads)


@checked
def as_metric(cost: float, data: Data, split: str = "validation") -> float:
    """The metric that a cost stands for: errors become an accuracy. NaN for an infinite cost."""
    if math.isinf(cost):
        return math.nan
    if not data.counts_errors:
        return -cost
    n = data.unit(split)
    return (n - cost) / n


def evaluate(
    model: nn.Module,
    data: Any,
    split: str = "validation",
    *,
    mask: Mask | None = None,
    run: Run = Run(),
) -> float:
    """The metric of the data over a split; with `mask`, as if it were applied.

    NaN where an output or the metric is NaN or infinite. Raises `Stopped` if `run.stop` is set.

    >>> from prunekit import magnitude, mnist_small, pretrained, prune
    >>> net, digits = pretrained("lenet_300_100"), mnist_small()
    >>> round(evaluate(net, digits), 2)
    0.99
    >>> report = prune(magnitude, net, digits, sparsity=0.95, bar=False)
    >>> round(evaluate(net, digits, mask=report.mask), 1)
    0.9
    """
    model, data = _under("evaluate", model, mask), wrap(data)
    data.size(split)  # refuses what is no split
    try:
        return as_metric(judge(model, data, run, split), data, split)
    except Stopped:
        raise
    except Exception:
        try_out("evaluate", model, data, trains=False)  # in words, if two examples show it
        raise


def _under(who: str, model: nn.Module, mask: Mask | None) -> nn.Module:
    """The model as it is with a mask applied."""
    check_model(who, model)
    if mask is None:
        return model
    if not isinstance(mask, Mask):
        raise TypeError(f"{who}: mask must be a Mask, got {type(mask).__name__}")
    mask.check(model)
    masked: nn.Module = mask.apply_(stand_in(model))
    return masked


@checked
@dataclass(frozen=True)
class Recall:
    """Of a class how many examples are answered rightly, and how many there are."""

    name: str
    right: int
    examples: int

    @property
    def share(self) -> float:
        """The recall: 0 of a class without examples."""
        return self.right / max(self.examples, 1)


@checked
def by_class(
    model: nn.Module,
    data: Any,
    split: str = "validation",
    *,
    mask: Mask | None = None,
    run: Run = Run(),
) -> list[Recall]:
    """How a model answers the examples of each class of a split; with `mask`, as if it were
    applied. A class that the data have no name for is called by its number.

    Raises ValueError where the metric is not the accuracy, or an output is not finite.
    """
    model, data = _under("by_class", model, mask), _accurate("by_class", data)
    who = "by_class: the outputs of the model"
    right, targets = repeatably(model, functools.partial(_right, who, model, data, run, split))
    counts = _counts(data, targets)
    hits = torch.bincount(targets[right], minlength=len(counts)).tolist()
    return [Recall(name, hit, of) for hit, (name, of) in zip(hits, counts, strict=True)]


def _counts(data: Data, targets: Tensor) -> list[tuple[str, int]]:
    """The name of each class, and how many of the targets it has."""
    of = torch.bincount(targets, minlength=len(data.classes)).tolist()
    names = [*map(str, data.classes), *map(str, range(len(data.classes), len(of)))]
    return [*zip(names, of, strict=True)]


class Estimate:
    """How masked copies of a model answer each class of the validation split, from a part of it.

    Looked at are the examples that the model finds hardest, and as many of the others, drawn at
    random, which stand for all of these: a tenth of the work for a stratified estimate.

    Raises ValueError where the metric is not the accuracy, and for data that cannot be put into
    another order.
    """

    @checked
    def __init__(self, model: nn.Module, data: Any, hardest: Count = 250, seed: int = 0):
        data = _accurate("Estimate", data)
        if not data.reorderable:
            raise ValueError("Estimate: the data must be such as can be put into another order")
        part = data.only("validation")
        order = repeatably(model, lambda: _leads(model, part, Run())).argsort(stable=True)
        hard, rest = order[:hardest], order[hardest:]
        drawn = torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))
        chosen = torch.cat([hard, rest[drawn[:hardest]]])
        self.model, self.hard, self.examples = model, len(hard), len(chosen)
        self.part = part.take("validation", chosen)
        targets = [likeliest(y).flatten() for _, y in part.batches("validation", EVALUATION_BATCH)]
        self.counts = _counts(data, torch.cat(targets))

    def by_class(self, mask: Mask) -> list[Recall]:
        """An estimate of what `judge.by_class` gives with a mask."""
        who = "Estimate.by_class: the outputs of the model"
        model = _under("Estimate.by_class", self.model, mask)
        once = functools.partial(_right, who, model, self.part, Run(), "validation")
        right, targets = repeatably(model, once)
        hard = len(targets) // self.examples * self.hard  # targets; an example may have several
        found = []
        for label, (name, count) in enumerate(self.counts):
            these = targets == label
            seen, others = these[:hard], these[hard:]
            stands = right[hard:][others] if others.any() else right[:hard][seen]
            share = float(stands.float().mean()) if len(stands) else 0.0
            hits = int(right[:hard][seen].sum())
            found.append(Recall(name, hits + round(share * (count - int(seen.sum()))), count))
        return found


def _accurate(who: str, data: Any) -> Data:
    data = wrap(data)
    if not data.counts_errors:
        raise ValueError(
            f"{who}: the metric must be the accuracy, got {data.metric_name}. Only right and "
            "wrong answers can be counted."
        )
    return data


@checked
@dataclass(frozen=True)
class Paired:
    """Two models on the same examples: how many only a answers wrongly, and how many only b.

    Examples that both answer alike say nothing about which is better.
    """

    examples: int
    only_a: int
    only_b: int

    @property
    def p(self) -> float:
        """The chance of so unequal counts, or more so, if both models err alike.

        McNemar's exact test, two-sided: the smaller count is one of fair coins (McNemar 1947,
        doi 10.1007/BF02295996).
        """
        n, few = self.only_a + self.only_b, min(self.only_a, self.only_b)
        return min(1.0, 2 * sum(math.comb(n, k) for k in range(few + 1)) / 2**n)

    def __str__(self) -> str:
        return (
            f"of {self.examples} examples only a errs on {self.only_a}, only b on {self.only_b}; "
            f"McNemar's exact p = {self.p:.3g}"
        )


@checked
def paired(
    a: nn.Module, b: nn.Module, data: Any, split: str = "validation", *, run: Run = Run()
) -> Paired:
    """Compare two models on the same examples of a split.

    Raises ValueError where the metric is not the accuracy, or an output is not finite.
    """
    data = _accurate("paired", data)
    (first, _), (second, _) = (
        repeatably(
            model,
            functools.partial(
                _right, f"paired: the outputs of model {label}", model, data, run, split
            ),
        )
        for label, model in (("a", a), ("b", b))
    )
    return Paired(len(first), int((~first & second).sum()), int((first & ~second).sum()))


def _right(who: str, model: nn.Module, data: Data, run: Run, split: str) -> tuple[Tensor, Tensor]:
    """Which targets of a split the model answers rightly, (n,) bool; and the targets, (n,)."""
    answers, targets = [], []
    for outputs, y in _outputs(model, data, run, split):
        if not outputs.isfinite().all():
            raise ValueError(f"{who} must be finite, some are not")
        wanted = likeliest(y)
        answers.append((outputs.argmax(1) == wanted).flatten().cpu())
        targets.append(wanted.flatten().cpu())
    return torch.cat(answers), torch.cat(targets)
