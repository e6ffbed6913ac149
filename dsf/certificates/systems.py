"""Certificates about the map of a stored system, in exact arithmetic on its coefficients.

The coefficients are stored, not the map: what the checkers decide is the map that they define, with
no rounding anywhere. What was rounded while the coefficients themselves were formed is not seen.
"""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from dsf.certificates.certificate import Certificate, Level, Verdict
from dsf.certificates.issuing import CheckerRefused, Proposal, Where, certifiable, issued, written
from dsf.evaluate import attention_map
from dsf.evaluate.cache import kept_rows
from dsf.systems.system import System
from dsf.systems.transition import DiagonalPlusLowRank, Transition

Number = float | Fraction
SLACK = Fraction((1 << 20) - 1, 1 << 20)
NEXT = Fraction(1, 1 << 300)
METHOD = "the map in exact arithmetic, from the stored coefficients"
FORMED = "the coefficients are those of the system as it was formed in floating point"


def system_nonnegative(system: System, *, folder: Where = None) -> Certificate:
    """Certify that no weight of the map of ``system`` is below zero; the witness is an entry."""
    enclosed = attention_map(system, enclosed=True)
    flat = enclosed.upper.flatten()
    worst = int(enclosed.midpoint.flatten().argmin())
    row, column = divmod(worst, enclosed.midpoint.shape[-1])
    proposal = _proposal("system_nonnegative", {"": system}, {})
    proposal = replace(proposal, observed=float(enclosed.midpoint.flatten()[worst]))
    witness = {"row": row, "column": column}
    return _decided(proposal, [witness], refuted=bool(flat[worst] < 0), where=folder)


def system_row_sums(
    system: System, *, target: Number = 1.0, tolerance: Number = 0.0, folder: Where = None
) -> Certificate:
    """Certify that every row of the map sums to ``target`` within ``tolerance``."""
    sums = attention_map(system, enclosed=True).midpoint.sum(dim=-1)
    off = (sums - float(target)).abs()
    row = int(off.argmax())
    parameters = {"target": written(target), "tolerance": written(tolerance)}
    proposal = replace(
        _proposal("system_row_sums", {"": system}, parameters), observed=float(off[row])
    )
    refuted = bool(off[row] > float(tolerance))
    return _decided(proposal, [{"row": row}], refuted=refuted, where=folder)


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
    parameters = {"tolerance": written(tolerance)}
    proposal = _proposal("same_system", {"": first, "other_": second}, parameters)
    proposal = replace(proposal, observed=apart)
    least = Fraction(tolerance) ** 2
    seen = Fraction(apart) ** 2 * SLACK
    # a number just above the square of the tolerance, for a distance that float64 does not see
    close = least * (1 + NEXT) if least else NEXT
    witnesses = [{"energy": energy} for energy in (seen, close) if energy > least]
    return _decided(proposal, witnesses, refuted=seen > least, where=folder)


def _decided(
    proposal: Proposal, witnesses: list[dict[str, Any]], *, refuted: bool, where: Where
) -> Certificate:
    """The verdict of the enclosed map first; others if the checker refuses it."""
    proved = replace(proposal, verdict=Verdict.PROVED)
    against = [replace(proposal, verdict=Verdict.REFUTED, witness=each) for each in witnesses]
    reason = ""
    for decided in (*against, proved) if refuted else (proved, *against):
        try:
            return issued(decided, where)
        except CheckerRefused as error:
            reason = reason or str(error)
    return issued(replace(proposal, limits={"checker": reason}), where)


def _proposal(name: str, systems: Mapping[str, System], parameters: Mapping[str, Any]) -> Proposal:
    tensors: dict[str, Tensor] = {}
    reads: dict[str, Any] = {}
    for prefix, system in systems.items():
        tensors |= {prefix + role: part for role, part in _stored(system).items()}
        reads[prefix + "read"] = "before" if system.reads_before_update else "after"
    return Proposal(
        name=name,
        verdict=Verdict.UNKNOWN,
        tensors=tensors,
        method=METHOD,
        parameters={**reads, **parameters},
        assumptions=(FORMED,),
    )


def _stored(system: System) -> dict[str, Tensor]:
    """The coefficients as the format has them; complex states as pairs of real ones."""
    _decidable(system)
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


def _decidable(system: System) -> None:
    """Raise unless the format can hold the system.

    Raises:
        ValueError: names what the system has, and the cure.
    """
    cures = {
        f"the batch axes {tuple(system.batch)}": (
            len(system.batch) > 0,
            "Decide one map at a time: dsf.systems.algebra.select(system, index).",
        ),
        "tokens that run backward": (
            system.runs_backward,
            "Reverse it first: dsf.systems.algebra.reverse(system).",
        ),
        "an initial state, which is not part of the map": (
            system.initial is not None,
            "Decide equivalent at level data, which has it as further columns, or drop it.",
        ),
        "an attention cache for a state": (
            kept_rows(system) is not None,
            "Decide the rows of its map: dsf.attention_map(system).",
        ),
        "a complex map": (
            system.dtype.is_complex and not system.takes_real_part,
            "Decide its real part.",
        ),
    }
    for what, (there, cure) in cures.items():
        if there:
            raise ValueError(f"certify at level real: the system has {what}. {cure}")
    for role in ("B", "C", "D"):
        part = getattr(system, role)
        if isinstance(part, Tensor) and not part.is_complex():
            certifiable(role, part)


def is_real(level: Level) -> bool:
    """Whether the claim is to speak about the map that stored coefficients define.

    Raises:
        ValueError: for the level float, which has no claim.
    """
    if level is Level.FLOAT:
        raise ValueError("certify: no claim of level FLOAT is offered. Use DATA or REAL.")
    return level is Level.REAL
