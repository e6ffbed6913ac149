"""Rows of softmax attention that overwrite each other are those that are written anew."""

import pytest
import torch

from dsf.evaluate import row_blocks
from dsf.runtime.scratch_memory import WorkMemory
from dsf.systems.composite import ExplicitMap
from dsf.systems.kernels import availability, found
from dsf.systems.softmax_rows import SoftmaxRows, cache_system

HEADS, TOKENS = 3, 40
draw = torch.Generator().manual_seed(0)


def normal(*size):
    return torch.randn(*size, generator=draw, dtype=torch.float64)


VECTORS = {"query": normal(HEADS, TOKENS, 4), "key": normal(HEADS, TOKENS, 4), "scale": 0.5}
CASES = {
    "plain": {},
    "soft cap": {"softcap": 2.0},
    "bias": {"bias": normal(HEADS, TOKENS, TOKENS)},
    "sink": {"sink": normal(HEADS)},
    "decay": {"log_decay": -normal(HEADS, TOKENS).abs()},
}


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    monkeypatch.setattr(availability, "WORTH", 0)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("size", [1, 7, 40])
def test_rows_are_the_same(case, causal, size):
    rows = SoftmaxRows(**VECTORS, **CASES[case], causal=causal)
    system = cache_system(rows) if causal else ExplicitMap(rows)
    reused = [block.weights.clone() for block in row_blocks(system, size=size, overwrites=True)]
    fresh = [block.weights for block in row_blocks(system, size=size)]
    assert torch.equal(torch.cat(reused, dim=-2), torch.cat(fresh, dim=-2))


@pytest.mark.skipif(not found(), reason="plain torch writes every block anew")
@pytest.mark.parametrize("causal", [True, False])
def test_blocks_share_one_memory_only_where_asked(causal):
    rows = SoftmaxRows(**VECTORS, causal=causal)
    system = cache_system(rows) if causal else ExplicitMap(rows)
    for overwrites, count in ((True, 1), (False, 4)):
        blocks = list(row_blocks(system, size=10, overwrites=overwrites))
        places = {block.weights.untyped_storage().data_ptr() for block in blocks}
        assert len(places) == count


def test_gradients_reach_queries_through_rows_that_may_be_overwritten():
    query = VECTORS["query"].clone().requires_grad_()
    system = cache_system(SoftmaxRows(**{**VECTORS, "query": query}, causal=True))
    sums = [block.weights.square().sum() for block in row_blocks(system, overwrites=True)]
    torch.stack(sums).sum().backward()
    assert query.grad.abs().sum() > 0


def test_memory_is_kept_while_it_is_large_enough_and_of_the_same_numbers():
    memory, like = WorkMemory(), torch.zeros(1)
    first = memory.take("scores", like, (2, 3), most=12)
    assert first.shape == (2, 3)
    assert first.is_contiguous()
    place = first.data_ptr()
    assert memory.take("scores", like, (3, 4)).data_ptr() == place
    assert memory.take("rows", like, (2, 3)).data_ptr() != place
    assert memory.take("scores", like, (13,)).numel() == 13
    assert memory.take("scores", like.double(), (2,)).dtype == torch.float64
