"""A number type or a shape that is taken from the residual stream is no dependence on it."""

import pytest
import torch
from torch import nn

import dsf

WIDTH, TOKENS = 8, 6


class Block(nn.Module):
    def __init__(self, constant):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.shift = nn.Parameter(torch.randn(WIDTH))
        self.constant = constant

    def forward(self, x):
        return x + self.attention(x, x, x)[0] + self.constant(self.shift, x)


class Blocks(nn.Module):
    def __init__(self, constant):
        super().__init__()
        self.layers = nn.ModuleList([Block(constant) for _ in range(2)])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


CONSTANTS = {
    "expand_as": lambda shift, x: shift.expand_as(x),
    "type_as": lambda shift, x: shift.type_as(x),
    "to": lambda shift, x: shift.to(x),
    "view_as": lambda shift, x: shift.expand(x.shape).contiguous().view_as(x),
    "reshape_as": lambda shift, x: shift.expand(x.shape).reshape_as(x),
    "both follow it": lambda shift, x: x.expand_as(x) * shift,
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_what_is_only_shaped_like_the_stream_is_a_constant(name):
    torch.manual_seed(0)
    model, x = Blocks(CONSTANTS[name]).eval(), torch.randn(2, TOKENS, WIDTH)
    stack = dsf.stack(model, x)
    parts = stack.contributions().sum(dim=2) + stack.remainder()
    with torch.no_grad():
        output = model.double()(x.double())
    torch.testing.assert_close(parts, output)


def test_a_bias_that_is_expanded_as_the_residual_stream():
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = transformers.GPTNeoXJapaneseForCausalLM(
        transformers.GPTNeoXJapaneseConfig(**sizes, intermediate_size=16)
    ).eval()
    ids = torch.arange(7)[None] + 3
    attribution = dsf.stack(model, input_ids=ids).attribute(4)
    assert attribution.error < 1e-10
