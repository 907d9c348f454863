"""Check the form and the types of JavaScript and TypeScript: ``python tools/lint_js.py [--write]``.

Needs node; without it, or without the network on the first run, it says that nothing was checked
and all is well: who only uses Python can run all tests. ``--write`` mends the form.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import anywidget

from prunekit import widgets
from prunekit.widgets import connection

ROOT = Path(__file__).parents[1]
HERE = ROOT / "tools/js"
TOOLS, TYPES = HERE / "node_modules/.bin", ROOT / "labextension/node_modules"
TYPED = {
    "allowJs": True, "checkJs": True, "noEmit": True, "types": [],
    "lib": ["dom", "dom.iterable", "es2023"], "target": "es2022", "module": "esnext",
    "moduleDetection": "force",
}  # fmt: skip


def lacking() -> str:
    """What is lacking for the checks, "" if they can be made; installs two packages once."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "there is no node with npm"
    if not (TOOLS / "tsc").exists() or not (TOOLS / "prettier").exists():
        command = ["npm", "install", "--no-package-lock", "--silent", "--prefix", str(HERE)]
        # Without a network npm would try for minutes.
        command += ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
        try:
            subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL)
        except (subprocess.SubprocessError, OSError) as error:
            return f"prettier and typescript cannot be installed ({error})"
    return ""


def form(write: bool) -> int:
    paths = [*ROOT.glob("prunekit/widgets/static/*.js"), *ROOT.glob("labextension/*.mjs")]
    paths += ROOT.glob("labextension/src/*.ts")
    how = ["--write", "--log-level=warn"] if write else ["--check"]
    settings = f"--config={HERE / 'package.json'}"
    return subprocess.call([TOOLS / "prettier", settings, *how, *sorted(paths)])


def types() -> int:
    """The views as they are sent, each of several scripts; the extension if its types are there."""
    views = [getattr(widgets, name) for name in widgets.__all__]
    views = [v for v in (*views, connection.Connection) if issubclass(v, anywidget.AnyWidget)]
    with tempfile.TemporaryDirectory() as folder:
        for view in views:
            (Path(folder) / f"{view.__name__}.js").write_text(view._esm, encoding="utf-8")
        settings = {"compilerOptions": TYPED, "include": ["*.js"]}
        (Path(folder) / "tsconfig.json").write_text(json.dumps(settings))
        failed = subprocess.call([TOOLS / "tsc", "--project", folder], cwd=folder)
    if (
        TYPES.exists()
    ):  # else: the build checks them too, and a test says if it is not of these sources
        failed |= subprocess.call([TOOLS / "tsc", "--noEmit", "--project", ROOT / "labextension"])
    return failed


if __name__ == "__main__":
    if missing := lacking():
        print(f"JavaScript and TypeScript are not checked: {missing}.")
    else:
        sys.exit(form("--write" in sys.argv) | types())
