"""A convolution before a mixer, causal or with a look ahead, against torch's own."""

import pytest
import torch
from torch.nn.functional import conv1d, pad

from dsf.inspection.whole.stages import Filter

WIDTH = 3


def drawn(*shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=rng, dtype=torch.float64)


@pytest.mark.sampled("ahead", count=2)
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("taps", [1, 4])
@pytest.mark.parametrize("ahead", [0, 2, 3, 5])
def test_it_is_that_of_torch(taps, ahead, steps):
    kernel, bias, x = drawn(WIDTH, taps), drawn(WIDTH, seed=1), drawn(2, steps, WIDTH, seed=2)
    stage = Filter(kernel, bias, ahead)
    room = pad(x.mT, (taps - 1, ahead))[..., ahead:]
    expected = conv1d(room, kernel.unsqueeze(1), bias, groups=WIDTH).mT
    torch.testing.assert_close(stage(x), expected)
    other = drawn(2, steps, WIDTH, seed=3)
    torch.testing.assert_close(
        (stage.linear(x) * other).sum(), (x * stage.adjoint(other)).sum(), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_a_map_behind_it_is_their_product(ahead):
    stage, x = Filter(drawn(WIDTH, 4), ahead=ahead), drawn(2, 6, WIDTH, seed=2)
    weights = drawn(2, WIDTH, 5, 6, seed=4)
    expected = torch.einsum("scrt, stc -> src", weights, stage.linear(x))
    before = stage.adjoint(weights.movedim(1, -1)).movedim(-1, 1)  # as WholeMixer does
    found = torch.einsum("scrt, stc -> src", before, x)
    torch.testing.assert_close(found, expected)
