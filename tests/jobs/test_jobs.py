"""Jobs over many prompts: units, executors, what is refused, what the files say."""

import filecmp
import json
import math
import os
from pathlib import Path

import pytest
import torch

import dsf
from dsf.cli.command import code_of
from dsf.inspection import InspectionMemoryError
from dsf.inspection.results import measurements
from dsf.inspection.results.measurements import measured
from dsf.jobs import prompts, storage
from dsf.models import folder

MODEL = folder("qwen3_next")
PROMPTS = [[1, 2, 3, 4, 5], [5, 6, 7, 8, 9], [3, 1, 4], [1, 5, 9, 2, 6]]
QUANTITIES = ("mean_row_sum", "negative_share", "half_life")


def measure(place, prompts=PROMPTS, **options):
    return dsf.jobs.measure_prompts(MODEL, prompts, place, quantities=QUANTITIES, **options)


def equal_trees(one: Path, other: Path) -> bool:
    """Same files, same bytes."""
    files = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    others = {path.relative_to(other) for path in other.rglob("*") if path.is_file()}
    return files == others and all(
        filecmp.cmp(one / name, other / name, shallow=False) for name in files
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    place = tmp_path_factory.mktemp("job")
    measure(place, batch=2)
    return place


def test_a_limit_on_the_error_reaches_every_layer(tmp_path):
    with pytest.raises(dsf.jobs.JobError, match="1e-18"):
        measure(tmp_path / "tight", PROMPTS[2:3], tolerance=1e-18)
    measure(tmp_path / "loose", PROMPTS[2:3], tolerance=0.01)
    assert json.loads((tmp_path / "loose" / "job.json").read_text())["tolerance"] == 0.01
    with pytest.raises(ValueError, match="tolerance"):
        measure(tmp_path / "loose", PROMPTS[2:3])
    with pytest.raises(ValueError, match="tolerance"):
        measure(tmp_path / "other", tolerance=2.0)


def test_a_unit_that_does_not_fit_is_refused_before_the_first_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("dsf.inspection.support_table.free_memory", lambda _: 10**8)

    def ran(*_, **__):
        raise AssertionError("a unit ran")

    monkeypatch.setattr(prompts, "work", ran)
    with pytest.raises(InspectionMemoryError, match=r"10 tokens .* 0\.1 GB"):
        measure(tmp_path, batch=2)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: ...")]
)
def test_memory_that_runs_out_in_every_failed_unit_is_told_apart(tmp_path, monkeypatch, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(prompts, "inspect", fails)
    with pytest.raises(dsf.jobs.JobMemoryError, match=r"4 of 4 units.*out of memory"):
        measure(tmp_path)
    assert code_of(dsf.jobs.JobMemoryError("all of them")) == 3
    monkeypatch.setattr(prompts, "inspect", lambda *_, **__: 1 / 0)
    with pytest.raises(dsf.jobs.JobError) as told:
        measure(tmp_path)
    assert not isinstance(told.value, MemoryError)


def test_neighbours_of_one_length_share_a_unit():
    units = storage._grouped(PROMPTS, batch=2)
    assert [unit.prompts for unit in units] == [(0, 1), (2,), (3,)]
    assert [unit.prompts for unit in storage._grouped(PROMPTS, batch=1)] == [(0,), (1,), (2,), (3,)]
    assert [len(unit.prompts) for unit in storage._grouped([[1]] * 7, batch=3)] == [3, 3, 1]


def test_the_numbers_are_those_of_an_inspection(finished):
    table = dsf.jobs.gather(finished)
    alone = dsf.inspect(MODEL, input_ids=torch.tensor([PROMPTS[2]]))
    expected = {
        (record["layer"], record.get("head"), record["quantity"]): record["value"]
        for record in measured(alone, {name: measurements.QUANTITIES[name] for name in QUANTITIES})
    }
    found = {
        (record["layer"], record.get("head"), record["quantity"]): record["value"]
        for record in table.where(prompt=2)
    }
    assert found == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert {record["prompt"] for record in table} == {0, 1, 2, 3}


def test_the_summary_is_that_of_the_records(finished):
    row = next(iter(dsf.jobs.summary(finished).where(quantity="mean_row_sum", head=1)))
    values = [
        record["value"]
        for record in dsf.jobs.gather(finished).where(
            quantity="mean_row_sum", head=1, layer=row["layer"]
        )
    ]
    numbers = torch.tensor(values, dtype=torch.float64)
    assert row["count"] == len(PROMPTS)
    assert row["mean"] == pytest.approx(numbers.mean().item())
    assert row["deviation"] == pytest.approx(numbers.std().item())
    assert (row["smallest"], row["largest"]) == (min(values), max(values))


def test_moments_by_hand_and_without_what_is_nan():
    from dsf.jobs.summaries import _Moments

    moments = _Moments(torch.zeros(1, dtype=torch.float64))
    moments.add(torch.tensor([[1.0], [math.nan], [2.0], [6.0]], dtype=torch.float64))
    facts = storage.LayerFacts("l", "f", ("sample", "head"), {}, heads=(4,))
    (row,) = moments.records(("l", "f", "q"), facts)
    assert row["head"] == 4
    assert (row["count"], row["mean"], row["smallest"], row["largest"]) == (3, 3, 1, 6)
    assert row["deviation"] == pytest.approx(7**0.5)


def test_what_is_finished_is_not_done_again(finished, monkeypatch):
    monkeypatch.setattr(prompts, "_measure", lambda *_: pytest.fail("done again"))
    assert len(measure(finished, batch=2)) == len(dsf.jobs.summary(finished))


def test_a_missing_unit_is_made_again_and_comes_out_the_same(finished, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    (copy / storage.UNITS / "00000002+1.safetensors").unlink()
    (copy / storage.UNITS / f".dsf-{'0' * 32}.draft").write_bytes(b"half")
    assert [each.name for each in dsf.jobs.summaries.finished(copy)] == ["00000000+2", "00000003+1"]
    measure(copy, batch=2)
    assert equal_trees(finished, copy)


@pytest.mark.parametrize("name", ["processes", "cluster"])
def test_executors_make_the_same_files(finished, tmp_path, name):
    place = tmp_path / "job"
    executor = {
        "processes": lambda: dsf.jobs.processes(2),
        "cluster": lambda: dsf.jobs.cluster(
            tmp_path / "logs", units_per_job=2, cluster="local", timeout_min=3
        ),
    }[name]()
    seen = []
    measure(place, batch=2, executor=executor, progress=lambda *counts: seen.append(counts))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert equal_trees(finished, place)


def test_a_dask_cluster_makes_the_same_files(finished, tmp_path):
    needs = 'needs pip install "dsf-toolkit[scale]"'
    distributed = pytest.importorskip("distributed", reason=needs)
    with distributed.Client(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ):
        measure(tmp_path, batch=2, executor=dsf.jobs.joblib_backend("dask"))
    assert equal_trees(finished, tmp_path)


@pytest.mark.usefixtures("one_thread")
def test_a_model_can_be_measured_in_another_number_type(tmp_path):
    table = measure(tmp_path, PROMPTS[:1], dtype="float64", device="cpu")
    ids = torch.tensor(PROMPTS[:1])
    found = dsf.inspect(MODEL, input_ids=ids, dtype="float64").measure(*QUANTITIES)
    expected = [row["value"] for row in found if row["quantity"] == QUANTITIES[1]]
    assert [row["mean"] for row in table.where(quantity=QUANTITIES[1])] == expected
    with pytest.raises(ValueError, match="dtype"):
        measure(tmp_path, PROMPTS[:1])  # another job


def test_a_prompt_that_fails_is_told_after_all_others_and_tried_again(tmp_path):
    with pytest.raises(dsf.jobs.JobError, match=r"1 of 2 units.*00000000\+1"):
        measure(tmp_path, [[10**6], [1, 2]])
    assert [unit.name for unit in dsf.jobs.summaries.finished(tmp_path)] == ["00000001+1"]
    with pytest.raises(dsf.jobs.JobError, match="1 of 2 units"):
        measure(tmp_path, [[10**6], [1, 2]])


def test_another_job_in_the_folder_is_refused(finished):
    before = (finished / storage.MANIFEST).read_bytes()
    with pytest.raises(ValueError, match="prompts, prompts_hash, units"):
        measure(finished, PROMPTS[:2], batch=2)
    assert (finished / storage.MANIFEST).read_bytes() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch": 0}, "'batch'"),
        ({"threads": 0}, "'threads'"),
        ({"prompts": []}, "no prompts"),
        ({"prompts": [[1], []]}, "prompt 1"),
    ],
)
def test_arguments_without_sense_are_refused(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        measure(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_unknown_quantities_are_refused(tmp_path):
    with pytest.raises(ValueError, match="quantities"):
        dsf.jobs.measure_prompts(MODEL, PROMPTS, tmp_path, quantities=["charm"])
    with pytest.raises(ValueError, match="workers"):
        dsf.jobs.processes(0)
    with pytest.raises(ValueError, match="units_per_job"):
        dsf.jobs.cluster(tmp_path, units_per_job=0)


def test_threads_are_as_before_and_one_inside(tmp_path, monkeypatch):
    before, inside = torch.get_num_threads(), []
    monkeypatch.setattr(prompts, "_measure", lambda *_: inside.append(torch.get_num_threads()))
    torch.set_num_threads(2)
    try:
        made = storage.Plan(
            model=str(MODEL),
            weights="",
            configuration="",
            prompts=(tuple(PROMPTS[0]),),
            quantities=tuple(QUANTITIES),
            batch=1,
        )
        assert prompts.work(made, tmp_path, made.units[0]) == (made.units[0], None)
        prompts.work(made, tmp_path, made.units[0], threads=3)
        assert (inside, torch.get_num_threads()) == ([1, 3], 2)
    finally:
        torch.set_num_threads(before)


def test_the_manifest_says_what_was_measured(finished):
    held = json.loads((finished / storage.MANIFEST).read_text())
    assert held["units"] == ["00000000+2", "00000002+1", "00000003+1"]
    assert (held["prompts"], held["quantities"]) == (4, list(QUANTITIES))
    assert len(held["weights"]) == 64
    assert os.path.commonpath([held["model"], str(MODEL)]) == str(MODEL)


def test_chosen_layers_and_heads_are_measured_under_their_own_numbers(finished, tmp_path):
    measure(tmp_path, batch=2, layers=slice(1, None), heads=[1])
    every = dsf.jobs.gather(finished)
    last = {record["layer"] for record in every} - {every[0]["layer"]}
    expected = {
        (record["prompt"], record["layer"], record["quantity"]): record["value"]
        for record in every
        if record["layer"] in last and record.get("head") == 1
    }
    found = {
        (record["prompt"], record["layer"], record["quantity"]): record["value"]
        for record in dsf.jobs.gather(tmp_path)
    }
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6, nan_ok=True)
    assert {record["head"] for record in dsf.jobs.summary(tmp_path)} == {1}
    manifest = json.loads((tmp_path / "job.json").read_text())
    assert (manifest["layers"], manifest["heads"]) == (["1:"], [1])
    with pytest.raises(ValueError, match="heads"):
        measure(tmp_path, batch=2, layers=slice(1, None), heads=[0])


def test_weights_in_their_files_are_not_converted(tmp_path):
    with pytest.raises(ValueError, match="'layerwise'"):
        measure(tmp_path, dtype="bfloat16", layerwise=True)
