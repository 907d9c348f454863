"""The JupyterLab extension: built from these sources, small, packed with the notebooks' cards."""

import hashlib
import importlib.util
import json
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES, BUILT = ROOT / "labextension", ROOT / "prunekit" / "labextension"
PLACE = "share/jupyter/labextensions/prunekit-lab/"


@pytest.fixture(scope="module")
def packed(wheel):
    """What the wheel puts into the folder of JupyterLab's extensions: place -> bytes."""
    with zipfile.ZipFile(wheel) as opened:
        names = [name for name in opened.namelist() if f".data/data/{PLACE}" in name]
        return {name.partition(PLACE)[2]: opened.read(name) for name in names}


def test_the_built_files_are_those_of_these_sources():
    sources = ["package.json", "tsconfig.json"]
    sources += sorted(path.relative_to(SOURCES).as_posix() for path in SOURCES.glob("src/*"))
    digest = hashlib.sha256()
    for name in sources:
        digest.update(f"{name}\n".encode() + (SOURCES / name).read_bytes())
    assert (BUILT / "sources.sha256").read_text().strip() == digest.hexdigest(), (
        "build it again: cd labextension && npm install && npm run build"
    )


def test_its_javascript_is_small():
    assert 5_000 < sum(path.stat().st_size for path in BUILT.rglob("*.js")) <= 100_000


def test_everything_that_jupyterlab_reads_is_packed(packed):
    about = json.loads(packed["package.json"])
    assert about["jupyterlab"]["_build"]["load"] in packed
    assert json.loads(packed["install.json"])["packageName"] == "prunekit"


def test_each_notebook_is_packed_with_a_card_from_its_own_metadata(packed):
    index = json.loads(packed["notebooks/index.json"])
    originals = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert [entry["file"] for entry in index["notebooks"]] == [path.name for path in originals]
    for path, entry in zip(originals, index["notebooks"], strict=True):
        assert packed[f"notebooks/{path.name}"] == path.read_bytes()
        about = json.loads(path.read_text(encoding="utf-8"))["metadata"]["prunekit"]
        assert entry == {"file": path.name} | about
    pages = sorted((ROOT / "notebooks/results").glob("*.md"))
    assert index["results"] == [page.name for page in pages]
    assert all(packed[f"notebooks/results/{page.name}"] == page.read_bytes() for page in pages)
    results = ROOT / "prunekit" / "experiments" / "results"
    assert {*index["replays"]} == {path.parent.name for path in results.glob("*/showcase.npz")}


def test_a_notebook_added_later_has_its_card(tmp_path):
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "tools/hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    about = {"title": "<img onerror=alert(1)>", "paper": "nobody", "minutes": 1}
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks/07_new.ipynb").write_text(json.dumps({"metadata": {"prunekit": about}}))
    assert module.index(tmp_path) == {
        "notebooks": [{"file": "07_new.ipynb"} | about], "replays": {}, "results": []
    }  # fmt: skip


def test_names_are_never_written_as_html():
    for path in SOURCES.glob("src/*.ts"):
        assert "innerHTML" not in path.read_text()
