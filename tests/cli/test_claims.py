"""``dsf claims``: a table, one object for machines, a code that follows the record."""

from dataclasses import replace

import pytest

from dsf import claims
from dsf.certificates import Verdict


def test_a_claim_is_decided_and_shown(run):
    done = run("claims", "inl-9")
    assert done.exit_code == 0
    assert "INL-9" in done.stdout
    assert "1 PROVED" in done.stdout


def test_one_object_for_machines(run, only_object):
    done = run("claims", "--json", "INL-9")
    found = only_object(done.stdout)
    (claim,) = found["claims"]
    assert (claim["id"], claim["verdict"], claim["expected"]) == ("INL-9", "PROVED", "PROVED")
    assert found["not_as_recorded"] == []


def test_another_verdict_than_the_one_on_record_makes_one(run, monkeypatch, only_object):
    (claim,) = claims.chosen(ids=("INL-9",))
    changed = replace(claim, expected=Verdict.REFUTED)
    monkeypatch.setattr("dsf.claims.ALL", (changed,))
    done = run("claims", "INL-9")
    assert done.exit_code == 1
    assert "INL-9 came back PROVED, but REFUTED is on record" in done.stdout
    assert only_object(run("claims", "--json").stdout)["not_as_recorded"] == ["INL-9"]


def test_a_paper_can_be_chosen_and_listed(run, only_object):
    listed = only_object(run("claims", "--paper", "inl", "--list", "--json").stdout)["claims"]
    assert {claim["id"].split("-")[0] for claim in listed} == {"INL"}
    assert all("verdict" not in claim for claim in listed)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("INL-999",), "no claim is called INL-999"),
        (("--paper", "XYZ"), "no paper is called 'XYZ'"),
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
