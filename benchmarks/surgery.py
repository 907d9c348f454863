"""What cutting filters out saves: ``python benchmarks/surgery.py [latency] [depth] [zeros]``.

latency: VGG-16 without 30, 50 and 70 % of its filters, as milliseconds, and as time ratio over
multiply-add ratio: 1 where half of the multiply-adds take half of the time. Once against the dense
network in the same layout of memory, once against the faster dense one of the two. The aim: at most
1.10 within channels-last, widths in multiples of 8, batch 32, one thread. Networks take turns.
depth: what `groups` and a proven `shrink` cost, for deeper and deeper residual networks.
zeros: what zeros in a linear layer save: nothing in dense kernels, something in sparse ones once
there are many.

With ``prunekit[onnx]`` installed, it is measured beside PyTorch.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ratios import ratio, show
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from prunekit import count, interop, models, select, surgery
from prunekit.mask import Mask

SHARES, BATCHES, THREADS, SECONDS = (0.3, 0.5, 0.7), (1, 32), (1, 2), 20.0


def cut(model: nn.Module, x: torch.Tensor, share: float, multiple: int) -> nn.Module:
    """The network without a share of the filters of each layer, those with the smallest norms."""
    groups = surgery.groups(model, x)
    scores = {n: p.detach() ** 2 for n, p in model.named_parameters() if p.ndim > 1}
    pooled = select.pool(scores, "filter", groups=groups)
    whole = Mask({name: torch.ones(s.shape, dtype=torch.bool) for name, s in pooled.items()})
    units = select.largest(pooled, share, "layer", whole, multiple)
    return surgery.shrink(model, select.spread(units, groups), x)


def fused(model: Any) -> nn.Module:
    """The same with each norm folded into the convolution before it."""
    model = copy.deepcopy(model).eval()
    layers = list[nn.Module]()
    for layer in model.features:
        if isinstance(layer, nn.BatchNorm2d):
            layers[-1] = fuse_conv_bn_eval(layers[-1], layer)  # type: ignore[type-var]
        else:
            layers.append(layer)
    model.features = nn.Sequential(*layers)
    return model


class Onnx(nn.Module):
    """A network in ONNX Runtime."""

    def __init__(self, model: nn.Module, x: torch.Tensor, threads: int):
        super().__init__()
        import onnxruntime

        with tempfile.TemporaryDirectory() as folder:
            two = x if len(x) > 1 else x.expand(2, *x.shape[1:]).contiguous()
            file = interop.to_onnx(model, two, Path(folder) / "net.onnx").read_bytes()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            file, options, providers=["CPUExecutionProvider"]
        )
        self.name = self.session.get_inputs()[0].name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.session.run(None, {self.name: x.numpy()})[0])


def latency() -> None:
    with_onnx = onnx_there()
    model, x = models.build("vgg_16").eval(), torch.rand(2, 3, 32, 32)
    networks = {"dense": model}
    for share in SHARES:
        for multiple in (1, 8, 16):
            networks[f"{share:.0%}, ×{multiple}"] = cut(model, x, share, multiple)
    macs = {name: count.macs(network, x).dense for name, network in networks.items()}
    for threads in THREADS:
        for batch in BATCHES:
            measured(networks, macs, threads, batch, with_onnx)


def measured(
    networks: dict[str, nn.Module],
    macs: dict[str, int],
    threads: int,
    batch: int,
    with_onnx: bool,
) -> None:
    print(f"\nVGG-16, batch {batch}, {threads} thread{'s' * (threads > 1)}: milliseconds, and time")
    print("ratio / multiply-add ratio to the dense network in the same layout, to the faster one")
    x = torch.rand(batch, 3, 32, 32)
    last = torch.channels_last
    forms: dict[str, Callable[[nn.Module], nn.Module]] = {
        "contiguous": copy.deepcopy,
        "channels-last": lambda m: copy.deepcopy(m).to(memory_format=last),
        "channels-last, fused": lambda m: fused(m).to(memory_format=last),
    }
    if with_onnx:
        forms["ONNX Runtime"] = lambda m: Onnx(m, x, threads)
    dense: dict[str, float] = {}
    for form, change in forms.items():
        placed = x.to(memory_format=last) if "last" in form else x
        told = count.latency(
            {name: change(m) for name, m in networks.items()}, placed,
            seconds=SECONDS, threads=threads,
        )  # fmt: skip
        dense[form] = told["dense"].median
        faster = min(dense[f] for f in ("contiguous", "channels-last") if f in dense)
        for name, each in told.items():
            share = macs[name] / macs["dense"]
            own, best = (each.median / t / share for t in (dense[form], faster))
            text = f"{form:<22} {name:<10} {each!s:<32} {own:5.2f} {best:5.2f}"
            aimed = (form, batch, threads) == ("channels-last", 32, 1) and name.endswith(
                ("×8", "×16")
            )
            verdict = f"   aim ≤ 1.10: {'ok' if own <= 1.10 else 'MISSED'}" if aimed else ""
            print(text + verdict, flush=True)


def onnx_there() -> bool:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        print("ONNX Runtime: not installed, left out")
        return False
    return True


def depth() -> None:
    print("\ngroups and a proven shrink of half of the inner filters, CPU seconds on one thread")
    torch.set_num_threads(1)
    surgery.groups(models.build("resnet_20"), torch.rand(2, 3, 32, 32))  # what is imported once
    for name, blocks in (
        ("ResNet-20", 3),
        ("ResNet-56", 9),
        ("ResNet-110", 18),
        ("ResNet-1202", 200),
    ):
        kind = type(name.replace("-", ""), (models.ResNet,), {"BLOCKS": blocks})
        model, x = kind().eval(), torch.rand(2, 3, 32, 32)
        layers = 6 * blocks + 2
        tracemalloc.start()
        begun = time.process_time()
        groups = surgery.groups(model, x)
        found = time.process_time() - begun
        memory = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
        begun = time.process_time()
        cut(model, x, 0.5, 1)
        took = time.process_time() - begun
        a_layer = [1e3 * value / layers for value in (found, memory, took)]  # ms, kB, ms
        print(
            f"{name:<12} groups {found:6.2f} s ({a_layer[0]:5.1f} ms a layer), {memory:6.1f} MB "
            f"({a_layer[1]:5.1f} kB a layer); with shrink {took:6.2f} s ({a_layer[2]:5.1f} ms a "
            f"layer); {len(groups)} families",
            flush=True,
        )
    for name, build, pixels, aim in (
        ("ResNet-56", lambda: models.build("resnet_56"), 32, 1.0),
        ("VGG-16", lambda: models.build("vgg_16"), 32, 1.5),
        ("densenet121", densenet121, 64, 2.0),
    ):
        model, x = build().eval(), torch.rand(2, 3, pixels, pixels)
        mask = first_of_each(surgery.groups(model, x))
        begun = time.process_time()
        surgery.groups(model, x)
        surgery.shrink(model, mask, x)
        took = time.process_time() - begun
        verdict = "ok" if took <= aim else "MISSED"
        print(f"{name:<12} groups and shrink {took:.2f} s   aim ≤ {aim}: {verdict}", flush=True)


def densenet121() -> nn.Module:
    from prunekit._torchvision import torchvision

    return torchvision().models.densenet121()


def first_of_each(groups: surgery.Groups) -> Mask:
    """The mask without the first third of each family."""
    pooled = {n: torch.arange(len(groups.members[n])).float().unsqueeze(1) for n in groups.names}
    whole = Mask({n: torch.ones(s.shape, dtype=torch.bool) for n, s in pooled.items()})
    return select.spread(select.largest(pooled, 1 / 3, "layer", whole), groups)


def zeros() -> None:
    print("\na linear layer with zeros / the dense one, batch 32, one thread")
    torch.set_num_threads(1)
    for out, ins in ((300, 784), (1024, 1024)):
        for sparsity in (0.5, 0.9, 0.98):
            zeroed(out, ins, sparsity)


def zeroed(out: int, ins: int, sparsity: float) -> None:
    x, dense = torch.rand(32, ins), torch.randn(out, ins)
    w = dense * (torch.rand(out, ins) >= sparsity)
    sparse, where = w.to_sparse_csr(), f"{out} × {ins}, sparsity {sparsity}"
    peer = lambda: x @ dense.t()  # noqa: E731
    show(f"{where}, dense kernels", ratio(lambda: x @ w.t(), peer, 99))
    show(f"{where}, CSR", ratio(lambda: (sparse @ x.t()).t(), peer, 99))


if __name__ == "__main__":
    with torch.no_grad():
        for part in sys.argv[1:] or ["latency", "depth", "zeros"]:
            {"latency": latency, "depth": depth, "zeros": zeros}[part]()
