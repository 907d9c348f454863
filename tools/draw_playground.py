"""Draw the picture that moves in the README: ``python tools/draw_playground.py``, by Chromium."""

import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from prunekit.widgets.playground import write_page

OUT = Path(__file__).parents[1] / "notebooks/figures/playground.webp"
FRAMES, WIDTH, QUALITY, MILLISECONDS = 22, 720, 30, 180


def main():
    folder = Path(tempfile.mkdtemp())
    page, frames = write_page(folder / "page.html"), []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        tab = browser.new_page(viewport={"width": 1000, "height": 920}, color_scheme="light")
        tab.goto(page.as_uri())
        slider = tab.get_by_label("weights removed")
        last = int(slider.get_attribute("max"))
        for frame in range(FRAMES):
            slider.fill(str(round(0.8 * last * frame / (FRAMES - 1))))
            tab.wait_for_timeout(60)
            shot = Image.open(io.BytesIO(tab.locator(".pk-playground").screenshot()))
            shot = shot.crop((0, 0, shot.width, 690))
            size = (WIDTH, round(shot.height * WIDTH / shot.width))
            frames.append(shot.convert("RGB").resize(size))
        browser.close()
    durations = [1_000, *[MILLISECONDS] * (FRAMES - 2), 2_000]
    more = dict(append_images=frames[1:], duration=durations, loop=0, quality=QUALITY, method=6)
    frames[0].save(OUT, save_all=True, **more)
    shutil.rmtree(folder)
    print(OUT, OUT.stat().st_size)


if __name__ == "__main__":
    main()
