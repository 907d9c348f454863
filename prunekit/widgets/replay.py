"""`Replay`: a slider over a run, recorded or just made; and the page that needs no kernel."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import numpy
import traitlets

from prunekit import plot
from prunekit._arguments import checked
from prunekit._files import replacing
from prunekit._memory import give_back
from prunekit.report import Report
from prunekit.steps import Step
from prunekit.widgets import output
from prunekit.widgets._static import VIEWS, script, style
from prunekit.widgets.lineage import Source, family, finite, metric_of, opened
from prunekit.widgets.running import OfCell


def traits(steps: Sequence[Step], title: str = "", dense: float | None = None) -> dict[str, Any]:
    """A run as plain values and bytes: what `Replay` needs, and nothing else.

    ``run`` has a list with an entry a step for each thing shown; ``masks`` holds for each layer the
    histories that its weights have, and for each weight which one it is (see `_histories`). Raises
    ValueError if there is no step.
    """
    if not steps:
        raise ValueError("replay: there is no step to show, the run was stopped before the first")
    metric = metric_of(steps)
    layers, told = [], []
    for name, keep in steps[-1].mask.items():
        changes, masks = [], []
        before = numpy.ones(keep.numel(), bool)
        for number, step in enumerate(steps):
            now = step.mask.get(name)
            if now is not None and not numpy.array_equal(flat := now.numpy().reshape(-1), before):
                changes.append(number)
                masks.append(before := flat)
        rows = keep.shape[0]
        count, width, part = _histories(masks)
        told.append(part)
        layers.append(
            {"name": name, "rows": rows, "columns": keep.numel() // rows, "changes": changes,
             "histories": count, "width": width}
        )  # fmt: skip
    run = {
        "title": title,
        "metric": f"validation {metric}",
        "dense": finite(dense),
        "phase": [step.phase.replace("finetune", "fine-tune") for step in steps],
        "index": [step.index for step in steps],
        "of": [step.of for step in steps],
        "sparsity": [round(step.sparsity, 5) for step in steps],
        "value": [finite(step.metrics.get(metric)) for step in steps],
        "lineage": family(steps, vectors=False),
        "layers": layers,
    }
    give_back()
    return {"run": run, "masks": b"".join(told)}


def _histories(masks: Sequence[Any]) -> tuple[int, int, bytes]:
    """How many histories the weights of a layer have, the bits of a number, and both as bytes.

    Of masks `(n,)` one after the other few weights have a history of their own: a removed one stays
    so. First comes a row of bits a history, whether the weight is kept at each change; then for
    each weight the number of its row.
    """
    if not masks:
        return 0, 0, b""
    bits = numpy.packbits(numpy.stack(masks, axis=1), axis=1)  # (n, bytes)
    rows = numpy.ascontiguousarray(bits).view(f"V{bits.shape[1]}").reshape(-1)
    found, numbers = numpy.unique(rows, return_inverse=True)
    width = (len(found) - 1).bit_length()
    places = [(numbers >> place) & 1 for place in reversed(range(width))]
    told = numpy.packbits(numpy.stack(places, axis=1)).tobytes() if places else b""
    return len(found), width, found.tobytes() + told


class Replay(OfCell, anywidget.AnyWidget):
    """Play, pause and step through a run: figures, who was tried, and the mask of each layer.

    `source` is a `Report`, its steps, or the name of an experiment with a recorded run
    (`experiments.showcase`). `frame` is the step that is shown, from 0.

    With `stored`, the run goes into the notebook's file, and is replayed there without a kernel: by
    default if it is a recorded one. A run of your own differs from one processor to another.
    """

    _esm, _css = script(*VIEWS["Replay"][0]), style(*VIEWS["Replay"][1])
    run = traitlets.Dict().tag(sync=True)
    masks = traitlets.Bytes().tag(sync=True)
    frame = traitlets.Int(0).tag(sync=True)

    @checked
    def __init__(
        self,
        source: Report | Sequence[Step] | str,
        title: str = "",
        *,
        stored: bool | None = None,
    ):
        self.source, self.name = opened(source, title), source if isinstance(source, str) else ""
        self.stored = isinstance(source, str) if stored is None else stored
        super().__init__(**_of(self.source))

    def lasting(self) -> Mapping[str, Any] | None:
        shown = {"experiment": self.name, "run": self.run, "masks": self.masks, "frame": 0}
        return shown if self.stored else None

    def fallback(self) -> str:
        steps, title, dense = self.source.steps, self.source.title, self.source.dense
        return output.picture(plot.history(steps, title, dense), repr(self))

    def __repr__(self) -> str:
        return f"Replay({len(self.run['phase'])} steps)"


def _of(run: Source) -> dict[str, Any]:
    return traits(run.steps, run.title, run.dense)


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 2em auto; max-width: 900px; padding: 0 1em; font-family: sans-serif; }}
</style>
<body>
<main>
{shown}
</main>
</body>
</html>
"""


ABOUT = (
    "<h1>A network, pruned step by step</h1><p>This run was recorded: press Play, or move the "
    "slider. The curve is its accuracy after each step; the picture below, which weights of a "
    "layer are left.</p>"
)


def page(shown: Mapping[str, Any]) -> str:
    """One page that replays a run in any browser: no kernel, no network. `shown` is of `traits`."""
    replay = output.alive(output.lasting("Replay", {**shown, "frame": 0}), "replay")
    return PAGE.format(title=html.escape(shown["run"]["title"]), shown=ABOUT + replay)


def write_page(name: str, path: str | os.PathLike[str]) -> Path:
    """Write the page of an experiment's recorded run. Raises ValueError if there is none."""
    text = page(_of(opened(name)))
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")
    return Path(path)
