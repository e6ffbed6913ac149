"""A pass that was stopped goes on from its file, to the same bytes; other files are refused."""

from functools import partial

import pytest
import torch

import dsf
from dsf import measures
from tests.drawn import Drawer, attention, sampled

ASKED = (measures.row_entropy, measures.mean_distance, measures.negative_share, measures.sink_mass)
STEPS = 200


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Loops take the smallest work, too, and every block is kept."""
    monkeypatch.setattr("dsf.systems.kernels.availability.WORTH", 0)
    monkeypatch.setattr("dsf.measures.checkpointing.PERIOD", 0.0)


def heads(seed=1):
    """Two groups of one head."""
    return Drawer(seed).system("scaled_identity", batch=(2,), steps=STEPS)


CASES = {
    "heads": heads,
    "scores": lambda: attention(steps=STEPS),
    "diagonal": lambda: sampled(steps=STEPS),
    "rows": lambda: Drawer(2).system("low_rank", steps=STEPS),
    "a map": lambda: dsf.attention_map(heads()),
}


class Stopped(Exception):
    pass


def stopping(after, told, done, _):
    told.append(done)
    if len(told) == after:
        raise Stopped


def run(system, path, *, after=0):
    """The values, and after how many rows something was said; stopped ``after`` so many blocks."""
    told = []
    progress = partial(stopping, after, told)
    try:
        found = measures.streamed(system, *ASKED, error=1e-3, progress=progress, resume=path)
    except Stopped:
        return None, told
    return found, told


@pytest.mark.sampled(count=3)
@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_a_stopped_pass_goes_on(make, tmp_path):
    system, path = make(), tmp_path / "kept" / "pass.safetensors"
    whole, every = run(system, tmp_path / "other")
    assert len(every) >= 4
    for after in (1, 2):
        assert run(system, path, after=after)[0] is None
    found, told = run(system, path)
    assert told == every[3:]
    again, nothing = run(system, path)
    assert nothing == []
    for each in (found, again):
        assert all(map(torch.equal, each.values, whole.values))
        assert torch.equal(torch.as_tensor(each.left_out), torch.as_tensor(whole.left_out))
        assert each.visited == whole.visited
    assert path.read_bytes() == (tmp_path / "other").read_bytes()


def test_the_file_is_written_now_and_then(tmp_path, monkeypatch):
    monkeypatch.setattr("dsf.measures.checkpointing.PERIOD", 1e6)
    run(heads(), tmp_path / "file", after=3)
    assert not (tmp_path / "file").exists()
    run(heads(), tmp_path / "file")
    assert (tmp_path / "file").exists()


@pytest.mark.usefixtures("our_own_errors")
def test_other_files_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "file"
    run(heads(), path, after=2)

    def go(system, *asked, error=1e-3, path=path):
        return measures.streamed(system, *asked, error=error, resume=path)

    with pytest.raises(ValueError, match="'system'"):
        go(heads(seed=2), *ASKED)
    with pytest.raises(ValueError, match="'measures'"):
        go(heads(), *ASKED[:2])
    with pytest.raises(ValueError, match="'error'"):
        go(heads(), *ASKED, error=1e-2)
    with monkeypatch.context() as off:
        off.setenv("DSF_KERNELS", "0")
        with pytest.raises(ValueError, match="'pass'"):
            go(heads(), *ASKED)
    path.write_text("something else")
    with pytest.raises(ValueError, match="not a checkpoint"):
        go(heads(), *ASKED)
    with pytest.raises(ValueError, match="'resume'"):
        go(dsf.evaluate.row_blocks(heads()), *ASKED, path=tmp_path / "new")
