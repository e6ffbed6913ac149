"""Certificates on the weights of a map, stored or formed of stored numbers.

A system, or a ``StoredLayer`` with its weights and input, means the map that its formula defines
for the stored numbers, in exact arithmetic: what was rounded while a system was formed, or in the
run of a model, is not part of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import inf, isfinite, isnan, isqrt
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from dsf import measures
from dsf.certificates import checker
from dsf.certificates.certificate import (
    Certificate,
    Level,
    Proposal,
    Where,
    as_float,
    certifiable,
    claim,
    issued,
    settled,
    stored,
    where_conclusive,
    written,
)
from dsf.evaluate import attention_map, respond
from dsf.evaluate.realisation import reduce
from dsf.systems.composite import Operator, kept_rows
from dsf.systems.system import System
from dsf.systems.transition import DiagonalPlusLowRank, Transition

Number = float | Fraction
SLACK = Fraction((1 << 20) - 1, 1 << 20)
NEXT = Fraction(1, 1 << 300)


@dataclass(frozen=True, eq=False)
class StoredLayer:
    """What the map of one head, or of one channel, of a layer is made of.

    Attributes:
        kind: ``softmax_attention``, ``selective_state_space``, ``state_space_duality`` or
            ``gated_delta_net``.
        parts: the stored weights and the input by role, as the page on the format of certificates
            lists them.

    Raises:
        ValueError: if the kind is unknown or has other roles.
        TypeError: if a part is not a real floating tensor.
    """

    kind: str
    parts: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        if self.kind not in checker.LAYERS:
            raise ValueError(
                f"StoredLayer: 'kind' must be one of {', '.join(checker.LAYERS)}, but it is "
                f"{self.kind!r}."
            )
        roles = checker.LAYERS[self.kind][1]
        if sorted(self.parts) != sorted(roles):
            raise ValueError(
                f"StoredLayer: a layer of kind {self.kind} has the parts {', '.join(roles)}, but "
                f"'parts' holds {', '.join(sorted(self.parts))}."
            )
        for role, part in self.parts.items():
            certifiable(role, part)

    @cached_property
    def enclosed(self) -> list[checker.Vector]:
        """The enclosed map: row i has i + 1 entries, the others are zero.

        Raises:
            ValueError: if the shapes do not fit, or the layer is beyond the limits of the format.
        """
        form = checker.LAYERS[self.kind][0]
        try:
            return form({role: stored(part) for role, part in self.parts.items()})
        except checker.Rejected as error:
            raise ValueError(
                f"StoredLayer: the map of {self.kind} cannot be formed: {error}."
            ) from (None)

    def map(self) -> Float[Tensor, "time time"]:
        """The map in float64: the middle of every enclosure, rounded once."""
        found = torch.zeros(len(self.enclosed), len(self.enclosed), dtype=torch.float64)
        for i, row in enumerate(self.enclosed):
            middle = [float((low + high) / 2) for low, high in row]
            found[i, : i + 1] = torch.tensor(middle, dtype=torch.float64)
        return found


def _midpoint(map: System | StoredLayer) -> Tensor:
    return map.map() if isinstance(map, StoredLayer) else attention_map(map, enclosed=True).midpoint


def _of_formed(
    name: str,
    formed: StoredLayer | System | Mapping[str, System],
    parameters: Mapping[str, Any],
    observed: float,
    witnesses: Sequence[Mapping[str, Any]],
    refuted: bool,
    where: Where,
) -> Certificate:
    """The verdict of the enclosed map first; others if the checker refuses it."""
    if isinstance(formed, StoredLayer):
        proposal = Proposal(
            name=f"{formed.kind}_{name.removeprefix('system_')}",
            tensors=formed.parts,
            method="every number of the layer enclosed, from its stored weights and its stored "
            "input",
            parameters=parameters,
            observed=observed,
            scope="of stored weights on a stored input",
        )
    else:
        tensors: dict[str, Tensor] = {}
        reads = {}
        systems = {"": formed} if isinstance(formed, System) else formed
        for prefix, system in systems.items():
            tensors |= {prefix + role: part for role, part in _coefficients(system).items()}
            reads[prefix + "read"] = "before" if system.reads_before_update else "after"
        proposal = Proposal(
            name=name,
            tensors=tensors,
            method="the map in exact arithmetic, from the stored coefficients",
            parameters={**reads, **parameters},
            observed=observed,
            assumptions=(
                "the coefficients are those of the system as it was formed in floating point",
            ),
        )
    proved, against = settled(proposal, None), [settled(proposal, each) for each in witnesses]
    order = (*against, proved) if refuted else (proved, *against)
    return where_conclusive(order, proposal, where, "checker")


def _coefficients(system: System) -> dict[str, Tensor]:
    """The coefficients as the format has them; complex states as pairs of real ones."""
    is_cached = kept_rows(system) is not None
    is_complex = system.dtype.is_complex and not system.takes_real_part
    cures = (
        (len(system.batch), f"the batch axes {tuple(system.batch)}. Decide one map at a time: "
         "dsf.systems.algebra.select(system, index)."),
        (system.runs_backward, "tokens that run backward. Reverse it first: "
         "dsf.systems.algebra.reverse(system)."),
        (system.initial is not None, "an initial state, which is not part of the map. Decide "
         "equivalent at level data, which has it as further columns, or drop it."),
        (is_cached, "an attention cache for a state. Decide the rows of its map: "
         "dsf.attention_map(system)."),
        (is_complex, "a complex map. Decide its real part."),
    )  # fmt: skip
    for there, cure in cures:
        if there:
            raise ValueError(f"certify at level real: the system has {cure}")
    whole = system.window(0, system.steps, dtype=torch.float64)
    steps = system.steps
    B, C, D = (
        torch.as_tensor(part).expand(steps, *part.shape[-2:])
        for part in (whole.B, whole.C, whole.feedthrough)
    )
    is_complex = any(part.is_complex() for part in (B, C, D)) or whole.A.dtype.is_complex
    found = {**stored_transitions(whole.A, paired=is_complex), "B": B, "C": C, "D": D}
    if is_complex:
        B, C, D = (part.to(torch.complex128) for part in (B, C, D))
        found |= {
            "B": torch.cat([B.real, B.imag], dim=-2),
            "C": torch.cat([C.real, -C.imag], dim=-1),
            "D": D.real,
        }
    return {role: part.cpu().contiguous() for role, part in found.items()}


def stored_transitions(A: Transition, *, paired: bool) -> dict[str, Tensor]:
    """Transitions as the format has them."""
    steps = A.steps
    left = right = torch.zeros(steps, A.state_size, 1, dtype=A.dtype)
    if isinstance(A, DiagonalPlusLowRank):
        left, right = (part.expand(steps, -1, -1) for part in (A.left, A.right))
        own = A.decay.expand(steps, -1)
    else:
        decay = A.diagonal()
        own = A.dense().expand(steps, -1, -1) if decay is None else decay.expand(steps, -1)
    if not paired:
        return {"A": own, "left": left, "right": right}

    def turned(part: Tensor) -> Tensor:
        part = part.to(torch.complex128)
        rows = torch.cat([part.real, -part.imag], dim=-1)
        return torch.cat([rows, torch.cat([part.imag, part.real], dim=-1)], dim=-2)

    whole = torch.diag_embed(own) if own.ndim == 2 else own
    return {"A": turned(whole), "left": turned(left), "right": turned(right.conj())}


ROWS = {
    "row_sums": (checker.row_sums, "exact sums"),
    "nonnegative": (checker.nonnegative, "the sign of every stored number"),
    "causal": (checker.causal, "exact zeros above the diagonal"),
    "window_mass": (checker.window_mass, "exact sums"),
}
"""Claims about the rows of a map: whether a row breaks it, and how that is decided."""
Map = Float[Tensor, "*batch rows columns"]


@claim
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
    if not (isfinite(target) and isfinite(tolerance) and tolerance >= 0):
        raise ValueError(
            f"row_sums: 'target' must be a finite number and 'tolerance' a finite one of at least "
            f"0, but they are {target} and {tolerance}."
        )
    parameters = {"target": written(target), "tolerance": written(tolerance)}
    if isinstance(map, System | StoredLayer):
        away = (_midpoint(map).sum(dim=-1) - float(target)).abs()
        row, most = int(away.argmax()), float(away.max())
        refuted = most > float(tolerance)
        return _of_formed("system_row_sums", map, parameters, most, [{"row": row}], refuted, folder)
    off: list[Fraction] = []
    if _finite(map):
        part = stored(map)
        rows = [part.scaled(row) for row in range(part.rows)]
        off = [abs(Fraction(sum(values), unit) - Fraction(target)) for values, unit in rows]
    worst = max(range(len(off)), key=off.__getitem__, default=0)
    return _decided(
        "row_sums", map, as_float(off[worst]) if off else None, worst, folder, parameters
    )


@claim
def zero_sums(
    map: Map | System | StoredLayer, *, tolerance: Number = 0.0, folder: Where = None
) -> Certificate:
    """Certify that every row sums to zero within ``tolerance``: ``row_sums`` with target 0."""
    return row_sums(map, target=0.0, tolerance=tolerance, folder=folder)


@claim
def nonnegative(map: Map | System | StoredLayer, *, folder: Where = None) -> Certificate:
    """Certify that no stored weight is below zero. The witness is the row of the smallest one.

    Of a stored map, at level data; or at level real, of the map of a system, in exact arithmetic on
    its coefficients, or of a stored layer, enclosed from its weights and input. At level real the
    witness is the entry.
    """
    if isinstance(map, System | StoredLayer):
        formed = _midpoint(map)
        if isinstance(map, StoredLayer):  # there are no weights on later tokens
            formed = formed + torch.full_like(formed, inf).triu(1)
        smallest = float(formed.min())
        row, column = divmod(int(formed.argmin()), formed.shape[-1])
        place = {"row": row, "column": column}
        return _of_formed("system_nonnegative", map, {}, smallest, [place], smallest < 0, folder)
    least = map.resolve_neg().flatten(0, -2).amin(dim=-1)
    worst = int(least.argmin())
    return _decided("nonnegative", map, float(least[worst]), worst, folder)


@claim
def causal(map: Map, *, folder: Where = None) -> Certificate:
    """Certify that every stored weight above the diagonal is exactly zero.

    Raises:
        ValueError: if the map is not square.
    """
    _square("causal", map)
    ahead = map.triu(1).abs().amax(dim=-1).flatten()
    worst = int(ahead.argmax())
    return _decided("causal", map, float(ahead[worst]), worst, folder)


@claim
def window_mass(map: Map, *, width: int, share: Number, folder: Where = None) -> Certificate:
    """Certify that at least ``share`` of every row's absolute weight lies on its last ``width``
    tokens, its own included.

    Raises:
        ValueError: if ``width`` is below 1, ``share`` outside 0 ... 1, or the map not square.
    """
    _square("window_mass", map)
    if width < 1 or not 0 <= share <= 1:
        raise ValueError(
            f"window_mass: 'width' must be at least 1 and 'share' lie between 0 and 1, but they "
            f"are {width} and {share}."
        )
    shares = measures.window_mass(map.double(), width=width).flatten()
    worst = int(shares.nan_to_num(1.0).argmin())  # rows of zeros keep any share
    observed = float(shares[worst]) if _finite(map) else None
    observed = None if observed is None or isnan(observed) else observed
    parameters = {"width": width, "share": written(share)}
    return _decided("window_mass", map, observed, worst, folder, parameters)


@claim
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
    return settled(proposal, witness, observed=_root(energy))


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


@claim
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
        maps = [attention_map(system, enclosed=True).midpoint for system in (first, second)]
        if maps[0].shape != maps[1].shape:
            raise ValueError(
                f"equivalent: needs maps of one shape, but they are {tuple(maps[0].shape)} and "
                f"{tuple(maps[1].shape)}."
            )
        apart = float(torch.linalg.matrix_norm(maps[0] - maps[1]))
        least, seen = Fraction(tolerance) ** 2, Fraction(apart) ** 2 * SLACK
        # a number just above the square of the tolerance, for a distance that float64 does not see
        close = least * (1 + NEXT) if least else NEXT
        witnesses = [{"energy": energy} for energy in (seen, close) if energy > least]
        parameters, systems = {"tolerance": written(tolerance)}, {"": first, "other_": second}
        refuted = seen > least
        return _of_formed("same_system", systems, parameters, apart, witnesses, refuted, folder)
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


@claim
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
    return issued(_compared(map, other, float(reduction.bound), FORMED), folder)
