"""Certificates about a map in exact arithmetic, from what it is formed of.

The coefficients of a system are stored, or the weights and the input of a layer, not the map: the
verdict speaks of the map that the formula defines for these numbers. What was rounded while a
system was formed, or in the run of a model, is not part of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import checker
from dsf.certificates.certificate import Certificate
from dsf.certificates.issuing import (
    Proposal,
    Where,
    certifiable,
    settled,
    stored,
    where_conclusive,
    written,
)
from dsf.evaluate import attention_map
from dsf.evaluate.cache import kept_rows
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
            found[i, : i + 1] = torch.tensor([float((low + high) / 2) for low, high in row])
        return found


def layer_nonnegative(layer: StoredLayer, *, folder: Where = None) -> Certificate:
    """Certify that no weight of the map is below zero; the witness is the smallest weight."""
    entries = [
        (high, i, j) for i, row in enumerate(layer.enclosed) for j, (_, high) in enumerate(row)
    ]
    high, row, column = min(entries)
    witness = {"row": row, "column": column} if high < 0 else None
    return _of_layer(layer, "nonnegative", {}, witness, float(high), folder)


def layer_row_sums(
    layer: StoredLayer, *, target: float | Fraction, tolerance: float | Fraction, folder: Where
) -> Certificate:
    """Certify that every row of the map sums to ``target`` within ``tolerance``."""
    sums = [checker.plus(row) for row in layer.enclosed]
    off = [max(abs(end - Fraction(target)) for end in ends) for ends in sums]
    row = max(range(len(off)), key=off.__getitem__)
    parameters = {"target": written(target), "tolerance": written(tolerance)}
    witness = {"row": row} if off[row] > Fraction(tolerance) else None
    return _of_layer(layer, "row_sums", parameters, witness, float(off[row]), folder)


def _of_layer(
    layer: StoredLayer,
    name: str,
    parameters: Mapping[str, Any],
    witness: Mapping[str, Any] | None,
    observed: float,
    where: Where,
) -> Certificate:
    """The certificate, or UNKNOWN where the enclosures are too wide for either verdict."""
    proposal = Proposal(
        name=f"{layer.kind}_{name}",
        tensors=layer.parts,
        method="every number of the layer enclosed, from its stored weights and its stored input",
        parameters=parameters,
        observed=observed,
        scope="of stored weights on a stored input",
    )
    return where_conclusive([settled(proposal, witness)], proposal, where, "checker")


def system_nonnegative(system: System, *, folder: Where = None) -> Certificate:
    """Certify that no weight of the map of ``system`` is below zero; the witness is an entry."""
    enclosed = attention_map(system, enclosed=True)
    flat = enclosed.midpoint.flatten()
    worst = int(flat.argmin())
    row, column = divmod(worst, enclosed.midpoint.shape[-1])
    witness = {"row": row, "column": column}
    refuted = bool(enclosed.upper.flatten()[worst] < 0)
    systems, observed = {"": system}, float(flat[worst])
    return _of_system("system_nonnegative", systems, {}, observed, [witness], refuted, folder)


def system_row_sums(
    system: System, *, target: Number = 1.0, tolerance: Number = 0.0, folder: Where = None
) -> Certificate:
    """Certify that every row of the map sums to ``target`` within ``tolerance``."""
    sums = attention_map(system, enclosed=True).midpoint.sum(dim=-1)
    off = (sums - float(target)).abs()
    row = int(off.argmax())
    parameters = {"target": written(target), "tolerance": written(tolerance)}
    systems, observed, refuted = {"": system}, float(off[row]), bool(off[row] > float(tolerance))
    witness = {"row": row}
    return _of_system("system_row_sums", systems, parameters, observed, [witness], refuted, folder)


def same_system(
    first: System, second: System, *, tolerance: Number, folder: Where = None
) -> Certificate:
    """Certify that two systems have maps at most ``tolerance`` apart in Frobenius norm."""
    maps = [attention_map(system, enclosed=True).midpoint for system in (first, second)]
    if maps[0].shape != maps[1].shape:
        raise ValueError(
            f"equivalent: needs maps of one shape, but they are {tuple(maps[0].shape)} and "
            f"{tuple(maps[1].shape)}."
        )
    apart = float(torch.linalg.matrix_norm(maps[0] - maps[1]))
    least = Fraction(tolerance) ** 2
    seen = Fraction(apart) ** 2 * SLACK
    # a number just above the square of the tolerance, for a distance that float64 does not see
    close = least * (1 + NEXT) if least else NEXT
    witnesses = [{"energy": energy} for energy in (seen, close) if energy > least]
    parameters = {"tolerance": written(tolerance)}
    systems = {"": first, "other_": second}
    return _of_system("same_system", systems, parameters, apart, witnesses, seen > least, folder)


def _of_system(
    name: str,
    systems: Mapping[str, System],
    parameters: Mapping[str, Any],
    observed: float,
    witnesses: Sequence[Mapping[str, Any]],
    refuted: bool,
    where: Where,
) -> Certificate:
    """The verdict of the enclosed map first; others if the checker refuses it."""
    tensors: dict[str, Tensor] = {}
    reads = {}
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
    """The coefficients as the format has them; complex states as pairs of real ones.

    Raises:
        ValueError: if the format cannot hold the system; names what it has, and the cure.
    """
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
    for role in ("B", "C", "D"):
        part = getattr(system, role)
        if isinstance(part, Tensor) and not part.is_complex():
            certifiable(role, part)
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
    """Transitions as the format has them.

    Args:
        paired: write complex states as pairs of real ones, which keeps all singular values.
    """
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
