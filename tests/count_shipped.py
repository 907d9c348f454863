"""Counts and judges the shipped LeNets without this package: plain torch and safetensors.

``PRUNEKIT_DATA=... python tests/count_shipped.py`` prints, for each of them, the non-zero
parameters, the compression and the errors on MNIST's test images, beside what its file says.
"""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

WEIGHTS = Path(__file__).parents[1] / "prunekit" / "weights"


def idx(path):
    """The array in a file of MNIST, gzipped or not."""
    packed = path.with_name(path.name + ".gz")
    raw = path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes())
    dimensions = raw[3]
    shape = np.frombuffer(raw, ">i4", dimensions, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def test_images(root):
    folder = Path(root) / "MNIST" / "raw"
    x = torch.from_numpy(idx(folder / "t10k-images-idx3-ubyte").astype(np.float32))
    y = torch.from_numpy(idx(folder / "t10k-labels-idx1-ubyte").astype(np.int64))
    return ((x / 255 - 0.1307) / 0.3081).unsqueeze(1), y


test_images.__test__ = False  # not for pytest


def answers(w, x):
    """The outputs of LeNet-300-100 or LeNet-5, whichever these tensors belong to."""
    if "conv1.weight" in w:
        x = F.max_pool2d(F.conv2d(x, w["conv1.weight"], w["conv1.bias"]), 2)
        x = F.max_pool2d(F.conv2d(x, w["conv2.weight"], w["conv2.bias"]), 2)
        x = F.relu(F.linear(x.flatten(1), w["fc1.weight"], w["fc1.bias"]))
        return F.linear(x, w["fc2.weight"], w["fc2.bias"])
    x = F.relu(F.linear(x.flatten(1), w["fc1.weight"], w["fc1.bias"]))
    x = F.relu(F.linear(x, w["fc2.weight"], w["fc2.bias"]))
    return F.linear(x, w["fc3.weight"], w["fc3.bias"])


def counted(path, images=None):
    """What is in a file: parameters, those that are not zero, and errors on the images."""
    w = load_file(path)
    found = {
        "parameters": sum(tensor.numel() for tensor in w.values()),
        "nonzero": sum(int(torch.count_nonzero(tensor)) for tensor in w.values()),
    }
    if images is not None:
        x, y = images
        with torch.no_grad():
            right = torch.cat([answers(w, part).argmax(1) for part in x.split(500)]) == y
        found["errors"] = int((~right).sum())
    return found


def shipped():
    """The files of models, dense and pruned, with what is said about each."""
    paths = sorted(WEIGHTS.glob("*.safetensors"))
    return [(path, json.loads(path.with_suffix(".json").read_text())) for path in paths]


def main():
    images = test_images(os.environ["PRUNEKIT_DATA"])
    for path, said in shipped():
        found = counted(path, images)
        print(
            f"{path.stem}: {found['nonzero']:,} of {found['parameters']:,} are not zero "
            f"({found['parameters'] / found['nonzero']:.1f}×), {found['errors']} test errors; "
            f"the file says {said['kept']:,} kept, {said['after']['test']} errors"
        )


if __name__ == "__main__":
    main()
