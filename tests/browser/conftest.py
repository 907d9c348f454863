"""A headless Chromium for the tests in this folder, without which they are skipped; a JupyterLab."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACE = "share/jupyter/labextensions/prunekit-lab/"
HOW = "needs Chromium and Playwright: apt install chromium, pip install playwright"


@pytest.fixture(scope="module")  # while it is there, an event loop runs in this thread
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason=HOW)
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip(HOW)
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@contextmanager
def watched(browser, **settings):
    """An empty page, which fails the test if anything goes wrong in it."""
    page, wrong = browser.new_page(**settings), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    try:
        yield page
    finally:
        page.close()
    assert wrong == []


@pytest.fixture(params=["light", "dark"])
def tab(browser, request):
    """A page in either theme."""
    with watched(browser, color_scheme=request.param) as page:
        yield page


@pytest.fixture
def window(browser):
    """A page as large as a screen."""
    with watched(browser, viewport={"width": 1300, "height": 1000}) as page:
        yield page


def free_port():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@pytest.fixture(scope="session")
def packed(wheel, tmp_path_factory):
    """The data folder of the wheel, as an installation has it."""
    out = tmp_path_factory.mktemp("packed")
    subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, out], check=True)
    (data,) = out.glob("*.data/data")
    return data


@pytest.fixture(scope="session")
def evil():
    """A title that does harm where it is taken for HTML."""
    return "<img src=x onerror=\"document.title='hacked'\">"


@pytest.fixture(scope="session")
def lab(packed, evil, tmp_path_factory):
    """A running JupyterLab: its address and the folder that it works in."""
    index = packed / PLACE / "notebooks/index.json"
    about = json.loads(index.read_text())
    about["notebooks"].append({"file": "evil.ipynb", "title": evil, "paper": evil, "minutes": 1})
    index.write_text(json.dumps(about))
    (packed / PLACE / "notebooks/evil.ipynb").write_text(
        json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    )
    folder, port = tmp_path_factory.mktemp("course"), free_port()
    address = f"http://127.0.0.1:{port}"
    settings = tmp_path_factory.mktemp("settings")
    looks = settings / "user/@jupyterlab/notebook-extension/tracker.jupyterlab-settings"
    looks.parent.mkdir(parents=True)
    looks.write_text(json.dumps({"windowingMode": "none"}))  # every cell is part of the page
    environment = os.environ | {
        "JUPYTER_PATH": str(packed / "share/jupyter"),
        "JUPYTER_CONFIG_DIR": str(settings),
        "JUPYTER_DATA_DIR": str(settings / "data"),
        "JUPYTERLAB_SETTINGS_DIR": str(settings / "user"),
        "JUPYTERLAB_WORKSPACES_DIR": str(settings / "spaces"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [
        "--expose-app-in-browser",
        f"--port={port}",
        f"--ServerApp.root_dir={folder}",
        "--IdentityProvider.token=",
    ]
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
            yield address, folder
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture
def opened(lab, window):
    address, folder = lab
    window.goto(f"{address}/lab?reset")
    window.wait_for_selector(".jp-LauncherCard >> visible=true", timeout=90_000)
    return window, folder
