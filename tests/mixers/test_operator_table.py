"""Each operator of the kernel libraries is a mixer or a setting of one, and equals its own loop."""

from dataclasses import replace

import pytest
import torch

import dsf
from dsf import mixers
from dsf.mixers.ingredients import identity, second_order, squares
from tests.mixers.mixer_fields import draw
from tests.mixers.operator_table import LOOPS, by_reference

STEPS = 70  # longer than a chunk
EXACT = 1e-12


def ones(name):
    return lambda m: torch.ones_like(getattr(m, name))


def positive(name):
    """Row sums that stay away from zero."""
    return lambda m: getattr(m, name).abs()


def head_decays(m):
    """1 - 2^(-5-h) for head h."""
    return 1 - 2.0 ** (-5 - torch.arange(len(m.value), dtype=m.value.dtype))


PRECONDITIONER = {
    "epsilon": 1e-6,
    "log_curvature": lambda m: torch.full_like(m.log_curvature, -0.2),
}

# The mixer of every operator, and what the operator fixes of it.
OPERATORS = {
    "linear_attn": (
        mixers.LinearAttention,
        {
            "feature_map": identity,
            "epsilon": 1e-10,
            "query": positive("query"),
            "key": positive("key"),
        },
    ),
    "based": (mixers.LinearAttention, {"feature_map": second_order, "epsilon": 1e-6}),
    "rebased": (mixers.LinearAttention, {"feature_map": squares, "epsilon": 1e-6}),
    "retention": (mixers.Retention, {"decay": head_decays}),
    "simple_gla": (mixers.ScalarGatedAttention, {}),
    "gla": (mixers.GatedLinearAttention, {}),
    "hgrn": (mixers.QuasiLSTM, {"input": ones("input"), "output": ones("output")}),
    "hgrn, the layer": (mixers.HGRN, {}),
    "hgrn2": (mixers.HGRN2, {}),
    "delta_rule": (mixers.DeltaNet, {}),
    "gated_delta_rule": (mixers.GatedDeltaNet, {}),
    "gated_delta_product": (mixers.GatedDeltaProduct, {}),
    "kda": (mixers.KimiDeltaAttention, {}),
    "gdn2": (mixers.GatedDeltaNet2, {}),
    "comba": (mixers.Comba, {}),
    "rwkv6": (mixers.RWKV6, {}),
    "rwkv7": (mixers.RWKV7, {}),
    "iplr": (mixers.RWKV7, {"log_decay": lambda m: torch.zeros_like(m.log_decay)}),
    "gsa": (mixers.GatedSlotAttention, {"slot_write": lambda m: 1 - m.log_decay.exp()}),
    "abc": (mixers.BoundedMemoryAttention, {}),
    "mesa_net": (mixers.MesaNet, {}),
    "momentum_delta_rule": (
        mixers.MomentumDeltaNet,
        {"removal": lambda m: m.log_decay.exp().unsqueeze(-1) * m.key},
    ),
    "precond_gated_delta_rule": (
        mixers.PreconditionedDeltaNet,
        PRECONDITIONER | {"log_decay": lambda m: m.log_decay[..., :1].expand_as(m.key)},
    ),
    "precond_kda": (mixers.PreconditionedDeltaNet, PRECONDITIONER),
    "mamba3": (mixers.Mamba3, {}),
    "forgetting_attn": (mixers.ForgettingAttention, {}),
    "path_attn": (mixers.PathAttention, {}),
    "path_attn, no decay": (mixers.PathAttention, {"log_decay": None}),
    "stickbreaking_attn": (mixers.StickBreakingAttention, {"reads_itself": False}),
    "stickbreaking_attn, itself": (mixers.StickBreakingAttention, {"reads_itself": True}),
    "log_linear_attn": (mixers.LogLinearAttention, {}),
    "deltaformer": (mixers.DeltaFormer, {}),
}
UNSCALED = ("MesaNet", "RWKV6", "RWKV7", "GatedSlotAttention", "LogLinearAttention", "Mamba3")


def built(cls, changes):
    """Drawn anew, with the query scaled as the kernels do it."""
    m = draw(cls, STEPS)
    if hasattr(m, "query") and not hasattr(m, "scale") and cls.__name__ not in UNSCALED:
        m = replace(m, query=m.query * m.query.shape[-1] ** -0.5)
    fixed = {"feature_map": changes["feature_map"]} if "feature_map" in changes else {}
    rest = {name: part for name, part in changes.items() if name not in fixed}
    made = {name: part(m) if callable(part) else part for name, part in rest.items()}
    return replace(m, **made, **fixed)


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_equals_its_own_loop(name):
    m = built(*OPERATORS[name])
    expected = LOOPS.get(name, by_reference)(m)
    system, signal = m.system(), m.signal()
    response = dsf.respond(system, signal)
    mixed = dsf.attention_map(system) @ signal.flatten(-3, -2)
    for found in (response.flatten(-3, -2), mixed):
        per_channel = found.shape[-1] == 1
        ours = found.squeeze(-1).mT if per_channel else found
        assert ours.shape == expected.shape
        assert (ours - expected).abs().max() <= EXACT * expected.abs().max()


def test_the_loops_belong_to_operators():
    assert set(LOOPS) < set(OPERATORS)
