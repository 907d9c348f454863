"""What is installed here and how it fits together, one finding a line: ``prunekit doctor``."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import prunekit
from prunekit import datasets, models
from prunekit._files import home, try_place
from prunekit._torchvision import torchvision
from prunekit.journal import environment
from prunekit.train import fastest_form

if TYPE_CHECKING:
    from packaging.requirements import Requirement

LITTLE = 1e9  # bytes: a disk with less left is soon full


@dataclass(frozen=True)
class Finding:
    """What a check found; `todo` is what to do about it, "" if it is fine."""

    name: str
    found: str
    todo: str = ""

    def __str__(self) -> str:
        return f"{'todo' if self.todo else 'ok  '} {self.name}: {self.found}" + (
            f": {self.todo}" if self.todo else ""
        )

    def plain(self) -> dict[str, object]:
        return asdict(self) | {"ok": not self.todo}


def findings() -> Iterator[Finding]:
    """All that is looked at. A check that fails is a finding too."""
    for check in CHECKS:
        name = check.__name__.removeprefix("_")
        try:
            yield from check()
        except Exception as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            yield Finding(name, said, "this check could not be made; install prunekit again")


def _python() -> Iterator[Finding]:
    yield Finding("python", f"{platform.python_version()}, {sys.executable}")
    yield Finding("prunekit", f"{prunekit.__version__}, {Path(prunekit.__file__).parent}")


def _requirements() -> list[Requirement]:
    """What the installed package needs, those for its extras last; of a checkout that is not
    installed, what its file says."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("prunekit") or []
    except metadata.PackageNotFoundError:
        import tomllib

        file = Path(prunekit.__file__).parents[1] / "pyproject.toml"
        lines = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"]
    needed = [Requirement(line) for line in lines]
    return [*{each.name: each for each in needed if each.name != "prunekit"}.values()]


def _versions() -> Iterator[Finding]:
    absent = set()
    for needed in _requirements():
        name, wanted = needed.name, str(needed.specifier)
        optional = needed.marker is not None and not needed.marker.evaluate({"extra": ""})
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            if optional:
                absent.add(name)
            else:
                yield Finding(name, "not installed", f'pip install "{name}{wanted}"')
            continue
        fits = needed.specifier.contains(version, prereleases=True)
        todo = "" if fits else f'pip install "{name}{wanted}"'
        yield Finding(name, f"{version} ({wanted})", todo)
    if absent:
        yield Finding("for tests and clusters", f"not installed: {', '.join(sorted(absent))}")


def _torch() -> Iterator[Finding]:
    """Whether torch, torchvision and numpy go together."""
    from packaging.requirements import Requirement

    for line in metadata.requires("torchvision") or []:
        wanted = Requirement(line)
        if wanted.name == "torch" and not wanted.specifier.contains(torch.__version__, True):
            todo = f'pip install "torch{wanted.specifier}", or torchvision anew'
            yield Finding("torchvision for torch", f"there is torch {torch.__version__}", todo)
    builds = {
        name: f"CUDA {cuda}" if cuda else "CPU"
        for name, cuda in (
            ("torch", torch.version.cuda),
            ("torchvision", getattr(torchvision().version, "cuda", None)),
        )
    }
    mixed = ", a mix in which all but torchvision's compiled operators works"
    text = ", ".join(f"{name} {build}" for name, build in builds.items())
    yield Finding("builds", text + mixed * (len(set(builds.values())) > 1))
    try:
        torch.zeros(1).numpy()
    except RuntimeError as error:
        todo = "install versions of torch and numpy that go together"
        yield Finding("torch with numpy", str(error), todo)


def _processor() -> Iterator[Finding]:
    about = environment()
    bf16 = "with" if about["bf16"] else "without"
    yield Finding("processor", f"{about['processor']}, {about['capability']}, {bf16} bf16")


def _precision() -> Iterator[Finding]:
    form = fastest_form(models.build("lenet_5"), datasets.mnist_small())
    yield Finding('precision="auto"', f"{form}, for LeNet-5")


def _threads() -> Iterator[Finding]:
    threads, told = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    text = f"{threads} of {cores} cores" + (f", OMP_NUM_THREADS={told}" if told else "")
    todo = f"set OMP_NUM_THREADS to at most {cores}" if threads > cores else ""
    yield Finding("threads", text, todo)


def _accelerator() -> Iterator[Finding]:
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device is not None:
        torch.ones(8, 8, device=device).sum().item()  # a driver that is too old fails here
        name = torch.cuda.get_device_name() if device.type == "cuda" else str(device)
        yield Finding("accelerator", name)
    elif shutil.which("nvidia-smi") and torch.version.cuda is None:
        yield Finding(
            "accelerator", "an NVIDIA card that this CPU build of torch cannot use",
            "install the CUDA build, see pytorch.org/get-started",
        )  # fmt: skip
    else:
        yield Finding("accelerator", "none, the processor computes")


def _sample() -> Iterator[Finding]:
    yield Finding("mnist_small", f"embedded, {datasets.mnist_small().size('test')} test images")


def _data() -> Iterator[Finding]:
    root = os.environ.get("PRUNEKIT_DATA")
    if root and not Path(root).is_dir():
        yield Finding("PRUNEKIT_DATA", f"{root} is no folder", "let it name the folder of the data")
        return
    for name in ("mnist", "cifar10", "cifar100"):
        try:
            for _ in datasets.read(name, None, download=False):
                pass  # verified as it is read
            yield Finding(name, f"whole, in {datasets.folder_of(name, None)}")
        except FileNotFoundError:
            place = root or home() / "data"
            text = f"not in {place}; prunekit.datasets.{name}(download=True) fetches it"
            yield Finding(name, text)
        except (ValueError, OSError) as error:
            found, _, todo = str(error).removeprefix(f"{name}: ").rpartition(". ")
            yield Finding(name, found or str(error), todo or "look into its folder")


def _labextension() -> Iterator[Finding]:
    command = [sys.executable, "-m", "jupyterlab.labextensions", "list"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    lines = re.sub(r"\x1b\[\d*m", "", done.stdout + done.stderr).splitlines()
    line = next((line.strip() for line in lines if line.strip().startswith("prunekit-lab ")), "")
    if not line:
        todo = "pip install prunekit again, not as an editable checkout of before it had one"
        yield Finding("JupyterLab extension", "not found", todo)
    else:
        todo = "" if "enabled OK" in line else "jupyter labextension enable prunekit-lab"
        yield Finding("JupyterLab extension", line, todo)


def _journals() -> Iterator[Finding]:
    folder = home() / "journals"
    try:
        try_place(folder / "doctor")
    except OSError as error:
        yield Finding("journals", str(error), "let PRUNEKIT_HOME name a folder that can be written")
        return
    sizes = [_size(path) for path in folder.rglob("*") if path.is_file()]
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    text = f"{folder}, {sum(sizes) / 1e6:.1f} MB in {len(sizes)} files, {free / 1e9:.1f} GB left"
    yield Finding("journals", text, "make room on this disk" if free < LITTLE else "")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a run that has just finished takes its journal away
        return 0


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _python, _versions, _torch, _processor, _precision, _threads, _accelerator, _sample, _data,
    _labextension, _journals,
)  # fmt: skip
