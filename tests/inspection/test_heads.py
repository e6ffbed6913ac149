"""``Inspection.heads``: scores of heads, beside what chance gives."""

import math
from dataclasses import replace

import pytest
import torch

import dsf
from dsf.inspection import InspectionError
from dsf.inspection.results.measurements import strongest
from dsf.inspection.results.table import Table
from dsf.loading import load_model
from dsf.models import folder, recall

STEPS = 12


@pytest.fixture(scope="module")
def inspection():
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 8, batch_first=True).eval()
    model = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    return dsf.inspect(model, torch.randn(3, STEPS, 8))


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(4, (3, STEPS), generator=torch.Generator().manual_seed(1))


def shares(map, tokens, looked_at):
    """By loops: the mean over rows with a candidate of the share of the weight on candidates."""
    rows = []
    for i in range(STEPS):
        chosen = [j for j in range(STEPS) if looked_at(tokens, i, j)]
        if chosen:
            rows.append((map[i, chosen].abs().sum() / map[i].abs().sum()).item())
    return sum(rows) / len(rows)


LOOKED_AT = {
    "previous_token": lambda _, i, j: j == i - 1,
    "first_token": lambda _, i, j: j == 0 < i,
    "self_token": lambda _, i, j: j == i,
    "duplicate_token": lambda tokens, i, j: j < i and tokens[j] == tokens[i],
    "induction": lambda tokens, i, j: 0 < j < i and tokens[j - 1] == tokens[i],
}


@pytest.mark.parametrize("score", LOOKED_AT)
def test_every_head_has_the_score_that_loops_find(inspection, tokens, score):
    table = inspection.heads(tokens).where(score=score)
    assert len(table) == 4
    for record in table:
        maps = inspection[record["layer"]].map()[:, record["head"]]
        found = [
            shares(*pair, LOOKED_AT[score]) for pair in zip(maps, tokens.tolist(), strict=True)
        ]
        assert record["value"] == pytest.approx(sum(found) / 3, rel=1e-6)


def test_the_control_of_a_score_by_place_weighs_alike(inspection, tokens):
    """These layers read ahead: one of twelve tokens is the one before."""
    for record in inspection.heads(tokens).where(score="previous_token"):
        assert record["control"] == pytest.approx(1 / STEPS)


def test_the_strongest_exceeds_its_control_by_most():
    """The largest score is not named where chance gives nearly as much."""
    scores = {0: (0.9, 0.8), 1: (0.5, 0.1), 2: (float("nan"), 0.0)}
    rows = tuple(
        {"layer": "a", "head": head, "score": "induction", "value": value, "control": control}
        for head, (value, control) in scores.items()
    )
    assert strongest(Table(rows)) == Table(rows[1:2])


def test_without_numbers_equal_texts_are_equal_tokens(inspection, tokens):
    texts = tuple(tuple(map(str, row)) for row in tokens.tolist())
    assert replace(inspection, tokens=texts).heads() == inspection.heads(tokens)
    with pytest.raises(InspectionError, match="heads"):
        inspection.heads()


def test_a_layer_of_another_length_has_a_note(inspection, tokens):
    table = inspection.heads(tokens[:, 1:])
    assert [record["note"] for record in table] == [
        "it maps 12 tokens to 12, and the input has 11"
    ] * 2


def test_only_chosen_heads_keep_their_numbers():
    torch.manual_seed(0)
    model = torch.nn.TransformerEncoderLayer(8, 2, 8, batch_first=True).eval()
    some = dsf.inspect(model, torch.randn(1, 5, 8), heads=[1])
    assert {row["head"] for row in some.heads(torch.arange(5)[None])} == {1}


@pytest.mark.parametrize("score", ["duplicate_token", "induction"])
def test_a_sample_without_copies_leaves_the_scores_of_the_others(inspection, tokens, score):
    """Its own is nan, which the mean over the samples leaves out."""
    without = tokens.clone()
    without[0] = torch.arange(STEPS)
    for record in inspection.heads(without).where(score=score):
        maps = inspection[record["layer"]].map()[1:, record["head"]]
        found = [
            shares(*pair, LOOKED_AT[score]) for pair in zip(maps, tokens[1:].tolist(), strict=True)
        ]
        assert record["value"] == pytest.approx(sum(found) / 2, rel=1e-6)
        assert 0 < record["control"] < 1
    never = inspection.heads(torch.arange(STEPS).expand(3, -1)).where(score=score)
    assert all(math.isnan(record["value"]) for record in never)


def test_the_strongest_is_found_where_chance_had_nothing_to_look_at():
    """With one copy in a short input no random order may have anything that follows one."""
    rows = [
        {"layer": "a", "head": k, "score": "induction", "value": value, "control": control}
        for k, (value, control) in enumerate([(0.1, torch.nan), (0.9, torch.nan), (0.4, 0.2)])
    ]
    assert [row["head"] for row in strongest(Table(tuple(rows)))] == [1]


def test_padding_is_no_token():
    """The same sentence alone and padded on either side has the same scores."""
    model = load_model(folder("llama")).model
    ids = recall.draw(torch.Generator().manual_seed(0), samples=1, pairs=3, length=STEPS).tokens
    padding = torch.zeros(1, 4, dtype=torch.long)
    batch = torch.cat([torch.cat([ids, padding], dim=1), torch.cat([padding, ids], dim=1)])
    shown = torch.ones_like(batch)
    shown[0, STEPS:], shown[1, :4] = 0, 0
    alone = dsf.inspect(model, input_ids=ids, checks="none").heads(ids)
    padded = dsf.inspect(model, input_ids=batch, attention_mask=shown, checks="none").heads(batch)
    assert len(padded) == len(alone) > 0
    for record, expected in zip(padded, alone, strict=True):
        for name in ("value", "net", "control"):
            assert record[name] == pytest.approx(expected[name], abs=1e-6, nan_ok=True)
