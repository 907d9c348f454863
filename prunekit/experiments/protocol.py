"""What an experiment is: a paper's claims, and the arms that are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from prunekit.data import Data
from prunekit.prune import Method


@dataclass(frozen=True)
class Claim:
    """A figure of the paper: what it says, the value, and where it stands."""

    what: str
    value: float
    unit: str
    source: str

    def __str__(self) -> str:
        return f"{self.what}: {self.value:g} {self.unit} [{self.source}]"


@dataclass(frozen=True)
class Arm:
    """One line of the grid: a method with its knobs, on a model.

    `short` holds the knobs that the short form changes; None leaves the arm out of it. An arm with
    `publish` starts from fresh weights and its models become those of `models.pretrained`, which
    all others start from; `start` makes another model from the seed. `data` are other data than the
    experiment's. The model of the first seed is shipped as the `variant` of that name.
    """

    method: Method
    knobs: Mapping[str, Any]
    model: str = "lenet_300_100"
    short: Mapping[str, Any] | None = None
    publish: bool = False
    variant: str = ""
    start: Callable[[int], torch.nn.Module] | None = None
    data: Callable[..., Data] | None = None


@dataclass(frozen=True)
class Experiment:
    """A paper's protocol.

    `status` says whether the protocol is public: "reproduction", or "after the abstract". Of the
    arm `showcase`, with the first seed, masks and populations are recorded too.
    Trained models are `shipped` in the package, or else stay in the user's cache, and the other
    arms start from there.
    """

    name: str
    title: str
    paper: str
    status: str
    data: Callable[..., Data]
    arms: Mapping[str, Arm]
    claims: tuple[Claim, ...] = ()
    showcase: str = ""
    shipped: bool = True
    seeds: tuple[int, ...] = (0, 1, 2)
    short_seeds: tuple[int, ...] = field(default=(0,))
