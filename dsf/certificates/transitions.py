"""Certificates on state transitions: steps that do not expand, bounds on decays, and horizons.

The horizon is how many last tokens determine the state, to a relative error, whatever came before
them. The states of two runs that agree on the tokens t - W + 1 ... t differ after token t by the
product of the W transitions between times their difference after token t - W. The width is found in
float64, with a bound on all rounding, and decided by the checker: from sums of logarithms of
diagonal transitions, from products of others in exact arithmetic.
"""

from bisect import bisect_left
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import exp, inf
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dsf.certificates import certificate, checker
from dsf.certificates.maps import stored_transitions
from dsf.evaluate import respond
from dsf.evaluate.arguments import Signal, forward_form
from dsf.mixers import GatedDeltaNet
from dsf.runtime.argument_checks import checked
from dsf.runtime.shapes import at_least
from dsf.systems.algebra import select
from dsf.systems.composite import Operator, kept_rows
from dsf.systems.system import System


@certificate.claim
def nonexpansive(
    key: Float[Tensor, "time key"],
    rate: Float[Tensor, " time"],
    log_decay: Float[Tensor, " time"] | None = None,
    *,
    folder: certificate.Where = None,
) -> certificate.Certificate:
    """Certify that no transition ``exp(g) (I - b k kᵀ)`` of a delta rule expands.

    Without ``log_decay`` the transitions are ``I - b k kᵀ``, and the condition is
    ``0 <= b |k|² <= 2``, decided exactly. With it, the largest singular value
    ``exp(g) max(1, |1 - b |k|²|)`` is enclosed; for keys of width one it is ``exp(g) |1 - b k²|``.
    The witness is the token with the largest one, which is ``observed``.

    Raises:
        ShapeError: if the shapes do not fit.
    """
    steps = rate.double() * key.double().square().sum(dim=-1)
    gains = (1 - steps).abs()
    if key.shape[-1] > 1:
        gains = gains.clamp(min=1.0)
    finite = bool(key.isfinite().all()) and bool(rate.isfinite().all())
    part, rates = certificate.stored(key), certificate.stored(rate).row(0) if finite else []
    if finite and not bool(steps.isfinite().all()):  # squares beyond a float
        exact = [checker.step_gain(part, rates, token) for token in range(len(rate))]
        gains = torch.tensor([certificate.as_float(each) for each in exact], dtype=torch.float64)
    logs = torch.zeros_like(steps) if log_decay is None else log_decay.double()
    gains = gains * logs.exp()
    worst = int(gains.nan_to_num(0.0).argmax())
    tensors = {"key": key, "rate": rate}
    proposal = certificate.Proposal(
        name="nonexpansive" if log_decay is None else "nonexpansive_decayed",
        tensors=tensors if log_decay is None else {**tensors, "log_decay": log_decay},
        method="exact products of every token, enclosed decays",
        observed=float(gains[worst]),
    )
    if not all(bool(part.isfinite().all()) for part in proposal.tensors.values()):
        return certificate.issued(proposal, folder)

    def expands(token: int) -> bool:
        gain = checker.step_gain(part, rates, token)
        return checker.exp_below(Fraction(float(logs[token]))) * gain > 1

    broken = next(filter(expands, [worst, *range(len(rate))]), None)
    witness = None if broken is None else {"token": broken}
    return certificate.where_conclusive([certificate.settled(proposal, witness)], proposal, folder)


@certificate.claim
def decay(
    log_decay: Float[Tensor, "*batch time"],
    *,
    width: int,
    most: float,
    folder: certificate.Where = None,
) -> certificate.Certificate:
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
    part = certificate.stored(log_decay)
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
    proposal = certificate.Proposal(
        name="decay",
        tensors={"log_decay": log_decay},
        method="exact sums, one enclosed exponential",
        parameters={"width": width, "most": certificate.written(most)},
        observed=largest,
    )
    return certificate.where_conclusive([certificate.settled(proposal, witness)], proposal, folder)


@certificate.claim
def decay_box(
    weight: Float[Tensor, " input"],
    bias: Float[Tensor, ""],
    rate: Float[Tensor, ""],
    box: tuple[Float[Tensor, " input"], Float[Tensor, " input"]],
    *,
    width: int,
    most: float,
    folder: certificate.Where = None,
) -> certificate.Certificate:
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
    proposal = certificate.Proposal(
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
            "most": certificate.written(most),
        },
        observed=largest,
    )
    witness = {"input": corner.tolist()} if largest > most else None
    return certificate.where_conclusive([certificate.settled(proposal, witness)], proposal, folder)


MAX_WIDTH = 4096
"""Maximum number of tokens of a horizon that is searched for by default."""
ULP = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class HeadHorizon:
    """The horizon of one entry of a layer's batch axes.

    Attributes:
        index: its place on the batch axes, such as (sample, head).
        width: the least number of tokens found; None where the head keeps what came before, or no
            bound was shown.
        checked: a number of tokens, at least ``width``, for which the checker accepted all of
            ``certificates``; None where there is none.
        certificates: PROVED ones for ``checked``, and an ARGUED one for a smaller ``width``; an
            UNKNOWN one with the reason where there is no width.
    """

    index: tuple[int, ...]
    width: int | None
    checked: int | None
    certificates: tuple[certificate.Certificate, ...]

    @property
    def verdict(self) -> certificate.Verdict:
        """PROVED where the checker accepted ``width`` itself, else ARGUED or UNKNOWN."""
        if self.width is None:
            return certificate.Verdict.UNKNOWN
        return (
            certificate.Verdict.PROVED if self.checked == self.width else certificate.Verdict.ARGUED
        )


@dataclass(frozen=True)
class Horizon:
    """How many last tokens determine the states of a layer to relative ``eps`` in this run.

    Attributes:
        eps: the largest norm of a product of ``width`` transitions.
        heads: one for every entry of the batch axes.
    """

    eps: float
    heads: tuple[HeadHorizon, ...]

    @property
    def width(self) -> int | None:
        """The largest of all heads; None where one of them keeps."""
        widths = [head.width for head in self.heads]
        return None if None in widths else max(width for width in widths if width is not None)

    @property
    def verdict(self) -> certificate.Verdict:
        """The weakest of all heads."""
        order = (
            certificate.Verdict.UNKNOWN,
            certificate.Verdict.ARGUED,
            certificate.Verdict.PROVED,
        )
        return min((head.verdict for head in self.heads), key=order.index)

    def replay(
        self, system: System, signal: Signal, start: int
    ) -> Shaped[Tensor, "*batch later output channel"]:
        """Return the response from token ``start`` on, run from ``width`` tokens before it.

        For a cache that was lost, or a part of a sequence that another machine has the beginning
        of: earlier tokens are not read. The state before ``start`` is off by at most ``eps`` times
        the norm of the state ``width`` tokens earlier.

        Args:
            system, signal: those of the layer whose horizon this is, from its first token on.

        Raises:
            ValueError: if a head keeps what came before, the system runs backward, or there is no
                token ``start``.
        """
        if self.width is None:
            raise ValueError(
                "replay: expected heads that forget, got one without a horizon. Run the whole "
                "sequence, or find the horizon with a larger 'longest'."
            )
        if system.runs_backward or not 0 <= start < system.steps:
            raise ValueError(
                f"replay: expected a 'system' that runs forward and a 'start' from 0 to "
                f"{system.steps - 1}, got start {start}. Reverse the system first if it runs "
                "backward."
            )
        first = max(0, start - self.width)
        late = system.cut(first, system.steps) if first else system
        return respond(late, signal[..., first:, :, :])[..., start - first :, :, :]


@checked
def horizon(
    layer: Any,
    eps: float,
    *,
    longest: int = MAX_WIDTH,
    folder: certificate.Where = None,
) -> Horizon:
    """Certify how many last tokens determine the state after every token to relative ``eps``.

    The norm is the spectral one, in the states as the model stores them. A run that starts W tokens
    before t with another state differs after token t by at most ``eps`` times the difference of
    the states there. Time is linear in tokens times W, memory in tokens.

    Args:
        layer: of an inspection, or a system.
        eps: above 0 and below 1.
        longest: the largest W that is tried; heads that need more are UNKNOWN.

    Raises:
        ValueError: if ``eps`` is out of range, the layer is a sum of systems or ``longest`` < 1.

    Example:
        >>> import dsf, torch
        >>> half = torch.full((9, 2), 0.5, dtype=torch.float64)
        >>> A = dsf.systems.transition.Diagonal(half)
        >>> system = dsf.System.from_write_and_read(A, half, half)
        >>> found = dsf.certify.horizon(system, 0.1)
        >>> found.width, found.verdict.value
        (4, 'PROVED')
    """
    at_least(1, "horizon", "longest", longest)
    if not 0 < eps < 1:
        raise ValueError(f"horizon: expected 'eps' between 0 and 1, got {eps}.")
    system: Any = layer if isinstance(layer, Operator) else getattr(layer, "system", layer)
    if not isinstance(system, System):
        raise ValueError(
            f"horizon: expected a 'layer' with one recurrent state, got a {type(system).__name__}. "
            "Decide the parts of a sum one by one."
        )
    mixer = None if isinstance(layer, Operator) else layer.mixer
    mixer = mixer if getattr(layer, "heads", None) is None else None  # of other entries
    return Horizon(
        eps,
        tuple(
            _of_entry(select(system, index), mixer, index, eps, longest, folder)
            for index in product(*map(range, system.batch))
        ),
    )


def _of_entry(
    system: System,
    mixer: Any,
    index: tuple[int, ...],
    eps: float,
    longest: int,
    folder: certificate.Where,
) -> HeadHorizon:
    longest = min(longest, system.steps - 1)
    if kept_rows(system) is not None or longest < 1:
        return _open(index, eps, "it keeps every token" if longest else "there is one token")
    # The first transition acts on no token of this run.
    A = forward_form(system).A.cut(1, system.steps)
    A = A.to(dtype=torch.float64).window(0, A.steps)
    own = A.diagonal()
    if own is not None:
        logs = _above(own.abs()).log()
        return _of_decays(_above(logs).mT.contiguous(), index, eps, longest, folder)
    width = _by_products(A, eps, longest)
    argued: tuple[certificate.Certificate, ...] = ()
    if width is not None:
        proposal = certificate.Proposal(
            name="product_norm",
            verdict=certificate.Verdict.PROVED,
            tensors=stored_transitions(A, paired=A.dtype.is_complex),
            method="products in exact arithmetic, from the stored coefficients",
            parameters={"width": width, "most": certificate.written(eps)},
        )
        try:
            return HeadHorizon(index, width, width, (certificate.issued(proposal, folder),))
        except certificate.CheckerRefused as refusal:
            reason = str(refusal)
        argued = (
            certificate.Certificate(
                claim=f"the product of any {width} transitions has a norm of at most {eps}",
                verdict=certificate.Verdict.ARGUED,
                level=certificate.Level.DATA,
                method="products in float64, with a bound on all rounding",
                bound=eps,
                limits={"checker": reason},
            ),
        )
    if type(mixer) is GatedDeltaNet and not system.runs_backward:
        steps = nonexpansive(mixer.key[index], mixer.rate[index], folder=folder)
        alone = _of_decays(mixer.log_decay[index][None, 1:], index, eps, longest, folder)
        if steps.verdict is certificate.Verdict.PROVED and alone.checked is not None:
            known = alone.checked if width is None else width
            return HeadHorizon(index, known, alone.checked, (steps, *alone.certificates, *argued))
    if width is None:
        reason = f"no product of up to {longest} transitions is small at every token"
        return _open(index, eps, reason)
    return HeadHorizon(index, width, None, argued)


def _above(values: Tensor) -> Tensor:
    """Bounds from above of positive numbers and logarithms that were rounded a few times."""
    more = values + 4 * ULP * values.abs()
    return torch.where(values.isneginf(), values, more)


def _of_decays(
    logs: Float[Tensor, "state time"],
    index: tuple[int, ...],
    eps: float,
    longest: int,
    folder: certificate.Where,
) -> HeadHorizon:
    """By sums of logarithms: the least width for which all windows of all states are small."""
    width = _least_window(logs, eps, longest)
    if width is None:
        return _open(index, eps, f"a product of {longest} decays in a row is above it")
    for wider in (width, width + 1):  # where the enclosure of an exponential is not conclusive
        if wider <= logs.shape[-1]:
            found = decay(logs, width=wider, most=eps, folder=folder)
            if found.verdict is certificate.Verdict.PROVED:
                return HeadHorizon(index, wider, wider, (found,))
    return HeadHorizon(index, width, None, (found,))


def _least_window(logs: Tensor, eps: float, longest: int) -> int | None:
    """The least width with no window above ``eps``, in float64."""
    bound = torch.tensor(eps, dtype=torch.float64).log()

    def largest(width: int) -> Tensor:
        """By doubling, so that no sum of all tokens is subtracted from another."""
        whole, size, have, rest = logs.double(), 1, 0, width
        total = torch.zeros_like(whole)
        while True:
            if rest & 1:
                count = logs.shape[-1] - have - size + 1
                total = total[..., :count] + whole[..., have : have + count]
                have += size
            rest >>= 1
            if not rest:
                return total.max()
            whole = whole[..., :-size] + whole[..., size:]
            size *= 2

    def is_small(width: int) -> bool:
        return bool(largest(width) <= bound)

    widths = range(1, longest + 1)
    if bool((logs <= 0).all()):  # no window is larger than one inside it
        widths = widths[bisect_left(widths, True, key=is_small) :]
    return next(filter(is_small, widths), None)


def _by_products(A: Any, eps: float, longest: int) -> int | None:
    """The least width by all products of that many transitions, each with a bound on its error."""
    dense = A.dense()
    steps, states = A.steps, A.state_size
    size = torch.linalg.matrix_norm(dense, ord=2) * (1 + states * 8 * ULP)
    largest = torch.linalg.matrix_norm(dense)  # of the absolute values, for rounding
    products, error = dense, torch.zeros(steps, dtype=torch.float64)
    norms = torch.linalg.matrix_norm(products)
    for width in range(1, longest + 1):
        if width > 1:
            later = slice(width - 1, None)
            # A product of two matrices in float64 is off by at most N ulp of the absolute ones.
            rounding = (states + 4) * ULP * largest[later] * norms[:-1]
            error = size[later] * error[:-1] + rounding
            products = A.window(width - 1, steps) @ products[:-1]
            norms = torch.linalg.matrix_norm(products) * (1 + states**2 * ULP)
        if bool((norms / states**0.5 - error > eps).any()):
            continue
        unclear = norms + error > eps
        exact = torch.linalg.matrix_norm(products[unclear], ord=2) * (1 + states * 8 * ULP)
        if not bool((exact + error[unclear] > eps).any()):
            return width
    return None


def _open(index: tuple[int, ...], eps: float, reason: str) -> HeadHorizon:
    unknown = certificate.Certificate(
        claim=f"the last tokens determine the state to relative {eps}",
        verdict=certificate.Verdict.UNKNOWN,
        level=certificate.Level.DATA,
        method="products of transitions",
        limits={"kept": reason},
    )
    return HeadHorizon(index, None, None, (unknown,))
