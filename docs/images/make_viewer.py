"""Photograph the viewer on the embedded models: ``viewer-light.png`` and ``viewer-dark.png``.

    python docs/images/make_viewer.py

Light: one map with its profiles, verdicts and measures. Dark: two models on one prompt, side by
side. Needs Chromium on the PATH and the group ``browser`` of pyproject.toml.
"""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from dsf.cli.demo import inspect_embedded
from dsf.inspection import Inspection
from dsf.properties.run_folder import checked_run
from dsf.report import show

HERE = Path(__file__).resolve().parent
SIZE = {"width": 1440, "height": 980}
COMPARED = ("llama", "qwen3_next")


def main() -> None:
    shown = inspect_embedded()
    with tempfile.TemporaryDirectory() as folder:
        verdicts = checked_run(shown.inspection, Path(folder) / "run")
        one, two = Path(folder) / "one.html", Path(folder) / "two.html"
        show(shown.inspection, one, facts=shown.facts, verdicts=verdicts)
        compared = [of_model(shown.inspection, name) for name in COMPARED]
        show(compared, two, title="Two models, one prompt", verdicts=[verdicts, verdicts])
        with sync_playwright() as running:
            browser = running.chromium.launch(executable_path=shutil.which("chromium"))
            photograph(browser, one, HERE / "viewer-light.png", "light")
            photograph(browser, two, HERE / "viewer-dark.png", "dark")
            browser.close()


def of_model(inspection: Inspection, name: str) -> Inspection:
    """The layers of one of the embedded models."""
    layers = tuple(layer for layer in inspection if layer.name.startswith(f"{name} "))
    return replace(inspection, layers=layers, unsupported=(), model=name)


def photograph(browser: Browser, page: Path, picture: Path, scheme: str) -> None:
    opened = browser.new_page(viewport=SIZE, color_scheme=scheme)
    opened.goto(page.as_uri())
    opened.wait_for_selector("html[data-ready]")
    opened.screenshot(path=picture)
    opened.close()


if __name__ == "__main__":
    main()
