"""A paper's protocol, run as a grid of cells (arm × seed) that can be stopped and resumed.

``experiments/<paper>.py`` holds its `EXPERIMENTS`, ``experiments/results/<name>/`` their cells.
"""

from prunekit.experiments.cells import Cell, is_done, results_folder, run_cell
from prunekit.experiments.grid import cells_of, load, names, reproduce
from prunekit.experiments.protocol import Arm, Claim, Experiment
from prunekit.experiments.records import (
    at,
    figure,
    mean_spread,
    path,
    recorded,
    rows,
    showcase,
    stopped,
    table,
    tradeoff,
    where,
)

__all__ = [
    "Arm", "Cell", "Claim", "Experiment", "at", "cells_of", "figure", "is_done", "load",
    "mean_spread", "names", "path", "recorded", "reproduce", "results_folder", "rows", "run_cell",
    "showcase", "stopped", "table", "tradeoff", "where",
]  # fmt: skip
