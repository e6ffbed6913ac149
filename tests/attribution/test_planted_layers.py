"""A layer that is rebuilt with a small mistake is told, at lengths where some rows are compared."""

from dataclasses import replace

import pytest
import torch

import dsf
from dsf.inspection.errors import ReconstructionError
from dsf.inspection.rebuild import EVERY, compared_tokens
from dsf.inspection.softmax import attention
from dsf.inspection.whole.stages import Chain, Project

transformers = pytest.importorskip("transformers")
TOKENS = 300
SLIGHTLY = 1.01


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.5,
    )
    return transformers.LlamaForCausalLM(config).double()


@pytest.fixture
def ids():
    return torch.randint(50, (1, TOKENS), generator=torch.Generator().manual_seed(0))


def with_one_weight_off(stages):
    (project,) = stages
    weight = project.weight.clone()
    weight[3, 5] *= SLIGHTLY
    return Chain((Project(weight, project.bias),))


def planted(monkeypatch, **parts):
    """The adapter of attention with some of its functions exchanged."""
    from dsf.inspection import examine

    changed = replace(attention.ADAPTER, **parts)
    way = next(way for way, adapter in examine.SOFTMAX.items() if adapter is attention.ADAPTER)
    monkeypatch.setitem(examine.SOFTMAX, way, changed)


def values_off(layer):
    return with_one_weight_off(attention.ADAPTER.enter(layer))


def output_off(layer, response):
    return with_one_weight_off(attention.ADAPTER.leave(layer, response))


def scores_off(layer):
    mixer = attention.ADAPTER.read(layer)
    return replace(mixer, scale=mixer.scale * SLIGHTLY)


@pytest.mark.parametrize(
    "parts",
    [{"enter": values_off}, {"leave": output_off}, {"read": scores_off}],
    ids=lambda parts: next(iter(parts)),
)
def test_one_weight_that_is_off_is_told(parts, model, ids, monkeypatch):
    assert TOKENS > EVERY
    dsf.stack(model, input_ids=ids)
    planted(monkeypatch, **parts)
    with pytest.raises(ReconstructionError, match="differs"):
        dsf.stack(model, input_ids=ids)


def test_a_row_that_nobody_compared_is_told_by_the_shares(model, ids, monkeypatch):
    """A query of one token is off, of whose row the number is made."""
    compared = compared_tokens(TOKENS).tolist()
    place = next(token for token in range(100, TOKENS) if token not in compared)

    def query_off(layer):
        mixer = attention.ADAPTER.read(layer)
        query = mixer.query.clone()
        query[:, :, place] *= SLIGHTLY
        return replace(mixer, query=query)

    planted(monkeypatch, read=query_off)
    stack = dsf.stack(model, input_ids=ids)
    with pytest.raises(ReconstructionError, match="miss the value"):
        stack.attribute(7, position=place)
    with pytest.raises(ReconstructionError, match="contributions would be wrong"):
        stack.contributions()
