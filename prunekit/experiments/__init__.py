"""A paper's protocol, run as a grid of cells (arm × seed) that can be stopped and resumed.

``experiments/<paper>.py`` holds its `EXPERIMENTS`, ``experiments/results/<name>/`` their cells.
"""

from prunekit.experiments.cells import Cell, is_done, results_folder, run_cell
from prunekit.experiments.grid import cells_of, chosen, load, names, outcomes, reproduce
from prunekit.experiments.protocol import Arm, Claim, Experiment
from prunekit.experiments.records import (
    at,
    by_network,
    difference,
    error,
    figure,
    filters_left,
    lost,
    macs_saved,
    mean_spread,
    path,
    recorded,
    rows,
    showcase,
    size,
    stopped,
    stripes_left,
    table,
    time_saved,
    tradeoff,
    unpruned,
    where,
)

__all__ = [
    "Arm", "Cell", "Claim", "Experiment", "at", "by_network", "cells_of", "chosen", "difference",
    "error", "figure", "filters_left", "is_done", "load", "lost", "macs_saved", "mean_spread",
    "names", "outcomes", "path", "recorded", "reproduce", "results_folder", "rows", "run_cell",
    "showcase", "size", "stopped", "stripes_left", "table", "time_saved", "tradeoff", "unpruned",
    "where",
]  # fmt: skip
