"""Where separable attention and selective state spaces coincide, and where they differ."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import measured, shown
from dsf.claims.dynamical_systems.drawn import normal
from dsf.claims.dynamical_systems.separable import separable
from dsf.evaluate import attention_map
from dsf.measures import largest_difference
from dsf.mixers import LinearAttention, SelectiveStateSpace, StateSpaceDuality

ROUNDING = 1e-12
ROWS = (2, 6, 10)


def grown_by_every_step(rate: float, step: Tensor) -> Tensor:
    """η_i = exp(rate Σ_{k<=i} step_k)."""
    return (rate * step.cumsum(dim=0)).exp()


def duality_is_separable(
    normaliser: Callable[[float, Tensor], Tensor] = grown_by_every_step,
) -> Certificate:
    """Compare the mixer's map with the separable form, ψ_i = η_i step_i b_i."""
    rng = np.random.default_rng(0)
    write, read = normal(rng, 2, 12, 3)
    step = torch.nn.functional.softplus(normal(rng, 12))
    eta = normaliser(0.7, step)
    expected = _duality_map(step, write, read, rate=0.7)
    form = separable(read, (eta * step).unsqueeze(-1) * write, eta)
    return measured(
        "with η_i = exp(a Σ step), ψ_i = η_i step_i b_i separable attention has the map of a "
        "state-space duality",
        float(largest_difference(attention_map(form), expected)),
        within=ROUNDING,
        method="12 tokens, 3 states, rate 0.7, float64",
    )


def key_alone_does_not_suffice(rate: float = 0.7) -> Certificate:
    """On a constant input a separable row is constant; look at the rows of a duality."""
    rng = np.random.default_rng(0)
    write, read = (part.expand(12, 3) for part in normal(rng, 2, 1, 3))
    weights = _duality_map(write.new_full((12,), 0.5), write, read, rate=rate)
    spread = [_spread(weights[row - 1, :row]) for row in ROWS]
    linear = LinearAttention(query=read, key=write, value=write)
    separable_row = _spread(attention_map(linear.system(), rows=-1)[0])
    return shown(
        "no feature of the current key alone makes a state-space duality of separable attention",
        spread[-1] if separable_row < ROUNDING else float("nan"),
        beyond=ROUNDING,
        case={
            "rows": list(ROWS),
            "largest less smallest weight over the last one": spread,
            "the same for a separable attention": separable_row,
        },
        method="12 equal tokens, 3 states, step 0.5, float64",
    )


def channels_have_maps_of_their_own(
    rates: tuple[tuple[float, ...], ...] = ((1.0, 2.0, 3.0), (0.5, 1.0, 4.0)),
) -> Certificate:
    """Fit the map of one channel of a selective state space by a multiple of the other's."""
    rng = np.random.default_rng(0)
    write, read = normal(rng, 2, 12, 3)
    step = torch.nn.functional.softplus(normal(rng, 12))
    mixer = SelectiveStateSpace(
        value=normal(rng, 12, 2),
        step=step.unsqueeze(-1).expand(12, 2),
        pole=-torch.tensor(rates, dtype=step.dtype),
        write=write,
        read=read,
    )
    first, second = attention_map(mixer.system())
    factor = (first * second).sum() / first.square().sum()
    missed = float((second - factor * first).norm() / second.norm())
    return shown(
        "two channels of a selective state space need not share a map, not even up to a factor",
        missed,
        beyond=ROUNDING,
        case={
            "rates of the two channels": [list(each) for each in rates],
            "best factor": float(factor),
            "what it leaves, relative": missed,
        },
        method="12 tokens, 3 states, equal steps, least squares, float64",
    )


def step_does_not_cancel(rates: tuple[float, ...] = (1.0, 2.0, 3.0)) -> Certificate:
    """Equal tokens: rows of separable attention are constant, rows of S6 are not."""
    rng = np.random.default_rng(0)
    write, read = (part.expand(12, 3) for part in normal(rng, 2, 1, 3))
    mixer = SelectiveStateSpace(
        value=write[:, :1],
        step=write.new_full((12, 1), 0.5),
        pole=-torch.tensor([rates], dtype=write.dtype),
        write=write,
        read=read,
    )
    weights = attention_map(mixer.system())[0]
    linear = LinearAttention(query=read, key=write, value=write)
    separable_row = _spread(attention_map(linear.system(), rows=-1)[0])
    spread = _spread(weights[-1])
    return shown(
        "at equal tokens the weights of S6 depend on the lag, so the step does not cancel as the "
        "normaliser of attention does",
        spread if separable_row < ROUNDING else float("nan"),
        beyond=ROUNDING,
        case={
            "last row of S6": weights[-1].tolist(),
            "largest less smallest weight over the last one": spread,
            "the same for a separable attention": separable_row,
        },
        method="12 equal tokens, 3 states, step 0.5, float64",
    )


def _duality_map(step: Tensor, write: Tensor, read: Tensor, *, rate: float) -> Tensor:
    mixer = StateSpaceDuality(
        value=write.unsqueeze(0),
        step=step.unsqueeze(0),
        pole=-step.new_full((1,), rate),
        write=write.unsqueeze(0),
        read=read.unsqueeze(0),
    )
    return attention_map(mixer.system())[0]


def _spread(row: Tensor) -> float:
    """Largest less smallest weight, over the weight of the token itself."""
    return float((row.max() - row.min()) / row[-1].abs())


CLAIMS = (
    Claim(
        id="DSF-12",
        table=Table.OWN,
        statement=(
            "State-space duality is separable attention with η_i = exp(a Σ_{k≤i} Δ_k) and ψ_i = "
            "η_i Δ_i b_i."
        ),
        standing=Standing.OWN,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=duality_is_separable,
        quote=(
            "For instance, we compare linear attention and selective SSMs, detailing their "
            "differences and conditions under which both are equivalent."
        ),
        place="Abstract",
        note=(
            "The abstract announces conditions of equivalence; none was found in the body of "
            "this version. This is one."
        ),
    ),
    Claim(
        id="DSF-13",
        table=Table.OWN,
        statement=(
            "State-space duality is not a separable attention whose key feature ψ is a function "
            "of the current key alone."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=key_alone_does_not_suffice,
        quote=(
            "the S6 parameters … directly correspond to the keys and queries in attention, i.e. "
            "k_i = b_i and q_i = c_i"
        ),
        place="Sec. 4.2",
        note=(
            "On a constant input such a separable row is constant, while the weights of the "
            "duality fall off with the lag: ψ has to carry the whole prefix."
        ),
    ),
    Claim(
        id="DSF-15",
        table=Table.OWN,
        statement="Full S6 is in general not one separable attention.",
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=channels_have_maps_of_their_own,
        quote=("The transition matrix Λ_i has d parameters in S6 (19) and only 1 in attention."),
        place="Sec. 4.2",
        hypotheses=("one head",),
        note=(
            "The quoted sentence gives the reason: the channels of separable attention share one "
            "map; two channels of S6 with different rates have maps that no factor brings "
            "together."
        ),
    ),
    Claim(
        id="DSF-33",
        table=Table.PAPER,
        statement=(
            "The step of S6 does not cancel as the normaliser of attention does: at equal tokens "
            "the weights of S6 depend on the lag, rows of separable attention do not."
        ),
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=step_does_not_cancel,
        quote=(
            "Notice that this does not occur in S6 (19), since the only shared parameter - "
            "discretization step Δ_i - does not cancel out in Λ_i and B_i given their different "
            "structure."
        ),
        place="Sec. 4.2",
        hypotheses=("transitions of different decay, as in (19)",),
        note=(
            "With one scalar decay the duality is separable again, and DSF-12 shows what ψ must "
            "carry."
        ),
    ),
)
