"""``dsf claims``: a table, one object for machines, a code that follows the record."""

from dataclasses import replace

import pytest

from dsf import claims
from dsf.certificates import Verdict


def test_a_claim_is_decided_and_shown(run):
    done = run("claims", "inl-9")
    assert done.exit_code == 0
    assert "INL-9  ARGUED  (a result of this project" in done.stdout
    assert "1 ARGUED" in done.stdout


def test_a_claim_with_an_id_is_shown_in_full(run):
    done = run("claims", "MLA-8")
    lines = [line.strip() for line in done.stdout.splitlines()]
    heads = [line.split(":")[0] for line in lines if line]
    parts = ("statement", "quote", "place", "standing", "hypotheses", "verdict", "reason")
    assert [head for head in heads if head in parts] == list(parts)
    assert {"what stands", "witness"} <= set(heads)
    assert 'quote: "This means models without Q can not approximate softmax' in done.stdout


def test_without_ids_there_is_one_line_each(run):
    done = run("claims", "--paper", "cdy", "--table", "own")
    assert "witness" not in done.stdout
    assert "CDY-8" in done.stdout
    assert "CDY-4" not in done.stdout


def test_a_slip_is_confirmed_and_gets_no_verdict(run, only_object):
    assert "DSF-36  confirmed  (a slip" in run("claims", "dsf-36").stdout
    (slip,) = only_object(run("claims", "--json", "DSF-36").stdout)["claims"]
    assert (slip["verdict"], slip["expected"], slip["confirmed"]) == (None, None, True)


def test_the_object_has_quote_place_reason_and_witness(run, only_object):
    (claim,) = only_object(run("claims", "--json", "ZER-17").stdout)["claims"]
    assert (claim["table"], claim["standing"]) == ("paper", "stated")
    assert all(claim[name] for name in ("quote", "place", "hypotheses", "stands"))
    assert all(claim[name] for name in ("reason", "witness", "statement", "verdict"))


def test_one_object_for_machines(run, only_object):
    done = run("claims", "--json", "INL-9")
    found = only_object(done.stdout)
    (claim,) = found["claims"]
    assert (claim["id"], claim["verdict"], claim["expected"]) == ("INL-9", "ARGUED", "ARGUED")
    assert found["not_as_recorded"] == []


def test_another_verdict_than_the_one_on_record_makes_one(run, monkeypatch, only_object):
    (claim,) = claims.chosen(ids=("INL-9",))
    changed = replace(claim, expected=Verdict.UNKNOWN)
    monkeypatch.setattr("dsf.claims.ALL", (changed,))
    done = run("claims", "INL-9")
    assert done.exit_code == 1
    assert "INL-9 came back ARGUED, but UNKNOWN is on record" in done.stdout
    assert only_object(run("claims", "--json").stdout)["not_as_recorded"] == ["INL-9"]


def test_a_paper_can_be_chosen_and_listed(run, only_object):
    listed = only_object(run("claims", "--paper", "inl", "--list", "--json").stdout)["claims"]
    assert {claim["id"].split("-")[0] for claim in listed} == {"INL"}
    assert all("verdict" not in claim for claim in listed)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("INL-999",), "no claim is called 'INL-999'"),
        (("--paper", "XYZ"), "--paper has 'XYZ'. Choose from DSF, CDY"),
        (("--table", "red"), "--table has 'red'. Choose from paper, slip"),
    ],
)
def test_what_is_not_in_the_table_is_refused(run, arguments, words):
    done = run("claims", *arguments)
    assert done.exit_code == 2
    assert words in done.stderr


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_become_none(value):
    from dsf.claims.records import plain

    assert plain({"a": [value, 1.5, True]}) == {"a": [None, 1.5, True]}


def test_a_tensor_is_no_witness():
    import torch

    from dsf.claims.records import plain

    with pytest.raises(TypeError, match="Give tensors as lists"):
        plain({"a": torch.ones(2)})
