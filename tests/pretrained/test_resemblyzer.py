"""A voice encoder: three LSTM layers over mel bands, trained to tell speakers apart.

resemblyzer 0.1.4, Apache-2.0: 1.4 million weights. Its file is older than torch's zip archives.
"""

import pytest
import torch
from torch import nn

import dsf
from dsf import measures

WEIGHTS = "resemblyzer"
FRAMES, BANDS, WIDTH = 120, 40, 256


class Encoder(nn.Module):
    """The last state of the last layer, through a rectified linear map, at unit length."""

    def __init__(self, saved):
        super().__init__()
        self.lstm = nn.LSTM(BANDS, WIDTH, num_layers=3, batch_first=True)
        self.linear = nn.Linear(WIDTH, WIDTH)
        known = self.state_dict()
        self.load_state_dict({name: part for name, part in saved.items() if name in known})

    def forward(self, mel):
        _, (state, _) = self.lstm(mel)
        return nn.functional.normalize(self.linear(state[-1]).relu(), dim=-1)


@pytest.fixture(scope="module")
def encoder(weights):
    saved = torch.load(weights / "pretrained.pt", map_location="cpu", weights_only=True)
    return Encoder(saved["model_state"])


@pytest.fixture(scope="module")
def mel():
    """Bands that swell and fade slowly, like syllables."""
    rng = torch.Generator().manual_seed(0)
    slow = torch.randn(1, FRAMES // 8, BANDS, generator=rng).repeat_interleave(8, dim=1)
    return 0.02 * slow.exp()


def test_three_layers(encoder, mel):
    inspection = dsf.inspect(encoder, mel)
    assert [layer.name for layer in inspection] == [f"lstm[layer {k}]" for k in range(3)]
    assert all(layer.error < 1e-5 for layer in inspection)


def test_in_float64(encoder, mel):
    assert all(layer.error < 1e-12 for layer in dsf.inspect(encoder, mel, exact=True))


def test_memory_grows_from_layer_to_layer(encoder, mel):
    """Of the first layer's weight nearly all stays within a few frames, of the last hardly half."""
    inspection = dsf.inspect(encoder, mel)
    kept = [layer.system.A.decay.mean().item() for layer in inspection]
    assert kept[0] < kept[1] < kept[2]
    near = [measures.window_mass(layer.map(), width=8).nanmean().item() for layer in inspection]
    assert near[0] > near[1] > near[2]


def test_the_last_map_gives_the_embedding(encoder, mel):
    last = dsf.inspect(encoder, mel)[-1]
    state = (last.map(rows=-1) @ last.signal[..., 0])[..., 0, 0]
    with torch.no_grad():
        ours = nn.functional.normalize(encoder.linear(state.float()).relu(), dim=-1)
        torch.testing.assert_close(ours, encoder(mel), rtol=0, atol=1e-5)
