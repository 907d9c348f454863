"""The filters of a layer in piles, one a cluster; on top of each who stays."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from prunekit import clusters
from prunekit._arguments import checked
from prunekit.data import wrap
from prunekit.nodes import Nodes
from prunekit.widgets.filters import pictures
from prunekit.widgets.piles import Piles

MANY = 30  # numbers of clusters to choose from, at most
NAMES = {"raw": "filters as they are", "pca": "PCA", "autoencoder": "codes"}
STAYS = {"nearest": "nearest to the middle", "largest": "largest"}


@checked
def filter_clustering(
    model: nn.Module, data: Any, layer: str = "", seed: int = 0, *, stored: bool = False
) -> Piles:
    """The filters of a layer, by default of the first one, for numbers of clusters up to theirs.

    Filters with several inputs are shown as the mean over them, units of a hidden layer as a line;
    for `stored` see `prunekit.widgets.Piles`.
    """
    nodes = Nodes("filter_clustering", model, wrap(data))
    layer = layer or next(iter(nodes.sizes))
    rows = clusters.rows(model, nodes, layer)
    points = clusters.turned(clusters.normalised(rows))
    weight = model.get_parameter(layer).detach().cpu().float()
    if weight.ndim != 4:
        weight = weight.flatten(1)[:, None, None, :]
    means, _ = pictures(weight, torch.ones_like(weight, dtype=torch.bool))
    n = nodes.sizes[layer]
    counts = sorted({round(k) for k in torch.linspace(1, n, min(n, MANY)).tolist()})
    norms, found = rows.norm(dim=1), {}
    for of, name in NAMES.items():
        codes = clusters.features(points, of, seed=seed).codes(points)
        labels = [clusters.clustered(codes, k, seed=seed) for k in counts]
        found[name] = {
            "labels": [own.tolist() for own in labels],
            "stay": {
                says: [
                    torch.where(clusters.survivors(codes, own, norms, rule))[0].tolist()
                    for own in labels
                ]
                for rule, says in STAYS.items()
            },
        }
    return Piles(layer.removesuffix(".weight"), means, counts, found, stored=stored)
