"""A headless Chromium for the tests in this folder; without one they are skipped."""

import shutil

import pytest

HOW = "needs Chromium and Playwright: apt install chromium, pip install playwright"


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason=HOW)
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip(HOW)
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(params=["light", "dark"])
def tab(browser, request):
    """An empty page in either theme, which fails the test if anything goes wrong in it."""
    page, wrong = browser.new_page(color_scheme=request.param), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    yield page
    page.close()
    assert wrong == []
