"""The one table of what a name looks like: its colour, marker and line, in every figure and view.

`INK` and all `COLOURS` can be seen on JupyterLab's white page and on its dark one (#111111), so a
picture needs no background of its own. The colours differ for colour-blind eyes too; a marker or
another line tells those apart that share one. Nothing here draws or imports what does. The colours
themselves are in looks.json, which the views' scripts read too.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from prunekit._arguments import checked
from prunekit.knobs import shown

_TABLE: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
INK = str(_TABLE["ink"])  # text, ticks, frames: 4.6 : 1 on white, 4.1 : 1 on #111111
HUES = ("blue", "orange", "green", "red", "teal", "violet", "lavender")
COLOURS = BLUE, ORANGE, GREEN, RED, TEAL, VIOLET, LAVENDER = [str(_TABLE[hue]) for hue in HUES]
MARKERS, DASHES = "osD^vPX*", ("-", "--", ":", "-.")

POSITIVE, NEGATIVE = str(_TABLE["positive"]), str(_TABLE["negative"])  # weights, everywhere
FAINTEST = float(_TABLE["faintest"])  # opacity of a weight of 0; the largest one has 1


class Look(NamedTuple):
    """How a name is drawn; marker and dash are matplotlib's."""

    colour: str
    marker: str
    dash: str = "-"


NAMES = {
    "not pruned": Look(INK, "", "--"),
    "dense": Look(INK, "", "--"),
    "uniform": Look(INK, "", "--"),
    "paper": Look(INK, "*", ":"),
    "magnitude": Look(BLUE, "o"),
    "random": Look(RED, "X"),
    "accuracy": Look(BLUE, "o"),
    "this run": Look(BLUE, "o"),
    "train": Look(TEAL, "s"),
    "prune": Look(ORANGE, "v"),
    "fine-tune": Look(BLUE, "o"),
    "rewind": Look(RED, "<"),
    "search": Look(VIOLET, "D"),
    "made by": Look(BLUE, "s"),
    "carried by": Look(TEAL, "o"),
    "read by": Look(ORANGE, ">"),
    "one-shot": Look(ORANGE, "s"),
    "from scratch": Look(ORANGE, "X"),
    "iterative": Look(GREEN, "D"),
    "gradual": Look(TEAL, "P"),
    "not fine-tuned": Look(LAVENDER, "v"),
    "gradient": Look(TEAL, "v"),
    "|gradient|": Look(TEAL, "v"),
    "|w·gradient|": Look(LAVENDER, "^"),
    "roulette": Look(GREEN, "*"),
    "inv": Look(GREEN, "*"),
    "lin": Look(ORANGE, "<"),
    "exp": Look(VIOLET, ">"),
    "rank": Look(TEAL, "h"),
    "sum": Look(LAVENDER, "p"),
    "B = 1": Look(ORANGE, "v"),
    "B = 10": Look(VIOLET, "^"),
    "B = 40": Look(GREEN, "s"),
    "one child": Look(LAVENDER, "v"),
    "five children": Look(GREEN, "^"),
    "differential_evolution": Look(VIOLET, "D"),
    "evolution": Look(VIOLET, "D"),
    "one sensitivity": Look(ORANGE, "s"),
    "random search": Look(RED, "v"),
}
ALIASES = {"the paper": "paper", "unpruned": "not pruned", "differential evolution": "evolution"}
# What a name says after its base: the colour is the base's, and the marker if none is given.
VARIANTS = {
    "B = 1": ("v", ":"),
    "one child": ("v", ":"),
    "B = 10": ("^", "-."),
    "best of 5": ("^", "-."),
    "B = 40": ("", "-"),
    "on |w|, B = 1": ("v", ":"),
    "on |w|, B = 10": ("^", "-"),
    "fine-tuned": ("", "-"),
    "without fine-tuning": ("v", ":"),
}
# Colours and markers take turns: 56 looks before the first comes again.
CYCLE = [Look(COLOURS[i % 7], MARKERS[i % 8], DASHES[i // 7 % 4]) for i in range(56)]


@checked
def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name, the same whatever their order.

    A name of the table, such as "magnitude", has the same one everywhere; "inv-4, B = 10" has the
    colour of "inv". Any other gets one of the rest: by its own letters, so that it is the same in
    most figures, and of colours that no name beside it has, as long as there are any.
    """
    names = dict.fromkeys(names)
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise TypeError(f"looks: names must be words, got {shown(wrong[0])}")
    found = {name: look for name in names if (look := _known(name)) is not None}
    for name in sorted(names):
        if name not in found:
            found[name] = _free(name, _rest(_base(name)), [*found.values()])
    return {name: found[name] for name in names}


def _base(name: str) -> str:
    """ "inv" of "inv-4, B = 10", "paper" of "the paper at 56×"."""
    base = re.split(r",| at | without |-\d| \d", name)[0].strip()
    return ALIASES.get(base, base)


def _rest(base: str) -> list[Look]:
    """The looks that a name without one of its own may get: those of its base's colour, or any."""
    if base not in NAMES:
        return CYCLE
    pairs = [(MARKERS[i % 8], DASHES[(i + i // 8) % 4]) for i in range(32)]
    return [Look(NAMES[base].colour, *pair) for pair in pairs]


def _known(name: str) -> Look | None:
    """The look that the tables give a name."""
    if name in NAMES or name in ALIASES:
        return NAMES[ALIASES.get(name, name)]
    base = _base(name)
    rest = re.sub(r"^-\d+", "", name.removeprefix(base)).strip(", ")
    if base not in NAMES or rest not in ("", *VARIANTS):
        return None
    marker, dash = VARIANTS.get(rest, ("", NAMES[base].dash))
    return Look(NAMES[base].colour, marker or NAMES[base].marker, dash)


def _free(name: str, among: list[Look], taken: list[Look]) -> Look:
    """One that is not taken, of a colour that few have; where to begin, the name's letters say."""
    start = zlib.crc32(name.encode()) % 7
    turned = [look for i in range(0, len(among), 7) for look in _turn(among[i : i + 7], start)]
    colours = [look.colour for look in taken]
    return min(turned, key=lambda look: (look in taken, colours.count(look.colour)))


def _turn(looks: list[Look], start: int) -> list[Look]:
    return [looks[(start + i) % len(looks)] for i in range(len(looks))]
