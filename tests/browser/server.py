"""A JupyterLab of its own on this machine, for tests and measurements in a browser."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


@contextmanager
def jupyterlab(folder: Path, settings: Path, **environment: str) -> Iterator[str]:
    """Its address. It works in `folder`, and what else it writes goes to `settings`."""
    looks = settings / "user/@jupyterlab/notebook-extension/tracker.jupyterlab-settings"
    looks.parent.mkdir(parents=True)
    looks.write_text(json.dumps({"windowingMode": "none"}))  # every cell is part of the page
    pages = settings / "labconfig/page_config.json"
    pages.parent.mkdir()
    pages.write_text(json.dumps({"buildCheck": False}))  # else looked into at each load, for long
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(settings),
        "JUPYTER_DATA_DIR": str(settings / "data"),
        "JUPYTERLAB_SETTINGS_DIR": str(settings / "user"),
        "JUPYTERLAB_WORKSPACES_DIR": str(settings / "spaces"),
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    port = _free_port()
    address, command = f"http://127.0.0.1:{port}", [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
        "--expose-app-in-browser", f"--port={port}", f"--ServerApp.root_dir={folder}",
        "--IdentityProvider.token=",
    ]  # fmt: skip
    with (settings / "log.txt").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"{address}/api", timeout=5)
                    break
                except OSError:
                    assert server.poll() is None, (settings / "log.txt").read_text()
                    time.sleep(0.1)
            yield address
        finally:
            server.terminate()
            server.wait(30)
