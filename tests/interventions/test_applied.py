"""Edits under the model's own calls: those of ``dsf.intervene``, for every generated token."""

import pytest
import torch

import dsf
from dsf import edits
from dsf.inspection import InspectionError
from dsf.loading import load_model
from dsf.models import folder

pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')

TEXT = "And all our yesterdays"
STEPS = 4


@pytest.fixture(scope="module", params=["mamba2", "qwen3_next"])
def opened(request):
    loaded = load_model(folder(f"text_{request.param}"))
    return loaded.model, torch.tensor([loaded.tokenizer.encode(TEXT)])


def generated(model, ids):
    return model.generate(
        ids, use_cache=True, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip


@torch.no_grad()
def test_a_call_returns_what_intervene_returns(opened):
    model, ids = opened
    before = dict(vars(model))
    for wanted in (edits.Cut(-1, key=2), [edits.Scale(0, 0.5, query=-1), edits.Ablate(-1)]):
        with edits.applied(model, wanted):
            output = model(input_ids=ids).logits
        assert output.equal(dsf.intervene(model, input_ids=ids, edits=wanted).output)
    assert vars(model) == before


def test_without_edits_a_model_generates_as_it_does(opened):
    model, ids = opened
    plain = generated(model, ids)
    with edits.applied(model, []):
        found = generated(model, ids)
    assert found.sequences.equal(plain.sequences)
    assert torch.stack(found.logits).equal(torch.stack(plain.logits))


def test_an_edit_holds_for_every_generated_token(opened):
    """The oracle has no cache: every token is what ``intervene`` says on all tokens before."""
    model, ids = opened
    ahead = ids.shape[1]  # the first token that is generated
    wanted = [edits.Cut(-1, key=[2, ahead]), edits.Scale(0, 0.5, key=1)]
    with edits.applied(model, wanted):
        found = generated(model, ids)
    for number in range(STEPS):
        there = ahead + number
        now = [edits.Cut(-1, key=[2, ahead][: 1 + (number > 0)]), wanted[1]]
        expected = dsf.intervene(model, input_ids=found.sequences[:, :there], edits=now).output
        torch.testing.assert_close(found.logits[number], expected[:, -1], rtol=1e-4, atol=1e-4)
        assert found.sequences[0, there] == expected[0, -1].argmax()
    plain = generated(model, ids)
    assert not torch.allclose(found.logits[-1], plain.logits[-1], atol=1e-2)


def test_what_needs_the_whole_sequence_is_refused(opened):
    model, ids = opened
    with edits.applied(model, edits.Mean(-1)), pytest.raises(InspectionError, match="Mean"):
        generated(model, ids)
    with edits.applied(model, edits.Cut(99)), pytest.raises(InspectionError, match="99"):
        model(input_ids=ids)
