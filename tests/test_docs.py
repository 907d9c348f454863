"""The reference and what it is made of: examples that run, and every public name."""

import doctest
import html
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import prunekit
from prunekit.knobs import knobs

ROOT = Path(__file__).parents[1]
NAMES = [name for _, name, _ in pkgutil.walk_packages(prunekit.__path__, "prunekit.")]
MODULES = ["prunekit", *(name for name in NAMES if not name.endswith("__main__"))]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The folder of the reference."""
    out = tmp_path_factory.mktemp("docs")
    subprocess.run([sys.executable, ROOT / "tools/docs.py", out], check=True, capture_output=True)
    return out


def text_of(page):
    return html.unescape(re.sub("<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_the_examples_in_docstrings_run():
    ran = 0
    for name in MODULES:
        result = doctest.testmod(importlib.import_module(name))
        assert result.failed == 0, name
        ran += result.attempted
    assert ran > 20


def test_every_public_name_is_in_the_reference(reference):
    page = (reference / "prunekit.html").read_text(encoding="utf-8")
    for name in prunekit.__all__:
        assert f'id="{name}"' in page, name
    for name in MODULES:
        if "._" not in name:
            assert (reference / Path(*name.split(".")).with_suffix(".html")).exists(), name


def test_a_method_has_its_knobs_as_a_table(reference):
    from prunekit.methods.cdp_dtc import cdp_dtc

    page = (reference / "prunekit/methods/cdp_dtc.html").read_text(encoding="utf-8")
    rows = re.findall(r"<tr>\s*<td><code>(\w+)</code></td>\s*<td><code>(.*?)</code></td>", page)
    assert {name: html.unescape(value) for name, value in rows} == {
        name: repr(knob.default) for name, knob in knobs(cdp_dtc).items()
    }
    assert "Annotated" not in text_of(reference / "prunekit/methods/cdp_dtc.html").split("def ")[1]


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == prunekit.__version__
    assert f"## {prunekit.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["license"] == project["license"]


def test_how_to_add_a_method_fits_on_a_page_and_names_what_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert len(text.splitlines()) <= 40
    for path in re.findall(r"`(tests/\w+\.py)`", text):
        assert (ROOT / path).exists()
    for folder in ("methods", "experiments", "exercises", "widgets/views"):
        assert (ROOT / "prunekit" / folder).is_dir()
