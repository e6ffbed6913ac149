"""Identities of decays: S6 and the quasi-LSTM, the reversed gate, unit variance."""

from collections.abc import Callable

import numpy as np
import sympy
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued
from dsf.claims.dynamical_systems.drawn import normal, uniform
from dsf.evaluate import attention_map, respond
from dsf.mixers import RGLRU, QuasiLSTM

ROUNDING = 1e-14
SPREAD = 0.1


def softplus_is_a_power(sign: int = -1) -> Certificate:
    """With symbols, and on rates up to 4 and |z| up to 40 in float64."""
    a, z = sympy.symbols("a z", real=True)
    sigmoid = 1 / (1 + sympy.exp(-sign * z))
    difference = -a * sympy.log(1 + sympy.exp(z)) - a * sympy.expand_log(
        sympy.log(sigmoid), force=True
    )
    rng = np.random.default_rng(0)
    at, rate = uniform(rng, 10_000, low=-40.0, high=40.0), uniform(rng, 10_000, low=0.0, high=4.0)
    softplus = torch.logaddexp(at, torch.zeros_like(at))  # torch's own drops e^-z above 20
    decay = (-rate * softplus).exp()
    error = float((decay - (sign * at).sigmoid() ** rate).abs().max())
    return argued(
        "exp(-a softplus(z)) = sigmoid(-z)^a for all real a and z",
        "both sides are positive, and their logarithms are equal",
        {
            "the logarithms are equal (symbols)": sympy.simplify(difference) == 0,
            "10,000 drawn pairs agree to 1e-14": error <= ROUNDING,
        },
        method="symbols, and float64",
        observed=error,
    )


def reversed_gate(power: float = 1.0) -> Certificate:
    """Bit by bit: W and b with the variant's gate, -W and -b with the plain one."""
    rng = np.random.default_rng(0)
    u, W, b = normal(rng, 20, 6), normal(rng, 6, 6), normal(rng, 6)
    gates = {"value": u, "input": (u @ normal(rng, 6, 6)).sigmoid(), "output": u.sigmoid()}
    reversed_, plain = u @ W.T + b, u @ (-W).T + (-b)
    variant = QuasiLSTM(forget=(-reversed_).sigmoid() ** power, **gates)
    lstm = QuasiLSTM(forget=plain.sigmoid(), **gates)
    maps = attention_map(variant.system()), attention_map(lstm.system())
    outputs = respond(variant.system(), variant.signal()), respond(lstm.system(), lstm.signal())
    return argued(
        "with α = 1 the quasi-LSTM with forget gate sigmoid(-z)^α is the quasi-LSTM with weights "
        "of the other sign",
        "changing the sign of every factor and summand changes the sign of a rounded sum of "
        "products, and x^1 = x",
        {
            "the logits differ in sign only": plain.equal(-reversed_),
            "the maps have equal bits": maps[0].equal(maps[1]),
            "the outputs have equal bits": outputs[0].equal(outputs[1]),
        },
        method="20 tokens, 6 channels, float64, bit comparison",
        observed=float((maps[0] - maps[1]).abs().max()),
    )


def squared_scale(decay: sympy.Expr) -> sympy.Expr:
    """The energy of one token: the square of sqrt(1 - a²)."""
    return 1 - decay**2


def unit_variance(energy: Callable[[sympy.Expr], sympy.Expr] = squared_scale) -> Certificate:
    """The fixed point of the variance with symbols, and a simulation by the RG-LRU."""
    a, v = sympy.symbols("a v", positive=True)
    points = sympy.solve(sympy.Eq(v, a**2 * v + energy(a)), v)
    observed = float(_simulated().square().mean())
    return argued(
        "h_t = a h_{t-1} + sqrt(1 - a²) u_t with constant 0 < a < 1 and white u of unit variance "
        "has stationary variance 1",
        "white input is uncorrelated with the state, so variances add up; the recursion contracts "
        "for a < 1, so its only fixed point is where it settles",
        {
            "the only fixed point is 1 (symbols)": [sympy.simplify(p - 1) for p in points] == [0],
            "64 simulated channels are within 10 %": abs(observed - 1) < SPREAD,
        },
        method="symbols, and 4000 tokens with 64 decays in [.8, .999]",
        observed=observed,
    )


def _simulated() -> Float[Tensor, "time channel"]:
    rng = np.random.default_rng(0)
    value, decay = normal(rng, 4000, 64), uniform(rng, 64, low=0.8, high=0.999)
    unit = RGLRU(value=value, decay=decay.expand(4000, 64), input_gate=torch.ones_like(value))
    return respond(unit.system(), unit.signal())[..., 0, 0].T


CLAIMS = (
    Claim(
        id="DSF-11",
        table=Table.PAPER,
        statement=(
            "The decay exp(-a softplus(z)) of S6 is the reversed sigmoid of z to the power a."
        ),
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=softplus_is_a_power,
        quote="where σ_rev(·) is the reversed sigmoid, i.e., σ_rev(x) = 1/(1+e^x)",
        place="App. I; (23), 4.3",
        hypotheses=("A = a·I_nd",),
    ),
    Claim(
        id="DSF-20",
        table=Table.OWN,
        statement=(
            "The quasi-LSTM with forget gate sigmoid(-z)^α is at α = 1 the plain quasi-LSTM "
            "under W_f, b_f → -W_f, -b_f."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=reversed_gate,
        quote=(
            "… the only difference that (I) it uses the reversed sigmoid function instead of a "
            "sigmoid for the forget gate, and (II) there is an additional learnt parameter a in "
            "the exponent."
        ),
        place="Sec. 4.3",
        hypotheses=("n = 1, A = a·I",),
        note=(
            "Difference (I) is none, since the weights are free. With an initial law that is "
            "even, the only new freedom is one scalar per layer, difference (II)."
        ),
    ),
    Claim(
        id="DSF-23",
        table=Table.OWN,
        statement=(
            "Scaling the input by √(1 - a²) keeps unit stationary variance, for a constant decay "
            "a and a white input."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=unit_variance,
        note=(
            "The design of the LRU and of Griffin; the paper prints the factor in (9) and says "
            "nothing about variance."
        ),
    ),
)
