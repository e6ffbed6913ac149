"""A hundred mutated checkpoint folders, and that each kind of fault would be found."""

import os
import sys
import time

import pytest

pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')
if sys.platform != "linux":
    pytest.skip("folders are opened by processes that fork", allow_module_level=True)

import dsf.loading
from tests.hostile import folders, oracle
from tests.hostile.folders import Result, run, summary
from tests.hostile.honest_folders import honest_folders
from tests.hostile.mutations import MUTATIONS, mutated


def opened(numbers, seed=1, **options):
    found = []
    run(numbers, seed, found.append, **options)
    return found


def test_every_folder_is_refused_in_our_words_or_loads_truly():
    found = opened(range(96))
    assert [result for result in found if result.is_fault] == []
    assert {result.changes[0] for result in found} == {each.__name__ for each in MUTATIONS}
    counts = summary(found)
    outcomes = [result.outcome for result in found]
    assert min(outcomes.count("refused"), outcomes.count("loaded")) > 20, counts
    assert sum(result.tokenizer for result in found) > 8, counts


def test_the_same_number_is_the_same_folder():
    honest = honest_folders()
    for number in range(30):
        one, other = (mutated(honest, 3, number) for _ in range(2))
        assert one[1] == other[1]
        assert one[0].files == other[0].files
    assert mutated(honest, 4, 0)[0].files != mutated(honest, 3, 0)[0].files


@pytest.fixture
def planted(monkeypatch):
    """What is opened instead of the folder, in the place of our own loader."""

    def plant(opens):
        real = dsf.loading.load_model

        def load(place, **options):
            opens(place)
            return real(place, **options)

        monkeypatch.setattr(dsf.loading, "load_model", load)

    return plant


def foreign(_place):
    raise RuntimeError("not ours")


def writes(place):
    (place.parent / "elsewhere").write_text("x")


def spoils(place):
    (place.parent / "outside" / "canary").write_text("x")


def leaves(place):
    (place.parent / "tmp" / "left").write_text("x")


def starts(_place):
    os.system("true")


def ends(_place):
    os._exit(3)


def hangs(_place):
    time.sleep(60)


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [(foreign, "foreign error"), (writes, "reached outside"), (spoils, "wrote outside"),
     (leaves, "left a file"), (starts, "reached outside"), (ends, "ended the process"),
     (hangs, "hung")],
)  # fmt: skip
def test_a_planted_fault_is_found(planted, monkeypatch, fault, outcome):
    monkeypatch.setattr(folders, "SECONDS", -8)  # and ten more, until a folder counts as hung
    planted(fault)
    found = opened([0] if fault is hangs else [0, 1])
    monkeypatch.undo()
    assert {result.outcome for result in found} <= {outcome, "too slow"}
    assert [result.number for result in found] == ([0] if fault is hangs else [0, 1])


def test_a_slow_or_large_folder_is_a_fault(monkeypatch):
    monkeypatch.setattr(folders, "SECONDS", 0)
    assert {result.outcome for result in opened([0, 1])} == {"too slow"}
    monkeypatch.undo()
    monkeypatch.setattr(folders, "GIGABYTES", 0.05)
    monkeypatch.setattr(folders, "LARGEST_DATA", 8 * 1024**3)
    assert {result.outcome for result in opened([0, 1])} == {"too large"}


def test_weights_that_are_not_those_of_the_file_are_found(tmp_path):
    """The oracle reads the files itself; what was changed after loading is no longer theirs."""
    from dsf.loading import load_model

    for name, files in honest_folders().items():
        place = tmp_path / name
        place.mkdir()
        for file, content in files.items():
            (place / file).write_bytes(content)
        loaded = load_model(place)
        assert oracle.faults(loaded.model, place, loaded.notes) == []
        for parameter in loaded.model.parameters():
            parameter.data.flatten()[0] += 1
            (wrong,) = {*oracle.faults(loaded.model, place, loaded.notes)[:1]}
            assert "other numbers" in wrong
            parameter.data.flatten()[0] -= 1


def test_a_summary_counts():
    results = [Result(0, ("a",), "refused", "", 1.0), Result(1, ("b",), "loaded", "", 3.0)]
    told = summary(results)
    assert "2 folders: 1 refused, 1 loaded" in told
    assert "2.000 s on average, 3.0 s at most" in told
