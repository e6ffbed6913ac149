"""Recurrent layers of torch from input to output, gates as in the run."""

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection import InspectionError


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def drawn(*size, seed=0):
    return torch.randn(*size, generator=seeded(seed), dtype=torch.float64)


KINDS = {
    "lstm": (nn.LSTM, {}),
    "lstm projected": (nn.LSTM, {"proj_size": 2}),
    "gru": (nn.GRU, {}),
    "tanh": (nn.RNN, {}),
    "relu": (nn.RNN, {"nonlinearity": "relu"}),
}


def built(kind, **settings):
    """Weights of a size at which gates move and the past comes back."""
    cls, own = KINDS[kind]
    module = cls(3, 4, batch_first=True, dtype=torch.float64, **own, **settings)
    with torch.no_grad():
        for k, weight in enumerate(module.parameters()):
            weight.copy_(0.7 * drawn(*weight.shape, seed=k))
    return module


def starts(module, layers):
    h = drawn(layers, 2, module.proj_size or 4, seed=1)
    return (h, drawn(layers, 2, 4, seed=2)) if isinstance(module, nn.LSTM) else h


@pytest.mark.parametrize("kind", KINDS)
def test_contributions_and_remainder_are_the_output(kind):
    module, x = built(kind, bidirectional=True), drawn(2, 7, 3)
    start = starts(module, 2)
    output = module(x, start)[0].detach().chunk(2, dim=-1)
    for k, (layer, expected) in enumerate(zip(dsf.inspect(module, x, start), output, strict=True)):
        parts = layer.whole.contributions()
        total = parts.sum(dim=2) + layer.whole.remainder
        torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-13)
        ahead = torch.ones(7, 7, dtype=torch.bool).triu(1)
        assert parts[:, ahead if k == 0 else ahead.mT].abs().max() == 0
        assert layer.whole.remainder.abs().max() > 0.1 * expected.abs().max()
        with pytest.raises(InspectionError, match="map of its own"):
            layer.mixer_map()


def test_a_gru_by_hand():
    """h' = (1 - z) tanh(W x + b + r (U h + b')) + z h with z, r and the slope of the tanh fixed."""
    module, x = built("gru"), drawn(1, 5, 3)
    weights = (module.weight_ih_l0, module.weight_hh_l0, module.bias_ih_l0, module.bias_hh_l0)
    W, U, b, c = (part.detach().chunk(3) for part in weights)
    read = 1  # the token whose contribution is followed
    state, part = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for t, token in enumerate(x[0]):
        r, z = (torch.sigmoid(W[k] @ token + b[k] + U[k] @ state + c[k]) for k in (0, 1))
        a = W[2] @ token + b[2] + r * (U[2] @ state + c[2])
        own = W[2] @ token if t == read else 0
        part = (1 - z) * torch.tanh(a) / a * (own + r * (U[2] @ part)) + z * part
        state = (1 - z) * torch.tanh(a) + z * state
    (layer,) = dsf.inspect(module, x)
    torch.testing.assert_close(layer.whole.contributions()[0, -1, read], part)


def test_cells_and_layers_behind_one_another():
    module, x = built("lstm", num_layers=2), drawn(2, 6, 3)
    first, second = dsf.inspect(module, x)
    torch.testing.assert_close(second.whole.given, first.whole(x))
    torch.testing.assert_close(second.whole(second.whole.given), module(x)[0].detach())
