"""``python -m papers``: lines, one object for machines, a code that follows the record."""

import json
from dataclasses import replace

import pytest

import papers
from papers import __main__ as command
from papers import statements


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["papers", *arguments])
        try:
            code = command.main()
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_a_statement_with_an_id_is_shown_in_full(run):
    code, out, _ = run("MLA-8", "inl-9")
    heads = [line.strip().split(":")[0] for line in out.splitlines() if line]
    parts = ("statement", "quote", "place", "standing", "hypotheses", "verdict", "reason")
    assert [head for head in heads if head in parts][: len(parts)] == list(parts)
    assert {"what stands", "witness"} <= set(heads)
    assert 'quote: "This means models without Q can not approximate softmax' in out
    assert "INL-9  ARGUED  (a result of this project" in out
    assert code == 0


def test_without_ids_there_is_one_line_each(run):
    _, out, _ = run("--paper", "eig", "--table", "own")
    assert "witness" not in out
    assert "EIG-1" in out
    assert "EIG-6" not in out


def test_one_object_for_machines(run):
    _, out, _ = run("--json", "ZER-17", "DSF-37")
    found = json.loads(out)
    statement, slip = found["claims"]
    assert (statement["table"], statement["standing"]) == ("paper", "stated")
    assert all(statement[name] for name in ("quote", "place", "hypotheses", "stands"))
    assert all(statement[name] for name in ("reason", "witness", "statement", "verdict"))
    assert (slip["verdict"], slip["expected"], slip["confirmed"]) == (None, None, True)
    assert (found["not_as_recorded"], found["exit_code"]) == ([], 0)


def test_another_verdict_than_the_one_on_record_makes_one(run, monkeypatch):
    (statement,) = papers.chosen(ids=("INL-9",))
    monkeypatch.setattr(statements, "ALL", (replace(statement, expected="UNKNOWN"),))
    code, out, _ = run("INL-9")
    assert code == 1
    assert "INL-9 came back ARGUED, but UNKNOWN is on record" in out
    assert json.loads(run("--json")[1])["not_as_recorded"] == ["INL-9"]


def test_a_paper_can_be_chosen_and_listed(run):
    listed = json.loads(run("--paper", "inl", "--list", "--json")[1])["claims"]
    assert {each["paper"] for each in listed} == {"INL"}
    assert all("verdict" not in each for each in listed)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("MLA-999",), "MLA-1 to MLA-"),
        (("FOO-1",), "the papers are DSF, CDY"),
        (("",), "no statement is called ''"),
        (("MLA-1", "--paper", "DSF"), "leave one of the two out"),
        (("--paper", "MLB"), "argument --paper: invalid choice: 'MLB'"),
        (("--table", "red"), "argument --table: invalid choice: 'red'"),
        (("--threads", "0"), "--threads"),
    ],
)
def test_a_wrong_call(run, arguments, words):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    code, out, _ = run(*arguments, "--json")
    assert code == 2
    assert words in json.loads(out)["error"]["message"]
