"""What a module does behind its attention in one number type alone is found by its rounding."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import multi_head_attention_forward, scaled_dot_product_attention

import dsf
from dsf.inspection import RoundingWarning

WIDTH, HEADS, TOKENS = 8, 2, 7
X = torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))


class Own(nn.Module):
    """Attention by torch's fused function, by hand with softmax, or with weights of its own."""

    def __init__(self, way, factor=1.01):
        super().__init__()
        torch.manual_seed(0)
        self.way, self.factor = way, factor
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x):
        parts = (self.q, self.k, self.v)
        q, k, v = (part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        if self.way == "fused":
            y = scaled_dot_product_attention(q, k, v)
        elif self.way == "softmax":
            y = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        else:
            weights = (q.relu() + 0.1) @ (k.relu() + 0.1).mT
            y = (weights / weights.sum(-1, keepdim=True)) @ v
        return spoiled(self.o(y.transpose(1, 2).flatten(2)), self.factor)


class Functional(nn.Module):
    def __init__(self, factor=1.01):
        super().__init__()
        torch.manual_seed(0)
        self.factor, self.a = factor, nn.MultiheadAttention(WIDTH, HEADS)

    def forward(self, x):
        weights = self.a.in_proj_weight, self.a.in_proj_bias
        out = self.a.out_proj.weight, self.a.out_proj.bias
        given = WIDTH, HEADS, *weights, None, None, False, 0.0, *out
        y, _ = multi_head_attention_forward(x, x, x, *given, need_weights=False)
        return spoiled(y, self.factor)


def spoiled(output, factor):
    return output if output.dtype is torch.float64 else output * factor


MODULES = {
    "fused": lambda factor: Own("fused", factor),
    "softmax": lambda factor: Own("softmax", factor),
    "weights of its own": lambda factor: Own("weights", factor),
    "functional": Functional,
}


# Weights of its own are an attention only in a run that is followed.
UNFOLLOWED = [(name, "none") for name in MODULES if name != "weights of its own"]


@pytest.mark.parametrize(("name", "checks"), [*((name, "all") for name in MODULES), *UNFOLLOWED])
def test_a_factor_behind_an_attention_is_a_warning(name, checks):
    with pytest.warns(RoundingWarning, match="float32"):
        (layer,) = dsf.inspect(MODULES[name](1.01).eval(), X, checks=checks)
    assert 9e-3 < layer.rounding < 1.1e-2
    assert layer.formula < 1e-12


@pytest.mark.parametrize("name", MODULES)
def test_a_sound_module_is_none(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RoundingWarning)
        (layer,) = dsf.inspect(MODULES[name](1.0).eval(), X)
    assert layer.compared_with == "its module in float64"
    assert layer.formula < 1e-12
    assert 0 < layer.rounding < 1e-6


def test_it_is_found_where_layers_are_kept_on_disk(monkeypatch):
    pytest.importorskip("transformers")
    from dsf.inspection.results.memory import Forecast

    monkeypatch.setattr(Forecast, "uses_disk", True)
    with pytest.warns(RoundingWarning, match=r"layers\.1\.self_attn"):
        inspection = dsf.inspect(llama(), input_ids=torch.arange(TOKENS)[None])
    assert inspection[0].rounding < 1e-5
    assert inspection[1].rounding > 9e-3


def test_an_audit_names_the_layer():
    pytest.importorskip("transformers")
    ledger = dsf.audit(llama(), input_ids=torch.arange(TOKENS)[None])
    assert [row.layer for row in ledger.accused] == ["layers.1.self_attn"]


def llama():
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    model = LlamaModel(LlamaConfig(vocab_size=11, hidden_size=WIDTH, **sizes)).eval()
    model.layers[1].self_attn.register_forward_hook(
        lambda _module, _given, output: (spoiled(output[0], 1.01), *output[1:])
    )
    return model


def test_random_numbers_behind_an_attention_are_no_rounding():
    class Noisy(Own):
        def forward(self, x):
            y = super().forward(x)
            return y + 0.3 * torch.randn_like(y)

    with warnings.catch_warnings():
        warnings.simplefilter("error", RoundingWarning)
        (layer,) = dsf.inspect(Noisy("fused", 1.0).eval(), X, checks="none")
    assert "its module draws random numbers" in layer.compared_with
