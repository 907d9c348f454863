"""Filter clustering: of filters that have learned the same, one stays.

A network learns what the filters of a layer have in common; a clustering algorithm puts those
together whose codes are alike; of each cluster the filter nearest to the centroid stays, and the
network is trained again. Li, Zhu and Sun 2019, "Deep learning based method for pruning deep neural
networks", ICMEW 2019, doi 10.1109/ICMEW.2019.00-68.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Unpack

import torch
from torch import Tensor, nn

from prunekit import clusters, search, select
from prunekit.clusters import Algorithm, Feature, Survivor
from prunekit.knobs import Count, Fraction, Names, Natural, NonNegative, Range, Several, Useful
from prunekit.mask import Mask
from prunekit.method import method
from prunekit.nodes import Nodes
from prunekit.rounds import On, finetuned, recalibrated
from prunekit.steps import Run, Step, derive
from prunekit.train import Tuning

SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)  # that a silhouette chooses from


def _check(
    model: nn.Module,
    data: Any,
    *,
    share: Any,
    widths: tuple[int, ...],
    silhouette: float | None,
    ignore: Names,
    **_: object,
) -> None:
    nodes = Nodes("filter_clustering", model, data, ignore)
    nodes.check_spare("filter_clustering")
    if widths:
        nodes.widths("filter_clustering", widths)
    told = [bool(widths), silhouette is not None, isinstance(share, select.Budget)]
    if sum(told) > 1:
        raise ValueError("filter_clustering: takes one of a budget, widths and a silhouette")


@method(
    check=_check, tuning=dict(epochs=0, lr=0.01), quick=dict(steps=20, epochs=2),
)  # fmt: skip
def filter_clustering(
    model: nn.Module,
    data: Any,
    *,
    share: Fraction = 0.5,
    widths: Annotated[tuple[int, ...], Several(Range(1))] = (),
    silhouette: Annotated[float, Range(-1, 1)] | None = None,
    features: Feature = "autoencoder",
    algorithm: Algorithm = "kmeans",
    survivor: Survivor = "nearest",
    width: Annotated[Natural, Useful(0, 32)] = 0,
    noise: Annotated[NonNegative, Useful(0, 2)] = 0.5,
    steps: Annotated[Count, Useful(50, 2_000)] = 1_000,
    on: On = "shrunk",
    recalibrate: bool = False,
    ignore: Names = (),
    seed: int = 0,
    run: Run = Run(),
    **tuning: Unpack[Tuning],
) -> Iterator[Step]:
    """Cluster the filters of each layer, keep one of each cluster, and fine-tune.

    share: of the filters of each layer how many go: the others are as many as there are clusters.
    widths: instead of `share`, how many filters each layer keeps, one number a layer whose filters
        can go, in the order of `surgery.groups`.
    silhouette: instead of `share`, each layer loses the largest share, in tenths, at which the mean
        silhouette of its clusters is at least this; none, if there is no such share.
    features: what clusters are made of: "autoencoder", codes that a network learns; "pca",
        principal components; "raw", the weights themselves. All are of filters of length 1.
    algorithm: how clusters are found: "kmeans", "spectral" or "ward".
    survivor: of each cluster the filter "nearest" to the centroid, or that of the "largest" norm.
    width: numbers of a code; 0: a quarter of the filters, 4 to 32.
    noise: how long the noise is, beside a filter, that the auto-encoder learns to leave out.
    steps: of its training, at most; a step's `info` says where it had not converged by then.
    on: which network is fine-tuned: "shrunk", without the filters, or "masked", which takes longer.
    recalibrate: estimate the running statistics of norms anew before fine-tuning.
    ignore: names of weights whose filters stay.
    """
    nodes = Nodes("filter_clustering", model, data, ignore)
    there = nodes.left(nodes.start)
    found: dict[str, tuple[Tensor, Tensor, clusters.Features]] = {}
    for name, keep in there.items():
        run.poll()
        x = clusters.rows(model, nodes, name)[keep]
        points = clusters.turned(clusters.normalised(x))
        learned = clusters.features(
            points, features, width=width, noise=noise, steps=steps,
            seed=derive(seed, name), run=run,
        )  # fmt: skip
        found[name] = learned.codes(points), x.norm(dim=1), learned
    if silhouette is not None:
        many = {
            n: _automatic(codes, silhouette, algorithm, seed) for n, (codes, *_) in found.items()
        }
    else:
        goal = nodes.widths("filter_clustering", widths) if widths else share
        many = _many(model, nodes, there, goal)
    kept = {}
    for name, (codes, norms, _) in found.items():
        # paper: a clustering algorithm, says the abstract; here: k-means++, as in the authors'
        # letter of 2018, and two others.
        labels = clusters.clustered(codes, many[name], algorithm, derive(seed, name))
        stays = clusters.survivors(codes, labels, norms, survivor)
        kept[name] = there[name].clone()
        kept[name][there[name]] = stays
    mask = nodes.mask(model, kept)
    info = {
        "clusters": many,
        "error": {name: learned.error for name, (*_, learned) in found.items()},
        "steps": {name: learned.steps for name, (*_, learned) in found.items()},
        "not converged": [name for name, (*_, learned) in found.items() if not learned.converged],
    }
    if recalibrate:
        step = recalibrated(model, data, mask, 1, 1, seed=derive(seed, "norms"), run=run)
        yield replace(step, info={**step.info, **info})
    else:
        yield search.cut(model, data, mask, 1, 1, run, **info)
    yield from finetuned(
        model, data, mask, seed=derive(seed, "finetune"), run=run, on=on, ignore=ignore, **tuning
    )


def _many(
    model: nn.Module, nodes: Nodes, there: dict[str, Tensor], goal: select.Target
) -> dict[str, int]:
    """How many nodes each layer keeps; a budget asks for widths alone, not for which."""

    def whole(units: Mask) -> Mask:
        return nodes.mask(model, {name: keep[:, 0] for name, keep in units.items()})

    left = Mask({name: keep.unsqueeze(1) for name, keep in there.items()})
    target = goal.over(whole) if isinstance(goal, select.Budget) else goal
    scores = {name: torch.arange(len(keep)).float().unsqueeze(1) for name, keep in there.items()}
    chosen = select.largest(scores, target, "layer", left)
    return {name: int(keep.sum()) for name, keep in chosen.items()}


def _automatic(codes: Tensor, least: float, algorithm: str, seed: int) -> int:
    """The fewest clusters, of those that `SHARES` leave, with such a silhouette."""
    n = len(codes)
    ks = sorted({round((1 - share) * n) for share in SHARES} & {*range(2, n)})
    found = clusters.silhouettes(codes, ks, algorithm, seed)
    return next((k for k in ks if found[k] >= least), n)
