"""Speed of a search as ratios: ``python benchmarks/population.py``; see `ratios`.

The peer evaluates each candidate as one would without this package: a deep copy of the model,
`torch.nn.utils.prune` with the same thresholds, a forward pass over the validation images, each
batch normalised as it comes. Both have all candidates of a search, the scan's among them.

``python benchmarks/population.py growth FILE.png`` draws how the cost of a search grows.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from ratios import ratio, show
from torch import nn
from torch.nn.utils import prune as torch_prune

from prunekit import fit, mnist_small, models, score, search, select
from prunekit.data import wrong
from prunekit.judge import EVALUATION_BATCH
from prunekit.mask import Mask
from prunekit.methods.differential_evolution import GRID, differential_evolution

GENERATIONS, POPULATION = 25, 20  # the method's own
FORWARDS = 20  # in a row: one alone is too short to time


def one_by_one(model: Any, data: Any, thresholds: dict[str, float], vector: Sequence[float]) -> int:
    """Errors of a candidate, the usual way."""
    pruned = copy.deepcopy(model)
    for (name, deviation), s in zip(thresholds.items(), vector, strict=True):
        layer = pruned.get_submodule(name.removesuffix(".weight"))
        torch_prune.custom_from_mask(layer, "weight", layer.weight.abs() >= s * deviation)
    return plain(pruned, data)


@torch.no_grad()
def plain(model: Any, data: Any) -> int:
    return sum(wrong(model(x), y) for x, y in data.batches("validation", EVALUATION_BATCH))


def deviations(model: nn.Module, mask: Mask) -> dict[str, float]:
    """The standard deviation of each parameter's weights."""
    parameters = dict(model.named_parameters())
    return {name: float(parameters[name].detach().std(correction=0)) for name in mask}


def cut(
    model: nn.Module, vector: Sequence[float], *, mask: Mask, deviations: dict[str, float]
) -> Mask:
    """The mask of a vector of sensitivities, as the method makes it of its candidates."""
    limits = {n: s * deviations[n] for n, s in zip(mask, vector, strict=True)}
    return select.above(score.magnitude(model, mask), limits, mask)


def candidate(name: str, aim: float) -> None:
    data, model = mnist_small(), models.pretrained(name)
    mask = Mask.ones(model)
    decode = functools.partial(cut, mask=mask, deviations=deviations(model, mask))
    vectors = [(1.0 + i / 10,) * len(mask) for i in range(5)]
    show(
        f"{name}: evaluating a candidate / dense forward of the same images",
        ratio(
            lambda: search.costs(model, data, vectors, decode),
            lambda: [plain(model, data) for _ in vectors],
        ),
        aim,
    )


def whole_search(name: str, aim: float) -> None:
    """A round of the method beside as many candidates the usual way."""
    data, model = mnist_small(), models.pretrained(name)
    mask = Mask.ones(model)
    thresholds = deviations(model, mask)
    knobs: dict[str, Any] = dict(
        rounds=1, generations=GENERATIONS, population=POPULATION, epochs=0, tolerance=1.0
    )

    def ours(skip: bool) -> None:
        list(differential_evolution(copy.deepcopy(model), data, **knobs, skip=skip))

    def usual() -> None:
        for _ in range(POPULATION):  # a generation's worth; the ratio is scaled below
            one_by_one(model, data, thresholds, (1.0,) * len(mask))

    share = POPULATION / (GRID * len(mask) + POPULATION * (GENERATIONS + 1))
    for skip in (True, False):
        show(
            f"{name}: a search with skip={skip} / as many copies with torch's prune",
            share * ratio(lambda skip=skip: ours(skip), usual, 3),
            aim if skip else None,
        )


def perceptron(layers: int) -> nn.Module:
    """Linear layers with about as many weights in all, however many there are."""
    widths = [784, *[{2: 250, 4: 180, 8: 130}[layers]] * (layers - 1), 10]
    parts: list[nn.Module] = [nn.Flatten()]
    for a, b in pairwise(widths):
        parts += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def growth(path: str) -> None:
    """Cost of a search, in dense forward passes over the images it looks at, against its size."""
    import matplotlib

    matplotlib.use("Agg")
    import seaborn

    data, knobs = mnist_small(), dict(rounds=1, epochs=0, tolerance=1.0)
    cases: dict[str, dict[int, tuple[Any, Any, int]]] = {
        "population": {n: (data, models.pretrained("lenet_300_100"), n) for n in (10, 20, 40)},
        "images": {
            n: (data.fewer(validation=n), models.pretrained("lenet_300_100"), POPULATION)
            for n in (1_000, 2_500, 5_000)
        },
        "layers": {n: (data, perceptron(n), POPULATION) for n in (2, 4, 8)},
    }
    for _, model, _ in cases["layers"].values():
        list(fit(model, data, epochs=3))
    seaborn.set_theme(style="whitegrid", palette="colorblind")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(10, 3.4), sharey=True, layout="constrained")
    for axis, (what, sizes) in zip(axes, cases.items(), strict=True):
        for skip, marker in ((False, "s"), (True, "o")):
            costs = {}
            for n, (part, model, population) in sizes.items():
                costs[n] = FORWARDS * ratio(
                    lambda part=part, model=model, p=population, skip=skip: list(
                        differential_evolution(
                            copy.deepcopy(model), part, population=p, skip=skip, **knobs
                        )
                    ),
                    lambda part=part, model=model: [plain(model, part) for _ in range(FORWARDS)],
                    1,
                )
                print(f"{what} {n}, skip={skip}: {costs[n]:.0f} dense forwards", flush=True)
            label = "skipping what cannot win" if skip else "judging everything"
            axis.plot([*costs], [*costs.values()], marker=marker, label=label)
        axis.set(xlabel=what, xticks=[*sizes], ylim=(0, None))
    axes[0].set_ylabel("cost of a search\n(dense forward passes)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    figure.savefig(path, dpi=110)


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["growth"]:
        growth(sys.argv[2])
        return
    candidate("lenet_300_100", 1.10)
    candidate("lenet_5", 1.05)
    whole_search("lenet_300_100", 1 / 3)


if __name__ == "__main__":
    main()
