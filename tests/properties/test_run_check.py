"""A run is one thing: every member that is removed, added, edited, copied or swapped is named."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import dsf
from dsf.certificates import checker
from dsf.certificates.certificate import Verdict
from dsf.cli.check import check_again
from dsf.properties.run_folder import check_run, checked_run, text_of


@pytest.fixture(scope="module")
def attention():
    torch.manual_seed(0)
    return dsf.inspect(nn.MultiheadAttention(6, 2, batch_first=True), *[torch.randn(1, 5, 6)] * 3)


def page(folder):
    def write(_table):
        path = folder / "report.html"
        path.write_text("<p>a page</p>")
        return [path]

    return write


@pytest.fixture(scope="module")
def made(attention, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "run"
    checked_run(attention, folder, pages=page(folder))
    return folder


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def members(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_run_as_it_was_written_is_accepted(run):
    found = check_run(run)
    assert found.faults == {}
    assert found.is_sound
    assert found.accepted == {"PROVED": 8, "REFUTED": 2}
    assert found.undecided == {"NOT APPLICABLE": 4}
    assert found.root == hashlib.sha256((run / "manifest.json").read_bytes()).hexdigest()
    assert check_run(run, root=found.root).is_sound
    assert check_run(run, root=f"sha256 {found.root}").is_sound
    assert check_run(run, root=found.root.upper()).is_known
    assert not check_run(run).is_known
    other = check_run(run, root="0" * 64)
    assert "root hash" in other.faults["manifest.json"]
    assert "report.html" in members(run)


def test_the_answer_prints_the_hash_of_the_checker(run, capsys):
    answer = check_again(run)
    answer.show()
    said = capsys.readouterr().out
    assert hashlib.sha256(Path(checker.__file__).read_bytes()).hexdigest() in said
    assert check_run(run).root in said
    assert answer.code == 0


def bent(run):
    """Every single change of one member, with the names that have to be told."""
    names = members(run)
    for name in names:
        path, whole = run / name, (run / name).read_bytes()
        path.unlink()
        yield f"removed {name}", {name}
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        yield f"edited {name}", {name}
        path.write_bytes(whole)
        other = path.with_name("copy-of-" + path.name)
        other.write_bytes(whole)
        yield f"copied {name}", {other.relative_to(run).as_posix()}
        path.unlink()
        yield f"renamed {name}", {name, other.relative_to(run).as_posix()}
        other.unlink()
        path.symlink_to(run.parent / "elsewhere")
        yield f"linked {name}", {name}
        path.unlink()
        path.write_bytes(whole)
        partner = run / names[(names.index(name) + 1) % len(names)]
        its = partner.read_bytes()
        path.write_bytes(its)
        yield f"overwritten {name}", {name}
        partner.write_bytes(whole)
        yield f"swapped {name}", {name, partner.relative_to(run).as_posix()}
        path.write_bytes(whole)
        partner.write_bytes(its)


def test_every_change_of_every_member_is_named(run):
    (run.parent / "elsewhere").write_text("text")
    before = check_run(run)
    tried = 0
    for what, names in bent(run):
        found = check_run(run)
        assert not found.is_sound, what
        told = set(found.faults)
        if "manifest.json" in names:
            assert told & names, what
        else:
            assert names <= told, (what, told)
        tried += 1
    assert tried == 7 * len(members(run)) > 100
    after = check_run(run)
    assert (after.faults, after.accepted, after.root) == ({}, before.accepted, before.root)


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", "nan", "[" * 10_000, '{"schema_version": 1}', '{"a": 1, "a": 2}']
)
def test_a_manifest_that_is_none_is_a_fault_and_no_traceback(run, text):
    (run / "manifest.json").write_text(text)
    assert list(check_run(run).faults) == ["manifest.json"]


def test_a_manifest_of_other_kinds_is_a_fault(run):
    whole = json.loads((run / "manifest.json").read_text())
    for name in whole:
        for value in (None, 7, "x", [], {}, [None], {"a": None}):
            (run / "manifest.json").write_text(text_of({**whole, name: value}))
            found = check_run(run)
            unbound = {"model", "source", "environment", "tokens", "unsupported", "checker"}
            assert found.faults or name in unbound, (name, value)


def test_an_edited_unit_is_decided_anew_on_resume(attention, run):
    unit = run / "units/0000/unit.json"
    honest = unit.read_text()
    unit.write_text(honest.replace('"REFUTED"', '"PROVED"'))
    again = checked_run(attention, run)
    assert [r["verdict"] for r in again if r["property"] == "causal"] == ["REFUTED"] * 2
    assert unit.read_text() == honest
    assert check_run(run).faults.keys() <= {"report.html"}


def test_what_an_earlier_run_left_is_no_member(attention, run):
    """A later run removes the files that an earlier one wrote, and nothing else."""
    (run / "mine.txt").write_text("keep")
    extra = run / "units/0001"
    extra.mkdir()
    (extra / "unit.json").write_text("{}")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["members"]["units/0001/unit.json"] = hashlib.sha256(b"{}").hexdigest()
    (run / "manifest.json").write_text(text_of(manifest))
    checked_run(attention, run)
    assert not (extra / "unit.json").exists()
    assert (run / "mine.txt").read_text() == "keep"
    assert list(check_run(run).faults) == ["mine.txt"]


def test_every_certificate_says_where_its_numbers_come_from(run):
    manifest = json.loads((run / "manifest.json").read_text())
    for entry in json.loads((run / "verdicts.json").read_text()):
        if entry["certificate"]:
            path = run / "units/0000" / entry["certificate"]
            stated = json.loads(path.read_text())["unchecked"]["provenance"]
            part = f"sample {entry['sample']}, head {entry['head']}"
            assert (stated["layer"], stated["part"]) == (entry["layer"], part)
            assert stated["property"] == entry["property"]
            assert {"model", "weights", "configuration", "input", "dtype"} <= stated.keys()
    (layer,) = manifest["layers"]
    assert {"formula", "rounding", "fingerprint"} <= layer.keys()
    assert {"dsf", "torch", "python"} <= manifest["environment"].keys()


def test_a_verdict_of_a_run_speaks_of_its_input(attention):
    for finding in dsf.properties.decided.findings(next(iter(attention))):
        assert finding.certificate.scope == "on this input"
        if finding.certificate.verdict is Verdict.PROVED:
            assert str(finding.certificate).startswith("PROVED on this input (data): ")


def test_a_chosen_head_is_decided_on_its_own_keys(tmp_path):
    torch.manual_seed(0)
    module, x = nn.MultiheadAttention(6, 2, batch_first=True), torch.randn(1, 5, 6)
    (layer,) = dsf.inspect(module, x, x, x, heads=[1])
    (found,) = (f for f in dsf.properties.decided.findings(layer, folder=tmp_path)
                if f.property == "injective")  # fmt: skip
    assert found.part == {"sample": 0, "head": 1}
    content = json.loads((tmp_path / found.certificate.file).read_text())
    stored = load_file(tmp_path / content["subject"][0]["file"])["key"]
    assert torch.equal(stored, layer.mixer.key[0, 1])
    assert not torch.equal(stored, layer.mixer.key[0, 0])
