"""The networks of the papers, built from a seed or loaded with trained weights."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunekit import checkpoint, surgery
from prunekit._arguments import checked
from prunekit._files import home
from prunekit._modules import device_of
from prunekit._random import LocalRandom
from prunekit.knobs import Knob, Range


def _check_outputs(model: nn.Module, outputs: int = 10, *_: Any, **others: Any) -> None:
    """Raise ValueError unless there is an output."""
    Knob("outputs", Range(1), 10, whole=True).check(type(model).__name__, outputs)


class LeNet300100(nn.Module):
    """LeNet-300-100: three linear layers 784-300-100-10, 266,610 parameters.

    LeCun, Bottou, Bengio and Haffner 1998, doi 10.1109/5.726791. Input `(n, 1, 28, 28)`, output
    `(n, outputs)`.
    """

    @checked(check=_check_outputs)
    def __init__(self, outputs: int = 10) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.fc1(x.flatten(1)))  # (n, 300)
        x = torch.relu(self.fc2(x))  # (n, 100)
        return self.fc3(x)


class LeNet5(nn.Module):
    """LeNet-5 in the form that Caffe ships and the pruning papers use: 20-50-500-10, 431,080
    parameters; no nonlinearity but the pooling after the convolutions.

    Input `(n, 1, 28, 28)`, output `(n, outputs)`.
    """

    @checked(check=_check_outputs)
    def __init__(self, outputs: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.conv1(x), 2)  # (n, 20, 12, 12)
        x = nn.functional.max_pool2d(self.conv2(x), 2)  # (n, 50, 4, 4)
        x = torch.relu(self.fc1(x.flatten(1)))  # (n, 500)
        return self.fc2(x)


class LeNet1998(nn.Module):
    """LeNet-5 in the sizes of 1998, with ReLU and max pooling: 6-16-120-84-10, 61,706 parameters.

    LeCun, Bottou, Bengio and Haffner 1998, doi 10.1109/5.726791, figure 2; every channel of the
    second convolution sees all of the first. Input `(n, inputs, 28, 28)`, output `(n, outputs)`;
    `width` is a factor on the hidden channels.
    """

    @checked(check=_check_outputs)
    def __init__(self, outputs: int = 10, width: float = 1.0, inputs: int = 1) -> None:
        super().__init__()
        a, b, c, d = _channels(self, inputs, width, 6, 16, 120, 84)
        self.conv1 = nn.Conv2d(inputs, a, 5, padding=2)
        self.conv2 = nn.Conv2d(a, b, 5)
        self.fc1 = nn.Linear(25 * b, c)
        self.fc2 = nn.Linear(c, d)
        self.fc3 = nn.Linear(d, outputs)

    def forward(self, x: Tensor) -> Tensor:
        _check_pixels(self, x, 28)
        x = nn.functional.max_pool2d(torch.relu(self.conv1(x)), 2)  # (n, 6, 14, 14)
        x = nn.functional.max_pool2d(torch.relu(self.conv2(x)), 2)  # (n, 16, 5, 5)
        x = torch.relu(self.fc1(x.flatten(1)))  # (n, 120)
        x = torch.relu(self.fc2(x))  # (n, 84)
        return self.fc3(x)


class AlexNet(nn.Module):
    """AlexNet in the form that CIFAR papers use: five convolutions and one linear layer, 2,472,266
    parameters.

    Krizhevsky 2014, arXiv 1404.5997: its kernels, but a first padding and three poolings that leave
    one pixel of 32×32. Input `(n, inputs, 32, 32)`, output `(n, outputs)`; `width` is a factor on
    the hidden channels.
    """

    @checked(check=_check_outputs)
    def __init__(self, outputs: int = 10, width: float = 1.0, inputs: int = 3) -> None:
        super().__init__()
        a, b, c, d, e = _channels(self, inputs, width, 64, 192, 384, 256, 256)
        self.conv1 = nn.Conv2d(inputs, a, 11, stride=4, padding=5)
        self.conv2 = nn.Conv2d(a, b, 5, padding=2)
        self.conv3 = nn.Conv2d(b, c, 3, padding=1)
        self.conv4 = nn.Conv2d(c, d, 3, padding=1)
        self.conv5 = nn.Conv2d(d, e, 3, padding=1)
        self.fc = nn.Linear(e, outputs)

    def forward(self, x: Tensor) -> Tensor:
        _check_pixels(self, x, 32)
        x = nn.functional.max_pool2d(torch.relu(self.conv1(x)), 2)  # (n, 64, 4, 4)
        x = nn.functional.max_pool2d(torch.relu(self.conv2(x)), 2)  # (n, 192, 2, 2)
        x = torch.relu(self.conv4(torch.relu(self.conv3(x))))  # (n, 256, 2, 2)
        x = nn.functional.max_pool2d(torch.relu(self.conv5(x)), 2)  # (n, 256, 1, 1)
        return self.fc(x.flatten(1))


class VGG16(nn.Module):
    """VGG-16 in the form that CIFAR papers use: thirteen 3×3 convolutions, each with batch
    normalisation, and one linear layer; 14,728,266 parameters.

    Simonyan and Zisserman 2015, arXiv 1409.1556, configuration D. Input `(n, inputs, 32, 32)`,
    output `(n, outputs)`; `width` is a factor on the hidden channels.
    """

    @checked(check=_check_outputs)
    def __init__(self, outputs: int = 10, width: float = 1.0, inputs: int = 3) -> None:
        super().__init__()
        channels = _channels(self, inputs, width, 64, 128, 256, 512, 512)
        self.features = _vgg(inputs, channels, (2, 2, 3, 3, 3))
        self.fc = nn.Linear(channels[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        _check_pixels(self, x, 32)
        return self.fc(self.features(x).flatten(1))  # (n, 512) between the two


class VGGSmall(nn.Module):
    """A small VGG for digits: four 3×3 convolutions 16-16-32-32, each with batch normalisation, and
    one linear layer; 32,250 parameters.

    After Simonyan and Zisserman 2015, arXiv 1409.1556. Input `(n, inputs, 28, 28)`, output
    `(n, outputs)`; `width` is a factor on the hidden channels.
    """

    @checked(check=_check_outputs)
    def __init__(self, outputs: int = 10, width: float = 1.0, inputs: int = 1) -> None:
        super().__init__()
        channels = _channels(self, inputs, width, 16, 32)
        self.features = _vgg(inputs, channels, (2, 2))
        self.fc = nn.Linear(49 * channels[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        _check_pixels(self, x, 28)
        return self.fc(self.features(x).flatten(1))  # (n, 32 * 7 * 7) between the two


def _vgg(inputs: int, channels: list[int], depths: tuple[int, ...]) -> nn.Sequential:
    """Groups of 3×3 convolutions with batch normalisation and ReLU, a pooling after each group.

    Every group has as many convolutions as `depths` says, each to as many channels as `channels`
    says, and its pooling halves height and width.
    """
    layers: list[nn.Module] = []
    for (before, after), depth in zip(pairwise([inputs, *channels]), depths, strict=True):
        for seen in (before, *[after] * (depth - 1)):
            layers += [nn.Conv2d(seen, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


class ResNet(nn.Module):
    """A residual network for small images: a convolution and three groups of `BLOCKS` blocks.

    He, Zhang, Ren and Sun 2016, arXiv 1512.03385, section 4.2: 6 `BLOCKS` + 2 layers, of 16, 32 and
    64 channels, with shortcuts that have no parameters. Convolutions have no bias and start from
    Kaiming's normal distribution, `fan_out` and ReLU; the linear layer starts as torch's does.
    Input `(n, inputs, height, width)` of any size, output `(n, outputs)`; `width` is a factor on
    the hidden channels.
    """

    BLOCKS: int

    @checked(check=_check_outputs)
    def __init__(self, outputs: int = 10, width: float = 1.0, inputs: int = 3) -> None:
        super().__init__()
        a, b, c = _channels(self, inputs, width, 16, 32, 64)
        self.conv1 = nn.Conv2d(inputs, a, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(a)
        self.layer1 = nn.Sequential(*(Block(a, a) for _ in range(self.BLOCKS)))
        self.layer2 = nn.Sequential(Block(a, b, 2), *(Block(b, b) for _ in range(self.BLOCKS - 1)))
        self.layer3 = nn.Sequential(Block(b, c, 2), *(Block(c, c) for _ in range(self.BLOCKS - 1)))
        self.fc = nn.Linear(c, outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))  # (n, 16, 32, 32), of images 32×32
        x = self.layer3(self.layer2(self.layer1(x)))  # (n, 64, 8, 8)
        return self.fc(x.mean((2, 3)))


class ResNet20(ResNet):
    """ResNet-20 for CIFAR: three groups of three residual blocks, 269,722 parameters."""

    BLOCKS = 3


class ResNet56(ResNet):
    """ResNet-56 for CIFAR: three groups of nine residual blocks, 853,018 parameters."""

    BLOCKS = 9


class Block(nn.Module):
    """Two 3×3 convolutions with batch normalisation, and the shortcut around them.

    The shortcut has no parameters (option A of arXiv 1512.03385, section 4.1): the input itself, or
    with `stride` 2 every second pixel of it, between channels of zeros. `(n, before, h, w)` to
    `(n, after, h / stride, w / stride)`, rounded up.
    """

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            front = (after - before) // 2
            zeros = nn.ConstantPad3d((0, 0, 0, 0, front, after - before - front), 0.0)
            self.shortcut = nn.Sequential(nn.AvgPool2d(1, stride), zeros)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def _channels(model: nn.Module, inputs: int, width: float, *hidden: int) -> list[int]:
    """The `hidden` channels times `width`, rounded, at least 1 each.

    Raises ValueError unless `inputs` is 1 or 3 and `width` a number above 0.
    """
    who = type(model).__name__
    if type(inputs) is not int or inputs not in (1, 3):
        raise ValueError(f"{who}: inputs must be 1 (grey) or 3 (colour), got {inputs!r}")
    factor = Knob("width", Range(0, low_open=True), 1.0).check(who, width)
    return [max(1, round(factor * channels)) for channels in hidden]


def _check_pixels(model: nn.Module, x: Tensor, pixels: int) -> None:
    """Raise ValueError unless `x` is images of `pixels` × `pixels`."""
    if x.shape[-2:] != (pixels, pixels):
        size = "×".join(map(str, x.shape[-2:]))
        raise ValueError(
            f"{type(model).__name__}: images must be {pixels}×{pixels} pixels, got {size}"
        )


MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet_300_100": LeNet300100,
    "lenet_5": LeNet5,
    "lenet_5_1998": LeNet1998,
    "vgg_small": VGGSmall,
    "alexnet": AlexNet,
    "vgg_16": VGG16,
    "resnet_20": ResNet20,
    "resnet_56": ResNet56,
}
SHIPPED = "weights"  # the folder of `pretrained`, in the package and in the user's cache


@checked
def build(name: str, seed: int = 0, **settings: float) -> nn.Module:
    """A new model with weights drawn from `seed`; the global random state is left alone.

    `settings` go to the model, such as ``outputs=1`` or ``width=0.5``. Raises ValueError for an
    unknown model or a wrong setting, and TypeError for a setting that the model has not.

    >>> sum(p.numel() for p in build("lenet_300_100").parameters())
    266610
    """
    if name not in MODELS:
        raise ValueError(f"build: model must be one of {[*MODELS]}, got {name!r}")
    known = [*inspect.signature(MODELS[name]).parameters]
    for setting in settings:
        if setting not in known:
            near = difflib.get_close_matches(setting, known, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"build: {name} has no setting {setting!r}; it has {known}.{hint}")
    with LocalRandom(seed):
        return MODELS[name](**settings)


@checked
def pretrained(name: str, seed: int = 0, variant: str = "") -> nn.Module:
    """A trained model, started from initial weights of `seed`; in eval mode.

    The LeNets, trained on `mnist`, are shipped; with a `variant` such as ``"114x"``, pruned. Others
    are there once an experiment has trained them on this machine. Raises ValueError for one that is
    not there.
    """
    model = build(name, seed)
    with _found(name, seed, variant) as path:
        checkpoint.load_into(model, path)
    return model.eval()


@checked
def save(
    path: str | os.PathLike[str],
    model: nn.Module,
    info: Mapping[str, Any] | None = None,
    *,
    mask: Mapping[str, Tensor] | None = None,
    example: Any = None,
    half: bool = False,
) -> Path:
    """Write a network as ``path.safetensors`` and ``path.json``, so that `load` makes it again.

    info: what else to say of it, as plain JSON. mask: by names what is kept; then the kept weights
    alone are written, and where they belong. example: a batch; its shape, and what the network
    answers to random numbers of that shape, are written too, and held against the answer after
    loading. half: with 16 bits a number.

    How a network was cut is in the JSON. Of one that `build` made, its name is there too.

    Raises ValueError as `checkpoint.save` does.
    """
    told = dict(info or {})
    if built := _built(model):
        told["built"] = built
    if surgery.was_cut(model):
        told["plan"] = surgery.plan_of(model).to_json()
    if isinstance(example, Tensor) and example.is_floating_point():
        check = _check_of(model, [2, *example.shape[1:]])
        told |= {} if check is None else {"check": check}
    return checkpoint.save(path, model, told, half=half, mask=mask)


@checked
def load(path: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """The network that `save` wrote, in eval mode, cut as it was.

    model: a network of the same kind before it was cut, which stays as it is; not needed for those
        that `build` makes.

    Raises ValueError that names the file if it is missing or damaged, does not fit the model, or
    the network answers otherwise than it did when it was written.
    """
    info, what = checkpoint.read_info(path), f"load: {checkpoint.text_of(path)}"
    if model is None:
        built = info.get("built")
        if not isinstance(built, dict) or built.get("name") not in MODELS:
            raise ValueError(f"{what} is of no network that build knows. Pass the model, too.")
        model = build(built["name"], **built.get("settings", {}))
    if "plan" in info:
        try:
            plan = surgery.Plan.from_json(info["plan"])
        except (ValueError, TypeError) as error:
            raise ValueError(f"{what} is damaged: {error}") from error
        model = surgery.rebuild(model, plan)
    else:
        model = surgery.copy_of("load", model)
    checkpoint.load_into(model, path)
    if isinstance(check := info.get("check"), dict):
        found = _check_of(model, check["shape"]) or {"outputs": []}
        want, got = torch.tensor(check["outputs"]), torch.tensor(found["outputs"])
        if wrong := surgery.differs([want], [got], CLOSE):
            raise ValueError(f"{what}: the network answers otherwise than when written: {wrong}")
    return model.eval()


CLOSE = 1e-3  # of the largest output: processors round differently, and so do 16 bits


def _check_of(model: nn.Module, shape: Sequence[int]) -> dict[str, Any] | None:
    """What a network answers to random numbers of a shape; None if it cannot be told so."""
    x = torch.rand(*shape, generator=torch.Generator().manual_seed(0))
    kind = next((p.dtype for p in model.parameters()), torch.float32)
    try:
        outputs = surgery.answers(model, x.to(device_of(model), kind))[0].float().flatten(1)[:, :10]
    except Exception:
        return None
    finite = bool(outputs.isfinite().all())
    return {"shape": [*shape], "outputs": outputs.tolist()} if finite else None


def _built(model: nn.Module) -> dict[str, Any] | None:
    """The name and the settings with which `build` makes such a network, by its shapes."""
    name = next((name for name, kind in MODELS.items() if type(model) is kind), None)
    if name is None:
        return None
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}
    if surgery.was_cut(model):
        shapes |= {n: s for n, s in surgery.plan_of(model).shapes.items() if n in shapes}
    wide = [shape for shape in shapes.values() if len(shape) > 1]
    plain = [p.shape for p in MODELS[name]().parameters() if p.ndim > 1]
    guessed = {
        "outputs": wide[-1][0],
        "width": wide[0][0] / plain[0][0],
        "inputs": wide[0][1],
    }
    known = inspect.signature(MODELS[name]).parameters
    settings = {n: v for n, v in guessed.items() if n in known and v != known[n].default}
    same = {n: tuple(p.shape) for n, p in MODELS[name](**settings).named_parameters()} == shapes
    return {"name": name, "settings": settings} if same else None


@checked
def provenance(name: str, seed: int = 0, variant: str = "") -> dict[str, Any]:
    """How the weights of `pretrained` were made: knobs, seed, data, versions, accuracies."""
    with _found(name, seed, variant) as path:
        return checkpoint.read_info(path)


@checked
def file_name(name: str, seed: int, variant: str = "") -> str:
    """What the files of a trained model are called, without their ending."""
    return f"{name}-{seed}" + (f"-{variant}" if variant else "")


@contextmanager
def _found(name: str, seed: int, variant: str) -> Iterator[Path]:
    """The path, without its ending, of a trained model: in the package, or in the cache."""
    wanted = file_name(name, seed, variant)
    with resources.as_file(resources.files("prunekit") / SHIPPED) as shipped:
        found = [*(home() / SHIPPED).glob("*.safetensors"), *shipped.glob("*.safetensors")]
        there = {path.stem: path.parent for path in found}
        if wanted not in there:
            raise ValueError(
                f"models: there are no weights {wanted}, only {sorted(there)}; reproduce makes more"
            )
        yield there[wanted] / wanted
