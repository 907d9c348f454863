"""The files of the data sets: what is read is what was verified, wherever the root lies."""

import builtins
import io
import os
import pathlib
import pickle

import pytest
import torch

from prunekit import datasets as named
from prunekit.datasets import mnist, raw_mnist

MNIST = "a77a7f3d30998d3b"  # the key of the full data set


@pytest.fixture
def linked(data_root, tmp_path):
    """A root with links to MNIST's files."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in named._files_of("mnist"):
        os.symlink(pathlib.Path(data_root).resolve() / file, tmp_path / file)
    return tmp_path


def test_what_old_versions_of_torchvision_left_is_never_read(linked, monkeypatch):
    processed = linked / "MNIST" / "processed"
    processed.mkdir()
    for file in ("training.pt", "test.pt"):
        torch.save(
            (torch.full((9, 28, 28), 7, dtype=torch.uint8), torch.arange(9)), processed / file
        )

    def refused(*args, **kwargs):
        raise AssertionError("a pickle is read")

    monkeypatch.setattr(torch, "load", refused)
    monkeypatch.setattr(pickle, "load", refused)
    assert mnist(linked).key == MNIST
    (linked / "MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    source = named.torchvision().datasets.MNIST
    asked = []
    monkeypatch.setattr(source, "download", lambda self: asked.append(self.raw_folder))
    with pytest.raises(ConnectionError, match="mnist: the download to .* failed"):
        mnist(linked, download=True)
    assert asked == [str(linked / "MNIST" / "raw")]


def test_files_are_read_once_so_that_what_is_used_is_what_was_verified(data_root, monkeypatch):
    opened, real = [], builtins.open
    for owner, name in ((builtins, "open"), (io, "open")):
        monkeypatch.setattr(
            owner, name, lambda file, *a, **k: opened.append(str(file)) or real(file, *a, **k)
        )
    raw_mnist(data_root)
    named.cifar10(data_root)
    files = [str(pathlib.Path(data_root) / file) for name in ("mnist", "cifar10")
             for file in named._files_of(name)]  # fmt: skip
    assert sorted(file for file in opened if file.startswith(data_root)) == sorted(files)


def test_the_files_of_mnist_are_those_that_torchvision_reads(data_root):
    for train, (x, y) in zip((True, False), raw_mnist(data_root), strict=True):
        part = named.torchvision().datasets.MNIST(data_root, train)
        assert torch.equal(x, part.data)
        assert torch.equal(y, part.targets)


def test_a_tilde_is_the_home_of_the_user(linked, monkeypatch):
    monkeypatch.setenv("HOME", str(linked))
    monkeypatch.setenv("USERPROFILE", str(linked))
    assert mnist("~").key == MNIST
    monkeypatch.setenv("PRUNEKIT_DATA", "~/nowhere")
    with pytest.raises(FileNotFoundError) as error:
        mnist()
    assert str(linked / "nowhere") in str(error.value)


def test_a_root_that_is_a_file_or_cannot_be_read_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="mnist: the data root .*file must be a folder"):
        mnist(tmp_path / "file")

    def denied(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(pathlib.Path, "is_file", denied)
    with pytest.raises(PermissionError, match=f"mnist: the data root {tmp_path} cannot be read"):
        mnist(tmp_path)


def test_a_file_that_cannot_be_read_is_told(linked, monkeypatch):
    def denied(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(pathlib.Path, "read_bytes", denied)
    with pytest.raises(OSError, match="mnist: .*train-images-idx3-ubyte cannot be read: .*denied"):
        mnist(linked)


@pytest.mark.parametrize("root", [5, True, b"data", ["data"]])
def test_a_root_that_is_no_path_is_refused(root):
    with pytest.raises(TypeError, match="cifar10: root must be the path of a folder, got"):
        named.cifar10(root)
