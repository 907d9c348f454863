"""`MaskView`: the weights of a layer as a picture, to look into and to prune by hand."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import anywidget
import numpy
import torch
import traitlets
from torch import Tensor, nn

from prunekit import plot
from prunekit._arguments import checked
from prunekit.data import wrap
from prunekit.judge import by_class, evaluate
from prunekit.mask import Mask
from prunekit.report import shown_metric
from prunekit.widgets import output
from prunekit.widgets._static import VIEWS, script, style
from prunekit.widgets.connection import answer, connected
from prunekit.widgets.running import Latest, OfCell, in_loop, loop_of_the_kernel


class MaskView(OfCell, anywidget.AnyWidget):
    """The weights of `model` under a mask, a layer at a time: a row an output, a column an input.

    Colour is the sign and size of a weight, an empty place a removed one. Zoom, point at a weight
    to read it, and remove or put back weights with a brush, or take back its last stroke; `mask` is
    what is kept, and with `data` the validation figure that it leaves is shown. The model stays as
    it is.

    With `stored`, the weights, each in a byte, and the mask go into the notebook's file and live on
    there without a kernel: say so only of what is alike on every processor.
    """

    _esm = connected(script(*VIEWS["MaskView"][0]))
    _css = style(*VIEWS["MaskView"][1], "connection")
    layers = traitlets.List(traitlets.Unicode()).tag(sync=True)
    layer = traitlets.Unicode().tag(sync=True)  # what is asked for
    shown = traitlets.Dict().tag(sync=True)  # layer, shape, weights
    kept = traitlets.Dict().tag(sync=True)  # layer, bits
    brushed = traitlets.Unicode().tag(sync=True)  # the layer of the last stroke, if there is one
    verdict = traitlets.Unicode().tag(sync=True)

    @checked
    def __init__(
        self,
        model: nn.Module,
        mask: Mask | None = None,
        data: Any = None,
        *,
        stored: bool = False,
    ):
        self.stored = stored
        self.model, self.data = model, wrap(data) if data is not None else None
        self.mask = mask if mask is not None else Mask.ones(model)
        self.mask.check(model)
        names = [n for n, keep in self.mask.items() if keep.ndim > 1 and keep.numel()]
        if not names:
            raise ValueError(
                "MaskView: the mask covers no layer with rows and columns; one of width 0 is empty"
            )
        self.strokes: list[tuple[str, Tensor, bool]] = []  # layer, changed weights, what they were
        self.judge, loop = Latest(self._judged, self._say), loop_of_the_kernel()
        super().__init__(layers=names, layer=names[0])
        self._show()
        self.observe(lambda _: in_loop(loop, self._show), "layer")
        answer(self, self._brushed)
        self._ask()

    def _show(self) -> None:
        """Send the layer that is asked for."""
        if self.layer not in self.layers:
            self.verdict = f"there is no layer {self.layer}"
            return
        self.shown = self._told(self.layer) | {"weights": self._weights(self.layer).tobytes()}
        self._send_kept(self.layer)

    def _weights(self, name: str) -> Any:
        """The weights of a layer as numpy's float32, a row an output."""
        w = self.model.get_parameter(name).detach().cpu().float()
        return w.reshape(len(w), -1).numpy()

    def _told(self, name: str) -> dict[str, Any]:
        """What there is to say about a layer."""
        rows, columns = self._weights(name).shape
        across = "input" if self.mask[name].ndim == 2 else "place in the kernels"
        return {"layer": name, "across": across, "rows": rows, "columns": columns}

    def _bits(self, name: str) -> bytes:
        return numpy.packbits(self.mask[name].numpy().reshape(-1)).tobytes()

    def _send_kept(self, name: str) -> None:
        self.kept = {"layer": name, "bits": self._bits(name)}

    def _brushed(self, content: Any) -> None:
        """Remove or put back what the brush went over, or take back its last stroke."""
        if content.get("undo"):
            if self.strokes:
                self._put(*self.strokes.pop())
            return
        name, keep = content.get("layer"), bool(content.get("keep"))
        flat = torch.as_tensor(content.get("weights", []), dtype=torch.int64)
        if name not in self.mask or not (flat.ge(0) & flat.lt(self.mask[name].numel())).all():
            self.verdict = f"there are no such weights in {name}"
            return
        changed = flat[self.mask[name].flatten()[flat] != keep]
        if len(changed):
            self.strokes.append((name, changed, not keep))
        self._put(name, changed, keep)

    def _put(self, name: str, weights: Tensor, keep: bool) -> None:
        """Keep these weights, or remove them."""
        flat = self.mask[name].flatten().index_fill(0, weights, keep)
        self.mask = Mask({**self.mask, name: flat.reshape(self.mask[name].shape)})
        self.brushed = self.strokes[-1][0] if self.strokes else ""
        if name == self.shown["layer"]:
            self._send_kept(name)
        self._ask()

    def _ask(self) -> None:
        self.verdict = "…"
        self.judge(self.mask)

    def _judged(self, mask: Mask) -> str:
        text = f"sparsity {mask.sparsity:.3f}"
        if self.data is None:
            return text
        if not self.data.counts_errors:
            metric, value = self.data.metric_name, evaluate(self.model, self.data, mask=mask)
            figure = shown_metric(value, metric, self.data.size("validation"))
            return f"{text}, validation {metric} {figure}"
        classes = by_class(self.model, self.data, mask=mask)
        n, right = sum(c.examples for c in classes), sum(c.right for c in classes)
        worst = min((c for c in classes if c.examples), key=attrgetter("share"))
        figure = shown_metric(right / n, "accuracy", n)
        lost = f"{worst.share:.1%} of class {worst.name}, the worst, is right"
        return f"{text}, validation accuracy {figure}; {lost}"

    def _say(self, result: Any) -> None:
        failed = isinstance(result, BaseException)
        self.verdict = f"{type(result).__name__}: {result}" if failed else result

    def lasting(self) -> Mapping[str, Any] | None:
        if not self.stored:
            return None
        stored = {n: self._told(n) | small(self._weights(n)) | {"bits": self._bits(n)}
                  for n in self.layers}  # fmt: skip
        rest = [keep for name, keep in self.mask.items() if name not in stored]
        return {
            "layers": self.layers, "layer": self.layers[0], "stored": stored,
            "rest": [sum(int(keep.sum()) for keep in rest), sum(keep.numel() for keep in rest)],
        }  # fmt: skip

    def fallback(self) -> str:
        name = self.layers[0]
        weights, keep = self._weights(name), self.mask[name].numpy()
        across, limit = self._told(name)["across"], float(numpy.abs(weights).max()) / 2 or 1.0
        kept = numpy.where(keep.reshape(weights.shape), weights, numpy.nan)
        with plot.style():
            figure, axis = plot.axes(f"{name}; empty: removed", across, "output", (7, 3.4))
            image = axis.imshow(kept, cmap="weights", vmin=-limit, vmax=limit, aspect="auto")
            axis.grid(False)
            figure.colorbar(image, label="weight")
        return output.picture(figure, repr(self))

    def __repr__(self) -> str:
        return f"MaskView({type(self.model).__name__}, {len(self.layers)} layers)"


def small(weights: Any) -> dict[str, Any]:
    """Weights in a byte each, q of -127 to 127 for sign(q) · q² · scale: as exact near 0 as needed.

    A weight is off by at most 1/127 of the root of the largest times its own root, about.
    """
    largest = float(numpy.abs(weights).max()) or 1.0
    q = numpy.sign(weights) * numpy.sqrt(numpy.abs(weights) / largest) * 127
    return {"weights": numpy.rint(q).astype("i1").tobytes(), "scale": largest / 127**2}
