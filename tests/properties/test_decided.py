"""Properties decided layer by layer, and run folders that resume."""

import json

import pytest
import torch
from torch import nn

import dsf
from dsf.certificates import Verdict
from dsf.properties.decided import findings, verdict_counts, verdicts
from dsf.properties.run_folder import checked_run


@pytest.fixture(scope="module")
def attention():
    """Two heads of width four over nine tokens: more keys than a rank needs."""
    torch.manual_seed(0)
    return dsf.inspect(nn.MultiheadAttention(8, 2, batch_first=True), *[torch.randn(1, 9, 8)] * 3)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return dsf.inspect(nn.LSTM(3, 4, batch_first=True), torch.randn(1, 7, 3))


def decided(inspection):
    return {
        (finding.property, *finding.part.values()): finding.certificate.verdict
        for layer in inspection
        for finding in findings(layer)
    }


def test_heads_of_softmax_attention(attention):
    found = decided(attention)
    for head in (0, 1):
        assert found["nonnegative", 0, head] is Verdict.PROVED
        assert found["sums_to_one", 0, head] is Verdict.PROVED
        assert found["injective", 0, head] is Verdict.PROVED
        assert found["margin", 0, head] is Verdict.PROVED
        assert found["causal", 0, head] is Verdict.REFUTED
        assert found["nonexpansive", 0, head] is Verdict.NOT_APPLICABLE


def test_layers_of_channels_are_decided_whole(network):
    found = decided(network)
    assert found["causal",] is Verdict.PROVED
    assert found["nonnegative",] is Verdict.PROVED
    assert found["sums_to_one",] is Verdict.REFUTED
    assert found["injective",] is Verdict.NOT_APPLICABLE


def test_tallies_count_every_head(attention):
    table = verdicts([finding for layer in attention for finding in findings(layer)])
    tally = next(t for t in verdict_counts(table) if t.property == "injective")
    assert (tally.proved, tally.refuted, tally.unknown) == (2, 0, 0)


def test_a_run_resumes_and_redoes_only_what_changed(attention, network, tmp_path):
    first = checked_run(attention, tmp_path)
    unit = tmp_path / "units" / "0000" / "unit.json"
    stamp = unit.stat().st_mtime_ns
    again = checked_run(attention, tmp_path)
    assert unit.stat().st_mtime_ns == stamp
    assert again.to_json() == first.to_json()
    checked_run(network, tmp_path)
    assert unit.stat().st_mtime_ns != stamp
    assert not list(tmp_path.rglob("*.tmp-*"))


def test_a_run_of_another_schema_is_left_alone(attention, tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(ValueError, match="schema 99"):
        checked_run(attention, tmp_path)
