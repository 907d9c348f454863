"""Instant views, a small function for each method that has one, called like the method."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import ipywidgets
from torch import nn

from prunekit.prune import Method, whole


def of(method: Method, model: nn.Module, data: Any, **settings: Any) -> ipywidgets.Widget:
    """What a method does with `model` at once, as its controls move.

    Raises ValueError for a method without such a view.
    """
    name = whole(method).__name__
    there = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    if name not in there:
        raise ValueError(f"views: {name} has no instant view; these have one: {', '.join(there)}")
    module = importlib.import_module(f"{__name__}.{name}")
    shown: ipywidgets.Widget = getattr(module, name)(model, data, **settings)
    return shown
