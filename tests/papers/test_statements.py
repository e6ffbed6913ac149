"""Four tables with four voices: what each row must have, and what is refused."""

import ast
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

import dsf
import papers
from papers import Standing, Table

ROOT = Path(__file__).resolve().parents[2]
BY_ID = {statement.id: statement for statement in papers.ALL}
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{7}: \S")
SECOND_SENTENCE = re.compile(r"(?<!Tab)(?<!Fig)[.!?] +[A-Z]")
STANDINGS = {
    Table.PAPER: {Standing.STATED, Standing.AUTHORS, Standing.SECOND_HAND},
    Table.SLIP: {Standing.STATED, Standing.AUTHORS},
    Table.CODE: {Standing.CODE},
    Table.OWN: {Standing.OWN},
}


def id_of(statement):
    return statement.id


@pytest.mark.parametrize("missing", ["quote", "place", "hypotheses", "stands"])
def test_a_paper_is_not_refuted_without(missing):
    refuted = BY_ID["MLA-8"]
    with pytest.raises(ValueError, match=f"got no {missing}"):
        replace(refuted, **{missing: type(getattr(refuted, missing))()})


@pytest.mark.parametrize("table", [Table.SLIP, Table.CODE, Table.OWN])
def test_only_a_paper_is_refuted(table):
    with pytest.raises(ValueError, match="'table'"):
        replace(BY_ID["MLA-8"], table=table)


def test_proved_is_no_verdict_on_record():
    """It is for what the checker of the library has accepted, and none has seen these."""
    with pytest.raises(ValueError, match="'PROVED'"):
        replace(BY_ID["MLA-8"], expected="PROVED")


@pytest.mark.parametrize("statement", papers.ALL, ids=id_of)
def test_a_row_speaks_with_the_voice_of_its_table(statement):
    assert statement.paper in papers.PAPERS
    assert statement.statement.endswith(".")
    assert statement.standing in STANDINGS[statement.table]
    assert not SECOND_SENTENCE.search(statement.quote), "more than one sentence is quoted"
    if statement.quote:
        assert statement.place
    if statement.table is Table.CODE:
        assert REPOSITORY.match(statement.place), "name repository, commit and file"
    if statement.table is Table.SLIP:
        assert statement.quote
    if statement.table is not Table.PAPER:
        return
    assert statement.place
    if not statement.quote:  # it can only be open, and says that the text was not read
        assert statement.expected == "UNKNOWN"
        assert "not read" in statement.place
    if statement.expected in ("ARGUED", "HOLDS_NUMERICALLY"):
        assert statement.hypotheses or statement.added


def test_ids_are_in_order_and_never_used_twice():
    assert len(BY_ID) == len(papers.ALL)
    for letters in papers.PAPERS:
        numbers = [int(id.split("-")[1]) for id in BY_ID if id.startswith(letters)]
        assert numbers == sorted(numbers)


def test_a_row_names_rows_that_exist():
    named = {
        id
        for path in (ROOT / "papers").rglob("*.[tm][od]*")
        for id in re.findall(r"\b(?:DSF|CDY|EIG|INL|MLA|ZER)-\d+", path.read_text("utf-8"))
    }
    assert named <= set(BY_ID)


def test_a_slip_has_no_verdict_word():
    slip = papers.decide(BY_ID["DSF-2"])
    facts = slip.facts()
    assert (slip.word, facts["verdict"], facts["confirmed"]) == ("confirmed", None, True)
    assert facts["expected"] is None
    gone = replace(slip, statement=replace(slip.statement, expected="UNKNOWN"))
    assert (gone.word, gone.facts()["confirmed"]) == ("not confirmed", False)


@pytest.mark.parametrize("id", [each.id for each in papers.ALL if each.expected == "REFUTED"])
def test_authors_read_what_would_change_a_refutation(id):
    page = (ROOT / "docs" / "papers_for_authors.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| {id} \| \S", page, re.MULTILINE)


def test_the_page_has_every_row_and_its_word():
    """``python docs/make_papers.py`` writes it again."""
    page = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    for statement in papers.ALL:
        word = "confirmed" if statement.table is Table.SLIP else statement.expected
        assert f'<tr id="{statement.id}" data-paper="{statement.paper}"' in page
        row = page.split(f'<tr id="{statement.id}"')[1].split("</tr>")[0]
        assert f'data-verdict="{word}"' in row, "docs/papers.md is older than the statements"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_become_none(value):
    assert papers.plain({"a": [value, 1.5, True]}) == {"a": [None, 1.5, True]}


def test_a_tensor_is_no_witness():
    import torch

    with pytest.raises(TypeError, match="Tensor"):
        papers.plain({"a": torch.ones(2)})


def public(name):
    """Whether ``name`` is a public name of the library, such as dsf.mixers.LinearAttention."""
    home = dsf
    for part in name.replace("dsf.certificates", "dsf.certify").split(".")[1:]:
        if part not in getattr(home, "__all__", ()):
            return False
        home = getattr(home, part)
    return True


@pytest.mark.parametrize("path", sorted((ROOT / "papers").rglob("*.py")), ids=lambda p: p.stem)
def test_only_public_names_of_the_library_are_used(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named += [alias.name for alias in node.names if alias.name.split(".")[0] == "dsf"]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dsf":
            named += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            named += [f"dsf.{node.attr}"] if node.value.id == "dsf" else []
    assert [name for name in named if not public(name)] == []


@pytest.mark.parametrize("paper", papers.PAPERS.values(), ids=lambda paper: paper.letters)
def test_every_quotation_is_in_a_sentence_that_was_read(paper):
    """Words left out are shown by dots, and what is between dots is literal."""
    path = ROOT / "papers" / paper.folder / "sentences.toml"
    read = tomllib.loads(path.read_text(encoding="utf-8"))
    quoted = [each for each in papers.ALL if each.paper == paper.letters and each.quote]
    assert set(read) == {each.id for each in quoted}
    for statement in quoted:
        assert read[statement.id]["place"] == statement.place
        rest = read[statement.id]["sentence"]
        for part in filter(None, map(str.strip, statement.quote.split("…"))):
            assert part in rest, statement.id
            rest = rest.partition(part)[2]
