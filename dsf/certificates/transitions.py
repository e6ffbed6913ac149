"""Certificates on state transitions: delta steps that do not expand, and bounds on decays."""

from fractions import Fraction
from math import exp, inf

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import checker
from dsf.certificates.certificate import Certificate
from dsf.certificates.issuing import (
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


@claim
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

    Raises:
        ValueError: if the shapes do not fit.
    """
    if key.ndim != 2 or rate.shape != key.shape[:1]:
        raise ValueError(
            f"nonexpansive: needs keys with the axes 'time key' and one rate for every key, but "
            f"the shapes are {tuple(key.shape)} and {tuple(rate.shape)}. Decide one map of a batch "
            f"at a time."
        )
    if log_decay is not None and log_decay.shape != rate.shape:
        raise ValueError(
            f"nonexpansive: needs one log decay for every key, but the shapes are "
            f"{tuple(log_decay.shape)} and {tuple(rate.shape)}."
        )
    certifiable("key", key)
    certifiable("rate", rate)
    steps = rate.double() * key.double().square().sum(dim=-1)
    gains = (1 - steps).abs()
    if key.shape[-1] > 1:
        gains = gains.clamp(min=1.0)
    finite = bool(key.isfinite().all()) and bool(rate.isfinite().all())
    part, rates = stored(key), stored(rate).row(0) if finite else []
    if finite and not bool(steps.isfinite().all()):  # squares beyond a float
        exact = [checker.step_gain(part, rates, token) for token in range(len(rate))]
        gains = torch.tensor([as_float(each) for each in exact], dtype=torch.float64)
    logs = torch.zeros_like(steps) if log_decay is None else log_decay.double()
    gains = gains * logs.exp()
    worst = int(gains.nan_to_num(0.0).argmax())
    tensors = {"key": key, "rate": rate}
    proposal = Proposal(
        name="nonexpansive" if log_decay is None else "nonexpansive_decayed",
        tensors=tensors if log_decay is None else {**tensors, "log_decay": log_decay},
        method="exact products of every token, enclosed decays",
        observed=float(gains[worst]),
    )
    if not all(bool(part.isfinite().all()) for part in proposal.tensors.values()):
        return issued(proposal, folder)

    def expands(token: int) -> bool:
        gain = checker.step_gain(part, rates, token)
        return checker.exp_below(Fraction(float(logs[token]))) * gain > 1

    broken = next(filter(expands, [worst, *range(len(rate))]), None)
    witness = None if broken is None else {"token": broken}
    return where_conclusive([settled(proposal, witness)], proposal, folder)


@claim
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
    if not 1 <= width <= log_decay.shape[-1] or not 0 < most < inf:
        raise ValueError(
            f"decay: 'width' must lie between 1 and {log_decay.shape[-1]} and 'most' be finite "
            f"and above 0, but they are {width} and {most}."
        )
    certifiable("log_decay", log_decay)
    part = stored(log_decay)
    windows = (checker.largest_window(part.log_decays(row), width) for row in range(part.rows))
    found = [(*window, row) for row, window in enumerate(windows) if window is not None]
    witness, largest = None, 0.0
    if found:
        exact, token, row = max(found, key=lambda window: window[0])
        place = torch.unravel_index(torch.tensor(row), (*log_decay.shape[:-1], 1))
        try:
            largest = exp(exact)
        except OverflowError:
            largest = inf
        if checker.exp_below(exact) > Fraction(most):
            witness = {"batch": [int(axis) for axis in place[:-1]], "token": token}
    proposal = Proposal(
        name="decay",
        tensors={"log_decay": log_decay},
        method="exact sums, one enclosed exponential",
        parameters={"width": width, "most": written(most)},
        observed=largest,
    )
    return where_conclusive([settled(proposal, witness)], proposal, folder)


@claim
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
    if width < 1 or not 0 < most < inf or not float(rate) >= 0:
        raise ValueError(
            f"decay_box: needs 'width' >= 1, a finite 'most' > 0 and 'rate' >= 0, but they are "
            f"{width}, {most} and {float(rate)}."
        )
    corner = torch.where(weight > 0, lower, upper).double()
    least = weight.double() @ corner + bias
    largest = float(torch.exp(-float(width) * rate * torch.nn.functional.softplus(least)))
    proposal = Proposal(
        name="decay_box",
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
    return where_conclusive([settled(proposal, witness)], proposal, folder)
