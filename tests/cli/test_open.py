"""``--open`` says what it did: to a real browser, to one that fails, and where there is none."""

import json
import shutil
import sys

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
COMMAND = ("-m", "dsf", "demo", "--playground", "delta_net", "--open")
ALONE = (
    "from pathlib import Path; from dsf.cli.browser import open_page; print(open_page(Path('a')))"
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="displays are those of Linux")


@pytest.fixture
def asked(run_alone):
    """Runs the command with this browser, and with no display or one that is not there."""

    def ask(*arguments, browser, display=""):
        return run_alone(*arguments, BROWSER=browser, DISPLAY=display, WAYLAND_DISPLAY="")

    return ask


def test_without_a_display_it_says_so_and_where_the_page_is(asked, tmp_path):
    page = (tmp_path / "playground.html").as_uri()
    done = asked(*COMMAND, browser="")
    told = f"not opened: there is no display here. Open {page} in a browser."
    assert (done.returncode, done.stdout.splitlines()) == (0, ["playground.html", told])


@pytest.mark.slow
@pytest.mark.pipeline
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH")
def test_chromium_without_a_display_draws_the_page(asked, tmp_path):
    """A browser that the user names is asked, also where there is no display."""
    drawn = tmp_path / "drawn.png"
    command = f"{CHROMIUM} --headless --no-sandbox --screenshot={drawn} %s"
    done = asked(*COMMAND, "--json", browser=command)
    assert json.loads(done.stdout)["open"]["opened"] is True
    assert drawn.read_bytes()[:4] == b"\x89PNG"
    assert drawn.stat().st_size > 10_000  # a blank page has 3,000


def test_a_browser_that_prints_does_not_disturb_the_answer(asked, tmp_path):
    done = asked("-c", ALONE, browser="echo printed %s")
    assert "printed" not in done.stdout
    assert f"printed {(tmp_path / 'a').as_uri()}" in done.stderr


@pytest.mark.parametrize(
    ("browser", "reason"),
    [
        ("false %s", "false could not be started"),
        ("/nowhere/browser %s", "/nowhere/browser could not be started"),
        ("lynx %s", "the only browser here, lynx, has no windows"),
    ],
)
def test_a_browser_that_does_not_show_it_is_named(asked, browser, reason):
    told = asked("-c", ALONE, browser=browser).stdout
    assert told.startswith(f"not opened: {reason}. Open file://")


def test_the_browser_is_named_and_a_missing_window_is_spoken_of(asked, tmp_path):
    """A display that is set and not there is found out by the browser, after the command ended."""
    told = asked("-c", ALONE, browser="true %s", display=":987").stdout
    page = (tmp_path / "a").as_uri()
    assert told == f"handed to true: {page} (no window? Open the address yourself.)\n"
