"""Random pruning: the control that every criterion has to beat.

Every weight is equally likely to go, as in ``torch.nn.utils.prune.random_unstructured``; compared
with trained criteria by Blalock et al. 2020, arXiv 2003.03033.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Unpack

import torch
from torch import nn

from prunekit import select
from prunekit.knobs import Fraction, Names, Scope
from prunekit.mask import Mask, check_prunable
from prunekit.method import method
from prunekit.rounds import Rounds, in_rounds
from prunekit.steps import Run, Step, derive
from prunekit.train import Tuning


@method(check=check_prunable, tuning=dict(epochs=0, lr=0.01), quick=dict(rounds=2, epochs=2))
def random(
    model: nn.Module,
    data: Any,
    *,
    sparsity: Fraction = 0.9,
    rounds: Rounds = 1,
    scope: Scope = "global",
    biases: bool = False,
    ignore: Names = (),
    seed: int = 0,
    run: Run = Run(),
    **tuning: Unpack[Tuning],
) -> Iterator[Step]:
    """Remove weights drawn at random, `rounds` times, fine-tuning after each.

    sparsity: share of weights removed at the end; each round removes an equal share of the rest.
    rounds: in how many cuts: 1 is one-shot, more is iterative.
    scope: whether the share holds in every layer or only over the whole model.
    biases: prune biases too.
    ignore: names of parameters to leave alone.
    """
    weights = Mask.ones(model, biases, ignore, data.example).left(model)
    generator = torch.Generator().manual_seed(derive(seed, "scores"))
    scores = {
        name: torch.rand(keep.shape, generator=generator, dtype=torch.float32, device="cpu")
        for name, keep in weights.items()
    }
    yield from in_rounds(
        model, data, weights, lambda mask, target: select.largest(scores, target, scope, mask),
        sparsity=sparsity, rounds=rounds, seed=seed, run=run, **tuning,
    )  # fmt: skip
