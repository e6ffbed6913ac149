"""Fifty random hybrids with known truth: none wrong, none missed."""

import random

import pytest
import torch
from torch import nn

import dsf
from tests.any_code import modules
from tests.any_code.modules import KEEP_APART, MIXERS, WIDTH, drawn, tokens

ATTENTIONS = [
    modules.Attention,
    modules.HeadsBeforeSamples,
    modules.HeadsBehindSamples,
    modules.HeadsLast,
    modules.Flipped,
    modules.Permuted,
]
PARTS = [modules.WithConvolution, modules.WithRunningMean, modules.WithShift, modules.WithFourier]


class Wrapped(nn.Module):
    def __init__(self, inner, *, axis):
        super().__init__()
        self.inner, self.axis = inner, axis

    def forward(self, x):
        order = torch.arange(x.shape[self.axis]).flip(0) if self.axis else None
        if order is None:
            return self.inner(x)
        return self.inner(x.index_select(self.axis, order)).index_select(self.axis, order)


class Stack(nn.Module):
    def __init__(self, parts, *, time_first):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in parts)
        self.parts, self.time_first = nn.ModuleList(parts), time_first

    def forward(self, x):
        x = x.transpose(0, 1) if self.time_first else x
        for norm, part in zip(self.norms, self.parts, strict=True):
            x = x + part(norm(x))
        return x.transpose(0, 1) if self.time_first else x


@pytest.mark.parametrize("seed", range(50))
def test_a_random_hybrid(seed):
    print(f"seed {seed}")
    rng = random.Random(seed)
    parts, mixers, attentions = [], [], []  # the last holds place, module, whether it is a part
    for place in range(rng.randint(2, 4)):
        draw = rng.random()
        if draw < 0.45 or not attentions:
            kind = rng.choice(ATTENTIONS if rng.random() < 0.7 or not attentions else PARTS)
            inner, axis = kind(is_fused=rng.random() < 0.5), rng.choice([0, 0, 1])
            attentions.append((place, inner, kind in PARTS))
            parts.append(Wrapped(inner, axis=axis))
        elif draw < 0.8:
            name = rng.choice([name for name in MIXERS if name not in ("shift", "roll", "flip")])
            mixers.append(place)
            parts.append(MIXERS[name]())
        else:
            name = rng.choice([name for name in KEEP_APART if name != "norm of channels"])
            parts.append(KEEP_APART[name]())
    time_first = rng.random() < 0.3
    model = drawn(Stack(parts, time_first=time_first))
    x = tokens(4, WIDTH, WIDTH, seed=seed)
    given = {}

    def keep(place):
        def hook(_module, args):
            given.setdefault(place, args[0])

        return hook

    for place, inner, _ in attentions:
        inner.register_forward_pre_hook(keep(place))
    inspection = dsf.inspect(model, x.transpose(0, 1) if time_first else x, probe=())
    missed = [one.name for one in inspection.unsupported]
    for place, inner, is_part in attentions:
        layer = inspection[f"parts.{place}.inner"]
        x_in = given[place]
        if isinstance(inner, modules.Flipped):
            x_in = x_in.flip(1)
        elif isinstance(inner, modules.Permuted):
            x_in = x_in[:, inner.order]
        torch.testing.assert_close(layer.map(), inner.weights(x_in), atol=2e-6, rtol=0)
        assert layer.is_exact is not is_part
        assert (f"parts.{place}.inner" in missed) is is_part
    for place in mixers:
        assert any(name.startswith(f"parts.{place}") for name in missed), (place, missed)
    places = {place for place, _, is_part in attentions if is_part} | set(mixers)
    assert {int(name.split(".")[1]) for name in missed} == places
