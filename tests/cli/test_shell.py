"""The command line in a shell: its start, completion, terminals, logs, pipes and browsers.

What the command line does before and around every command.

Completion for the shell: commands and options, found without anything heavy.

Where a command runs is not always a terminal in an ordinary folder.

Tables on a terminal: what a model calls things is never taken for markup or control.

``--open`` says what it did: to a real browser, to one that fails, and where there is none.
"""

import io
import json
import os
import resource
import shutil
import subprocess
import sys

import pytest
from rich.console import Console

import dsf
from dsf.cli import entry
from dsf.cli.early_checks import check_file
from dsf.cli.terminal import console, print_table, stage, watching

HEAVY = ("torch", "transformers", "matplotlib", "numba", "numpy", "sympy", "jinja2")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["inspect", "--help"]])
def test_help_loads_nothing_heavy(run_alone, arguments):
    script = (
        "import sys; from dsf.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as exit: print(exit.code, *sorted(sys.modules), file=sys.stderr)"
    )
    done = run_alone("-c", script, *arguments)
    code, *loaded = done.stderr.split()
    assert code == "0"
    assert set(HEAVY).isdisjoint(loaded)


@pytest.fixture
def seconds(run_alone):
    """The processor seconds of a process, which other work on the machine hardly changes."""

    def taken(*arguments):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run_alone(*arguments).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return taken


def test_help_is_quick(seconds):
    bare = min(seconds("-c", "pass") for _ in range(3))
    assert min(seconds("-m", "dsf", "--help") for _ in range(3)) < 0.4 + 3 * bare


def test_the_package_starts_like_torch(seconds):
    of_torch = seconds("-c", "import torch")
    assert seconds("-c", "import dsf") < 0.1 * of_torch
    assert seconds("-c", "import dsf; dsf.System, dsf.respond, dsf.attention_map") < 1.5 * of_torch


def test_help_lists_the_commands_and_the_exit_codes(run):
    shown = " ".join(run("--help").output.split())
    for word in ("demo", "inspect", "doctor", "Exit codes", "130 interrupted"):
        assert word in shown


def test_version(run):
    assert run("--version").output.split() == ["dsf", dsf.__version__]


@pytest.mark.parametrize("arguments", [["--version", "--json"], ["--json", "--version"]])
def test_version_as_json(run_alone, only_object, arguments):
    done = run_alone("-m", "dsf", *arguments)
    found = only_object(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert (found["version"], found["exit_code"]) == (dsf.__version__, 0)


def test_a_misspelt_command_is_usage(run_alone):
    done = run_alone("-m", "dsf", "inspekt")
    assert done.returncode == 2
    assert "inspect" in done.stderr
    assert done.stdout == ""


def test_an_interrupt_has_a_code_of_its_own(run_alone):
    script = (
        "import dsf.cli.doctor as doctor, dsf.cli\n"
        "def stop(*_): raise KeyboardInterrupt\n"
        "doctor._packages = stop\n"
        "dsf.cli.main(['doctor'])"
    )
    done = run_alone("-c", script)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_is_silent(tmp_path):
    command = f"{sys.executable} -m dsf doctor --json | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "141")


@pytest.mark.parametrize(("typed", "offered"), [("dsf in", "inspect"), ("dsf demo --js", "--json")])
def test_the_shell_completes(run_alone, typed, offered, monkeypatch):
    monkeypatch.setenv("_DSF_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    assert offered in run_alone("-c", "from dsf.cli import main; main([])").stdout.split()


def shell(run_alone, words):
    """A line for the shell, in which $DSF is the command."""
    return run_alone(
        "-c",
        "import os, subprocess, sys\n"
        "sys.exit(subprocess.run(['sh', '-c', sys.argv[1]], check=False).returncode)",
        words,
        DSF=f"{sys.executable} -m dsf",
    )


def test_a_full_log_does_not_change_the_exit_code(run_alone):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    done = shell(run_alone, "$DSF inspect nowhere.gguf --ids 1 2> /dev/full")
    assert done.returncode == 2


def test_closed_standard_error(run_alone):
    done = shell(run_alone, "$DSF inspect nowhere.gguf --ids 1 2>&-")
    assert done.returncode == 2


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep the folder")
@pytest.mark.parametrize("command", ["doctor", "demo", "inspect model --ids 1"])
def test_a_folder_that_was_removed(run_alone, command):
    """Without it torch ends the process, with a message of its own."""
    done = shell(run_alone, f"mkdir gone && cd gone && rmdir ../gone && $DSF {command}")
    assert done.returncode == 2
    assert done.stderr.endswith(
        "the folder that this runs in has been removed. Change to another.\n"
    )


@pytest.mark.parametrize(
    ("encoding", "errors", "expected"),
    [
        ("ascii", "strict", rb"\u03b1"),
        ("ascii", "surrogateescape", rb"\u03b1"),  # as Python opens it under LC_ALL=C
        ("utf-8", "strict", "α".encode()),
        ("utf-8", "surrogateescape", "α".encode()),
    ],
)
def test_letters_that_a_terminal_does_not_have(monkeypatch, encoding, errors, expected):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, errors=errors))
    monkeypatch.setattr(sys, "stderr", None)  # closed
    entry._write_every_letter()
    sys.stdout.write("α")
    sys.stdout.flush()
    assert written.getvalue() == expected


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_no_bars_in_the_log_of_a_build_server(monkeypatch, capsys, name):
    monkeypatch.setenv(name, "1")
    assert Console().is_terminal  # what rich makes of it by itself
    with watching(shown=True):
        stage("running")
    assert capsys.readouterr() == ("", "")
    assert not console().is_terminal
    assert console().width == 200


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_pipes_and_links_are_no_place_for_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "astray").symlink_to(tmp_path / "nothing")
    with pytest.raises(ValueError, match="pipe"):
        check_file(tmp_path / "pipe", "--out")
    with pytest.raises(ValueError, match="link"):
        check_file(tmp_path / "astray", "--out")


def test_a_protected_file_is_not_replaced(tmp_path, monkeypatch):
    """In a folder that may be written to it could be."""
    file = tmp_path / "kept.html"
    file.write_text("old")
    check_file(file, "--out")
    monkeypatch.setattr("os.access", lambda *_, **__: False)  # root may write to all
    with pytest.raises(ValueError, match=r"kept\.html': is write-protected"):
        check_file(file, "--out")
    check_file(tmp_path / "new.html", "--out")


HOSTILE = ("[red]x[/red]", ":bomb:", "\x1b[2J", "\u202eabc", "a\nb")


def test_hostile_text_is_shown_as_it_is(capsys):
    print_table(("name",), [(text,) for text in HOSTILE])
    shown = capsys.readouterr().out
    for text in ("[red]x[/red]", ":bomb:", "\\x1b[2J", "\\u202eabc", "a\\nb"):
        assert text in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_no_colour_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    print_table(("name", "value"), [("a", "b")])
    assert "\x1b[3" not in capsys.readouterr().out


@pytest.mark.parametrize("width", [20, 200])
def test_a_narrow_terminal_loses_nothing(width, capsys, monkeypatch):
    monkeypatch.setattr("dsf.cli.terminal.UNBOUNDED_WIDTH", width)
    print_table(("layer", "reason"), [("model.layers.0", "because it is so")])
    shown = " ".join(capsys.readouterr().out.split())
    assert "model.layers.0" in shown
    assert "because it is so" in shown


@pytest.mark.sampled
@pytest.mark.parametrize("lines", [0, 1])
def test_who_stops_reading_before_the_table_is_told_no_failure(checkpoint, tmp_path, lines):
    """rich ends a process whose table nobody reads with 1, which says that a layer is wrong."""
    command = ("-m", "dsf", "inspect", checkpoint, "--ids", "1 2 3", "--no-report")
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    ) as process:
        for _ in range(lines):
            process.stdout.readline()
        process.stdout.close()
        told = process.stderr.read()
    assert (process.returncode, told) == (141, b"")


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
COMMAND = ("-m", "dsf", "demo", "--playground", "delta_net", "--open")
ALONE = (
    "from pathlib import Path; from dsf.cli.terminal import open_page; "
    "print(open_page(Path('a'))['words'])"
)

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="displays are those of Linux")


@pytest.fixture
def asked(run_alone):
    """Runs the command with this browser, and with no display or one that is not there."""

    def ask(*arguments, browser, display=""):
        return run_alone(*arguments, BROWSER=browser, DISPLAY=display, WAYLAND_DISPLAY="")

    return ask


@on_linux
def test_without_a_display_it_says_so_and_where_the_page_is(asked, tmp_path):
    page = (tmp_path / "playground.html").as_uri()
    done = asked(*COMMAND, browser="")
    told = f"not opened: there is no display here. Open {page} in a browser."
    assert (done.returncode, done.stdout.splitlines()) == (0, ["playground.html", told])


@on_linux
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


@on_linux
def test_a_browser_that_prints_does_not_disturb_the_answer(asked, tmp_path):
    done = asked("-c", ALONE, browser="echo printed %s")
    assert "printed" not in done.stdout
    assert f"printed {(tmp_path / 'a').as_uri()}" in done.stderr


@on_linux
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


@on_linux
def test_the_browser_is_named_and_a_missing_window_is_spoken_of(asked, tmp_path):
    """A display that is set and not there is found out by the browser, after the command ended."""
    told = asked("-c", ALONE, browser="true %s", display=":987").stdout
    page = (tmp_path / "a").as_uri()
    assert told == f"handed to true: {page} (no window? Open the address yourself.)\n"
