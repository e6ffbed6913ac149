"""Where a command runs is not always a terminal in an ordinary folder."""

import io
import os
import sys

import pytest
from rich.console import Console

from dsf.cli import entry
from dsf.cli.output_place import check_file
from dsf.cli.terminal import console, stage, watching


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
        check_file(tmp_path / "pipe", "--out", makes_folder=True)
    check_file(tmp_path / "pipe", "--csv")  # is written into, as it is
    for replaced in (True, False):
        with pytest.raises(ValueError, match="link"):
            check_file(tmp_path / "astray", "--out", makes_folder=replaced)


def test_a_protected_file_is_not_replaced(tmp_path, monkeypatch):
    """In a folder that may be written to it could be."""
    file = tmp_path / "kept.csv"
    file.write_text("old")
    check_file(file, "--csv")
    monkeypatch.setattr("os.access", lambda *_, **__: False)  # root may write to all
    with pytest.raises(ValueError, match=r"kept\.csv': is write-protected"):
        check_file(file, "--csv")
    check_file(tmp_path / "new.csv", "--csv")


def test_a_table_goes_where_a_link_leads(run_alone):
    """As /dev/stdout, which is a link to a pipe here."""
    done = run_alone(
        "-c",
        "from pathlib import Path; from dsf.runtime.files import write_over\n"
        "write_over(Path('/dev/stdout'), 'a,b')",
    )
    assert (done.stdout, done.stderr) == ("a,b", "")
