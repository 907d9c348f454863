"""A headless Chromium for the tests in this folder, without which they are skipped; a JupyterLab."""

import json
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest
from axe_playwright_python.sync_playwright import Axe
from server import jupyterlab

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


PAGE = """<!doctype html><meta charset="utf-8">
<style>:root { color-scheme: light dark; }
body { background: light-dark(#fff, #111); width: 900px; } %(css)s</style>
<body><main id="view"></main>
<script type="application/json" id="values">%(values)s</script>
<script type="module">%(js)s
const bytes = (_, value) => (value?.bytes ? Uint8Array.from(value.bytes) : value);
const values = JSON.parse(document.getElementById("values").textContent, bytes);
const el = document.getElementById("view");
const set = (name, value) => (values[name] = value);
const model = { get: (name) => values[name], set, save_changes() {}, on() {}, off() {}, send() {} };
window.values = values;
window.end = render({ model, el });
%(more)s
window.drawn = true;
</script>"""


def drawn_alone(tab, folder, view, values, more=""):
    """Open a page in `folder` that draws a view of these values, and then runs `more`."""
    path, js = folder / "view.html", view._esm.split("export default")[0]
    plain = json.dumps(values, default=lambda value: {"bytes": [*value]}).replace("<", "\\u003c")
    parts = {"css": view._css, "js": js, "values": plain, "more": more}
    path.write_text(PAGE % parts, encoding="utf-8")
    tab.goto(path.as_uri())
    tab.wait_for_function("window.drawn")
    return tab


def breaches(page, place="body"):
    """What axe-core calls serious or critical in a part of a page, with the element."""
    found = Axe().run(page, context=place).response
    assert found["passes"]
    return [
        f"{rule['id']}: {node['html']}"
        for rule in found["violations"]
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


@contextmanager
def watched(browser, **settings):
    """An empty page, which fails the test if anything goes wrong in it."""
    page, wrong = browser.new_page(**settings), []
    page.on("pageerror", lambda error: wrong.append(str(error)))

    def heard(said):
        # JupyterLab shows a picture of the notebook's own only after the browser has asked for it.
        if said.type == "error" and not said.location["url"].startswith("attachment:"):
            wrong.append(f"{said.text}: {said.location['url']}")

    page.on("console", heard)
    try:
        yield page
    finally:
        page.close()
    assert wrong == []


@pytest.fixture
def tab(browser, request):
    """A page in the light theme, in a test of `both_themes` in the dark one too."""
    with watched(browser, color_scheme=getattr(request, "param", "light")) as page:
        yield page


both_themes = pytest.mark.parametrize("tab", ["light", "dark"], indirect=True)


@pytest.fixture
def window(browser):
    """A page as large as a screen."""
    with watched(browser, viewport={"width": 1300, "height": 1000}) as page:
        yield page


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
    folder, settings = tmp_path_factory.mktemp("course"), tmp_path_factory.mktemp("settings")
    with jupyterlab(folder, settings, JUPYTER_PATH=str(packed / "share/jupyter")) as address:
        yield address, folder


@pytest.fixture
def opened(lab, window):
    """A page with the launcher, and its folder, without what other tests left there."""
    address, folder = lab
    for left in folder.glob("*.ipynb"):
        left.unlink()
    window.goto(f"{address}/lab?reset")
    window.wait_for_selector(".jp-LauncherCard >> visible=true", timeout=90_000)
    return window, folder
