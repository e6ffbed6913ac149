"""Modules that draw random numbers in evaluation mode: the map is that of this run."""

import warnings

import pytest
import torch

import dsf
from dsf.inspection.errors import RoundingWarning

X = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(1))


SEEN = []  # no attribute of the module, which is as it was afterwards


class Noisy(torch.nn.Module):
    """Attention whose queries get noise through a learned gate, or whose weights are dropped."""

    def __init__(self, gate=0.0, dropped=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.q, self.v = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
        self.gate, self.dropped = torch.nn.Parameter(torch.tensor(gate)), dropped

    spoiled = 1.0

    def forward(self, x):
        query = self.q(x) + self.gate * torch.randn_like(x)
        query = query * (self.spoiled if x.dtype is torch.float32 else 1.0)
        weights = torch.nn.functional.dropout((query @ x.mT).softmax(-1), self.dropped)
        SEEN.append(weights.detach())
        return weights @ self.v(x)


@pytest.mark.parametrize("settings", [{"gate": 0.3}, {"dropped": 0.5}], ids=str)
def test_the_map_is_that_of_the_numbers_that_the_run_drew(settings):
    model = Noisy(**settings).eval()
    SEEN.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RoundingWarning)
        (layer,) = dsf.inspect(model, X, checks="none")
    assert "its module draws random numbers" in layer.compared_with
    torch.testing.assert_close(layer.map()[0, 0].float(), SEEN[0][0], rtol=1e-5, atol=1e-6)
    assert layer.error < 1e-5


def test_numbers_that_are_drawn_and_change_nothing_cost_no_sharpness():
    (layer,) = dsf.inspect(Noisy().eval(), X)
    assert layer.compared_with == "its module in float64"
    assert layer.formula < 1e-12


def test_what_is_wrong_for_another_reason_is_still_a_warning():
    model = Noisy().eval()
    model.spoiled = 1.1
    with pytest.warns(RoundingWarning, match="float32") as told:
        dsf.inspect(model, X, checks="none")
    assert len(told) == 1


def test_keys_that_longt5_hides_from_whole_windows_are_no_rounding():
    """Queries beyond the sequence see no key: what they put out is cut off and differs freely."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LongT5Config(
        vocab_size=13,
        d_model=16,
        d_kv=8,
        d_ff=16,
        num_layers=2,
        num_heads=2,
        encoder_attention_type="local",
        local_radius=3,
    )
    model = transformers.LongT5EncoderModel(config).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RoundingWarning)
        inspection = dsf.inspect(model, input_ids=torch.arange(26).reshape(2, 13) % 13)
    assert len(inspection) == 2
    assert max(layer.rounding for layer in inspection) < 1e-5
    assert max(layer.formula for layer in inspection) < 1e-12
    attention = model.encoder.block[0].layer[0].LocalSelfAttention
    attention.register_forward_hook(
        lambda _m, _i, out: (out[0] * (1.01 if out[0].dtype is torch.float32 else 1), *out[1:])
    )
    with pytest.warns(RoundingWarning, match="float32"):
        dsf.inspect(model, input_ids=torch.arange(26).reshape(2, 13) % 13)
