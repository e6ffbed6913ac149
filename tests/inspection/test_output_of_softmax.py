"""The error of softmax attention is that of its module's output, in every route to its maps."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection import ReconstructionError, examine
from dsf.inspection.capture.calls import Through
from dsf.inspection.whole.stages import Chain, Project, Scale

WIDTH, HEADS, TOKENS = 8, 2, 7


class Own(nn.Module):
    """Attention of two heads, by torch's fused function or by hand."""

    def __init__(self, is_fused):
        super().__init__()
        self.is_fused = is_fused
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x):
        parts = (self.q, self.k, self.v)
        q, k, v = (part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        if self.is_fused:
            y = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        return self.o(y.transpose(1, 2).flatten(2))


def fused():
    return Own(is_fused=True), torch.randn(2, TOKENS, WIDTH)


def followed():
    return Own(is_fused=False), torch.randn(2, TOKENS, WIDTH)


def interface():
    from transformers import LlamaConfig, LlamaModel

    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = LlamaConfig(vocab_size=11, hidden_size=WIDTH, **sizes)
    return LlamaModel(config), torch.arange(TOKENS)[None]


ROUTES = {
    "interface": (Through.INTERFACE, interface),
    "fused": (Through.FUSED, fused),
    "followed": (Through.FOLLOWED, followed),
}


def wrongly_left(leave):
    """The output projection with one of its numbers wrong."""

    def leave_wrongly(layer, response):
        *before, out = leave(layer, response).stages
        weight = out.weight.clone()
        weight[0, 0] += 1e-6 * weight.abs().max()
        return Chain((*before, Project(weight, out.bias)))

    return {"leave": leave_wrongly}


def scaled(leave):
    """A factor that the module does not have."""

    def scale(layer, response):
        return Chain((Scale(response.new_tensor(1 + 1e-6)), *leave(layer, response).stages))

    return {"leave": scale}


def scaled_values(enter):
    def enter_wrongly(layer):
        return Chain((*enter(layer).stages, Scale(torch.tensor(1 + 1e-6, dtype=torch.float64))))

    return {"enter": enter_wrongly}


@pytest.mark.parametrize("route", ROUTES)
def test_the_output_is_compared(route):
    torch.manual_seed(0)
    _, build = ROUTES[route]
    model, x = build()
    (layer,) = dsf.inspect(model.eval(), x)
    assert layer.formula < 1e-12
    assert layer.contributes_to == "the layer's output"


@pytest.mark.parametrize("planted", ["projection", "scale", "values"])
@pytest.mark.parametrize("route", ROUTES)
def test_what_is_planted_around_an_attention_is_refused(route, planted, monkeypatch):
    torch.manual_seed(0)
    through, build = ROUTES[route]
    model, x = build()
    adapter = examine.SOFTMAX[through]
    change = {
        "projection": lambda: wrongly_left(adapter.leave),
        "scale": lambda: scaled(adapter.leave),
        "values": lambda: scaled_values(adapter.enter),
    }[planted]()
    monkeypatch.setitem(examine.SOFTMAX, through, replace(adapter, **change))
    with pytest.raises(ReconstructionError, match="differs by"):
        dsf.inspect(model.eval(), x, strict=True)


def test_long_sequences_are_compared_at_some_tokens(monkeypatch):
    torch.manual_seed(0)
    model, x = Own(is_fused=True).eval(), torch.randn(1, 1200, WIDTH)
    (layer,) = dsf.inspect(model, x)
    assert layer.formula < 1e-12
    adapter = examine.SOFTMAX[Through.FUSED]
    changed = replace(adapter, **wrongly_left(adapter.leave))
    monkeypatch.setitem(examine.SOFTMAX, Through.FUSED, changed)
    with pytest.raises(ReconstructionError, match="differs by"):
        dsf.inspect(model, x, strict=True)
