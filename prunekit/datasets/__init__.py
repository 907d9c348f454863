"""The data sets of the papers. `mnist_small` is embedded; torchvision downloads the others.

What is read is what was verified, byte by byte: no other file of a folder is opened.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunekit._files import home
from prunekit._torchvision import torchvision
from prunekit.data import SHORT_NAMES, SPLITS, Data, hold_out, rows_of
from prunekit.examples import Pair
from prunekit.knobs import shown

VALIDATION = 5_000  # images held out of the training set of mnist, cifar10 and cifar100

_DIGITS: dict[str, Any] = dict(classes=tuple("0123456789"), mean=(0.1307,), std=(0.3081,))

_MNIST_MD5 = {
    "MNIST/raw/train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "MNIST/raw/train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "MNIST/raw/t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "MNIST/raw/t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def _small() -> Mapping[str, np.ndarray]:
    path = resources.files("prunekit") / "datasets" / "mnist_small.npz"
    with path.open("rb") as file:
        return dict(np.load(file, allow_pickle=False))


def mnist_small() -> Data:
    """5,000 training, 5,000 validation and 5,000 test images of MNIST; embedded, no network.

    Drawn by ``tools/draw_mnist_small.py`` with the class shares of the source; the validation
    images are those of `mnist`. LeCun, Cortes and Burges, CC BY-SA 3.0. Takes 12 MB.
    """
    stored = _small()
    splits = {}
    for split in SPLITS:
        x, y = torch.from_numpy(stored[f"{split}_x"]), torch.from_numpy(stored[f"{split}_y"])
        splits[split] = (x.unsqueeze(1), y)
    return Data(splits, name="mnist_small", **_DIGITS)


def mnist(root: str | os.PathLike[str] | None = None, download: bool = False) -> Data:
    """MNIST: 55,000 training, 5,000 validation and 10,000 test images of 28×28 digits.

    The validation images are those of `mnist_small`. `root` defaults to `PRUNEKIT_DATA`, else a
    folder in the user's cache. With `download`, missing files are fetched with a progress bar.
    Raises OSError (such as FileNotFoundError), ValueError or TypeError that names the root and the
    files. Peak memory 0.2 GB.
    """
    (x, y), (test_x, test_y) = raw_mnist(root, download)
    held = _small()["validation_index"]
    return _carved("mnist", (x.unsqueeze(1), y), (test_x.unsqueeze(1), test_y), held, _DIGITS)


def raw_mnist(root: str | os.PathLike[str] | None = None, download: bool = False) -> list[Pair]:
    """The 60,000 training and 10,000 test images of MNIST, (n, 28, 28) uint8, and their labels."""
    parts = [_bytes_of_idx(content) for _, content in read("mnist", root, download)]
    return [(parts[0], parts[1].long()), (parts[2], parts[3].long())]


def _bytes_of_idx(content: bytes) -> Tensor:
    """The array of a file in the IDX format, of bytes: two 0s, the type, the number of axes, their
    lengths, and the values."""
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
    values = np.frombuffer(content, np.uint8, offset=4 + shape.nbytes)
    return torch.from_numpy(values.reshape(shape).copy())


def cifar10(root: str | os.PathLike[str] | None = None, download: bool = False) -> Data:
    """CIFAR-10: 45,000 training, 5,000 validation, 10,000 test images of 32×32 in colour.

    Training batches are cropped after a padding of 4 and mirrored (He et al. 2016, section 4.2).
    Arguments and errors as in `mnist`. Krizhevsky 2009. Peak memory 0.5 GB, kept 0.2 GB.
    """
    return _cifar("cifar10", root, download, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def cifar100(root: str | os.PathLike[str] | None = None, download: bool = False) -> Data:
    """CIFAR-100: as `cifar10`, with 100 classes."""
    return _cifar("cifar100", root, download, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


def _cifar(
    name: str,
    root: str | os.PathLike[str] | None,
    download: bool,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Data:
    x, y, n = (
        torch.empty(60_000, 3, 32, 32, dtype=torch.uint8, device="cpu"),
        np.empty(60_000, np.int64),
        0,
    )
    for _, content in read(name, root, download):
        part = pickle.loads(content, encoding="latin1")  # its makers' own, verified
        if "data" not in part:  # the last file: names
            classes = part.get("label_names") or part["fine_label_names"]
            continue
        rows = slice(n, n := n + len(part["data"]))
        x[rows] = torch.from_numpy(part["data"]).view(-1, 3, 32, 32)
        y[rows] = part.get("labels") or part["fine_labels"]
    labels = torch.from_numpy(y)
    full, test = (x[:50_000], labels[:50_000]), (x[50_000:].clone(), labels[50_000:].clone())
    held = hold_out(full[1].numpy(), VALIDATION, seed=0)
    settings = dict(classes=classes, mean=mean, std=std, augment=crop_and_mirror)
    return _carved(name, full, test, held, settings)


def _carved(name: str, full: Pair, test: Pair, held: np.ndarray, settings: dict[str, Any]) -> Data:
    rest = np.setdiff1d(np.arange(len(full[1])), held)
    splits = {"train": rows_of(full, rest), "validation": rows_of(full, held), "test": test}
    return Data(splits, name=name, **settings)


def crop_and_mirror(x: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """Shift each image by up to `padding` pixels and mirror every other one; x `(n, c, h, w)`.

    Drawn on the CPU, computed on the device of x; the result is laid out channels last.
    """
    n, c, h, w = x.shape
    shifts = torch.randint(0, 2 * padding + 1, (2, n, 1), generator=generator, device="cpu")
    top, left = shifts.to(x.device)
    chances = torch.rand(n, 1, generator=generator, dtype=torch.float32, device="cpu")
    mirrored = (chances < 0.5).to(x.device)
    rows = top + torch.arange(h, device=x.device)  # (n, h)
    columns = left + torch.arange(w, device=x.device)  # (n, w)
    columns = torch.where(mirrored, columns.flip(1), columns)
    high, wide = h + 2 * padding, w + 2 * padding
    padded = x.new_zeros(n, high, wide, c)
    padded[:, padding : padding + h, padding : padding + w] = x.permute(0, 2, 3, 1)
    lines = torch.arange(n, device=x.device)[:, None] * high + rows  # (n, h), in n · high
    pixels = lines[:, :, None] * wide + columns[:, None, :]  # (n, h, w), in n · high · wide
    picked = padded.view(-1, c).index_select(0, pixels.flatten())
    return picked.view(n, h, w, c).permute(0, 3, 1, 2)


SHORT_NAMES[crop_and_mirror] = "crop_and_mirror"


def _files_of(name: str) -> dict[str, str]:
    """The files of a data set below the root, with their md5 (torchvision's own, for CIFAR)."""
    if name == "mnist":
        return _MNIST_MD5
    source = getattr(torchvision().datasets, name.upper())
    meta = [source.meta["filename"], source.meta["md5"]]
    listed = [*source.train_list, *source.test_list, meta]
    return {f"{source.base_folder}/{file}": md5 for file, md5 in listed}


def read(
    name: str, root: str | os.PathLike[str] | None, download: bool
) -> Iterator[tuple[str, bytes]]:
    """Each file of a data set and its content, verified; fetched before if `download` is set."""
    if not isinstance(download, bool):
        raise TypeError(f"{name}: download must be True or False, got {shown(download)}")
    folder, files = folder_of(name, root), _files_of(name)
    absent = _absent(name, folder, files)
    if absent and download:
        _fetch(name, folder)
        absent = _absent(name, folder, files)
    if absent:
        raise FileNotFoundError(
            f"{name}: the data root {folder} lacks {', '.join(absent)}. Either call "
            f"{name}(download=True), or set PRUNEKIT_DATA to a folder that holds them."
        )
    for file, md5 in files.items():
        try:
            content = (folder / file).read_bytes()
        except OSError as error:
            raise OSError(f"{name}: {folder / file} cannot be read: {error}") from error
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != md5:
            raise ValueError(
                f"{name}: {folder / file} is truncated or altered (md5 {found}, must be {md5}). "
                f"Delete it and call {name}(download=True)."
            )
        yield file, content


def folder_of(name: str, root: Any) -> Path:
    """The data root: the argument, else `PRUNEKIT_DATA`, else a folder in the user's cache."""
    if not isinstance(root, (str, os.PathLike, type(None))):
        raise TypeError(f"{name}: root must be the path of a folder, got {shown(root)}")
    folder = Path(root or os.environ.get("PRUNEKIT_DATA") or home() / "data").expanduser()
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{name}: the data root {folder} must be a folder, it is a file")
    return folder


def _absent(name: str, folder: Path, files: Iterable[str]) -> list[str]:
    """The files that are not there."""
    try:
        return [file for file in files if not (folder / file).is_file()]
    except OSError as error:
        raise PermissionError(
            f"{name}: the data root {folder} cannot be read: {error}. Set PRUNEKIT_DATA to a "
            "folder that can."
        ) from error


def _fetch(name: str, folder: Path) -> None:
    """Download a data set below the folder."""
    try:
        if name == "mnist":
            _raw_mnist()(folder, download=True)
        else:
            for train in (True, False):
                getattr(torchvision().datasets, name.upper())(folder, train, download=True)
    except Exception as error:
        raise ConnectionError(f"{name}: the download to {folder} failed: {error}") from error


def _raw_mnist() -> Any:
    """torchvision's MNIST without its way to read what versions before 0.9 left: pickles that
    nobody verified. Its name is that of the folder."""
    mnist = torchvision().datasets.MNIST
    return type("MNIST", (mnist,), {"_check_legacy_exist": lambda self: False})
