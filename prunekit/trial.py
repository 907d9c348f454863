"""Tried before it is needed: what every run does with a model and its data, once, on a copy.

A model that cannot be copied, a loss that is no number or gives no gradient, a metric that fails:
all of that is said before the first step, by name, and not after hours.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prunekit._modules import (
    OF_TORCH,
    call,
    check_values,
    device_of,
    each,
    evaluating,
    overlaps,
    place,
    repeatably,
)
from prunekit._random import LocalRandom
from prunekit.data import Data

# Losses of torch that compare one output with one target, and spread either where shapes differ.
PAIRED = (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss)
PAIRED_MODULES = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)
FEW = 2  # examples, as many as batch normalisation needs


def check_model(who: str, model: Any) -> None:
    """Raise unless `model` is an ``nn.Module`` with parameters, all of them finite numbers."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{who}: model must be a torch.nn.Module, got {type(model).__name__}")
    kind = type(model).__name__
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"{who}: {name or 'the model'} is a scripted module, whose weights cannot be "
                "copied and trained. Pass the module that it was scripted from."
            )
    if next(model.parameters(), None) is None:
        raise ValueError(f"{who}: {kind} is empty: it has no parameters")
    check_values(who, model)
    for name, p in model.named_parameters():
        if p.layout is not torch.strided:
            raise ValueError(f"{who}: {name} of {kind} must be a dense tensor, got {p.layout}")
        if p.is_floating_point() and p.dtype.itemsize == 1:
            raise ValueError(
                f"{who}: {name} of {kind} is {p.dtype}, which nothing is computed in. Pass the "
                "model with wider weights: model.float()"
            )
        finite = torch.isfinite(p.detach())
        if not finite.all():
            bad = int((~finite).sum())
            raise ValueError(
                f"{who}: every weight must be finite, {name} has {bad} NaN or infinite values"
            )


def check_writable(who: str, model: nn.Module) -> None:
    """Raise ValueError unless every weight has a place of its own that can be written."""
    for name, p in model.named_parameters():
        if p.is_inference():
            why = f"{name} of {type(model).__name__} was made under torch.inference_mode"
        elif overlaps(p):
            why = f"several values of {name} of {type(model).__name__} lie at one place in memory"
        else:
            continue
        raise ValueError(
            f"{who}: {why} and cannot be changed in place. Make it anew: nn.Parameter(p.clone())"
        )


def copied(who: str, model: nn.Module) -> nn.Module:
    """A copy that shares no weight. Raises ValueError that names the part that cannot be copied."""
    try:
        with torch.inference_mode(False):  # whose tensors nobody can train
            twin = copy.deepcopy(model)
    except Exception as error:
        raise ValueError(
            f"{who}: {type(model).__name__} cannot be copied{_culprit(model)}: {error}"
        ) from error
    own = {*_places(model.parameters())}
    if shared := [name for name, p in twin.named_parameters() if not own.isdisjoint(_places([p]))]:
        raise ValueError(
            f"{who}: {type(model).__name__} cannot be copied: its __deepcopy__ gives a model that "
            f"shares {shared[0]}. Let it copy the parameters, or leave it out."
        )
    return twin


def check_apart(who: str, model: nn.Module, twin: nn.Module, data: Data) -> None:
    """Raise ValueError if `twin`, a copy, computes with weights of `model` itself.

    A lambda, or a function in a function, is the same in a copy, and so are the layers of which it
    speaks. Models that have none as an attribute or a hook are not asked.
    """
    parts = (part for module in model.modules() for part in vars(module).items())
    if not any(_holds_function(*part) for part in parts):
        return
    reads = _Reads(_places(model.parameters()))
    with suppress(Exception):  # said where the model is tried
        x = place(data.example, device_of(twin))
        with torch.no_grad(), evaluating(twin), reads:
            repeatably(twin, lambda: call(twin, x))
    if reads.found:
        names = [n for n, p in model.named_parameters() if not reads.found.isdisjoint(_places([p]))]
        raise ValueError(
            f"{who}: {type(model).__name__} cannot be copied: a copy still computes with "
            f"{' and '.join(names[:3])} of the model itself, because of a function that is an "
            "attribute or a hook. Write it as a method of a class, which takes what it needs from "
            "self."
        )


def _holds_function(attribute: str, value: Any) -> bool:
    """Whether an attribute is a function, or holds some."""
    values = value.values() if isinstance(value, Mapping) else [value]
    return _is_own(attribute) and any(
        isinstance(getattr(v, "func", v), FunctionType) for v in values
    )


def _is_own(attribute: str) -> bool:
    """Whether an attribute, or the hooks that it holds, are the user's and not torch's."""
    return attribute not in OF_TORCH or attribute.endswith("_hooks")


class _Reads(TorchDispatchMode):
    """Which of some places in memory operators read inside."""

    def __init__(self, places: Iterable[int]):
        super().__init__()
        self.places, self.found = {*places}, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found |= self.places.intersection(_places(tree_leaves((args, kwargs))))
        return func(*args, **(kwargs or {}))


def _places(values: Iterable[Any]) -> Iterator[int]:
    """Where tensors lie in memory."""
    for a in values:
        if isinstance(a, Tensor) and a.layout is torch.strided and a.untyped_storage().data_ptr():
            yield a.untyped_storage().data_ptr()


def _culprit(model: nn.Module) -> str:
    """Which attribute or buffer cannot be copied, and what to do about it."""
    for name, buffer in model.named_buffers():
        if buffer.layout not in (torch.strided, torch.sparse_coo):
            return f", because of {name}, a {buffer.layout} buffer (keep it as torch.sparse_coo)"
    for name, module in model.named_modules():
        for attribute, value in (vars(module) | module._buffers).items():
            if not _is_own(attribute):
                continue
            try:
                copy.deepcopy(value)
            except Exception:
                place = f"{name}.{attribute}" if name else attribute
                found = f", because of {place}, a {type(value).__name__}"
                if isinstance(value, Tensor):
                    return (
                        f"{found} that is worked out from parameters, as torch.nn.utils.prune and "
                        "the old weight_norm leave it (call prune.remove or remove_weight_norm "
                        "first, use torch.nn.utils.parametrizations, or hold its detach())"
                    )
                return f"{found} (make it when it is needed, or write __deepcopy__)"
    return ""


def try_out(who: str, model: nn.Module, data: Data, trains: bool) -> tuple[float, float]:
    """Try a batch of two examples on a copy: forward, loss and metric; with `trains` also the
    training mode and the backward pass; each forward pass twice, which must agree. Gives about the
    seconds that an example takes in each; with more at once it takes less.

    Raises ValueError that names the model, the data, the rule and what was found.
    """
    try:
        twin = copied(who, model)
    except ValueError:  # it can be trained in place all the same; buffers and gradients go back
        twin = model
    about = f"{type(model).__name__} on data {data.name}"
    start = time.perf_counter()
    answers, seen = repeatably(twin, lambda: _try_out(about, twin, data))
    judged = time.perf_counter()
    again, _ = repeatably(twin, lambda: _try_out(about, twin, data, seen))
    _check_again(about, answers, again)
    if twin is not model:
        check_apart(who, model, twin, data)
    if not trains:
        return (judged - start) / FEW, 0.0
    about, begun = f"{about}, while training", time.perf_counter()
    answers, seen = repeatably(twin, lambda: _try_training(about, twin, data))
    trained = time.perf_counter()
    again, _ = repeatably(twin, lambda: _try_training(about, twin, data, seen))
    _check_again(about, answers, again)
    return (judged - start) / FEW, (trained - begun) / FEW


def _check_again(who: str, first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> None:
    """Raise ValueError unless answers and loss are twice alike, but for rounding."""
    for one, other in zip(first, second, strict=True):
        if one.shape == other.shape and torch.equal(one, other):
            continue
        if one.shape != other.shape or (one - other).abs().max() > 0.01 * one.abs().max():
            raise ValueError(
                f"{who}: answers and loss must be the same from the same state and seed, and are "
                "not. The model or the loss draws from what no seed reaches, such as "
                "random.SystemRandom, the time or a numpy.random.default_rng() made anew, or "
                "changes what is no buffer. Draw with torch, random or numpy.random, or hold the "
                "generator as an attribute of a module."
            )


Answers = tuple[tuple[Tensor, ...], tuple[Any, Tensor]]  # and the batch to which they belong


def _try_out(who: str, model: nn.Module, data: Data, seen: Any = None) -> Answers:
    """What the model answers to two examples; everything else that judging does is tried as well,
    unless the batch is one that was `seen` before."""
    x, y = seen or next(iter(data.batches("validation", FEW)))
    with torch.no_grad(), evaluating(model):
        outputs = _outputs(who, model, x)
        if seen:
            return (outputs,), seen
        if data.classes and (outputs.ndim < 2 or outputs.shape[1] != len(data.classes)):
            raise ValueError(
                f"{who}: outputs must have shape (n, {len(data.classes)}, ...), "
                f"one column a class, got {tuple(outputs.shape)}"
            )
        _loss(who, data, outputs, y.to(outputs.device))
        learned = data.splits.get("train", (None, y))[1][: len(outputs)]
        if learned.dtype != y.dtype:  # probabilities
            _loss(who, data, outputs[: len(learned)], learned.to(outputs.device))
        _try_metric(who, data, outputs, y)
        return (outputs,), (x, y)


def _outputs(who: str, model: nn.Module, x: Any) -> Tensor:
    """What the model gives: a tensor whose values are all finite."""
    try:
        outputs = call(model, place(x, device_of(model)))
    except Exception as error:
        raise ValueError(f"{who}: the model fails on {_form(x)}: {_said(error)}") from error
    if not isinstance(outputs, Tensor):
        raise ValueError(f"{who}: the model must return a tensor, got {type(outputs).__name__}")
    if outputs.layout is not torch.strided or outputs.is_meta:
        got = "one on the meta device" if outputs.is_meta else f"{outputs.layout}"
        raise ValueError(f"{who}: the model must return a dense tensor with values, got {got}")
    if not outputs.isfinite().all():
        bad = int((~outputs.isfinite()).sum())
        raise ValueError(
            f"{who}: outputs must be finite, {bad} of {outputs.numel()} are NaN or infinite before "
            "anything was pruned or trained. Look at the model's buffers, and at the data's mean "
            "and std."
        )
    return outputs


def _said(error: Exception) -> str:
    """What an error says, with its kind where that alone says little."""
    return str(error) if " " in str(error) else f"{type(error).__name__}: {error}"


def _form(x: Any) -> str:
    """The type and shape of a batch in words."""
    if isinstance(x, Tensor):
        return f"a {str(x.dtype).removeprefix('torch.')} batch of shape {tuple(x.shape)}"
    return f"a batch of shapes {each(x, lambda tensor: tuple(tensor.shape))}"


def _loss(who: str, data: Data, outputs: Tensor, y: Tensor) -> Tensor:
    """The loss: one finite number."""
    if outputs.shape != y.shape and (data.loss in PAIRED or isinstance(data.loss, PAIRED_MODULES)):
        kind = getattr(data.loss, "__name__", type(data.loss).__name__)
        raise ValueError(
            f"{who}: outputs and targets of {kind} must be of one shape, or each output is "
            f"compared with every target; got {tuple(outputs.shape)} and {tuple(y.shape)}. Shape "
            "the targets like the outputs, such as y.reshape(-1, 1)."
        )
    try:
        loss = data.loss(outputs, y)
    except Exception as error:
        raise ValueError(f"{who}: the loss cannot be computed: {_said(error)}") from error
    if not isinstance(loss, Tensor) or loss.ndim:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            f"{who}: the loss must be one number, a tensor of shape (), got {got}. A loss of torch "
            "needs reduction='mean'."
        )
    if not loss.isfinite():
        raise ValueError(f"{who}: the loss must be finite, got {float(loss)} for finite outputs")
    return loss


def _try_metric(who: str, data: Data, outputs: Tensor, y: Tensor) -> None:
    """The metric of a whole split, whose targets are there, as if the outputs repeated."""
    if "validation" in data.splits:
        y = data.splits["validation"][1]
        outputs = outputs[torch.arange(len(y), device=outputs.device) % len(outputs)]
    try:
        value = data.metric(outputs, y.to(outputs.device))
    except Exception as error:
        raise ValueError(f"{who}: the metric cannot be computed: {_said(error)}") from error
    number(data, "metric", value)


def number(data: Data, what: str, value: Any) -> float:
    """What the metric gave, as a float. Raises ValueError unless it is one number."""
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else f", {value!r}"
        raise ValueError(
            f"data {data.name}: the {what} must be one number for all examples, "
            f"got a {type(value).__name__}{shape}"
        ) from None


def _try_training(who: str, model: nn.Module, data: Data, seen: Any = None) -> Answers:
    """The same for training, with the loss; a batch that was `seen` needs no backward pass."""
    modes = [(module, module.training) for module in model.modules()]
    parameters = dict(model.named_parameters())
    gradients = {name: p.grad for name, p in parameters.items()}
    try:
        model.train()
        for p in parameters.values():
            p.grad = None
        x, y = seen or next(iter(data.batches("train", FEW, torch.Generator().manual_seed(0))))
        with torch.enable_grad(), LocalRandom(0):
            outputs = _outputs(who, model, x)
            loss = _loss(who, data, outputs, y.to(outputs.device))
            found = outputs.detach().clone(), loss.detach().clone()
            if seen:
                return found, seen
            _backward(who, loss, parameters.values())
        for name, p in parameters.items():
            if p.grad is not None:
                _check_gradient(who, name, p.grad)
        return found, (x, y)
    finally:
        for name, p in parameters.items():
            p.grad = gradients[name]
        for module, training in modes:
            module.training = training


def _backward(who: str, loss: Tensor, parameters: Iterable[nn.Parameter]) -> None:
    if loss.requires_grad:
        try:
            loss.backward()
        except Exception as error:
            raise ValueError(f"{who}: the backward pass fails: {_said(error)}") from error
    if all(p.grad is None for p in parameters):
        raise ValueError(
            f"{who}: the loss must depend on a parameter that requires gradients, it has none"
        )


def _check_gradient(who: str, name: str, gradient: Tensor) -> None:
    if gradient.layout is not torch.strided:
        raise ValueError(
            f"{who}: gradients must be dense, {name} gets a sparse one. Make its layer with "
            "sparse=False."
        )
    if not gradient.isfinite().all():
        raise ValueError(
            f"{who}: gradients must be finite, {name} gets NaN or infinite ones for a finite loss"
        )
