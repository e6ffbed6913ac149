"""Ten layers, and what a change of states does to their spectra, maps and memory."""

from collections.abc import Mapping
from math import degrees
from typing import Any

import torch

from dsf.evaluate import attention_map
from dsf.measures import hankel_singular_values, map_distance, mass_by_lag, transition_eigenvalues
from dsf.mixers import (
    DeltaNet,
    InLineAttention,
    LinearAttention,
    MetaLinearAttention,
    Mixer,
    NormalisedAttention,
    Retention,
    SelectiveStateSpace,
    SoftmaxAttention,
    StateSpaceDuality,
    ZeroSumAttention,
)
from dsf.systems.algebra import change_of_basis, select
from dsf.systems.system import System
from experiments.gauge.gauges import GAUGES

STEPS = 24
SEED = 0
LAYERS: tuple[type[Mixer], ...] = (
    SoftmaxAttention,
    LinearAttention,
    NormalisedAttention,
    InLineAttention,
    ZeroSumAttention,
    MetaLinearAttention,
    Retention,
    StateSpaceDuality,
    SelectiveStateSpace,
    DeltaNet,
)


def drawn(layer: type[Mixer], *, steps: int = STEPS) -> System:
    """One head or channel of a random instance."""
    system = layer.draw(torch.Generator().manual_seed(SEED), steps=steps).system()
    if not isinstance(system, System):
        raise TypeError(f"drawn: {layer.__name__} is no single causal system.")
    return select(system, (0,) * len(system.batch))


def measured(system: System) -> Mapping[str, Any]:
    """Spectra and invariants in every gauge; differences are from the mixer's own states."""
    plain = attention_map(system)
    middle = system.steps // 2 - 1
    hankel = hankel_singular_values(plain, positions=[middle])[0]
    mass = mass_by_lag(plain)
    found = {}
    for name, gauge in GAUGES.items():
        other = change_of_basis(system, gauge(system))
        eigenvalues = transition_eigenvalues(other).flatten()
        weights, other_mass = attention_map(other), mass_by_lag(other)
        values = hankel_singular_values(other, positions=[middle])[0]
        near = min(len(values), len(hankel))
        found[name] = {
            "real": eigenvalues.real.tolist(),
            "imaginary": eigenvalues.imag.tolist(),
            "moduli": _range(eigenvalues.abs()),
            "largest_angle": degrees(eigenvalues.angle().abs().max().item()),
            "hankel": values.tolist(),
            "mass_by_lag": other_mass.tolist(),
            "map": weights.tolist(),
            "map_moved": map_distance(plain, weights).item(),
            "hankel_moved": ((values[:near] - hankel[:near]).abs().max() / hankel[0]).item(),
            "mass_moved": ((other_mass - mass).abs().max() / mass.max()).item(),
        }
    return {
        "tokens": system.steps,
        "states": system.state_size,
        "gauges": found,
    }


def _range(moduli: torch.Tensor) -> list[float]:
    return [moduli.min().item(), moduli.median().item(), moduli.max().item()]
