"""Weights that modules make of others are read as the module makes them, in float64."""

import warnings

import pytest
import torch
from torch.nn.utils import parametrizations

import dsf

transformers = pytest.importorskip("transformers")
IDS = {"input_ids": torch.arange(1, 15)[None] % 13}


def old_weight_norm(module, name="weight"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.nn.utils.weight_norm(module, name)


def old_spectral_norm(module, name="weight"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.nn.utils.spectral_norm(module, name)


NORMS = [
    parametrizations.weight_norm,
    parametrizations.spectral_norm,
    old_weight_norm,
    old_spectral_norm,
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: norm.__name__)
def test_projections_of_an_attention_may_be_made(norm, dtype):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=13,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model = transformers.LlamaModel(config)
    for part in (model.layers[0].self_attn.v_proj, model.layers[0].self_attn.o_proj):
        norm(part)
    model = model.eval()
    with torch.no_grad():  # such a norm computes in single precision
        model(**IDS)
    model = model.to(dtype) if "spectral" not in norm.__name__ else model
    (layer,) = dsf.inspect(model, **IDS)
    assert layer.formula < 1e-12
    whole = layer.whole
    torch.testing.assert_close(whole(whole.given), whole.output)


@pytest.mark.parametrize("kind", [torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN])
@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: norm.__name__)
def test_weights_of_a_recurrent_module_may_be_made(norm, kind):
    """Its layers and directions run with these weights, in float64 and not as they were left."""
    torch.manual_seed(0)
    module = kind(4, 5, num_layers=2, bidirectional=True, batch_first=True)
    norm(module, "weight_hh_l1_reverse")
    norm(module, "weight_ih_l0")
    x = torch.randn(2, 7, 4)
    with torch.no_grad():
        module(x)
    inspection = dsf.inspect(module.eval(), x)
    assert len(inspection) == 4
    assert not inspection.unsupported
    assert max(layer.formula for layer in inspection) < 1e-12
    assert max(layer.rounding for layer in inspection) < 1e-5


def test_weights_of_a_cell_may_be_made():
    class Stepwise(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = torch.nn.GRUCell(4, 5)
            old_weight_norm(self.cell, "weight_hh")

        def forward(self, x):
            state, outputs = torch.zeros(len(x), 5), []
            for token in x.unbind(1):
                state = self.cell(token, state)
                outputs.append(state)
            return torch.stack(outputs, 1)

    torch.manual_seed(0)
    (layer,) = dsf.inspect(Stepwise().eval(), torch.randn(2, 7, 4))
    assert layer.formula < 1e-12
