"""Growth and decay of the state: norms of transition products, Lyapunov exponents, eigenvalues.

A system that runs backward is followed in the direction of its recurrence, from the last token to
the first; results with an axis of tokens are in the order of the tokens all the same.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from dsf.evaluate.arguments import forward_form
from dsf.runtime.argument_checks import checked
from dsf.systems.system import System


@checked
def product_norms(system: System) -> Shaped[Tensor, "*batch time"]:
    r"""Spectral norms of :math:`A_t \cdots A_1`: the largest norm that a unit state can have left.

    For a system that runs backward, of :math:`A_t \cdots A_T`: its state starts behind the last
    token. In the state coordinates of this system: a change of basis changes it.
    """
    norms = torch.stack(list(_norms(system)), dim=-1)
    return norms.flip(-1) if system.runs_backward else norms


def _norms(system: System) -> Iterator[Tensor]:
    ordered = forward_form(system)
    size = (*system.batch, system.state_size, system.state_size)
    product = torch.eye(size[-1], dtype=system.dtype, device=system.device).expand(size)
    for t in range(system.steps):
        product = (ordered.A.window(t, t + 1) @ product.unsqueeze(-3)).squeeze(-3)
        finite = product.isfinite().all(dim=(-2, -1))
        found = torch.linalg.matrix_norm(product.where(finite[..., None, None], 0), ord=2)
        yield torch.where(finite, found, torch.nan)


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
    norms = torch.stack(list(_norms(system)), dim=-1)
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
    identity = torch.eye(system.state_size, dtype=system.dtype, device=system.device)
    frame = identity.expand(*system.batch, system.state_size, system.state_size)
    grown = torch.zeros(*system.batch, system.state_size, device=system.device)
    grown = grown.to(identity.abs().dtype)
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
