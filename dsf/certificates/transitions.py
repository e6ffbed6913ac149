"""Certificates on state transitions: delta steps that do not expand, and bounds on decays."""

from dataclasses import replace
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import checker
from dsf.certificates.certificate import Certificate, Verdict
from dsf.certificates.exact import fractions_of
from dsf.certificates.issuing import (
    CheckerRefused,
    Proposal,
    Where,
    issued,
    on_the_processor,
    settled,
    written,
)


@on_the_processor
def nonexpansive(
    key: Float[Tensor, "time key"],
    rate: Float[Tensor, " time"],
    log_decay: Float[Tensor, " time"] | None = None,
    *,
    folder: Where = None,
) -> Certificate:
    """Certify that no transition ``exp(g) (I - b k kᵀ)`` of a delta rule expands.

    Without ``log_decay`` the transitions are ``I - b k kᵀ``, and the condition is
    ``0 <= b |k|² <= 2``, decided exactly. With it, the largest singular value
    ``exp(g) max(1, |1 - b |k|²|)`` is enclosed; for keys of width one it is ``exp(g) |1 - b k²|``.
    The witness is the token with the largest one, which is ``observed``.
    """
    steps = rate.double() * key.double().square().sum(dim=-1)
    gains = (1 - steps).abs()
    if key.shape[-1] > 1:
        gains = gains.clamp(min=1.0)
    logs = torch.zeros_like(steps) if log_decay is None else log_decay.double()
    gains = gains * logs.exp()
    worst = int(gains.nan_to_num(0.0).argmax())
    tensors = {"key": key, "rate": rate}
    proposal = Proposal(
        name="nonexpansive" if log_decay is None else "nonexpansive_decayed",
        verdict=Verdict.UNKNOWN,
        tensors=tensors if log_decay is None else {**tensors, "log_decay": log_decay},
        method="exact products of every token, enclosed decays",
        observed=float(gains[worst]),
    )
    if not bool((steps + logs).isfinite().all()):
        return issued(proposal, folder)

    def expands(token: int) -> bool:
        length = sum((part * part for part in fractions_of(key[token])), Fraction(0))
        size = fractions_of(rate[token : token + 1])[0] * length
        gain = abs(1 - size) if key.shape[-1] == 1 else max(Fraction(1), abs(1 - size))
        if not logs[token]:
            return gain > 1
        return checker.exp_below(fractions_of(logs[token : token + 1])[0]) * gain > 1

    order = [worst, *range(len(rate))]
    broken = next(filter(expands, order), None)
    witness = None if broken is None else {"token": broken}
    return _tried(settled(proposal, witness), proposal, folder)


@on_the_processor
def decay(
    log_decay: Float[Tensor, "*batch time"],
    *,
    width: int,
    most: float,
    folder: Where = None,
) -> Certificate:
    """Certify that the decay over any ``width`` tokens in a row is at most ``most``.

    The logarithms are summed exactly, and one exponential is enclosed in an interval. Minus
    infinity is a decay of zero. ``observed`` is the largest product in float64; the witness is the
    first token of its window. UNKNOWN if the bound lies inside that interval.

    Raises:
        ValueError: if the window does not fit the sequence or ``most`` is not above 0.
    """
    if not 1 <= width <= log_decay.shape[-1] or not most > 0:
        raise ValueError(
            f"decay: 'width' must lie between 1 and {log_decay.shape[-1]} and 'most' be above 0, "
            f"but they are {width} and {most}."
        )
    sums = log_decay.double().unfold(-1, width, 1).sum(dim=-1)
    *batch, token = (int(part) for part in torch.unravel_index(sums.argmax(), sums.shape))
    largest = float(sums.max().exp())
    proposal = Proposal(
        name="decay",
        verdict=Verdict.UNKNOWN,
        tensors={"log_decay": log_decay},
        method="exact sums, one enclosed exponential",
        parameters={"width": width, "most": written(most)},
        observed=largest,
    )
    witness = {"batch": batch, "token": token} if largest > most else None
    return _tried(settled(proposal, witness), proposal, folder)


@on_the_processor
def decay_box(
    weight: Float[Tensor, " input"],
    bias: Float[Tensor, ""],
    rate: Float[Tensor, ""],
    box: tuple[Float[Tensor, " input"], Float[Tensor, " input"]],
    *,
    width: int,
    most: float,
    folder: Where = None,
) -> Certificate:
    """Certify a decay for every input of a box: ``exp(-rate softplus(weight.x + bias))``, the
    selective decay of Mamba with ``rate = exp(A_log)``, over ``width`` tokens is at most ``most``.

    The decay is decreasing in ``weight.x``, so one corner of the box decides, and is the witness
    where the claim fails; its exponentials are enclosed in intervals. UNKNOWN if these are not
    conclusive.

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
    corner = torch.where(weight > 0, lower, upper).double()
    least = weight.double() @ corner + bias
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
        parameters={
            "box": [float(lower.min()), float(upper.max())],
            "width": width,
            "most": written(most),
        },
        observed=largest,
    )
    if not all(bool(t.isfinite().all()) for t in proposal.tensors.values()):
        return issued(proposal, folder)
    witness = {"input": corner.tolist()} if largest > most else None
    return _tried(settled(proposal, witness), proposal, folder)


def _tried(decided: Proposal, undecided: Proposal, folder: Where) -> Certificate:
    """The certificate of a float64 verdict, or UNKNOWN where intervals are not conclusive."""
    try:
        return issued(decided, folder)
    except CheckerRefused as error:
        limits = {"enclosure": str(error)}
        return issued(replace(undecided, limits=limits), folder)
