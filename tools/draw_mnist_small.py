"""Draw the embedded sample of MNIST: ``python tools/draw_mnist_small.py ROOT``.

ROOT is the data root of `prunekit.mnist`. Writes ``prunekit/datasets/mnist_small.npz`` with
5,000 training, validation and test images each, the class shares of the source, and the index of
every image in its source file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from prunekit._files import replacing
from prunekit.data import hold_out
from prunekit.datasets import raw_mnist

SIZE, SEED = 5_000, 2024
TARGET = Path(__file__).parents[1] / "prunekit" / "datasets" / "mnist_small.npz"


def draw(root: str) -> None:
    source = {
        name: (x.numpy(), y.numpy().astype(np.uint8))
        for name, (x, y) in zip(("train", "test"), raw_mnist(root), strict=True)
    }
    labels = source["train"][1]
    index = {"validation": hold_out(labels, SIZE, SEED)}
    rest = np.setdiff1d(np.arange(len(labels)), index["validation"])
    index["train"] = rest[hold_out(labels[rest], SIZE, SEED + 1)]
    index["test"] = hold_out(source["test"][1], SIZE, SEED + 2)
    stored = {}
    for split in ("train", "validation", "test"):
        x, y = source["test" if split == "test" else "train"]
        stored[f"{split}_x"], stored[f"{split}_y"] = x[index[split]], y[index[split]]
        stored[f"{split}_index"] = index[split].astype(np.uint16)
    with replacing(TARGET) as path, path.open("wb") as file:
        np.savez_compressed(file, **stored)
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    draw(sys.argv[1])
