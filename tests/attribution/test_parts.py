"""What adds to the residual stream has the name of its module, and its direct share is its own."""

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection.capture.precision import guarded
from tests.attribution.test_attribution import tiny

pytest.importorskip("transformers")

SIZES = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "pad_token_id": 0,
}
FAMILIES = {
    # Attention and feed-forward layer side by side, added one after the other.
    "CohereForCausalLM": ({"logit_scale": 0.3}, 1.0),
    "Cohere2ForCausalLM": ({"logit_scale": 0.3}, 1.0),
    # A factor on what is added.
    "GraniteForCausalLM": ({"residual_multiplier": 0.3, "logits_scaling": 7.0}, 0.3),
    "LlamaForCausalLM": ({}, 1.0),
}


def put_out(model, **inputs):
    """What the modules of a model put out, and what its last norm was given."""
    found, handles = {}, []
    for name, module in model.named_modules():

        def keep(_, given, output, name=name):
            first = output if isinstance(output, torch.Tensor) else output[0]
            found[name] = (given, first.detach().clone() if torch.is_tensor(first) else None)

        handles.append(module.register_forward_hook(keep))
    with guarded(model), torch.no_grad():
        logits = model(**inputs).logits
    for handle in handles:
        handle.remove()
    return found, logits


@pytest.mark.parametrize("family", FAMILIES)
def test_direct_shares_are_those_of_what_the_modules_put_out(family):
    settings, factor = FAMILIES[family]
    model = tiny(family, **SIZES, **settings)
    ids = torch.arange(18).reshape(2, 9) + 1
    share = dsf.stack(model, input_ids=ids).attribute(5)
    parts = [f"model.layers.{k}.{part}" for k in (0, 1) for part in ("self_attn", "mlp")]
    assert list(share.layers) == parts
    outputs, logits = put_out(model, input_ids=ids)
    stream, (_, normed) = outputs["model.norm"][0][0][:, -1], outputs["model.norm"]
    is_centred = family.startswith("Cohere")

    def centred(x):
        return x - x.mean(dim=-1, keepdim=True) if is_centred else x

    row = model.lm_head.weight[5] * normed[:, -1] / centred(stream)
    row = row * (logits[:, -1, 5] / (normed[:, -1] @ model.lm_head.weight[5]))[:, None]
    for name, found in share.layers.items():
        added = factor * outputs[name][1][:, -1]
        torch.testing.assert_close(found, (centred(added) * row).sum(dim=-1))


class WrittenOut(nn.Module):
    """A block whose norm and feed-forward layer are no modules of their own."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.inner, self.outer = (nn.Parameter(0.3 * torch.randn(8, 8)) for _ in range(2))

    def forward(self, x):
        normed = (x - x.mean(dim=-1, keepdim=True)) / x.std(dim=-1, keepdim=True)
        mixed = self.attention(normed, normed, normed)[0]
        return x + mixed + torch.relu(normed @ self.inner) @ self.outer


def test_a_feed_forward_layer_without_a_module_is_a_part():
    torch.manual_seed(0)
    model = nn.Sequential(WrittenOut(), WrittenOut()).double()
    x = torch.randn(2, 5, 8).double()
    share = dsf.stack(model, x).attribute(torch.ones(8).double(), stream=-1)
    named = [name for name in share.layers if not name.startswith("step ")]
    assert (len(share.layers), named) == (4, ["0.attention", "1.attention"])
    direct = share.embedding + sum(share.layers.values()) + share.remainder
    torch.testing.assert_close(direct, model(x).detach()[:, -1].sum(dim=-1))
    torch.testing.assert_close(share.embedding, x[:, -1].sum(dim=-1))


class TwoPools(nn.Module):
    """A head that is given one token and, beside it, the mean over the others."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([WrittenOut() for _ in range(2)])
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(torch.cat([x[:, 0], x[:, 1:].mean(dim=1)], dim=1))


def test_pools_side_by_side_are_no_parts():
    torch.manual_seed(0)
    model, x = TwoPools().double(), torch.randn(2, 5, 8).double()
    share = dsf.stack(model, x).attribute(1)
    assert len(share.layers) == 4
    row = model.head.weight[1]
    pooled = torch.cat([x[:, 0], x[:, 1:].mean(dim=1)], dim=1)
    torch.testing.assert_close(share.embedding, pooled @ row)
