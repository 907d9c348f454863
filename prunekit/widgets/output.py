"""What a widget leaves in a notebook's file, to be shown without a kernel."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Mapping
from typing import Any

from matplotlib import pyplot
from matplotlib.figure import Figure

from prunekit.looks import INK
from prunekit.widgets._static import alone

MIME = "application/vnd.prunekit.view+json"
FORMAT = 1  # of what is written; a page that knows another one says so
HOW = "Run the notebook from the top to make it live."
ELSEWHERE = "In JupyterLab it is live."  # of a page, where nothing can be run


def lasting(view: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """What a page needs to show a view without a kernel, as plain values; bytes as base64."""
    return {"format": FORMAT, "view": view, "data": {n: _plain(v) for n, v in data.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return value


def alive(shown: Mapping[str, Any], place: str) -> str:
    """HTML that shows what `lasting` gave, where scripts run; `place` is its id in the page."""
    js, css = alone(shown["view"])
    data = json.dumps(shown["data"]).replace("<", "\\u003c")  # no text ends the script
    return (
        f'<style>{css}</style><div id="{place}"></div><script type="module">\n{js}\n'
        f'show(document.getElementById("{place}"), {data});\n</script>'
    )


def still(picture: str) -> str:
    """A picture, as HTML, and the line that says how it becomes a widget."""
    return f'<div class="pk-still">{picture}<p><em>{HOW}</em></p></div>'


def picture(figure: Figure, says: str) -> str:
    """A figure as HTML, after which it is closed; `says` is the text for who cannot see it."""
    png = io.BytesIO()
    figure.savefig(png, format="png")
    pyplot.close(figure)
    return image("png", png.getvalue(), says)


def drawn(shown: str) -> str:
    """Some HTML with its SVGs as pictures: what a page does not trust is shown without them.

    They cannot take the colour of the page then, so that theirs is one that can be read on any.
    """

    def shown_as_image(found: re.Match[str]) -> str:
        says = re.search('aria-label="([^"]*)"', found[0])
        start = '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif"'
        named = found[0].replace("<svg", start, 1)
        svg = named.replace("currentColor", INK)
        return image("svg+xml", svg.encode(), html.unescape(says[1]) if says else "")

    return re.sub("<svg.*?</svg>", shown_as_image, shown, flags=re.DOTALL)


def image(kind: str, content: bytes, says: str) -> str:
    """A picture of this kind ("png", "svg+xml") as HTML; `says` is for who cannot see it."""
    data = base64.b64encode(content).decode()
    return f'<img alt="{html.escape(says)}" src="data:image/{kind};base64,{data}">'
