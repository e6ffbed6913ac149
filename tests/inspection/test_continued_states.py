"""Recurrent layers that continue a cache start from the state that it holds of earlier tokens."""

import copy

import pytest
import torch

import dsf
from dsf.inspection import ReconstructionError
from tests.inspection.families.tiny_models import CONTINUES_CACHES

transformers = pytest.importorskip("transformers")
pytestmark = CONTINUES_CACHES
IDS = torch.arange(2, 26).reshape(2, 12) % 13
SMALL = {"vocab_size": 13, "hidden_size": 16, "num_hidden_layers": 2, "pad_token_id": 0}
WITH_ATTENTION = SMALL | {
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4}
LINEAR = {
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
HYBRIDS = {
    "Bamba": MAMBA2 | {"attn_layer_indices": [1]},
    "FalconH1": MAMBA2 | {"mamba_d_ssm": 32},
    "Lfm2": {"layer_types": ["conv", "full_attention"]},
    "OlmoHybrid": LINEAR,
    "KimiLinear": LINEAR
    | {
        "linear_num_heads": 2,
        "linear_head_dim": 8,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 8,
    },
    "Qwen3Next": LINEAR
    | {"head_dim": 8, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8},
    "MiniMax": {
        "head_dim": 8,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "layer_types": ["linear_attention", "full_attention"],
    },
}
MODELS = {
    "Mamba2": SMALL | {"num_heads": 4, "head_dim": 8, "state_size": 4, "n_groups": 1},
    "Mamba": SMALL | {"state_size": 4},
    "Rwkv": SMALL,
    "xLSTM": SMALL | {"hidden_size": 128, "num_heads": 2},
    **{name: WITH_ATTENTION | settings for name, settings in HYBRIDS.items()},
}
KEYS = {"Mamba": "cache_params", "Mamba2": "cache_params", "xLSTM": "cache_params", "Rwkv": "state"}
CONTINUED = [(name, 5) for name in MODELS if name != "Mamba"] + [("Mamba2", 11), ("Mamba", 11)]


def built(name):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**MODELS[name])
    model = getattr(transformers, f"{name}Model")(config).eval()
    with torch.no_grad():
        for part in model.parameters():
            part.copy_(torch.randn_like(part) / part.shape[-1] ** 0.5 if part.ndim > 1 else part)
    return model


def cache_after(model, name, tokens):
    key = KEYS.get(name, "past_key_values")
    with torch.no_grad():
        return {key: getattr(model(input_ids=IDS[:, :tokens], use_cache=True), key)}


@pytest.mark.parametrize(("name", "tokens"), CONTINUED)
def test_a_layer_that_continues_is_the_end_of_the_layer_on_all_tokens(name, tokens):
    """The state that the cache holds makes the response; the map is the last block of the map."""
    model = built(name)
    cache = cache_after(model, name, tokens)
    kept = copy.deepcopy(cache)
    continued = dsf.inspect(model, input_ids=IDS[:, tokens:], **cache)
    whole = dsf.inspect(model, input_ids=IDS)
    recurrent = [layer for layer in continued if getattr(layer.system, "initial", None) is not None]
    assert recurrent
    for layer in recurrent:
        full = whole[layer.name]
        assert layer.formula < 1e-12
        wide = full.map()[..., tokens:, tokens:]
        torch.testing.assert_close(layer.map(), wide, rtol=0, atol=1e-4 * wide.abs().max().item())
        ours = dsf.respond(layer.system, layer.signal)
        expected = dsf.respond(full.system, full.signal)[..., tokens:, :, :]
        loose = 1e-4 * expected.abs().max().item()  # the model and its states, in single precision
        torch.testing.assert_close(ours, expected, rtol=0, atol=loose)
        from_rest = dsf.respond(dsf.systems.composite.at_rest(layer.system), layer.signal)
        assert (from_rest - expected).abs().max() > 5 * loose
    for now, before in zip(_tensors(cache), _tensors(kept), strict=True):
        torch.testing.assert_close(now, before, rtol=0, atol=0)


# The library's RWKV mixes the samples where it goes on with a single token.
HALF = [(name, tokens) for name in ("KimiLinear", "xLSTM", "Mamba2") for tokens in (1, 5, 11)]


@pytest.mark.parametrize(("name", "tokens"), [*HALF, ("Rwkv", 5)])
def test_a_layer_in_half_precision_goes_on_from_its_state_too(name, tokens):
    """The state as the run left it, in its number type, and the formula as sharp as ever."""
    model = built(name).to(torch.bfloat16)
    cache = cache_after(model, name, tokens)
    continued = dsf.inspect(model, input_ids=IDS[:, tokens:], strict=True, **cache)
    recurrent = [layer for layer in continued if getattr(layer.system, "initial", None) is not None]
    assert recurrent
    for layer in recurrent:
        assert layer.compared_with == "its module in float64"
        assert layer.formula < 1e-12
        assert 1e-5 < layer.rounding < 5e-2


@pytest.mark.parametrize("name", ["Mamba2", "Qwen3Next", "Lfm2", "Rwkv", "xLSTM"])
def test_the_whole_layer_gives_its_output_and_the_state_is_no_contribution_of_a_token(name):
    model = built(name)
    continued = dsf.inspect(model, input_ids=IDS[:, 5:], **cache_after(model, name, 5))
    layer = continued[0]
    whole = layer.whole
    torch.testing.assert_close(whole(whole.given), whole.output, rtol=1e-9, atol=1e-11)
    parts = whole.contributions().sum(dim=2) + whole.remainder
    torch.testing.assert_close(parts, whole.output, rtol=1e-9, atol=1e-11)
    assert whole.remainder.abs().max() > 1e-3 * whole.output.abs().max()
    cotangent = torch.randn_like(whole.output)
    moved = (whole.adjoint(cotangent) * whole.given).sum()
    torch.testing.assert_close(moved, (cotangent * whole.linear(whole.given)).sum())


def test_the_library_scans_several_tokens_of_mamba_from_rest_and_so_does_the_layer():
    model = built("Mamba")
    continued = dsf.inspect(model, input_ids=IDS[:, 5:], **cache_after(model, "Mamba", 5))
    assert max(layer.formula for layer in continued) < 1e-12
    assert all(layer.system.initial is None for layer in continued)


def test_a_state_in_the_module_itself_is_refused_and_stays_as_it_was():
    """RecurrentGemma keeps its states as attributes: of the run they are not those before it."""
    torch.manual_seed(0)
    config = transformers.RecurrentGemmaConfig(
        **WITH_ATTENTION | {"lru_width": 16, "num_hidden_layers": 3}, conv1d_width=3
    )
    model = transformers.RecurrentGemmaModel(config).eval()
    model(input_ids=IDS[:, :5], use_cache=True)
    recurrence = model.layers[0].temporal_block.rg_lru
    before = recurrence.recurrent_states.clone()
    with pytest.raises(ReconstructionError, match="cache"):
        dsf.inspect(
            model,
            input_ids=IDS[:, 5:],
            position_ids=torch.arange(5, 12)[None],
            use_cache=True,
            strict=True,
        )
    torch.testing.assert_close(recurrence.recurrent_states, before, rtol=0, atol=0)


def _tensors(part):
    if isinstance(part, torch.Tensor):
        return [part]
    inside = part.values() if isinstance(part, dict) else part if isinstance(part, list) else None
    if inside is None:
        inside = vars(part).values() if hasattr(part, "layers") or hasattr(part, "dtype") else []
    return [each for one in inside for each in _tensors(one)]
