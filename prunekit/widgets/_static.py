"""The views' scripts and style sheets, joined: what is read in a notebook cannot import a file.

Nothing else of the package is imported here: the wheel is built with these texts, too.
"""

from pathlib import Path

HERE = Path(__file__).parent / "static"
COLOURS = Path(__file__).parents[1] / "looks.json"
EXPORT = "export default { render };"

# Each view that can live without a kernel: its scripts and its style sheets, in their order.
VIEWS = {
    "FilterView": (("chart", "filters"), ("chart", "filters")),
    "GeneMap": (("chart", "genemap"), ("chart", "genemap")),
    "LineageView": (("chart", "lineage", "lineageview"), ("chart", "lineage")),
    "MaskView": (("chart", "mask"), ("chart", "mask")),
    "Piles": (("chart", "piles"), ("chart", "piles")),
    "Playground": (("chart", "digits", "playground"), ("chart", "playground")),
    "Replay": (("chart", "lineage", "replay"), ("chart", "replay")),
    "Results": (("chart", "results"), ("chart", "results")),
    "Skeletons": (("chart", "skeletons"), ("chart", "skeletons")),
    "Thresholds": (("chart", "thresholds"), ("chart", "thresholds")),
    "Wheel": (("chart", "wheel"), ("chart", "wheel")),
}


def script(*names: str) -> str:
    """One module, made of `static/<name>.js` in this order; before chart.js stand the colours."""
    text = _joined(names, "js")
    return f"const PALETTE = {COLOURS.read_text()};\n{text}" if "chart" in names else text


def style(*names: str) -> str:
    """The text of one style sheet, made of `static/<name>.css` in this order."""
    return _joined(names, "css")


def alone(view: str) -> tuple[str, str]:
    """The module of a view that needs no kernel, which exports `show`, and its style sheet."""
    scripts, styles = VIEWS[view]
    text = script(*scripts).replace(EXPORT, script("alone"))
    return text, style(*styles)


def _joined(names: tuple[str, ...], ending: str) -> str:
    return "\n".join((HERE / f"{name}.{ending}").read_text(encoding="utf-8") for name in names)
