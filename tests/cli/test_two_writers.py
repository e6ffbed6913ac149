"""Two commands that would write into one folder: the second is refused before it works."""

import subprocess
import sys

import pytest

pytest.importorskip("fcntl", reason="Windows has no such claims")
pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')

IDS = ("--ids", "1 2 3 4")
HOLD = """
import sys
from pathlib import Path
from dsf.runtime.files import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path):
    """A folder that another process writes."""
    folder = tmp_path / "out"
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, folder],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "held\n"
        yield folder
        process.communicate("")


@pytest.mark.parametrize("command", ["inspect", "check", "measure", "state", "demo"])
def test_the_second_is_refused_before_a_model_is_loaded(run, checkpoint, held, command):
    (held.parent / "prompts.txt").write_text("1 2 3\n")
    words = {"measure": ("prompts.txt", "--ids"), "demo": ()}.get(command, IDS)
    model = () if command == "demo" else (checkpoint,)
    done = run(command, *model, *words, "--out", held)
    assert done.exit_code == 2
    assert "is being written by another process" in done.output
    assert "loading" not in done.output
    assert [each.name for each in held.iterdir()] == [".dsf.lock"]


def test_a_report_is_claimed_while_its_model_runs(run, checkpoint, tmp_path, monkeypatch):
    from dsf.cli import run_model
    from dsf.runtime.files import alone

    seen = []

    def inspected(*_, **__):
        with pytest.raises(ValueError, match="another process"):
            alone(tmp_path / "new" / "out").__enter__()
        seen.append(True)
        raise ValueError("enough")

    monkeypatch.setattr(run_model, "inspect_checkpoint", inspected)
    done = run("inspect", checkpoint, *IDS, "--out", "new/out")
    assert (seen, done.exit_code) == ([True], 2), done.output
    assert not (tmp_path / "new").exists()  # nothing was written, so nothing is left behind
