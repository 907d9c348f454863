"""The views' scripts and style sheets, joined: what is read in a notebook cannot import a file."""

from pathlib import Path

HERE = Path(__file__).parent / "static"
COLOURS = Path(__file__).parents[1] / "looks.json"


def script(*names: str) -> str:
    """One module, made of `static/<name>.js` in this order; before chart.js stand the colours."""
    text = _joined(names, "js")
    return f"const PALETTE = {COLOURS.read_text()};\n{text}" if "chart" in names else text


def style(*names: str) -> str:
    """The text of one style sheet, made of `static/<name>.css` in this order."""
    return _joined(names, "css")


def _joined(names: tuple[str, ...], ending: str) -> str:
    return "\n".join((HERE / f"{name}.{ending}").read_text(encoding="utf-8") for name in names)
