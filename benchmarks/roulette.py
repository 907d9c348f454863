"""Speed of roulette pruning as ratios: ``python benchmarks/roulette.py``; see `ratios`."""

from __future__ import annotations

import functools

import torch
from ratios import ratio, show
from torch import nn

from prunekit import mnist_small, models, score, search, select
from prunekit.mask import Mask
from prunekit.select import spin
from prunekit.steps import Run

N, BRANCHES, STEP = 10_000_000, 10, 0.05


def wheel() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, n = torch.randn(N, generator=generator), round(STEP * N)
    show(
        "picking 5 % of 10 million weights / torch.topk of as many",
        ratio(lambda: spin(logits, n, generator), lambda: logits.topk(n, sorted=False), 5),
        3.0,
    )


def child(model: nn.Module, number: int, *, parent: Mask, wheels: list[select.Wheel]) -> Mask:
    """A child of the level, as the method makes it."""
    generator = torch.Generator().manual_seed(number)
    return select.spun(parent, wheels, STEP, 0.9, generator)


def level(name: str) -> None:
    data, model = mnist_small(), models.pretrained(name)
    mask, children = Mask.ones(model), [*range(BRANCHES)]

    @torch.no_grad()
    def plain() -> None:
        for _ in children:
            for x, _ in data.batches("validation", 1_000):
                model(x)

    def grown() -> Mask:
        wheels = select.wheels(score.relative(model, mask), "inv", 4.0, "global", mask)
        decode = functools.partial(child, parent=mask, wheels=wheels)
        costs = search.costs(model, data, children, decode, Run())
        return decode(model, children[costs.index(min(costs))])

    show(
        f"{name}: a level of {BRANCHES} children / as many dense forwards",
        ratio(grown, plain),
        1.15,
    )


def main() -> None:
    torch.set_num_threads(1)
    wheel()
    level("lenet_300_100")


if __name__ == "__main__":
    main()
