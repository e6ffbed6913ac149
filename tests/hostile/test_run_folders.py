"""A run folder from anywhere: nothing outside it changes, and nothing in it is believed."""

import hashlib
import json
import os
import shutil

import pytest
import torch
from torch import nn

import dsf
from dsf.properties.run_folder import check_run, checked_run, text_of
from dsf.runtime import files
from dsf.runtime.files import LeadsOutside


@pytest.fixture(scope="module")
def attention():
    torch.manual_seed(0)
    return dsf.inspect(nn.MultiheadAttention(4, 1, batch_first=True), *[torch.randn(1, 3, 4)] * 3)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def at_home(home, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(home))


@pytest.fixture(scope="module")
def made(attention, home, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(home))
        folder = tmp_path_factory.mktemp("made") / "run"
        checked_run(attention, folder)
    return folder


@pytest.fixture
def run(made, tmp_path):
    outside = tmp_path / "outside"
    (outside / "0000").mkdir(parents=True)
    for name in ("a.txt", "0000/unit.json", "unit.json"):
        (outside / name).write_text("theirs")
    return shutil.copytree(made, tmp_path / "run")


def all_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*")
            if p.is_file() and not p.is_symlink()}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["units", "units/0000", "units/0000/certificates", "units/0000/tensors", "units/0000/unit.json",
     "metrics.csv", "verdicts.json", "manifest.json", "unfinished.json"],
)  # fmt: skip
def test_no_link_is_followed(attention, run, name):
    path, outside = run / name, run.parent / "outside"
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(outside if "." not in path.name else outside / "a.txt")
    before = all_of(outside)
    with pytest.raises(LeadsOutside, match="link"):
        checked_run(attention, run)
    assert all_of(outside) == before


def test_files_beside_the_run_are_left_alone(attention, run):
    outside = run.parent / "outside"
    (run / "checker.py").symlink_to(outside / "a.txt")
    for name in (".x.tmp-y", "notes.txt", "units/0000/.x.tmp-y", "units/0000/tensors/mine.txt"):
        (run / name).write_text("mine")
    mine = {name: data for name, data in all_of(run).items() if data == b"mine"}
    assert len(mine) == 4
    checked_run(attention, run)
    assert mine.items() <= all_of(run).items()
    assert (outside / "a.txt").read_text() == "theirs"
    assert set(check_run(run).faults) == {*mine, "checker.py"}


def test_what_an_interrupted_run_left_is_removed_if_it_is_its_own(attention, run):
    unit = run / "units/0000"
    one = next((unit / "certificates").iterdir())
    content = json.loads(one.read_text())
    content["unchecked"]["provenance"]["input"] = "another one"
    content.pop("identity")
    from dsf.certificates import checker

    content["identity"] = checker.identity(content)
    left = unit / "certificates" / f"causal-{content['identity'][:16]}.json"
    left.write_text(checker.canonical(content))
    data = b"left"
    stale = unit / "tensors" / f"{hashlib.sha256(data).hexdigest()[:32]}.safetensors"
    stale.write_bytes(data)
    draft = unit / f".dsf-{'a' * 32}.draft"
    draft.write_bytes(b"half")
    other = unit / "tensors" / f"{'0' * 32}.safetensors"
    other.write_bytes(b"not what its name says")
    (run / "manifest.json").unlink()
    (run / "unfinished.json").write_text("{}")
    checked_run(attention, run)
    assert not left.exists()
    assert not stale.exists()
    assert not draft.exists()
    assert list(check_run(run).faults) == [other.relative_to(run).as_posix()]


def edits():
    def verdict(unit):
        for record in unit["verdicts"]:
            if record["verdict"] == "REFUTED":
                record["verdict"] = "PROVED"

    def hidden(unit):
        for record in unit["verdicts"]:
            if record["verdict"] == "REFUTED":
                record.update(verdict="UNKNOWN", certificate="", identity="")

    def observed(unit):
        for record in unit["verdicts"]:
            record["observed"] = 1e-30

    def measured(unit):
        unit["metrics"][0]["value"] = 1e9

    return [verdict, hidden, observed, measured]


@pytest.mark.parametrize("edit", edits(), ids=lambda edit: edit.__name__)
@pytest.mark.parametrize("fits", [True, False], ids=["hashes fit", "as edited"])
def test_nothing_that_was_edited_is_believed(attention, made, run, edit, fits):
    path = run / "units/0000/unit.json"
    unit = json.loads(path.read_text())
    edit(unit)
    path.write_text(text_of(unit))
    if fits:
        manifest = json.loads((run / "manifest.json").read_text())
        manifest["members"]["units/0000/unit.json"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (run / "manifest.json").write_text(text_of(manifest))
    checked_run(attention, run)
    assert all_of(run) == all_of(made)
    assert check_run(run).is_sound


def test_a_received_run_is_decided_anew_and_ones_own_is_kept(attention, run, tmp_path, monkeypatch):
    decided = []
    real = dsf.properties.decided.findings
    monkeypatch.setattr(
        "dsf.properties.decided.findings",
        lambda *given, **named: decided.append(1) or real(*given, **named),
    )
    first = checked_run(attention, run)
    assert decided == []
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another home"))
    assert checked_run(attention, run) == first
    assert decided == [1]
    checked_run(attention, run)
    assert decided == [1]


def test_without_a_home_nothing_is_kept(attention, run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert files.seal(b"x") == ""
    assert not files.fits("", b"x")
    checked_run(attention, run)
    assert json.loads((run / "units/0000/unit.json").read_text())["seal"] == ""
    assert check_run(run).is_sound


@pytest.mark.skipif(os.name == "nt", reason="modes of files are others there")
def test_the_key_is_for_its_owner_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    stated = files.seal(b"x")
    assert files.fits(stated, b"x")
    assert not files.fits(stated, b"y")
    assert not files.fits("é", b"x")
    assert not files.fits(None, b"x")
    assert (tmp_path / "dsf" / "resume.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["units", "metrics.csv", "verdicts.json"])
def test_a_folder_of_somebody_else_is_no_run(attention, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=name):
        checked_run(attention, tmp_path)
    assert all_of(tmp_path) == {name: b"mine"}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "[" * 100_000, '{"schema_version": 3}', '{"schema_version": 3, "members": 3}',
     '{"schema_version": "3", "members": {}}', "\u00ff", '{"schema_version": 1, "members": {}}'],
)  # fmt: skip
def test_a_malformed_manifest_is_named(attention, run, text):
    (run / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"(manifest|schema)"):
        checked_run(attention, run)
    assert (run / "manifest.json").read_bytes() == text.encode("latin-1")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"seal": 3}', "[" * 100_000, '{"seal": ""}'])
def test_a_malformed_unit_is_decided_anew(attention, made, run, text):
    (run / "units/0000/unit.json").write_text(text)
    checked_run(attention, run)
    assert all_of(run) == all_of(made)


def test_members_that_lead_outside_remove_nothing(attention, run):
    outside = run.parent / "outside"
    digest = hashlib.sha256(b"theirs").hexdigest()
    (run / "linked").symlink_to(outside)
    manifest = json.loads((run / "manifest.json").read_text())
    for name in ("../outside/a.txt", str(outside / "a.txt"), "linked/a.txt", "units/../../outside"):
        manifest["members"][name] = digest
    (run / "manifest.json").write_text(text_of(manifest))
    checked_run(attention, run)
    assert (outside / "a.txt").read_text() == "theirs"
    manifest["members"]["number"] = 3
    (run / "manifest.json").write_text(text_of(manifest))
    with pytest.raises(ValueError, match="expected the manifest of a run"):
        checked_run(attention, run)
    assert (outside / "a.txt").read_text() == "theirs"


def test_only_files_that_a_run_writes_are_removed_as_stale(attention, run):
    """The manifest may list anything, with its hash."""
    names = ("LICENSE", "src/main.py", "units/0000/notes.json", "units/0000/tensors/a.safetensors")
    manifest = json.loads((run / "manifest.json").read_text())
    for name in names:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("mine")
        manifest["members"][name] = hashlib.sha256(b"mine").hexdigest()
    (run / "manifest.json").write_text(text_of(manifest))
    checked_run(attention, run)
    assert [(run / name).read_text() for name in names] == ["mine"] * 4


def test_evidence_that_is_no_evidence_is_not_overwritten(attention, run):
    """A file in the place of a certificate is somebody's own, whatever its name says."""
    (run / "units/0000/unit.json").write_text("{}")
    one = sorted((run / "units/0000/certificates").iterdir())[0]
    one.write_text("mine")
    with pytest.raises(FileExistsError, match="something else"):
        checked_run(attention, run)
    assert one.read_text() == "mine"
