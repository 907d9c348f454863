"""`MaskView`: the weights of a layer as a picture, to look into and to prune by hand."""

from __future__ import annotations

from typing import Any

import anywidget
import numpy
import torch
import traitlets
from torch import nn

from prunekit.mask import Mask
from prunekit.report import with_error
from prunekit.train import evaluate, metric_name, size
from prunekit.widgets.replay import STATIC
from prunekit.widgets.running import Latest, in_loop, loop_of_the_kernel


class MaskView(anywidget.AnyWidget):
    """The weights of `model` under a mask, a layer at a time: a row an output, a column an input.

    Colour is the sign and size of a weight, an empty place a removed one. Zoom, point at a weight
    to read it, and remove or put back weights with a brush; `mask` is what is kept, and with `data`
    the validation figure that it leaves is shown. The model stays as it is.
    """

    _esm = STATIC / "mask.js"
    _css = STATIC / "mask.css"
    layers = traitlets.List(traitlets.Unicode()).tag(sync=True)
    layer = traitlets.Unicode().tag(sync=True)
    shape = traitlets.List(traitlets.Int()).tag(sync=True)
    weights = traitlets.Bytes().tag(sync=True)
    kept = traitlets.Bytes().tag(sync=True)
    verdict = traitlets.Unicode().tag(sync=True)

    def __init__(self, model: nn.Module, mask: Mask | None = None, data: Any = None):
        self.model, self.data = model, data
        self.mask = mask if mask is not None else Mask.ones(model)
        self.mask.check(model)
        names = [name for name in self.mask if self.mask[name].ndim > 1]
        if not names:
            raise ValueError("MaskView: the mask covers no layer with rows and columns")
        self.judge, loop = Latest(self._judged, self._told), loop_of_the_kernel()
        super().__init__(layers=names, layer=names[0])
        self._show()
        self.observe(lambda _: in_loop(loop, self._show), "layer")
        self.on_msg(lambda _, content, buffers: in_loop(loop, self._brushed, content))
        self._ask()

    def _show(self) -> None:
        """Send the layer that is chosen."""
        if self.layer not in self.layers:
            self.verdict = f"there is no layer {self.layer}"
            return
        w = self.model.get_parameter(self.layer).detach().cpu().float()
        with self.hold_sync():
            self.shape = [w.shape[0], w.numel() // w.shape[0]]
            self.kept = self._bits()
            self.weights = w.numpy().tobytes()

    def _bits(self) -> bytes:
        return numpy.packbits(self.mask[self.layer].numpy().reshape(-1)).tobytes()

    def _brushed(self, content: Any) -> None:
        """Remove or put back what the brush went over."""
        name, keep = content.get("layer"), bool(content.get("keep"))
        flat = torch.as_tensor(content.get("weights", []), dtype=torch.int64)
        if name not in self.mask or not (flat.ge(0) & flat.lt(self.mask[name].numel())).all():
            self.verdict = f"there are no such weights in {name}"
            return
        changed = self.mask[name].flatten().clone()
        changed[flat] = keep
        self.mask = Mask({**self.mask, name: changed.reshape(self.mask[name].shape)})
        self.kept = self._bits()
        self._ask()

    def _ask(self) -> None:
        if self.data is None:
            self._told(None)
        else:
            self.judge(self.mask)

    def _judged(self, mask: Mask) -> float:
        return evaluate(self.model, self.data, mask=mask)

    def _told(self, value: Any) -> None:
        text = f"sparsity {self.mask.sparsity:.3f}"
        if isinstance(value, Exception):
            text += f", {type(value).__name__}: {value}"
        elif value is not None:
            metric, n = metric_name(self.data), size(self.data, "validation")
            figure = with_error(value, n) if metric == "accuracy" else f"≈{value:.3f}"
            text += f", validation {metric} {figure}"
        self.verdict = text

    def __repr__(self) -> str:
        return f"MaskView({type(self.model).__name__}, {len(self.layers)} layers)"
