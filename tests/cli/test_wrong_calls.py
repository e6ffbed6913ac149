"""Wrong calls are answered in a sentence: soon, with the right exit code, also as JSON."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')

from docs.wrong_calls import CALLS, PAGE, outcomes, prepare
from dsf.cli.command import IN_WORDS

ROOT = Path(__file__).resolve().parents[2]
EARLY = [call for call in CALLS if not call.runs]
LATE = [call for call in CALLS if call.runs]
SECONDS = 1.0  # of work; other programs on the machine do not count


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder that the calls speak of."""
    folder = tmp_path_factory.mktemp("calls")
    prepare(folder)
    return folder


def alone(place, *arguments, **options):
    """Python in a process of its own."""
    known = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    settings = {"capture_output": True, "text": True, "timeout": 100, **options}
    return subprocess.run(
        [sys.executable, *arguments], cwd=place, env=known, check=False, **settings
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the calls speak of /proc and /dev")
def test_what_needs_no_model_is_answered_at_once(place):
    """All in one process, in which nothing heavy is imported from the first call to the last."""
    found = outcomes([call.arguments for call in EARLY], place)
    for call, answer in zip(EARLY, found, strict=True):
        assert (answer.code, answer.heavy) == (call.code, []), (call.words, answer)
        assert call.said in answer.err, (call.words, answer.err)
        assert "Traceback" not in answer.err
        assert not re.search(r"\[Errno|Error\b.*Error", answer.err), answer.err
        assert answer.out == ""
        assert answer.seconds < SECONDS, call.words


@pytest.mark.skipif(sys.platform != "linux", reason="the calls speak of /proc and /dev")
def test_the_same_in_json(place):
    calls = [[*call.arguments, "--json"] for call in EARLY]
    for arguments, answer in zip(calls, outcomes(calls, place), strict=True):
        found = json.loads(answer.out)
        assert found["exit_code"] == answer.code == 2, arguments
        assert set(found) == {"schema_version", "command", "exit_code", "error"}
        assert found["error"]["message"]
        assert answer.err == ""


@pytest.mark.parametrize("call", LATE, ids=lambda call: call.words)
def test_what_needs_the_model_is_told_as_well(run, place, monkeypatch, call):
    monkeypatch.chdir(place)
    done = run(*call.arguments)
    assert done.exit_code == call.code, done.output
    assert call.said in done.output
    assert "Traceback" not in done.output


def test_a_run_is_not_written_over_by_another_input(run, place, monkeypatch):
    """Also where the input becomes known with the model, and where a run was interrupted."""
    monkeypatch.chdir(place)
    (place / "other.txt").write_text("unread")
    assert run("check", "model", "--ids", "1 2", "--out", "mine").exit_code == 0
    before = (place / "mine/manifest.json").read_bytes()
    again = run("check", "model", "--ids", "1 2", "--out", "mine", "--heads", "0")
    assert again.exit_code == 0
    for arguments in (["model", "--ids", "1 3"], ["short", "--ids", "1 2"]):
        done = run("check", *arguments, "--out", "mine")
        assert done.exit_code == 2
        assert "is not written over" in done.stderr
    assert (place / "mine/manifest.json").read_bytes() != before  # of the other heads
    source = json.loads(before)["source"]
    assert source["input"].startswith("sha256 ")
    (place / "mine/manifest.json").rename(place / "mine/unfinished.json")
    assert run("check", "model", "--ids", "1 3", "--out", "mine").exit_code == 2


def test_a_fault_of_ours_has_a_code_of_its_own(place):
    script = (
        "import dsf.cli.doctor as doctor, dsf.cli\n"
        "def fail(*_): raise ZeroDivisionError('by nothing')\n"
        "doctor._packages = fail\n"
        "dsf.cli.main(['doctor'])"
    )
    done = alone(place, "-c", script)
    assert done.returncode == 4
    assert "a fault of dsf itself, not of your call: ZeroDivisionError: by nothing" in done.stderr
    assert "Traceback" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "arguments", ["--help", "doctor", "demo --playground delta_net --json", "inspect --json"]
)
def test_an_answer_that_cannot_be_written(place, arguments):
    with open("/dev/full", "w") as full:
        done = alone(
            place,
            "-m",
            "dsf",
            *arguments.split(),
            capture_output=False,
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert done.returncode == 3
    assert "the answer could not be written: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="closes a descriptor by the shell")
@pytest.mark.parametrize("arguments", ["--help", "demo", "doctor --json"])
def test_a_closed_standard_output(place, arguments):
    """Nothing is begun whose answer could go nowhere."""
    known = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    asked = f"{sys.executable} -m dsf {arguments} >&-"
    done = subprocess.run(
        ["sh", "-c", asked], cwd=place, env=known, check=False, stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == 3
    assert re.fullmatch(r"dsf\b[a-z ]*: standard output is closed\..*/dev/null\.\n", done.stderr)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sees that torch is being loaded")
@pytest.mark.parametrize("times", [1, 3])
def test_ctrl_c_is_answered_in_a_sentence(place, times):
    """While the model loads, in a process of its own; also where it is pressed again and again."""
    known = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    asked = [sys.executable, "-m", "dsf", "inspect", "model", "--ids", "1 2", "--no-report"]
    process = subprocess.Popen(
        asked,
        cwd=place,
        env=known,
        stderr=subprocess.PIPE,
        text=True,
        # A suite that runs in the background hands on that interrupts are ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    # On a busy machine the interpreter alone may take seconds; before torch it is ours.
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8"):
        assert process.poll() is None
        time.sleep(0.05)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    _, told = process.communicate(timeout=60)
    # Python ends itself by the signal where it came while source text was being executed.
    assert process.returncode in (130, -signal.SIGINT), told
    assert re.fullmatch(r"dsf\b[a-z ]*: interrupted\.[^\n]*\n", told)


def test_a_watched_command_says_what_it_does(place):
    """On a terminal: the first stage comes before torch, the bars are gone at the end."""
    pty = pytest.importorskip("pty")
    known = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TERM": "xterm"}
    ours, theirs = pty.openpty()
    asked = [sys.executable, "-m", "dsf", "inspect", "model", "--ids", "1 2", "--out", "watched"]
    begun = time.perf_counter()
    process = subprocess.Popen(
        asked, cwd=place, env=known, stdout=subprocess.PIPE, stderr=theirs, text=True
    )
    os.close(theirs)
    told, first = b"", None
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:
            break
        if not piece:
            break
        first = first or time.perf_counter() - begun
        told += piece
    out = process.communicate(timeout=100)[0]
    os.close(ours)
    assert process.returncode == 0
    for stage in (b"starting", b"loading model", b"running the model", b"layer 2 of 2", b"drawing"):
        assert stage in told, told
    assert b"\x1b" not in out.encode()
    assert "watched/report.html" in out
    assert first < 10 * SECONDS  # an idle machine takes 0.4 s


def test_the_page_says_what_the_tests_know():
    text = PAGE.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `dsf ")]
    assert len(rows) == len(CALLS) >= 60
    for call, row in zip(CALLS, rows, strict=True):
        _, words, told, code, seconds, _ = re.split(r"(?<!\\)\|", row)
        unescaped = re.sub(r"\\(.)", r"\1", told).replace("&lt;", "<")
        assert words.strip().strip("`").replace("\\", "") == f"dsf {call.words}".replace("\\", "")
        assert call.said in unescaped, row
        assert int(code) == call.code
        assert call.runs or float(seconds) < SECONDS
    for code, said in IN_WORDS.items():
        assert f"| {code} | {said} |" in text
