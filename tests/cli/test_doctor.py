"""``dsf doctor``: finds what is missing, says how to get it, and what else is called ``dsf``.

``dsf doctor``: finds what is missing, says how to get it.

Other packages called ``dsf``: real folders of metadata, looked at by a process of its own.
"""

import json
import shutil
import sysconfig
from pathlib import Path

import pytest

from dsf.cli.doctor import needed, offered
from dsf.runtime.distribution import NAME
from tests.cli.conftest import ROOT


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


pytestmark = pytest.mark.skipif(
    not (ROOT / "dsf").is_dir(), reason="these put copies of a checkout beside each other"
)

# The working folder comes before everything else where Python starts in it.
OURS_FIRST = f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
DOCTOR = "from dsf.cli import main; main(['doctor', '--json'])"


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """What dsf needs, and no distribution that has to do with the name dsf."""
    folder = tmp_path_factory.mktemp("libraries")
    for part in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "dsf" not in part.name:
            (folder / part.name).symlink_to(part)
    return folder


@pytest.fixture
def site(tmp_path):
    """A folder for distributions, in which ours is installed."""
    folder = tmp_path / "site"
    distribution(folder, "dsf-toolkit", "0.1.0", top_level_txt="dsf\n")
    return folder


@pytest.fixture
def ask(run_alone, libraries, site):
    """Runs a script with our checkout on the path before the distributions."""

    def run(script=DOCTOR, *, package=ROOT):
        path = ":".join(map(str, (package, site, libraries)))
        return run_alone("-S", "-c", script, PYTHONPATH=path)

    return run


def distribution(site, name, version, files=(), **metadata):
    """A distribution as pip leaves it: its metadata, its files, and the list of both."""
    about = site / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    for file in files:
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_text("")
    for file, text in metadata.items():
        (about / file.replace("_json", ".json").replace("_txt", ".txt")).write_text(text)
    (about / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def names(done):
    """What is called dsf beside ours, and how bad that is."""
    content = json.loads(done.stdout)
    found = [each for each in content["findings"] if each["what"] == "import dsf"]
    return [(each["found"], each["verdict"]) for each in found[1:]]


def test_nobody_else_is_noticed_where_there_is_nobody(ask, site, tmp_path):
    distribution(site, "dsf-extras", "1.0", ["dsf_extras/__init__.py", "other/dsf/__init__.py"])
    (tmp_path / "dsf").mkdir()  # without __init__.py it comes after every package on the path
    done = ask()
    assert done.returncode == 0, done.stderr
    assert names(done) == []


@pytest.mark.sampled("name")
@pytest.mark.parametrize("name", ["dsf", "data-science"])
@pytest.mark.parametrize("metadata", [{}, {"top_level_txt": "dsf\n"}])
def test_a_distribution_that_is_imported_by_that_name_is_noticed(ask, site, name, metadata):
    distribution(site, name, "0.0.38", ["dsf/__init__.py"], **metadata)
    done = ask()
    assert done.returncode == 0, done.stderr
    assert names(done) == [(f"{name} 0.0.38 in {site / 'dsf'}", "warning")]


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["dsf/__init__.py", "dsf.py"])
def test_what_lies_in_the_working_folder_is_noticed(ask, tmp_path, name):
    (tmp_path / "dsf").mkdir()
    (tmp_path / name).touch()
    done = ask(OURS_FIRST + DOCTOR)
    assert done.returncode == 3, done.stderr
    found = f"{tmp_path / name} is imported instead of dsf-toolkit"
    assert names(done) == [(found, "missing")]


def test_a_distribution_earlier_on_the_path_hides_ours(ask, tmp_path):
    first = tmp_path / "first"
    distribution(first, "dsf", "0.0.38", ["dsf/__init__.py"])
    added = f"import dsf.cli.doctor, sys; sys.path.insert(0, {str(first)!r}); "
    done = ask(added + DOCTOR)
    assert done.returncode == 3, done.stderr
    assert "missing" in [verdict for _, verdict in names(done)]


def test_the_doctor_finds_files_of_ours_overwritten(ask, site):
    """Two wheels in one folder: what was installed last has the face of the package."""
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "dsf", site / "dsf", ignore=skipped)
    distribution(site, "dsf", "0.0.38", ["dsf/__init__.py", "dsf/_version.py"])
    done = ask(package=site)
    assert done.returncode == 3, done.stderr
    found = f"dsf 0.0.38 in {site / 'dsf'} overwrites files of dsf-toolkit"
    assert names(done) == [(found, "missing")]


def test_the_doctor_of_a_checkout_says_that_it_is_not_installed(ask, site, only_object):
    shutil.rmtree(site)
    done = ask()
    found = {each["what"]: each for each in only_object(done.stdout)["findings"]}
    assert (done.returncode, found["dsf-toolkit"]["verdict"]) == (0, "warning")
    assert "not installed" in found["dsf-toolkit"]["found"]
    assert found["dsf-toolkit"]["cure"] == "pip install -e . in the checkout"
    assert {"torch", "extra hf", "extra notebooks"} <= set(found)
