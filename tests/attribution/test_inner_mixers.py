"""Edges of mixers that are a part of their module: of latent vectors, or followed by a norm."""

import pytest
import torch
from torch import nn

import dsf

transformers = pytest.importorskip("transformers")
IDS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
BODY = {
    "vocab_size": 13,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 32,
}
LATENT = BODY | {
    "num_key_value_heads": 2,
    "q_lora_rank": 6,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 6,
    "v_head_dim": 5,
}
DENSE = {"first_k_dense_replace": 2, "n_routed_experts": 4, "n_group": 1, "topk_group": 1}
MODELS = {
    "DeepseekV2": LATENT | DENSE,
    "DeepseekV3": LATENT | DENSE,
    "Glm4MoeLite": LATENT | {"n_routed_experts": 4, "mlp_layer_types": ["dense", "dense"]},
    "MiniCPM3": LATENT,
    "Youtu": LATENT,
}


def drawn(model):
    """The model in float64 with numbers of ordinary size."""
    rng = torch.Generator().manual_seed(0)
    model = model.double().eval()
    with torch.no_grad():
        for name, part in model.named_parameters():
            new = torch.randn(part.shape, generator=rng, dtype=part.dtype)
            of_norm = "norm" in name.lower() and name.endswith("weight")
            part.copy_(1 + 0.3 * new if of_norm else new / part.shape[-1] ** 0.5)
    return model


def built(name, **changes):
    if not hasattr(transformers, f"{name}Config"):
        pytest.skip(f"this release has no {name}")
    config = getattr(transformers, f"{name}Config")(**MODELS[name] | changes)
    return drawn(getattr(transformers, f"{name}ForCausalLM")(config))


class Albert(nn.Module):
    """ALBERT with a head for logits that is linear."""

    def __init__(self, layers=2):
        super().__init__()
        config = transformers.AlbertConfig(
            **BODY | {"embedding_size": 5, "num_hidden_layers": layers},
            attn_implementation="eager",
        )
        self.encoder = transformers.AlbertModel(config)
        self.head = nn.Linear(16, 13, bias=False)

    def forward(self, input_ids):
        return self.head(self.encoder(input_ids).last_hidden_state)


@pytest.mark.parametrize("name", [*MODELS, "Albert"])
def test_edges_sum_to_their_layer_and_shares_to_the_logit(name):
    model = drawn(Albert()) if name == "Albert" else built(name)
    stack = dsf.stack(model, input_ids=IDS)
    share = stack.attribute(4, against=7)
    assert len(stack.mixers) == 2
    assert share.error < 1e-12
    for mixer in stack.mixers:
        edges = share.edges(mixer.name)
        assert edges.shape == (2, 2, 6, 6)
        torch.testing.assert_close(edges.sum(dim=(1, 2, 3)), share.total[mixer.name])
        assert share.total[mixer.name].abs().max() > 1e-3


def test_edges_of_latent_attention_are_those_of_a_loop():
    """map[i, j] <adjoint at i, value at j>, where only the last position has an adjoint."""
    model = built("DeepseekV3", num_hidden_layers=1, first_k_dense_replace=1)
    model.set_attn_implementation("eager")
    layer = model.model.layers[0]
    layer.mlp.down_proj.weight.data.zero_()
    given, last = {}, {}
    layer.self_attn.kv_b_proj.register_forward_hook(
        lambda _m, _i, out: given.update(values=out.reshape(2, 6, 2, 11)[..., 6:])
    )
    model.model.norm.register_forward_hook(lambda _m, i, _o: last.update(stream=i[0]))
    with torch.no_grad():
        maps = model(input_ids=IDS, output_attentions=True).attentions[0]
    edges = dsf.stack(model, input_ids=IDS).attribute(4).edges("model.layers.0.self_attn")
    out = layer.self_attn.o_proj.weight.unflatten(1, (2, 5))
    for sample in range(2):
        square = last["stream"][sample, -1].square().mean() + model.model.norm.variance_epsilon
        size = square.sqrt()
        cotangent = model.lm_head.weight[4] * model.model.norm.weight / size
        for head in range(2):
            adjoint = cotangent @ out[:, head]
            for read in range(6):
                weight = maps[sample, head, -1, read]
                wanted = weight * (adjoint @ given["values"][sample, read, head])
                # the library's own code computes its softmax and its angles in float32
                assert abs(edges[sample, head, -1, read] - wanted) < 1e-6
    assert not edges[:, :, :-1].any()


def test_edges_of_an_attention_before_a_norm_are_those_of_a_loop():
    model = drawn(Albert(layers=1))
    layer = model.encoder.encoder.albert_layer_groups[0].albert_layers[0]
    layer.ffn_output.weight.data.zero_()
    seen = {}
    layer.attention.LayerNorm.register_forward_hook(lambda _m, i, _o: seen.update(first=i[0]))
    layer.full_layer_layer_norm.register_forward_hook(lambda _m, i, _o: seen.update(second=i[0]))
    layer.attention.register_forward_hook(lambda _m, i, _o: seen.update(given=i[0]))
    with torch.no_grad():
        maps = model.encoder(IDS, output_attentions=True).attentions[0]
    stack = dsf.stack(model, input_ids=IDS)
    (mixer,) = stack.mixers
    edges = stack.attribute(4, position=2).edges(mixer.name)
    values = (seen["given"] @ layer.attention.value.weight.T).unflatten(-1, (2, 8))
    out = layer.attention.dense.weight.unflatten(1, (2, 8))
    for sample in range(2):
        cotangent = model.head.weight[4]
        norms = ((layer.full_layer_layer_norm, "second"), (layer.attention.LayerNorm, "first"))
        for norm, which in norms:
            x = seen[which][sample, 2]
            scaled = cotangent * norm.weight / (x.var(correction=0) + norm.eps) ** 0.5
            cotangent = scaled - scaled.mean()
        for head in range(2):
            for read in range(6):
                weight = maps[sample, head, 2, read]
                wanted = weight * (cotangent @ out[:, head] @ values[sample, read, head])
                assert abs(edges[sample, head, 2, read] - wanted) < 1e-12


def test_a_module_with_a_norm_before_and_behind_its_own_attention_has_edges():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.behind = nn.LayerNorm(8), nn.LayerNorm(8)
            self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

        def forward(self, x):
            q, k, v = self.qkv(self.before(x)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
            y = (q @ k.mT).softmax(-1) @ v
            return self.behind(self.out(y.transpose(1, 2).flatten(2))) + x

    model = drawn(nn.Sequential(nn.Sequential(Attention(), Attention()), nn.Linear(8, 3)))
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    stack = dsf.stack(model, x, blocks="0")
    share = stack.attribute(1)
    assert share.error < 1e-12
    assert [mixer.name for mixer in stack.mixers] == ["0.0", "0.1"]
    assert {layer.contributes_to for layer in stack.inspection} == {"the projected response"}
    for name in ("0.0", "0.1"):
        torch.testing.assert_close(share.edges(name).sum(dim=(1, 2, 3)), share.total[name])
