"""Scores of heads: loops over the entries of signed maps, and heads that are what they say."""

import math

import pytest
import torch

from dsf import measures
from dsf.runtime.shapes import ShapeError

TOKENS = [[3, 1, 4, 1, 5, 3, 1, 4], [2, 2, 2, 0, 1, 0, 2, 1]]


@pytest.fixture
def map():
    rng = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, 3, 8, 8, generator=rng, dtype=torch.float64)
    return drawn.tril()


def mean_share(map, is_candidate, net=False):
    """One map, one entry at a time; ``is_candidate(written, read)``."""
    rows = []
    for i in range(8):
        chosen = [j for j in range(8) if is_candidate(i, j)]
        if chosen:
            on = sum(map[i][j] if net else abs(map[i][j]) for j in chosen)
            rows.append(on / sum(abs(map[i][j]) for j in range(8)))
    return sum(rows) / len(rows) if rows else math.nan


CANDIDATES = {
    "previous_token": lambda _: lambda i, j: i - j == 1,
    "first_token": lambda _: lambda i, j: j == 0 and i > 0,
    "self_token": lambda _: lambda i, j: i == j,
    "duplicate_token": lambda t: lambda i, j: j < i and t[i] == t[j],
    "induction": lambda t: lambda i, j: 0 < j < i and t[j - 1] == t[i],
}


@pytest.mark.parametrize("net", [False, True])
@pytest.mark.parametrize("name", CANDIDATES)
def test_scores_are_mean_shares(map, name, net):
    wants_tokens = name in ("duplicate_token", "induction")
    given = (torch.tensor(TOKENS),) if wants_tokens else ()
    found = getattr(measures, name)(map, *given, net=net)
    assert found.shape == (2, 3)
    for sample in range(2):
        for head in range(3):
            one = map[sample, head].tolist()
            expected = mean_share(one, CANDIDATES[name](TOKENS[sample]), net)
            assert found[sample, head].item() == pytest.approx(expected, rel=1e-12)


def test_the_weight_of_one_token_on_another(map):
    found = measures.needle(map, query=6, key=2)
    torch.testing.assert_close(found, map[..., 6, 2].abs() / map[..., 6, :].abs().sum(-1))


def test_copying_is_signed_on_both_sides(map):
    effects = torch.linspace(-1, 2, 8, dtype=torch.float64)
    product = map * effects
    expected = product.sum((-1, -2)) / product.abs().sum((-1, -2))
    torch.testing.assert_close(measures.copying(map, effects), expected)
    torch.testing.assert_close(measures.copying(-map, -effects), expected)
    torch.testing.assert_close(measures.copying(-map, effects), -expected)


@pytest.mark.parametrize("samples", [2, 3])
def test_copying_takes_effects_of_samples_also_where_there_are_as_many_heads(samples):
    rng = torch.Generator().manual_seed(0)
    map, effects = torch.randn(samples, 3, 8, 8, generator=rng), torch.randn(samples, 8)
    found = measures.copying(map, effects)
    for sample in range(samples):
        expected = measures.copying(map[sample], effects[sample])
        torch.testing.assert_close(found[sample], expected)
    of_heads = torch.randn(samples, 3, 8, generator=rng)
    product = map * of_heads[..., None, :]
    expected = product.sum((-1, -2)) / product.abs().sum((-1, -2))
    torch.testing.assert_close(measures.copying(map, of_heads), expected)


def test_heads_that_are_what_they_are_called():
    tokens = torch.tensor([5, 6, 7, 5, 6, 7])
    shift = torch.eye(6).roll(1, 0)
    shift[0] = torch.eye(6)[0]
    assert measures.previous_token(shift) == 1
    assert measures.previous_token(-shift, net=True) == -1
    inducing = torch.eye(6)
    inducing[3:] = torch.eye(6)[1:4]
    assert measures.induction(inducing, tokens) == 1
    assert measures.duplicate_token(inducing, tokens) == 0
    assert measures.duplicate_token(torch.eye(6).roll(3, 0), tokens) == 1
    assert measures.induction(inducing, torch.arange(6)).isnan()


@pytest.mark.usefixtures("our_own_errors")
def test_tokens_that_do_not_fit_are_refused(map):
    with pytest.raises(ShapeError, match="'tokens'"):
        measures.induction(map, torch.arange(5))
    with pytest.raises(ShapeError, match="'tokens'"):
        measures.induction(map, torch.zeros(3, 8, dtype=torch.long))
    with pytest.raises(ShapeError, match="'effects'"):
        measures.copying(map, torch.ones(5))
    with pytest.raises(ShapeError, match="'effects'"):
        measures.copying(map, torch.ones(3, 8))
    with pytest.raises(TypeError, match="'tokens'"):
        measures.induction(map, [1, 2, 3])
    with pytest.raises(TypeError, match="'tokens'"):
        measures.duplicate_token(map, torch.ones(8))
    with pytest.raises(ValueError, match="real map"):
        measures.previous_token(map + 1j)


@pytest.mark.usefixtures("our_own_errors")
def test_maps_tokens_and_places_that_are_none():
    map = torch.ones(4, 4).tril()
    with pytest.raises(TypeError, match="'map_or_system'"):
        measures.previous_token("a map")
    with pytest.raises(TypeError, match="'map_or_system'"):
        measures.previous_token(map.tolist())
    with pytest.raises(TypeError, match="'tokens'"):
        measures.induction(map, torch.ones(4, dtype=torch.complex64))
    for wrong in ([1.0] * 4, torch.ones(4) * 1j):
        with pytest.raises(TypeError, match="'effects'"):
            measures.copying(map, wrong)
    for written, read in ((4, 0), (0, 4), (-1, 0)):
        with pytest.raises(IndexError, match=r"(query|key)"):
            measures.needle(map, query=written, key=read)
    assert measures.needle(map, query=3, key=1) == 0.25
