"""`Connection`: words in a widget whose kernel does not answer, so that none is dead in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anywidget
import ipywidgets
import traitlets

from prunekit.widgets._static import script, style
from prunekit.widgets.running import in_loop, loop_of_the_kernel

EXPORT = "export default { render };"
WRAPPED = "render: connected(render)"


class Connection(anywidget.AnyWidget):
    """Nothing to be seen while the kernel answers; else it says so, inside the box that carries it.

    It asks when it is shown and when something in the box is pressed. While something is `awaited`
    it asks on, until an answer fails to come.
    """

    _esm = script("chart", "connection") + EXPORT.replace("render", "render: connection")
    _css = style("connection", "panel")
    awaited = traitlets.Bool(False).tag(sync=True)

    def __init__(self) -> None:
        super().__init__()
        answer(self)

    def __repr__(self) -> str:
        return "Connection()"


def answer(
    widget: ipywidgets.Widget, otherwise: Callable[[Any], None] = lambda content: None
) -> None:
    """Let a widget answer what its script asks, in the loop: as soon as a click would be heard.

    What else its script sends goes to `otherwise`, in the loop too.
    """
    loop = loop_of_the_kernel()

    def heard(_: Any, content: Any, buffers: Any) -> None:
        if "ask" in content:
            in_loop(loop, widget.send, {"answer": True})
        else:
            in_loop(loop, otherwise, content)

    widget.on_msg(heard)


def connected(view: str) -> str:
    """The script of a view, chart.js in it, that shows below it when the kernel does not answer."""
    if EXPORT not in view:
        raise ValueError(f"connected: the script lacks the line {EXPORT!r}")
    return view.replace(EXPORT, script("connection") + EXPORT.replace("render", WRAPPED))
