"""What the command line does before and around every command."""

import resource
import subprocess
import sys

import pytest

import dsf

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
    assert min(seconds("-m", "dsf", "--help") for _ in range(3)) < 0.3 + 3 * bare


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
        "doctor.findings = stop\n"
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
