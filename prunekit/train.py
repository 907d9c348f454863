"""Training: nothing else in the package trains.

`fit` is a method like all others: a generator that yields a `Step` an epoch, so that pruning
methods compose with ``yield from fit(...)``.
"""

from __future__ import annotations

import copy
import fnmatch
import json
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict, Unpack

import torch
from torch import Tensor, nn

from prunekit._arguments import checked, function_of
from prunekit._files import digest
from prunekit._modules import (
    Remembered,
    call,
    device_of,
    evaluating,
    lay_out,
    named_tensors,
    own_generators,
    place,
    plain_attributes,
    put_back,
    put_back_attributes,
    snapshot,
    state_key,
)
from prunekit._random import Generators, LocalRandom, repeatable
from prunekit.data import Data, wrap
from prunekit.journal import Fit
from prunekit.judge import evaluate
from prunekit.knobs import (
    Choice,
    Count,
    Default,
    Fraction,
    Knob,
    Natural,
    NonNegative,
    Positive,
    Range,
    Useful,
    shown,
)
from prunekit.mask import Mask
from prunekit.method import method
from prunekit.steps import Run, Step, derive

Weights = dict[str, Tensor]  # parameters and buffers by name
Remask = Callable[[nn.Module, Mask, float], Mask]
Penalty = Callable[[nn.Module, float], None]
Tell = Callable[[nn.Module], Mapping[str, Any]]

OPTIMIZERS = {
    "sgd": lambda groups, lr, momentum: torch.optim.SGD(
        groups, lr, momentum, nesterov=momentum > 0
    ),
    "adam": lambda groups, lr, momentum: torch.optim.AdamW(groups, lr),
}

# The share of the learning rate after a share t in [0, 1] of the training.
SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "constant": lambda t, peak: 1.0,
    "cosine": lambda t, peak: (1 + math.cos(math.pi * t)) / 2,
    "one-cycle": lambda t, peak: t / peak if t < peak else (1 - t) / (1 - peak),
    "steps": lambda t, peak: 1.0 if t < 0.5 else 0.1 if t < 0.75 else 0.01,
}


@dataclass(frozen=True)
class Form:
    """How a network is computed while it trains: the order of its kernels, and autocast or not."""

    order: torch.memory_format
    bf16: bool = False


FORMS = {
    "fp32": Form(torch.contiguous_format),
    "fp32-channels-last": Form(torch.channels_last),
    "bf16": Form(torch.channels_last, bf16=True),
}
TIMED = 2  # minibatches that "auto" times in each form, after one that it does not


class Tuning(TypedDict, total=False):
    """The knobs of training, which methods hand on to `fit`.

    epochs: passes over the training data; after each cut, where a method cuts more than once.
    lr: learning rate at its highest.
    batch: examples a minibatch.
    optimizer: "sgd" (with Nesterov momentum) or "adam" (with decoupled weight decay).
    momentum: of SGD; Adam has its own.
    weight_decay: factor of the L2 penalty.
    schedule: how the learning rate moves over the whole training.
    peak: share of the training after which the one-cycle schedule is highest.
    precision: how the network is computed; "auto" times a minibatch in each form and takes the
        fastest, so that it may differ from one machine to another.
    """

    epochs: Annotated[Natural, Useful(0, 40), Default(1)]
    lr: Annotated[Positive, Useful(0.001, 0.3, log=True), Default(0.05)]
    batch: Annotated[Count, Useful(16, 512), Default(128)]
    optimizer: Annotated[str, Choice(*OPTIMIZERS), Default("sgd")]
    momentum: Annotated[Fraction, Default(0.9)]
    weight_decay: Annotated[NonNegative, Useful(1e-5, 1e-2, log=True), Default(5e-4)]
    schedule: Annotated[str, Choice(*SCHEDULES), Default("cosine")]
    peak: Annotated[float, Range(0, 1, low_open=True, high_open=True), Default(0.25)]
    precision: Annotated[str, Choice(*FORMS, "auto"), Default("fp32")]


def _check_fit(
    model: nn.Module,
    data: Data,
    *,
    mask: Mask | None,
    epochs: int,
    early: int | None,
    decay: Mapping[str, float] | None,
    remask: Remask | None,
    penalty: Penalty | None,
    tell: Tell | None,
    **_: Any,
) -> None:
    if mask is not None and not isinstance(mask, Mask):
        raise ValueError(f"fit: mask must be a Mask, got {type(mask).__name__}")
    for what, hook, n in (("remask", remask, 3), ("penalty", penalty, 2), ("tell", tell, 1)):
        takes = function_of(n)
        if hook is not None and not takes.fits(hook):
            raise TypeError(f"fit: {what} must be {takes.words}, got {shown(hook)}")
    if decay is not None and not isinstance(decay, Mapping):
        raise TypeError(f"fit: decay must be a mapping pattern -> value, got {shown(decay)}")
    if mask is not None:
        mask.check(model)
    if epochs and not any(p.requires_grad for p in model.parameters()):
        raise ValueError(f"fit: {type(model).__name__} has no parameter that requires gradients")
    if early is not None and early > epochs:
        raise ValueError(f"fit: early must be at most epochs, {epochs}, got {early}")
    names = [name for name, _ in model.named_parameters()]
    for pattern, value in (decay or {}).items():
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"fit: decay has {pattern!r}, but no parameter is called so: {names}")
        Knob(f"decay of {pattern!r}", Range(0), 0.0).check("fit", value)


@method(check=_check_fit, inputs=("mask", "remask", "penalty", "decay", "tell"), regrows=True)
def fit(
    model: nn.Module,
    data: Data,
    *,
    phase: Annotated[str, Choice("train", "finetune")] = "train",
    mask: Mask | None = None,
    remask: Remask | None = None,
    remask_when: Annotated[str, Choice("after", "before")] = "after",
    every: Natural = 100,
    penalty: Penalty | None = None,
    decay: Mapping[str, float] | None = None,
    tell: Tell | None = None,
    early: Natural | None = None,
    keep: Annotated[str, Choice("last", "best")] = "last",
    seed: int = 0,
    run: Run = Run(),
    **tuning: Unpack[Tuning],
) -> Generator[Step, None, Weights | None]:
    """Train the model in place on ``data.loss``, a `Step` an epoch with loss and validation metric.

    phase: the name of the steps.
    remask_when: whether `remask` is called after the optimiser's step or before it.
    every: minibatches from one call of `remask` to the next; 0: only at the end of an epoch.
    early: the epoch whose weights are the value of ``yield from fit(...)``; 0: those at the start.
    keep: with "best", training ends on the weights of the epoch with the best validation metric,
        and a last step, a rewind, says so unless that is the last epoch.

    With `mask`, removed weights are 0 after every update. ``remask(model, mask, t)`` may change the
    mask after every `every` minibatches and every epoch; the parameters have the gradients of the
    last minibatch. ``penalty(model, t)`` is called between the backward pass and the optimiser's
    step and adds to the gradients; what it changes from call to call are buffers of the model. t in
    (0, 1] is the share of training done. ``tell(model)`` gives, as plain JSON, what else the step
    of an epoch says, its `info`: a run that goes on from a journal has the weights of earlier
    epochs no more, and still what was told. All three must be functions of a module, or a
    `functools.partial` of one. `decay` maps patterns of parameter names to weight decays of their
    own, such as ``{"*.bias": 0}``; the first pattern that fits counts.

    Raises `Stopped` if `run.stop` is set, FloatingPointError if the loss or the penalty is not
    finite; on any exception the weights of the last step return.
    """
    epochs = tuning["epochs"]
    past = _Past(mask if mask is not None else Mask({}), early, keep == "best")
    if early == 0:
        past.early_weights = snapshot(model)
    if not epochs:
        model.eval()
        return past.early_weights
    journal, key, saved = run.journal, "", None
    if journal is not None:
        trained = [name for name, p in model.named_parameters() if p.requires_grad]
        functions: tuple[Any, ...] = (remask, remask_when, every, penalty)
        functions += (sorted((decay or {}).items()), *((tell,) if tell is not None else ()))
        key = digest(
            state_key(model),
            data.key,
            past.start,
            dict(tuning),
            trained,
            functions,
            early,
            keep,
            seed,
        )
        saved = journal.load_fit(key)
    form = _form(model, data, tuning, saved)
    if journal is not None and tuning["precision"] == "auto":
        journal.note_precision(form)
    hooks = _Hooks(remask, remask_when == "before", every, penalty)
    loop = _Loop(model, data, dict(tuning), FORMS[form], hooks, decay or {}, seed, run)
    if saved is not None:
        past.read(saved)
    for epoch in range(1, epochs + 1):
        mask = past.mask_after(epoch - 1)
        if saved is not None and epoch <= saved.epoch:
            if epoch == saved.epoch:
                loop.resume(saved, past, finished=epoch == epochs)
            mask = past.mask_after(epoch)
            mask.apply_(model)
        else:
            saved = None  # no longer needed, and its file is about to be replaced
            with loop.all_or_nothing():
                figures, mask = loop.epoch(epoch, mask)
                past.add(epoch, figures, mask, figures[data.metric_name], model)
                if tell is not None:
                    with LocalRandom(derive(seed, "tell", epoch)):
                        past.told.append(_plain(tell(model)))
                if journal is not None:
                    journal.save_fit(key, past.to_fit(loop, form, finished=epoch == epochs))
        yield Step(phase, epoch, epochs, mask, past.metrics[epoch - 1], past.info(epoch))
    if past.winner != epochs:
        assert past.best_weights is not None
        put_back(model, past.best_weights)
        mask, figures = past.mask_after(past.winner), past.metrics[past.winner - 1]
        yield Step("rewind", past.winner, epochs, mask, figures, past.info(past.winner))
    return past.early_weights


@checked
def recalibrate(
    model: nn.Module,
    data: Any,
    *,
    examples: Count = 5_000,
    batch: Count = 128,
    seed: int = 0,
    run: Run = Run(),
) -> nn.Module:
    """Estimate the running statistics of batch norms anew, in place: no weight is trained.

    What a norm divides by was measured before the cut; Li, Wu, Su and Wang 2020, arXiv 2007.02491,
    found that networks are judged wrongly by it. The mean over minibatches of training examples
    takes its place; everything but the norms stays in eval mode. Networks without such norms stay
    as they are.

    Raises ValueError if the data give no batch. If `run.stop` is set, or anything fails, the
    statistics are afterwards what they were.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    norms = [m for m in norms if m.running_mean is not None]
    if not norms:
        return model
    data, device, seen = wrap(data), device_of(model), 0
    before, momenta = snapshot(model), [m.momentum for m in norms]
    generator = torch.Generator().manual_seed(derive(seed, "recalibrate"))
    try:
        with evaluating(model), torch.no_grad(), LocalRandom(derive(seed, "draws")):
            for m in norms:
                m.reset_running_stats()
                m.momentum = None  # the plain mean over all minibatches
                m.train()
            for x, y in data.batches("train", batch, generator):
                run.poll()
                call(model, place(x, device))
                if (seen := seen + len(y)) >= examples:
                    break
        if not seen:
            raise ValueError("recalibrate: the data give no batch of the train split")
    except BaseException:
        put_back(model, before)
        raise
    finally:
        for m, momentum in zip(norms, momenta, strict=True):
            m.momentum = momentum
    return model


# ------------------------------------------------------------------------------------- precision


def _form(model: nn.Module, data: Data, tuning: Tuning, saved: Fit | None) -> str:
    """The name of the form to train in; a fit that is taken up again stays with its own."""
    if tuning["precision"] != "auto":
        return tuning["precision"]
    return saved.extra["form"] if saved is not None else fastest_form(model, data, tuning["batch"])


def fastest_form(model: nn.Module, data: Data, batch: int = 128) -> str:
    """The form in which one training minibatch of the whole network takes the least time here.

    Forms that the network or the processor knows nothing of are not tried: other orders of kernels
    without convolutions, bf16 on a processor that has no instructions for it.
    """
    forms = ["fp32"]
    if any(p.ndim == 4 for p in model.parameters()):
        forms.append("fp32-channels-last")
    if _computes_bf16(device_of(model)):
        forms.append("bf16")
    if len(forms) == 1:
        return forms[0]
    (x, y), seconds = next(data.batches("train", batch, torch.Generator().manual_seed(0))), {}
    for name in forms:
        seconds[name] = _seconds_a_minibatch(copy.deepcopy(model), data, FORMS[name], x, y)
    return min(forms, key=lambda name: seconds[name])


def _seconds_a_minibatch(model: nn.Module, data: Data, form: Form, x: Any, y: Tensor) -> float:
    device, times = device_of(model), []
    lay_out(model.parameters(), form.order)
    model.train()
    for _ in range(1 + TIMED):
        begun = time.perf_counter()
        with torch.enable_grad(), LocalRandom(0), autocast(form, device):
            loss = data.loss(call(model, _inputs(x, form, device)), y.to(device))
        loss.backward()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        times.append(time.perf_counter() - begun)
    return min(times[1:])


def _computes_bf16(device: torch.device) -> bool:
    """Whether bf16 may save time: on every accelerator, on a CPU that has instructions for it."""
    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type != "cpu" or bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def autocast(form: Form, device: torch.device) -> AbstractContextManager[Any]:
    """Where the forward pass of a form is computed."""
    return torch.autocast(device.type, torch.bfloat16) if form.bf16 else nullcontext()


def _inputs(x: Any, form: Form, device: torch.device) -> Any:
    """Images in the order of the kernels, on the device; (n, c, h, w) or whatever the data give."""
    if isinstance(x, Tensor) and x.ndim == 4 and form.order is not torch.contiguous_format:
        x = x.contiguous(memory_format=form.order)
    return place(x, device)


# ------------------------------------------------------------------------------------------ epochs


@dataclass
class _Past:
    """What a fit remembers of its epochs: figures, changed masks, the weights it may go back to."""

    start: Mask
    early: int | None
    best: bool

    def __post_init__(self) -> None:
        self.metrics: list[dict[str, float]] = []
        self.told: list[dict[str, Any]] = []  # of each epoch, if anything was
        self.masks: dict[int, bytes] = {}  # where they changed
        self.early_weights: Weights | None = None
        self.best_weights: Weights | None = None  # of the winner, where that is not the last epoch
        self.winner, self._value, self._last = 0, -math.inf, self.start

    def mask_after(self, epoch: int) -> Mask:
        """The mask after an epoch, 0 being the start."""
        changed = max((e for e in self.masks if e <= epoch), default=0)
        if changed and changed == max(self.masks):
            return self._last
        return Mask.from_bytes(self.masks[changed]) if changed else self.start

    def info(self, epoch: int) -> dict[str, Any]:
        return self.told[epoch - 1] if self.told else {}

    def add(
        self, epoch: int, figures: dict[str, float], mask: Mask, value: float, model: nn.Module
    ) -> None:
        """Remember an epoch that the model has just finished."""
        if mask is not self._last:
            self.masks, self._last = self.masks | {epoch: mask.to_bytes()}, mask
        self.metrics.append(figures)
        if epoch == self.early:
            self.early_weights = snapshot(model)
        if not self.best:
            self.winner = epoch
        elif value > self._value or not self.winner:  # NaN is no better than anything
            self.winner, self._value, self.best_weights = epoch, value, snapshot(model)

    # -- the journal's view: w. weights, o. optimiser, e. early, b. best

    def to_fit(self, loop: _Loop, form: str, finished: bool) -> Fit:
        """What to go on from; of a finished fit only the weights it ends on, and early ones."""
        epoch = len(self.metrics)
        now = named_tensors(loop.model)
        rest: Weights = {}
        optimizer: dict[str, Any] = {}
        if finished:
            kept = self.mask_after(self.winner)
            ends_on = now if self.winner == epoch else self.best_weights or now
            now = {n: t[kept[n].to(t.device)] if n in kept else t for n, t in ends_on.items()}
        else:
            rest, optimizer = loop.optimizer_state()
            rest |= _prefixed("b.", self.best_weights)
        rest |= _prefixed("e.", self.early_weights if self.early else None)
        tensors = {f"w.{name}": tensor.detach().clone() for name, tensor in now.items()} | rest
        extra = {"form": form, "winner": self.winner, "optimizer": optimizer}
        if moved := loop.moved_attributes():
            extra["attributes"] = moved
        if self.told:
            extra["told"] = self.told
        if math.isfinite(self._value):
            extra["value"] = self._value
        return Fit(epoch, [*self.metrics], self.masks, tensors, extra)

    def read(self, saved: Fit) -> None:
        """Turns `to_fit` around, but for what is the loop's."""
        self.metrics, self.masks = [*saved.metrics], saved.masks
        self.told = [*saved.extra.get("told", ())]
        self.winner, self._value = saved.extra["winner"], saved.extra.get("value", -math.inf)
        if self.masks:
            self._last = Mask.from_bytes(self.masks[max(self.masks)])
        self.early_weights = _unprefixed("e.", saved.tensors) or self.early_weights
        self.best_weights = _unprefixed("b.", saved.tensors) or None


def _plain(told: Any) -> dict[str, Any]:
    """What was told, as it comes back from a journal. Raises TypeError if it is no plain JSON."""
    try:
        if isinstance(told, Mapping):
            return json.loads(json.dumps(dict(told)))
    except (TypeError, ValueError) as error:
        raise TypeError(f"fit: tell must give plain JSON: {error}") from error
    raise TypeError(f"fit: tell must give a mapping of names, got {shown(told)}")


def _prefixed(prefix: str, tensors: Mapping[str, Tensor] | None) -> Weights:
    return {prefix + name: tensor for name, tensor in (tensors or {}).items()}


def _unprefixed(prefix: str, tensors: Mapping[str, Tensor]) -> Weights:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


class _Drawn(Exception):
    """Something draws that should not: the epoch has to begin anew."""


class _NotFinite(Exception):
    """The loss is not: its value, and the epoch."""


@dataclass(frozen=True)
class _Hooks:
    """What a method adds to the loop, and when."""

    remask: Remask | None
    before: bool
    every: int
    penalty: Penalty | None


class _Loop:
    """One fit's training loop, with a fresh optimiser."""

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        tuning: dict[str, Any],
        form: Form,
        hooks: _Hooks,
        decay: Mapping[str, float],
        seed: int,
        run: Run,
    ):
        self.model, self.data, self.form, self.hooks = model, data, form, hooks
        self.epochs, self.lr, self.batch = tuning["epochs"], tuning["lr"], tuning["batch"]
        self.schedule, self.peak = SCHEDULES[tuning["schedule"]], tuning["peak"]
        self.seed, self.run, self.device = seed, run, device_of(model)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.attributes = plain_attributes(model)
        self.minibatches = data.minibatches(self.batch)  # may refuse; torch.optim takes its time
        groups = _groups(model, decay, tuning["weight_decay"])
        self.optimizer = OPTIMIZERS[tuning["optimizer"]](groups, self.lr, tuning["momentum"])

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """On any exception inside, the weights and buffers from before return."""
        self.go_back = Remembered(self.model)
        try:
            yield
        except BaseException as error:
            self._lay_out(torch.contiguous_format)
            self.go_back()
            if isinstance(error, _NotFinite):
                why = self._why(*error.args)
                self.go_back()  # buffers have moved
                raise FloatingPointError(why) from None
            raise
        finally:
            self.optimizer.zero_grad(set_to_none=True)
            self.model.eval()

    def epoch(self, epoch: int, mask: Mask) -> tuple[dict[str, float], Mask]:
        """Train for one epoch and evaluate."""
        loss, after = self._repeatably(epoch, mask)
        if not self._finite(self.parameters):  # the last minibatch, whose loss was still finite
            raise _NotFinite(math.nan, epoch)
        after.apply_(self.model)  # exact zeros, without the signs that products leave
        value = evaluate(self.model, self.data, run=self.run)
        self._lay_out(torch.contiguous_format)
        return {"loss": loss, self.data.metric_name: value}, after

    def _repeatably(self, epoch: int, mask: Mask) -> tuple[float, Mask]:
        """`_minibatches`, of which all draws come from the seed.

        Those of the forward pass always do. Where others are seen, of the backward pass, the data,
        the penalty or of Python's and numpy's generators, the epoch begins anew with all of them
        under the seed, which costs too much to be done for everybody. Generators that the model
        holds begin from the seed, too, and end as they were.
        """
        seed = derive(self.seed, "draws", epoch)
        moments = [(p, copy.deepcopy(state)) for p, state in self.optimizer.state.items()]

        def train(draws: LocalRandom | None) -> tuple[float, Mask] | None:
            try:
                with own_generators(self.model, seed):
                    if draws is not None:
                        self._lay_out(torch.contiguous_format)
                        self.go_back()
                        self.optimizer.state.clear()
                        self.optimizer.state.update(moments)
                        return self._minibatches(epoch, mask, draws)
                    outside = Generators(self.device)
                    return self._minibatches(epoch, mask, LocalRandom(seed), outside)
            except _Drawn:
                return None

        return repeatable(train, self.model, self.device, seed)

    def _lay_out(self, order: torch.memory_format) -> None:
        if self.form.order is not torch.contiguous_format:
            lay_out(self.parameters, order)

    def _minibatches(
        self, epoch: int, mask: Mask, draws: LocalRandom, outside: Generators | None = None
    ) -> tuple[float, Mask]:
        """One pass over the training data: the mean loss, and the mask after it.

        outside: generators that nothing may draw from in the first minibatch, else `_Drawn` is
            raised before its step; None where all draws are `draws` anyway.
        """
        torch.set_flush_denormal(True)  # `@method` puts the caller's setting back
        generator = torch.Generator().manual_seed(derive(self.seed, "epoch", epoch))
        remask, penalty = self.hooks.remask, self.hooks.penalty
        mask.apply_(self.model)
        self._lay_out(self.form.order)
        masked = self._masked(mask)
        total, n = torch.zeros((), device=self.device), 0
        blame = torch.zeros((), dtype=torch.bool, device=self.device)  # the penalty, for NaN
        due, share = False, 0.0
        self.model.train()
        for i, (x, y) in enumerate(self.data.batches("train", self.batch, generator)):
            self.run.poll()
            done = (epoch - 1 + i / self.minibatches) / self.epochs
            step = (epoch - 1) * self.minibatches + i + 1
            share = min(step / self.minibatches / self.epochs, 1.0)
            due = remask is not None and self.hooks.every > 0 and step % self.hooks.every == 0
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * self.schedule(min(done, 1.0), self.peak)
            x, y = _inputs(x, self.form, self.device), y.to(self.device)
            with torch.enable_grad(), draws, autocast(self.form, self.device):
                loss = self.data.loss(call(self.model, x), y)
            self.optimizer.zero_grad(set_to_none=True)
            if i == 0 and outside is not None:
                self._first_backward(loss, draws)
            else:
                loss.backward()
            draws.forget()
            if penalty is not None:
                fine = self._finite_gradients()
                penalty(self.model, share)
                blame |= fine & ~self._finite_gradients()
            if i == 0 and outside is not None and outside.moved():
                raise _Drawn
            if due and self.hooks.before:
                mask, masked = self._remasked(epoch, mask, masked, share)
            self.optimizer.step()
            if masked is not None:
                with torch.no_grad():
                    torch._foreach_mul_(*masked)
            total, n = total + loss.detach() * len(y), n + len(y)
            if due and not self.hooks.before:
                self._check(total, blame, epoch)
                mask, masked = self._remasked(epoch, mask, masked, share)
        self._check(total, blame, epoch)
        if remask is not None and not (due and share == epoch / self.epochs):
            mask, _ = self._remasked(epoch, mask, masked, epoch / self.epochs)
        return float(total) / max(n, 1), mask

    def _first_backward(self, loss: Tensor, draws: LocalRandom) -> None:
        """A backward pass that raises `_Drawn` if it draws."""
        before = draws.drawn
        with draws:
            loss.backward()
        if draws.drawn > before:
            raise _Drawn

    def _remasked(self, epoch: int, mask: Mask, masked: Any, share: float) -> tuple[Mask, Any]:
        """The mask that `remask` gives, applied, and what `_masked` makes of it."""
        assert self.hooks.remask is not None
        try:
            after = self.hooks.remask(self.model, mask, share)
        except Exception:  # which weights that are no numbers are the reason of, if they are none
            slopes = [p.grad for p in self.parameters if p.grad is not None]
            if not self._finite([*self.parameters, *slopes]):
                raise _NotFinite(math.nan, epoch) from None
            raise
        if after is mask:
            return mask, masked
        if not isinstance(after, Mask):
            raise TypeError(f"fit: remask must give a Mask, got {shown(after)}")
        after.apply_(self.model)
        return after, self._masked(after)

    def _masked(self, mask: Mask) -> tuple[list[Tensor], list[Tensor]] | None:
        """Parameters and, as 0 and 1 on their device, what to multiply them with."""
        named = dict(self.model.named_parameters())
        cut = [(named[name], keep) for name, keep in mask.items() if not bool(keep.all())]
        if not cut:
            return None
        return [p for p, _ in cut], [keep.to(p.device, p.dtype) for p, keep in cut]

    def _finite_gradients(self) -> Tensor:
        return self._finite([p.grad for p in self.parameters if p.grad is not None])

    def _finite(self, tensors: Sequence[Tensor]) -> Tensor:
        largest = torch._foreach_norm([a.detach() for a in tensors if a.numel()], math.inf)
        return torch.stack([a.to(self.device) for a in largest]).isfinite().all()

    def _check(self, total: Tensor, blame: Tensor, epoch: int) -> None:
        if blame:
            raise FloatingPointError(
                f"fit: the penalty {self.hooks.penalty!r} gave gradients that are NaN or infinite "
                f"in epoch {epoch}. The weights from before that epoch are back."
            )
        if not math.isfinite(loss := float(total)):
            raise _NotFinite(loss, epoch)

    def _why(self, value: float, epoch: int) -> str:
        """What made a loss that is not finite: the model and the data as they came, or training."""
        said = f"fit: the loss is {value} in epoch {epoch}"
        back = "The weights from before that epoch are back."
        generator = torch.Generator().manual_seed(derive(self.seed, "epoch", epoch))
        batches = self.data.batches("train", self.batch, generator) if epoch == 1 else ()
        self.model.train()
        for i, (x, y) in enumerate(batches, start=1):
            with torch.no_grad(), LocalRandom(0), autocast(self.form, self.device):
                outputs = call(self.model, _inputs(x, self.form, self.device))
                loss = self.data.loss(outputs, y.to(self.device))
            if not loss.isfinite():
                what = "the loss" if outputs.isfinite().all() else "an output of the model"
                return (
                    f"{said}: before any training, {what} is not finite in minibatch {i}. Look at "
                    f"the model and the data, not at the lr. {back}"
                )
        return f"{said}: training has diverged; try a smaller lr. {back}"

    # -- the journal's view

    def optimizer_state(self) -> tuple[Weights, dict[str, Any]]:
        """Tensors, and values that are none, by number of the parameter and name."""
        tensors, plain = {}, {}
        for i, p in enumerate(self.parameters):
            for name, value in self.optimizer.state[p].items():
                if isinstance(value, Tensor):
                    tensors[f"o.{i}.{name}"] = value.clone()
                else:
                    plain[f"{i}.{name}"] = value
        return tensors, plain

    def moved_attributes(self) -> list[Any]:
        """Plain attributes that this fit has changed, such as counters: module, name, value."""
        now = plain_attributes(self.model).items()
        return [[*place, value] for place, value in now if self.attributes.get(place) != value]

    def resume(self, saved: Fit, past: _Past, finished: bool) -> None:
        """Give the model, or what the fit ends on, and the optimiser their recorded state."""
        weights = _unprefixed("w.", saved.tensors)
        if finished:
            weights = _unpacked(weights, past.mask_after(past.winner), self.model)
        if past.winner == saved.epoch or not finished:
            put_back(self.model, weights)
        else:
            past.best_weights = weights
        moved = {(module, name): value for module, name, value in saved.extra.get("attributes", ())}
        put_back_attributes(self.model, moved)
        for name, value in _unprefixed("o.", saved.tensors).items():
            i, key = name.split(".", 1)
            p = self.parameters[int(i)]
            # As torch's own load_state_dict: moments beside their weights, counters stay.
            self.optimizer.state[p][key] = value if key == "step" else value.to(p.device)
        for name, value in saved.extra["optimizer"].items():
            i, key = name.split(".", 1)
            self.optimizer.state[self.parameters[int(i)]][key] = value
        self.optimizer.zero_grad(set_to_none=True)
        self.model.eval()


def _unpacked(packed: Weights, mask: Mask, model: nn.Module) -> Weights:
    """Whole tensors from those that hold the kept weights alone."""
    whole = {}
    for name, tensor in named_tensors(model).items():
        whole[name] = packed[name]
        if name in mask:
            whole[name] = torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu")
            whole[name][mask[name]] = packed[name]
    return whole


def _groups(
    model: nn.Module, decay: Mapping[str, float], weight_decay: float
) -> list[dict[str, Any]]:
    """The optimiser's parameter groups: one for each weight decay, in the model's order."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            own = (value for pattern, value in decay.items() if fnmatch.fnmatchcase(name, pattern))
            groups.setdefault(next(own, weight_decay), []).append(p)
    return [dict(params=params, weight_decay=value) for value, params in groups.items()]
