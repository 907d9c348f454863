"""The long tables of an experiment as a text in Markdown, made of its recorded cells.

What is said about them stands in ``experiments/report/<name>.md``, where a number is never typed
but named in braces: ``{size[evolution]:.1f}`` is the mean size of that arm over its networks. See
`Names` for what can stand there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prunekit._arguments import checked
from prunekit._files import replacing
from prunekit.experiments.cells import HERE
from prunekit.experiments.grid import load, names
from prunekit.experiments.protocol import Experiment
from prunekit.experiments.records import (
    LEVELS,
    Difference,
    Measure,
    Recorded,
    by_network,
    command,
    cut,
    difference,
    error,
    error_at,
    error_name,
    filters_left,
    has_levels,
    is_timed,
    lost,
    macs_saved,
    minutes,
    network_of,
    path,
    recorded,
    rows,
    size,
    stopped,
    stripes_left,
    time_saved,
    unpruned,
    within_networks,
)

TEMPLATES = HERE / "report"
NONE = "–"  # where there is no number
MINUS = " − "  # between two arms whose difference is meant


def first_cut(cell: Recorded) -> float:
    """How many test errors the first cut added, before any training."""
    cut = next(row for row in rows(cell) if row["phase"] == "prune")
    return cut["test"] - cell["before"]["test"]


def _stops(tolerance: float, split: str, cell: Recorded) -> float:
    return 100 * stopped(cell, tolerance, split)


# What can be asked of the cells of an arm, by the name that a text has for it.
MEASURES: dict[str, Measure] = {
    "size": size,
    "error": error,
    "validation": partial(error, split="validation"),
    "dense": unpruned,
    "lost": lost,
    "gained": lambda cell: -lost(cell),
    "minutes": minutes,
    "first_cut": first_cut,
    "cut": cut,
    "lost_at_cut": lambda cell: cut(cell) - unpruned(cell),
    "macs_saved": macs_saved,
    "stripes_left": stripes_left,
    "filters_left": filters_left,
    "stripes_at_last": partial(stripes_left, last=True),
    "filters_at_last": partial(filters_left, last=True),
    "validation_at_last": partial(error, split="validation", last=True),
    "test_at_last": partial(error, last=True),
    "time_saved": time_saved,
    "stops": partial(_stops, 0.0, "validation"),
    "stops_a_point_lower": partial(_stops, 0.01, "validation"),
    "stops_by_test": partial(_stops, 0.0, "test"),
    **{f"error_at_{100 * level:.0f}": partial(error_at, sparsity=level) for level in LEVELS},
}


def _compared(found: Difference) -> str:
    """A difference in the short form that `PAIRS` explains."""
    where = found.agreement.removesuffix(" networks")
    text = f"{found.mean:+.2f} ({found.spread:.2f}; {where}; p = {found.p:.2g})"
    return text.replace("-", "−")


PAIRS = """\
In pairs of networks: the mean difference; in brackets its standard deviation over the networks, on
how many networks it was higher, and the chance p of a difference as large or larger if there were
none, by a t-test of pairs. With three networks that test sees only large differences: p is below
0.05 where the mean is more than 2.5 times the standard deviation."""


class _Each(tuple[float, ...]):
    """One number a network; a format is that of each."""

    def __format__(self, form: str) -> str:
        return ", ".join(format(value, form) for value in self)


# What a text can want of the numbers of several networks.
TAKEN: dict[str, Callable[[Difference], Any]] = {
    "mean": lambda found: found.mean,
    "spread": lambda found: found.spread,
    "least": lambda found: min(found.values.values()),
    "most": lambda found: max(found.values.values()),
    "each": lambda found: _Each(found.values.values()),
    "p": lambda found: found.p,
    "compared": _compared,
}

RUNS = "runs"  # or the number of each run, by network and seed


class _Asked:
    """A measure of the arms of an experiment: ``asked["evolution"]``."""

    def __init__(self, cells: Sequence[Recorded], measure: Measure, take: str = "mean"):
        self.cells, self.measure, self.take = cells, measure, take

    def __getattr__(self, name: str) -> _Asked:
        if name not in (known := [*TAKEN, RUNS]):
            raise AttributeError(f"report: after a measure comes one of {known}, got {name!r}")
        return _Asked(self.cells, self.measure, name)

    def __getitem__(self, arm: str) -> Any:
        if self.take == RUNS:
            ordered = sorted(self._of(arm), key=lambda cell: (network_of(cell), cell["seed"]))
            return _Each(map(self.measure, ordered))
        one, _, other = arm.partition(MINUS)
        if other:
            found = difference(self._of(one), self._of(other), self.measure)
        else:
            found = Difference(by_network(self._of(one), self.measure))
        return TAKEN[self.take](found)

    def _of(self, arm: str) -> list[Recorded]:
        found = [cell for cell in self.cells if cell["arm"] == arm]
        if not found:
            raise ValueError(f"report: there are no recorded cells of an arm {arm!r}")
        return found


class _Figures:
    """All measures of an experiment, as attributes."""

    def __init__(self, cells: Sequence[Recorded]):
        self.cells = cells

    def __getattr__(self, name: str) -> _Asked:
        if name not in MEASURES:
            raise AttributeError(f"report: a measure is one of {[*MEASURES]}, got {name!r}")
        return _Asked(self.cells, MEASURES[name])


class Names(dict[str, Any]):
    """What may stand in braces in a text about recorded cells, for `str.format_map`.

    ``{size[evolution]:.1f}`` is a measure of an arm (`MEASURES`): the mean over its networks, each
    of which is the mean over its seeds. ``{error[evolution − random search]:+.2f}`` is the mean
    difference on the networks that both have. ``{size.least[evolution]:.0f}`` takes something else
    of them (`TAKEN`), ``{size.runs[evolution][0]:.0f}`` that of one run, by network and seed. With
    another experiment's name before it, ``{baselines.error[...]}`` is that one's. A table of
    `TABLES` is named alone: ``{rounds}``; ``{pairs}`` says what ``{error.compared[...]}`` gives.
    """

    def __init__(self, name: str = "", folder: Path | None = None):
        super().__init__()
        self.name, self.folder = name, folder

    def __missing__(self, key: str) -> Any:
        if key == "pairs":
            return PAIRS
        if key in names():
            return self.setdefault(key, _Figures(recorded(key)))
        if not self.name:
            raise ValueError(f"report: must begin with one of {names()}, got {key!r}")
        cells = recorded(self.name, self.folder)
        if key in TABLES:
            return TABLES[key](cells)
        return self.setdefault(key, getattr(_Figures(cells), key))


# ------------------------------------------------------------------------------------ tables


def _markdown(head: Sequence[str], lines: Iterable[Sequence[str]], words: int = 1) -> str:
    """A table of which the first columns hold words, the others numbers."""
    ends = ["---"] * words + ["---:"] * (len(head) - words)
    table = [head, ends, *lines]
    return "\n".join(
        "| " + " | ".join(part.replace("|", "\\|") for part in line) + " |" for line in table
    )


def _groups(cells: Sequence[Recorded]) -> dict[str, list[Recorded]]:
    return {
        arm: [cell for cell in cells if cell["arm"] == arm]
        for arm in dict.fromkeys(cell["arm"] for cell in cells)
    }


def _mean(cells: Sequence[Recorded], measure: Measure, form: str) -> str:
    """The mean over the networks, and in brackets the spreads, as `SPREADS` explains them."""
    found, seeds = Difference(by_network(cells, measure)), within_networks(cells, measure)
    if math.isnan(found.mean):
        return NONE
    spreads = [form.format(found.spread)] if len(found.values) > 1 else []
    spreads += [] if math.isnan(seeds) else ["seeds " + form.format(seeds)]
    if not any(float(form.format(0)) != float(text.split()[-1]) for text in spreads):
        spreads = []  # all are alike
    return form.format(found.mean) + (f" ({'; '.join(spreads)})" if spreads else "")


def _form(cells: Sequence[Recorded]) -> str:
    return "{:.2f}" if cells[0]["metric"] == "accuracy" else "{:.3f}"


def _what(cells: Sequence[Recorded]) -> str:
    return error_name(cells[0]) + (", %" if cells[0]["metric"] == "accuracy" else "")


def _minutes(cells: Sequence[Recorded]) -> str:
    mean = sum(map(minutes, cells)) / len(cells)
    return ("" if all(map(is_timed, cells)) else "≥ ") + f"{mean:.1f}"


def arms(cells: Sequence[Recorded]) -> str:
    """A row an arm: means over its networks."""
    form, what = _form(cells), _what(cells)
    validation = partial(error, split="validation")
    measures: dict[str, tuple[Measure, str]] = {
        "size, ×": (size, "{:.1f}"),
        f"validation {what}, dense": (partial(unpruned, split="validation"), form),
        f"validation {what}": (validation, form),
        f"test {what}, dense": (unpruned, form),
        f"test {what}": (error, form),
        "lost in the test" + (", points" if "%" in what else ""): (lost, form),
    }
    if any("latency" in cell for cell in cells):
        if any(row["phase"] == "finetune" for cell in cells for row in rows(cell)):
            measures[f"test {what}, before fine-tuning"] = (cut, form)
        measures |= {
            "multiply-adds saved, %": (macs_saved, "{:.1f}"),
            "time saved, %": (time_saved, "{:.1f}"),
        }
    if not math.isnan(stripes_left(cells[0])):
        measures |= {
            "stripes left, %": (stripes_left, "{:.1f}"),
            "filters left, %": (filters_left, "{:.1f}"),
        }
        if any(cell["knobs"].get("keep") == "best" for cell in cells):
            measures |= {
                "stripes left by the last epoch, %": (MEASURES["stripes_at_last"], "{:.1f}"),
                "filters left by the last epoch, %": (MEASURES["filters_at_last"], "{:.1f}"),
                f"validation {what}, last epoch": (MEASURES["validation_at_last"], form),
                f"test {what}, last epoch": (MEASURES["test_at_last"], form),
            }
    head = ["arm", "networks", *measures, "minutes a cell"]
    lines = []
    for arm, group in _groups(cells).items():
        networks = len(by_network(group, size))
        extra = "" if len(group) == networks else f", {len(group)} cells"
        figures = [_mean(group, *measure) for measure in measures.values()]
        lines.append([arm, f"{networks}{extra}", *figures, _minutes(group)])
    return _markdown(head, lines)


def every(cells: Sequence[Recorded]) -> str:
    """A row a cell."""
    form, what = _form(cells), _what(cells)
    head = [
        "arm", "network", "seed", "size, ×",
        f"validation {what}, dense", f"validation {what}", f"test {what}, dense", f"test {what}",
        "minutes",
    ]  # fmt: skip
    lines = []
    for cell in cells:
        network = "its own" if cell["network"] is None else str(cell["network"])
        figures = [
            _mean([cell], partial(measure, split=split), form)
            for split in ("validation", "test")
            for measure in (unpruned, error)
        ]
        line = [cell["arm"], network, str(cell["seed"]), f"{size(cell):.1f}", *figures]
        lines.append([*line, _minutes([cell])])
    return _markdown(head, lines)


def levels(cells: Sequence[Recorded]) -> str:
    """A row an arm that goes through levels: the test figure at each, the mean over networks."""
    groups = {arm: group for arm, group in _groups(cells).items() if all(map(has_levels, group))}
    inside = [cell for group in groups.values() for cell in group]
    head = ["arm", "networks"]
    for level in LEVELS:
        nearest = [min((s for s, _ in path(c)), key=lambda s: abs(s - level)) for c in inside]
        head.append(f"{100 * level:.0f} % ({100 * min(nearest):.1f} to {100 * max(nearest):.1f})")
    lines = [
        [arm, str(len(by_network(group, size)))]
        + [_mean(group, partial(error_at, sparsity=level), _form(cells)) for level in LEVELS]
        for arm, group in groups.items()
    ]
    return f"The test {_what(cells)}.\n\n" + _markdown(head, lines)


def stops(cells: Sequence[Recorded]) -> str:
    """Where the untrained arms would have stopped."""
    measures = ("stops", "stops_a_point_lower", "stops_by_test")
    groups = {a: g for a, g in _groups(cells).items() if "fine-tuned" not in a}
    lines = [
        [arm, *(_mean(group, MEASURES[name], "{:.0f}") for name in measures)]
        for arm, group in groups.items()
    ]
    head = ["arm", "no loss, %", "one point lost, %", "no loss by the test images, %"]
    return _markdown(head, lines)


def rounds(cells: Sequence[Recorded]) -> str:
    """A row a cell of a search: per cent of the weights kept after each cut."""
    lines = []
    for cell in cells:
        told = [row for row in rows(cell) if row["phase"] in ("prune", "rewind")]
        if not any(row["phase"] == "search" for row in rows(cell)):
            continue
        cuts = [
            f"{100 * row['kept'] / cell['prunable']:.1f}" + "✗" * (after["phase"] == "rewind")
            for row, after in zip(told, [*told[1:], told[-1]], strict=True)
            if row["phase"] == "prune"
        ]
        which = [cell["arm"], str(cell["network"]), str(cell["seed"])]
        lines.append([*which, " ".join(cuts), f"{first_cut(cell):+.0f}"])
    head = ["arm", "network", "seed", "kept after each cut, %", "test errors of the first cut"]
    return _markdown(head, lines)


TABLES: dict[str, Callable[[Sequence[Recorded]], str]] = {
    "arms": arms, "every": every, "levels": levels, "stops": stops, "rounds": rounds,
}  # fmt: skip


# -------------------------------------------------------------------------------------- the page


def _reproducing(experiment: Experiment, cells: Sequence[Recorded]) -> str:
    """The commands of the arms; what is not recorded yet is told apart."""
    lines = [command(group[0]).partition(" --seed")[0] for group in _groups(cells).values()]
    text = "\n".join([REPRODUCING, "", "```", *lines, "```"])
    found = {(cell["arm"], cell["network"], cell["seed"]) for cell in cells}
    wanted = [(arm, *pair) for arm in experiment.arms for pair in experiment.pairs(arm)]
    missing: dict[str, int] = {}
    for cell in wanted:
        if cell not in found:
            missing[cell[0]] = missing.get(cell[0], 0) + 1
    if missing:
        named = ", ".join(f"{arm} ({number})" for arm, number in missing.items())
        text += f"\n\nNot recorded yet, with the number of cells: {named}."
    return text


REPRODUCING = """\
Each runs the cells of an arm that are not recorded; with `--again` all of them, and says whether
they agree; with `--network 0 --seed 0` one alone."""
HOW_TO_READ = """\
*Size* counts all parameters, biases too: 10× is a tenth of them. *Dense* is the same network before
anything was removed. Test figures were only recorded; no run chose anything by them. Each
number is a mean over networks, that of a network a mean over its seeds. In brackets stands the
sample standard deviation over the networks; where a network has several seeds, after *seeds* that
over the seeds of one network. No brackets: there is one network, or the deviation rounds to 0.
Minutes are those of a core that often had other work: the clock's, times a cell's threads; ≥ says
that only the last start of it was timed."""


@checked
def page(name: str, folder: Path | None = None) -> str:
    """The text of an experiment: what its template says, every arm, every cell, every command.

    Raises ValueError if it has no recorded cells, or a template names what there is not.
    """
    experiment, cells = load(name), recorded(name, folder)
    if not cells:
        raise ValueError(
            f"report: {name} has no recorded cells. `python -m prunekit reproduce {name}` "
            "computes them."
        )
    template = TEMPLATES / f"{name}.md"
    said = template.read_text(encoding="utf-8").strip() if template.exists() else ""
    known = "".join(f"- {claim}\n" for claim in experiment.claims)
    parts = [
        f"<!-- written by `python -m prunekit report {name}`: change "
        f"prunekit/experiments/report/{name}.md instead -->",
        f"# {experiment.title}",
        f"`{name}`, {experiment.status}: {experiment.paper}. Recorded cells: {len(cells)}.",
        f"The figures that it is held against:\n\n{known}".strip() if known else "",
        said.format_map(Names(name, folder)),
        f"## Every arm\n\n{HOW_TO_READ}\n\n{arms(cells)}",
        f"## Every cell\n\n{every(cells)}",
        f"## Commands\n\n{_reproducing(experiment, cells)}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


@checked
def write(name: str, out: Path) -> Path:
    """Write the text of an experiment to ``out/<name>.md``."""
    text = page(name)
    with replacing(out / f"{name}.md") as beside:
        beside.write_text(text, encoding="utf-8")
    return out / f"{name}.md"


@checked
def with_cells() -> list[str]:
    """The experiments of which there are recorded cells."""
    return [name for name in names() if recorded(name)]
