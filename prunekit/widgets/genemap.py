"""`GeneMap`: differential evolution of two genes on a map, each trial arrow by arrow."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anywidget
import torch
import traitlets
from torch import Tensor

from prunekit import plot
from prunekit._arguments import as_array, checked
from prunekit.evolve import STRATEGIES, Generation, evolve, spread
from prunekit.knobs import knobs, shown
from prunekit.methods.differential_evolution import FITNESS, differential_evolution
from prunekit.widgets import output
from prunekit.widgets._static import VIEWS, script, style
from prunekit.widgets.connection import answer, connected
from prunekit.widgets.running import Latest, OfCell, in_loop, loop_of_the_kernel

KNOBS = knobs(differential_evolution)
MOVED = ("scale", "crossover", "strategy", "seed")  # what the view can change


@dataclass(frozen=True)
class Grid:
    """What is known at each place of a grid: `xs` `(w,)`, `ys` `(h,)`, both rising; of `(h, w)`,
    the percentage `kept` and by how much the limit is broken, `over`, 0 for not at all."""

    xs: Tensor
    ys: Tensor
    kept: Tensor
    over: Tensor

    def judge(self, vectors: Tensor, rivals: Sequence[Any] | None = None) -> list[Any]:
        """The method's own scores of vectors `(n, 2)`, each read off the nearest place."""
        rows, columns = _nearest(self.ys, vectors[:, 1]), _nearest(self.xs, vectors[:, 0])
        found = zip(self.over[rows, columns].tolist(), self.kept[rows, columns].tolist(),
                    strict=True)  # fmt: skip
        rate = FITNESS["constrained"]
        return [rate(cost=over, kept=kept, allowed=0.0) for over, kept in found]

    def evolve(
        self,
        *,
        population: int,
        generations: int,
        strategy: str,
        scale: float,
        crossover: float,
        seed: int,
    ) -> list[Generation]:
        """The first generation, drawn on the grid, and those that follow."""
        low, high = (torch.stack([self.xs[end], self.ys[end]]) for end in (0, -1))
        generator = torch.Generator().manual_seed(seed)
        start = spread(population, low, high, generator)
        return [
            *evolve(
                self.judge, start, low, high, generations=generations, strategy=strategy,
                scale=scale, crossover=crossover, generator=generator,
            )
        ]  # fmt: skip


def _nearest(places: Tensor, values: Tensor) -> Tensor:
    return torch.bucketize(values.contiguous(), (places[1:] + places[:-1]) / 2)


def _grid(xs: Any, ys: Any, kept: Any, allowed: Any, over: Any) -> Grid:
    """What was given as a `Grid`. Raises ValueError if the parts do not fit together."""
    x, y = (_numbers(name, values) for name, values in (("xs", xs), ("ys", ys)))
    for name, places in (("xs", x), ("ys", y)):
        if places.ndim != 1 or len(places) < 2 or bool((places[1:] <= places[:-1]).any()):
            raise ValueError(
                f"GeneMap: {name} must be at least 2 rising numbers, got {places.tolist()}"
            )
    shape = (len(y), len(x))
    try:
        allowed = torch.from_numpy(as_array(allowed))
    except Exception as error:
        raise TypeError(f"GeneMap: allowed must be True or False, got {shown(allowed)}") from error
    parts = {"kept": _numbers("kept", kept), "allowed": allowed}
    if over is not None:
        parts["over"] = _numbers("over", over)
    for name, part in parts.items():
        if part.shape != shape:
            raise ValueError(
                f"GeneMap: {name} must have the shape {shape}, (ys, xs), got {tuple(part.shape)}"
            )
    if allowed.dtype != torch.bool:
        raise ValueError(f"GeneMap: allowed must be True or False, got {allowed.dtype}")
    if bool(((parts["kept"] < 0) | (parts["kept"] > 100)).any()):
        least, most = (float(end) for end in parts["kept"].aminmax())
        raise ValueError(f"GeneMap: kept must be in [0, 100], per cent, got {least:g} to {most:g}")
    broken = torch.where(allowed, 0.0, parts.get("over", torch.ones(shape).double()))
    if bool((broken[~allowed] <= 0).any()):
        least = float(broken[~allowed].min())
        raise ValueError(f"GeneMap: over must be above 0 where not allowed, got {least:g}")
    return Grid(x, y, parts["kept"], broken)


def _numbers(name: str, values: Any) -> Tensor:
    try:
        numbers = torch.from_numpy(as_array(values).astype(float))
    except Exception as error:  # whatever those of others raise
        raise TypeError(f"GeneMap: {name} must be numbers, got {shown(values)}") from error
    if not bool(numbers.isfinite().all()):
        wrong = numbers[~numbers.isfinite()][0]
        raise ValueError(f"GeneMap: {name} must be finite numbers, got {float(wrong):g}")
    return numbers


def _short(values: Tensor) -> list[Any]:
    """As plain numbers, which are sent with four decimals."""
    return (values * 1e4).round().div(1e4).tolist()


def _told(grid: Grid, found: Sequence[Generation]) -> list[dict[str, Any]]:
    """Each generation but the last as plain values, with the trials that lead to the next one.

    A dot is [x, y, kept, over]; `others` are the places of a, b and c.
    """

    def dots(vectors: Tensor, scores: Sequence[Any]) -> list[Any]:
        over, kept = torch.tensor(scores, dtype=torch.float64).T
        return _short(torch.column_stack([vectors, kept, over]))

    told = []
    for now, then in itertools.pairwise(found):
        made = then.proposal
        assert made is not None
        told.append(
            {
                "dots": dots(now.vectors, now.scores),
                "best": now.best,
                "new": [*now.replaced] if now.index else [],
                "others": made.others.tolist(),
                "mutants": _short(torch.where(made.mutants.isfinite(), made.mutants, made.mended)),
                "mended": _short(made.mended),
                "outside": (made.mended != made.mutants).tolist(),
                "crossed": made.crossed.tolist(),
                "trials": dots(made.trials, grid.judge(made.trials)),
                "won": [*then.replaced],
            }
        )
    return told


class GeneMap(OfCell, anywidget.AnyWidget):
    """A population of pairs of genes on a map: move F, CR and the generation, look at each trial.

    `kept`, the percentage of the weights, and `allowed`, bool, are `(len(ys), len(xs))`, as for
    `plot.landscape`; `over` says by how many points of accuracy each place that is not allowed
    breaks the limit. Without it, all that break the limit break it equally. A dot is worth what the
    nearest place of the grid is: the colour that it lies on. Trials and the choice between a trial
    and its dot are the method's own; the first dots are `spread` with `seed`.

    `scale` (F), `crossover` (CR), `strategy` and `seed` may be set later, too; `generation` is the
    one that is shown, from 0. Raises ValueError for parts that do not fit together.

    With `stored`, the map and the generations that it starts with go into the notebook's file and
    live on there without a kernel: say so only of what comes out alike on every processor.
    """

    _esm = connected(script(*VIEWS["GeneMap"][0]))
    _css = style(*VIEWS["GeneMap"][1], "connection")
    map = traitlets.Dict().tag(sync=True)
    run = traitlets.Dict().tag(sync=True)  # what was moved to where, and the generations from there
    scale = traitlets.Float(0.5).tag(sync=True)
    crossover = traitlets.Float(0.9).tag(sync=True)
    strategy = traitlets.Unicode("rand1bin").tag(sync=True)
    seed = traitlets.Int(0).tag(sync=True)
    generation = traitlets.Int(0).tag(sync=True)

    @checked
    def __init__(
        self,
        xs: Any,
        ys: Any,
        kept: Any,
        allowed: Any,
        *,
        over: Any = None,
        x: str,
        y: str,
        label: str = "kept weights (%)",
        title: str = "",
        population: int = 12,
        generations: int = 20,
        strategy: str = "rand1bin",
        scale: float = 0.5,
        crossover: float = 0.9,
        seed: int = 0,
        stored: bool = False,
    ):
        self.stored = stored
        self.grid = grid = _grid(xs, ys, kept, allowed, over)
        self.population = KNOBS["population"].check("GeneMap", population)
        self.generations = KNOBS["generations"].check("GeneMap", generations)
        given = {"scale": scale, "crossover": crossover, "strategy": strategy}
        checked = {name: KNOBS[name].check("GeneMap", value) for name, value in given.items()}
        moved = {**checked, "seed": seed}
        run = self._evolved(moved)
        shown = {
            "xs": grid.xs.tolist(), "ys": grid.ys.tolist(), "kept": _short(grid.kept),
            "over": _short(grid.over), "measured": over is not None, "labels": [x, y],
            "label": label, "title": title, "strategies": [*STRATEGIES],
        }  # fmt: skip
        super().__init__(map=shown, run=run, **moved)
        self.latest, loop = Latest(self._evolved, self._show), loop_of_the_kernel()
        self.observe(lambda _: in_loop(loop, self._ask), [*MOVED])
        answer(self)

    @traitlets.validate("scale", "crossover", "strategy")
    def _checked(self, proposal: Any) -> Any:
        name = proposal["trait"].name
        return KNOBS[name].check("GeneMap", proposal["value"])

    def _ask(self) -> None:
        self.latest({name: getattr(self, name) for name in MOVED})

    def _evolved(self, moved: dict[str, Any]) -> dict[str, Any]:
        found = self.grid.evolve(
            population=self.population, generations=self.generations + 1, **moved
        )
        return {**moved, "generations": _told(self.grid, found)}

    def _show(self, result: Any) -> None:
        if isinstance(result, BaseException):
            raise result
        self.run = result

    def lasting(self) -> Mapping[str, Any] | None:
        shown = ("map", "run", *MOVED, "generation")
        return {name: getattr(self, name) for name in shown} if self.stored else None

    def fallback(self) -> str:
        grid, dots = self.grid, self.run["generations"][0]["dots"]
        x, y = self.map["labels"]
        figure = plot.landscape(
            grid.xs, grid.ys, grid.kept, grid.over == 0, x=x, y=y, label=self.map["label"],
            title=self.map["title"], dots=[(across, up) for across, up, *_ in dots],
        )  # fmt: skip
        return output.picture(figure, repr(self))

    def __repr__(self) -> str:
        places = f"{len(self.grid.xs)} × {len(self.grid.ys)} places"
        return f"GeneMap({places}, {self.population} dots, {self.generations} generations)"
