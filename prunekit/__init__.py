"""Learn, run and compare neural-network pruning.

>>> from prunekit import magnitude, mnist_small, pretrained, prune
>>> report = prune(magnitude, pretrained("lenet_300_100"), mnist_small(), sparsity=0.9, bar=False)
>>> report.sparsity
0.9
"""

__version__ = "0.1.0"

from prunekit.baselines.gradual import gradual
from prunekit.baselines.magnitude import magnitude
from prunekit.baselines.random import random as random
from prunekit.data import Data, accuracy
from prunekit.datasets import cifar10, cifar100, mnist, mnist_small
from prunekit.journal import Journal
from prunekit.judge import evaluate
from prunekit.mask import Mask
from prunekit.method import method
from prunekit.models import build, pretrained
from prunekit.prune import compare, prune, sweep
from prunekit.report import Report
from prunekit.steps import Run, Step
from prunekit.train import fit

# Without `random`, which would hide Python's own from who imports everything.
__all__ = [
    "Data", "Journal", "Mask", "Report", "Run", "Step", "accuracy", "build", "cifar10", "cifar100",
    "compare", "evaluate", "fit", "gradual", "magnitude", "method", "mnist", "mnist_small",
    "pretrained", "prune", "sweep",
]  # fmt: skip
