"""Photograph the report about SmolLM2 on the first page: ``front.webp``.

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
WINDOW = {"width": 1280, "height": 820}
QUALITY = 86
PICTURE = Path(__file__).resolve().with_name("front.webp")


def main() -> None:
    with tempfile.TemporaryDirectory() as place, sync_playwright() as running:
        browser = running.chromium.launch(executable_path=shutil.which("chromium"))
        opened = browser.new_page(viewport=WINDOW, color_scheme="light")
        opened.goto(page_of(CASE, Path(place)).as_uri())
        opened.wait_for_selector("html[data-ready]", timeout=120_000)
        opened.wait_for_timeout(300)  # tokens and scrolling follow a frame later
        photograph = Path(place) / "front.png"
        opened.screenshot(path=photograph)
        browser.close()
        Image.open(photograph).convert("RGB").save(PICTURE, quality=QUALITY, method=6)


if __name__ == "__main__":
    main()
