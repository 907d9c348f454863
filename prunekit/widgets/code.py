"""`Code`: some lines of Python with a button that copies them."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import anywidget
import traitlets
from IPython import get_ipython

from prunekit.widgets._static import script, style


class Code(anywidget.AnyWidget):
    """What a reader can paste into a cell."""

    _esm = script("chart", "code")
    _css = style("chart", "code")
    text = traitlets.Unicode().tag(sync=True)

    def __repr__(self) -> str:
        return "Code()"


def names_of_the_notebook() -> Mapping[str, Any]:
    """What a cell can use; nothing outside a notebook."""
    shell = get_ipython()
    return getattr(shell, "user_ns", {})


def name_of(value: Any, names: Mapping[str, Any], otherwise: str) -> str:
    """How a cell writes a value that it has: its name, or its place in a list or a dict."""
    found = {name: held for name, held in names.items() if not name.startswith("_")}
    for name, held in found.items():
        if held is value:
            return name
    for name, held in found.items():
        if isinstance(held, (list, tuple, dict)):
            pairs = held.items() if isinstance(held, dict) else enumerate(held)
            for key, part in pairs:
                if part is value and _written(key):
                    return f"{name}[{key!r}]"
    return otherwise


def _written(key: Any) -> bool:
    try:
        return bool(ast.literal_eval(repr(key)) == key)
    except (ValueError, SyntaxError):
        return False
