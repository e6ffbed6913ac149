"""The set-up from a bare machine: what it remembers, repeats and refuses. Nothing is downloaded."""

import io
import re
import sys
import tomllib
from pathlib import Path

import pytest

import dsf
import setup_environment as set_up

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def venv(tmp_path):
    """An environment whose interpreter runs and in which nothing is installed."""
    python = set_up.python_in(tmp_path)
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    return tmp_path


@pytest.fixture
def steps(monkeypatch, venv):
    """The names of the steps that a run of the set-up takes; none of them is carried out."""
    taken = []
    for step in (
        "make_environment",
        "forget_half_installed",
        "renew_pip",
        "forget_former_name",
        "install",
        "look_around",
    ):
        monkeypatch.setattr(set_up, step, lambda *_, step=step: taken.append(step))
    monkeypatch.setattr(sys, "argv", ["setup_environment.py", "--venv", str(venv)])
    return taken


def test_a_finished_set_up_is_not_repeated(steps):
    set_up.main()
    assert steps[-2:] == ["install", "look_around"]
    set_up.main()
    assert len(steps) == 6


def test_other_requirements_are_another_set_up(steps, monkeypatch):
    set_up.main()
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--with", "transformers==5.8.0"])
    set_up.main()
    assert len(steps) == 12


def test_another_group_is_another_set_up_and_reaches_pip(steps, monkeypatch):
    set_up.main()
    given = []
    monkeypatch.setattr(set_up, "install", lambda _, extra: given.extend(extra))
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--group", "peers", "--with", "torch==2.11"])
    set_up.main()
    assert given == ["torch==2.11", "--group", "peers"]
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert {"peers", "lens"} <= set(groups["dependency-groups"])
    assert steps.count("make_environment") == 2


@pytest.mark.usefixtures("steps")
def test_a_failed_set_up_is_not_remembered(venv, monkeypatch):
    set_up.main()
    assert (venv / "set-up-finished").exists()
    monkeypatch.setattr(set_up, "fingerprint", lambda _: "changed\n")
    monkeypatch.setattr(set_up, "renew_pip", lambda _: sys.exit("no network"))
    with pytest.raises(SystemExit, match="no network"):
        set_up.main()
    assert not (venv / "set-up-finished").exists()


def test_what_was_half_installed_is_forgotten(tmp_path, capsys):
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    for name in ("whole-1.dist-info", "half-1.dist-info"):
        (packages / name).mkdir(parents=True)
        (packages / name / "RECORD").touch()
    (packages / "whole-1.dist-info" / "INSTALLER").touch()
    set_up.forget_half_installed(tmp_path)
    assert [path.name for path in packages.iterdir()] == ["whole-1.dist-info"]
    assert "half-1 was half installed" in capsys.readouterr().out


def test_a_release_asked_for_by_name_takes_the_place_of_its_pins():
    pins = set_up.constraints_for(("transformers==5.8.0",))
    assert "numpy==" in pins
    assert not re.search("^(transformers|tokenizers|huggingface-hub)==", pins, re.MULTILINE)
    assert "tokenizers==" in set_up.constraints_for(("--group", "dev"))


def test_a_pip_other_than_the_pinned_one_is_refused(monkeypatch):
    pages = [io.BytesIO(f'<a href="../{set_up.PIP_WHEEL}">'.encode()), io.BytesIO(b"another")]
    monkeypatch.setattr(set_up.urllib.request, "urlopen", lambda *_, **__: pages.pop(0))
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.invalid/simple")
    with pytest.raises(SystemExit, match="SHA-256 differs"):
        set_up.fetch_pip()


def test_no_pip_and_no_index_ends_in_a_sentence_with_the_cure(monkeypatch):
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    with pytest.raises(SystemExit, match=r"no ensurepip.*python3-venv.*PIP_INDEX_URL"):
        set_up.fetch_pip()


def test_what_is_written_twice_agrees():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert dsf.__version__ == project["version"]
    assert f"\nversion: {project['version']}\n" in citation
    assert f"\npip=={set_up.PIP_WHEEL.split('-')[1]}\n" in pins
    assert not re.search("^(torch|triton)==", pins, re.MULTILINE)
