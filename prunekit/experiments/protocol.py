"""What an experiment is: a paper's claims, and the arms that are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from prunekit._arguments import checked
from prunekit.data import Data
from prunekit.prune import Method

MAY_CHANGE = 2  # test examples that a model stored with half the bits may answer otherwise


@checked
@dataclass(frozen=True)
class Claim:
    """A figure of the paper: what it says, the value, and where it stands."""

    what: str
    value: float
    unit: str
    source: str

    def __str__(self) -> str:
        return f"{self.what}: {self.value:g} {self.unit} [{self.source}]"


@checked
@dataclass(frozen=True)
class Arm:
    """One line of the grid: a method with its knobs, on a model.

    `short` holds the knobs that the short form changes; None leaves the arm out of it. An arm with
    `publish` starts from fresh weights and its models become those of `models.pretrained`, which
    all others start from; `start` makes another model from the seed. `data` are other data than the
    experiment's. The model of the first seed is shipped as the `variant` of that name.

    `seeds` are other ones than the experiment's. Each goes with the trained network of the same
    number, or, with `networks`, with each of these. Models are stored as `store` says: "fp32", or
    "fp16" where that changes the answers to at most `MAY_CHANGE` test examples.

    With `timed`, how long one example takes is recorded, of the network at the start and of what is
    left once its filters are cut out.
    """

    method: Method
    knobs: Mapping[str, Any]
    model: str = "lenet_300_100"
    short: Mapping[str, Any] | None = None
    publish: bool = False
    variant: str = ""
    start: Callable[[int], torch.nn.Module] | None = None
    data: Callable[..., Data] | None = None
    seeds: tuple[int, ...] | None = None
    networks: tuple[int, ...] | None = None
    store: str = "fp32"
    timed: bool = False

    @property
    def fresh(self) -> bool:
        """Whether it starts from weights that its seed draws, and from no trained network."""
        return self.publish or self.start is not None

    def pairs(self, seeds: tuple[int, ...]) -> list[tuple[int | None, int]]:
        """The networks and seeds of its cells; the first of each comes first."""
        if self.fresh:
            return [(None, seed) for seed in seeds]
        if self.networks is None:
            return [(seed, seed) for seed in seeds]
        return [(network, seed) for network in self.networks for seed in seeds]


@checked
@dataclass(frozen=True)
class Experiment:
    """A paper's protocol.

    `status` says how close it is: "reproduction" of the paper's protocol, "after the paper" where
    ours is another one, "after the abstract" where its text was not available to us. Of the arm
    `showcase`, with the first network and seed, masks and populations are recorded too.

    The arms with `publish` train the networks that all others start from: those of ``baselines``
    LeNet-300-100 and LeNet-5, which all experiments on MNIST use; those of ``cifar-bases``
    ResNet-20, ResNet-56, AlexNet (``de-alexnet``) and VGG-16 (``de-vgg16``); those of
    ``mnist-bases`` LeNet-5 of 1998 and a small VGG. What is not shipped has to be trained first.
    """

    name: str
    title: str
    paper: str
    status: str
    data: Callable[..., Data]
    arms: Mapping[str, Arm]
    claims: tuple[Claim, ...] = ()
    showcase: str = ""
    seeds: tuple[int, ...] = (0, 1, 2)
    short_seeds: tuple[int, ...] = (0,)

    def pairs(self, name: str, short: bool = False) -> list[tuple[int | None, int]]:
        """The networks and seeds of an arm's cells; the short form has one network."""
        arm = self.arms[name]
        seeds = arm.seeds or self.seeds
        if not short:
            return arm.pairs(seeds)
        pairs = arm.pairs(tuple(s for s in seeds if s in self.short_seeds) or seeds[:1])
        return pairs if arm.networks is None else [p for p in pairs if p[0] == arm.networks[0]]
