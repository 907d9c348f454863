"""The files around the package agree with one another."""

import ensurepip
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


def requirements():
    """name -> lower bound, as pyproject.toml says."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pairs = (re.fullmatch(r"([\w-]+)>=([\d.]+)", line) for line in project["dependencies"])
    return {match[1]: match[2] for match in pairs} | {"python": project["requires-python"][2:]}


def test_binder_reads_the_same_environment_as_conda():
    assert (ROOT / "binder/environment.yml").read_bytes() == (ROOT / "environment.yml").read_bytes()


def test_conda_and_pip_have_the_same_lower_bounds():
    lines = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = dict(
        re.fullmatch(r"([\w-]+) >=([\d.]+)( cpu\*)?", x).groups()[:2] for x in lines if x != "pip"
    )
    assert conda == {CONDA_NAMES.get(name, name): bound for name, bound in requirements().items()}


def test_conda_takes_the_cpu_build_of_torch():
    lines = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert next(line for line in lines if line.startswith("pytorch ")).endswith(" cpu*")


def test_the_tested_versions_satisfy_the_lower_bounds():
    pinned = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    for name, bound in requirements().items():
        if name != "python":
            low, tested = ([int(n) for n in v.split(".")] for v in (bound, pinned[name]))
            assert tested >= low, name


def test_binder_stops_at_the_first_error():
    lines = (ROOT / "binder/postBuild").read_text().splitlines()
    assert next(line for line in lines if not line.startswith("#")) == "set -e"


def test_a_badge_opens_its_notebook_on_binder():
    script = [sys.executable, ROOT / "tools/badges.py"]
    done = subprocess.run([*script, "me/copy"], capture_output=True, text=True, check=True)
    for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"):
        place = f"/gh/me/copy/HEAD?urlpath=lab%2Ftree%2Fnotebooks%2F{path.name})"
        assert done.stdout.count(place) == 1
    for words in ([], ["me"], ["me/copy/more"], ["me/copy", "a", "b"]):
        done = subprocess.run([*script, *words], capture_output=True, text=True)
        assert done.returncode == 1
        assert "OWNER/REPO" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_the_scripts_are_valid_shell():
    for script in ("binder/postBuild", ".ci/run"):
        subprocess.run(["bash", "-n", ROOT / script], check=True)


def test_the_readme_examples_run(tmp_path):
    parts = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    example = "\n".join(parts)
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert len(parts) == 7
    assert done.stdout.count("parameters kept") == 3  # a loop of one's own prints nothing
    assert json.loads((tmp_path / "pruned.json").read_text())["method"] == "magnitude"


def test_an_old_python_or_one_without_venv_gets_one_line(tmp_path):
    script = (ROOT / "tools/install.py").read_text()
    old = "import sys; sys.version_info = (3, 8, 1)\n"
    without = "import sys; sys.modules['ensurepip'] = None\n"
    for fake, words in ((old, "make PYTHON=python3.12"), (without, "apt install python3-venv")):
        (tmp_path / "install.py").write_text(
            fake + f"__file__ = {str(tmp_path / 'x' / 'y.py')!r}\n" + script
        )
        done = subprocess.run(
            [sys.executable, tmp_path / "install.py"], capture_output=True, text=True
        )
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1
        assert words in done.stderr


@pytest.mark.parametrize("words", [[], ["lowest"], ["oldest:3.11"]])
def test_versions_are_tried_only_of_sets_that_can_be(words):
    script = [sys.executable, ROOT / "tools/try_versions.py", *words]
    done = subprocess.run(script, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "lowest:PYTHON" in done.stderr


def test_a_wheel_carries_notebooks_weights_and_digits(wheel):
    with zipfile.ZipFile(wheel) as opened:
        listing = "\n".join(opened.namelist())
    for name in (
        "prunekit/notebooks/00_start.ipynb",
        "prunekit/weights/lenet_5-2.safetensors",
        "prunekit/datasets/mnist_small.npz",
        "prunekit/datasets/LICENSE.md",
        "prunekit/experiments/results/baselines/",
    ):
        assert name in listing


@pytest.fixture
def install(monkeypatch, tmp_path):
    """The install script as a module, on a Linux without NVIDIA card and with no pip settings."""
    spec = importlib.util.spec_from_file_location("install", ROOT / "tools/install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PYTHON", sys.executable)
    monkeypatch.setattr(module.platform, "system", lambda: "Linux")
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for bundled in (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"):
        monkeypatch.setenv("PYTHONPATH", str(bundled))  # pip, also where it is not installed
    return module


def test_the_cpu_build_is_asked_for_only_where_nobody_chose_an_index(install, monkeypatch):
    assert install.wants_cpu_build()
    with monkeypatch.context() as patch:
        patch.setattr(install.platform, "system", lambda: "Darwin")
        assert not install.wants_cpu_build()
    with monkeypatch.context() as patch:
        patch.setattr(install.shutil, "which", lambda name: f"/usr/bin/{name}")
        assert not install.wants_cpu_build()
    for setting in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        with monkeypatch.context() as patch:
            patch.setenv(setting, "1")
            assert not install.wants_cpu_build(), setting
