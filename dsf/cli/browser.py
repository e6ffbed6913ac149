"""Show a page in a browser, and report the outcome."""

import os
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import which

IN_A_TERMINAL = ("www-browser", "links", "elinks", "lynx", "w3m")
WITHOUT_A_WINDOW = ("chromium", "chromium-browser", "google-chrome", "chrome")
"""Browsers that draw a page without a display: tests and documentation take pictures with them."""


@dataclass(frozen=True)
class Opening:
    """Outcome of an attempt to show a page.

    Attributes:
        page: its address.
        browser: which one it was handed to; empty where there is none.
        reason: why it was handed to none.
    """

    page: str
    browser: str = ""
    reason: str = ""

    def __str__(self) -> str:
        if self.browser:
            return f"handed to {self.browser}: {self.page} (no window? Open the address yourself.)"
        return f"not opened: {self.reason}. Open {self.page} in a browser."

    def facts(self) -> dict[str, str | bool]:
        """The same as JSON."""
        return {"opened": bool(self.browser), "page": self.page, "reason": self.reason}


def open_page(path: Path) -> Opening:
    """Hand a page to the user's browser, if there is one with windows, or one that BROWSER names.

    Whether a window appears is not known: browsers start in the background.
    """
    page = path.resolve().as_uri()
    if not (has_display() or os.environ.get("BROWSER")):
        return Opening(page, reason="there is no display here")
    try:
        browser = webbrowser.get()
        name = getattr(browser, "name", type(browser).__name__)
        if Path(str(name)).name in IN_A_TERMINAL:
            return Opening(page, reason=f"the only browser here, {name}, has no windows")
        with _standard_output_to_errors():
            opened = browser.open(page)
        if opened:
            return Opening(page, browser=str(name))
        return Opening(page, reason=f"{name} could not be started")
    except (webbrowser.Error, OSError):
        return Opening(page, reason="there is no browser here")


@contextmanager
def _standard_output_to_errors() -> Iterator[None]:
    """What a browser prints is not part of the answer, which may be JSON."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def has_display() -> bool:
    """Whether windows can be shown."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def for_pictures() -> str:
    """The path of a browser that draws pages without a display; empty where there is none."""
    return next((path for name in WITHOUT_A_WINDOW if (path := which(name))), "")
