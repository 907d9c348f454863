"""Counts and judges the shipped networks without this package: plain torch and safetensors.

``PRUNEKIT_DATA=... python tests/count_shipped.py`` prints, for each of them, the non-zero
parameters, the compression and the errors on the test images, beside what its file says.
"""

import gzip
import json
import os
import pickle
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

WEIGHTS = Path(__file__).parents[1] / "prunekit" / "weights"
NO_PARAMETERS = ("running_mean", "running_var", "num_batches_tracked")


def idx(path):
    """The array in a file of MNIST, gzipped or not."""
    packed = path.with_name(path.name + ".gz")
    raw = path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes())
    dimensions = raw[3]
    shape = np.frombuffer(raw, ">i4", dimensions, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def digits(root):
    """The test images of MNIST, normalised, and their classes."""
    folder = Path(root) / "MNIST" / "raw"
    x = torch.from_numpy(idx(folder / "t10k-images-idx3-ubyte").astype(np.float32))
    y = torch.from_numpy(idx(folder / "t10k-labels-idx1-ubyte").astype(np.int64))
    return ((x / 255 - 0.1307) / 0.3081).unsqueeze(1), y


def pictures(root):
    """The test images of CIFAR-10, normalised, and their classes."""
    path = Path(root) / "cifar-10-batches-py" / "test_batch"
    batch = pickle.loads(path.read_bytes(), encoding="bytes")
    x = torch.from_numpy(batch[b"data"].reshape(-1, 3, 32, 32).astype(np.float32)) / 255
    mean, std = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    x = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    return x, torch.tensor(batch[b"labels"])


def images_for(path, root):
    """The test images that the network of a file looks at."""
    colour = any(t.ndim == 4 and t.shape[1] == 3 for t in load_file(path).values())
    return pictures(root) if colour else digits(root)


class Layers:
    """Layers by the names of their tensors, applied to images."""

    def __init__(self, tensors):
        self.w = {name: tensor.float() for name, tensor in tensors.items()}

    def conv(self, name, x, **settings):
        return F.conv2d(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"), **settings)

    def linear(self, name, x):
        return F.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def norm(self, name, x):
        mean, var = self.w[f"{name}.running_mean"], self.w[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def lenet_300_100(self, x):
        x = F.relu(self.linear("fc1", x.flatten(1)))
        return self.linear("fc3", F.relu(self.linear("fc2", x)))

    def lenet_5(self, x):
        x = F.max_pool2d(self.conv("conv1", x), 2)
        x = F.max_pool2d(self.conv("conv2", x), 2)
        return self.linear("fc2", F.relu(self.linear("fc1", x.flatten(1))))

    def lenet_5_1998(self, x):
        x = F.max_pool2d(F.relu(self.conv("conv1", x, padding=2)), 2)
        x = F.max_pool2d(F.relu(self.conv("conv2", x)), 2)
        return self.lenet_300_100(x)  # which ends in three linear layers too

    def alexnet(self, x):
        x = F.max_pool2d(F.relu(self.conv("conv1", x, stride=4, padding=5)), 2)
        x = F.max_pool2d(F.relu(self.conv("conv2", x, padding=2)), 2)
        for name in ("conv3", "conv4", "conv5"):
            x = F.relu(self.conv(name, x, padding=1))
        return self.linear("fc", F.max_pool2d(x, 2).flatten(1))

    def vgg(self, x):
        """Convolution, norm and ReLU take three places in a row; a place left out is a pooling."""
        places = sorted(int(n.split(".")[1]) for n, t in self.w.items() if t.ndim == 4)
        for place, following in zip(places, [*places[1:], None], strict=True):
            x = self.conv(f"features.{place}", x, padding=1)
            x = F.relu(self.norm(f"features.{place + 1}", x))
            if following != place + 3:
                x = F.max_pool2d(x, 2)
        return self.linear("fc", x.flatten(1))

    def resnet(self, x):
        x = F.relu(self.norm("bn1", self.conv("conv1", x, padding=1)))
        for group in (1, 2, 3):
            block = 0
            while f"layer{group}.{block}.conv1.weight" in self.w:
                x = self.block(f"layer{group}.{block}", x, 2 if group > 1 and block == 0 else 1)
                block += 1
        return self.linear("fc", x.mean((2, 3)))

    def block(self, name, x, stride):
        y = self.conv(f"{name}.conv1", x, stride=stride, padding=1)
        y = self.conv(f"{name}.conv2", F.relu(self.norm(f"{name}.bn1", y)), padding=1)
        y = self.norm(f"{name}.bn2", y)
        x = x[:, :, ::stride, ::stride]
        front = (y.shape[1] - x.shape[1]) // 2
        behind = y.shape[1] - x.shape[1] - front
        return F.relu(y + F.pad(x, (0, 0, 0, 0, front, behind)))


KINDS = {"resnet_20": "resnet", "resnet_56": "resnet", "vgg_16": "vgg", "vgg_small": "vgg"}


def answers(name, tensors, x):
    """The outputs of the network of that name with these tensors."""
    return getattr(Layers(tensors), KINDS.get(name, name))(x)


def counted(path, images=None):
    """What is in a file: parameters, those that are not zero, and errors on the images."""
    tensors = load_file(path)
    w = [tensor for name, tensor in tensors.items() if not name.endswith(NO_PARAMETERS)]
    found = {
        "parameters": sum(tensor.numel() for tensor in w),
        "nonzero": sum(int(torch.count_nonzero(tensor)) for tensor in w),
    }
    if images is not None:
        (x, y), name = images, path.stem.split("-")[0]
        with torch.no_grad():
            right = (
                torch.cat([answers(name, tensors, part).argmax(1) for part in x.split(250)]) == y
            )
        found["errors"] = int((~right).sum())
    return found


def shipped():
    """The files of models, dense and pruned, with what is said about each."""
    paths = sorted(WEIGHTS.glob("*.safetensors"))
    return [(path, json.loads(path.with_suffix(".json").read_text())) for path in paths]


def main():
    for path, said in shipped():
        found = counted(path, images_for(path, os.environ["PRUNEKIT_DATA"]))
        print(
            f"{path.stem}: {found['nonzero']:,} of {found['parameters']:,} are not zero "
            f"({found['parameters'] / found['nonzero']:.1f}×), {found['errors']} test errors; "
            f"the file says {said['kept']:,} kept, {said['after']['test']} errors"
        )


if __name__ == "__main__":
    main()
