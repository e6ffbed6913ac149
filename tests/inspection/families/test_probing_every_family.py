"""Driving a family's scan with unit values gives the adapter's map, without its formula."""

import pytest
import torch

import dsf
from dsf.inspection import Port, Probe
from tests.inspection.families.tiny_models import FAMILIES, build, inputs, is_older_than

pytestmark = pytest.mark.skipif(
    is_older_than("5.16"), reason="older releases name or bind their scan functions otherwise"
)


def turned(part):
    return part.mT


def head_first(part):
    return part.transpose(1, 2)


def third(part):
    return part.chunk(3, dim=-1)[2]


def values_of_heads(qkv):
    return qkv.unflatten(-1, (4, 3, -1))[..., 2, :]


def between(function, argument, view=lambda part: part):
    return Probe(value=Port(f"{function}({argument})", view), response=Port(function, view))


SELECTIVE = between("mamba_selective_scan", "hidden_states", turned)
SCALAR = between("mamba2_chunk_scan", "hidden_states")
DELTA = between("torch_chunk_gated_delta_rule", "value")
KIMI = between("chunk_kimi_delta_attention", "value")
FILTER = Probe(value=Port("in_proj", third), response="out_proj(input)")
PROBES = {
    **dict.fromkeys(("mamba", "falcon_mamba", "jamba", "zamba"), SELECTIVE),
    **dict.fromkeys(
        ("mamba2", "bamba", "falcon_h1", "granitemoehybrid", "nemotron_h", "zamba2"), SCALAR
    ),
    **dict.fromkeys(
        ("qwen3_next", "qwen3_5", "qwen3_5_moe", "qwen4_exp", "lara_mini", "olmo_hybrid"), DELTA
    ),
    **dict.fromkeys(("kimi_linear", "bailing_hybrid", "glm5_next"), KIMI),
    "recurrent_gemma": between("rg_lru._rnn_scan", "hidden_states"),
    "rwkv": between("rwkv_linear_attention", "value"),
    "xlstm": between("mlstm_backend", "value", head_first),
    "minimax": Probe(value=Port("act_fn", values_of_heads), response="norm(hidden_states)"),
    **dict.fromkeys(("lfm2", "lfm2_moe", "lfm3"), FILTER),
}


def by_channel(layer):
    """``sample channel time time``: a head's map for each of its channels."""
    map = layer.map()
    ports = layer.mixer.signal().shape[-2]
    map = map.unflatten(-1, (-1, ports))[..., 0].flatten(1, -3)
    value = layer.mixer.value
    width = value.shape[-1] if value.ndim == 3 else value.shape[1] * value.shape[-1]
    return map.repeat_interleave(width // map.shape[1], dim=1)


def factors(layer):
    """Factors on rows and columns: Mamba's scan gates, the RG-LRU's is given gated values."""
    rows = columns = torch.ones(())
    if layer.family in ("mamba", "falcon_mamba", "jamba", "zamba"):
        (gate,) = layer.whole.leave.before_projection()
        rows = gate.factor.mT.unsqueeze(-1)
    if layer.family == "recurrent_gemma":
        columns = layer.system.B.flatten(2).unsqueeze(-2)
    return rows, columns


@pytest.mark.sampled(count=9)
@pytest.mark.parametrize("family", FAMILIES)
def test_unit_values_give_the_map_of_the_adapter(family):
    model, given = build(family).double(), inputs(9)
    layers = dsf.inspect(model, checks="none", **given)
    known = next(layer for layer in layers if type(layer.mixer).__name__ != "SoftmaxAttention")
    probed = dsf.inspect(model, checks="none", probe={known.name: PROBES[family]}, **given)
    driven = next(layer for layer in probed if layer.name == known.name)
    assert driven.family == "probed"
    assert driven.error <= FAMILIES[family].exact
    assert "causal" in driven.mixer.label
    rows, columns = factors(known)
    expected = rows * by_channel(known)
    difference = (by_channel(driven) * columns - expected).abs().max()
    assert difference <= FAMILIES[family].exact * expected.abs().max()
    assert [layer.name for layer in probed] == [layer.name for layer in layers]
