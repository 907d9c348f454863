"""`Playground`: a network that reads digits, drawn, and one slider that removes its weights."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import anywidget
import torch
import traitlets
from torch import Tensor, nn

from prunekit._arguments import checked
from prunekit._files import replacing
from prunekit._modules import call, check_values, evaluating
from prunekit.data import wrap
from prunekit.datasets import mnist_small
from prunekit.judge import by_class
from prunekit.mask import Mask
from prunekit.models import build, load, pretrained
from prunekit.widgets import output
from prunekit.widgets._static import VIEWS, script, style
from prunekit.widgets.instant import bars
from prunekit.widgets.replay import PAGE
from prunekit.widgets.running import OfCell

LEVELS, CLASSES, EACH = 127, 10, 10  # sizes of an 8-bit weight; digits shown of each class
PLACES, LEAST = 64, 0.004  # of the slider; the share of the weights that is left at its end
SIDE = 28
WIDTHS = (SIDE * SIDE, 300, 100, CLASSES)


class Playground(OfCell, anywidget.AnyWidget):
    """A LeNet-300-100 drawn: digits, its answers, and one slider for the smallest weights.

    Units can be taken out by a click, digits of one's own drawn. model: three linear layers with
    ReLUs between them, 784 inputs and 10 outputs. data: MNIST, or images of its form.

    It needs no kernel: weights are sent with 8 bits, and what is said of the validation images was
    worked out with these. With `stored` it goes into the notebook's file and lives on there.

    Raises ValueError for a model or data of another form.
    """

    _esm, _css = script(*VIEWS["Playground"][0]), style(*VIEWS["Playground"][1])
    shown = traitlets.Dict().tag(sync=True)
    weights = traitlets.Bytes().tag(sync=True)
    digits = traitlets.Bytes().tag(sync=True)

    @checked
    def __init__(self, model: nn.Module, data: Any, *, stored: bool = False):
        self.stored = stored
        super().__init__(**shown_of(model, data))

    def lasting(self) -> Mapping[str, Any] | None:
        told = {"shown": self.shown, "weights": self.weights, "digits": self.digits}
        return told if self.stored else None

    def fallback(self) -> str:
        places = self.shown["places"]
        at = next((p for p in places if p["accuracy"] < places[0]["accuracy"] - 0.05), places[-1])
        says = f"without {at['sparsity']:.1%} of its weights, the recall of each digit"
        names = [str(digit) for digit in range(CLASSES)]
        picture = bars(
            at["recall"], [True] * CLASSES, x="digit", y="recall", names=names, says=says
        )
        return output.drawn(f"<p>{html.escape(says)}</p>{picture}")

    def __repr__(self) -> str:
        return f"Playground({' → '.join(map(str, self.shown['widths']))})"


def shown_of(model: nn.Module, data: Any) -> dict[str, Any]:
    """What `Playground` shows: ``shown``, plain values; the 8-bit ``weights``; ``digits``, bytes.

    A weight is an integer q from -127 to 127 times the scale of its layer. Each place of the slider
    has a level for each layer: where |q| is below it, the weight is gone.
    """
    data = wrap(data)
    linear = _layers(model)
    x, y = data.splits["validation"]
    images = tuple(x.shape[1:]) == (1, SIDE, SIDE) and x.dtype == torch.uint8
    if not images or not data.counts_errors or not data.mean:
        raise ValueError(
            f"Playground: data must be images (n, 1, {SIDE}, {SIDE}) of bytes with {CLASSES} "
            f"classes, a mean and a deviation, got {tuple(x.shape)} of {x.dtype}"
        )
    _check_answers(model, linear, data)
    scales = [float(layer.weight.detach().abs().max()) / LEVELS or 1.0 for layer in linear]
    whole = [
        (layer.weight.detach().cpu() / scale).round().to(torch.int8)
        for layer, scale in zip(linear, scales, strict=True)
    ]
    rounded = _rounded(linear, whole, scales)
    places = [_place(rounded, linear, whole, levels, data) for levels in _levels(whole, scales)]
    chosen = torch.cat([(y == digit).nonzero().flatten()[:EACH] for digit in range(CLASSES)])
    shown = {
        "widths": [SIDE * SIDE, *(len(q) for q in whole)], "scales": scales, "places": places,
        "biases": [_biases(layer) for layer in linear],
        "mean": data.mean[0], "std": data.std[0], "labels": y[chosen].tolist(),
        "examples": data.size("validation"),
    }  # fmt: skip
    weights = torch.cat([q.flatten() for q in whole]).numpy().tobytes()
    return {"shown": shown, "weights": weights, "digits": x[chosen].numpy().tobytes()}


def _layers(model: nn.Module) -> list[nn.Linear]:
    check_values("Playground", model)
    found = [module for module in model.modules() if isinstance(module, nn.Linear)]
    widths = [(layer.in_features, layer.out_features) for layer in found]
    if widths != [*pairwise(WIDTHS)] or any(layer.bias is None for layer in found):
        raise ValueError(
            "Playground: model must be three linear layers with biases, "
            f"{' → '.join(map(str, WIDTHS))}, got {type(model).__name__} with layers of {widths}"
        )
    return found


@torch.no_grad()
def _check_answers(model: nn.Module, linear: list[nn.Linear], data: Any) -> None:
    """Raise ValueError unless the model is its layers with ReLUs between them."""
    x, _ = next(data.batches("validation", 100))
    with evaluating(model):
        answers = call(model, x)
    for layer in linear:
        x = layer(x.flatten(1) if layer is linear[0] else x.relu())
    if not isinstance(answers, Tensor) or not torch.allclose(answers, x, atol=1e-3):
        raise ValueError(
            f"Playground: model must have ReLUs between its layers and nothing else, but "
            f"{type(model).__name__} answers otherwise"
        )


def _biases(layer: nn.Linear) -> list[float]:
    return [round(b, 6) for b in layer.bias.detach().tolist()]


def _levels(whole: list[Tensor], scales: list[float]) -> list[list[int]]:
    """Of each place of the slider the level of each layer; from all weights to hardly any."""
    sizes = torch.cat([q.abs().flatten() * s for q, s in zip(whole, scales, strict=True)])
    sizes, found = sizes.sort().values, [[0] * len(whole)]
    for left in torch.logspace(0, math.log10(LEAST), 20 * PLACES).tolist():
        threshold = float(sizes[min(round((1 - left) * len(sizes)), len(sizes) - 1)])
        levels = [min(math.ceil(threshold / scale - 1e-6), LEVELS + 1) for scale in scales]
        if levels != found[-1]:
            found.append(levels)
    chosen = torch.linspace(0, len(found) - 1, min(PLACES, len(found))).round().long().tolist()
    return [found[place] for place in chosen]


@torch.no_grad()
def _rounded(linear: list[nn.Linear], whole: list[Tensor], scales: list[float]) -> nn.Sequential:
    """The network with its 8-bit weights; they are those of its modules 1, 3 and 5."""
    parts: list[nn.Module] = [nn.Flatten()]
    for layer, q, scale in zip(linear, whole, scales, strict=True):
        own = nn.Linear(layer.in_features, layer.out_features)
        own.weight.copy_(q.float() * scale)
        own.bias.copy_(torch.tensor(_biases(layer)))
        parts += [own, nn.ReLU()]
    return nn.Sequential(*parts[:-1]).eval()


def _place(
    rounded: nn.Sequential,
    linear: list[nn.Linear],
    whole: list[Tensor],
    levels: list[int],
    data: Any,
) -> dict[str, Any]:
    """What the validation images say of the weights that a place of the slider leaves."""
    kept = [q.short().abs() >= level for q, level in zip(whole, levels, strict=True)]
    mask = Mask({f"{1 + 2 * k}.weight": keep for k, keep in enumerate(kept)})
    classes = by_class(rounded, data, mask=mask)
    # Of all weights, those that an earlier pruning removed are none.
    left = mask.kept if any(levels) else sum(int(layer.weight.count_nonzero()) for layer in linear)
    right = sum(c.right for c in classes) / sum(c.examples for c in classes)
    return {
        "levels": levels, "sparsity": round(1 - left / mask.total, 5), "left": left,
        "accuracy": round(right, 5), "recall": [round(c.share, 4) for c in classes],
    }  # fmt: skip


PAGE_HEAD = (
    "<h1>A network that reads digits, pruned</h1><p>Drag the slider: the smallest weights go. "
    "Which digit is forgotten first? Point at a circle, or tap it, to see what it looks at; click "
    "it, or tap again, and it is gone. Draw a digit of your own.</p>"
)


def write_page(path: str | os.PathLike[str], model: str | os.PathLike[str] | None = None) -> Path:
    """Write the playground as one page for any browser: no kernel, no network.

    model: a file that `models.save` or a report wrote of a LeNet-300-100; None: the shipped one.
    """
    net = pretrained("lenet_300_100") if model is None else load(model, build("lenet_300_100"))
    shown = PAGE_HEAD + output.alive(
        output.lasting("Playground", shown_of(net, mnist_small())), "playground"
    )
    with replacing(path) as beside:
        beside.write_text(PAGE.format(title="A network, pruned", shown=shown), encoding="utf-8")
    return Path(path)
