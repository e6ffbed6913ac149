"""Tables on a terminal: what a model calls things is never taken for markup or control."""

import subprocess
import sys

import pytest

from dsf.cli.terminal import print_table

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
