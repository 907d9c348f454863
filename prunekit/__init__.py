"""Learn, run and compare neural-network pruning.

>>> from prunekit import magnitude, mnist_small, pretrained, prune
>>> report = prune(magnitude, pretrained("lenet_300_100"), mnist_small(), sparsity=0.9, bar=False)
>>> report.sparsity
0.9
"""

__version__ = "0.1.0"

from prunekit.baselines.gradual import gradual
from prunekit.baselines.magnitude import magnitude
from prunekit.baselines.random import random
from prunekit.data import Data, accuracy, cifar10, cifar100, mnist, mnist_small
from prunekit.journal import Journal
from prunekit.mask import Mask
from prunekit.models import build, pretrained
from prunekit.report import Report, compare, prune
from prunekit.steps import Run, Step, method
from prunekit.train import evaluate, fit

__all__ = [
    "Data", "Journal", "Mask", "Report", "Run", "Step", "accuracy", "build", "cifar10", "cifar100",
    "compare", "evaluate", "fit", "gradual", "magnitude", "method", "mnist", "mnist_small",
    "pretrained", "prune", "random",
]  # fmt: skip
