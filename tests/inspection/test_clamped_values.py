"""Projections that a module clamps in place: OLMo's and OLMoE's ``clip_qkv``."""

import pytest
import torch

import dsf

transformers = pytest.importorskip("transformers")
IDS = {"input_ids": torch.arange(1, 15)[None] % 13}
CLIP = 0.5
SIZES = {
    "vocab_size": 13,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "eos_token_id": 1,
}


def olmo(dtype=torch.float32, kind="Olmo", **settings):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES, clip_qkv=CLIP, **settings)
    model = getattr(transformers, f"{kind}Model")(config).eval().to(dtype)
    for block in model.layers:
        for part in "qkv":
            torch.nn.init.normal_(getattr(block.self_attn, f"{part}_proj").weight, std=0.3)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["Olmo", "Olmoe"])
def test_clamped_projections_are_read_with_the_numbers_of_the_run(kind, dtype):
    settings = {"num_experts": 2, "num_experts_per_tok": 1} if kind == "Olmoe" else {}
    inspection = dsf.inspect(olmo(dtype, kind, **settings), **IDS)
    assert len(inspection) == 2
    for layer in inspection:
        assert layer.formula < 1e-12
        assert not layer.is_part
        assert layer.mixer.value.abs().max() == CLIP
        whole = layer.whole
        torch.testing.assert_close(whole(whole.given), whole.output)


def test_the_clamped_layer_by_hand():
    """Clamped values times the weights that the model itself puts out, in float64."""
    model = olmo(attn_implementation="eager").double()
    taken = []
    attention = model.layers[0].self_attn
    handle = attention.register_forward_pre_hook(
        lambda *given: taken.append(given[2]["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad():
        weights = model(**IDS, output_attentions=True).attentions[0]
    handle.remove()
    layer = dsf.inspect(model, **IDS)[0]
    torch.testing.assert_close(layer.map(), weights, rtol=1e-5, atol=1e-7)  # in single precision
    values = (taken[0] @ attention.v_proj.weight.T).clamp(-CLIP, CLIP)
    mixed = torch.einsum("shtr,src->sthc", layer.map(), values).flatten(-2)
    expected = mixed @ attention.o_proj.weight.T
    whole = layer.whole
    torch.testing.assert_close(whole(taken[0]), expected, rtol=1e-4, atol=1e-7)
    parts = whole.contributions().sum(dim=2)
    torch.testing.assert_close(parts, expected, rtol=1e-4, atol=1e-7)


def test_the_blocks_of_a_clamped_model_are_followed():
    stack = dsf.stack(olmo(), **IDS)
    assert stack.error < 1e-12


def test_values_that_are_changed_in_another_way_are_not_taken_for_clamped_ones():
    """A sum over tokens that is written into the values passes tokens on outside of the map."""

    class Attention(transformers.models.olmo.modeling_olmo.OlmoAttention):
        def forward(self, *args, **kwargs):
            handle = self.v_proj.register_forward_hook(lambda *given: given[2].cumsum_(dim=1))
            try:
                return super().forward(*args, **kwargs)
            finally:
                handle.remove()

    model = olmo()
    model.layers[0].self_attn.__class__ = Attention
    inspection = dsf.inspect(model, **IDS)
    read = [layer for layer in inspection if layer.name == "layers.0.self_attn"]
    assert all(layer.is_part for layer in read)
    assert read or [part.name for part in inspection.unsupported] == ["layers.0.self_attn"]
