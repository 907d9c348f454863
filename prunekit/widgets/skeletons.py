"""`Skeletons`: stripes as bars, under one line for all filters, and under a line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anywidget
import torch
import traitlets
from torch import Tensor

from prunekit import experiments, models, stripes
from prunekit._arguments import checked
from prunekit.experiments.records import Recorded
from prunekit.knobs import NonNegative
from prunekit.widgets import output
from prunekit.widgets._static import VIEWS, script, style
from prunekit.widgets.instant import bars
from prunekit.widgets.running import OfCell

SHOWN, DIGITS = 8, 4  # filters that are drawn; all count


class Skeletons(OfCell, anywidget.AnyWidget):
    """Bars that are the stripes of eight filters, twice: under one line, and under a line each.

    layer: its name. runs: by what is said of a training, the skeletons (n, h, w) that it started
    from, and those after each epoch; of one layer, not cut. delta: the threshold that is shown
    first. The run, the epoch and the threshold are chosen; a line each is that of "dtc".

    It needs no kernel. With `stored` it goes into the notebook's file and lives on there: say so
    only of what is alike on every processor.
    """

    _esm, _css = script(*VIEWS["Skeletons"][0]), style(*VIEWS["Skeletons"][1])
    shown = traitlets.Dict().tag(sync=True)

    @checked
    def __init__(
        self,
        layer: str,
        runs: Mapping[str, Sequence[Tensor]],
        delta: NonNegative = 0.05,
        *,
        stored: bool = False,
    ):
        shapes = {tuple(s.shape) for steps in runs.values() for s in steps}
        shape = min(shapes, default=())
        if len(shapes) != 1 or len(shape) != 3 or 0 in shape or not all(runs.values()):
            raise ValueError(
                "Skeletons: runs must hold skeletons (n, h, w) of one layer, at least one a run, "
                f"got shapes {sorted(shapes)}"
            )
        self.stored, sizes = stored, {name: [_sizes(s) for s in runs[name]] for name in runs}
        # From the weakest at the end of the first run to the strongest.
        order = torch.tensor(next(iter(sizes.values()))[-1]).sum(1).argsort()
        places = torch.linspace(0, len(order) - 1, min(len(order), SHOWN)).round().long()
        shown: dict[str, Any] = {"layer": layer.removesuffix(".weight"), "shape": [*shape[1:]]}
        shown |= {"names": [*runs], "runs": [*sizes.values()], "filters": order[places].tolist()}
        super().__init__(shown={**shown, "delta": delta})

    @classmethod
    @checked
    def recorded(
        cls, cells: Sequence[Recorded], layer: str, delta: NonNegative = 0.05
    ) -> Skeletons:
        """Those of a layer in recorded cells of `cdp_dtc`, by the strength of their penalty.

        Raises ValueError for a cell whose steps do not tell them.
        """
        runs = dict[str, list[Tensor]]()
        for cell in cells:
            told = [row.get("info", {}).get("skeletons", {}) for row in experiments.rows(cell)]
            found = [skeletons[layer] for skeletons in told if layer in skeletons]
            if not found:
                raise ValueError(
                    f"Skeletons: the cell {cell['arm']!r}, seed {cell['seed']}, tells no skeletons "
                    f"of {layer!r}"
                )
            shape = models.build(cell["model"], 0).get_parameter(layer).shape
            runs |= run_of(found, shape, cell["knobs"]["strength"])
        return cls(layer, runs, delta, stored=True)

    def lasting(self) -> Mapping[str, Any] | None:
        return {"shown": self.shown} if self.stored else None

    def fallback(self) -> str:
        sizes, delta = torch.tensor(self.shown["runs"][0][-1]), self.shown["delta"]
        keep = sizes > stripes.thresholds(sizes, delta, "dtc")[:, None]
        says = (
            f"{self.shown['layer']}: a line for each filter at {delta:g} leaves "
            f"{int(keep.sum())} of {keep.numel()} stripes and {int(keep.any(1).sum())} of "
            f"{len(keep)} filters"
        )
        heights, marked, gap = list[float](), list[bool](), [0.0] * 2
        for i in self.shown["filters"]:
            heights += [*sizes[i].tolist(), *gap]
            marked += [*keep[i].tolist(), *(False for _ in gap)]
        names = ("weakest filter", "strongest filter")
        picture = bars(heights, marked, x="filters", y="stripes", names=names, says=says)
        return output.drawn(f"<p>{says}</p>{picture}")

    def __repr__(self) -> str:
        steps = self.shown["runs"][0]
        filters, epochs = len(steps[0]), len(steps) - 1
        return f"Skeletons({filters} filters of {self.shown['layer']}, {epochs} epochs)"


def run_of(
    told: Sequence[Sequence[Sequence[float]]], shape: torch.Size, strength: float
) -> dict[str, list[Tensor]]:
    """By a strength, the skeletons (n, h, w) at the start, ones, and those that each epoch told.

    shape: of the weights, (n, c, h, w).
    """
    found = [torch.tensor(skeletons).reshape(shape[0], *shape[2:]) for skeletons in told]
    return {f"λ = {strength:.2g}": [torch.ones_like(found[0]), *found]}


def _sizes(skeletons: Tensor) -> list[list[float]]:
    rows = skeletons.detach().cpu().flatten(1).abs().tolist()
    return [[round(value, DIGITS) for value in row] for row in rows]
