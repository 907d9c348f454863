"""`Wheel`: a roulette wheel over some weights, which is spun pick by pick."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import anywidget
import torch
import traitlets
from torch import Tensor

from prunekit import plot
from prunekit._arguments import checked, shaped
from prunekit.widgets import output
from prunekit.widgets._static import VIEWS, script, style
from prunekit.widgets.running import OfCell

DIGITS = 4  # significant ones: a slice may be very thin, but a weight that has one can be picked


class Wheel(OfCell, anywidget.AnyWidget):
    """A wheel that turns: what is picked falls out, and the others share its slice.

    sizes: |w| of each weight, (n,). wheels: by name the slices of a wheel over them, (n,), which
    need not add up to 1; a weight without a slice is never picked. seed: of the picks.

    It needs no kernel. With `stored` it goes into the notebook's file and lives on there.
    """

    _esm, _css = script(*VIEWS["Wheel"][0]), style(*VIEWS["Wheel"][1])
    shown = traitlets.Dict().tag(sync=True)

    @checked
    def __init__(
        self,
        sizes: Annotated[Tensor, shaped("n")],
        wheels: Mapping[str, Tensor],
        seed: int = 0,
        *,
        stored: bool = False,
    ):
        for name, slices in wheels.items():
            fits = slices.shape == sizes.shape and bool((slices >= 0).all())
            if not fits or not 0 < float(slices.sum()) < torch.inf:
                raise ValueError(
                    f"Wheel: {name!r} must have {len(sizes)} slices, finite and not below 0, got "
                    f"{tuple(slices.shape)}"
                )
        if not wheels:
            raise ValueError("Wheel: there must be at least one wheel, got none")
        self.stored = stored
        told = [{"slices": _rounded(s / s.sum()), "picks": picks(s, seed)} for s in wheels.values()]
        shown = {"sizes": _rounded(sizes), "names": [*wheels], "wheels": told}
        super().__init__(shown=shown)

    def lasting(self) -> Mapping[str, Any] | None:
        return {"shown": self.shown} if self.stored else None

    def fallback(self) -> str:
        first, says = self.shown["wheels"][0], f"the wheel {self.shown['names'][0]}"
        with plot.style():
            chances, sizes = (torch.tensor(v) for v in (first["slices"], self.shown["sizes"]))
            return output.picture(plot.wheel(chances, sizes, says, []), says)

    def __repr__(self) -> str:
        return f"Wheel({len(self.shown['sizes'])} weights, {', '.join(self.shown['names'])})"


def picks(slices: Tensor, seed: int) -> list[int]:
    """All weights that have a slice, in the order in which they are picked."""
    generator, many = torch.Generator().manual_seed(seed), int((slices > 0).sum())
    found: list[int] = torch.multinomial(slices, many, generator=generator).tolist()
    return found


def _rounded(values: Tensor) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values.tolist()]
