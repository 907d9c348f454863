"""`prunekit doctor`: a line for each check, whatever it finds."""

import json
import re
import shutil
import subprocess
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

from prunekit import datasets, doctor
from prunekit.__main__ import main
from prunekit.doctor import Finding


def found(check):
    """name -> finding."""
    return {finding.name: finding for finding in check()}


def test_lines_and_json_say_the_same_and_the_code_is_whether_all_is_fine(capsys, monkeypatch):
    good, bad = Finding("good", "fine"), Finding("bad", "broken", "mend it")
    for checks, code in (([good], 0), ([good, bad], 1)):
        monkeypatch.setattr(doctor, "CHECKS", (lambda checks=checks: iter(checks),))
        assert main(["doctor"]) == code
        lines = capsys.readouterr().out.splitlines()
        assert lines == ["ok   good: fine", "todo bad: broken: mend it"][: len(checks)]
        assert main(["doctor", "--json"]) == code
        told = json.loads(capsys.readouterr().out)
        assert [(each["name"], each["ok"]) for each in told] == [
            (finding.name, finding is good) for finding in checks
        ]


def test_everything_is_looked_at_and_a_line_each(capsys):
    main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert all(re.match(r"(ok  |todo) \S", line) for line in lines)
    for name in (
        "python", "torch", "torchvision", "ipywidgets", "jupyterlab", "seaborn", "builds",
        "processor", 'precision="auto"', "threads", "accelerator", "mnist_small",
        "JupyterLab extension", "journals",
    ):  # fmt: skip
        assert sum(line[5:].startswith(f"{name}: ") for line in lines) == 1, name


@pytest.mark.parametrize("check", doctor.CHECKS, ids=lambda check: check.__name__)
def test_a_check_that_fails_is_a_finding(check, monkeypatch):
    def failing():
        raise RuntimeError("two\nlines")
        yield

    failing.__name__ = check.__name__
    monkeypatch.setattr(doctor, "CHECKS", (failing, doctor._sample))
    broken, fine = doctor.findings()
    assert broken.name == check.__name__[1:]
    assert (broken.found, bool(broken.todo)) == ("RuntimeError: two lines", True)
    assert not fine.todo


def test_versions_that_do_not_fit_are_told_with_the_command(monkeypatch):
    needs = ["torch>=9.9", "nosuch>=1", 'alsonot>=1; extra == "test"', "numpy>=1", "dev>=2"]
    monkeypatch.setattr(metadata, "requires", lambda name: needs)
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda n: "2.1.dev0+x" if n == "dev" else real(n))
    told = found(doctor._versions)
    assert told["torch"].todo == 'pip install "torch>=9.9"'
    assert (told["nosuch"].found, told["nosuch"].todo) == (
        "not installed", 'pip install "nosuch>=1"'
    )  # fmt: skip
    assert told["for tests and clusters"] == Finding(
        "for tests and clusters", "not installed: alsonot"
    )
    assert not told["numpy"].todo
    assert not told["dev"].todo

    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", absent)  # a checkout that is not installed
    assert {"torch", "seaborn"} <= found(doctor._versions).keys()


def test_builds_that_do_not_go_together_are_told(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    fake = SimpleNamespace(version=SimpleNamespace(cuda="13.0"))
    monkeypatch.setattr(doctor, "torchvision", lambda: fake)
    told = found(doctor._torch)["builds"]
    assert told.found.startswith("torch CPU, torchvision CUDA 13.0, a mix")
    assert not told.todo  # it works here
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy", "torch==1.0"])
    assert 'pip install "torch==1.0"' in found(doctor._torch)["torchvision for torch"].todo

    def without(*_):
        raise RuntimeError("Numpy is not available")

    monkeypatch.setattr(torch, "zeros", lambda n: SimpleNamespace(numpy=without))
    assert found(doctor._torch)["torch with numpy"].found == "Numpy is not available"


def test_a_card_that_this_torch_cannot_use_is_told(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    for which, todo in ((None, False), ("/usr/bin/nvidia-smi", True)):
        monkeypatch.setattr(shutil, "which", lambda name, which=which: which)
        assert bool(found(doctor._accelerator)["accelerator"].todo) == todo


def test_more_threads_than_cores_are_told(monkeypatch):
    for threads, todo in ((1, False), (10_000, True)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert bool(found(doctor._threads)["threads"].todo) == todo


def test_absent_data_are_no_fault_and_damaged_ones_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNEKIT_DATA", str(tmp_path / "none"))
    assert found(doctor._data)["PRUNEKIT_DATA"].todo
    monkeypatch.setenv("PRUNEKIT_DATA", str(tmp_path))
    told = found(doctor._data)
    assert [*told] == ["mnist", "cifar10", "cifar100"]
    assert not any(finding.todo for finding in told.values())
    assert str(tmp_path) in told["mnist"].found
    assert "mnist(download=True)" in told["mnist"].found
    for name in datasets._MNIST_MD5:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"damaged")
    told = found(doctor._data)["mnist"]
    assert str(tmp_path / "MNIST/raw/train-images-idx3-ubyte") in told.found
    assert told.todo.startswith("Delete it")


@pytest.mark.parametrize(
    ("lines", "todo"),
    [
        ("        prunekit-lab v0.1.0 \x1b[32menabled\x1b[0m \x1b[32mOK\x1b[0m (python)", ""),
        ("        prunekit-lab v0.1.0 \x1b[31mdisabled\x1b[0m \x1b[32mOK\x1b[0m", "enable"),
        ("        other v0.1.0 enabled OK", "install"),
    ],
)
def test_the_extension_is_looked_up_without_a_server(monkeypatch, lines, todo):
    done = SimpleNamespace(stdout="", stderr=f"JupyterLab v4\n{lines}\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    told = found(doctor._labextension)["JupyterLab extension"]
    assert todo in told.todo
    assert bool(todo) == bool(told.todo)
    assert "\x1b" not in told.found


def test_the_folder_of_the_journals_is_tried_and_measured(monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNEKIT_HOME", str(tmp_path / "new"))
    told = found(doctor._journals)["journals"]
    assert "0.0 MB in 0 files" in told.found
    assert not (tmp_path / "new").exists()
    (tmp_path / "new/journals/a").mkdir(parents=True)
    (tmp_path / "new/journals/a/b").write_bytes(bytes(2_000_000))
    assert "2.0 MB in 1 files" in found(doctor._journals)["journals"].found
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000_000))
    assert found(doctor._journals)["journals"].todo == "make room on this disk"
    (tmp_path / "file").touch()
    monkeypatch.setenv("PRUNEKIT_HOME", str(tmp_path / "file"))
    assert "PRUNEKIT_HOME" in found(doctor._journals)["journals"].todo
