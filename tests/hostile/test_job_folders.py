"""The folder of a job from anywhere: nothing outside it changes, and what is odd is named."""

import json
import shutil
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import dsf
from dsf.jobs import gather, measure_prompts, summary
from dsf.jobs.storage import MANIFEST
from dsf.models import folder
from dsf.runtime.files import LeadsOutside

MODEL = folder("llama")
UNIT = "units/00000000+1.safetensors"


def measure(place):
    return measure_prompts(MODEL, [[1, 2, 3]], place, quantities=("mean_row_sum",))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("made") / "job"
    measure(place)
    return place


@pytest.fixture
def job(made, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.txt").write_text("theirs")
    return shutil.copytree(made, tmp_path / "job")


def content(place):
    return {p.relative_to(place).as_posix(): p.read_bytes() for p in place.rglob("*")
            if p.is_file() and not p.is_symlink()}  # fmt: skip


@pytest.mark.parametrize("name", ["units", UNIT, MANIFEST])
def test_no_link_is_followed(job, name):
    path, outside = job / name, job.parent / "outside"
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    path.symlink_to(outside / "a.txt" if "." in path.name else outside)
    before = content(outside)
    with pytest.raises((LeadsOutside, dsf.jobs.JobError), match="link"):
        measure(job)
    assert content(outside) == before


def test_a_summary_that_is_a_link_is_not_followed(job):
    (job / "summary.csv").unlink()
    (job / "summary.csv").symlink_to(job.parent / "outside" / "a.txt")
    with pytest.raises(LeadsOutside, match="link"):
        measure(job)
    assert (job.parent / "outside" / "a.txt").read_text() == "theirs"


def test_files_of_the_user_stay(job):
    for name in (".x.tmp-y", "units/.x.tmp-y", "units/.0000.tmp-1.safetensors", "mine.txt"):
        (job / name).write_text("mine")
    measure(job)
    assert list(content(job).values()).count(b"mine") == 4


@pytest.mark.parametrize("name", ["units", "summary.csv"])
def test_a_folder_of_somebody_else_is_no_job(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=name):
        measure(tmp_path)
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "[" * 100_000, "\u00ff\u00fe"])
@pytest.mark.parametrize("name", [MANIFEST, UNIT])
def test_malformed_files_are_named(job, name, text):
    (job / name).write_bytes(text.encode("latin-1"))
    for read in (measure, gather, summary):
        with pytest.raises(ValueError, match="not as a job writes it"):
            read(job)


@pytest.mark.parametrize(
    "units",
    [None, 3, [3], ["0"], ["0+1000000000000"], ["00000000+1000000000000"], ["00000000+999999"],
     ["00000000+0"], ["00000001+1"], ["00000000+1", "00000000+1"], ["00000000+2"], ["../../x+1"],
     ["00000000+-1"], []],
)  # fmt: skip
def test_units_are_the_prompts_one_after_the_other(job, units):
    described = json.loads((job / MANIFEST).read_text())
    (job / MANIFEST).write_text(json.dumps(described | {"units": units}))
    begin = time.process_time()
    for read in (gather, summary):
        with pytest.raises(ValueError, match=r"job\.json"):
            read(job)
    assert time.process_time() - begin < 2


FACTS = {"name": "a", "family": "b", "axes": ["sample"], "error": 0.0, "formula": 0.0,
         "rounding": 0.0, "tolerance": 1.0, "unmeasured": {}, "heads": None}  # fmt: skip
ONE = torch.zeros(1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("facts", "name", "value"),
    [
        (None, "0000 q", ONE),
        ("[", "0000 q", ONE),
        (3, "0000 q", ONE),
        ({}, "0000 q", ONE),
        ([FACTS | {"more": 1}], "0000 q", ONE),
        ([FACTS | {"name": 3}], "0000 q", ONE),
        ([FACTS | {"axes": 3}], "0000 q", ONE),
        ([FACTS | {"error": "x"}], "0000 q", ONE),
        ([FACTS | {"unmeasured": []}], "0000 q", ONE),
        ([FACTS], "0001 q", ONE),
        ([FACTS], "-1 q", ONE),
        ([FACTS], "q", ONE),
        ([FACTS], "0000 q", torch.zeros(2, dtype=torch.float64)),
        ([FACTS], "0000 q", torch.zeros(1, 3, dtype=torch.float64)),
        ([FACTS], "0000 q", torch.zeros((), dtype=torch.float64)),
        ([FACTS], "0000 q", torch.zeros(1, dtype=torch.int64)),
    ],
)
def test_a_malformed_unit_is_named(job, facts, name, value):
    text = facts if isinstance(facts, str) else json.dumps({"layers": facts, "notes": []})
    metadata = None if facts is None else {"unit": text}
    save_file({name: value}, job / UNIT, metadata=metadata)
    for read in (gather, summary):
        with pytest.raises(ValueError, match="not as a job writes it"):
            read(job)


def test_a_damaged_unit_is_named(job):
    whole = (job / UNIT).read_bytes()
    for spoiled in (b"", whole[:20], whole[:-1], b"\xff" * 8 + whole[8:]):
        (job / UNIT).write_bytes(spoiled)
        with pytest.raises(ValueError, match=r"00000000\+1\.safetensors"):
            gather(job)


def forge(job, *, seal):
    """Other numbers in a finished unit, with or without a seal that fits them."""
    path = job / UNIT
    with safe_open(path, "pt") as file:
        record = json.loads(file.metadata()["unit"])
    if seal == "by another":
        record["seal"] = "0" * 64
    elif seal == "none":
        record.pop("seal")
    others = {name: value * 0 + 12345.0 for name, value in load_file(path).items()}
    save_file(others, path, {"unit": json.dumps(record)})


@pytest.mark.parametrize("seal", ["as it was", "by another", "none"])
def test_numbers_that_this_user_did_not_write_are_measured_anew(job, made, seal):
    forge(job, seal=seal)
    measure(job)
    assert content(job) == content(made)


def test_a_unit_of_another_job_is_not_kept(job, made, tmp_path):
    """It bears this user's seal, but for another model, prompt or list of quantities."""
    other = tmp_path / "other"
    measure_prompts(MODEL, [[1, 2, 4]], other, quantities=("mean_row_sum",))
    shutil.copy(other / UNIT, job / UNIT)
    measure(job)
    assert content(job) == content(made)


def test_ones_own_units_are_kept(job):
    stamp = (job / UNIT).stat().st_mtime_ns
    measure(job)
    assert (job / UNIT).stat().st_mtime_ns == stamp
