"""Time-varying Gramians: which states signals can reach, and which states responses depend on.

In the order of the tokens. For a system that runs backward, what is before and after a token is
meant along its recurrence: at token t, P_t sums up the signals from the last token to t, and Q_t
the responses at the tokens before t.
"""

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.arguments import forward_form
from dsf.runtime.argument_checks import checked
from dsf.systems.system import System

Gram = Shaped[Tensor, "*batch state state"]


@checked
def controllability_gramians(system: System) -> Shaped[Tensor, "*batch time state state"]:
    """P_t = A_t P_{t-1} A_tᴴ + B_t B_tᴴ with P_0 = 0: the energy that unit signals leave in h_t.

    Hermitian, positive semidefinite. In the state coordinates of this system: a change of basis
    changes it, but not ``hankel_singular_values``. For a constant stable system P_t converges to
    the solution of the discrete Lyapunov equation. The result has time x state² numbers.
    """
    whole = _causal(system, "controllability_gramians")
    state = _zero(whole)
    found = []
    for t in range(whole.steps):
        token = whole.window(t, t + 1)
        write = _at(token.B, whole.dtype)
        state = gram_after(token, state) + write @ write.mH
        found.append(state)
    return _by_token(found, system)


@checked
def observability_gramians(system: System) -> Shaped[Tensor, "*batch time state state"]:
    """Q_t: the energy that a unit state h_t leaves in the responses after token t.

    ``Q_{t-1} = A_tᴴ (C_tᴴ C_t + Q_t) A_t``, or ``C_tᴴ C_t + A_tᴴ Q_t A_t`` where the system reads
    before it updates; zero after the last token. Basis-dependent like ``controllability_gramians``.
    """
    whole = _causal(system, "observability_gramians")
    state = _zero(whole)
    found = [state]
    for t in range(whole.steps - 1, 0, -1):
        state = gram_before(whole.window(t, t + 1), state)
        found.append(state)
    return _by_token(found[::-1], system)


def _by_token(found: list[Tensor], system: System) -> Tensor:
    return torch.stack(found[::-1] if system.runs_backward else found, dim=-3)


def gram_after(token: System, gram: Gram) -> Gram:
    """A P Aᴴ: the energy of the states after a token, of what was there before it."""
    half = (token.A @ gram.unsqueeze(-3)).squeeze(-3)
    return (token.A @ half.mH.unsqueeze(-3)).squeeze(-3)


def gram_before(token: System, gram: Gram) -> Gram:
    """Energy that the reads from a token on take of the state before it."""
    if token.reads_before_update:
        return seen_at(token) + pulled_back(token, gram)
    return pulled_back(token, gram + seen_at(token))


def seen_at(token: System) -> Gram:
    """Cᴴ C: the energy that one token reads."""
    read = _at(token.C, token.dtype)
    return read.mH @ read


def pulled_back(token: System, gram: Gram) -> Gram:
    """Aᴴ Q A, by the conjugate of (Aᵀ conj(Q) conj(A))."""
    A = token.A.transposed()
    half = (A @ gram.conj().unsqueeze(-3)).squeeze(-3).conj()
    return (A @ half.mH.conj().unsqueeze(-3)).squeeze(-3).conj().mH


def _zero(system: System) -> Tensor:
    size = (*system.batch, system.state_size, system.state_size)
    return torch.zeros(size, dtype=system.dtype, device=system.device)


def _at(part: object, dtype: torch.dtype) -> Tensor:
    return torch.as_tensor(part).squeeze(-3).to(dtype)


def _causal(system: System, owner: str) -> System:
    if system.takes_real_part:
        raise ValueError(
            f"{owner}: this system takes the real part of a complex state, which is not linear "
            f"over the complex numbers. Use dsf.systems.algebra.with_conjugates(system) first."
        )
    return forward_form(system)
