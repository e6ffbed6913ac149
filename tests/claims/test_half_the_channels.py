"""The construction of a softmax map from half as many channels as tokens."""

import pytest
import torch

from dsf.claims.meta_linear.half_the_channels import exact_in_fractions, from_later_rows
from dsf.claims.meta_linear.random_maps import causal_softmax
from dsf.evaluate import attention_map
from dsf.mixers import MetaLinearAttention


def remade(target):
    query, decay = from_later_rows(target)
    assert query.shape == (len(target), -(-len(target) // 2))
    assert ((decay >= 0) & (decay <= 1)).all()
    mixer = MetaLinearAttention(query=query, decay=decay, value=torch.ones_like(target[:, :1]))
    return attention_map(mixer.system())


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("seed", range(3))
def test_a_random_map_comes_out(steps, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(steps, steps, generator=generator, dtype=torch.float64)
    target = causal_softmax(logits)
    torch.testing.assert_close(remade(target), target, rtol=0, atol=1e-10)


def test_an_early_row_outside_what_later_rows_begin_with_is_missed():
    """Rows 3 and 4 begin alike; row 2 is no multiple of that beginning."""
    target = torch.tensor(
        [[1, 0, 0, 0], [0.9, 0.1, 0, 0], [0.4, 0.4, 0.2, 0], [0.3, 0.3, 0.3, 0.1]],
        dtype=torch.float64,
    )
    missed = (remade(target) - target).abs()
    assert missed[1].max() > 0.1
    assert missed[[0, 2, 3]].max() < 1e-12


def test_fractions_see_dependent_beginnings():
    assert exact_in_fractions()
    assert not exact_in_fractions(((1,), (9, 1), (2, 2, 1), (3, 3, 3, 1)))
