"""torch.nn.MultiheadAttention on its own and inside torch's transformer layers."""

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection import ReconstructionError
from dsf.systems.composite import ExplicitMap

SAMPLES, WRITTEN, READ, WIDTH, HEADS = 3, 5, 6, 8, 2
EXACT = 1e-13
OPTIONS = {
    "plain": {},
    "no bias": {"bias": False},
    "one key more": {"add_bias_kv": True},
    "a zero key more": {"add_zero_attn": True},
    "two keys more": {"add_bias_kv": True, "add_zero_attn": True},
    "widths of their own": {"kdim": 6, "vdim": 5},
}


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


def with_drawn_weights(module):
    with torch.no_grad():
        for part in module.parameters():
            part.copy_(0.6 * torch.randn_like(part))
    return module.double()


def masks():
    padding = torch.zeros(SAMPLES, READ, dtype=torch.bool)
    padding[1, :2] = True
    each = torch.rand(SAMPLES * HEADS, WRITTEN, READ) > 0.7
    each[..., -1] = False
    return {
        "none": {},
        "padding": {"key_padding_mask": padding},
        "added": {"attn_mask": torch.randn(WRITTEN, READ, dtype=torch.float64)},
        "hidden": {"attn_mask": torch.rand(WRITTEN, READ).round().bool() & (torch.arange(6) < 5)},
        "each and padding": {"attn_mask": each, "key_padding_mask": padding},
    }


@pytest.mark.sampled("options", count=2)
@pytest.mark.parametrize("batch_first", [False, True], ids=["time first, weights", "batch first"])
@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("options", OPTIONS)
def test_maps_are_the_weights_of_torch(options, mask, batch_first):
    options, mask = OPTIONS[options], masks()[mask]
    module = with_drawn_weights(
        nn.MultiheadAttention(WIDTH, HEADS, dropout=0.3, batch_first=batch_first, **options)
    )
    given = [
        torch.randn(SAMPLES, length, width, dtype=torch.float64)
        for length, width in (
            (WRITTEN, WIDTH),
            (READ, options.get("kdim", WIDTH)),
            (READ, options.get("vdim", WIDTH)),
        )
    ]
    given = given if batch_first else [part.transpose(0, 1) for part in given]
    (layer,) = dsf.inspect(module, *given, need_weights=not batch_first, **mask)
    assert layer.error < EXACT
    _, weights = module.eval()(*given, average_attn_weights=False, **mask)
    torch.testing.assert_close(layer.map(), weights.detach())
    more = sum(name.startswith("add_") for name in options)
    assert layer.map().shape == (SAMPLES, HEADS, WRITTEN, READ + more)


def test_without_a_batch():
    module = with_drawn_weights(nn.MultiheadAttention(WIDTH, HEADS))
    x = torch.randn(READ, WIDTH, dtype=torch.float64)
    hidden = torch.arange(READ) == 2
    (layer,) = dsf.inspect(module, x, x, x, key_padding_mask=hidden)
    assert layer.error < EXACT
    assert (layer.map()[..., 2] == 0).all()


def test_a_causal_mask_makes_a_system():
    module = with_drawn_weights(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True))
    x = torch.randn(1, READ, WIDTH, dtype=torch.float64)
    ahead = torch.ones(READ, READ, dtype=torch.bool).triu(1)
    for options in ({}, {"is_causal": True}, {"is_causal": True, "need_weights": False}):
        (layer,) = dsf.inspect(module, x, x, x, attn_mask=ahead, **options)
        assert isinstance(layer.system, dsf.System)
        assert layer.mixer.bias is None
        assert layer.error < EXACT
    (layer,) = dsf.inspect(module, x, x, x)
    assert isinstance(layer.system, ExplicitMap)


def test_inside_the_layers_of_torch_whose_fused_path_skips_it():
    """Alone, the encoder runs one fused kernel a layer and packs padded samples."""
    blocks = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True)
    model = with_drawn_weights(nn.TransformerEncoder(blocks, num_layers=3)).eval()
    x = torch.randn(SAMPLES, READ, WIDTH, dtype=torch.float64)
    padding = torch.zeros(SAMPLES, READ, dtype=torch.bool)
    padding[0, 4:] = True
    inspection = dsf.inspect(model, x, src_key_padding_mask=padding)
    assert [layer.name for layer in inspection] == [f"layers.{k}.self_attn" for k in range(3)]
    assert all(layer.error < EXACT for layer in inspection)
    assert all((layer.map()[0, ..., 4:] == 0).all() for layer in inspection)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_encoder_decoder_and_cross_attention():
    model = with_drawn_weights(nn.Transformer(WIDTH, HEADS, 1, 1, 16))
    inspection = dsf.inspect(
        model,
        torch.randn(READ, SAMPLES, WIDTH, dtype=torch.float64),
        torch.randn(WRITTEN, SAMPLES, WIDTH, dtype=torch.float64),
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(WRITTEN, dtype=torch.float64),
    )
    own, decoder, cross = inspection
    assert own.map().shape[-2:] == (READ, READ)
    assert isinstance(decoder.system, dsf.System)
    assert cross.map().shape[-2:] == (WRITTEN, READ)
    assert all(layer.error < EXACT for layer in inspection)


def test_a_query_that_sees_no_key():
    module = with_drawn_weights(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True))
    x = torch.randn(1, READ, WIDTH, dtype=torch.float64)
    everything = torch.ones(1, READ, dtype=torch.bool)
    with pytest.raises(ReconstructionError, match="masked"):
        dsf.inspect(module, x, x, x, key_padding_mask=everything, need_weights=True)
