"""Controls for notebooks: run a method, predict and reveal, look into masks, replay.

`views` holds what follows at once from moving a control.
"""

from prunekit.widgets.filters import FilterView
from prunekit.widgets.genemap import GeneMap
from prunekit.widgets.guess import Guess
from prunekit.widgets.instant import Instant
from prunekit.widgets.lineage import LineageView
from prunekit.widgets.maskview import MaskView
from prunekit.widgets.panel import Panel
from prunekit.widgets.piles import Piles
from prunekit.widgets.playground import Playground
from prunekit.widgets.replay import Replay
from prunekit.widgets.results import Results
from prunekit.widgets.skeletons import Skeletons
from prunekit.widgets.sketch import Sketch
from prunekit.widgets.thresholds import Thresholds
from prunekit.widgets.wheel import Wheel

__all__ = [
    "FilterView", "GeneMap", "Guess", "Instant", "LineageView", "MaskView", "Panel", "Piles",
    "Playground", "Replay", "Results", "Skeletons", "Sketch", "Thresholds",
    "Wheel",
]  # fmt: skip
