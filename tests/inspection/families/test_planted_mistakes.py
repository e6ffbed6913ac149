"""Adapters with a mistake planted in them: the comparison with the layer's output finds each."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch.nn.functional import silu

import dsf
from dsf.inspection import ReconstructionError, gated_delta, kimi_delta, mamba, mamba2, rwkv, zamba
from dsf.inspection.pieces import by_head, rms_factor
from dsf.mixers import RWKV4, KimiDeltaAttention
from dsf.transition import DiagonalPlusLowRank
from tests.inspection.families.tiny_models import build, inputs


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadsAfterUpdate(RWKV4):
    def system(self):
        return replace(super().system(), reads_before_update=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class DecaysLast(KimiDeltaAttention):
    """diag(e^g) (I - b k kᵀ), the order of the gated delta rule."""

    def system(self):
        system, decay = super().system(), self.log_decay.exp()
        write = self.rate.unsqueeze(-1) * self.key
        A = DiagonalPlusLowRank(
            decay=decay, left=-(decay * write).unsqueeze(-1), right=self.key.unsqueeze(-1)
        )
        return replace(system, A=A)


def norm_before_gate(layer, response, z):
    return layer.weights["norm.weight"] * mamba2._norm_factor(layer, response) * silu(z)


def whole_width(layer, x):
    return rms_factor(x, epsilon=layer.module.norm.variance_epsilon)


def no_factor(x, **_):
    return torch.ones_like(x[..., :1])


def interleaved(layer, part):
    heads = layer.module.num_k_heads
    return by_head(part, heads).repeat(1, layer.module.num_v_heads // heads, 1, 1)


def halves(both):
    return both.chunk(2, dim=-1)


def as_it_is(x, **_):
    return x


def unmasked(_, x):
    return x


def no_mask(*_):
    return ()


MISTAKES = [
    ("no unit length", "qwen3_next", gated_delta, "unit_length", as_it_is),
    ("no unit length", "kimi_linear", kimi_delta, "unit_length", as_it_is),
    ("key heads interleaved", "qwen3_5", gated_delta, "_shared", interleaved),
    ("no norm", "olmo_hybrid", gated_delta, "rms_factor", no_factor),
    ("a gate of another kind", "qwen4_exp", gated_delta, "activation", lambda *_: silu),
    ("norm before gate", "mamba2", mamba2, "_gate_over_norm", norm_before_gate),
    ("norm over the whole width", "nemotron_h", mamba2, "_norm_factor", whole_width),
    ("no limit of the step", "mamba2", mamba2, "_limits", lambda _: (0.0, torch.inf)),
    ("no limit of the step", "zamba2", mamba2, "_limits", lambda _: (0.0, torch.inf)),
    ("padding ignored", "mamba", mamba, "masking", no_mask),
    ("padding ignored", "mamba2", mamba2, "masked", unmasked),
    ("padding ignored", "qwen3_next", gated_delta, "masked", unmasked),
    ("padding ignored", "kimi_linear", kimi_delta, "masked", unmasked),
    ("no norms", "falcon_mamba", mamba, "rms_normalised", as_it_is),
    ("no norms", "jamba", mamba, "rms_normalised", as_it_is),
    ("halves instead of alternate rows", "zamba", zamba, "_alternating", halves),
    ("the other order", "kimi_linear", kimi_delta, "KimiDeltaAttention", DecaysLast),
    ("read after the update", "rwkv", rwkv, "RWKV4", ReadsAfterUpdate),
]


@pytest.mark.parametrize(
    ("family", "module", "name", "mistake"),
    [
        pytest.param(*rest, id=f"{family}: {what}")
        for what, family, *rest in MISTAKES
        for rest in [(family, *rest)]
    ],
)
@pytest.mark.usefixtures("our_own_errors")
def test_a_planted_mistake_is_found(monkeypatch, family, module, name, mistake):
    model = build(family)
    monkeypatch.setattr(module, name, mistake)
    with pytest.raises(ReconstructionError, match=rf"'{family}'.*differs from what it put out"):
        dsf.inspect(model, **inputs(padding="left"))


def test_a_mistake_below_single_precision_is_found_in_float64(monkeypatch):
    """Without 1e-6 under the root of a key's length the error is about 1e-6."""
    model, plain = build("qwen3_next"), gated_delta.unit_length
    monkeypatch.setattr(gated_delta, "unit_length", lambda x: plain(x, epsilon=0.0))
    dsf.inspect(model, **inputs())
    with pytest.raises(ReconstructionError, match="differs from what it put out"):
        dsf.inspect(model.double(), **inputs())


def test_an_altered_module_is_found():
    """A subclass goes by its parent's name and computes something else."""
    model = build("mamba2")
    mixer = model.backbone.layers[1].mixer

    class Louder(type(mixer)):
        def forward(self, hidden_states, **options):
            return 1.001 * super().forward(hidden_states, **options)

    mixer.__class__ = Louder
    with pytest.raises(ReconstructionError, match=r"layers\.1\.mixer .*Louder.*1\.0e-03 relative"):
        dsf.inspect(model, **inputs())
