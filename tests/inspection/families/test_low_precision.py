"""Models in float16 and bfloat16: compared in float64, with the rounding of the run beside it."""

import pytest
import torch

import dsf
from tests.inspection.families.tiny_models import build, inputs

ALLOWED = {torch.float16: 1e-2, torch.bfloat16: 5e-2}
# A run that agreed better than this did not round to its number type.
ROUNDED = {torch.float16: 1e-5, torch.bfloat16: 1e-4}
FAMILIES = [
    "mamba",
    "jamba",
    "mamba2",
    "bamba",
    "nemotron_h",
    "qwen3_next",
    "qwen3_5",
    "olmo_hybrid",
    "kimi_linear",
    "recurrent_gemma",
    "rwkv",
    "minimax",
    "lfm2",
]


@pytest.mark.sampled(count=9)
@pytest.mark.parametrize("dtype", ALLOWED, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_in_half_precision_is_rebuilt(family, dtype):
    inspection = dsf.inspect(build(family).to(dtype), strict=True, **inputs())
    for layer in inspection:
        assert layer.formula <= layer.tolerance <= 1e-7
    worst = max(layer.rounding for layer in inspection)
    assert ROUNDED[dtype] < worst < ALLOWED[dtype]
    assert {layer.mixer.value.dtype for layer in inspection} == {torch.float64}
