"""What the structured methods save: ``python benchmarks/structured.py [PART ...]``.

round: VGG-16, 1,000 images, a raise of each layer's threshold judged, with what comes before a
change computed once for all, or each from the start; batch by batch in turns. Aim: 1.6 times
faster.
run: a search to 2 points on a small VGG, without giving up raises early, or on the masked network.
nodes: sensitivity and correlation of all of VGG-16's nodes, over the passes that they need alone.
Aim: at most 1.5 times their time.
clusters: auto-encoders and k-means of all of VGG-16's layers. Aim: at most 150 s on one core.

On one thread; the networks of CIFAR-10 have random weights.
"""

from __future__ import annotations

import copy
import functools
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from prunekit import clusters, datasets, models, nodes, search
from prunekit.data import Data
from prunekit.judge import stand_in
from prunekit.methods.optimal_threshold import optimal_threshold
from prunekit.recording import Changes, Recording

IMAGES, BATCH, ROUNDS = 1_000, 100, 1


def vgg_16() -> tuple[nn.Module, Data]:
    """The network, random images, and norms with statistics of their own."""
    model = models.build("vgg_16").eval()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(5_000, 3, 32, 32, generator=generator)
    y = torch.arange(5_000) % 10
    return model, Data.of((x, y), (x[:IMAGES], y[:IMAGES]), name="random images")


def raises(model: nn.Module, own: nodes.Nodes) -> list[Changes]:
    """Of each layer in turn, the 32nd part of the nodes goes."""
    return [
        own.unread({name: torch.arange(n) >= math.ceil(n / 32)}) for name, n in own.sizes.items()
    ]


@contextmanager
def wearing(worn: nn.Module, model: nn.Module, changes: Changes) -> Iterator[None]:
    weights, own = dict(model.named_parameters()), dict(worn.named_parameters())
    for name, keep in changes.items():
        torch.mul(weights[name], keep, out=own[name])
    yield
    for name in changes:
        own[name].copy_(weights[name])


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def one_round() -> None:
    model, data = vgg_16()
    changes = raises(model, nodes.Nodes("benchmark", model, data))
    plain, recording, ratios = stand_in(model), Recording(model), []
    total = {"plain": 0.0, "recorded": 0.0}
    errors = {"plain": 0, "recorded": 0}

    def each_alone(x: torch.Tensor) -> list[torch.Tensor]:
        outs = []
        for change in changes:
            with wearing(plain, model, change):
                outs.append(plain(x))
        return outs

    def together(x: torch.Tensor) -> list[torch.Tensor]:
        recording.record(x)
        return [recording.replay(x, change) for change in changes]

    for number, (x, y) in enumerate(data.batches("validation", BATCH)):
        ways = [("plain", each_alone), ("recorded", together)]
        took, outs = dict[str, float](), dict[str, list[torch.Tensor]]()
        for way, work in ways if number % 2 else ways[::-1]:
            took[way], outs[way] = timed(functools.partial(work, x))
            total[way] += took[way]
            errors[way] += sum(int((out.argmax(1) != y).sum()) for out in outs[way])
        assert all(map(torch.equal, outs["plain"], outs["recorded"]))  # to the last bit
        ratios.append(took["plain"] / took["recorded"])
    median = statistics.median(ratios)
    print(
        f"round: VGG-16, {IMAGES} images, {len(changes)} raises: plain {total['plain']:.1f} s, "
        f"recorded {total['recorded']:.1f} s; median over batches {median:.2f}× "
        f"({min(ratios):.2f} to {max(ratios):.2f}), {errors['plain']} errors in both; "
        f"aim ≥ 1.6: {'ok' if median >= 1.6 else 'MISSED'}"
    )


def whole_run() -> None:
    model, data = models.pretrained("vgg_small"), datasets.mnist_small()
    knobs: dict[str, Any] = dict(stride=1 / 16, images=1_000, examples=1_000)
    costs = search.costs

    def without_limits(*given: Any, **more: Any) -> list[float]:
        return costs(*given[:5], **more)  # the sixth are the limits

    def run(**changed: Any) -> tuple[float, list[Any]]:
        took, steps = timed(
            lambda: [*optimal_threshold(copy.deepcopy(model), data, **knobs | changed)]
        )
        return took, [(step.info.get("layer"), step.mask) for step in steps]

    base, moves = run()
    print(f"run: small VGG to 2 points, {len(moves) - 1} raises: {base:.1f} s")
    masked, same = run(on="masked")
    print(f"  on the masked network {masked / base:.2f}× the time, same moves: {same == moves}")
    search.costs = without_limits
    try:
        patient, same = run()
    finally:
        search.costs = costs
    print(f"  without giving up early {patient / base:.2f}× the time, same moves: {same == moves}")


def statistics_of_nodes() -> None:
    model, data = vgg_16()
    own = nodes.Nodes("benchmark", model, data)
    passes, both = [], []
    for _ in range(ROUNDS):
        passes.append(timed(lambda: forward_and_backward(model, data))[0])
        both.append(timed(lambda: nodes.activity("benchmark", model, data, own, examples=5_000))[0])
    share = statistics.median(b / p for b, p in zip(both, passes, strict=True))
    print(
        f"nodes: VGG-16, 5,000 images: passes {statistics.median(passes):.1f} s, with sensitivity "
        f"and correlation {statistics.median(both):.1f} s: {share:.2f}×; aim ≤ 1.5: "
        f"{'ok' if share <= 1.5 else 'MISSED'}"
    )


def forward_and_backward(model: nn.Module, data: Data) -> None:
    """To the input of the second convolution, in batches as large as `nodes.activity` takes."""
    from prunekit._memory import examples_within

    size = examples_within(None, model, data, "train", 250, kept=True)
    second = [m for m in model.modules() if isinstance(m, nn.Conv2d)][1]
    given: list[torch.Tensor] = []
    hook = second.register_forward_pre_hook(lambda layer, inputs: given.append(inputs[0]))
    for x, y in data.batches("train", size):
        given.clear()
        loss = data.loss(model(x), y)
        torch.autograd.grad(loss, given)
    hook.remove()


def all_clusters() -> None:
    model, data = vgg_16()
    own = nodes.Nodes("benchmark", model, data)
    begun = time.process_time()
    for name, n in own.sizes.items():
        x = clusters.turned(clusters.normalised(clusters.rows(model, own, name)))
        found = clusters.features(x, "autoencoder")
        clusters.clustered(found.codes(x), n // 2)
    took = time.process_time() - begun
    print(
        f"clusters: VGG-16, {len(own.sizes)} layers: {took:.0f} s of one core; aim ≤ 150: "
        f"{'ok' if took <= 150 else 'MISSED'}"
    )


PARTS = {
    "round": one_round, "run": whole_run, "nodes": statistics_of_nodes, "clusters": all_clusters,
}  # fmt: skip

if __name__ == "__main__":
    torch.set_num_threads(1)
    for part in sys.argv[1:] or [*PARTS]:
        if part == "round":
            with torch.no_grad():
                PARTS[part]()
        else:
            PARTS[part]()
