"""Filters as points: what is learned of them, which are alike, and which one stays for its like."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from prunekit import select
from prunekit._arguments import checked, shaped
from prunekit._random import LocalRandom
from prunekit.knobs import Choice, Count, Natural, NonNegative
from prunekit.nodes import Nodes
from prunekit.steps import Run, derive

Rows = Annotated[Tensor, shaped("n", "d")]
FEATURES = ("autoencoder", "pca", "raw")
ALGORITHMS = ("kmeans", "spectral", "ward")
SURVIVORS = ("nearest", "largest")
Feature = Annotated[str, Choice(*FEATURES)]
Algorithm = Annotated[str, Choice(*ALGORITHMS)]
Survivor = Annotated[str, Choice(*SURVIVORS)]
HIDDEN, CODE = 256, 32  # units of an auto-encoder, at most
LOOK, PATIENCE, BETTER = 20, 5, 0.999  # steps between two looks, looks without progress


@checked
def rows(model: nn.Module, nodes: Nodes, name: str) -> Tensor:
    """The weights of each node of a layer, (n, d): of all filters that it has, side by side."""
    nodes.check("rows", model)
    parameters, parts = dict(model.named_parameters()), list[Tensor]()
    n = nodes.sizes.get(name, 0)
    for weight, dim, own, of in nodes.groups.filters(name):
        if len(own) % n:
            raise ValueError(
                f"rows: the nodes of {name} have unlike numbers of filters of {weight}"
            )
        filters = parameters[weight].detach().cpu().float().movedim(dim, 0).flatten(1)
        order = torch.from_numpy(own[np.argsort(of, kind="stable")])
        parts.append(filters[order].reshape(n, -1))
    return torch.cat(parts, 1)


@checked
def normalised(x: Rows) -> Tensor:
    """Rows of length 1, so that filters are alike that look for the same; rows of 0 stay."""
    return x / x.norm(dim=1, keepdim=True).clamp(min=1e-12)


@checked
def turned(x: Rows) -> Tensor:
    """Rows longer than there are rows, turned into the space that they span: (n, n) at most.

    All distances and lengths stay as they are.
    """
    if x.shape[1] <= x.shape[0]:
        return x
    u, s, _ = torch.linalg.svd(x.double(), full_matrices=False)
    return (u * s).float()


# -------------------------------------------------------------------------------------- features


@checked
@dataclass(frozen=True)
class Features:
    """What is told of rows, and back: `codes` gives (n, width) for (n, d), `back` the rows again.

    error: of the rows that it was made of, the squared error over that of their mean. steps:
    of training; converged: whether it had stopped to get better.
    """

    codes: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]
    error: float
    steps: int = 0
    converged: bool = True


@checked
def code_width(n: Count) -> int:
    """How many numbers a code has, if nothing is said: a quarter of the rows, 4 to 32."""
    return min(CODE, max(4, n // 4))


@checked
def features(
    x: Rows,
    kind: Feature,
    *,
    width: Natural = 0,
    noise: NonNegative = 0.5,
    steps: Count = 1_000,
    seed: int = 0,
    run: Run = Run(),
) -> Features:
    """What of rows, (n, d), is told: "raw", themselves; "pca", their `width` principal components;
    "autoencoder", what a network learns that puts rows together again.

    That one has the layers d, h, width, h, d, h the smaller of 256 and d, with tanh, and learns
    without their noise rows that are shown with noise: Vincent, Larochelle, Bengio and Manzagol
    2008, doi 10.1145/1390156.1390294.

    width: 0 is `code_width`. noise: how long the noise is beside a row, on average. steps: of
    training at most; it ends once there is no progress.
    """
    width = min(width or code_width(len(x)), x.shape[1])
    if kind == "raw":
        return Features(_same, _same, 0.0)
    if kind == "pca":
        return _principal(x, width)
    return _autoencoded(x, width, noise, steps, seed, run)


def _same(x: Tensor) -> Tensor:
    return x


def _spread(x: Tensor) -> float:
    """The squared error of the mean row."""
    return max(float((x - x.mean(0)).square().sum()), 1e-12)


@checked
def relative_error(found: Features, x: Rows) -> float:
    """The squared error with which rows come back, over that of the mean of these rows."""
    with torch.no_grad():
        return float((found.back(found.codes(x)) - x).square().sum()) / _spread(x)


def _principal(x: Tensor, width: int) -> Features:
    mean = x.mean(0)
    axes = torch.linalg.svd(x - mean, full_matrices=False).Vh[:width].T  # (d, width)
    found = Features(lambda a: (a - mean) @ axes, lambda codes: codes @ axes.T + mean, 0.0)
    return Features(found.codes, found.back, relative_error(found, x))


def _autoencoded(x: Tensor, width: int, noise: float, steps: int, seed: int, run: Run) -> Features:
    d = x.shape[1]
    h = min(HIDDEN, d)
    with LocalRandom(derive(seed, "autoencoder")):
        encode = nn.Sequential(nn.Linear(d, h), nn.Tanh(), nn.Linear(h, width), nn.Tanh())
        decode = nn.Sequential(nn.Linear(width, h), nn.Tanh(), nn.Linear(h, d))
    found = Features(encode, decode, 0.0)
    parameters = [*encode.parameters(), *decode.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, weight_decay=1e-5)
    generator = torch.Generator().manual_seed(derive(seed, "noise"))
    scale = noise * float(x.square().sum(1).mean().sqrt()) / math.sqrt(d)
    best, since, step, spread = math.inf, 0, 0, _spread(x)
    with torch.enable_grad():
        while step < steps and since < PATIENCE:
            run.poll()
            for _ in range(min(LOOK, steps - step)):
                shown = x + scale * torch.randn(x.shape, generator=generator)
                loss = (decode(encode(shown)) - x).square().sum() / spread
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
            error = relative_error(found, x)
            since = 0 if error < BETTER * best else since + 1
            best = min(best, error)
    for p in parameters:
        p.requires_grad_(False)
    return Features(encode, decode, relative_error(found, x), step, since >= PATIENCE)


@checked
def held_out_error(
    x: Rows,
    kind: Feature,
    *,
    share: select.Share = 0.2,
    width: Natural = 0,
    seed: int = 0,
    **how: Any,
) -> float:
    """The `relative_error` of a share of rows, drawn with `seed`, that the features were not made
    of."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(derive(seed, "rows")))
    held = max(round(share * len(x)), 2)
    if held > len(x) - 2:
        raise ValueError(f"held_out_error: of {len(x)} rows none can be held out")
    found = features(x[order[held:]], kind, width=width or code_width(len(x)), seed=seed, **how)
    return relative_error(found, x[order[:held]])


# -------------------------------------------------------------------------------------- clusters


@checked
def clustered(codes: Rows, k: Count, algorithm: Algorithm = "kmeans", seed: int = 0) -> Tensor:
    """Which of k clusters each code is in, (n,) int64: no cluster is empty.

    "kmeans": scikit-learn's k-means++, the best of 20 starts; "spectral": of a graph of Gaussian
    likeness, its width the median distance; "ward": joined from the bottom up (Ward 1963).

    Raises ValueError for more clusters than codes.
    """
    n = len(codes)
    if k > n:
        raise ValueError(f"clustered: k must be at most the {n} codes, got {k}")
    if k == n:
        return torch.arange(n)
    if k == 1:
        return torch.zeros(n, dtype=torch.int64)
    points = codes.detach().double().numpy()
    with _one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fewer distinct codes than clusters
        labels = torch.from_numpy(_fitted(points, k, algorithm, seed).astype(np.int64))
    return _filled(labels, k)


def _one_thread() -> Any:
    from threadpoolctl import threadpool_limits  # scikit-learn needs it, too

    return threadpool_limits(1)  # sums in one order, whatever the machine


def _fitted(points: np.ndarray, k: int, algorithm: str, seed: int) -> np.ndarray:
    from sklearn import cluster, metrics  # slow to import

    number = derive(seed, "clusters", k) % 2**32
    if algorithm == "kmeans":
        return cluster.KMeans(k, n_init=20, random_state=number).fit_predict(points)
    if algorithm == "ward":
        return cluster.AgglomerativeClustering(k).fit_predict(points)
    apart = metrics.pairwise_distances(points)
    width = np.median(apart[apart > 0]) if (apart > 0).any() else 1.0
    alike = np.exp(-0.5 * (apart / width) ** 2)
    made = cluster.SpectralClustering(k, affinity="precomputed", random_state=number)
    return made.fit_predict(alike)


def _filled(labels: Tensor, k: int) -> Tensor:
    """Numbered from 0, and, where equal codes left clusters empty, with members of the largest."""
    labels = labels.unique(return_inverse=True)[1]
    for number in range(int(labels.max()) + 1, k):
        largest = int(labels.bincount().argmax())
        labels[(labels == largest).nonzero()[-1]] = number
    return labels


@checked
def survivors(
    codes: Rows,
    labels: Annotated[Tensor, shaped("n")],
    norms: Annotated[Tensor, shaped("n")],
    survivor: Survivor,
) -> Tensor:
    """Which stays of each cluster, (n,) bool: the one "nearest" to its centroid, or the one with
    the "largest" norm; of equal ones the first."""
    if labels.dtype is not torch.int64 or not len(codes) == len(labels) == len(norms) > 0:
        raise ValueError(
            f"survivors: {len(codes)} codes need as many labels (int64) and norms, got "
            f"{len(labels)} ({labels.dtype}) and {len(norms)}"
        )
    if not torch.equal(labels.unique(), torch.arange(int(labels.max()) + 1)):
        raise ValueError("survivors: clusters must be numbered from 0, and none may be empty")
    keep = torch.zeros(len(codes), dtype=torch.bool)
    for number in range(int(labels.max()) + 1):
        members = (labels == number).nonzero().flatten()
        if survivor == "largest":
            keep[members[norms[members].argmax()]] = True
        else:
            own = codes[members]
            keep[members[(own - own.mean(0)).square().sum(1).argmin()]] = True
    return keep


@checked
def silhouettes(
    codes: Rows, ks: Iterable[int], algorithm: Algorithm = "kmeans", seed: int = 0
) -> dict[int, float]:
    """For each number of clusters the mean silhouette, in [-1, 1]: how much nearer a code is to its
    own cluster than to the next one (Rousseeuw 1987, doi 10.1016/0377-0427(87)90125-7)."""
    from sklearn.metrics import silhouette_score

    found = {}
    for k in ks:
        labels = clustered(codes, k, algorithm, seed)
        if 1 < k < len(codes):
            found[k] = float(silhouette_score(codes.detach().double().numpy(), labels.numpy()))
    return found
