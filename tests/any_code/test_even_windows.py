"""Convolutions with windows of even size, which have two taps in their middle."""

import pytest
import torch
from torch import nn
from torch.nn.functional import pad

import dsf

WIDTH, TOKENS = 4, 7
X = torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))


class Convolved(nn.Module):
    """A convolution over tokens with as many outputs as tokens, added to its input."""

    def __init__(self, way, taps):
        super().__init__()
        torch.manual_seed(0)
        settings = {"groups": WIDTH, "bias": False}
        padding = {"the last cut off": taps // 2, "causal": taps - 1, "same": "same"}
        self.way, self.taps = way, taps
        self.conv = nn.Conv1d(WIDTH, WIDTH, taps, padding=padding.get(way, 0), **settings)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        y = x.mT
        if self.way == "padded before":
            y = pad(y, (self.taps // 2, self.taps // 2))
        return self.linear(x + self.conv(y)[..., :TOKENS].mT)


LEFT = {
    "the last cut off": lambda taps: taps // 2,
    "padded before": lambda taps: taps // 2,
    "causal": lambda taps: taps - 1,
    "same": lambda taps: (taps - 1) // 2,
}


@pytest.mark.sampled(count=4)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("taps", [2, 3, 4])
@pytest.mark.parametrize("way", LEFT)
def test_every_row_is_that_of_the_token_it_is_added_to(way, taps):
    model = Convolved(way, taps).eval()
    inspection = dsf.inspect(model, X)
    (layer,) = inspection
    assert not inspection.unsupported
    assert layer.name == "conv"
    kernel, left = model.conv.weight[:, 0].double(), LEFT[way](taps)
    expected = torch.zeros(WIDTH, TOKENS, TOKENS, dtype=torch.float64)
    for written in range(TOKENS):
        for tap in range(taps):
            read = written - left + tap
            if 0 <= read < TOKENS:
                expected[:, written, read] = kernel[:, tap]
    torch.testing.assert_close(layer.map()[0], expected.detach())


def test_the_positions_of_wav2vec2_are_read():
    """Its convolution over 128 frames puts out one more than there are, which is cut off."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        conv_dim=(4, 4),
        conv_stride=(4, 4),
        conv_kernel=(4, 4),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    model = transformers.Wav2Vec2Model(config).eval()
    inspection = dsf.inspect(model, torch.randn(2, 160))
    assert inspection.unsupported == ()
    norm, convolution, attention = inspection
    assert norm.name == "feature_extractor.conv_layers.0.layer_norm"  # over all frames
    assert (convolution.name, attention.family) == ("encoder.pos_conv_embed.conv", "wav2vec2")
    weight = model.encoder.pos_conv_embed.conv.weight.double()
    for written, read in ((0, 0), (3, 1), (9, 9)):
        for output, group in ((1, 0), (6, 1)):
            found = convolution.map()[0, output, 4 * group : 4 * group + 4, written, read]
            expected = weight[output, :, read - written + 2]
            torch.testing.assert_close(found, expected.detach(), rtol=1e-6, atol=1e-7)
