"""What a click or a move costs in a real JupyterLab: ``python benchmarks/browser.py``.

Needs Chromium and Playwright. Milliseconds are taken in the page, from the key or the click to the
change that follows: the median of 20 moves, to the first picture, which may be an estimate, and to
the exact one; the slowest of 5 clicks on Stop at different moments of a run. Frames a second are of
a slider that is moved anew in each frame. Each line says what was aimed at.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, sync_playwright

from prunekit.widgets import playground
from prunekit.widgets.replay import write_page

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/browser"))
from server import jupyterlab

MOVES, WAIT = 20, 120_000
MOMENTS = (0, 300, 700, 1_100, 1_900)  # milliseconds after the first line of the table
SETUP = """
import torch
from prunekit import *
from prunekit.baselines.gradual import gradual
from prunekit.methods.differential_evolution import differential_evolution
from prunekit.methods.roulette import roulette
from prunekit.widgets import Panel, views
torch.set_num_threads(1)
digits, net, large = mnist_small(), pretrained("lenet_300_100"), pretrained("lenet_5")"""
INSTANT = {  # name -> cell
    "threshold": "views.of(magnitude, net, digits)",
    "wheel": "views.of(roulette, net, digits)",
    "sensitivities": "views.of(differential_evolution, net, digits)",
}
PANELS = {
    "a fit": "Panel(gradual, large, digits, sparsity=0.9, epochs=50)",
    "a search": "Panel(differential_evolution, large, digits, rounds=1, generations=50)",
}
# From a key inside a view to the next change of its answer, and to that which is no estimate.
WATCH = """([view, answer]) => {
  let begun = null, first = null;
  window.firsts = [];
  window.taken = [];
  view.addEventListener("keydown", () => ([begun, first] = [performance.now(), null]), true);
  new MutationObserver(() => {
    if (begun === null) return;
    const took = performance.now() - begun;
    first ??= took;
    if (answer.innerText.includes("measuring all")) return;
    window.firsts.push(first);
    window.taken.push(took);
    begun = null;
  }).observe(answer, { childList: true, characterData: true, subtree: true });
}"""
# Frames a second while a slider is dragged to and fro, each drawn before the next is asked for.
DRAG = """(slider) => new Promise((done) => {
  const [low, high, frames] = [Number(slider.min), Number(slider.max), 120];
  let count = 0;
  const begun = performance.now();
  const next = () => {
    if (count === frames) return done((1000 * frames) / (performance.now() - begun));
    slider.value = low + (high - low) * Math.abs(((2 * count++) / frames) % 2 - 1);
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    requestAnimationFrame(next);
  };
  next();
})"""
# Milliseconds from the end of loading the page to a picture that is not empty.
PAINTED = """() => {
  const canvas = document.querySelector(".pk-net");
  if (!canvas?.width) return false;
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  if (!data.some((value) => value)) return false;
  const [page] = performance.getEntriesByType("navigation");
  return 1 + Math.max(0, performance.now() - page.responseEnd);
}"""


def notebook(cells: list[str]) -> str:
    made = [
        {"id": f"c{i}", "cell_type": "code", "source": text, "metadata": {}, "outputs": [],
         "execution_count": None}
        for i, text in enumerate(cells)
    ]  # fmt: skip
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    return json.dumps({"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})


def show(what: str, value: float, unit: str, aim: float, fewer: bool = True) -> None:
    met = value <= aim if fewer else value >= aim
    sign = "≤" if fewer else "≥"
    verdict = "ok" if met else "MISSED"
    print(f"{what:<60} {value:6.0f} {unit:<9} aim {sign} {aim:.0f}: {verdict}", flush=True)


def moved(tab: Page, view: Locator) -> tuple[float, float]:
    """Milliseconds from a key on the last slider to new words and to the exact ones, the median."""
    answer = view.locator("> .widget-html").last  # not the slider's own number
    tab.evaluate(WATCH, [view.element_handle(), answer.element_handle()])
    view.locator("[role=slider]").last.focus()
    for number in range(MOVES):
        tab.keyboard.press("Home" if number % 2 else "End")  # one step may change nothing
        # Now and then: a look at each frame would be work that delays the answer.
        tab.wait_for_function(f"window.taken.length > {number}", timeout=WAIT, polling=100)
        tab.wait_for_timeout(100)
    first, exact = tab.evaluate("[window.firsts, window.taken]")
    return statistics.median(first), statistics.median(exact)


def stopped(tab: Page, panel: Locator, moment: int) -> float:
    """Milliseconds from the click on Stop to the word that says so."""
    panel.get_by_role("button", name="Reset", exact=True).click()
    panel.locator("table td").first.wait_for(state="detached")
    panel.get_by_role("button", name="Run", exact=True).click()
    panel.locator("table td").first.wait_for(timeout=WAIT)
    script = """(element) => {
      const words = () => element.innerText.includes("stopped");
      element.addEventListener("click", () => {
        const begun = performance.now();
        new MutationObserver((_, observer) => {
          if (!words()) return;
          window.took = performance.now() - begun;
          observer.disconnect();
        }).observe(element, { childList: true, characterData: true, subtree: true });
      }, { capture: true, once: true });
    }"""
    tab.evaluate("window.took = null")
    tab.wait_for_timeout(moment)
    tab.evaluate(script, panel.element_handle())
    panel.get_by_role("button", name="Stop", exact=True).click()
    tab.wait_for_function("window.took !== null", timeout=WAIT)
    return float(tab.evaluate("window.took"))


def frames(tab: Page, page: Path) -> float:
    """Frames a second of a replay at 60 steps a second, which is what the screen can show."""
    tab.goto(page.as_uri())
    tab.locator(".pk-replay canvas.pk-mask").wait_for()
    tab.get_by_label("speed").select_option("60")
    script = """() => new Promise((done) => {
      const view = document.querySelector(".pk-replay");
      const at = () => Number(view.dataset.frames || 0);
      document.querySelector(".pk-play").click();
      const [begun, first] = [performance.now(), at()];
      setTimeout(() => done((1000 * (at() - first)) / (performance.now() - begun)), 800);
    })"""
    return float(tab.evaluate(script))


def in_lab(tab: Page, address: str, folder: Path) -> None:
    cells = [SETUP, *INSTANT.values(), *PANELS.values()]
    (folder / "bench.ipynb").write_text(notebook(cells), encoding="utf-8")
    tab.goto(f"{address}/lab/tree/bench.ipynb?reset")
    tab.wait_for_function(
        "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel", timeout=WAIT
    )
    tab.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells'); }")
    tab.locator(".pk-panel").last.wait_for(timeout=WAIT)
    tab.wait_for_timeout(2_000)
    for number, name in enumerate(INSTANT):
        first, exact = moved(tab, tab.locator(".pk-instant").nth(number))
        show(f"{name}: the first picture of a move, LeNet-300-100", first, "ms", 50)
        show(f"{name}: the exact one, of 5,000 images", exact, "ms", 120)
    for number, name in enumerate(PANELS):
        panel = tab.locator(".pk-panel").nth(number)
        took = max(stopped(tab, panel, moment) for moment in MOMENTS)
        show(f"Stop in {name}, LeNet-5", took, "ms", 500)


def main() -> None:
    found: Any = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as place, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1300, "height": 1000})
        folder, settings = Path(place) / "work", Path(place) / "settings"
        folder.mkdir()
        with jupyterlab(folder, settings) as address:
            in_lab(tab, address, folder)
        page = write_page("roulette", Path(place) / "replay.html")
        show("replay of 59 levels", frames(tab, page), "frames/s", 30, fewer=False)
        tab.goto(playground.write_page(Path(place) / "playground.html").as_uri())
        painted = tab.wait_for_function(PAINTED, polling="raf").json_value()
        show("playground: the first picture after the page", painted, "ms", 1_000)
        slider = tab.locator(".pk-playground input[type=range]").first.element_handle()
        rate = tab.evaluate(DRAG, slider)
        show("playground: the slider is dragged", rate, "frames/s", 30, fewer=False)
        browser.close()


if __name__ == "__main__":
    main()
