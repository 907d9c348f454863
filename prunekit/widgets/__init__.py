"""Controls for notebooks: run a method, predict and reveal, look into masks, replay.

`views` holds what follows at once from moving a control.
"""

from prunekit.widgets.guess import Guess
from prunekit.widgets.instant import Instant
from prunekit.widgets.maskview import MaskView
from prunekit.widgets.panel import Panel
from prunekit.widgets.replay import Replay

__all__ = ["Guess", "Instant", "MaskView", "Panel", "Replay"]
