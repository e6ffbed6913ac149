"""Certificates on the weights of a map, decided exactly on the stored numbers.

- ``row_sums``, ``zero_sums``, ``nonnegative``, ``causal``, ``window_mass``: rows of one map.
- ``same_map``: the distance of two maps; ``equivalent`` is the same for two systems, and
  ``reduction_error`` for a reduced system and the bound it was given.
"""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from math import inf, isfinite, isnan, isqrt
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from dsf.certificates import checker
from dsf.certificates.certificate import Certificate, Level
from dsf.certificates.exact import as_float
from dsf.certificates.issuing import (
    Proposal,
    Where,
    certifiable,
    issued,
    on_the_processor,
    settled,
    stored,
    written,
)
from dsf.certificates.real_maps import (
    StoredLayer,
    layer_nonnegative,
    layer_row_sums,
    same_system,
    system_nonnegative,
    system_row_sums,
)
from dsf.evaluate import attention_map, respond
from dsf.evaluate.realisation import reduce
from dsf.runtime.argument_checks import checked
from dsf.systems.composite import Operator
from dsf.systems.system import System

Number = float | Fraction
ROWS = {
    "row_sums": (checker.row_sums, "exact sums"),
    "nonnegative": (checker.nonnegative, "the sign of every stored number"),
    "causal": (checker.causal, "exact zeros above the diagonal"),
    "window_mass": (checker.window_mass, "exact sums"),
}
"""Claims about the rows of a map: whether a row breaks it, and how that is decided."""
Map = Float[Tensor, "*batch rows columns"]


@checked
@on_the_processor
def row_sums(
    map: Map | System | StoredLayer,
    *,
    target: Number = 1.0,
    tolerance: Number = 0.0,
    folder: Where = None,
) -> Certificate:
    """Certify that every row sums to ``target`` within ``tolerance``, by exact sums.

    Of a stored map, at level data; or at level real, of the map of a system, in exact arithmetic on
    its coefficients, or of a stored layer, enclosed from its weights and input, where UNKNOWN means
    that a sum is too near the tolerance (a tolerance of zero is never shown to be kept).

    The witness is the row with the largest deviation, which is ``observed``; ``batch`` holds its
    indices along the batch axes.

    Raises:
        ValueError: if ``tolerance`` is negative, or one of the numbers is not finite.
    """
    if not isinstance(map, System | StoredLayer):
        certifiable("map", map)
    if not (isfinite(target) and isfinite(tolerance) and tolerance >= 0):
        raise ValueError(
            f"row_sums: 'target' must be a finite number and 'tolerance' a finite one of at least "
            f"0, but they are {target} and {tolerance}."
        )
    if isinstance(map, System):
        return system_row_sums(map, target=target, tolerance=tolerance, folder=folder)
    if isinstance(map, StoredLayer):
        return layer_row_sums(map, target=target, tolerance=tolerance, folder=folder)
    off: list[Fraction] = []
    if _finite(map):
        part = stored(map)
        rows = [part.scaled(row) for row in range(part.rows)]
        off = [abs(Fraction(sum(values), unit) - Fraction(target)) for values, unit in rows]
    worst = max(range(len(off)), key=off.__getitem__, default=0)
    observed = as_float(off[worst]) if off else None
    parameters = {"target": written(target), "tolerance": written(tolerance)}
    return _decided("row_sums", map, observed, worst, folder, parameters)


@checked
def zero_sums(
    map: Map | System | StoredLayer, *, tolerance: Number = 0.0, folder: Where = None
) -> Certificate:
    """Certify that every row sums to zero within ``tolerance``: ``row_sums`` with target 0."""
    return row_sums(map, target=0.0, tolerance=tolerance, folder=folder)


@checked
@on_the_processor
def nonnegative(map: Map | System | StoredLayer, *, folder: Where = None) -> Certificate:
    """Certify that no stored weight is below zero. The witness is the row of the smallest one.

    Of a stored map, at level data; or at level real, of the map of a system, in exact arithmetic on
    its coefficients, or of a stored layer, enclosed from its weights and input. At level real the
    witness is the entry.
    """
    if isinstance(map, StoredLayer):
        return layer_nonnegative(map, folder=folder)
    if isinstance(map, System):
        return system_nonnegative(map, folder=folder)
    certifiable("map", map)
    rows = map.resolve_neg().flatten(0, -2)
    least = rows.amin(dim=-1)
    worst = int(least.argmin())
    return _decided("nonnegative", map, float(least[worst]), worst, folder)


@checked
@on_the_processor
def causal(map: Map, *, folder: Where = None) -> Certificate:
    """Certify that every stored weight above the diagonal is exactly zero.

    Raises:
        ValueError: if the map is not square.
    """
    certifiable("map", map)
    _square("causal", map)
    ahead = map.triu(1).abs().amax(dim=-1).flatten()
    worst = int(ahead.argmax())
    return _decided("causal", map, float(ahead[worst]), worst, folder)


@checked
@on_the_processor
def window_mass(map: Map, *, width: int, share: Number, folder: Where = None) -> Certificate:
    """Certify that at least ``share`` of every row's absolute weight lies on its last ``width``
    tokens, its own included.

    Raises:
        ValueError: if ``width`` is below 1, ``share`` outside 0 ... 1, or the map not square.
    """
    certifiable("map", map)
    _square("window_mass", map)
    if width < 1 or not 0 <= share <= 1:
        raise ValueError(
            f"window_mass: 'width' must be at least 1 and 'share' lie between 0 and 1, but they "
            f"are {width} and {share}."
        )
    weights = map.double().abs()
    near = weights.triu(1 - min(width, map.shape[-1])).tril()
    shares = near.sum(dim=-1) / weights.sum(dim=-1)
    worst = int(shares.flatten().nan_to_num(1.0).argmin())  # rows of zeros keep any share
    observed = float(shares.flatten()[worst]) if _finite(map) else None
    observed = None if observed is None or isnan(observed) else observed
    parameters = {"width": width, "share": written(share)}
    return _decided("window_mass", map, observed, worst, folder, parameters)


@checked
@on_the_processor
def same_map(first: Map, second: Map, *, tolerance: Number, folder: Where = None) -> Certificate:
    """Certify that two stored maps differ by at most ``tolerance`` in Frobenius norm, exactly.

    Raises:
        ValueError: if the maps have different shapes or ``tolerance`` is negative.
    """
    return issued(_compared(first, second, tolerance), folder)


FORMED = "of the maps as they are formed in floating point"


def _compared(first: Tensor, second: Tensor, tolerance: Number, scope: str = "") -> Proposal:
    certifiable("map", first)
    certifiable("other", second)
    if first.shape != second.shape or not 0 <= tolerance < inf:
        raise ValueError(
            f"same_map: needs maps of one shape and a finite tolerance of at least 0, but the "
            f"shapes are {tuple(first.shape)} and {tuple(second.shape)} and the tolerance is "
            f"{tolerance}."
        )
    proposal = Proposal(
        name="same_map",
        tensors={"map": first, "other": second},
        method="the exact sum of squared differences",
        parameters={"tolerance": written(tolerance)},
        scope=scope,
    )
    if not (_finite(first) and _finite(second)):
        return proposal
    energy = checker.squared_distance(stored(first), stored(second))
    witness = None if energy <= Fraction(tolerance) ** 2 else {"energy": energy}
    return replace(settled(proposal, witness), observed=_root(energy))


def _root(value: Fraction) -> float:
    """The square root, of numbers too small or too large for a float, too."""
    bits = 1200
    root = isqrt((value.numerator << 2 * bits) // value.denominator)
    return as_float(Fraction(root, 1 << bits))


def _decided(
    name: str,
    map: Tensor,
    observed: float | None,
    worst: int,
    folder: Where,
    parameters: Mapping[str, Any] = MappingProxyType({}),
) -> Certificate:
    """PROVED if no row violates the claim, else REFUTED with such a row, the worst if it does."""
    claim, method = ROWS[name]
    proposal = Proposal(
        name=name,
        tensors={"map": map},
        method=method,
        parameters=parameters,
        observed=observed,
    )
    if not _finite(map):
        return issued(proposal, folder)
    readers = checker.CLAIMS[name].parameters
    breaks = claim(stored(map), {part: read(parameters[part]) for part, read in readers.items()})
    broken = next(filter(breaks, [worst, *range(map.shape[:-1].numel())]), None)
    if broken is None:
        return issued(settled(proposal, None), folder)
    place = torch.unravel_index(torch.tensor(broken), map.shape[:-1])
    *batch, row = (int(part) for part in place)
    return issued(settled(proposal, {"batch": batch, "row": row}), folder)


def _finite(map: Tensor) -> bool:
    return bool(torch.isfinite(map).all())


def _square(owner: str, map: Tensor) -> None:
    if map.shape[-1] != map.shape[-2]:
        raise ValueError(f"{owner}: needs a square map, but the shape is {tuple(map.shape)}.")


@checked
def equivalent(
    first: Operator,
    second: Operator,
    *,
    tolerance: Number,
    level: Level = Level.DATA,
    folder: Where = None,
) -> Certificate:
    """Certify that two systems apply the same map, within ``tolerance`` in Frobenius norm.

    States and bases may differ. What the initial states add to the response counts as further
    columns of the maps. The maps are formed in floating point and then compared exactly: the
    verdict speaks of the maps as they are formed, whose rounding it does not see, so ``tolerance``
    has to allow for that rounding. At ``Level.REAL`` the coefficients of two forward systems
    without initial states are stored instead, and their maps are compared in exact arithmetic.

    Raises:
        ValueError: if the maps have different shapes, or ``tolerance`` is negative.
        MapTooLarge: if a map would take more than half of the free memory.
    """
    if level is Level.FLOAT:
        raise ValueError("certify: no claim of level FLOAT is offered. Use DATA or REAL.")
    if level is Level.REAL:
        if not (isinstance(first, System) and isinstance(second, System)):
            raise ValueError(
                "equivalent: level REAL is for two systems with stored coefficients, not for sums "
                "or explicit maps. Use Level.DATA."
            )
        return same_system(first, second, tolerance=tolerance, folder=folder)
    maps = [attention_map(system) for system in (first, second)]
    starts = [getattr(system, "initial", None) for system in (first, second)]
    channels = max((start.shape[-1] for start in starts if start is not None), default=0)
    if channels:
        for k, system in enumerate((first, second)):
            # the response to a signal of zeros: one row for every row of the map, by channel
            shape = (*maps[k].shape[:-2], system.steps, system.input_size, channels)
            started = respond(system, maps[k].new_zeros(shape)).flatten(-3, -2)
            maps[k] = torch.cat([maps[k], started], dim=-1)
    dtype = torch.promote_types(maps[0].dtype, maps[1].dtype)
    one, other = (map.to(dtype).cpu() for map in maps)
    return issued(_compared(one, other, tolerance, FORMED), folder)


@checked
def reduction_error(
    map: Inexact[Tensor, "time time"], *, order: int, folder: Where = None
) -> Certificate:
    """Certify that the reduction of ``map`` to ``order`` states is within its error bound.

    The map of ``dsf.evaluate.reduce(map, order=order)`` is compared with the original exactly.
    ``observed`` is the distance; the tolerance of the claim is the bound, known before the maps are
    compared.

    Raises:
        ValueError: if ``order`` is below 1, or the map is not square, finite and causal.
    """
    reduction = reduce(map, order=order)
    other = attention_map(reduction.system)
    return issued(_compared(map.cpu(), other.cpu(), float(reduction.bound), FORMED), folder)
