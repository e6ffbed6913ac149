"""Whole softmax layers: the projections around them are found by what they computed."""

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection import InspectionError
from dsf.inspection.whole.stages import Chain
from tests.inspection.softmax_models import BUILT, build, inputs

HYBRIDS = {"qwen3_next": 2, "glm5_next": 1, "bailing_hybrid": 2, "lfm3": 2}


def close(ours, theirs, *, within=1e-12):
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max() <= within * theirs.abs().max()


def check(layer):
    """The output itself is compared with the captured one when ``whole`` is made."""
    whole = layer.whole
    output = whole(whole.given)
    assert close(whole.contributions().sum(dim=2) + whole.remainder, output)
    mixed = torch.einsum("scij,sjc->sic", layer.mixer_map(), whole.enter.linear(whole.given))
    inner = len(whole.leave.before_projection().stages)
    assert close(Chain(whole.leave.stages[inner:]).linear(mixed), whole.linear(whole.given))


@pytest.mark.parametrize("name", BUILT)
def test_every_family_is_known_as_a_whole(name):
    padded = name not in ("t5", "vit")
    inspection = dsf.inspect(build(name).double(), **inputs(name, padded=padded))
    for layer in inspection:
        check(layer)


@pytest.mark.parametrize("name", HYBRIDS)
def test_gates_and_latent_values_belong_to_the_whole(name):
    from tests.inspection.families import tiny_models

    model = tiny_models.build(name).double()
    inspection = dsf.inspect(model, **tiny_models.inputs(9))
    (layer,) = (one for one in inspection if type(one.mixer).__name__ == "SoftmaxAttention")
    check(layer)
    assert len(layer.whole.leave.stages) == HYBRIDS[name]


def test_a_bias_of_the_values_is_a_remainder():
    layer = dsf.inspect(build("qwen2").double(), **inputs("qwen2"))[0]
    rest = layer.whole.remainder
    assert rest.abs().max() > 0.05 * layer.whole(layer.whole.given).abs().max()


class Block(nn.Module):
    """Attention as vision models write it: one projection, torch's fused attention, another one."""

    def __init__(self, *, twist=False):
        super().__init__()
        self.qkv, self.proj, self.twist = nn.Linear(12, 36), nn.Linear(12, 12), twist

    def forward(self, x):
        qkv = self.qkv(x).unflatten(-1, (3, 2, 6)).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        value = value.tanh() if self.twist else value
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(-2))


@pytest.fixture
def x():
    return torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_module_of_ones_own_is_known_as_a_whole(x):
    (layer,) = dsf.inspect(Block().double(), x)
    check(layer)


def test_values_that_are_no_projection_are_not_taken_for_one(x):
    (layer,) = dsf.inspect(Block(twist=True).double(), x)
    with pytest.raises(InspectionError, match="no linear maps"):
        layer.mixer_map()


class Difference(nn.Module):
    """Two written-out attentions of one module, of which neither makes its output alone."""

    def __init__(self):
        super().__init__()
        self.parts, self.out = nn.Linear(12, 60), nn.Linear(12, 12)

    def forward(self, x):
        parts = self.parts(x).unflatten(-1, (5, 2, 6)).permute(2, 0, 3, 1, 4)
        first, other = ((parts[k] @ parts[k + 1].mT).softmax(dim=-1) @ parts[4] for k in (0, 2))
        return self.out((first - 0.5 * other).transpose(1, 2).flatten(-2))


def test_one_of_two_attentions_is_not_the_whole_module(x):
    for layer in dsf.inspect(Difference().double(), x, checks="none"):
        with pytest.raises(InspectionError, match="no linear maps"):
            _ = layer.whole


@pytest.mark.parametrize("batch_first", [True, False])
def test_multihead_attention(x, batch_first):
    module = nn.MultiheadAttention(12, 3, batch_first=batch_first).double()
    nn.init.normal_(module.in_proj_bias)
    (layer,) = dsf.inspect(module, x, x, x)
    if batch_first:
        check(layer)
    else:
        with pytest.raises(InspectionError, match="batch_first=True"):
            layer.mixer_map()
