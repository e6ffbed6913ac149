"""Certificates on state transitions: delta steps that do not expand, and bounds on decays."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates.certificate import Certificate, Verdict
from dsf.certificates.exact import fractions_of
from dsf.certificates.issuing import (
    CheckerRefused,
    Proposal,
    hexed,
    issued,
    on_the_processor,
    settled,
)


@on_the_processor
def nonexpansive(
    key: Float[Tensor, "time key"], rate: Float[Tensor, " time"], *, folder: Path | None = None
) -> Certificate:
    """Certify that no delta step ``I - b k kᵀ`` expands: ``0 <= b |k|² <= 2``, exactly.

    Multiplied by decays of at most one it stays nonexpansive. The witness is the token whose
    ``b |k|²`` is furthest from 1, and ``observed`` is that value.
    """
    sizes = rate.double() * key.double().square().sum(dim=-1)
    worst = int((sizes - 1).abs().nan_to_num(0.0).argmax())
    proposal = Proposal(
        name="nonexpansive",
        verdict=Verdict.UNKNOWN,
        tensors={"key": key, "rate": rate},
        method="exact products of every token",
        observed=float(sizes[worst]),
    )
    if not bool(sizes.isfinite().all()):
        return issued(proposal, folder)

    def expands(token: int) -> bool:
        length = sum((part * part for part in fractions_of(key[token])), Fraction(0))
        return not 0 <= fractions_of(rate[token : token + 1])[0] * length <= 2

    order = [worst, *range(len(rate))]
    return issued(settled(proposal, next(filter(expands, order), None)), folder)


@on_the_processor
def decay(
    log_decay: Float[Tensor, "*batch time"],
    *,
    width: int,
    most: float,
    folder: Path | None = None,
) -> Certificate:
    """Certify that the decay over any ``width`` tokens in a row is at most ``most``.

    The logarithms are summed exactly, and one exponential is enclosed in an interval. ``observed``
    is the largest product in float64. UNKNOWN if the bound lies inside that interval.

    Raises:
        ValueError: if the window does not fit the sequence or ``most`` is not above 0.
    """
    if not 1 <= width <= log_decay.shape[-1] or not most > 0:
        raise ValueError(
            f"decay: 'width' must lie between 1 and {log_decay.shape[-1]} and 'most' be above 0, "
            f"but they are {width} and {most}."
        )
    sums = log_decay.double().unfold(-1, width, 1).sum(dim=-1)
    worst = int(sums.amax(dim=-1).flatten().argmax())
    largest = float(sums.max().exp())
    proposal = Proposal(
        name="decay",
        verdict=Verdict.UNKNOWN,
        tensors={"log_decay": log_decay},
        method="exact sums, one enclosed exponential",
        parameters={"width": width, "most": hexed(most)},
        observed=largest,
    )
    if not bool(log_decay.isfinite().all()):
        return issued(proposal, folder)
    return _tried(settled(proposal, worst if largest > most else None), proposal, folder)


@on_the_processor
def decay_box(
    weight: Float[Tensor, " input"],
    bias: Float[Tensor, ""],
    rate: Float[Tensor, ""],
    box: tuple[Float[Tensor, " input"], Float[Tensor, " input"]],
    *,
    width: int,
    most: float,
    folder: Path | None = None,
) -> Certificate:
    """Certify a decay for every input of a box: ``exp(-rate softplus(weight.x + bias))``, the
    selective decay of Mamba with ``rate = exp(A_log)``, over ``width`` tokens is at most ``most``.

    The decay is decreasing in ``weight.x``, so one corner of the box decides; its exponentials are
    enclosed in intervals. UNKNOWN if these are not conclusive.

    Raises:
        ValueError: if the box is empty, or ``width``, ``most`` or ``rate`` out of range.
    """
    lower, upper = box
    if bool((lower > upper).any()):
        raise ValueError("decay_box: 'box' has a lower bound above its upper bound.")
    if width < 1 or not most > 0 or not float(rate) >= 0:
        raise ValueError(
            f"decay_box: needs width >= 1, most > 0 and rate >= 0, but they are {width}, {most} "
            f"and {float(rate)}."
        )
    least = torch.where(weight > 0, weight * lower, weight * upper).double().sum() + bias
    largest = float(torch.exp(-width * rate * torch.nn.functional.softplus(least)))
    proposal = Proposal(
        name="decay_box",
        verdict=Verdict.UNKNOWN,
        tensors={
            "weight": weight,
            "bias": bias.reshape(1),
            "rate": rate.reshape(1),
            "lower": lower,
            "upper": upper,
        },
        method="the worst corner, enclosed exponentials",
        parameters={"width": width, "most": hexed(most)},
        observed=largest,
        limits={"search": "the enclosure does not reach the bound"} if largest > most else {},
    )
    if largest > most or not all(bool(t.isfinite().all()) for t in proposal.tensors.values()):
        return issued(proposal, folder)
    return _tried(settled(proposal, None), proposal, folder)


def _tried(decided: Proposal, undecided: Proposal, folder: Path | None) -> Certificate:
    """The certificate of a float64 verdict, or UNKNOWN where intervals are not conclusive."""
    try:
        return issued(decided, folder)
    except CheckerRefused as error:
        limits = {"enclosure": str(error)}
        return issued(replace(undecided, limits=limits), folder)
