"""A voice detector: convolutions in front of one LSTM cell, called once every 32 milliseconds.

silero-vad 6.2.3, MIT. It ships as TorchScript, which takes no hooks: its weights go into plain
modules, and those must say the same as the shipped ones.
"""

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection import NothingCapturedError

WEIGHTS = "silero"
RATE, CHUNK, CONTEXT, FREQUENCIES = 16_000, 512, 64, 129
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.load:DeprecationWarning")


class Detector(nn.Module):
    """The probability of speech in every chunk."""

    def __init__(self, saved):
        super().__init__()
        self.spectrum = nn.Conv1d(1, 2 * FREQUENCIES, 256, stride=128, bias=False)
        widths, strides = (FREQUENCIES, 128, 64, 64, 128), (1, 2, 2, 1)
        pairs = zip(widths[:-1], widths[1:], strides, strict=True)
        self.encoder = nn.ModuleList(
            nn.Conv1d(old, new, 3, stride=stride, padding=1) for old, new, stride in pairs
        )
        self.memory = nn.LSTMCell(128, 128)
        self.verdict = nn.Conv1d(128, 1, 1)
        self.load_state_dict(
            {renamed(name): part for name, part in saved.items() if name.startswith("_model.")}
        )

    def forward(self, sound):
        chunks = nn.functional.pad(sound, (CONTEXT, 0)).unfold(-1, CHUNK + CONTEXT, CHUNK)
        state, heard = None, []
        for chunk in chunks.unbind(1):
            x = self.spectrum(nn.functional.pad(chunk.unsqueeze(1), (0, 64), mode="reflect"))
            x = x.unflatten(1, (2, FREQUENCIES)).square().sum(dim=1).sqrt()
            for convolution in self.encoder:
                x = convolution(x).relu()
            state = self.memory(x.squeeze(-1), state)
            heard.append(self.verdict(state[0].unsqueeze(-1).relu()).sigmoid().flatten())
        return torch.stack(heard, dim=-1)


def renamed(name):
    return (
        name.removeprefix("_model.")
        .replace("stft.forward_basis_buffer", "spectrum.weight")
        .replace(".reparam_conv", "")
        .replace("decoder.rnn", "memory")
        .replace("decoder.decoder.2", "verdict")
    )


@pytest.fixture(scope="module")
def detector(weights):
    return Detector(torch.jit.load(weights / "silero_vad.jit").state_dict()).eval()


@pytest.fixture(scope="module")
def sound():
    """A rising tone with overtones that comes and goes, over a little noise: 40 chunks."""
    rng = torch.Generator().manual_seed(0)
    time = torch.arange(40 * CHUNK) / RATE
    tone = sum(torch.sin(2 * torch.pi * k * (120 * time + 40 * time**2)) / k for k in range(1, 12))
    loudness = (torch.sin(2 * torch.pi * 1.5 * time) > 0).float()
    return (0.1 * loudness * tone + 0.01 * torch.randn(len(time), generator=rng)).unsqueeze(0)


def test_the_plain_modules_say_what_the_shipped_ones_say(detector, sound, weights):
    shipped = torch.jit.load(weights / "silero_vad.jit")
    with torch.no_grad():
        expected = [shipped(chunk, RATE) for chunk in sound.split(CHUNK, dim=-1)]
        heard = detector(sound)
    assert heard.max() - heard.min() > 0.05
    torch.testing.assert_close(heard, torch.cat(expected, dim=-1), rtol=0, atol=2e-6)


def test_the_shipped_one_is_refused_with_a_cure(sound, weights):
    shipped = torch.jit.load(weights / "silero_vad.jit")
    with pytest.raises(NothingCapturedError, match="TorchScript"):
        dsf.inspect(shipped, sound[:, :CHUNK], RATE)


def test_the_cell_is_one_layer_of_forty_tokens(detector, sound):
    layer = dsf.inspect(detector, sound)["memory"]  # the first convolution mixes frames of a chunk
    assert (layer.name, layer.family, layer.system.steps) == ("memory", "lstm", 40)
    assert layer.error < 1e-5
    layer = dsf.inspect(detector, sound, exact=True)["memory"]
    assert layer.error < 1e-13
    decay = layer.system.A.decay
    assert 0.4 < decay.mean() < 0.95
