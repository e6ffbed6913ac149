"""Quantised models: read through their modules' own dequantisation, or refused with the reason.

The oracle is the same model with torch's linear maps that hold the dequantised numbers.
"""

import copy

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection import InspectionError
from tests.inspection import softmax_models
from tests.inspection.families import tiny_models

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


class Packed(nn.Module):
    """A weight in whole numbers with one scale for every output."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scale = linear.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        whole = (linear.weight.detach() / scale).round().to(torch.int8)
        self.weight = nn.Parameter(whole, requires_grad=False)
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def written_out(self):
        return self.weight.to(self.scale.dtype) * self.scale

    def forward(self, x):
        return nn.functional.linear(x, self.written_out().to(x.dtype), self.bias)


class Dequantising(Packed):
    """It says itself what it stands for."""

    def dequantize(self):
        return self.written_out()


class Transposing(Packed):
    """Of a package that stores ``input output``."""

    def dequantize_weight(self):
        return self.written_out().mT


class Float8(Packed):
    """As the checkpoints in 8-bit floating point: one scale for every block."""

    def __init__(self, linear):
        super().__init__(linear)
        self.weight = nn.Parameter((linear.weight.detach() / 3).to(torch.float8_e4m3fn))
        self.weight.requires_grad_(False)
        self.scale = torch.tensor(3.0)


class Nameless(Packed):
    """As GPTQ: whole numbers in a buffer, and nothing that is called a weight."""

    def __init__(self, linear):
        super().__init__(linear)
        whole = self.weight.detach()
        del self.weight
        self.register_buffer("qweight", whole.to(torch.int32))

    def written_out(self):
        return self.qweight.to(self.scale.dtype) * self.scale


class Lying(Packed):
    """What it says is not what it computes, which it still shows."""

    def dequantize(self):
        return 1.2 * self.written_out()


class Bent(Lying):
    """It is not linear at all."""

    def forward(self, x):
        return super().forward(x).tanh()


class Broken(Packed):
    def forward(self, x):
        if x.ndim == 2:
            raise NotImplementedError("needs three axes")
        return super().forward(x)


def exchanged(name, make):
    """A tiny model with some linear maps packed, and one with the numbers they stand for."""
    source = softmax_models if name in softmax_models.BUILT else tiny_models
    packed = source.build(name)
    plain = copy.deepcopy(packed)
    for path, linear in list(packed.named_modules()):
        parent, _, own = path.rpartition(".")
        if isinstance(linear, nn.Linear) and (own in PROJECTIONS or own in ("in_proj", "out_proj")):
            made = make(linear)
            setattr(packed.get_submodule(parent), own, made)
            weight = nn.Parameter(made.written_out().float(), requires_grad=False)
            plain.get_submodule(path).weight = weight
    return packed, plain, source.inputs(name) if source is softmax_models else source.inputs(12)


READ = [Packed, Dequantising, Transposing, Float8, Nameless, Lying]


@pytest.mark.parametrize("make", READ, ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", ["llama", "mamba2", "qwen3_next"])
def test_packed_weights_are_read(name, make):
    packed, plain, named = exchanged(name, make)
    ours, expected = dsf.inspect(packed, **named), dsf.inspect(plain, **named)
    assert [layer.name for layer in ours] == [layer.name for layer in expected]
    for layer, other in zip(ours, expected, strict=True):
        assert layer.formula <= 1e-12
        assert layer.rounding < 1e-5
        assert make.__name__ in layer.compared_with
        assert "written out" in layer.compared_with
        torch.testing.assert_close(layer.map(), other.map(), rtol=1e-4, atol=1e-5)
    whole = expected[0].mixer_map()
    torch.testing.assert_close(ours[0].mixer_map(), whole, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("make", "reason"), [(Bent, "off by"), (Broken, "needs three axes")])
@pytest.mark.parametrize("name", ["llama", "mamba2"])
def test_what_cannot_be_read_is_refused_with_the_reason(name, make, reason):
    packed, _, named = exchanged(name, make)
    with pytest.raises(InspectionError) as told:
        dsf.inspect(packed, **named)
    words = str(told.value)
    assert reason in words
    assert f"{__name__}.{make.__name__}" in words
    assert "_proj: its weights are packed" in words
    assert "Dequantise the model" in words


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_torch_s_own_quantised_linear_map():
    model = softmax_models.build("llama")
    found = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    named = softmax_models.inputs("llama")
    with pytest.warns(dsf.inspection.RoundingWarning, match="quantised"):
        inspection = dsf.inspect(found, **named)  # its activations are quantised as well
    assert len(inspection) == 2
    for layer in inspection:
        assert layer.formula <= 1e-12
        assert 1e-4 < layer.rounding < 0.1


@pytest.mark.parametrize("make", [Dequantising, Nameless])
def test_exact_runs_and_stacks(make):
    packed, _, named = exchanged("llama", make)
    assert max(layer.error for layer in dsf.inspect(packed, **named, exact=True)) < 1e-12
    assert "exact" in repr(dsf.stack(packed, **named))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_packed_model_of_half_precision(dtype):
    packed, _, named = exchanged("llama", Dequantising)
    for layer in dsf.inspect(packed.to(dtype), **named):
        assert layer.formula <= 1e-12
        assert 0 < layer.rounding < 0.1
