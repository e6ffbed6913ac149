"""Families of the library that compute softmax attention themselves, past every interface."""

import copy

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModel

import dsf
from dsf.inspection.capture.precision import CastGuard
from dsf.inspection.softmax.attention import GivenWeights
from dsf.mixers import SoftmaxAttention

SINGLE, EXACT, VOCABULARY, HEADS, WINDOW = 3e-6, 1e-12, 97, 4, 5
TEXT = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 0}
TEXT |= {"num_attention_heads": HEADS, "intermediate_size": 48, "max_position_embeddings": 160}
GPT = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": HEADS, "n_positions": 160}
BLOOM = {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": HEADS}
MPT = {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": HEADS}
FALCON = TEXT | {"ffn_hidden_size": 48}
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 16}
TWO_SIDED = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": VOCABULARY}
TWO_SIDED |= {"encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS}
TWO_SIDED |= {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "decoder_start_token_id": 2}

# The mixer that the scores allow, and what keeps them from being queries times keys and a bias.
BUILT = {
    "bloom": ("bloom", BLOOM, SoftmaxAttention),
    "mpt": ("mpt", MPT | {"expansion_ratio": 2, "max_seq_len": 160}, SoftmaxAttention),
    "falcon": ("falcon", FALCON | {"multi_query": True}, SoftmaxAttention),
    "falcon, alibi": ("falcon", FALCON | {"alibi": True, "multi_query": False}, SoftmaxAttention),
    "falcon, new decoder": (
        "falcon",
        FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2},
        SoftmaxAttention,
    ),
    "gpt_neo": (
        "gpt_neo",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "num_layers": 2, "num_heads": HEADS}
        | {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW}
        | {"max_position_embeddings": 160},
        SoftmaxAttention,
    ),
    "openai-gpt": ("openai-gpt", GPT, GivenWeights),  # scores times a mask, plus another
    "roformer": ("roformer", TEXT, SoftmaxAttention),
    "mpnet": ("mpnet", TEXT, SoftmaxAttention),
    "deberta-v2": ("deberta-v2", TEXT | RELATIVE, GivenWeights),  # gathered products are added
    "xlnet": (
        "xlnet",
        {"vocab_size": VOCABULARY, "d_model": 32, "n_layer": 2, "n_head": HEADS, "d_inner": 48},
        GivenWeights,  # the product with positions is shifted and added
    ),
    "fsmt": (
        "fsmt",
        TWO_SIDED | {"src_vocab_size": VOCABULARY, "tgt_vocab_size": VOCABULARY},
        SoftmaxAttention,
    ),
    "mvp": ("mvp", TWO_SIDED, SoftmaxAttention),
}
CAUSAL = [name for name in BUILT if name.startswith(("bloom", "mpt", "falcon", "gpt", "openai"))]


def build(name):
    """A model in evaluation mode; its parameters drawn anew, so that maps are uneven."""
    kind, settings, _ = BUILT[name]
    config = CONFIG_MAPPING[kind](**settings)
    model = AutoModel.from_config(config, attn_implementation="eager").eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for path, part in model.named_parameters():
            drawn = torch.randn(part.shape, generator=rng)
            spread = 1.5 * drawn / part.shape[-1] ** 0.5 if part.ndim > 1 else 0.3 * drawn
            part.copy_(spread + (part.ndim == 1 and ("norm" in path.lower() or ".ln_" in path)))
    return model


def inputs(name, length, *, padding="none"):
    ids = torch.randint(3, VOCABULARY, (2, length), generator=torch.Generator().manual_seed(1))
    given, mask = {"input_ids": ids}, torch.ones_like(ids)
    if padding != "none":
        mask[-1, slice(4) if padding == "left" else slice(-4, None)] = 0
        given["attention_mask"] = mask
    if BUILT[name][1] is not TEXT and name in ("fsmt", "mvp"):
        given["decoder_input_ids"] = ids[:, :7].flip(-1)
    return given


def library_maps(model, given):
    """What the library puts out as its maps, in the order of the calls."""
    takes = {"use_cache": False} if hasattr(model.config, "use_cache") else {}
    model = copy.deepcopy(model).double()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), CastGuard():
            out = model(**given, output_attentions=True, **takes)
    finally:
        torch.set_default_dtype(before)
    if "encoder_attentions" in out:
        return [*out.encoder_attentions, *out.decoder_attentions, *out.cross_attentions]
    return list(out.attentions)


@pytest.mark.sampled("name")
@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("name", BUILT)
def test_maps_are_those_of_the_library(name, padding):
    """A query that sees no key is padding: the library gives it a uniform row, we an empty one."""
    model, given = build(name), inputs(name, 21, padding=padding)
    inspection, expected = dsf.inspect(model, exact=True, **given), library_maps(model, given)
    assert inspection.unsupported == ()
    for layer, maps in zip(inspection, expected, strict=True):
        ours = layer.map()
        assert type(layer.mixer) is BUILT[name][2]
        assert layer.family == BUILT[name][0].replace("-", "_").removesuffix("_gpt")
        assert layer.error <= EXACT
        assert (maps.masked_fill(torch.eye(*maps.shape[-2:], dtype=torch.bool), 0) > 0.1).any()
        seen = (ours != 0).any(dim=-1, keepdim=True)
        assert padding == "left" or seen.all()
        torch.testing.assert_close(ours, maps * seen, rtol=0, atol=EXACT)


@pytest.mark.parametrize("name", BUILT)
def test_a_long_sequence_and_a_float32_model(name):
    given = inputs(name, 150)
    for layer in dsf.inspect(build(name), **given):
        assert layer.error <= SINGLE
        assert layer.map().dtype == torch.float64


@pytest.mark.parametrize("name", CAUSAL)
def test_as_a_whole(name):
    for layer in dsf.inspect(build(name).double(), **inputs(name, 9)):
        whole = layer.whole
        assert (
            whole.contributions().sum(dim=2) + whole.remainder - whole(whole.given)
        ).abs().max() < EXACT


@pytest.mark.parametrize("name", ["bloom", "mpt"])
def test_a_linear_bias_falls_with_distance(name):
    """ALiBi: the slope of head h of 4 is 2 ** (-2 (h + 1))."""
    slopes = 2.0 ** -torch.arange(2, 10, 2, dtype=torch.float64)
    lag = torch.arange(9)[:, None] - torch.arange(9)
    for layer in dsf.inspect(build(name), exact=True, **inputs(name, 9)):
        bias = layer.mixer.bias
        relative = bias - bias.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        expected = -slopes[:, None, None] * lag
        seen = (lag >= 0).expand_as(bias)
        assert (bias[~seen] == -torch.inf).all()
        torch.testing.assert_close(relative[seen], expected.expand_as(bias)[seen])


def test_gpt_neo_has_a_window_in_every_second_layer():
    lag = torch.arange(21)[:, None] - torch.arange(21)
    first, second = dsf.inspect(build("gpt_neo"), **inputs("gpt_neo", 21))
    assert (first.map()[..., lag >= 0] > 0).all()
    assert (second.map()[..., (lag >= WINDOW) | (lag < 0)] == 0).all()
    assert (second.map()[..., (lag >= 0) & (lag < WINDOW)] > 0).all()


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 5e-2), (torch.float16, 1e-2)])
@pytest.mark.parametrize("name", ["bloom", "gpt_neo"])
def test_half_precision(name, dtype, limit):
    for layer in dsf.inspect(build(name).to(dtype), strict=True, **inputs(name, 21)):
        assert layer.formula <= layer.tolerance == 1e-12
        assert 1e-6 < layer.rounding == layer.error < limit
