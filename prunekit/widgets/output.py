"""What a widget leaves in a notebook's file, to be shown without a kernel."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

MIME = "application/vnd.prunekit.view+json"
FORMAT = 1  # of what is written; a page that knows another one says so
HOW = "Run this cell (Shift+Enter) to make it live."


def lasting(view: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """What a page needs to show a view without a kernel, as plain values; bytes as base64."""
    return {"format": FORMAT, "view": view, "data": {n: _plain(v) for n, v in data.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return value


def still(picture: str) -> str:
    """A picture, as HTML, and the line that says how it becomes a widget."""
    return f'<div class="pk-still">{picture}<p><em>{HOW}</em></p></div>'
