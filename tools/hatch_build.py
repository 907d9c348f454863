"""Packs the JupyterLab extension into the wheel, with the notebooks and a list of them as assets.

The cards of the launcher are read from the notebooks' own metadata here, so that a notebook that is
added later appears by itself. The scripts of the views that need no kernel are joined here, too.
"""

import importlib.util
import json
import shutil
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CARD = ("title", "paper", "minutes", "thumbnail")
EXTENSION = "share/jupyter/labextensions/prunekit-lab"


def texts(root):
    """What shows views without a kernel: file -> module or style sheet."""
    place = root / "prunekit" / "widgets" / "_static.py"  # the package itself would import torch
    spec = importlib.util.spec_from_file_location("static", place)
    static = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(static)
    found = {"notebook.css": static.style("connection", "course")}
    for view in static.VIEWS:
        found[f"{view}.js"], found[f"{view}.css"] = static.alone(view)
    return found


def index(root):
    """What the extension is told: the notebooks with their metadata, runs to replay, results."""
    notebooks, replays = [], {}
    for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if about := content["metadata"].get("prunekit"):  # else it has no card
            notebooks.append(
                {"file": path.name} | {name: about[name] for name in CARD if name in about}
            )
        for name in recorded(content):
            replays.setdefault(name, path.name)
    results = sorted(path.name for path in (root / "notebooks/results").glob("*.md"))
    return {"notebooks": notebooks, "replays": replays, "results": results}


def recorded(content):
    """The experiments whose recorded run a notebook replays from data in its outputs."""
    for cell in content.get("cells", ()):
        for output in cell.get("outputs", ()):
            shown = output.get("data", {}).get("application/vnd.prunekit.view+json", {})
            if shown.get("view") == "Replay" and shown["data"].get("experiment"):
                yield shown["data"]["experiment"]


class Hook(BuildHookInterface):
    def initialize(self, version, build_data):
        root, self.made = Path(self.root), Path(tempfile.mkdtemp(prefix="prunekit-build-"))
        about, listed = index(root), self.made / "index.json"
        listed.write_text(json.dumps(about, indent=1), encoding="utf-8")
        places = {
            listed: "notebooks/index.json",
            root / "labextension/install.json": "install.json",
        }
        built = root / "prunekit" / "labextension"
        for path in built.rglob("*"):
            if path.is_file():
                places[path] = path.relative_to(built).as_posix()
        files = [entry["file"] for entry in about["notebooks"]]
        for name in [*files, *(f"results/{page}" for page in about["results"])]:
            places[root / "notebooks" / name] = f"notebooks/{name}"
        for name, text in texts(root).items():
            (self.made / name).write_text(text, encoding="utf-8")
            places[self.made / name] = f"views/{name}"
        shared = build_data["shared_data"]
        shared.update({str(path): f"{EXTENSION}/{place}" for path, place in places.items()})

    def finalize(self, version, build_data, artifact_path):
        shutil.rmtree(self.made)


def get_build_hook():
    return Hook
