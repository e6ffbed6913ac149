"""Models in float16 and bfloat16: read in float64, held against what their number type allows."""

import pytest
import torch

import dsf
from tests.inspection.families.tiny_models import build, inputs

ALLOWED = {torch.float16: 1e-2, torch.bfloat16: 5e-2}
# A rebuilt layer that agreed better than this was not rebuilt from the rounded arithmetic.
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


@pytest.mark.parametrize("dtype", ALLOWED, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_in_half_precision_is_rebuilt(family, dtype):
    inspection = dsf.inspect(build(family).to(dtype), **inputs())
    assert {layer.tolerance for layer in inspection} == {ALLOWED[dtype]}
    worst = max(layer.error for layer in inspection)
    assert ROUNDED[dtype] < worst < ALLOWED[dtype]
    assert {layer.mixer.value.dtype for layer in inspection} == {torch.float64}
