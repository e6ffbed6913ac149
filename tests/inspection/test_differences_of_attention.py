"""Attention whose maps are combined, and values that are more than projected."""

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModel

import dsf
from dsf.inspection import InspectionError
from dsf.inspection.capture.precision import CastGuard
from tests.inspection.softmax_models import GROUPED, VOCABULARY

SETTINGS = {
    "diffllama": GROUPED,
    "zaya": GROUPED
    | {"head_dim": 8, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 24},
}


def build(name):
    if name not in CONFIG_MAPPING:
        pytest.skip(f"this release of transformers has no {name}")
    model = AutoModel.from_config(CONFIG_MAPPING[name](**SETTINGS[name])).eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for path, part in model.named_parameters():
            drawn = torch.randn(part.shape, generator=rng)
            spread = 1.5 * drawn / part.shape[-1] ** 0.5 if part.ndim > 1 else 0.3 * drawn
            part.copy_(spread + (part.ndim == 1 and "norm" in path))
    ids = torch.randint(3, VOCABULARY, (2, 21), generator=rng)
    mask = torch.ones_like(ids)
    mask[-1, :4] = 0
    return model, {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_call_is_read_and_no_whole_is_claimed(name):
    """Of several attentions none makes the output; zaya gives values of the token before."""
    model, given = build(name)
    for exact, limit in ((False, 1e-6), (True, 5e-14)):
        layers = list(dsf.inspect(model, exact=exact, probe=(), **given))
        assert len(layers) == (4 if name == "diffllama" else 2)
        assert all(layer.error <= limit for layer in layers)
        assert all(layer.map().tril(-1).norm() > 0.3 * layer.map().norm() for layer in layers)
        for layer in layers:
            with pytest.raises(InspectionError, match="only the mixer"):
                _ = layer.whole


def test_differential_attention_is_a_difference_of_the_maps_of_two_heads():
    """Its output from its maps: head h less lambda times head h + H / 2, then norm, projection."""
    model, given = build("diffllama")
    layers, module = list(dsf.inspect(model, exact=True, **given))[:2], model.layers[0].self_attn
    outputs = []
    with torch.no_grad(), CastGuard():
        model.double()
        module.register_forward_hook(lambda _module, _given, output: outputs.append(output[0]))
        model(**given, use_cache=False)
        one, other = (
            (getattr(module, f"lambda_q{k}") * getattr(module, f"lambda_k{k}")).sum().exp()
            for k in (1, 2)
        )
        factor = one - other + module.lambda_init
        parts = []
        for layer in layers:  # one half of the values each
            first, second = layer.map().chunk(2, dim=1)
            shared, second_values = layer.mixer.value.chunk(2, dim=1)
            torch.testing.assert_close(shared, second_values)
            parts.append((first - factor * second) @ shared)
        mixed = module.groupnorm(torch.cat(parts, dim=-1)) * (1 - module.lambda_init)
        rebuilt = module.o_proj(mixed.transpose(1, 2).flatten(2))
    seen = given["attention_mask"].bool()
    torch.testing.assert_close(rebuilt[seen], outputs[0][seen], rtol=0, atol=1e-12)


def test_a_fourier_transform_of_tokens_is_named_and_can_be_driven():
    settings = GROUPED | {"hidden_size": 8, "intermediate_size": 8}
    settings.pop("num_key_value_heads")
    model = AutoModel.from_config(CONFIG_MAPPING["fnet"](**settings)).eval()
    ids = torch.randint(3, VOCABULARY, (1, 5), generator=torch.Generator().manual_seed(0))
    with pytest.raises(InspectionError, match="FourierTransform"):
        dsf.inspect(model, input_ids=ids, probe=(), checks="none")
    path = "encoder.layer.0.fourier.self"
    (layer,) = dsf.inspect(model, exact=True, probe=(path,), input_ids=ids)
    assert layer.error < 1e-12
    place = torch.arange(5, dtype=torch.float64)
    wave = torch.exp(-2j * torch.pi * torch.outer(place, place) / 5)
    torch.testing.assert_close(layer.map()[0, 0, 0].unflatten(-1, (-1, 1))[..., 0], wave.real)
