"""Four tables with four voices: what each row must have, and what is refused."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from dsf import claims
from dsf.certificates import Verdict
from dsf.claims import Claim, Standing, Table
from dsf.claims.records import decided, described

DOCS = Path(__file__).resolve().parents[2] / "docs"
BY_ID = {claim.id: claim for claim in claims.ALL}
IN_PAPERS = [claim for claim in claims.ALL if claim.table is Table.PAPER]
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{7}: \S")
SECOND_SENTENCE = re.compile(r"(?<!Tab)(?<!Fig)[.!?] +[A-Z]")
STANDINGS = {
    Table.PAPER: {Standing.STATED, Standing.AUTHORS, Standing.SECOND_HAND},
    Table.SLIP: {Standing.STATED, Standing.AUTHORS},
    Table.CODE: {Standing.CODE},
    Table.OWN: {Standing.OWN},
}


@pytest.mark.parametrize("missing", ["quote", "place", "hypotheses", "stands"])
def test_a_paper_is_not_refuted_without(missing):
    refuted = BY_ID["MLA-8"]
    with pytest.raises(ValueError, match=f"refutes a paper without its {missing}"):
        replace(refuted, **{missing: type(getattr(refuted, missing))()})


@pytest.mark.parametrize("table", [Table.SLIP, Table.CODE, Table.OWN])
def test_only_a_paper_is_refuted(table):
    with pytest.raises(ValueError, match=f"is in the table '{table}' and REFUTED"):
        replace(BY_ID["MLA-8"], table=table)


def test_an_unknown_paper_is_refused():
    with pytest.raises(ValueError, match="must start with one of DSF"):
        replace(BY_ID["MLA-8"], id="XYZ-1")


@pytest.mark.parametrize("claim", IN_PAPERS, ids=lambda claim: claim.id)
def test_a_statement_of_a_paper_has_its_sentence(claim):
    """Without one it can only be open, and says that the text was not read."""
    assert claim.place
    if not claim.quote:
        assert claim.expected is Verdict.UNKNOWN
        assert "not read" in claim.place
    if claim.expected in (Verdict.ARGUED, Verdict.HOLDS_NUMERICALLY) and not claim.hypotheses:
        pytest.fail(f"{claim.id}: no hypotheses")


@pytest.mark.parametrize("claim", claims.ALL, ids=lambda claim: claim.id)
def test_a_row_speaks_with_the_voice_of_its_table(claim):
    assert claim.standing in STANDINGS[claim.table]
    assert not SECOND_SENTENCE.search(claim.quote), "more than one sentence is quoted"
    if claim.quote:
        assert claim.place
    if claim.table is Table.CODE:
        assert REPOSITORY.match(claim.place), "name repository, commit and file"
    if claim.table is Table.SLIP:
        assert claim.quote


def test_a_slip_has_no_verdict_word():
    slip = claims.decide(BY_ID["DSF-2"])
    assert slip.word == "confirmed"
    assert (decided(slip)["verdict"], decided(slip)["confirmed"]) == (None, True)
    assert described(slip.claim)["expected"] is None
    gone = claims.decide(replace(slip.claim, check=lambda: open_question("a slip")))
    assert (gone.word, decided(gone)["confirmed"]) == ("not confirmed", False)


def open_question(claim):
    return claims.deciding.out_of_reach(claim, "nothing was checked")


@pytest.mark.parametrize("claim", claims.ALL, ids=lambda claim: claim.id)
def test_nothing_is_called_proved_that_no_checker_saw(claim):
    assert claim.expected is not Verdict.PROVED


def test_the_old_ids_are_where_they_were():
    old = {"DSF": 27, "CDY": 7, "EIG": 6, "INL": 24, "MLA": 28, "ZER": 26}
    ids = [f"{paper}-{k}" for paper, many in old.items() for k in range(1, many + 1)]
    assert len(ids) == 118
    assert set(ids) <= set(BY_ID)


@pytest.mark.parametrize("id", [claim.id for claim in claims.ALL if claim.stands])
def test_authors_are_told_what_would_change_a_refutation(id):
    page = (DOCS / "claims_for_authors.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| {id} \| \S", page, re.MULTILINE)


def test_the_pages_have_every_row_and_its_word():
    """``python docs/make_claims.py`` writes them again."""
    page, changes = (
        (DOCS / name).read_text(encoding="utf-8").replace("\\_", "_")
        for name in ("claims.md", "claims_changes.md")
    )
    for claim in claims.ALL:
        word = "confirmed" if claim.table is Table.SLIP else f"`{claim.expected.value}`"
        statement = claim.statement.replace("|", "\\|")
        (row,) = re.findall(rf"^\| {claim.id} \| .*$", page, re.MULTILINE)
        assert statement in row
        assert row.endswith(f"| {word} |"), "docs/claims.md is older than the claims"
        (row,) = re.findall(rf"^\| {claim.id} \| .*$", changes, re.MULTILINE)
        assert f"| {word} |" in row, "docs/claims_changes.md is older than the claims"


def test_every_field_of_a_claim_is_told():
    told = described(BY_ID["MLA-8"])
    assert set(told) == set(Claim.__dataclass_fields__) - {"check"} | {"paper"}
