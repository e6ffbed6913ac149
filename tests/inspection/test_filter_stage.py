"""A convolution before a mixer, causal or with a look ahead, against torch's own."""

import pytest
import torch
from torch.nn.functional import conv1d, pad

import dsf
from dsf.inspection.whole.stages import Chain, Filter, WholeMixer
from dsf.mixers import HGRN

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
def test_the_map_of_a_layer_has_it(ahead):
    stage, x = Filter(drawn(WIDTH, 4), ahead=ahead), drawn(2, 6, WIDTH, seed=2)
    mixer = HGRN(value=stage(x), decay=drawn(2, 6, WIDTH, seed=4).sigmoid())
    whole = WholeMixer(given=x, enter=Chain((stage,)), mixer=mixer, leave=Chain(()))
    found = torch.einsum("scrt, stc -> src", whole.map(), x)
    torch.testing.assert_close(found, dsf.respond(mixer.system(), mixer.signal())[..., 0, 0].mT)
