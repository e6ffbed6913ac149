"""Modules that draw random numbers in evaluation mode: what they draw moves no token."""

import pytest
import torch
from torch import nn

import dsf
from tests.any_code.modules import SIZE, WIDTH, Attention, drawn, merged, tokens


class Noisy(Attention):
    """Attention behind which numbers are drawn, that of products or fused."""

    def __init__(self, noise, is_fused):
        super().__init__()
        self.noise, self.is_fused = noise, is_fused

    def forward(self, x):
        q, k, v = self.parts(x)
        if self.is_fused:
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1) @ v
        return self.noise(self.o(merged(mixed)))


class OfSingleTokens(nn.Module):
    def __init__(self, noise):
        super().__init__()
        self.p, self.noise = nn.Linear(WIDTH, WIDTH), noise

    def forward(self, x):
        return self.noise(self.p(x))


class Summed(OfSingleTokens):
    def forward(self, x):
        return super().forward(x).cumsum(dim=1)


def added(x):
    return x + 0.1 * torch.randn_like(x)


def dropped(x):
    return nn.functional.dropout(x, 0.3, training=True)


@pytest.mark.parametrize("is_fused", [True, False])
@pytest.mark.parametrize("noise", [added, dropped])
def test_the_map_is_all_though_its_module_draws_numbers(noise, is_fused):
    inspection = dsf.inspect(drawn(Noisy(noise, is_fused)), tokens(2, SIZE, WIDTH))
    assert [layer.is_exact for layer in inspection] == [True]
    assert not inspection.unsupported


@pytest.mark.parametrize("noise", [added, dropped])
def test_numbers_that_are_drawn_mix_no_tokens(noise):
    with pytest.raises(dsf.inspection.NothingCapturedError, match="No module"):
        dsf.inspect(drawn(OfSingleTokens(noise)), tokens(2, SIZE, WIDTH))


def test_a_mixer_of_other_numbers_in_every_pass_is_refused_for_them():
    with pytest.raises(dsf.inspection.InspectionError, match="random numbers"):
        dsf.inspect(drawn(Summed(dropped)), tokens(2, SIZE, WIDTH))


def test_a_model_is_listed_once():
    class HandMadeRNN(nn.Module):
        def __init__(self):
            super().__init__()
            self.given, self.kept = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            states = [torch.zeros_like(x[:, 0])]
            for token in x.unbind(1):
                states.append((self.given(token) + self.kept(states[-1])).cos())
            return torch.stack(states[1:], dim=1)

    with pytest.raises(dsf.inspection.NothingCapturedError) as refused:
        dsf.inspect(drawn(HandMadeRNN()), tokens(2, SIZE, WIDTH))
    assert "not linear" in str(refused.value)
    assert "(the model itself)" not in str(refused.value)
