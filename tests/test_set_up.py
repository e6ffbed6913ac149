"""The set-up from a bare machine: what it remembers, repeats and refuses. Nothing is downloaded."""

import inspect
import io
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import dsf
import setup_environment as set_up
from tests import conftest

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


def test_a_group_is_added_once_and_stays_for_calls_without_it(steps, monkeypatch):
    given = []
    monkeypatch.setattr(set_up, "install", lambda _, extra: given.append(extra))
    plain = list(sys.argv)
    for groups in ([], ["--group", "pipeline"], [], ["--group", "pipeline"], ["--group", "peers"]):
        monkeypatch.setattr(sys, "argv", [*plain, *groups])
        set_up.main()
    assert given == [[], ["--group", "pipeline"], ["--group", "peers", "--group", "pipeline"]]
    monkeypatch.setattr(set_up, "fingerprint", lambda _: "changed")
    monkeypatch.setattr(sys, "argv", plain)
    set_up.main()
    assert given[3:] == [[]]
    assert steps.count("make_environment") == 4


@pytest.mark.usefixtures("steps")
def test_a_failed_set_up_is_not_remembered(venv, monkeypatch):
    set_up.main()
    assert (venv / "set-up-finished").exists()
    monkeypatch.setattr(set_up, "fingerprint", lambda _: "changed")
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
    with pytest.raises(SystemExit, match="SHA-256"):
        set_up.fetch_pip()


def test_no_pip_and_no_index_ends_in_a_sentence_with_the_cure(monkeypatch):
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    with pytest.raises(SystemExit, match="ensurepip"):
        set_up.fetch_pip()


def test_what_is_written_twice_agrees():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert dsf.__version__ == project["version"]
    assert f"\nversion: {project['version']}\n" in citation
    assert f"\npip=={set_up.PIP_WHEEL.split('-')[1]}\n" in pins
    assert not re.search("^(torch|triton)==", pins, re.MULTILINE)


@pytest.fixture
def bare(tmp_path):
    """Runs the script that installs Chromium with nothing on the PATH but the given commands."""
    log = tmp_path / "log"

    def run(**commands):
        folder = tmp_path / "bin"
        folder.mkdir()
        for name, body in commands.items():
            command = folder / name.replace("_", "-")
            command.write_text(f'#!/bin/bash\necho "${{0##*/}} $*" >> "{log}"\n{body}\n')
            command.chmod(0o755)
        script = ["/bin/bash", str(ROOT / ".ci/chromium")]
        env = {"PATH": str(folder)}
        done = subprocess.run(script, env=env, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout, log.read_text().splitlines() if log.exists() else []

    return run


ROOT_HERE, NOBODY = "echo 0", "echo 1000"
RUNS_THE_REST = 'while [[ "$1" == -* || "$1" == *=* ]]; do shift; done; "$@"'
INSTALLS = 'if [[ "$*" == *install* ]]; then /bin/cp "$0" "${0%/*}/chromium"; fi'


def test_a_chromium_that_is_there_is_enough(bare):
    assert bare(chromium="", apt_get="", id=ROOT_HERE) == ("", [])


@pytest.mark.parametrize("user", [ROOT_HERE, NOBODY])
def test_a_missing_chromium_is_installed(bare, user):
    said, ran = bare(apt_get=INSTALLS, id=user, env=RUNS_THE_REST, sudo=RUNS_THE_REST)
    assert said == "chromium: installing Debian's package\n"
    assert [line for line in ran if line.startswith("apt-get")] == [
        "apt-get -qq update",
        "apt-get -qq install -y --no-install-recommends chromium",
    ]
    assert any(line.startswith("sudo -n") for line in ran) == (user == NOBODY)


@pytest.mark.parametrize(
    ("commands", "why"),
    [
        ({"id": ROOT_HERE}, "there is no apt-get"),
        ({"id": NOBODY, "apt_get": ""}, "installing it needs root"),
        ({"id": NOBODY, "apt_get": "", "sudo": "exit 1"}, "installing it needs root"),
        ({"id": ROOT_HERE, "apt_get": "exit 100", "env": RUNS_THE_REST}, "could not install it"),
        ({"id": ROOT_HERE, "apt_get": "", "env": RUNS_THE_REST}, "it is not on the PATH"),
    ],
)
def test_without_chromium_it_says_why_and_goes_on(bare, commands, why):
    said, _ = bare(**commands)
    assert why in said
    assert "tests in a browser will be skipped" in said


@pytest.mark.slow
def test_what_was_skipped_is_told_by_reason_after_everything_else(tmp_path):
    hook = inspect.getsource(conftest.pytest_terminal_summary)  # the rest of the file loads dsf
    needs = "from collections import Counter\nimport pytest\n"
    (tmp_path / "conftest.py").write_text(needs + hook)
    (tmp_path / "test_planted.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('k', range(3))\n"
        "def test_skipped(k): pytest.skip('no moon')\n"
        "@pytest.mark.skipif(True, reason='no sun')\n"
        "def test_marked(): pass\n"
        "def test_failed(): assert False\n"
    )
    (tmp_path / "test_module.py").write_text("import pytest\npytest.importorskip('no_such')\n")
    command = [sys.executable, "-m", "pytest", "-n", "1", "-rf", "-c", os.devnull]
    command += ["--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    table = done.stdout.splitlines()[-5:]
    assert re.fullmatch("=+ skipped =+", table[0])
    assert table[1:4] == [
        "    3 x no moon",
        "    1 x could not import 'no_such': No module named 'no_such'",
        "    1 x no sun",
    ]
    assert "1 failed, 5 skipped" in table[4]


def test_the_pipeline_runs_on_every_python_that_is_promised():
    workflow = (ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (listed,) = re.findall(r"python-version: \[(.*)\]", workflow)
    promised = [each for each in project["classifiers"] if re.search(r":: 3\.\d+$", each)]
    assert re.findall(r"[\d.]+", listed) == [each.rpartition(" ")[2] for each in promised]
    assert "- run: .ci/run\n" in workflow
    assert re.search(r"^permissions:\n  contents: read\n\n", workflow, re.MULTILINE)


@pytest.mark.parametrize("user", [0, 1000])
def test_root_is_told_how_to_hold_the_class(tmp_path, user):
    """JupyterLab would refuse root only after minutes of setting up."""
    (tmp_path / "id").write_text(f"#!/bin/sh\necho {user}\n")
    (tmp_path / "id").chmod(0o755)
    known = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    ask = ["make", "-s", "-C", str(ROOT), "class-needs-a-user"]
    done = subprocess.run(ask, env=known, check=False, capture_output=True, text=True)
    assert (done.returncode == 0) == (user != 0)
    if user == 0:
        assert "as an ordinary user" in done.stderr
        assert "make class LAB=--allow-root" in done.stderr
        assert subprocess.run([*ask, "LAB=--allow-root"], env=known, check=False).returncode == 0
