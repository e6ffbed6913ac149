"""Photograph the report about SmolLM2 on the first page: ``front.webp``, ``front-narrow.webp``.

    python -m docs.images.make_front

Needs Chromium on the PATH, the group ``browser`` of pyproject.toml, and the weights of SmolLM2:
``python tests/pretrained/fetch.py smollm2``.
"""

import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from benchmarks.viewer import page_of

CASE = "SmolLM2 135M, 512 tokens"
WINDOWS = {
    "front": {"width": 1280, "height": 820},
    "front-narrow": {"width": 390, "height": 760},
}
QUALITY = 86
HERE = Path(__file__).resolve().parent


def main() -> None:
    with tempfile.TemporaryDirectory() as place, sync_playwright() as running:
        page = page_of(CASE, Path(place))
        browser = running.chromium.launch(executable_path=shutil.which("chromium"))
        for name, window in WINDOWS.items():
            opened = browser.new_page(viewport=window, color_scheme="light")
            opened.goto(page.as_uri())
            opened.wait_for_selector("html[data-ready]", timeout=120_000)
            opened.wait_for_timeout(300)  # tokens and scrolling follow a frame later
            photograph = Path(place) / f"{name}.png"
            opened.screenshot(path=photograph)
            picture = Image.open(photograph).convert("RGB")
            picture.save(HERE / f"{name}.webp", quality=QUALITY, method=6)
        browser.close()


if __name__ == "__main__":
    main()
