"""Networks and masks from and to other tools: torch's own pruning, and ONNX."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from prunekit._arguments import checked
from prunekit._files import replacing
from prunekit._modules import call
from prunekit.mask import Mask
from prunekit.products import first
from prunekit.surgery import answers, copy_of, differs

CLOSE = 1e-4  # how far ONNX Runtime may be from PyTorch, of the largest output


# ---------------------------------------------------------------------------------- torch's pruning


@checked
def to_torch_prune(model: nn.Module, mask: Mask) -> nn.Module:
    """Hand a mask to ``torch.nn.utils.prune``, in place.

    Each parameter of the mask becomes, as that does it, a parameter ``..._orig`` and a buffer
    ``..._mask``, whose product a hook computes before every forward pass.

    Raises ValueError, before anything is changed, for a mask that does not fit the model or a
    parameter that several modules share, and for a model that torch has pruned before.
    """
    mask.check(model)
    if torch_prune.is_pruned(model):
        raise ValueError(
            f"to_torch_prune: {type(model).__name__} has masks of torch already. Take them out "
            "with from_torch_prune, and combine them with &."
        )
    every = [(name, p) for name, p in model.named_parameters(remove_duplicate=False)]
    for name in mask:
        p = model.get_parameter(name)
        if shared := [other for other, q in every if q is p and other != name]:
            raise ValueError(
                f"to_torch_prune: {name} is also {shared[0]}, and torch would mask the first alone"
            )
    for name, keep in mask.items():
        path, _, own = name.rpartition(".")
        module = model.get_submodule(path)
        torch_prune.custom_from_mask(module, own, keep.to(getattr(module, own).device))
    return model


@checked
def from_torch_prune(model: nn.Module) -> Mask:
    """The masks that ``torch.nn.utils.prune`` holds in a model, taken out of it, in place.

    Afterwards its parameters have their own names again, and are 0 where they were pruned.

    Raises ValueError if it holds none.
    """
    hooks = [
        (path, module, hook._tensor_name)
        for path, module in model.named_modules()
        for hook in module._forward_pre_hooks.values()
        if isinstance(hook, torch_prune.BasePruningMethod)
    ]
    if not hooks:
        raise ValueError(
            f"from_torch_prune: {type(model).__name__} has no masks of torch.nn.utils.prune"
        )
    masks = {
        f"{path}.{own}".lstrip("."): getattr(module, f"{own}_mask") != 0
        for path, module, own in hooks
    }
    for _, module, own in hooks:
        torch_prune.remove(module, own)
    return Mask(masks)


# ------------------------------------------------------------------------------------------- ONNX


@checked
def to_onnx(model: nn.Module, example: Any, path: str | os.PathLike[str]) -> Path:
    """Write a network to an ONNX file for any number of examples, with proof; gives back the path.

    example: a batch as the model takes it, of two examples or more. Before the file is there, ONNX
    Runtime computes it, and the first of its examples, and must answer as the network does in eval
    mode. A masked network is no smaller so; pass what `prunekit.surgery.shrink` gave. Inputs are
    called as in a mapping, or x0, x1, ...; one that is called as an operator, such as "cat", is
    "cat_input".

    Raises ImportError without the packages of ``prunekit[onnx]``, and ValueError for a network that
    cannot be exported or that answers otherwise; then there is no file.
    """
    try:
        import onnxruntime  # type: ignore[import-untyped]
        import onnxscript  # noqa: F401
    except ImportError as error:
        needs = "needs onnxscript and onnxruntime: pip install 'prunekit[onnx]'"
        raise ImportError(f"to_onnx: {needs}", name=error.name) from error
    who, name = "to_onnx", type(model).__name__
    twin = copy_of(who, model).cpu().eval()
    x = first(who, twin, example, None)
    if len(tree_leaves(x)[0]) < 2:
        raise ValueError(f"{who}: example must have two examples or more, got one")
    parts, spec = tree_flatten(x)
    names = (
        [f"{n}_input" if hasattr(torch.ops.aten, n) else n for n in x]
        if isinstance(x, Mapping)
        else [f"x{i}" for i in range(len(parts))]
    )
    with replacing(path) as beside:
        try:
            _export(_Flat(twin, spec).eval(), tuple(parts), names, beside)
            session = onnxruntime.InferenceSession(str(beside), providers=["CPUExecutionProvider"])
        except Exception as error:
            text = " ".join(str(error).split())
            raise ValueError(
                f"{who}: {name} cannot be exported: {type(error).__name__}: {text:.300}"
            ) from error
        for some in (x, first(who, twin, x, 1)):
            given = {n: a.numpy() for n, a in zip(names, tree_leaves(some), strict=True)}
            got = [torch.from_numpy(a) for a in session.run(None, given)]
            if wrong := differs(answers(twin, some), got, CLOSE):
                raise ValueError(f"{who}: {name} answers otherwise in ONNX Runtime: {wrong}")
    return Path(path)


class _Flat(nn.Module):
    """A network that takes the tensors of its batch one by one."""

    def __init__(self, model: nn.Module, spec: Any):
        super().__init__()
        self.model, self.spec = model, spec

    def forward(self, *parts: Tensor) -> Any:
        return call(self.model, tree_unflatten([*parts], self.spec))


def _export(model: nn.Module, parts: tuple[Tensor, ...], names: list[str], path: Path) -> None:
    any_number = ({0: torch.export.Dim.DYNAMIC},) * len(parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch about itself
        torch.onnx.export(
            model, parts, str(path), input_names=names, dynamo=True, external_data=False,
            dynamic_shapes={"parts": any_number}, verbose=False,
        )  # fmt: skip
