"""Adapters with a mistake planted in them, and the error that each makes."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from unittest.mock import patch

import torch
from torch.nn.functional import silu

import dsf
from dsf.inspection.families import delta_rules, rwkv, selective_scans, shared
from dsf.mixers import RWKV4, KimiDeltaAttention
from dsf.systems.transition import DiagonalPlusLowRank
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
    groups = selective_scans._norm_groups(layer, response)
    return shared.head_norm(layer, "norm", response, groups) * silu(z)


def whole_width(*_):
    return 1


def no_factor(x, **_):
    return torch.ones_like(x[..., :1])


def interleaved(part, heads):
    return part.repeat(1, heads // part.shape[1], 1, 1)


def halves(_, both):
    return both.chunk(2, dim=-1)


def as_it_is(x, *_, **__):
    return x


def unmasked(_, x):
    return x


convolution, unit_length = shared.convolution, shared.unit_length


def latest_first(layer, name, channels=slice(None)):
    right = convolution(layer, name, channels)
    return replace(right, kernel=right.kernel.flip(-1))


def no_epsilon(x, **_):
    return unit_length(x, epsilon=0.0)


@dataclass(frozen=True)
class Mistake:
    """A part of an adapter exchanged for another: what it is, and whose."""

    what: str
    family: str
    module: ModuleType
    name: str
    instead: Callable
    double: bool = False

    @property
    def inputs(self):
        """Padded, unless a key of padding, which is zero, would have no length at all."""
        return inputs(padding="none" if self.double else "left")

    def error(self):
        """What the comparison finds, relative; without it 1e-6, in float64 1e-12."""
        model = build(self.family)
        with patch.object(self.module, self.name, self.instead):
            layers = dsf.inspect(model, exact=self.double, tolerance=math.inf, **self.inputs)
        return max(layer.error for layer in layers)


MISTAKES = [
    Mistake("no unit length", "qwen3_next", shared, "unit_length", as_it_is),
    Mistake("no unit length", "kimi_linear", shared, "unit_length", as_it_is),
    Mistake("key heads interleaved", "qwen3_5", shared, "shared_by", interleaved),
    Mistake("no norm", "olmo_hybrid", shared, "rms_factor", no_factor),
    Mistake("a gate of another kind", "qwen4_exp", shared, "activation", lambda *_: silu),
    Mistake("norm before gate", "mamba2", selective_scans, "_gate_over_norm", norm_before_gate),
    Mistake(
        "norm over the whole width", "nemotron_h", selective_scans, "_norm_groups", whole_width
    ),
    Mistake(
        "no limit of the step", "mamba2", selective_scans, "_limits", lambda _: (0.0, torch.inf)
    ),
    Mistake(
        "no limit of the step", "zamba2", selective_scans, "_limits", lambda _: (0.0, torch.inf)
    ),
    Mistake("padding ignored", "mamba", selective_scans, "masked", unmasked),
    Mistake("padding ignored", "mamba2", selective_scans, "masked", unmasked),
    Mistake("padding ignored", "qwen3_next", shared, "masking", lambda *_: ()),
    Mistake("padding ignored", "kimi_linear", shared, "masking", lambda *_: ()),
    Mistake("no norms", "falcon_mamba", selective_scans, "rms_norm", as_it_is),
    Mistake("no norms", "jamba", selective_scans, "rms_norm", as_it_is),
    Mistake("halves instead of alternate rows", "zamba", selective_scans, "_x_and_z", halves),
    Mistake("the other order", "kimi_linear", delta_rules, "KimiDeltaAttention", DecaysLast),
    Mistake("read after the update", "rwkv", rwkv, "RWKV4", ReadsAfterUpdate),
    Mistake("taps in the other order", "mamba", selective_scans, "convolution", latest_first),
    Mistake("taps in the other order", "qwen3_next", shared, "convolution", latest_first),
    Mistake("no 1e-6 under a length", "qwen3_next", shared, "unit_length", no_epsilon, True),
]
