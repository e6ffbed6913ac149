"""State transitions A_t by structure, and solvers of h_t = A_t h_{t-1} + drive_t.

Every structure has the same operations. Solvers take (A, drive, h_0) to states: ``recurrence``
takes one token after the other, ``doubling`` is a parallel prefix scan in a logarithmic number of
passes, and uncoupled states (each entry with its own decay) have a compiled loop.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.runtime.number_types import exact_dtype
from dsf.systems.coefficient import Parts, along_time, cut, delay, flip, is_constant, time_axes
from dsf.systems.kernels import applies

__all__ = [
    "Dense",
    "Diagonal",
    "DiagonalPlusLowRank",
    "Kronecker",
    "SampledDiagonal",
    "ScaledIdentity",
    "Shift",
    "Transition",
]

Maps = TypeVar("Maps", bound="Transition")
States = Shaped[Tensor, "*batch time state channel"]
Matrices = Shaped[Tensor, "*batch time state state"]
Diagonals = Shaped[Tensor, "*batch time state"]


class Transition(Parts, ABC):
    """The transition matrices A_1 ... A_T of one system, stored by their structure.

    ``shape`` is ``(*batch, time, state, state)`` whatever the storage. Token indices count from 0.
    """

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """The shape of the matrices if written out: ``(*batch, time, state, state)``."""

    @property
    def batch(self) -> torch.Size:
        """The leading axes."""
        return self.shape[:-3]

    @property
    def steps(self) -> int:
        """The number of tokens."""
        return self.shape[-3]

    @property
    def state_size(self) -> int:
        """How many states one channel has."""
        return self.shape[-1]

    @abstractmethod
    def __matmul__(self, state: States) -> States:
        """A_t applied to the state of the same token."""

    def compose(self, earlier: "Transition") -> "Transition":
        """The products ``A_t earlier_t``, token by token.

        In the same structure where it is closed under products, dense otherwise.
        """
        return Dense(self @ earlier.dense())

    def window(self, start: int, stop: int) -> "Transition":
        """The tokens ``start`` to ``stop - 1``, with lazily sampled values computed."""
        return self.cut(start, stop)

    def cut(self: Maps, start: int, stop: int) -> Maps:
        """The tokens ``start`` to ``stop - 1``; lazily sampled values stay lazy."""
        return along_time(self, lambda part, axis: cut(part, start, stop, axis=axis))

    def delayed(self: Maps, lag: int) -> Maps:
        """Every matrix ``lag`` tokens later, identities in front; ``lag`` is at least 0."""
        moved = {}
        for name, axis in time_axes(type(self)).items():
            fill = 1.0 if name == "decay" else 0.0  # no step, no low rank, no place
            moved[name] = delay(getattr(self, name), lag, axis=axis, fill=fill)
        return replace(self, **moved)  # type: ignore[type-var]

    def flipped(self: Maps) -> Maps:
        """The tokens in reverse order."""
        return along_time(self, lambda part, axis: flip(part, axis=axis))

    @abstractmethod
    def transposed(self) -> "Transition":
        """Every matrix transposed (not conjugated)."""

    def diagonal(self) -> Diagonals | None:
        """The diagonals if the structure is diagonal, else None."""
        return None

    def decays(self) -> Diagonals:
        """The factor by which each state keeps itself: the diagonal part of the structure.

        What is left of A_t removes what is stored or moves it to other states: the low-rank part of
        a delta rule, the entries off the diagonal of a dense matrix.
        """
        own = self.diagonal()
        return self.dense().diagonal(dim1=-2, dim2=-1) if own is None else own

    @property
    def is_constant(self) -> bool:
        """Whether every token has the same matrix."""
        axes = time_axes(type(self)).items()
        return all(is_constant(getattr(self, name), axis=axis) for name, axis in axes)

    @abstractmethod
    def dense(self) -> Matrices:
        """The matrices written out."""


def _behind_identities(matrices: Tensor, lag: int) -> Tensor:
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    front = torch.arange(matrices.shape[-3], device=matrices.device) < lag
    return torch.where(front[:, None, None], identity, delay(matrices, lag, axis=-3))


@dataclass(frozen=True)
class Dense(Transition):
    """An arbitrary matrix A_t at every token."""

    matrix: Shaped[Tensor, "*batch time state state"]

    @property
    def shape(self) -> torch.Size:
        return self.matrix.shape

    def __matmul__(self, state: States) -> States:
        return self.matrix @ state

    def delayed(self, lag: int) -> "Dense":
        return Dense(_behind_identities(self.matrix, lag))

    def transposed(self) -> "Dense":
        return Dense(self.matrix.mT)

    def dense(self) -> Matrices:
        return self.matrix


class Uncoupled(Transition):
    """Transitions under which no state reads another: the base of all diagonal structures."""

    @abstractmethod
    def diagonal(self) -> Diagonals:
        """The decays, one for every state."""

    def __matmul__(self, state: States) -> States:
        return self.diagonal().unsqueeze(-1) * state

    def compose(self, earlier: Transition) -> Transition:
        decay = earlier.diagonal()
        return super().compose(earlier) if decay is None else Diagonal(self.diagonal() * decay)

    def transposed(self: Maps) -> Maps:
        return self

    def dense(self) -> Matrices:
        return torch.diag_embed(self.diagonal())


@dataclass(frozen=True)
class Diagonal(Uncoupled):
    """``A_t = diag(decay_t)``: one decay, a factor per token, for every state."""

    decay: Shaped[Tensor, "*batch time state"]

    @property
    def shape(self) -> torch.Size:
        return torch.Size([*self.decay.shape, self.decay.shape[-1]])

    def diagonal(self) -> Diagonals:
        return self.decay


@dataclass(frozen=True)
class ScaledIdentity(Uncoupled):
    """``A_t = decay_t I``: one decay, a factor per token, for all ``size`` states."""

    decay: Shaped[Tensor, "*batch time"]
    size: int

    @property
    def shape(self) -> torch.Size:
        return torch.Size([*self.decay.shape, self.size, self.size])

    def compose(self, earlier: Transition) -> Transition:
        if isinstance(earlier, ScaledIdentity):
            return ScaledIdentity(self.decay * earlier.decay, self.size)
        return super().compose(earlier)

    def diagonal(self) -> Diagonals:
        return self.decay.unsqueeze(-1).expand(*self.decay.shape, self.size)


@dataclass(frozen=True)
class SampledDiagonal(Uncoupled):
    """``A_t = exp(step_t diag(pole))``, the diagonal of Mamba, stored as step sizes and poles.

    Written out it would take ``time x channel x state`` numbers; ``window`` computes only the
    requested tokens.
    """

    step: Shaped[Tensor, "*batch time"]
    pole: Shaped[Tensor, "*batch state"]

    @property
    def shape(self) -> torch.Size:
        states = self.pole.shape[-1]
        return torch.Size([*self.step.shape, states, states])

    def window(self, start: int, stop: int) -> Diagonal:
        return self._sampled(cut(self.step, start, stop, axis=-1))

    def _sampled(self, step: Tensor) -> Diagonal:
        return Diagonal((step.unsqueeze(-1) * self.pole.unsqueeze(-2)).exp_())

    def __matmul__(self, state: States) -> States:
        """Sampled in the number type of the state, which is accurate enough for one product."""
        alike = self.to(dtype=state.dtype)
        return alike._sampled(alike.step) @ state

    def compose(self, earlier: Transition) -> Transition:
        if isinstance(earlier, SampledDiagonal) and earlier.pole is self.pole:
            return SampledDiagonal(self.step + earlier.step, self.pole)
        return super().compose(earlier)

    def diagonal(self) -> Diagonals:
        """The decays, with time as the slowest axis in memory, as recurrences read them."""
        by_time = self.step.movedim(-1, 0).contiguous().unsqueeze(-1)
        return (by_time * self.pole).exp_().movedim(0, -2)


@dataclass(frozen=True)
class Kronecker(Transition):
    """``A_t = small_t ⊗ I``: a small matrix that acts alike on each of ``size`` coordinates.

    States ``a * size + n`` is state ``a`` of coordinate ``n``.
    """

    small: Shaped[Tensor, "*batch time few few"]
    size: int

    @property
    def shape(self) -> torch.Size:
        states = self.few * self.size
        return torch.Size([*self.small.shape[:-2], states, states])

    @property
    def few(self) -> int:
        """How many states one coordinate has."""
        return self.small.shape[-1]

    def __matmul__(self, state: States) -> States:
        by_coordinate = state.unflatten(-2, (self.few, self.size)).flatten(-2)
        return (self.small @ by_coordinate).reshape(state.shape)

    def compose(self, earlier: Transition) -> Transition:
        if isinstance(earlier, Kronecker) and earlier.size == self.size:
            return Kronecker(self.small @ earlier.small, self.size)
        if isinstance(earlier, ScaledIdentity):
            return Kronecker(self.small * earlier.decay[..., None, None], self.size)
        return super().compose(earlier)

    def delayed(self, lag: int) -> "Kronecker":
        return Kronecker(_behind_identities(self.small, lag), self.size)

    def transposed(self) -> "Kronecker":
        return Kronecker(self.small.mT, self.size)

    def decays(self) -> Diagonals:
        return self.small.diagonal(dim1=-2, dim2=-1).repeat_interleave(self.size, dim=-1)

    def dense(self) -> Matrices:
        identity = torch.eye(self.size, dtype=self.dtype, device=self.device)
        spread = self.small[..., :, None, :, None] * identity[:, None, :]
        return spread.flatten(-2).flatten(-3, -2)


@dataclass(frozen=True)
class DiagonalPlusLowRank(Transition):
    """``A_t = diag(decay_t) + left_t right_tᵀ`` (not conjugated): delta rules, S4, RWKV-7.

    Not closed under composition: the product of two is dense. Where all states share a decay, give
    it as ``decay.expand(*decay.shape[:-1], state)``, one stored number a token: windows of tokens
    are then folded by the cheaper algorithm for a scalar decay.
    """

    decay: Shaped[Tensor, "*batch time state"]
    left: Shaped[Tensor, "*batch time state rank"]
    right: Shaped[Tensor, "*batch time state rank"]

    @property
    def shape(self) -> torch.Size:
        return torch.Size([*self.decay.shape, self.decay.shape[-1]])

    def __matmul__(self, state: States) -> States:
        return self.decay.unsqueeze(-1) * state + self.left @ (self.right.mT @ state)

    def transposed(self) -> "DiagonalPlusLowRank":
        return DiagonalPlusLowRank(self.decay, self.right, self.left)

    def decays(self) -> Diagonals:
        return self.decay

    def dense(self) -> Matrices:
        return torch.diag_embed(self.decay) + self.left @ self.right.mT


@dataclass(frozen=True)
class Shift(Transition):
    """A delay line: state ``n`` becomes state ``n + places``; a negative number shifts backward.

    ``places`` may differ from token to token: the identity (0 places) is a shift too, and products
    of shifts in one direction are shifts.
    """

    places: Shaped[Tensor, " time"]
    size: int
    leading: torch.Size
    like: Shaped[Tensor, ""]

    @classmethod
    def register(cls, like: Tensor, *, batch: torch.Size, steps: int, size: int) -> "Shift":
        """A delay line of ``size`` states at every token, of the dtype and device of ``like``."""
        places = torch.ones(steps, dtype=torch.long, device=like.device)
        return cls(places, size, batch, like.new_zeros(()))

    @property
    def shape(self) -> torch.Size:
        return torch.Size([*self.leading, self.places.shape[0], self.size, self.size])

    @property
    def moves_by_one(self) -> bool:
        """Whether it is a delay line that shifts by one place at every token."""
        return bool((self.places == 1).all())

    def __matmul__(self, state: States) -> States:
        source = torch.arange(self.size, device=self.device) - self.places[:, None]
        inside = (source >= 0) & (source < self.size)
        index = source.clamp(0, self.size - 1).unsqueeze(-1).expand_as(state)
        return torch.where(inside.unsqueeze(-1), state.gather(-2, index), 0)

    def compose(self, earlier: Transition) -> Transition:
        if isinstance(earlier, Shift) and bool((self.places * earlier.places >= 0).all()):
            return Shift(self.places + earlier.places, self.size, self.leading, self.like)
        return super().compose(earlier)

    def transposed(self) -> "Shift":
        return Shift(-self.places, self.size, self.leading, self.like)

    def dense(self) -> Matrices:
        identity = torch.eye(self.size, dtype=self.dtype, device=self.device)
        return self @ identity.expand(self.shape)


State = Shaped[Tensor, "*batch state channel"]
Solution = tuple[States, State]


def with_initial_state(A: Transition, drive: States, entering: State | None) -> States:
    """``drive``, with ``A_1 entering`` added at the first token."""
    if entering is None:
        return drive
    carried = A.window(0, 1) @ entering.unsqueeze(-3)
    dtype = drive.dtype.to_complex() if carried.is_complex() else drive.dtype
    return torch.cat([drive[..., :1, :, :] + carried.to(dtype), drive[..., 1:, :, :]], dim=-3)


def states_before(entering: State, states: States) -> States:
    """The state before every token, ``h_0 ... h_{T-1}``, in the precision of ``states``."""
    first = entering.unsqueeze(-3).to(states.dtype)
    return torch.cat([first, states[..., :-1, :, :]], dim=-3)


def doubling(A: Transition, drive: States, entering: State | None = None) -> Solution:
    """Solve ``h_t = A_t h_{t-1} + drive_t`` as a prefix scan.

    After the pass with a given lag, ``state[t]`` is the state that the last ``2 * lag`` tokens
    alone would leave, and ``jump[t]`` is the product of their transitions.
    """
    state, lag = with_initial_state(A, drive, entering), 1
    # In double precision, so that its products are not rounded again in every pass.
    jump = A.to(dtype=exact_dtype(drive.dtype.to_real(), drive.device))
    while lag < A.steps:
        alike = jump.to(dtype=drive.dtype.to_real())
        state = state + alike @ delay(state, lag, axis=-3)
        jump = jump.compose(jump.delayed(lag))
        lag *= 2
    return state, state[..., -1, :, :]


def uncoupled_states(decay: Tensor, drive: States, entering: State | None = None) -> Solution:
    """Solve ``h_t = decay_t h_{t-1} + drive_t``, one token after the other.

    ``decay`` is broadcast to the axes of ``drive`` and may have a higher precision. The states have
    the precision of ``drive``, the last one double precision where the device has it, in which all
    is computed: that costs nothing here, and decays close to one would lose digits otherwise.
    """
    if decay.is_complex() or drive.is_complex():
        decay, drive = (part.to(part.dtype.to_complex()) for part in (decay, drive))
    decay, drive = torch.broadcast_tensors(decay, drive)
    exact = exact_dtype(drive.dtype, drive.device)
    at_rest = entering is None  # the first decay then multiplies nothing, and it may be infinite
    running = torch.zeros_like(drive[..., 0, :, :], dtype=exact)
    if entering is not None:
        running = entering.to(exact).expand_as(running)
    if all(applies(part, work=drive.numel()) for part in (decay, drive, running)):
        return _compiled(decay, drive, running, at_rest)
    decays, found = decay.to(exact).unbind(-3), list(drive.to(exact).unbind(-3))
    for t, (factor, driven) in enumerate(zip(decays, found, strict=True)):
        if t or not at_rest:
            found[t] = torch.addcmul(driven, factor, running)
        running = found[t]
    return torch.stack(found, dim=-3).to(drive.dtype), running


def _compiled(decay: Tensor, drive: Tensor, running: Tensor, at_rest: bool) -> Solution:
    """Time is the first axis in memory, so that the numbers of a token are contiguous."""
    from dsf.systems.kernels.recurrences import scan_states

    parts = [part.movedim(-3, 0).contiguous() for part in (decay, drive)]
    states = torch.empty_like(parts[1])
    leaving = running.clone(memory_format=torch.contiguous_format)
    given = (part.resolve_conj().resolve_neg().flatten(1) for part in parts)
    scan_states(*given, at_rest=at_rest, into=(states.flatten(1), leaving.flatten()))
    return states.movedim(0, -3), leaving


def recurrence(A: Transition, drive: States) -> States:
    """Solve ``h_t = A_t h_{t-1} + drive_t`` token by token, from a zero initial state."""
    return continued(A, drive, None)[0]


def continued(A: Transition, drive: States, entering: State | None) -> Solution:
    """All states from the initial state ``entering`` (zero if None), and the last state.

    Where the states are uncoupled the last state is returned in double precision, so that carrying
    it from window to window loses no digits, however many windows a long sequence is cut into.
    """
    decay = A.decay.unsqueeze(-1) if isinstance(A, ScaledIdentity) else A.diagonal()
    if decay is not None:
        return uncoupled_states(decay.unsqueeze(-1), drive, entering)
    if isinstance(A, Shift) and A.moves_by_one:
        states = place_by_place(with_initial_state(A, drive, entering))
        return states, states[..., -1, :, :]
    return _token_by_token(A, drive, entering)


def _token_by_token(A: Transition, drive: Tensor, entering: Tensor | None) -> tuple[Tensor, Tensor]:
    """In double precision, because products of many matrices lose digits quickly."""
    dtype = torch.promote_types(A.dtype, drive.dtype)
    exact = exact_dtype(dtype, drive.device)
    A, entering = A.to(dtype=exact), None if entering is None else entering.to(exact)
    state, *later = with_initial_state(A, drive.to(exact), entering).unbind(dim=-3)
    states = [state.to(dtype)]
    for t, driven in enumerate(later, start=1):
        state = (A.window(t, t + 1) @ state.unsqueeze(-3)).squeeze(-3) + driven
        states.append(state.to(dtype))
    return torch.stack(states, dim=-3), state


def place_by_place(drive: States) -> States:
    """States of a delay line that moves on by one position a token, position by position."""
    if drive.shape[-2] == 0:
        return drive
    first, *others = drive.unbind(dim=-2)
    states = [first]
    for entering in others:
        states.append(entering + delay(states[-1], 1, axis=-2))
    return torch.stack(states, dim=-2)


SAFE = 128
"""Matrices of as many rows are factorised without threads of MKL's own."""


def solved(
    matrices: Shaped[Tensor, "*batch size size"], columns: Shaped[Tensor, "*batch size count"]
) -> Shaped[Tensor, "*batch size count"]:
    """``matrices⁻¹ columns``; larger matrices one after the other."""
    batch = torch.broadcast_shapes(matrices.shape[:-2], columns.shape[:-2])
    if matrices.shape[-1] <= SAFE or batch.numel() < 2 or matrices.device.type != "cpu":
        return torch.linalg.solve(matrices, columns)
    several = matrices.expand(*batch, *matrices.shape[-2:]).flatten(0, -3)
    sides = columns.expand(*batch, *columns.shape[-2:]).flatten(0, -3)
    pairs = zip(several, sides, strict=True)
    found = [torch.linalg.solve(matrix, side) for matrix, side in pairs]
    return torch.stack(found).view(*batch, *columns.shape[-2:])
