"""A share of a logit in one call: every form of input, and the next token by default."""

import copy

import pytest
import torch
from torch.testing import assert_close

import dsf
from dsf.loading import load_model
from dsf.models import folder

TEXT, SHORT = "And all our yesterdays have lighted", "And all our"


@pytest.fixture(scope="module", params=("text_llama", "text_qwen3_next"))
def loaded(request):
    return load_model(folder(request.param))


@pytest.fixture(scope="module")
def expected(loaded):
    numbers = loaded.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    best = loaded.model(numbers).logits[0, -1].topk(2).indices.tolist()
    return dsf.stack(loaded.model, input_ids=numbers).attribute(best[0], against=best[1])


def test_by_default_the_next_token_against_the_runner_up(loaded, expected):
    for share in (
        dsf.attribute(loaded.model, TEXT, tokenizer=loaded.tokenizer),
        dsf.attribute(loaded.identity, TEXT),
        dsf.attribute(loaded.model, loaded.tokenizer(TEXT, return_tensors="pt")),
    ):
        assert_close(share.value, expected.value)
        assert_close(share.tokens, expected.tokens)
    assert bool((expected.value > 0).all())


def test_texts_of_unequal_length_are_each_as_alone(loaded):
    both = dsf.attribute(loaded.model, [TEXT, SHORT], tokenizer=loaded.tokenizer)
    for sample, text in enumerate((TEXT, SHORT)):
        alone = dsf.attribute(loaded.model, text, tokenizer=loaded.tokenizer)
        steps = alone.tokens.shape[-1]
        assert_close(both.value[sample], alone.value[0])
        assert_close(both.tokens[sample, :steps], alone.tokens[0])
        assert float(both.tokens[sample, steps:].abs().sum()) < 1e-9


def test_edits_take_a_text_too(loaded):
    numbers = loaded.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    cut = dsf.edits.Cut(0, key=[1])
    plain = dsf.intervene(loaded.model, edits=[cut], input_ids=numbers)
    for given in ((loaded.model, TEXT), (loaded.identity, TEXT)):
        named = {} if given[0] is loaded.identity else {"tokenizer": loaded.tokenizer}
        assert_close(dsf.intervene(*given, edits=[cut], **named).output, plain.output)
        effects = dsf.sweep(*given, edits=[cut], target=5, **named)
        assert_close(effects[0], plain.effect(5), atol=1e-5, rtol=0)  # logits of one place


def test_a_target_as_text_is_read_by_the_tokenizer_that_was_passed(loaded):
    token = loaded.tokenizer.decode([torch.tensor(5)])
    if loaded.tokenizer.encode(token, add_special_tokens=False) != [5]:
        pytest.skip("the token is no text of its own")
    share = dsf.attribute(loaded.model, TEXT, target=token, tokenizer=loaded.tokenizer)
    assert_close(share.value, dsf.attribute(loaded.identity, TEXT, target=5).value)


def test_layers_and_heads_choose_the_edges_that_are_listed(loaded, expected):
    ids = loaded.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    share = dsf.attribute(loaded.model, input_ids=ids, layers=[-1], heads=[0, 2])
    assert_close(share.tokens, expected.tokens)
    edges = expected.edges(-1)[0, [0, 2]].sum(dim=0)
    row = share.strongest_edges(1)[0]
    assert row["share"] == pytest.approx(edges[row["query"], row["key"]].item())
    assert abs(row["share"]) == pytest.approx(edges.abs().max().item())
    with pytest.raises(dsf.inspection.InspectionError, match="layers"):
        dsf.attribute(loaded.model, input_ids=ids, layers=[9])
    with pytest.raises(dsf.inspection.InspectionError, match="heads"):
        dsf.attribute(loaded.model, input_ids=ids, heads=[99]).strongest_edges()


def test_a_model_without_a_head_has_hidden_units_and_no_tokens(loaded):
    ids = loaded.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    body = copy.deepcopy(loaded.model.get_decoder())
    with torch.no_grad():
        hidden = body.double()(ids).last_hidden_state[0, -1]
    share = dsf.attribute(body, input_ids=ids, target=5)
    assert_close(share.value, hidden[5:6])
    assert "hidden unit 5" in repr(share)
    for target in (None, " fools"):
        with pytest.raises(ValueError, match="'target'"):
            dsf.attribute(body, input_ids=ids, target=target)


def test_layers_and_heads_limit_where_edits_act(loaded, tmp_path):
    ids = loaded.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    every, one = dsf.edits.Ablate("*"), dsf.edits.Ablate(1, heads=[0])
    found = dsf.intervene(loaded.model, input_ids=ids, edits=every, layers=1, heads=[0])
    expected = dsf.intervene(loaded.model, input_ids=ids, edits=one)
    assert len(found.layers) == 1
    assert found.output.equal(expected.output)
    place = tmp_path / "sweep.jsonl"
    given = {"input_ids": ids, "target": 5, "resume": place}
    effects = dsf.sweep(loaded.model, edits=[every, one], layers=1, heads=[0], **given)
    assert effects[0].equal(effects[1])
    with pytest.raises(ValueError, match="layers"):
        dsf.sweep(loaded.model, edits=[every, one], layers=2, heads=[0], **given)
    with pytest.raises(ValueError, match="layers"):
        dsf.sweep(loaded.model, edits=[every, one], heads=[0], **given)
