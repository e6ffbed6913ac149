"""Every model of the paper's table as a choice of query, key, decay and value.

Each family below pairs a mixer of the library with the same numbers put into the unified form,
which is written here as plain loops. What the form drops (denominators, a bonus, a skip, the scale
of an input) is added by the family and named in its docstring.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import measured
from dsf.claims.meta_linear import channel_states, matrix_states
from dsf.claims.meta_linear.family import Family, Form

FAMILIES: Mapping[str, Family] = {**matrix_states.FAMILIES, **channel_states.FAMILIES}


def unified(
    *,
    query: Shaped[Tensor, "time key"],
    key: Shaped[Tensor, "time key"],
    decay: Shaped[Tensor, "time key"],
    value: Shaped[Tensor, "time channel"],
) -> Shaped[Tensor, "time channel"]:
    """S_t = diag(α_t) S_{t-1} + k_tᵀ v_t and o_t = q_t S_t, one number at a time."""
    steps, keys, channels = len(query), query.shape[1], value.shape[1]
    state = [[torch.zeros((), dtype=decay.dtype)] * channels for _ in range(keys)]
    out = []
    for t in range(steps):
        for c in range(keys):
            for p in range(channels):
                state[c][p] = decay[t, c] * state[c][p] + key[t, c] * value[t, p]
        row = [sum(query[t, c] * state[c][p] for c in range(keys)) for p in range(channels)]
        out.append(torch.stack([torch.as_tensor(part) for part in row]))
    return torch.stack(out)


def every_model(form: Form = unified, families: Mapping[str, Family] = FAMILIES) -> Certificate:
    """The response of every mixer against the unified form with its extra terms."""
    errors = {}
    for name, family in families.items():
        ours, expected = family(form)
        errors[name] = float((ours - expected).abs().max())
    return measured(
        f"{', '.join(families)} are choices of (q, k, α, v) in S_t = diag(α_t) S_{{t-1}} + "
        f"k_tᵀ v_t, o_t = q_t S_t, with the terms that each one adds",
        float(np.max(list(errors.values()))),
        within=1e-10,
        method="mixers of the library against plain loops",
    )


CLAIMS = (
    Claim(
        id="MLA-2",
        table=Table.PAPER,
        statement=(
            "Linear transformers, state space models and linear RNNs are one recurrence with "
            "different queries, keys, decays and values."
        ),
        standing=Standing.STATED,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=every_model,
        quote=(
            "Inspired by this fact, we unify LinFormer/SSM/LinRNN mechanisms in the form of "
            "linear attention, formally containing Query, Key, and Value matrices (see Fig. 1)."
        ),
        place="Sec. 3; Tables 1, A1-A3",
        hypotheses=(
            (
                '"We omit original S4 [10] model because it focuses on Diagonal Plus Low-Rank '
                '(DPLR)" (A1.2)'
            ),
            (
                "denominators as a second hidden state; RWKV-4's own treatment of the present "
                "token omitted (A1.1, A1.3)"
            ),
        ),
        note=(
            "With what the form leaves out added: the denominators of linear attention and "
            "RWKV-4, RWKV-4's bonus, skips, and the input scale of the LRU. The paper itself "
            "sets S4 aside. HGRN is taken with its key 1 - α."
        ),
    ),
)
