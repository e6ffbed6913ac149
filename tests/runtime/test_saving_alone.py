"""A file or folder that one process writes is not written by another one at the same time."""

import os
import subprocess
import sys

import pytest
import torch

import dsf
from dsf import models
from dsf.jobs import measure_prompts
from dsf.properties.run_folder import checked_run
from dsf.runtime.files import alone

pytest.importorskip("fcntl", reason="Windows has no such claims")
HOLD = """
import sys
from pathlib import Path
from dsf.runtime.files import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
FORKED = """
import os, sys
from pathlib import Path
from dsf.runtime.files import alone
with alone(Path(sys.argv[1])):
    if not os.fork():
        print("forked", flush=True)
    sys.stdin.read()
"""
TOKENS = torch.arange(4).unsqueeze(0)


class Other:
    """Another process that holds a path until it is told to end."""

    def __init__(self, path):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout.readline() == "held\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.communicate("")


def test_a_claim_ends_with_its_block_and_with_its_process(tmp_path):
    for path in (tmp_path, tmp_path / "file"):
        path.exists() or path.touch()
        with Other(path) as other:
            with pytest.raises(ValueError, match="another process"):
                alone(path).__enter__()
            other.process.kill()
        with alone(path), pytest.raises(ValueError, match="Wait"):
            alone(path).__enter__()
        with alone(path):
            pass


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_keeps_no_claim_and_takes_none_away(tmp_path):
    wakes, end = os.pipe()
    with alone(tmp_path):
        if not (child := os.fork()):
            os.close(end)
            os.read(wakes, 1)
            os._exit(0)
        with pytest.raises(ValueError, match="another process"):
            alone(tmp_path).__enter__()
    try:
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        with alone(tmp_path):
            pass
    finally:
        os.close(end)
        os.waitpid(child, 0)
        os.close(wakes)


def test_a_process_that_is_killed_leaves_no_claim_to_those_it_forked(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", FORKED, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as killed:  # fmt: skip
        assert killed.stdout.readline() == "forked\n"
        killed.kill()
        killed.wait()
        with alone(tmp_path):
            pass


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_block_that_a_forked_process_leaves_takes_no_file_of_its_own_away(tmp_path):
    said, says = os.pipe()
    try:
        with alone(tmp_path):
            child = os.fork()
            mine = None if child else os.open(tmp_path, os.O_RDONLY)
    finally:
        if not child:
            os.fstat(mine)
            os.write(says, b"there")
            os._exit(0)
    os.close(says)
    assert os.read(said, 5) == b"there"
    os.close(said)
    assert os.waitpid(child, 0)[1] == 0


def test_two_sweeps_do_not_share_a_file(tmp_path):
    file = tmp_path / "sweep.jsonl"
    asked = {"edits": [dsf.edits.Ablate(0)], "target": 3, "input_ids": TOKENS, "resume": file}
    first = dsf.sweep(models.folder("llama"), **asked)
    before = file.read_bytes()
    with Other(file), pytest.raises(ValueError, match=r"sweep\.jsonl"):
        dsf.sweep(models.folder("llama"), **asked)
    assert file.read_bytes() == before
    assert torch.equal(dsf.sweep(models.folder("llama"), **asked), first)


def test_a_sweep_keeps_its_file_to_itself_from_the_first_run_on(tmp_path):
    file, refused = tmp_path / "sweep.jsonl", []
    edits = [dsf.edits.Ablate(0), dsf.edits.Ablate(1)]
    asked = {"edits": edits, "target": 3, "input_ids": TOKENS, "resume": file}

    def meanwhile(done, count):
        with pytest.raises(ValueError, match="another process"):
            dsf.sweep(models.folder("llama"), **asked)
        refused.append((done, count))

    dsf.sweep(models.folder("llama"), **asked, progress=meanwhile)
    assert refused == [(1, 2), (2, 2)]
    assert len(file.read_text().splitlines()) == 3


def test_two_jobs_do_not_share_a_folder(tmp_path):
    with Other(tmp_path), pytest.raises(ValueError, match="another process"):
        measure_prompts(models.folder("llama"), [[1, 2]], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_runs_do_not_share_a_folder(tmp_path):
    found = dsf.inspect(models.folder("llama"), input_ids=TOKENS)
    with Other(tmp_path), pytest.raises(ValueError, match="another process"):
        checked_run(found, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_beside_a_model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    found = dsf.inspect(models.folder("llama"), input_ids=TOKENS, layers=0)
    with pytest.raises(ValueError, match="files of a model"):
        checked_run(found, tmp_path)
    with pytest.raises(ValueError, match="files of a model"):
        measure_prompts(models.folder("llama"), [[1, 2]], tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.usefixtures("our_own_errors")
@pytest.mark.parametrize("prompts", ["text", ["a text"], [["a"]], [[1.5]], 3, [3]])
def test_prompts_are_token_numbers(tmp_path, prompts):
    with pytest.raises(TypeError, match="prompt"):
        measure_prompts(models.folder("llama"), prompts, tmp_path / "job")
    assert not (tmp_path / "job").exists()
