"""The spectrum of softmax attention: how its normaliser changes from token to token."""

from collections.abc import Callable
from typing import cast

import sympy
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued, out_of_reach, shown
from dsf.evaluate import attention_map
from dsf.measures import transition_eigenvalues
from dsf.mixers import NormalisedAttention
from dsf.systems.algebra import change_of_basis
from dsf.systems.system import System

Normaliser = Callable[[Tensor], Tensor]
"""Scores, rows read columns: the logarithm of every row's normaliser."""
WIDTH = 16
SMALL, ROUNDING = 0.1, 1e-15


def defined(scores: Float[Tensor, "time time"]) -> Float[Tensor, " time"]:
    """log of the sum of exp(score) over the past and the token itself."""
    return scores.masked_fill(_future(scores), -torch.inf).logsumexp(dim=-1)


def released(scores: Float[Tensor, "time time"]) -> Float[Tensor, " time"]:
    """The same in the released analysis: future scores are 0, before the maximum and after it.

    The row maximum m is taken over a row whose future is already 0, so it is at least 0 except in
    the last row; after the shift by m the future is set to 0 again, so that every future token adds
    e^m to the normaliser.
    """
    filled = scores.masked_fill(_future(scores), 0)
    largest = filled.amax(dim=-1, keepdim=True)
    shifted = (filled - largest).masked_fill(_future(scores), 0)
    return largest.squeeze(-1) + shifted.exp().sum(dim=-1).log()


def spectrum(log_normaliser: Float[Tensor, " time"]) -> Float[Tensor, " rest"]:
    """η_i / η_{i+1}, one for every token but the last."""
    return (log_normaliser[:-1] - log_normaliser[1:]).exp()


def _future(scores: Tensor) -> Tensor:
    return torch.ones_like(scores, dtype=torch.bool).triu(1)


DRAWS = range(5)


def drawn_scores(seed: int = 0) -> Float[Tensor, "time time"]:
    """q.k without a scale: 64 standard normal queries and keys of width 16."""
    rng = torch.Generator().manual_seed(seed)
    query, key = (torch.randn(64, WIDTH, generator=rng).double() for _ in range(2))
    return query @ key.mT


i, j, L = sympy.symbols("i j L", integer=True, positive=True)
AT_ZERO = sympy.Sum(sympy.exp(0), (j, 1, i))
"""The normaliser of row i of L when every score is zero."""


def spectrum_at_zero(
    symbolic: sympy.Expr = AT_ZERO, normaliser: Normaliser = defined
) -> Certificate:
    """The ratio with symbols, and the first ones as they are computed."""
    eta = symbolic.doit()
    found = spectrum(normaliser(torch.zeros(5, 5, dtype=torch.float64)))
    expected = torch.tensor([1 / 2, 2 / 3, 3 / 4, 4 / 5], dtype=torch.float64)
    return argued(
        "at zero logits the softmax spectrum η_i/η_{i+1} is i/(i+1)",
        "η_i is the sum of exp(score) over the i tokens up to i",
        {
            "the symbolic ratio is i/(i+1)": sympy.simplify(eta / eta.subs(i, i + 1) - i / (i + 1))
            == 0,
            "the computed ratios of five tokens agree": bool(
                (found - expected).abs().max() <= ROUNDING
            ),
        },
        method="symbolic sum, any length",
        observed=float((found - expected).abs().max()),
    )


def released_formula_is_another(normaliser: Normaliser = released) -> Certificate:
    """Relative errors of the spectrum on five draws of scores; two tokens by hand."""
    errors = []
    for seed in DRAWS:
        scores = drawn_scores(seed)
        true = spectrum(defined(scores))
        errors.append((spectrum(normaliser(scores)) - true).abs() / true)
    medians = [float(error.median()) for error in errors]
    by_hand = spectrum(normaliser(torch.zeros(2, 2, dtype=torch.float64)))
    return shown(
        "the released spectrum is not η_i/η_{i+1} of the causal softmax",
        min(medians),
        beyond=1e-6,
        case={
            "two tokens, zero scores": {"released": float(by_hand[0]), "defined": 0.5},
            "median relative errors": medians,
            "largest relative errors": [float(error.max()) for error in errors],
        },
        method="five draws of 64 standard normal queries and keys of width 16, scale 1",
    )


def scale_changes_the_histogram(scale: float = 1.0) -> Certificate:
    """Share of small eigenvalues with and without 1/sqrt(16)."""
    scores = drawn_scores()
    shares = {
        factor: float((spectrum(defined(factor * scores)) < SMALL).double().mean())
        for factor in (scale, WIDTH**-0.5)
    }
    kept, without = shares[WIDTH**-0.5], shares[scale]
    return shown(
        "the histogram of eigenvalues depends on the factor 1/sqrt(d) of the scores",
        abs(without - kept),
        beyond=0.01,
        case={"share_below_0.1": {"with_scale": kept, "without": without}},
        method="share with |λ| < 0.1 among 63 eigenvalues",
    )


def tasks_show_in_the_spectrum() -> Certificate:
    """The trend: one map, two spectra, so that no task can show in a spectrum alone."""
    rng = torch.Generator().manual_seed(0)
    mixer = NormalisedAttention.draw(rng, steps=12)
    system = cast("System", mixer.system())
    eta = torch.cat([mixer.normaliser[..., :1], mixer.normaliser], dim=-1)
    identity = torch.eye(mixer.key.shape[-1], dtype=torch.float64)
    other = change_of_basis(system, identity / eta[..., None, None])
    maps = [attention_map(system), attention_map(other)]
    spectra = [transition_eigenvalues(part).real for part in (system, other)]
    return out_of_reach(
        "tasks show in the spectra of trained models",
        "two-layer models of five architectures, trained for 40 000 steps on each of two tasks",
        trend={
            "one_map_in_two_gauges_difference": float((maps[0] - maps[1]).abs().max()),
            "eigenvalues_in_one": [float(spectra[0].min()), float(spectra[0].max())],
            "eigenvalues_in_the_other": [float(spectra[1].min()), float(spectra[1].max())],
        },
    )


CLAIMS = (
    Claim(
        id="EIG-1",
        table=Table.OWN,
        statement="At zero logits the softmax spectrum η_i/η_{i+1} is i/(i+1).",
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=spectrum_at_zero,
        note="The released formula gives 1 throughout (EIG-2).",
    ),
    Claim(
        id="EIG-2",
        table=Table.CODE,
        statement=(
            "The released formula for the softmax spectrum is not η_i/η_{i+1} of causal softmax "
            "attention."
        ),
        standing=Standing.CODE,
        expected=Verdict.ARGUED,
        check=released_formula_is_another,
        place=(
            "IntelligentControlSystems/"
            "Task-Level-Insights-from-Eigenvalues-across-Sequence-Models@67d8254: "
            "analysis/eval_eig.py 57-90; the same in notebooks/lm_eigvals.ipynb"
        ),
        note=(
            "Line 59 sets future scores to 0, line 62 takes the row maximum m over that row, so "
            "m is at least 0 except in the last row; after the shift by m every future token "
            "adds a summand 1, that is e^m in the normaliser. Half the eigenvalues are off by a "
            "quarter or more in each of five draws, the worst by factors of 2.5 to 8."
        ),
    ),
    Claim(
        id="EIG-3",
        table=Table.CODE,
        statement=(
            "The released analysis leaves out the factor 1/√d that the released layer has, and "
            "the histogram depends on it."
        ),
        standing=Standing.CODE,
        expected=Verdict.ARGUED,
        check=scale_changes_the_histogram,
        place=(
            "IntelligentControlSystems/"
            "Task-Level-Insights-from-Eigenvalues-across-Sequence-Models@67d8254: "
            "analysis/eval_eig.py 57 against models/attention.py 26-27 and 48"
        ),
        note=("On one draw a quarter of the eigenvalues is below 0.1 without it, none with it."),
    ),
    Claim(
        id="EIG-6",
        table=Table.PAPER,
        statement=(
            "Tasks show in the spectrum: eigenvalues influence memory and long-range dependency "
            "modelling."
        ),
        standing=Standing.STATED,
        expected=Verdict.UNKNOWN,
        check=tasks_show_in_the_spectrum,
        quote=(
            "We first show that eigenvalues influence essential aspects of memory and long-range "
            "dependency modeling, revealing spectral signatures that align with task "
            "requirements."
        ),
        place="Abstract",
        hypotheses=(
            (
                'R1: "Long-memory tasks concentrate mass near 1; tasks needing selective '
                'forgetting show peaks near 0."'
            ),
            'R2: ListOps "unexpectedly develops gating"',
        ),
        note=(
            "Near 1 and near 0 are second-hand. Needs trained models; and the spectrum depends "
            "on the state basis: one map of normalised attention has all eigenvalues at 1 in one "
            "basis and spread in another."
        ),
    ),
)
