"""Growth and decay of the state: norms of transition products, Lyapunov exponents, eigenvalues."""

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from dsf.system import System


def product_norms(system: System) -> Shaped[Tensor, "*batch time"]:
    r"""Spectral norms of :math:`A_t \cdots A_1`: the largest norm that a unit state can have left.

    In the state coordinates of this system: a change of basis changes it.
    """
    size = (*system.batch, system.state_size, system.state_size)
    identity = torch.eye(system.state_size, dtype=system.dtype, device=system.device)
    product = identity.expand(size)
    norms = []
    for t in range(system.steps):
        product = (system.A.window(t, t + 1) @ product.unsqueeze(-3)).squeeze(-3)
        norms.append(torch.linalg.matrix_norm(product, ord=2))
    return torch.stack(norms, dim=-1)


def memory_horizon(system: System, *, level: float = 0.5) -> Int[Tensor, "*batch"]:
    r"""Tokens until the largest unit state before the first token has shrunk to ``level``.

    The size is the spectral norm of :math:`A_t \cdots A_1`, in the state coordinates of this
    system: a change of basis changes it. ``system.steps + 1`` if it does not shrink that far within
    the sequence.

    Raises:
        ValueError: if ``level`` is not strictly between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"memory_horizon: 'level' must lie between 0 and 1, but it is {level}.")
    norms = product_norms(system)
    shrunk = norms <= level
    first = shrunk.to(torch.long).argmax(dim=-1) + 1
    return torch.where(shrunk.any(dim=-1), first, system.steps + 1)


def lyapunov_exponents(system: System) -> Shaped[Tensor, "*batch state"]:
    """Mean growth rate of the state in nats per token, one for each direction, largest first.

    Negative: exponential decay; 0: neither growth nor decay; ``-inf``: erased. Computed by repeated
    QR decompositions along this sequence. In the limit of long sequences a bounded change of basis
    does not change them.
    """
    identity = torch.eye(system.state_size, dtype=system.dtype, device=system.device)
    frame = identity.expand(*system.batch, system.state_size, system.state_size)
    grown = torch.zeros(*system.batch, system.state_size, device=system.device)
    grown = grown.to(identity.abs().dtype)
    for t in range(system.steps):
        moved = (system.A.window(t, t + 1) @ frame.unsqueeze(-3)).squeeze(-3)
        frame, triangle = torch.linalg.qr(moved)
        grown = grown + triangle.diagonal(dim1=-2, dim2=-1).abs().log()
    return (grown / system.steps).sort(dim=-1, descending=True).values


def transition_eigenvalues(system: System) -> Shaped[Tensor, "*batch time state"]:
    """Eigenvalues of every A_t, complex.

    **Not a property of the map**: the change of basis h -> T_t h maps A_t to T_t A_t T_{t-1}^-1 and
    leaves the map unchanged, so the eigenvalues can be made anything. Report
    ``hankel_singular_values`` and ``mass_by_lag`` first.
    """
    return torch.linalg.eigvals(system.A.dense())
