"""Controls for notebooks: run a method, predict and reveal, look into masks, replay."""

from prunekit.widgets.guess import Guess
from prunekit.widgets.maskview import MaskView
from prunekit.widgets.panel import Panel
from prunekit.widgets.replay import Replay

__all__ = ["Guess", "MaskView", "Panel", "Replay"]
