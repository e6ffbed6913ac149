"""Attention outside the model library: torch's layers, vision transformers, TorchScript."""

import itertools

import pytest
import torch
from torch import nn

import dsf
from dsf.systems.composite import ExplicitMap

EXACT, SINGLE, WIDTH, HEADS, TOKENS, READ = 1e-12, 3e-6, 12, 3, 7, 5


def with_drawn_weights(module):
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in module.parameters():
            part.copy_(torch.randn(part.shape, generator=rng) / max(part.shape[-1], 4) ** 0.5)
    return module.eval()


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


class VisionAttention(nn.Module):
    """As vision packages write it: one projection, norms of queries and keys, a switch."""

    def __init__(self, *, fused, normalised=True):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        width = WIDTH // HEADS
        self.q_norm = nn.LayerNorm(width) if normalised else nn.Identity()
        self.k_norm = nn.LayerNorm(width) if normalised else nn.Identity()
        self.attn_drop, self.fused_attn, self.scale = nn.Dropout(0.5), fused, width**-0.5

    def weights(self, x):
        query, key, _ = self.heads(x)
        return (query @ key.transpose(-2, -1) * self.scale).softmax(dim=-1)

    def heads(self, x):
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        return self.q_norm(query), self.k_norm(key), value

    def forward(self, x):
        query, key, value = self.heads(x)
        if self.fused_attn:
            mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        else:
            scores = (query * self.scale) @ key.transpose(-2, -1)
            mixed = self.attn_drop(scores.softmax(dim=-1)) @ value
        return self.proj(mixed.transpose(1, 2).reshape(x.shape))


@pytest.mark.parametrize("normalised", [True, False])
def test_a_vision_transformer_has_the_same_maps_either_way(normalised):
    x = draw(2, TOKENS, WIDTH).double()
    maps = []
    for fused in (True, False):
        attention = (
            with_drawn_weights(VisionAttention(fused=fused, normalised=normalised)).double().train()
        )
        (layer,) = dsf.inspect(attention, x)
        assert layer.error < EXACT
        assert layer.mixer.bias is None
        torch.testing.assert_close(layer.map(), attention.weights(x).detach())
        torch.testing.assert_close(layer.whole(x), attention.eval()(x).detach())
        maps.append(layer.map())
    torch.testing.assert_close(*maps)
    assert maps[0].diagonal(dim1=-2, dim2=-1).mean() < 0.5


@pytest.mark.parametrize("norm_first", [True, False], ids=["norm first", "norm last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_torchs_encoder_and_decoder(norm_first, dtype):
    """Every mask that the layers take, on samples that end early."""
    options = {"batch_first": True, "norm_first": norm_first}
    sizes = (WIDTH, HEADS, 2 * WIDTH)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(*sizes, **options), 2)
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(*sizes, **options), 2)
    ends = torch.zeros(2, READ, dtype=torch.bool)
    ends[1, 3:] = True
    ahead = nn.Transformer.generate_square_subsequent_mask(TOKENS, dtype=dtype)
    read, written = draw(2, READ, WIDTH).to(dtype), draw(2, TOKENS, WIDTH).to(dtype)
    limit = EXACT if dtype is torch.float64 else SINGLE

    encoded = dsf.inspect(with_drawn_weights(encoder).to(dtype), read, src_key_padding_mask=ends)
    memory = encoder(read, src_key_padding_mask=ends).detach()
    given = {"tgt_mask": ahead, "memory_key_padding_mask": ends}
    decoded = dsf.inspect(with_drawn_weights(decoder).to(dtype), written, read, **given)
    assert memory.isfinite().all()
    for layer in (*encoded, *decoded):
        assert layer.error < limit
        assert layer.map().dtype == torch.float64
        if layer.map().shape[-1] == READ:
            assert (layer.map()[1, ..., 3:] == 0).all()
    names = [layer.name.split(".", 1)[1] for layer in decoded]
    kinds = ["self_attn", "multihead_attn"]
    assert names == [f"{k}.{kind}" for k, kind in itertools.product(range(2), kinds)]
    systems = [isinstance(layer.system, dsf.System) for layer in decoded]
    assert systems == [True, False] * 2
    assert all(isinstance(layer.system, ExplicitMap) for layer in encoded)


class Detector(nn.Module):
    """A front end and a cell that is called frame by frame, as voice detectors are shipped."""

    def __init__(self):
        super().__init__()
        self.front, self.cell = nn.Conv1d(1, 6, 4, stride=4), nn.LSTMCell(6, 5)
        self.back = nn.Linear(5, 1)

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        frames = torch.relu(self.front(sound.unsqueeze(1)))
        state = torch.zeros(len(sound), 5, dtype=sound.dtype)
        cell, found = state, []
        for frame in frames.unbind(-1):
            state, cell = self.cell(frame, (state, cell))
            found.append(torch.sigmoid(self.back(state)))
        return torch.cat(found, dim=-1)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_torchscript_is_read_through_its_state_dict(tmp_path):
    """What the refusal advises: the plain module, filled with the weights of the scripted one."""
    torch.jit.script(with_drawn_weights(Detector())).save(tmp_path / "detector.jit")
    scripted = torch.jit.load(tmp_path / "detector.jit")
    plain, sound = Detector(), draw(2, 40)
    plain.load_state_dict(scripted.state_dict())
    torch.testing.assert_close(plain(sound), scripted(sound))
    (layer,) = dsf.inspect(plain, sound)
    assert layer.name == "cell"
    assert layer.map().shape == (2, 5, 10, 10)
    assert layer.error < SINGLE

    alone = nn.LSTM(6, 5, batch_first=True)
    names = {f"{name}_l0": part for name, part in scripted.cell.state_dict().items()}
    alone.load_state_dict(names)
    frames = torch.relu(plain.front(sound.unsqueeze(1))).mT.detach()
    (same,) = dsf.inspect(alone, frames)
    torch.testing.assert_close(same.map(), layer.map(), rtol=1e-5, atol=1e-6)
