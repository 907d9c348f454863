"""A headless Chromium for the tests in this folder; without one they are skipped."""

import shutil
from contextlib import contextmanager

import pytest

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
