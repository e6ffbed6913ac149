"""Fifty random hybrids with known truth: none wrong, none missed."""

import random
from functools import partial

import pytest
import torch
from torch import nn

import dsf
from tests.any_code import modules
from tests.any_code.modules import JOINED, KEEP_APART, MIXERS, WIDTH, drawn, tokens

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


class Hybrid:
    """A random stack of attentions, other mixers and what keeps tokens apart, run once.

    Attributes:
        attentions: place, module, and whether the module does more than its attention.
        mixers: the places of what mixes tokens beside them.
        given: by place what an attention was given.
    """

    def __init__(self, seed):
        print(f"seed {seed}")
        rng = random.Random(seed)
        parts, self.mixers, self.attentions, self.given = [], [], [], {}
        for place in range(rng.randint(2, 4)):
            draw = rng.random()
            if draw < 0.45 or not self.attentions:
                usual = rng.random() < 0.7 or not self.attentions
                kind = rng.choice(ATTENTIONS if usual else PARTS)
                inner, axis = kind(is_fused=rng.random() < 0.5), rng.choice([0, 0, 1])
                self.attentions.append((place, inner, kind in PARTS))
                parts.append(Wrapped(inner, axis=axis))
            elif draw < 0.8:
                moves = ("shift", "roll", "flip")
                self.mixers.append(place)
                parts.append(MIXERS[rng.choice([name for name in MIXERS if name not in moves])]())
            else:
                names = [name for name in KEEP_APART if name != "norm of channels"]
                parts.append(KEEP_APART[rng.choice(names)]())
        self.model = drawn(Stack(parts, time_first=rng.random() < 0.3))
        x = tokens(4, WIDTH, WIDTH, seed=seed)
        self.x = x.transpose(0, 1) if self.model.time_first else x
        for place, inner, _ in self.attentions:
            inner.register_forward_pre_hook(partial(self._keep, place))

    def _keep(self, place, _module, args):
        self.given.setdefault(place, args[0])

    def attention_given(self, place, inner):
        """What the attention itself is given, in the order in which it has it."""
        x = self.given[place]
        if isinstance(inner, modules.Flipped):
            return x.flip(1)
        return x[:, inner.order] if isinstance(inner, modules.Permuted) else x


@pytest.mark.sampled(count=10)
@pytest.mark.parametrize("seed", range(50))
def test_a_random_hybrid(seed):
    hybrid = Hybrid(seed)
    inspection = dsf.inspect(hybrid.model, hybrid.x, probe=())
    missed = [one.name for one in inspection.unsupported]
    for place, inner, is_part in hybrid.attentions:
        layer = inspection[f"parts.{place}.inner"]
        expected = inner.weights(hybrid.attention_given(place, inner))
        torch.testing.assert_close(layer.map(), expected, atol=2e-6, rtol=0)
        assert layer.is_exact is not is_part
        assert (f"parts.{place}.inner" in missed) is is_part
    for place in hybrid.mixers:
        assert any(name.startswith(f"parts.{place}") for name in missed), (place, missed)
    places = {place for place, _, is_part in hybrid.attentions if is_part} | set(hybrid.mixers)
    assert {int(name.split(".")[1]) for name in missed} == places


@pytest.mark.sampled(count=3)
@pytest.mark.parametrize("seed", range(0, 50, 6))
def test_a_random_hybrid_is_probed(seed):
    """Whatever is called exact moves what its map says; the rest is listed."""
    hybrid = Hybrid(seed)
    inspection = dsf.inspect(hybrid.model, hybrid.x)
    listed = {int(one.name.split(".")[1]) for one in inspection.unsupported}
    exact = {int(layer.name.split(".")[1]) for layer in inspection if layer.is_exact}
    mixing = {place for place, *_ in hybrid.attentions} | set(hybrid.mixers)
    assert mixing <= listed | exact
    assert listed | exact <= mixing
    for place, inner, _ in hybrid.attentions:
        joined = JOINED.get(type(inner), type(inner).weights)
        for layer in inspection:
            is_here = layer.name == f"parts.{place}.inner" and layer.is_exact
            if (
                is_here and type(inner) is not modules.WithFourier
            ):  # a map for each pair of channels
                expected = joined(inner, hybrid.attention_given(place, inner))
                torch.testing.assert_close(layer.map(), expected, atol=2e-6, rtol=0)
