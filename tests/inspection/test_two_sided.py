"""Encoders, decoders and what they read of one another; several documents in one sequence."""

import itertools

import pytest
import torch
from transformers import (
    BartConfig,
    BartModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    WhisperConfig,
    WhisperModel,
)

import dsf
from dsf.systems.composite import ExplicitMap
from tests.inspection.test_own_softmax import library_maps
from tests.inspection.test_softmax_families import off_diagonal

EXACT, SINGLE, TOKENS, WRITTEN, PADDED = 1e-12, 3e-6, 11, 7, 3
SIDES = {"d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 61}
SIDES |= {"encoder_attention_heads": 3, "decoder_attention_heads": 4, "decoder_start_token_id": 2}
SIDES |= {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "pad_token_id": 1}
SOUND = {"num_mel_bins": 5, "max_source_positions": TOKENS, "max_target_positions": 30}
SOUND |= {"eos_token_id": 3, "bos_token_id": 3, "begin_suppress_tokens": None}
SEVERAL = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
SEVERAL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}


def with_drawn_weights(model):
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for path, part in model.named_parameters():
            drawn = torch.randn(part.shape, generator=rng)
            spread = 1.5 * drawn / part.shape[-1] ** 0.5 if part.ndim > 1 else 0.3 * drawn
            part.copy_(spread + (part.ndim == 1 and "norm" in path))
    return model.eval()


def bart():
    """With padding on the encoder's side, which the decoder must not read either."""
    ids = torch.randint(4, 61, (2, TOKENS), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[-1, -PADDED:] = 0
    given = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": ids[:, :WRITTEN]}
    return with_drawn_weights(BartModel(BartConfig(**SIDES))), given


def whisper():
    sound = torch.randn(2, 5, 2 * TOKENS, generator=torch.Generator().manual_seed(1))
    ids = torch.randint(4, 61, (2, WRITTEN), generator=torch.Generator().manual_seed(2))
    given = {"input_features": sound, "decoder_input_ids": ids}
    return with_drawn_weights(WhisperModel(WhisperConfig(**{**SIDES, **SOUND}))), given


def in_order(maps):
    """Encoder first, then the decoder's own and its reading in turn."""
    own, crossing = maps[2:4], maps[4:6]
    return [*maps[:2], *itertools.chain(*zip(own, crossing, strict=True))]


@pytest.mark.parametrize("build", [bart, whisper])
def test_both_sides_and_what_one_reads_of_the_other(build):
    model, given = build()
    model.set_attn_implementation("eager")
    inspection = dsf.inspect(model, exact=True, **given)
    wide = {
        name: part.double() if part.is_floating_point() else part for name, part in given.items()
    }
    expected = in_order(library_maps(model, wide))
    shapes = [tuple(layer.map().shape[1:]) for layer in inspection]
    own, crossing = (4, WRITTEN, WRITTEN), (4, WRITTEN, TOKENS)
    assert shapes == [(3, TOKENS, TOKENS)] * 2 + [own, crossing] * 2
    assert inspection.unsupported == ()
    for layer, maps in zip(inspection, expected, strict=True):
        assert layer.error <= EXACT
        assert off_diagonal(maps) > 0.3
        torch.testing.assert_close(layer.map(), maps, rtol=0, atol=EXACT)
        causal = layer.name.startswith("decoder") and layer.name.endswith("self_attn")
        assert isinstance(layer.system, dsf.System if causal else ExplicitMap)
        whole = layer.whole
        assert (
            whole(whole.given) - whole.contributions().sum(dim=2) - whole.remainder
        ).abs().max() < 1e-11


def test_padding_of_the_encoder_is_hidden_from_the_decoder():
    model, given = bart()
    for layer in dsf.inspect(model, **given):
        assert layer.error <= SINGLE
        reads_the_encoder = layer.map().shape[-1] == TOKENS
        if reads_the_encoder:
            assert (layer.map()[-1, ..., -PADDED:] == 0).all()
            assert (layer.map()[0, ..., -PADDED:] > 0).all()


DOCUMENTS = [4, 6]
WINDOW = 3


def packed(kind):
    """Two documents of four and six tokens in one sequence, told apart in one of two ways."""
    ids = torch.randint(1, 61, (1, sum(DOCUMENTS)), generator=torch.Generator().manual_seed(1))
    places = torch.cat([torch.arange(length) for length in DOCUMENTS])
    given = {"input_ids": ids, "position_ids": places.unsqueeze(0)}
    if kind == "block mask":
        inside = torch.block_diag(*(torch.ones(length, length) for length in DOCUMENTS)).bool()
        hidden = torch.finfo(torch.float32).min
        given["attention_mask"] = torch.where(inside.tril(), 0.0, hidden)[None, None]
    return given


@pytest.mark.parametrize("route", ["eager", "sdpa"])
@pytest.mark.parametrize(
    ("kind", "window"), [("positions", None), ("positions", WINDOW), ("block mask", None)]
)
def test_packed_documents_do_not_see_one_another(kind, route, window):
    if window is None:
        model = with_drawn_weights(LlamaForCausalLM(LlamaConfig(**SEVERAL)))
    else:
        model = with_drawn_weights(
            MistralForCausalLM(MistralConfig(**SEVERAL, sliding_window=window))
        )
    model.set_attn_implementation(route)
    given = packed(kind)
    split = DOCUMENTS[0]
    alone = {name: part[:, split:] for name, part in packed("positions").items()}
    both, second = (dsf.inspect(model, exact=True, **each) for each in (given, alone))
    for layer, expected in zip(both, second, strict=True):
        assert layer.error <= EXACT
        assert (layer.map()[..., split:, :split] == 0).all()
        assert (layer.map().triu(1) == 0).all()
        torch.testing.assert_close(layer.map()[..., split:, split:], expected.map())
