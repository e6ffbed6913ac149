"""Settings that change what a layer computes, each rebuilt to rounding, and longer sequences."""

import pytest
import torch

import dsf
from tests.inspection.families.tiny_models import build, inputs, skip_a_known_defect

pytestmark = pytest.mark.matrix

ROUNDING = 1e-12
CHANGES = [
    ("mamba", {"use_bias": True, "use_conv_bias": False, "hidden_act": "gelu"}),
    ("jamba", {"mamba_proj_bias": True}),
    ("zamba", {"mamba_proj_bias": True, "n_mamba_heads": 4}),
    ("mamba2", {"use_bias": True, "use_conv_bias": False, "hidden_act": "gelu"}),
    ("mamba2", {"n_groups": 1, "num_heads": 2, "head_dim": 16}),
    ("bamba", {"time_step_limit": (0.1, 0.3), "mamba_proj_bias": True}),
    ("falcon_h1", {"mamba_norm_before_gate": False}),
    ("falcon_h1", {"mamba_rms_norm": False}),
    ("nemotron_h", {"use_bias": True}),
    ("zamba2", {"add_bias_linear": True}),
    ("qwen3_next", {"linear_num_key_heads": 4}),
    ("olmo_hybrid", {"linear_allow_neg_eigval": False}),
    ("qwen4_exp", {"output_gate_type": None}),
    ("bailing_hybrid", {"kda_safe_gate": False}),
    ("glm5_next", {"linear_lower_bound": None}),
    ("recurrent_gemma", {"hidden_activation": "silu"}),
    ("xlstm", {"use_bias": False, "gate_soft_cap": 1.5, "v_dim_factor": 0.5}),
    ("lfm2", {"conv_bias": False}),
]
LONG = ["mamba", "mamba2", "qwen3_next", "olmo_hybrid", "kimi_linear", "recurrent_gemma", "rwkv"]


@pytest.mark.parametrize(("family", "changes"), CHANGES, ids=str)
def test_a_setting_is_followed(family, changes):
    skip_a_known_defect(family)
    inspection = dsf.inspect(build(family, **changes).double(), **inputs(padding="left"))
    assert max(layer.error for layer in inspection) < ROUNDING


@pytest.mark.parametrize("family", LONG)
def test_a_long_sequence_crosses_every_chunk(family):
    """150 tokens are three chunks of the library's delta rules and nineteen of a tiny Mamba-2."""
    inspection = dsf.inspect(build(family).double(), **inputs(150, padding="right"))
    assert max(layer.error for layer in inspection) < ROUNDING


@pytest.mark.parametrize("family", ["mamba", "mamba2", "qwen3_5", "olmo_hybrid", "lfm2", "rwkv"])
def test_one_token_is_a_sequence(family):
    inspection = dsf.inspect(build(family).double(), **inputs(1))
    assert max(layer.error for layer in inspection) < ROUNDING


def test_an_active_clamp_of_the_step_is_seen():
    """Both limits bind, and not everywhere, so following them matters."""
    low, high = 0.1, 0.4
    for layer in dsf.inspect(build("mamba2").double(), **inputs()):
        step = layer.mixer.step
        assert (step == low).any()
        assert (step == high).any()
        assert ((low < step) & (step < high)).any()


def test_position_zero_starts_a_new_document():
    ids = inputs()["input_ids"]
    places = torch.cat([torch.arange(9), torch.arange(12)]).expand(2, -1)
    model = build("recurrent_gemma").double()
    inspection = dsf.inspect(model, input_ids=ids, position_ids=places)
    for layer in recurrent(inspection):
        assert layer.error < ROUNDING
        assert (layer.map()[..., 9:, :9] == 0).all()
        assert (layer.map()[..., 20, 9] != 0).all()


@pytest.mark.parametrize("family", ["mamba", "mamba2", "qwen3_next"])
def test_left_padding_writes_nothing(family):
    for layer in recurrent(dsf.inspect(build(family).double(), **inputs(padding="left"))):
        value = layer.mixer.value[0]
        assert (value[..., :5, :] == 0).all()
        assert (value[..., 5:, :] != 0).any(dim=-1).all()


@pytest.mark.parametrize(("family", "seen"), [("mamba", 0), ("mamba2", 0), ("qwen3_next", 2)])
def test_right_padding_is_reached_by_the_convolution_alone(family, seen):
    """Three taps; Mamba zeroes padding again after the convolution, the delta rule does not."""
    for layer in recurrent(dsf.inspect(build(family).double(), **inputs(padding="right"))):
        value = layer.mixer.value[0]
        assert (value[..., 16 : 16 + seen, :] != 0).any(dim=-1).all()
        assert (value[..., 16 + seen :, :] == 0).all()


def recurrent(inspection):
    """The layers that are no softmax attention; at least one."""
    found = [layer for layer in inspection if type(layer.mixer).__name__ != "SoftmaxAttention"]
    assert found
    return found
