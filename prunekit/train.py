"""Training and evaluation: nothing else in the package trains.

`fit` is a method like all others: a generator that yields a `Step` an epoch, so that pruning
methods compose with ``yield from fit(...)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from prunekit._files import digest
from prunekit._modules import lay_out, named_tensors, state_key
from prunekit._random import LocalRandom
from prunekit.journal import Fit
from prunekit.judge import evaluate, metric_name, size
from prunekit.knobs import Choice, Count, Fraction, Natural, NonNegative, Positive, Precision
from prunekit.mask import Mask
from prunekit.method import method
from prunekit.steps import Run, Step, derive

OPTIMIZERS = {
    "sgd": lambda p, lr, momentum, decay: torch.optim.SGD(
        p, lr, momentum, weight_decay=decay, nesterov=momentum > 0
    ),
    "adam": lambda p, lr, momentum, decay: torch.optim.AdamW(p, lr, weight_decay=decay),
}

# The share of the learning rate after a share t in [0, 1) of the training.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda t: 1.0,
    "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
    "one-cycle": lambda t: t / 0.25 if t < 0.25 else (1 - t) / 0.75,
    "steps": lambda t: 1.0 if t < 0.5 else 0.1 if t < 0.75 else 0.01,
}

Remask = Callable[[nn.Module, Mask, float], Mask]


def _check_fit(model: nn.Module, data: Any, *, mask: Mask | None, epochs: int, **_: Any) -> None:
    if mask is not None and not isinstance(mask, Mask):
        raise ValueError(f"fit: mask must be a Mask, got {type(mask).__name__}")
    if mask is not None:
        mask.check(model)
    if epochs and not any(p.requires_grad for p in model.parameters()):
        raise ValueError(f"fit: {type(model).__name__} has no parameter that requires gradients")


@method(check=_check_fit)
def fit(
    model: nn.Module,
    data: Any,
    *,
    epochs: Natural = 1,
    lr: Positive = 0.05,
    batch: Count = 128,
    optimizer: Annotated[str, Choice(*OPTIMIZERS)] = "sgd",
    momentum: Fraction = 0.9,
    weight_decay: NonNegative = 5e-4,
    schedule: Annotated[str, Choice(*SCHEDULES)] = "cosine",
    precision: Precision = "fp32",
    phase: Annotated[str, Choice("train", "finetune")] = "train",
    mask: Mask | None = None,
    remask: Remask | None = None,
    every: Natural = 100,
    seed: int = 0,
    run: Run = Run(),
) -> Iterator[Step]:
    """Train the model in place on ``data.loss``, a `Step` an epoch with loss and validation metric.

    epochs: passes over the training data.
    lr: learning rate at its highest.
    batch: examples a minibatch.
    optimizer: "sgd" (with Nesterov momentum) or "adam" (with decoupled weight decay).
    momentum: of SGD.
    weight_decay: factor of the L2 penalty.
    schedule: how the learning rate moves over the whole fit.
    precision: "auto" takes bf16 autocast and channels-last where the processor computes bf16.
    phase: the name of the steps.

    With `mask`, removed weights are 0 after every update. ``remask(model, mask, t)`` may change the
    mask after every `every` minibatches (0: never) and every epoch, t in (0, 1] being the share of
    training done; the parameters then have the gradients of the last minibatch. It must be a
    function of a module, or a `functools.partial` of one.

    Raises `Stopped` if `run.stop` is set; on any exception the weights of the last step return.
    """
    if not epochs:
        model.eval()
        return
    knobs: dict[str, Any] = dict(
        epochs=epochs,
        lr=lr,
        batch=batch,
        optimizer=optimizer,
        momentum=momentum,
        weight_decay=weight_decay,
        schedule=schedule,
        precision=precision,
        every=every,
    )
    mask = mask if mask is not None else Mask({})
    journal, key, saved = run.journal, "", None
    if journal is not None:
        trained = [name for name, p in model.named_parameters() if p.requires_grad]
        key = digest(state_key(model), data.key, mask, knobs, trained, remask, seed)
        saved = journal.load_fit(key)
    trainer = _Trainer(model, data, remask, seed, run, **knobs)
    metrics: list[dict[str, float]] = []
    masks: dict[int, bytes] = {}
    for epoch in range(1, epochs + 1):
        if saved is not None and epoch <= saved.epoch:
            if epoch in saved.masks:
                mask = Mask.from_bytes(saved.masks[epoch])
            if epoch == saved.epoch:
                trainer.restore(saved, mask, finished=epoch == epochs)
                metrics, masks = saved.metrics, saved.masks
            mask.apply_(model)
            yield Step(phase, epoch, epochs, mask, saved.metrics[epoch - 1])
            continue
        saved = None  # no longer needed, and its file is about to be replaced
        with trainer.all_or_nothing():
            figures, after = trainer.epoch(epoch, mask)
            if after is not mask:
                masks = masks | {epoch: after.to_bytes()}
            if journal is not None:
                state = trainer.state(after, finished=epoch == epochs)
                journal.save_fit(key, Fit(epoch, [*metrics, figures], masks, *state))
        metrics.append(figures)
        mask = after
        yield Step(phase, epoch, epochs, mask, figures)


def _computes_bf16(device: torch.device) -> bool:
    """Whether bf16 saves time: on every accelerator, on a CPU that has instructions for it."""
    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type != "cpu" or bool(able.get("avx512_bf16") or able.get("amx_bf16"))


class _Trainer:
    """One fit: the model, a fresh optimiser, and what an epoch needs."""

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        remask: Remask | None,
        seed: int,
        run: Run,
        *,
        epochs: int,
        lr: float,
        batch: int,
        optimizer: str,
        momentum: float,
        weight_decay: float,
        schedule: str,
        precision: str,
        every: int,
    ):
        self.model, self.data, self.remask, self.seed, self.run = model, data, remask, seed, run
        self.epochs, self.lr, self.batch, self.every = epochs, lr, batch, every
        self.schedule = SCHEDULES[schedule]
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = OPTIMIZERS[optimizer](self.parameters, lr, momentum, weight_decay)
        self.device = self.parameters[0].device
        self.bf16 = precision == "bf16" or (precision == "auto" and _computes_bf16(self.device))
        self.minibatches = math.ceil(size(data, "train") / batch)

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """On any exception inside, the weights and buffers from before return."""
        snapshot = {
            name: tensor.detach().clone() for name, tensor in named_tensors(self.model).items()
        }
        try:
            yield
        except BaseException:
            self._layout(torch.contiguous_format)
            with torch.no_grad():
                for name, tensor in named_tensors(self.model).items():
                    tensor.copy_(snapshot[name])
            raise
        finally:
            self.optimizer.zero_grad(set_to_none=True)
            self.model.eval()

    def epoch(self, epoch: int, mask: Mask) -> tuple[dict[str, float], Mask]:
        """Train for one epoch and evaluate."""
        loss, mask = self._minibatches(epoch, mask)
        mask.apply_(self.model)  # exact zeros, without the signs that products leave
        value = evaluate(self.model, self.data, run=self.run)
        self._layout(torch.contiguous_format)
        return {"loss": loss, metric_name(self.data): value}, mask

    def _layout(self, memory_format: torch.memory_format) -> None:
        if self.bf16:
            lay_out(self.parameters, memory_format)

    def _minibatches(self, epoch: int, mask: Mask) -> tuple[float, Mask]:
        torch.set_flush_denormal(True)  # `@method` puts the caller's setting back
        generator = torch.Generator().manual_seed(derive(self.seed, "epoch", epoch))
        draws = LocalRandom(derive(self.seed, "draws", epoch))
        mask.apply_(self.model)
        self._layout(torch.channels_last)
        masked = self._masked(mask)
        total, n, due, share = torch.zeros((), device=self.device), 0, False, 0.0
        self.model.train()
        for i, (x, y) in enumerate(self.data.batches("train", self.batch, generator)):
            self.run.poll()
            done = epoch - 1 + i / self.minibatches
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * self.schedule(done / self.epochs)
            x, y = self._inputs(x), y.to(self.device)
            with torch.enable_grad(), draws, self._autocast():
                loss = self.data.loss(self.model(x), y)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            if masked:
                with torch.no_grad():
                    torch._foreach_mul_(*masked)
            total, n = total + loss.detach() * len(y), n + len(y)
            step = (epoch - 1) * self.minibatches + i + 1
            share = step / self.minibatches / self.epochs
            due = self.every > 0 and step % self.every == 0
            if self.remask is not None and due:
                self._check(total, epoch)
                mask = self.remask(self.model, mask, share)
                mask.apply_(self.model)
                masked = self._masked(mask)
        self._check(total, epoch)
        if self.remask is not None and not (due and share == epoch / self.epochs):
            mask = self.remask(self.model, mask, epoch / self.epochs)
        return float(total) / max(n, 1), mask

    def _check(self, total: Tensor, epoch: int) -> None:
        if not math.isfinite(loss := float(total)):
            raise FloatingPointError(f"fit: the loss is {loss} in epoch {epoch}; try a smaller lr")

    def _masked(self, mask: Mask) -> tuple[list[Tensor], list[Tensor]] | None:
        """Parameters and, as 0 and 1 on their device, what to multiply them with."""
        named = dict(self.model.named_parameters())
        cut = [(named[name], keep) for name, keep in mask.items() if not bool(keep.all())]
        if not cut:
            return None
        return [p for p, _ in cut], [keep.to(p.device, p.dtype) for p, keep in cut]

    def _inputs(self, x: Tensor) -> Tensor:
        if self.bf16 and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return x.to(self.device)

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    # -- the journal's view

    def state(self, mask: Mask, finished: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values to go on from; of a finished fit only the kept weights."""
        tensors = {}
        for name, tensor in named_tensors(self.model).items():
            value = tensor.detach().cpu()
            tensors[f"w.{name}"] = value[mask[name]] if name in mask and finished else value.clone()
        extra: dict[str, Any] = {}
        if not finished:
            for i, p in enumerate(self.parameters):
                for name, value in self.optimizer.state[p].items():
                    if isinstance(value, Tensor):
                        tensors[f"o.{i}.{name}"] = value.clone()
                    else:
                        extra[f"{i}.{name}"] = value
        return tensors, extra

    @torch.no_grad()
    def restore(self, saved: Fit, mask: Mask, finished: bool) -> None:
        for name, tensor in named_tensors(self.model).items():
            value = saved.tensors[f"w.{name}"].to(tensor.device)
            if name in mask and finished:
                tensor.masked_scatter_(mask[name].to(tensor.device), value)
            else:
                tensor.copy_(value)
        for name, value in saved.tensors.items():
            if name.startswith("o."):
                _, i, key = name.split(".", 2)
                p = self.parameters[int(i)]
                # As torch's own load_state_dict: moments beside their weights, counters stay.
                self.optimizer.state[p][key] = value if key == "step" else value.to(p.device)
        for name, value in saved.extra.items():
            i, key = name.split(".", 1)
            self.optimizer.state[self.parameters[int(i)]][key] = value
        self.optimizer.zero_grad(set_to_none=True)
        self.model.eval()
