"""Cut every classification network of torchvision, or be told why it cannot be cut.

    python tools/cut_torchvision.py [NAME ...] [--share 0.3]

Each network gets random weights and loses a share of its groups of channels at random. One line
says what came of it: "ok", with how far the cut moved the answer and the largest difference from
the masked network, of the largest output; or the reason for which it was refused. Whatever answers
otherwise ends the script with 1. The networks that torch-pruning's own test of torchvision lists
are marked with a star; those of more than 150 million parameters are left out.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
import warnings

import torch
from torch import nn

from prunekit import count, select, surgery
from prunekit._random import LocalRandom
from prunekit._torchvision import torchvision
from prunekit.mask import Mask

STARRED = (
    "vit_", "convnext_", "alexnet", "densenet", "efficientnet_", "googlenet", "inception_v3",
    "mnasnet", "mobilenet_", "regnet_", "resnet", "resnext", "wide_resnet", "squeezenet", "vgg",
    "fcn_", "deeplabv3_", "lraspp_",
)  # fmt: skip
LARGEST = 150e6
PIXELS = {"inception_v3": 160, "vit_": 224, "maxvit_t": 224}  # 64 is enough for the others


def built(name: str) -> nn.Module:
    settings: dict[str, object] = {}
    if name in ("googlenet", "inception_v3"):
        settings = {"aux_logits": False, "init_weights": False}
    elif name.startswith(("fcn_", "deeplabv3_", "lraspp_")):
        settings = {"weights_backbone": None}
    return torchvision().models.get_model_builder(name)(**settings).eval()


def network(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network with random weights, and two images."""
    with LocalRandom(0):
        model = built(name)
        pixels = next((n for start, n in PIXELS.items() if name.startswith(start)), 64)
        return model, torch.rand(2, 3, pixels, pixels)


def chosen(groups: surgery.Groups, share: float) -> Mask:
    """The filters of a share of the groups of each family, never of all."""
    generator, units = torch.Generator().manual_seed(1), dict[str, torch.Tensor]()
    for name in groups.names:
        n = len(groups.members[name])
        units[name] = torch.rand(n, 1, generator=generator) >= share
        units[name][int(torch.randint(n, (), generator=generator))] = True
    filters = select.spread(Mask(units), groups)
    return Mask({n: keep for n, keep in filters.items() if n in groups.parameters})


def far(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    return max(float((x - y).abs().max() / x.abs().max()) for x, y in zip(a, b, strict=True))


def line(name: str, share: float) -> tuple[str, bool]:
    """What came of a network, and whether it is right."""
    model, x = network(name)
    surgery.draw(model)
    begun = time.process_time()
    try:
        groups = surgery.groups(model, x)
        mask = chosen(groups, share)
        small = surgery.shrink(model, mask, x)
    except ValueError as error:
        return f"refused: {str(error)[:300]}", True
    took = time.process_time() - begun
    masked = surgery.couple(model, mask, groups).apply_(copy.deepcopy(model))
    want, got, dense = (surgery.answers(m, x) for m in (masked, small, model))
    wrong, moved = far(want, got), far(dense, want)
    going = sum(family.size for family in groups if not family.fixed)
    staying = sum(family.size for family in groups if family.fixed)
    sizes = f"{count.params(model):,} -> {count.params(small):,}"
    told = (
        f"{wrong:.0e}, moved {moved:.0e}, {going} groups go, {staying} stay, {sizes}, {took:.1f} s"
    )
    right = wrong < 1e-4 and moved > 1e-3
    return ("ok: " if right else "WRONG: ") + told, right


def main() -> int:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--share", type=float, default=0.3)
    given = parser.parse_args()
    models, wrong = torchvision().models, 0
    everything = [*models.list_models(models), *models.list_models(models.segmentation)]
    for name in given.names or everything:
        star = "*" if name.startswith(STARRED) else " "
        if next(iter(models.get_model_weights(name))).meta["num_params"] > LARGEST:
            print(f"{star} {name:<34} left out: more than {LARGEST / 1e6:.0f} million parameters")
            continue
        told, right = line(name, given.share)
        wrong += not right
        print(f"{star} {name:<34} {told}", flush=True)
    print(f"{wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
