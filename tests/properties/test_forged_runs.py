"""Runs whose forger fits every hash: each is refused for what it says."""

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

import dsf
from dsf.certificates import checker
from dsf.inspection.results.table import Table
from dsf.loading import load_model
from dsf.models import folder
from dsf.properties.run_folder import check_run, checked_run, text_of


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with softmax attention and gated delta rules, proofs and refutations."""
    model = load_model(folder("qwen3_next")).model
    place = tmp_path_factory.mktemp("made") / "run"

    def page(_table):
        (place / "report.html").write_text("<p>a page</p>")
        return [place / "report.html"]

    checked_run(dsf.inspect(model, input_ids=torch.arange(1, 9)[None]), place, pages=page)
    return place


@pytest.fixture
def run(made, tmp_path):
    return Forged(shutil.copytree(made, tmp_path / "run"))


@dataclass
class Forged:
    """A run folder whose tables can be changed before all hashes are fitted."""

    place: Path
    manifest: dict[str, Any] = field(init=False)
    units: list[dict[str, Any]] = field(init=False)

    def __post_init__(self):
        self.manifest = json.loads((self.place / "manifest.json").read_text())
        self.units = [
            json.loads((self.place / layer["unit"] / "unit.json").read_text())
            for layer in self.manifest["layers"]
        ]

    def records(self, **wanted):
        for number, unit in enumerate(self.units):
            for record in unit["verdicts"]:
                if wanted.items() <= record.items():
                    yield self.place / f"units/{number:04d}", record

    def one(self, **wanted):
        return next(iter(self.records(**wanted)))

    def certificate(self, place, record):
        return json.loads((place / record["certificate"]).read_text())

    def reissue(self, place, record, content, **changed):
        """Sign a certificate anew and let the record name it."""
        if record["certificate"]:
            (place / record["certificate"]).unlink(missing_ok=True)
        name = content["claim"]["name"]
        content["identity"] = checker.identity(content)
        file = f"certificates/{name}-{content['identity'][:16]}.json"
        (place / file).write_text(checker.canonical(content))
        record.update(certificate=file, identity=content["identity"], **changed)

    def save(self, *, tables=True):
        every = {"verdicts": [], "metrics": []}
        for layer, unit in zip(self.manifest["layers"], self.units, strict=True):
            (self.place / layer["unit"] / "unit.json").write_text(text_of(unit))
            for kind, rows in every.items():
                rows.extend(unit[kind])
        for kind, rows in every.items() if tables else ():
            (self.place / f"{kind}.json").write_text(text_of(rows))
            (self.place / f"{kind}.csv").write_text(Table(tuple(rows)).to_csv())
        self.manifest["members"] = {
            path.relative_to(self.place).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.place.rglob("*"))
            if path.is_file() and path.name != "manifest.json"
        }
        (self.place / "manifest.json").write_text(text_of(self.manifest))
        return check_run(self.place)


FORGERIES = {}


def forgery(function):
    FORGERIES[function.__name__] = function
    return function


def borrowed(run, property, claim, verdict="PROVED", **where):
    """The certificate of another property in place of this one's, signed for it."""
    place, record = run.one(property=property, **where)
    named = ("layer", "sample", "head")
    same = {name: record[name] for name in named if name in record}
    home, other = run.one(property=claim, verdict=verdict, **same)
    content = run.certificate(home, other)
    content["unchecked"]["provenance"]["property"] = property
    changed = ("verdict", "claim", "level", "bound", "observed", "limits", "scope")
    run.reissue(place, record, content, **{name: other[name] for name in changed})


for about, lent in (
    ("forgets", "causal"), ("forgets", "nonnegative"), ("forgets", "nonexpansive"),
    ("nonnegative", "causal"), ("sums_to_one", "causal"), ("injective", "causal"),
    ("margin", "causal"), ("nonexpansive", "causal"),
):  # fmt: skip

    def lend(run, about=about, lent=lent):
        if lent in ("nonexpansive", "nonnegative"):
            _, record = run.one(property=lent, verdict="PROVED")
            borrowed(run, about, lent, layer=record["layer"])
        else:
            borrowed(run, about, lent)

    FORGERIES[f"{about} by the certificate of {lent}"] = lend


for text in (
    "PROVED by inspection", "PROVED\u200b", "proved", "", "ARGUED", "HOLDS_NUMERICALLY",
    "\x1b[2K\x1b[1Aaccepted by the checker: 70 PROVED\x1b[8m", "UNKNOWN ", None, 3,
):  # fmt: skip

    def undecide(run, text=text):
        place, record = run.one(property="causal")
        (place / record["certificate"]).unlink()
        record.update(verdict=text, certificate="", identity="")

    FORGERIES[f"a verdict that reads {text!r}"] = undecide


for column, value in (
    ("observed", 0.125), ("bound", 1e9), ("scope", "for every input of the model"),
    ("family", "formally verified"), ("limits", "none"), ("level", "real"),
    ("claim", "the model is safe"), ("layer", "another"), ("head", 7), ("identity", "0" * 64),
):  # fmt: skip

    def rewrite(run, column=column, value=value):
        _, record = run.one(property="causal")
        record[column] = value

    FORGERIES[f"another {column} in a row"] = rewrite


@forgery
def all_properties_but_one_dropped(run):
    run.manifest["properties"] = ["causal"]
    for unit in run.units:
        for number, record in enumerate(unit["verdicts"]):
            if record["property"] != "causal" and record["certificate"]:
                unit["verdicts"][number] = record
        unit["verdicts"] = [each for each in unit["verdicts"] if each["property"] == "causal"]
    kept = {record["certificate"] for _, record in run.records()}
    for path in run.place.rglob("certificates/*.json"):
        if f"certificates/{path.name}" not in kept:
            path.unlink()


@forgery
def a_property_dropped_from_one_head(run):
    run.units[0]["verdicts"].pop()


@forgery
def a_property_decided_twice(run):
    run.units[0]["verdicts"].append(run.units[0]["verdicts"][-1])


@forgery
def heads_dropped_from_the_manifest(run):
    run.manifest["layers"][1]["parts"] = run.manifest["layers"][1]["parts"][:1]


@forgery
def a_layer_renamed_in_the_manifest(run):
    run.manifest["layers"][0]["name"] = "another"


@forgery
def a_family_renamed_in_the_manifest(run):
    run.manifest["layers"][0]["family"] = "another"


@forgery
def a_checker_added(run):
    (run.place / "checker.py").write_text("print('accepted')")


@forgery
def a_script_beside_a_unit(run):
    (run.place / "units/0000/run.sh").write_text("true")


@forgery
def a_refutation_made_a_proof_in_the_table(run):
    _, record = run.one(verdict="REFUTED")
    record["verdict"] = "PROVED"


@forgery
def a_refutation_hidden_as_unknown_with_its_certificate(run):
    _, record = run.one(verdict="REFUTED")
    record.update(verdict="UNKNOWN", certificate="", identity="")


@forgery
def one_certificate_for_two_heads(run):
    (_, first), (_, second) = list(run.records(property="causal"))[:2]
    second.update(certificate=first["certificate"], identity=first["identity"])


@forgery
def one_map_of_another_head(run):
    """Of three claims about the map of a head, one is proved on the map of another."""
    (place, first), (_, second) = list(run.records(property="causal"))[:2]
    content = run.certificate(place, first)
    content["unchecked"]["provenance"] = run.certificate(place, second)["unchecked"]["provenance"]
    run.reissue(place, second, content, observed=first["observed"])


def weakened(run, property, change):
    """The same claim with weaker parameters, which the checker accepts."""
    place, record = run.one(property=property, verdict="PROVED")
    content = run.certificate(place, record)
    change(content)
    parameters = content["claim"]["parameters"]
    content["claim"]["sentence"] = checker.sentence(content["claim"]["name"], parameters)
    run.reissue(place, record, content, claim=content["claim"]["sentence"])


@forgery
def a_wider_tolerance_of_row_sums(run):
    def change(content):
        content["claim"]["parameters"]["tolerance"] = float(2**30).hex()

    weakened(run, "sums_to_one", change)


@forgery
def a_larger_bound_of_decays(run):
    def change(content):
        content["claim"]["parameters"]["most"] = float(2**30).hex()

    weakened(run, "forgets", change)


@forgery
def a_refutation_of_another_window(run):
    """That one token keeps more than a half refutes another claim than the property's."""
    place, record = run.one(property="forgets", verdict="REFUTED")
    content = run.certificate(place, record)
    content["claim"]["parameters"]["width"] = 1
    content["claim"]["sentence"] = checker.sentence("decay", content["claim"]["parameters"])
    run.reissue(place, record, content, claim=content["claim"]["sentence"])
    checker.check(place / record["certificate"])


@forgery
def measures_replaced(run):
    (run.place / "metrics.csv").write_text("layer,quantity,value\nall,perfect,1\n")
    return {"tables": False}


@forgery
def another_table_of_measures(run):
    (run.place / "metrics.json").write_text("[]\n")
    return {"tables": False}


@forgery
def another_table_of_verdicts(run):
    path = run.place / "verdicts.csv"
    path.write_text(path.read_text().replace("REFUTED", "PROVED"))
    return {"tables": False}


@forgery
def a_stray_certificate(run):
    place, record = run.one(property="causal")
    content = run.certificate(place, record)
    content["unchecked"]["provenance"]["input"] = "another"
    content["identity"] = checker.identity(content)
    (place / "certificates" / "stray.json").write_text(checker.canonical(content))


@forgery
def a_schema_of_another_release(run):
    run.manifest["schema_version"] = 2


@forgery
def a_unit_elsewhere(run):
    shutil.copytree(run.place / "units/0000", run.place / "units/0007")
    run.manifest["layers"][0]["unit"] = "units/0007"


def test_a_run_that_is_saved_again_is_consistent(run):
    """Otherwise the forgeries would be refused for how they are made."""
    before = check_run(run.place)
    found = run.save()
    assert found.faults == {}
    assert found.is_sound
    assert found.accepted == before.accepted
    assert {"PROVED", "REFUTED"} == found.accepted.keys()


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_run_is_refused(run, name):
    options = FORGERIES[name](run) or {}
    found = run.save(**options)
    assert not found.is_sound
    assert found.faults
    told = "".join([*found.faults, *found.faults.values(), *found.undecided])
    assert all(" " <= letter <= "~" for letter in told)


def test_there_are_forty_forgeries():
    assert len(FORGERIES) >= 40
