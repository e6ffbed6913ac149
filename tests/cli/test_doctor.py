"""``dsf doctor``: finds what is missing, says how to get it."""

import pytest

from dsf.cli.doctor import needed, offered
from dsf.runtime.distribution import NAME


def test_a_machine_that_runs_the_tests_can_work(run, only_object):
    done = run("doctor", "--json")
    found = only_object(done.stdout)
    assert (done.exit_code, found["exit_code"]) == (0, 0)
    listed = {each["what"]: each["found"] for each in found["findings"]}
    for what in (
        "python",
        "torch",
        "device",
        "threads",
        "kernels",
        "free memory",
        "free disk",
        "browser",
    ):
        assert listed[what]


def test_a_missing_package_makes_three(run, monkeypatch):
    monkeypatch.setattr("dsf.cli.doctor.requires", lambda _: ["numpy>=9999", 'x>=1; extra == "y"'])
    done = run("doctor")
    assert done.exit_code == 3
    assert "older than 9999" in done.stdout
    assert 'pip install "numpy>=9999"' in done.stdout
    assert f'pip install "{NAME}[y]"' in done.stdout


@pytest.mark.parametrize(
    ("floor", "verdict"), [("0.0.1", "ok"), (None, "ok"), ("999", "missing"), ("9.9.9", "missing")]
)
def test_versions_compare_as_numbers(floor, verdict, monkeypatch):
    monkeypatch.setattr("dsf.cli.doctor.version", lambda _: "9.9.8+local")
    assert needed("anything", floor).verdict == verdict


def test_ten_is_more_than_nine(monkeypatch):
    monkeypatch.setattr("dsf.cli.doctor.version", lambda _: "10.0")
    assert needed("anything", "9.9.9").verdict == "ok"


def test_an_extra_may_be_absent():
    found = offered("odd", {"numpy": "1.0", "no-such-package": None})
    assert (found.verdict, found.cure) == ("optional", f'pip install "{NAME}[odd]"')
    assert "no-such-package" in found.found
    assert "numpy" not in found.found


def test_a_folder_that_cannot_be_written(run, tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("dsf.cli.doctor.tempfile.TemporaryFile", refuse)
    done = run("doctor", "--out", tmp_path / "not" / "there")
    assert done.exit_code == 3
    assert "Permission denied" in done.stdout


def test_kernels_that_are_turned_off_are_named(run, monkeypatch):
    monkeypatch.setenv("DSF_KERNELS", "0")
    done = run("doctor", "--json")
    assert done.exit_code == 0
    assert "DSF_KERNELS=0 turns them off" in done.stdout


def test_a_word_that_means_nothing_is_a_wrong_call(run, monkeypatch):
    monkeypatch.setenv("DSF_KERNELS", "flash")
    done = run("doctor")
    assert done.exit_code == 2
    assert "DSF_KERNELS=flash is not a known value" in done.stderr
