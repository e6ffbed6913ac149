"""Ranks, collisions and confusions of attention as a function of the query."""

import pytest
import torch
from torch.nn.functional import elu, relu, softplus

from dsf import measures

FEATURES = {
    "identity": lambda x: x,
    "relu": relu,
    "elu_plus_one": lambda x: elu(x) + 1,
    "exp": torch.exp,
    "softplus": softplus,
}


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def linear(query, key, feature):
    weights = feature(query) @ feature(key).mT
    return weights / weights.sum(dim=-1, keepdim=True)


@pytest.mark.parametrize("name", FEATURES)
def test_colliding_queries_share_their_row_of_linear_attention_only(rng, name):
    key = torch.randn(40, 8, generator=rng, dtype=torch.float64)
    query = torch.randn(8, generator=rng, dtype=torch.float64)
    other = measures.colliding_query(query, feature_map=name)
    feature = FEATURES[name]
    torch.testing.assert_close(
        linear(other, key, feature), linear(query, key, feature), rtol=1e-10, atol=1e-12
    )
    softmax = [(key @ q * 8**-0.5).softmax(0) for q in (query, other)]
    assert (softmax[0] - softmax[1]).abs().max() > 1e-2


def test_jacobian_ranks_of_the_three_attentions(rng):
    key = torch.randn(40, 8, generator=rng, dtype=torch.float64)
    queries = torch.randn(3, 8, generator=rng, dtype=torch.float64)
    centred = key - key.mean(dim=0)
    rows = {
        "softmax": (lambda q: (key @ q).softmax(0), 8),
        "in line": (lambda q: centred @ q + 1 / 40, 8),
        "linear": (lambda q: linear(q, key, FEATURES["elu_plus_one"]), 7),
    }
    for name, (row, rank) in rows.items():
        assert measures.jacobian_rank(row, queries).tolist() == [rank] * 3, name


def test_early_rows_of_causal_softmax_have_less_rank(rng):
    key = torch.randn(10, 8, generator=rng, dtype=torch.float64)
    query = torch.randn(1, 8, generator=rng, dtype=torch.float64)
    for tokens, rank in ((1, 0), (2, 1), (4, 3), (8, 7), (9, 8), (10, 8)):
        seen = key[:tokens]
        found = measures.jacobian_rank(lambda q, seen=seen: (seen @ q).softmax(0), query)
        assert found.item() == rank


def test_key_rank_and_margin(rng):
    key = torch.randn(2, 30, 4, generator=rng, dtype=torch.float64)
    key[1, :, 3] = key[1, :, 0] + 1
    rank, full, margin = measures.key_rank(key)
    assert rank.tolist() == [5, 4]
    assert full == 5
    assert margin[0] > 0.1
    assert margin[1] < 1e-9


def test_confusions_count_pairs_that_lie_apart():
    query = torch.tensor([[0.0], [1.0], [2.0], [2.001]], dtype=torch.float64)
    weights = torch.tensor([[1.0, 0], [1.0, 0], [0.0, 1], [0.0, 1]], dtype=torch.float64)
    assert measures.confusions(weights, query) == 1
    assert measures.confusions(weights, query, queries_beyond=1e-4) == 2
    assert measures.confusions(0 * weights, query) == 5
    assert measures.confusions(1e-6 * weights, query, relative=True) == 1


def test_distance_ratios_start_at_zero_for_a_confusing_map():
    query = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    weights = torch.tensor([[1.0, 0], [1.0, 0], [0.0, 1]], dtype=torch.float64)
    ratios = measures.distance_ratios(weights, query)
    torch.testing.assert_close(ratios, torch.tensor([0, 2**0.5 / 3, 2**0.5 / 2]).double())


def test_unknown_feature_maps_and_factors_are_refused():
    with pytest.raises(ValueError, match="collision"):
        measures.colliding_query(torch.ones(2), feature_map="taylor")
    with pytest.raises(ValueError, match="'factor'"):
        measures.colliding_query(torch.ones(2), feature_map="relu", factor=1.0)
