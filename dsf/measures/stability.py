"""Gramians, and growth and decay of the state: products of transitions, exponents, eigenvalues.

A system that runs backward is followed in the direction of its recurrence, from the last token to
the first: at token t, P_t sums up the signals from the last token to t, and Q_t the responses at
the tokens before t. Results with an axis of tokens are in the order of the tokens all the same.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from dsf.evaluate.arguments import forward_form
from dsf.runtime.argument_checks import checked
from dsf.systems.system import System

Gram = Shaped[Tensor, "*batch state state"]
TOKENS = 64
"""Number of tokens whose decays are written out at a time."""


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


@checked
def product_norms(system: System) -> Shaped[Tensor, "*batch time"]:
    r"""Spectral norms of :math:`A_t \cdots A_1`: the largest norm that a unit state can have left.

    For a system that runs backward, of :math:`A_t \cdots A_T`: its state starts behind the last
    token. In the state coordinates of this system: a change of basis changes it.
    """
    norms = _norms(system)
    return norms.flip(-1) if system.runs_backward else norms


def _norms(system: System) -> Tensor:
    ordered, norms = forward_form(system), []
    if is_diagonal(ordered):
        kept = torch.ones((), dtype=system.dtype, device=system.device)
        for decays in _decays(ordered):
            products = kept * decays.cumprod(dim=-2)
            finite, kept = products.isfinite().all(dim=-1), products[..., -1:, :]
            norms.append(torch.where(finite, products.abs().amax(dim=-1), torch.nan))
        return torch.cat(norms, dim=-1)
    size = (*system.batch, system.state_size, system.state_size)
    product = torch.eye(size[-1], dtype=system.dtype, device=system.device).expand(size)
    for t in range(system.steps):
        product = (ordered.A.window(t, t + 1) @ product.unsqueeze(-3)).squeeze(-3)
        finite = product.isfinite().all(dim=(-2, -1))
        found = torch.linalg.matrix_norm(product.where(finite[..., None, None], 0), ord=2)
        norms.append(torch.where(finite, found, torch.nan))
    return torch.stack(norms, dim=-1)


def is_diagonal(system: System) -> bool:
    return system.A.cut(0, 1).window(0, 1).diagonal() is not None


def _decays(ordered: System) -> Iterator[Shaped[Tensor, "*batch time state"]]:
    """The diagonals of the transitions, for some tokens at a time."""
    for start in range(0, ordered.steps, TOKENS):
        part = ordered.A.cut(start, min(start + TOKENS, ordered.steps)).to(dtype=ordered.dtype)
        yield part.window(0, part.steps).decays()


@checked
def memory_horizon(system: System, *, level: float = 0.5) -> Int[Tensor, "*batch"]:
    r"""Tokens until the largest unit state at the start of the recurrence has shrunk to ``level``.

    The size is the spectral norm of :math:`A_t \cdots A_1`, in the state coordinates of this
    system: a change of basis changes it. ``system.steps + 1`` if it does not shrink that far within
    the sequence; -1 if the products are not finite before they have shrunk.

    Raises:
        ValueError: if ``level`` is not strictly between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"memory_horizon: 'level' must lie between 0 and 1, but it is {level}.")
    norms = _norms(system)
    ends = (norms <= level) | norms.isnan()
    first = ends.to(torch.long).argmax(dim=-1)
    broken = norms.gather(-1, first.unsqueeze(-1)).squeeze(-1).isnan()
    found = torch.where(ends.any(dim=-1), first + 1, system.steps + 1)
    return torch.where(ends.any(dim=-1) & broken, -1, found)


@checked
def lyapunov_exponents(system: System) -> Shaped[Tensor, "*batch state"]:
    """Mean growth rate of the state in nats per token, one for each direction, largest first.

    Negative: exponential decay; 0: neither growth nor decay; ``-inf``: erased. Computed by repeated
    QR decompositions along this sequence. In the limit of long sequences a bounded change of basis
    does not change them.
    """
    ordered = forward_form(system)
    if is_diagonal(ordered):
        logs = torch.stack([decays.abs().log().sum(dim=-2) for decays in _decays(ordered)])
        return (logs.sum(dim=0) / system.steps).sort(dim=-1, descending=True).values
    identity = torch.eye(system.state_size, dtype=system.dtype, device=system.device)
    frame = identity.expand(*system.batch, system.state_size, system.state_size)
    grown = torch.zeros_like(frame[..., 0], dtype=system.dtype.to_real())
    for t in range(system.steps):
        moved = (ordered.A.window(t, t + 1) @ frame.unsqueeze(-3)).squeeze(-3)
        frame, triangle = torch.linalg.qr(moved)
        grown = grown + triangle.diagonal(dim1=-2, dim2=-1).abs().log()
    return (grown / system.steps).sort(dim=-1, descending=True).values


@checked
def transition_eigenvalues(system: System) -> Shaped[Tensor, "*batch time state"]:
    """Eigenvalues of every A_t, complex.

    **Not a property of the map**: the change of basis h -> T_t h maps A_t to T_t A_t T_{t-1}^-1 and
    leaves the map unchanged, so the eigenvalues can be made anything. Report
    ``hankel_singular_values`` and ``mass_by_lag`` first.
    """
    return torch.linalg.eigvals(system.A.dense())
