"""Properties decided layer by layer, and run folders that resume."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import dsf
from dsf.certificates import Verdict
from dsf.cli.check import meanings
from dsf.inspection.results.layers import InspectedLayer
from dsf.mixers import RWKV4, GatedDeltaNet, LinearAttention, SoftmaxAttention
from dsf.mixers.ingredients import feature_maps
from dsf.properties.decided import PROPERTIES, Part, findings, verdict_counts, verdicts
from dsf.properties.names import IF_NOT
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


F64 = torch.float64


def of_heads(mixer):
    """What is decided about a layer whose only batch axis counts heads, by property."""
    layer = InspectedLayer("layer", "drawn", mixer, ("head",), error=0.0, tolerance=1.0)
    return verdicts(list(findings(layer)))


def one(mixer, name):
    (record,) = of_heads(mixer).where(property=name)
    return record


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def softmax(key, query=None, **options):
    key = torch.as_tensor(key, dtype=F64)
    query = normal(*key.shape) if query is None else query
    return SoftmaxAttention(query=query, key=key, value=normal(*key.shape[:-1], 1), **options)


def hiding(hidden):
    return torch.zeros(1, *hidden.shape, dtype=F64).masked_fill(hidden, -torch.inf)


PLACE = torch.arange(8)
APART = PLACE[:, None] - PLACE[None]


def test_an_axis_of_channels_is_not_summed_as_time():
    """RWKV-4 has one decay for every channel; here there are as many as tokens."""
    mixer = RWKV4.draw(torch.Generator().manual_seed(0), steps=9)
    size = mixer.log_decay.shape[-1]
    mixer = RWKV4.draw(torch.Generator().manual_seed(0), steps=size)
    assert {r["verdict"] for r in of_heads(mixer).where(property="forgets")} == {"NOT APPLICABLE"}


@pytest.mark.parametrize("bias", [-torch.inf, -1e4, torch.finfo(torch.float32).min])
def test_rows_under_a_mask_are_decided_on_the_keys_they_show(bias):
    """Keys 2 to 5 lie on one line: a row whose window shows only those tells no queries apart."""
    key = normal(1, 8, 2)
    line = key.clone()
    line[0, 2:6, 1] = 2 * line[0, 2:6, 0] + 1
    window = torch.zeros(1, 8, 8, dtype=F64).masked_fill(APART >= 4, bias)
    assert one(softmax(key, bias=window), "injective")["verdict"] == "PROVED"
    record = one(softmax(line, bias=window), "injective")
    # Keys that a finite bias hides are there in exact arithmetic, so nothing is refuted by them.
    assert record["verdict"] == ("REFUTED" if bias == -torch.inf else "UNKNOWN")
    assert one(softmax(line), "injective")["verdict"] == "PROVED"
    last = torch.zeros(1, 8, 8, dtype=F64)
    assert one(softmax(line, causal=False, bias=last), "injective")["verdict"] == "PROVED"


def test_a_refutation_names_the_row_of_the_map():
    line = normal(1, 8, 2)
    line[0, 2:6, 1] = 2 * line[0, 2:6, 0] + 1
    mixer = softmax(line, bias=hiding(APART >= 4))
    (found,) = (f for f in findings(InspectedLayer(
        "layer", "drawn", mixer, ("head",), error=0.0, tolerance=1.0
    )) if f.property == "injective")  # fmt: skip
    row, null = found.certificate.witness["row"], found.certificate.witness["null"][:-1]
    query = mixer.query.clone()
    query[0, row] += torch.tensor(null, dtype=F64) / max(map(abs, null))
    one_map, other = (
        dsf.attention_map(softmax(line, each, bias=mixer.bias).system())[0]
        for each in (mixer.query, query)
    )
    assert row == 5
    torch.testing.assert_close(other[row], one_map[row])
    assert "in every row of the stored mask" in found.certificate.claim


def test_rows_in_the_middle_of_a_mask_are_not_claimed():
    hidden = (PLACE[:, None] >= 3) & (PLACE[:, None] < 7) & (APART != 0)
    record = one(softmax(normal(1, 8, 2), bias=hiding(hidden)), "injective")
    assert record["verdict"] == "PROVED"
    assert "that shows at least 3 keys" in record["claim"]


def test_of_no_row_that_shows_enough_keys_nothing_is_claimed():
    record = one(softmax(normal(1, 8, 2), bias=hiding(APART >= 2)), "injective")
    assert record["verdict"] == "NOT APPLICABLE"
    assert "no row shows more than 2 keys" in record["limits"]


def test_the_margin_is_that_of_rows_that_show_all_keys():
    key = normal(1, 8, 2)
    assert one(softmax(key, bias=hiding(APART >= 4)), "margin")["verdict"] == "UNKNOWN"
    assert one(softmax(key, causal=False), "margin")["verdict"] == "PROVED"
    assert one(softmax(key, causal=False, bias=hiding(APART < 0)), "margin")["verdict"] == "PROVED"


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({"scale": 0.0}, "UNKNOWN"),
        ({"scale": -0.3}, "REFUTED"),
        ({"sink": torch.tensor([0.3], dtype=F64)}, "PROVED"),
        ({"sink": torch.tensor([-torch.inf], dtype=F64)}, "REFUTED"),
        ({"sink": torch.tensor([torch.inf], dtype=F64)}, "UNKNOWN"),
        ({"sink": torch.tensor([torch.nan], dtype=F64)}, "UNKNOWN"),
        ({"softcap": 5.0}, "UNKNOWN"),
        ({"bias": torch.full((1, 4, 4), torch.nan, dtype=F64)}, "UNKNOWN"),
    ],
)
def test_scale_sink_and_bias_are_part_of_the_question(options, verdict):
    """These keys have full rank, and with a column of ones they have not."""
    key = [[[1.0, 0], [0, 1], [0.5, 0.5], [2, -1]]]
    assert one(softmax(key, **options), "injective")["verdict"] == verdict


@pytest.mark.parametrize(("epsilon", "verdict"), [(0.0, "REFUTED"), (1e-6, "UNKNOWN")])
def test_an_epsilon_tells_proportional_queries_apart(epsilon, verdict):
    mixer = LinearAttention(
        query=torch.ones(1, 5, 1, dtype=F64),
        key=normal(1, 5, 1).abs(),
        value=torch.ones(1, 5, 1, dtype=F64),
        feature_map=feature_maps.relu,
        epsilon=float(epsilon),
    )
    assert one(mixer, "injective")["verdict"] == verdict


def test_several_bounds_are_said_as_the_weakest_with_its_head():
    table = of_heads(softmax(torch.cat([normal(2, 9, 2), 1e-3 * normal(1, 9, 2, seed=1)])))
    margins = table.where(property="margin")
    weakest = min(margins, key=lambda record: record["bound"])
    (count,) = (each for each in verdict_counts(table) if each.property == "margin")
    assert count.claim == f"{weakest['claim']} (the weakest, layer, head 2)"
    assert f"  margin: {count.claim}." in meanings(table)


def test_several_sentences_are_all_said():
    table = of_heads(softmax(normal(2, 9, 2), sink=torch.tensor([0.0, -torch.inf], dtype=F64)))
    (count,) = (each for each in verdict_counts(table) if each.property == "injective")
    assert "with a sink (1 times)" in count.claim
    assert "without a sink (1 times)" in count.claim


def test_a_delta_rule_may_erase_what_its_decays_keep():
    key = torch.zeros(1, 6, 2, dtype=F64)
    key[..., 0] = 1
    one_half = torch.ones(1, 6, dtype=F64)
    mixer = GatedDeltaNet(
        query=key, key=key, value=key[..., :1], rate=one_half, log_decay=0 * one_half
    )
    assert one(mixer, "forgets")["verdict"] == "REFUTED"
    assert dsf.attention_map(mixer.system())[0, -1, 0] == 0
    assert "a delta rule" in IF_NOT["forgets"]


def test_complex_coefficients_are_not_decided():
    mixer = GatedDeltaNet.draw(torch.Generator().manual_seed(0), steps=6)
    parts = {name: getattr(mixer, name).to(torch.complex128)
             for name in ("query", "key", "value", "rate", "log_decay", "initial")
             if getattr(mixer, name) is not None}  # fmt: skip
    layer = InspectedLayer(
        "layer", "drawn", replace(mixer, **parts), ("head",), error=0.0, tolerance=1.0
    )
    part = Part(layer, (0,), torch.eye(6, dtype=F64))
    for name in ("nonexpansive", "forgets"):
        assert PROPERTIES[name].decide(part, None).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({}, "PROVED"),
        ({"columns": "slot"}, "NOT APPLICABLE"),
        ({"row_order": PLACE[None], "column_order": PLACE[None]}, "PROVED"),
        ({"row_order": PLACE.flip(0)[None], "column_order": PLACE.flip(0)[None]}, "UNKNOWN"),
        ({"row_order": PLACE[None], "column_order": PLACE[None] + 1}, "UNKNOWN"),
    ],
)
def test_later_tokens_are_those_of_the_model(options, verdict):
    layer = InspectedLayer(
        "layer", "drawn", softmax(normal(1, 8, 2)), ("head",), error=0.0, tolerance=1.0, **options
    )
    (record,) = verdicts(list(findings(layer))).where(property="causal")
    assert record["verdict"] == verdict
