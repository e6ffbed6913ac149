r"""Which later token erased what a token had written: an exact account, token by token.

What the query i would read of token j had nothing come between, less what it does read, is shared
among the tokens between them:

    C_i Phi(i, j) B_j - C_i B_j  =  sum over s = j+1 ... i of  C_i (A_s - I) Phi(s-1, j) B_j

with Phi(s, j) the product of the transitions after j up to s. The share of token s is negative
where it weakens what is there. ``A_s - I`` is split by structure: **decay** is its diagonal part
(``transition.decays() - 1``), **overwriting** the rest, such as the removal of a delta rule.

The shares follow the order of the tokens: a key that is written twice again was erased by the first
of the two. What would be read if s alone had let the trace pass is another question, whose answers
do not sum up: ``spared = -C_i Phi(i, s) (A_s - I) Phi(s-1, j) B_j``.

Softmax attention erases nothing (A_s = I): there attention moves on. ``moved_on`` is by how many
nats the weight of j falls when the key s enters the normaliser.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from dsf.evaluate.arguments import Response, Signal, check_operator, check_signal, forward_form
from dsf.evaluate.maps import row_blocks
from dsf.measures.stability import gram_after, gram_before, is_diagonal, pulled_back, seen_at
from dsf.runtime.argument_checks import checked
from dsf.systems.algebra import adjoint as transpose
from dsf.systems.algebra import with_conjugates
from dsf.systems.coefficient import dense_of
from dsf.systems.composite import Operator, RowSource, kept_rows, parts_of
from dsf.systems.system import System
from dsf.systems.transition import Transition

SPAN = 64
"""Number of tokens whose transitions are written out at a time."""
MAX_SUM = 1 + 1e-6
"""Largest sum of a row that counts as shares of attention."""
Part = Literal["total", "decay", "overwriting"]
Size = Callable[[Tensor], Float[Tensor, "*batch key"]]


@dataclass(frozen=True)
class Eraser:
    """What one token did to what a query reads of an earlier token.

    Attributes:
        token: the token s between key and query, the query included.
        decay: its share by decay, negative where it weakens.
        overwriting: its share by removing or moving what is stored.
        total: ``decay + overwriting``. Totals of all tokens sum to what the query reads of the key,
            less what it would read had nothing come between.
        spared: what the query would read more had this token alone let the trace pass unchanged.
        moved_on: fall of the logarithm of the weight, in nats and at least 0, by this token's key
            in the normaliser of a softmax; 0 for a layer with a state.

    Numbers are floats, and matrices ``output input`` for a system with several ports.
    """

    token: int
    decay: float | Tensor
    overwriting: float | Tensor
    total: float | Tensor
    spared: float | Tensor
    moved_on: float = 0.0


class Loss(NamedTuple):
    """What one token took of what a query reads of one key, in the order of the recurrence."""

    size: float
    entry: tuple[int, ...]
    token: int
    key: int
    decay: Inexact[Tensor, "output input"]
    overwriting: Inexact[Tensor, "output input"]


def erasers(system: Operator, *, query: int, key: int) -> tuple[Eraser, ...]:
    """Return what every token between ``key`` and ``query`` erased of the key, in their order.

    Takes time and memory in proportion to the tokens between.
    """
    check_operator("erasers", system)
    if system.batch:
        raise ValueError(
            f"erasers: expected a 'system' without batch axes, got {tuple(system.batch)}. Choose "
            "one entry: dsf.systems.algebra.select(system, (0, 0))."
        )
    columns = getattr(system, "read_steps", system.steps)
    if columns != system.steps:
        raise ValueError(
            "erasers: expected a 'system' that reads the tokens that it writes, got "
            f"{system.steps} queries and {columns} keys. Cross attention erases nothing."
        )
    query, key = (
        numbered("erasers", name, token, system.steps)
        for name, token in (("query", query), ("key", key))
    )
    rows = kept_rows(system)
    if rows is not None:  # a mixer that keeps every token: attention
        return _moved_on(rows, query, key)
    found: dict[int, Eraser] = {}
    every = (part for part in parts_of(system) if isinstance(part, System))
    reading = [part for part in every if _reads(part, query, key)]
    if not reading:
        raise ValueError(
            f"erasers: expected a 'query' that reads the 'key', got query {query} and key {key}. "
            "Give a later query (an earlier one where the recurrence runs backward)."
        )
    for part in reading:
        for one in _of_one_key(part, query, key):
            old = found.get(one.token)
            found[one.token] = one if old is None else _added(old, one)
    return tuple(found.values())


def _added(first: Eraser, second: Eraser) -> Eraser:
    names = ("decay", "overwriting", "total", "spared")
    return replace(first, **{name: getattr(first, name) + getattr(second, name) for name in names})


def _reads(part: System, query: int, key: int) -> bool:
    lag = key - query if part.runs_backward else query - key
    return lag > 0 or (lag == 0 and not part.reads_before_update)


def numbered(owner: str, name: str, token: int, steps: int) -> int:
    """The number of a token from 0 on; a negative one counts from the end."""
    if not -steps <= token < steps:
        raise IndexError(
            f"{owner}: expected '{name}' from 0 to {steps - 1}, got {token}. Choose one of the "
            f"{steps} tokens."
        )
    return token % steps


def _moved_on(rows: RowSource, query: int, key: int) -> tuple[Eraser, ...]:
    """Attention: the keys between enter the normaliser one after the other."""
    if key > query and rows.is_causal:
        raise ValueError(
            f"erasers: expected a 'key' that the query reads, got key {key} after query {query}. "
            "Give an earlier key."
        )
    between = range(key + 1, query + 1) if key <= query else range(key - 1, query - 1, -1)
    weights = rows.window(query, query + 1).flatten()
    lost = [0.0] * len(between)
    are_shares = not weights.is_complex() and bool((weights >= 0).all())
    if are_shares and between and weights[key] > 0 and float(weights.sum()) <= MAX_SUM:
        entering = weights[list(between)]
        whole = (1 - entering.sum().clamp(max=1) + entering.cumsum(0)).clamp(min=weights[key])
        before = (whole - entering).clamp(min=weights[key])
        lost = torch.log(whole / before).clamp(min=0).tolist()
    return tuple(
        Eraser(token, 0.0, 0.0, 0.0, 0.0, nats) for token, nats in zip(between, lost, strict=True)
    )


def _of_one_key(system: System, query: int, key: int) -> list[Eraser]:
    """The account of one key in one system, by vectors from the key on and from the query back."""
    ordered, steps = forward_form(system), system.steps
    first, last = (steps - 1 - key, steps - 1 - query) if system.runs_backward else (key, query)
    read = dense_of(ordered.window(last, last + 1).C).squeeze(-3).to(ordered.dtype)
    last -= int(system.reads_before_update)  # the query reads the state before its own token
    dtype = ordered.dtype
    trace = dense_of(ordered.window(first, first + 1).B).squeeze(-3).to(dtype)
    passed: list[tuple[int, Transition, Tensor, Tensor]] = []
    for token in range(first + 1, last + 1):
        move = _transition(ordered, token)
        after = _applied(move, trace)
        passed.append((token, move, trace, after))
        trace = after
    found = []
    back = read
    for at, move, before, after in reversed(passed):
        kept = move.decays().squeeze(-2).unsqueeze(-1) * before
        decay = read @ (kept - before)
        overwriting = read @ (after - kept) if move.diagonal() is None else torch.zeros_like(decay)
        spared = back @ (before - after)
        back = _applied(move.transposed(), back.mT).mT
        token = steps - 1 - at if system.runs_backward else at
        numbers = [
            _plain(each, system.takes_real_part)
            for each in (decay, overwriting, decay + overwriting, spared)
        ]
        found.append(Eraser(token, numbers[0], numbers[1], numbers[2], numbers[3]))
    return found[::-1]


def _transition(system: System, token: int) -> Transition:
    return system.A.window(token, token + 1).to(dtype=system.dtype)


def _applied(move: Transition, state: Tensor) -> Tensor:
    return (move @ state.unsqueeze(-3)).squeeze(-3)


def _plain(matrix: Tensor, takes_real_part: bool) -> float | Tensor:
    matrix = matrix.real if takes_real_part else matrix
    if matrix.numel() > 1 or matrix.is_complex():
        return matrix
    return matrix.item()


def query_losses(system: System, *, query: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Iterate over the tokens before a query: what each took of all earlier keys.

    Yields the token and the parts by decay and by overwriting, ``*batch output key input``. Tokens
    are in the order of the recurrence for a system that runs backward. Time grows with the tokens
    squared, memory with the tokens.
    """
    ordered = forward_form(system)
    last = system.steps - 1 - query if system.runs_backward else query
    read = dense_of(ordered.window(last, last + 1).C).to(ordered.dtype)
    stop = last if system.reads_before_update else last + 1
    if stop == 0:
        return
    few = ordered.cut(0, stop, dtype=ordered.dtype)
    moves, (outputs, ports) = few.A.window(0, few.steps), (few.output_size, few.input_size)
    # Rows that read the traces before a token, and of these what the token changes.
    decayed = read * (moves.decays().unsqueeze(-2) - 1)
    reads = [decayed]
    if moves.diagonal() is None:
        taken = read.mT.expand(*few.batch, few.steps, -1, -1)
        reads.append((moves.transposed() @ taken).mT - read - decayed)
    systems = (replace(few, C=part, D=None, reads_before_update=True) for part in reads)
    for blocks in zip(*(row_blocks(each, size=SPAN) for each in systems), strict=True):
        written = blocks[0].written[::outputs].tolist()
        rows = [each.weights.unflatten(-2, (-1, outputs)).unbind(-3) for each in blocks]
        for token, *parts in zip(written, *rows, strict=True):
            found = [part[..., : token * ports].unflatten(-1, (-1, ports)) for part in parts]
            if token:
                yield token, found[0], found[1] if found[1:] else torch.zeros_like(found[0])


def largest_losses(
    system: System, *, query: int, count: int, size: Size | None = None
) -> list[Loss]:
    """The largest losses of one query over the batch, by the ``size`` of changes or their norms."""
    every = losses_by_map(system, query=query, count=count, size=size)
    return sorted((loss for one in every for loss in one), key=lambda one: -one.size)[:count]


def losses_by_map(
    system: System, *, query: int, count: int, size: Size | None = None
) -> list[list[Loss]]:
    """The same for every map of the batch by itself, in order."""
    found: list[list[Loss]] = [[] for _ in range(system.batch.numel())]
    for token, *parts in query_losses(system, query=query):
        total = parts[0] + parts[1]
        sizes = torch.linalg.vector_norm(total, dim=(-3, -1)) if size is None else size(total)
        best = sizes.reshape(len(found), -1).topk(min(count, sizes.shape[-1]))
        entries = product(*map(range, sizes.shape[:-1]))
        each = zip(entries, found, best.values.tolist(), best.indices.tolist(), strict=True)
        for entry, largest, values, keys in each:
            for value, key in zip(values, keys, strict=True):
                if value <= (largest[-1].size if len(largest) == count else 0.0):
                    break
                decay, overwriting = (part[entry][:, key] for part in parts)
                largest.append(Loss(value, entry, token, key, decay, overwriting))
                largest.sort(key=lambda one: -one.size)
                del largest[count:]
    return found


def spared_pairs(
    system: System, signal: Signal, adjoint: Response
) -> tuple[Float[Tensor, "first token key"], Float[Tensor, "first token key"]]:
    """Return what a number would gain had one token spared the trace of one key, for all pairs.

    Summed over all batch axes but the first. Linear: the inner product of ``adjoint`` with the
    change of the response. Exact for one pair at a time; the effects of several do not add up.
    """
    ordered, steps = forward_form(system), system.steps
    if system.runs_backward:
        signal, adjoint = signal.flip(-3), adjoint.flip(-3)
    dtype = torch.promote_types(ordered.dtype, signal.dtype)
    signal, adjoint = signal.to(dtype), adjoint.to(dtype)
    # the gradient of the number at the state after every token
    by_state = cast("System", transpose(ordered)).states(adjoint)
    if ordered.reads_before_update:
        by_state = torch.nn.functional.pad(by_state[..., 1:, :, :], (0, 0, 0, 0, 0, 1))
    first = ordered.batch[0] if ordered.batch else 1
    found = signal.new_zeros(2, first, steps, steps, dtype=dtype.to_real())
    traces = signal.new_zeros(*ordered.batch, ordered.state_size, 0)
    for token in range(1, steps):
        move = _transition(ordered, token)
        write = dense_of(ordered.window(token - 1, token).B).squeeze(-3).to(dtype)
        traces = torch.cat([traces, write], dim=-1)
        kept = move.decays().squeeze(-2).unsqueeze(-1)
        ahead = by_state[..., token, :, :]
        by_decay = (1 - kept) * ahead
        both = by_decay
        if move.diagonal() is None:
            both = ahead - _applied(move.transposed(), ahead)
        values = signal[..., :token, :, :].flatten(-3, -2)  # token port, channel
        for part, pulled in enumerate((by_decay, both - by_decay)):
            gains = ((traces.mT @ pulled) * values).sum(dim=-1).real
            gains = gains.unflatten(-1, (token, -1)).sum(dim=-1)
            found[part, :, token, :token] = gains.reshape(first, -1, token).sum(dim=1)
        traces = _applied(move, traces)
    if system.runs_backward:
        found = found.flip((-2, -1))
    return found[0], found[1]


@checked
def erased_by(
    system: System, signal: Signal | None = None, *, part: Part = "total"
) -> Float[Tensor, "*batch time"]:
    r"""Energy that each token erases of all that was written before it.

    With W the energy in the state before token s (``controllability_gramians``) and M that which
    the reads from s on take of the state after s, it is :math:`tr M W - tr M A_s W A_s^H`: what the
    queries from s on would have read of all before, had s let it pass, less what they do read.
    Negative where a token strengthens what is there. A change of basis of the states, the same at
    all tokens, leaves the total as it is. ``decay`` is the part by which the diagonal of A_s alone
    lowers that energy, ``overwriting`` the rest.

    Streamed: takes time in proportion to the tokens, and memory for some of the Gramians.

    Args:
        signal: weighs each write, for example ``layer.signal``; unit signals by default.
        part: ``total``, ``decay`` or ``overwriting``; the first is the sum of the others.

    Raises:
        ValueError: for another part, or a signal that does not fit.

    Example:
        >>> import dsf, torch
        >>> from dsf.systems import transition
        >>> one = torch.ones(3, 1)
        >>> system = dsf.System.from_write_and_read(transition.Diagonal(one / 2), one, one)
        >>> erased_by(system)  # energies 1 and 1.25, read with 1.25 and 1, less a quarter
        tensor([0.0000, 0.9375, 0.9375])
    """
    if signal is not None:
        check_signal(system, signal)
    decay, overwriting = _energies(system, signal)
    return {"total": decay + overwriting, "decay": decay, "overwriting": overwriting}[part]


def _energies(system: System, signal: Tensor | None) -> tuple[Tensor, Tensor]:
    plain = with_conjugates(system) if system.takes_real_part else system
    ordered = forward_form(plain)
    given = signal.flip(-3) if signal is not None and system.runs_backward else signal
    size = (*ordered.batch, ordered.state_size, ordered.state_size)
    written = torch.zeros(size, dtype=ordered.dtype, device=ordered.device)
    windows = [(t, min(t + SPAN, ordered.steps)) for t in range(0, ordered.steps, SPAN)]
    later = [torch.zeros_like(written)]  # the energy that is read after each window
    for span in reversed(windows[1:]):
        later.append(_reads_in(ordered.window(*span), later[-1])[1])
    decays, overwritings = [], []
    for start, stop in windows:
        window = ordered.window(start, stop)
        reads, _ = _reads_in(window, later.pop())
        for token in range(window.steps):
            one = window.window(token, token + 1)
            kept = one.A.decays()
            stored, left = written, gram_after(one, written)
            by_decay = kept.mT * written * kept.conj()
            traces = [
                (reads[token].mT * each).sum(dim=(-2, -1)).real for each in (stored, by_decay, left)
            ]
            decays.append(traces[0] - traces[1])
            overwritings.append(
                traces[1] - traces[2] if one.A.diagonal() is None else torch.zeros_like(traces[0])
            )
            write = dense_of(one.B).squeeze(-3).to(written.dtype)
            if given is not None:
                write = write @ given[..., start + token, :, :].to(written.dtype)
            written = left + write @ write.mH
    found = [torch.stack(each, dim=-1) for each in (decays, overwritings)]
    if system.runs_backward:
        found = [each.flip(-1) for each in found]
    return found[0], found[1]


def _reads_in(window: System, later: Tensor) -> tuple[list[Tensor], Tensor]:
    """For every token of a window the energy that reads from it on take of the state after it.

    And what they take of the state before the window; ``later`` is that after the window.
    """
    found = []
    for token in range(window.steps - 1, -1, -1):
        one = window.window(token, token + 1)
        found.append(later if window.reads_before_update else later + seen_at(one))
        later = gram_before(one, later)
    return found[::-1], later


def overwriting_shares(ordered: System, last: int) -> Float[Tensor, "*batch time"]:
    """Of what each token's trace lost of its energy up to ``last``, the share by overwriting.

    In the basis of the states; 0 where nothing was lost. By one pass from ``last`` back, with
    memory for two matrices of the states.
    """
    if is_diagonal(ordered):
        shape = (*ordered.batch, last + 1)
        return torch.zeros(shape, dtype=ordered.dtype.to_real(), device=ordered.device)
    size = (*ordered.batch, ordered.state_size, ordered.state_size)
    identity = torch.eye(size[-1], dtype=ordered.dtype, device=ordered.device)
    left, decayed = identity.expand(size), torch.zeros_like(identity).expand(size)
    found = []
    for begin in range(last // SPAN * SPAN, -1, -SPAN):
        window = ordered.window(begin, min(begin + SPAN, last + 1))
        for token in range(window.steps - 1, -1, -1):
            one = window.window(token, token + 1)
            write = dense_of(one.B).squeeze(-3).to(ordered.dtype)
            energy = [
                (write.conj() * (form @ write)).real.sum(dim=(-2, -1))
                for form in (identity, left, decayed)
            ]
            by_decay = energy[2].clamp(min=0)
            other = (energy[0] - energy[1] - energy[2]).clamp(min=0)
            lost = by_decay + other
            # A share of rounding is none: nothing was lost.
            is_lost = lost > 1e-9 * energy[0]
            found.append(torch.where(is_lost, other / torch.where(is_lost, lost, 1), 0))
            kept = one.A.decays().squeeze(-2)
            held = torch.diag_embed((1 - kept.abs().square()).to(ordered.dtype))
            decayed = held + pulled_back(one, decayed)
            left = pulled_back(one, left)
    return torch.stack(found[::-1], dim=-1)
