"""What the state holds: how much of it is in use, and what becomes of each token in it.

``h_t`` is the sum of what every token left in it. A token may be lost for three reasons: what it
left has decayed, a later token has overwritten it, or it cannot be separated from what other tokens
left (the state is full). The numbers of ``occupancy`` do not depend on the basis of the states; the
others do, and hold in the basis in which a model stores them.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate import fold
from dsf.evaluate.arguments import Signal, check_signal, forward_form
from dsf.measures.erasers import numbered, overwriting_shares
from dsf.measures.fold import Map
from dsf.measures.hankel import hankel_singular_values
from dsf.runtime.argument_checks import checked
from dsf.runtime.shapes import above_zero
from dsf.systems.algebra import with_conjugates
from dsf.systems.coefficient import dense_of
from dsf.systems.composite import Operator, kept_rows
from dsf.systems.system import System

Shares = Shaped[Tensor, "*batch time"]
NOISE = 2.0**-8
"""The size of rounding in bfloat16, relative."""
FOLLOWED = 32
"""Maximum number of writes to follow."""
TOGETHER = 64
"""Number of tokens per block."""


@checked
def occupancy(
    map_or_system: Map | Operator, *, positions: Sequence[int] | None = None
) -> Shaped[Tensor, "*batch positions"]:
    r"""Share of the available states that carry something on, between 0 and 1.

    The participation ratio of the Hankel singular values after each token,
    :math:`(\sum_k \sigma_k)^2 / \sum_k \sigma_k^2`, divided by the number of states; of a map, by
    the smaller side of its Hankel block. One means that all states carry equally much, ``1 / N``
    that one of N does all the work. ``nan`` where nothing is carried on.

    Args:
        positions: tokens counted from 0; by default every token but the last.

    Raises:
        IndexError, ValueError: as ``hankel_singular_values``.

    Example:
        >>> import torch
        >>> occupancy(torch.tensor([[1.0, 0, 0], [1, 1, 0], [1, 1, 1]]), positions=[1])
        tensor([1.])
    """
    values = hankel_singular_values(map_or_system, positions=positions)
    chosen = range(values.shape[-2]) if positions is None else positions
    largest = values.amax(dim=-1, keepdim=True)
    unit = values / torch.where(largest > 0, largest, 1)  # so that no square leaves the range
    found = unit.sum(dim=-1).square() / unit.square().sum(dim=-1)
    shares = [found[..., k] / _available(map_or_system, t) for k, t in enumerate(chosen)]
    return torch.stack(shares, dim=-1)


def _available(map_or_system: Map | Operator, token: int) -> int:
    """The number of states of a system; else the smaller side of the Hankel block."""
    if isinstance(map_or_system, System) and kept_rows(map_or_system) is None:
        return map_or_system.state_size
    if isinstance(map_or_system, Tensor):
        return min(token + 1, map_or_system.shape[-1] - token - 1)
    before = (token + 1) * map_or_system.input_size
    return min(before, (map_or_system.steps - token - 1) * map_or_system.output_size)


@checked
def forgetting(
    system: System, *, lags: Sequence[int] | None = None
) -> Shaped[Tensor, "*batch lags"]:
    r"""Share of a unit write that is left in the state some tokens later, at least 0.

    :math:`\|A_{s+t} \cdots A_{s+1} B_s\| / \|B_s\|` (Frobenius norms), the mean over at most 32
    tokens s, spread evenly, without those that write nothing; above 1 where the state grows.
    ``nan`` where no write has so many tokens after it.

    Args:
        lags: after how many tokens; by default 1, 2, 4, ... as far as the sequence reaches.
            For a system that runs backward along its recurrence, from the last token on.

    Raises:
        ValueError: if a lag is negative or does not fit into the sequence.

    Example:
        >>> import dsf, torch
        >>> from dsf.systems import transition
        >>> one = torch.ones(9, 1)
        >>> system = dsf.System.from_write_and_read(transition.Diagonal(one / 2), one, one)
        >>> forgetting(system, lags=[1, 2])
        tensor([0.5000, 0.2500])
    """
    ordered = forward_form(system)
    steps = ordered.steps
    wanted = [2**k for k in range((steps - 1).bit_length())] if lags is None else list(lags)
    if not wanted or min(wanted) < 0 or max(wanted) >= steps:
        raise ValueError(
            f"forgetting: 'lags' must lie between 0 and {steps - 1} for {steps} tokens, but they "
            f"are {wanted}."
        )
    many = min(FOLLOWED, steps)
    followed = sorted({round(k * (steps - 1) / max(many - 1, 1)) for k in range(many)})
    sizes = _sizes(ordered, followed)
    found = []
    for lag in wanted:
        reached = [write for write in followed if write + lag < steps]  # the first of them
        total = count = torch.zeros_like(sizes[0][..., :1].sum(dim=-1))
        for k, write in enumerate(reached):
            written, left = sizes[write][..., k], sizes[write + lag][..., k]
            total = total + torch.where(written == 0, 0, left / written)
            count = count + (written != 0)
        found.append(total / count)
    return torch.stack(found, dim=-1)


def _units(parts: Shaped[Tensor, "*batch rows columns"]) -> Shaped[Tensor, "*batch rows columns"]:
    """The parts over their largest numbers, so that no square leaves the range."""
    largest = parts.abs().amax(dim=(-2, -1), keepdim=True)
    return parts / torch.where(largest > 0, largest, 1)


def _sizes(system: System, followed: Sequence[int]) -> list[Shaped[Tensor, "*batch writes"]]:
    """Yield, after every token, the norm of what each earlier ``followed`` token left."""
    size = (*system.batch, system.state_size, 0)
    left = torch.zeros(size, dtype=system.dtype, device=system.device)
    found = []
    for start in range(0, system.steps, TOGETHER):
        part = system.window(start, min(start + TOGETHER, system.steps))
        write = _units(dense_of(part.B).to(system.dtype))
        for token in range(part.steps):
            if left.shape[-1]:
                moved = part.A.window(token, token + 1) @ left.unsqueeze(-3)
                left = moved.squeeze(-3).to(system.dtype)
            if start + token in followed:
                left = torch.cat([left, write[..., token, :, :]], dim=-1)
            by_write = left.unflatten(-1, (-1, system.input_size))
            found.append(torch.linalg.vector_norm(by_write, dim=(-3, -1)))
    return found


@checked
def retained(system: System, *, at: int = -1, noise: float = NOISE) -> Shares:
    r"""Share of each token's signal that can be read off the state after the token ``at``.

    The state is :math:`h = \sum_s W_s u_s` with :math:`W_s = A_{at} \cdots A_{s+1} B_s`. Of
    independent signals of unit variance the best linear reader of h recovers the share
    :math:`W_s^H (W W^H + \epsilon^2 \|W\|^2 I)^{-1} W_s` of the variance, where h is known up to
    rounding of relative size ``noise`` (the mean over input ports). Between 0 and 1. The shares of
    all tokens sum to at most the number of states.

    The rest has been lost for three reasons: :func:`interference` of other tokens,
    :func:`overwritten`, and ``1 - retained - interference - overwritten`` by decay.

    Args:
        at: after which token of the recurrence; tokens after it have the share 0.
        noise: relative to the largest direction of the state; that of bfloat16 by default.

    Raises:
        IndexError: if there is no such token.
        ValueError: if ``noise`` is not above 0.

    Example:
        >>> import dsf, torch
        >>> one = torch.ones(2, 1)
        >>> system = dsf.System.from_write_and_read(dsf.systems.transition.Diagonal(one), one, one)
        >>> retained(system, noise=1e-6)  # two tokens in one state
        tensor([0.5000, 0.5000])
    """
    together, _ = _readable("retained", system, at, noise)
    return together


@checked
def overwritten(system: System, *, at: int = -1, noise: float = NOISE) -> Shares:
    """Share of each token's signal that is lost since later tokens removed it from the state.

    Of what could not be read off the state after the token ``at`` even if this token alone had
    written, the part that ``overwriting`` took of the energy of its trace (``erased_by``); the
    other part has decayed. Between 0 and 1, and 0 for diagonal transitions.

    Args:
        at, noise: as for :func:`retained`.

    Raises:
        IndexError, ValueError: as :func:`retained`.

    Example:
        >>> import dsf, torch
        >>> key = torch.ones(1, 2, 1)  # the second token writes to the same key
        >>> mixer = dsf.mixers.DeltaNet(query=key, key=key, value=key, rate=torch.ones(1, 2))
        >>> overwritten(mixer.system(), noise=1e-6)
        tensor([[1., 0.]])
    """
    _, alone = _readable("overwritten", system, at, noise)
    return (1 - alone) * _by_token(system, overwriting_shares(*_in_order(system, at)))


@checked
def interference(system: System, *, at: int = -1, noise: float = NOISE) -> Shares:
    """Share of each token's signal that is lost to other tokens in the same state.

    What could be read off the state after the token ``at`` if this token alone had written, less
    what can be (:func:`retained`). Between 0 and 1. Large where the state is full: what was written
    has not decayed, but cannot be separated from the rest.

    Args:
        at, noise: as for :func:`retained`.

    Raises:
        IndexError, ValueError: as :func:`retained`.

    Example:
        >>> import dsf, torch
        >>> one = torch.ones(2, 1)
        >>> system = dsf.System.from_write_and_read(dsf.systems.transition.Diagonal(one), one, one)
        >>> interference(system, noise=1e-6)  # each takes half of the other
        tensor([0.5000, 0.5000])
    """
    together, alone = _readable("interference", system, at, noise)
    return (alone - together).clamp(min=0)


def _readable(owner: str, system: System, at: int, noise: float) -> tuple[Tensor, Tensor]:
    """What is readable of each token: among all tokens, and if it alone had written."""
    noise = above_zero(owner, "noise", noise)
    ordered, last = _in_order(system, numbered(owner, "at", at, system.steps))
    ports = ordered.input_size
    left = _units(fold(ordered, 0, last + 1).write)  # *batch state (token port)
    gram = left @ left.mH
    sizes, directions = torch.linalg.eigh(gram)
    floor = noise**2 * sizes[..., -1:].clamp(min=torch.finfo(sizes.dtype).tiny)
    seen = (directions.mH @ left).abs().square()
    together = (seen / (sizes.clamp(min=0) + floor).unsqueeze(-1)).sum(dim=-2)
    together = together.unflatten(-1, (-1, ports)).mean(dim=-1)
    own = left.unflatten(-1, (-1, ports)).movedim(-2, -3)  # *batch token state port
    single = torch.linalg.svdvals(own).square()
    alone = (single / (single + floor.unsqueeze(-1))).sum(dim=-1) / ports
    return _by_token(system, together), _by_token(system, alone)


def _in_order(system: System, at: int) -> tuple[System, int]:
    """A system in the order of its recurrence, with all of its states; and the token ``at``."""
    plain = with_conjugates(system) if system.takes_real_part else system
    return forward_form(plain), (-1 - at if system.runs_backward else at) % system.steps


def _by_token(system: System, shares: Tensor) -> Shares:
    """Shares of the first tokens of the recurrence, and 0 for the later ones, token by token."""
    shares = torch.nn.functional.pad(shares, (0, system.steps - shares.shape[-1]))
    return shares.flip(-1) if system.runs_backward else shares


@checked
def state_norm(system: System, signal: Signal) -> Shares:
    """The norm of the state after each token, over its states and channels.

    Computed a few tokens at a time, so that the states of all tokens need not fit in memory.

    Args:
        signal: what drives the system, for example ``layer.signal``.

    Raises:
        ShapeError: if the signal does not fit the system.

    Example:
        >>> import dsf, torch
        >>> one = torch.ones(3, 1)
        >>> system = dsf.System.from_write_and_read(dsf.systems.transition.Diagonal(one), one, one)
        >>> state_norm(system, torch.ones(3, 1, 1))
        tensor([1., 2., 3.])
    """
    check_signal(system, signal)
    ordered = forward_form(system)
    given = signal.flip(-3) if system.runs_backward else signal
    state, norms = ordered.initial, []
    for start in range(0, ordered.steps, TOGETHER):
        stop = min(start + TOGETHER, ordered.steps)
        here = replace(ordered.cut(start, stop), initial=state)
        states = here.states(given[..., start:stop, :, :])
        norms.append(torch.linalg.vector_norm(states, dim=(-2, -1)))
        state = states[..., -1, :, :]
    found = torch.cat(norms, dim=-1)
    return found.flip(-1) if system.runs_backward else found
