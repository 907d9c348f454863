"""What skeletons cost and what stripes save: ``python benchmarks/stripes.py [PART ...]``.

step: a training step of ResNet-20, batch 128, with skeletons, the CDP penalty and DTC thresholds,
in turns with the dense network's. Aim: at most 1.10 times its time.
forms: layers of four shapes with shares of their stripes left, dense and place by place.

On one thread, channels last where a convolution is alone.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from functools import partial

import torch
from torch import nn

from prunekit import count, models, stripes
from prunekit.methods import cdp_dtc
from prunekit.stripes import ByPosition

STEPS, BATCH = 12, 128
SHAPES = ((16, 32), (64, 32), (256, 8), (512, 4))  # channels, and side of the image
SHARES = (0.5, 0.25, 0.15, 0.1)


def step() -> None:
    dense = models.build("resnet_20").train()
    worn = copy.deepcopy(dense)
    stripes.wrap(worn)
    extra = sum(p.numel() for p in worn.parameters()) - sum(p.numel() for p in dense.parameters())
    x, y = torch.randn(BATCH, 3, 32, 32), torch.arange(BATCH) % 10
    press = partial(cdp_dtc._press, penalty="cdp", strength=1e-5, per="epoch", epochs=1)
    nets = {"dense": dense, "skeletons, CDP, DTC": worn}
    optimizers = {name: torch.optim.SGD(net.parameters(), 0.01, 0.9) for name, net in nets.items()}
    times: dict[str, list[float]] = {name: [] for name in nets}
    for number in range(STEPS + 2):
        for name, net in nets.items():
            begun = time.process_time()
            optimizers[name].zero_grad(set_to_none=True)
            nn.functional.cross_entropy(net(x), y).backward()
            if net is worn:
                press(net, 0.5)
                for conv in stripes.layers(net).values():
                    conv.cut_(0.01, "dtc")
            optimizers[name].step()
            if number >= 2:
                times[name].append(time.process_time() - begun)
    one, other = (statistics.median(taken) for taken in times.values())
    print(
        f"step: ResNet-20, batch {BATCH}: dense {one:.3f} s, with skeletons, CDP and DTC "
        f"{other:.3f} s: {other / one:.3f}×; aim ≤ 1.10: {'ok' if other / one <= 1.1 else 'MISSED'}"
    )
    print(f"      numbers added: {extra:,}, the skeletons; no copy of the weights")


def forms() -> None:
    print("forms: ms dense | place by place, at the share of the stripes that is left")
    for channels, side in SHAPES:
        conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False).eval()
        x = torch.randn(32, channels, side, side).to(memory_format=torch.channels_last)
        told = []
        for share in SHARES:
            keep = torch.rand(channels, 3, 3, generator=torch.Generator().manual_seed(0)) < share
            cut = copy.deepcopy(conv)
            cut.weight.data *= keep[:, None]
            both = {"dense": cut.to(memory_format=torch.channels_last), "by": ByPosition(cut, keep)}
            taken = count.latency(both, x, seconds=1.0)
            dense, by = (1e3 * each.median for each in taken.values())
            told.append(f"{share:.0%}: {dense:.1f} | {by:.1f}{' *' if by < dense else ''}")
        print(f"       {channels} → {channels}, {side} × {side}, batch 32:  {';  '.join(told)}")


PARTS = {"step": step, "forms": forms}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for part in sys.argv[1:] or [*PARTS]:
        PARTS[part]()
