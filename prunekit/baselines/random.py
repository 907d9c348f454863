"""Random pruning: the control that every criterion has to beat.

Every weight is equally likely to go, as in ``torch.nn.utils.prune.random_unstructured``; compared
with trained criteria by Blalock et al. 2020, arXiv 2003.03033.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from prunekit import search, select
from prunekit.knobs import Count, Fraction, Names, Natural, Positive, Precision, Scope
from prunekit.mask import Mask, check_prunable
from prunekit.method import method
from prunekit.steps import Run, Step, derive
from prunekit.train import fit


@method(check=check_prunable)
def random(
    model: nn.Module,
    data: Any,
    *,
    sparsity: Fraction = 0.9,
    rounds: Count = 1,
    epochs: Natural = 0,
    lr: Positive = 0.01,
    precision: Precision = "fp32",
    scope: Scope = "global",
    biases: bool = False,
    ignore: Names = (),
    seed: int = 0,
    run: Run = Run(),
) -> Iterator[Step]:
    """Remove weights drawn at random, `rounds` times, fine-tuning after each.

    sparsity: share of weights removed at the end; each round removes an equal share of the rest.
    rounds: 1 is one-shot, more is iterative.
    epochs: passes over the training data after each round.
    lr: learning rate of the fine-tuning at its highest.
    precision: of the training; see `prunekit.train.fit`.
    scope: whether the share holds in every layer or only over the whole model.
    biases: prune biases too.
    ignore: names of parameters to leave alone.
    """
    mask = Mask.ones(model, biases, ignore)
    generator = torch.Generator().manual_seed(derive(seed, "scores"))
    scores = {name: torch.rand(keep.shape, generator=generator) for name, keep in mask.items()}
    for index, target in enumerate(select.stages(sparsity, rounds), start=1):
        mask = select.largest(scores, target, scope, mask)
        yield search.cut(model, data, mask, index, rounds, run)
        yield from fit(
            model,
            data,
            epochs=epochs,
            lr=lr,
            precision=precision,
            mask=mask,
            phase="finetune",
            seed=derive(seed, index),
            run=run,
        )
