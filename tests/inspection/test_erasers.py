"""``layer.erasers`` and ``inspection.erasers`` on embedded models, against dense products."""

import pytest
import torch

import dsf
from dsf.models import folder, recall
from dsf.systems.coefficient import dense_of
from dsf.systems.system import System

pytest.importorskip("transformers")

TOKENS = recall.draw(torch.Generator().manual_seed(5), 2).tokens


@pytest.fixture(scope="module", params=["qwen3_next", "mamba2", "mamba"])
def inspection(request):
    return dsf.inspect(folder(request.param), input_ids=TOKENS)


def difference(system, index, query, key):
    """C_i Phi(i, j) B_j - C_i B_j, by dense products."""
    A, B, C = (
        each[index].double() for each in (system.A.dense(), dense_of(system.B), dense_of(system.C))
    )
    state = B[key]
    for token in range(key + 1, query + 1):
        state = A[token] @ state
    return (C[query] @ (state - B[key])).item()


def test_totals_sum_to_what_the_map_lost(inspection):
    for layer in inspection:
        for sample, head, query, key in ((0, 0, 31, 2), (1, 1, 20, 7)):
            found = layer.erasers(query=query, key=key, head=head, sample=sample)
            assert [each.token for each in found] == list(range(key + 1, query + 1))
            total = sum(each.total for each in found)
            if isinstance(layer.system.B, dsf.systems.coefficient.TokenSlots):
                assert total == 0
                assert any(each.moved_on > 0 for each in found)
                continue
            expected = difference(layer.system, (sample, head), query, key)
            assert total == pytest.approx(expected, abs=1e-12)


def test_the_strongest_are_the_largest_of_all_pairs(inspection):
    found = inspection.erasers(query=-1, count=5)
    shares = [record["share"] for record in found]
    assert len(found) == 5
    assert shares == sorted(shares, reverse=True)
    first = found[0]
    layer = inspection[first["layer"]]
    sample, head = (first[axis] for axis in layer.axes)
    assert isinstance(layer.system, System)
    (one,) = [
        each
        for each in layer.erasers(query=31, key=first["key"], head=head, sample=sample)
        if each.token == first["token"]
    ]
    value = layer.signal[sample, head, first["key"], 0]
    response = dsf.respond(layer.system, layer.signal)[sample, head, 31]
    size = response.norm().item()
    assert first["share"] == pytest.approx(abs(one.total) * value.norm().item() / size)
    assert first["decay"] == pytest.approx(abs(one.decay) * value.norm().item() / size)


def test_chosen_heads_keep_their_numbers():
    kept = {"input_ids": TOKENS[:1], "layers": [1]}
    (chosen,) = dsf.inspect(folder("qwen3_next"), heads=[3], **kept)
    (whole,) = dsf.inspect(folder("qwen3_next"), **kept)
    assert chosen.erasers(query=9, key=2, head=3) == whole.erasers(query=9, key=2, head=3)
    with pytest.raises(IndexError, match="head"):
        chosen.erasers(query=9, key=2, head=0)
    with pytest.raises(IndexError, match="sample"):
        whole.erasers(query=9, key=2, sample=1)
    with pytest.raises(IndexError, match="query"):
        whole.erasers(query=32, key=2)
    with pytest.raises(ValueError, match="key"):
        whole.erasers(query=2, key=9)
    assert whole.erasers(query=-1, key=-3)[-1].token == 31
    for odd in ({"query": "a"}, {"query": 9.5}, {"key": None}, {"head": "a"}, {"sample": 0.5}):
        with pytest.raises(TypeError, match=f"'{next(iter(odd))}'"):
            whole.erasers(**{"query": 9, "key": 2, **odd})
    for odd in ("a", 1.5, None):
        with pytest.raises(TypeError, match="'query'"):
            dsf.inspect(folder("qwen3_next"), **kept).erasers(query=odd)
