"""Architectures as systems of the paper's form: map, recurrence and formula; causality."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued, held
from dsf.claims.dynamical_systems.attention_forms import attention_forms
from dsf.claims.dynamical_systems.drawn import normal
from dsf.claims.dynamical_systems.paper_form import Form, one_system
from dsf.claims.dynamical_systems.recurrent_forms import (
    constant_forms,
    gated_forms,
    selective_forms,
)
from dsf.evaluate import attention_map, recurrent, respond
from dsf.mixers import NormalisedAttention
from dsf.systems.system import System

TOLERANCE = 1e-10
CHANGED = (1, 7, 13)
"""Tokens that are changed, of fourteen; the outputs before them must stay."""


OTHERS = ("state-space duality", "RG-LRU, expanded state", "S4", "S5", "LRU")
"""How the names of the architectures begin for which the paper prints no matrices."""


def every_form() -> Iterator[Form]:
    """All architectures, drawn."""
    yield from attention_forms()
    yield from selective_forms()
    yield from gated_forms()
    yield from constant_forms()


def of_the_paper() -> Iterator[Form]:
    """Those whose matrices the paper prints."""
    return (form for form in every_form() if not form.name.startswith(OTHERS))


def of_others() -> Iterator[Form]:
    """Those for which it prints none."""
    return (form for form in every_form() if form.name.startswith(OTHERS))


def _as_it_is(system: System) -> System:
    return system


def forms_agree(
    changed: Callable[[System], System] = _as_it_is,
    forms: Callable[[], Iterator[Form]] = of_the_paper,
) -> Certificate:
    """Relative to the largest output, form by form."""
    errors = {form.name: _error(form, changed(form.system)) for form in forms()}
    return held(
        "the map of the system, its recurrence and the formula of the architecture give the same "
        f"outputs, for {', '.join(errors)}",
        {name: error <= TOLERANCE for name, error in errors.items()},
        method="random inputs, 14 tokens, width 4, relative to the largest output, float64",
        observed=max(errors.values()),
        figures=errors,
    )


def _error(form: Form, system: System) -> float:
    by_map = attention_map(system) @ form.u.flatten()
    outputs = (by_map.unflatten(0, form.direct.shape), _response(system, form.u))
    largest = max(float((output - form.direct).abs().max()) for output in outputs)
    return largest / float(form.direct.abs().max())


def never_reads_ahead(changed: Callable[[System], System] = _as_it_is) -> Certificate:
    """Blocks above the diagonal, and outputs in front of a token that changes."""
    forms = list(every_form())
    systems = [changed(form.system) for form in forms]
    frozen = [
        _keeps_the_past(partial(_response, system), form.u)
        for system, form in zip(systems, forms, strict=True)
    ]
    following = partial(_following, changed)
    return argued(
        "the map of a system is block lower triangular and outputs ignore later inputs",
        "h_i and y_i are computed from h_{i-1} and token i, so by induction from tokens 1 ... i",
        {
            "blocks above the diagonal are zero": all(map(_is_lower, systems)),
            "earlier outputs keep every bit, coefficients frozen": all(frozen),
            "and where coefficients follow the input": _keeps_the_past(following, forms[0].u),
        },
        method=f"structure; {len(forms)} forms, three tokens changed",
        observed=0.0,
    )


def _is_lower(system: System) -> bool:
    weights = attention_map(system)
    rows = torch.arange(weights.shape[0]) // system.output_size
    columns = torch.arange(weights.shape[1]) // system.input_size
    return not bool(weights[columns > rows.unsqueeze(-1)].any())


def _response(system: System, u: Tensor) -> Tensor:
    return respond(system, u.unsqueeze(-1), method=recurrent).squeeze(-1)


def _following(changed: Callable[[System], System], u: Tensor) -> Tensor:
    """Normalised attention with every coefficient computed from ``u``."""
    rng = np.random.default_rng(0)
    query, key, value, eta = (u @ normal(rng, u.shape[-1], width) for width in (3, 3, 3, 1))
    mixer = NormalisedAttention(query=query, key=key, value=value, normaliser=eta.exp().squeeze(-1))
    return respond(changed(one_system(mixer.system())), mixer.signal(), method=recurrent).squeeze(
        -2
    )


def _keeps_the_past(outputs: Callable[[Tensor], Tensor], u: Tensor) -> bool:
    before = outputs(u)
    kept = []
    for token in CHANGED:
        other = u.clone()
        other[token] += 1
        kept.append(outputs(other)[:token].equal(before[:token]))
    return all(kept)


CLAIMS = (
    Claim(
        id="DSF-1",
        table=Table.PAPER,
        statement=(
            "Softmax, separable, linear and normalised attention, S6, the quasi-LSTM and the "
            "RG-LRU, with one head or several, are each one system (A, B, C, D) whose map and "
            "recurrence give what the architecture's formula gives."
        ),
        standing=Standing.STATED,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=forms_agree,
        quote=(
            "All three model classes can be represented as recurrent models, which can be "
            "compared using the proposed DSF."
        ),
        place="Sec. 1; (15)-(22), (28)",
        hypotheses=(
            "causal",
            "Λ_i diagonal in (11)",
            "separability (13)",
            "the factor √d_k of the scores dropped (2.1)",
            "the tanh functions of the quasi-LSTM dropped (3.2.3)",
            "n = ∞ for softmax attention",
            "B_i as in Appendix B",
        ),
        note=(
            "Softmax attention by its cache, exact at finite length, and by monomials. The "
            "architectures for which the paper prints no matrices are DSF-28."
        ),
    ),
    Claim(
        id="DSF-3",
        table=Table.PAPER,
        statement=(
            "The map of a system is block lower triangular and past outputs ignore future inputs."
        ),
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=never_reads_ahead,
        quote="This recurrent view yields a causal convolution kernel by definition.",
        place="Remark 1, (12)",
        hypotheses=("form (11)",),
    ),
    Claim(
        id="DSF-28",
        table=Table.OWN,
        statement=(
            "State-space duality, S4, S5, the LRU and an RG-LRU with expanded state are systems "
            "of the same form."
        ),
        standing=Standing.OWN,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=partial(forms_agree, forms=of_others),
        note="The paper prints no matrices for these.",
    ),
)
