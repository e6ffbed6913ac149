"""The central data type: a linear time-varying state-space system, unrolled over one sequence."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.runtime.argument_checks import checked
from dsf.runtime.shapes import ShapeError, agree, at_least, has_axes, on_one_device
from dsf.systems.coefficient import Matrices, cut_of, dense_of, flipped
from dsf.systems.transition import Transition, continued

Kind = TypeVar("Kind", bound="System")
SPAN = 64
"""How many tokens are written out at a time where states are followed."""
KINDS: dict[str, Any] = {
    "A": Transition,
    "B": Matrices,
    "C": Matrices,
    "D": Matrices,
    "initial": Tensor,
}


@dataclass(frozen=True, eq=False)
class System:
    r"""A token mixer as a linear time-varying state-space system.

        h_t = A_t h_{t-1} + B_t u_t        y_t = C_t h_t + D_t u_t

    Unrolled over one sequence and **linear in its signal, given its coefficients**: where a layer
    computes A, B, C, D from its own input, the system describes that layer on this one sequence.

    Attributes:
        A: the state transitions, ``*batch time state state``, stored by structure.
        B: input matrices, ``*batch time state input``.
        C: output matrices, ``*batch time output state``.
        D: feedthrough, ``*batch time output input``; zero when absent.
        initial: the state before the first token, ``*batch state channel``; zero when absent.
        reads_before_update: if set, ``y_t = C_t h_{t-1} + D_t u_t`` (RWKV-4, RWKV-6).
        takes_real_part: if set, the response is the real part of ``y_t``; for complex coefficients
            that represent a real system.
        runs_backward: if set, the recurrence runs from the last token to the first:
            ``h_t = A_t h_{t+1} + B_t u_t``, and ``initial`` is the state after the last token.

    Source: Sieber et al. 2024, arXiv:2405.15731 (there Lambda for A).

    Raises:
        ShapeError: if sizes do not agree (names the part and the axis), or there is no token.
        TypeError: if a part has the wrong type, or holds integers or booleans.

    Example:
        Two states, one with decay 0.5 and one that does not decay; the output is their sum:

        >>> import dsf, torch
        >>> from dsf.systems import transition
        >>> decay = torch.tensor([[0.5, 1.0]]).expand(3, 2)
        >>> one = torch.ones(3, 2)
        >>> system = dsf.System.from_write_and_read(transition.Diagonal(decay), one, one)
        >>> system
        System(3 tokens, 2 states, 1 in, 1 out; A: Diagonal; float32 on cpu)
        >>> dsf.attention_map(system)
        tensor([[2.0000, 0.0000, 0.0000],
                [1.5000, 2.0000, 0.0000],
                [1.2500, 1.5000, 2.0000]])
    """

    A: Transition
    B: Matrices
    C: Matrices
    D: Matrices | None = None
    initial: Tensor | None = None
    reads_before_update: bool = False
    takes_real_part: bool = False
    runs_backward: bool = False

    def __post_init__(self) -> None:
        self._check_kinds()
        for name, axes in (("B", "state input"), ("C", "output state")):
            has_axes("System", name, getattr(self, name).shape, f"*batch time {axes}")
        if self.D is None:
            size = (*self.C.shape[:-1], self.B.shape[-1])
            zero = torch.zeros((), dtype=self.C.dtype, device=self.C.device)
            object.__setattr__(self, "D", zero.expand(size))
        has_axes("System", "D", self.feedthrough.shape, "*batch time output input")
        self._check()

    @classmethod
    def from_write_and_read(
        cls,
        A: Transition,
        write: Shaped[Tensor, "*batch time state"],
        read: Shaped[Tensor, "*batch time state"],
        feedthrough: Shaped[Tensor, "*batch time"] | None = None,
        *,
        reads_before_update: bool = False,
        takes_real_part: bool = False,
    ) -> "System":
        """A system with one input and one output: B_t is the column write_t, C_t the row read_t."""
        D = None if feedthrough is None else feedthrough[..., None, None]
        return cls(
            A,
            B=write.unsqueeze(-1),
            C=read.unsqueeze(-2),
            D=D,
            reads_before_update=reads_before_update,
            takes_real_part=takes_real_part,
        )

    @property
    def feedthrough(self) -> Matrices:
        """D, never None: zeros where none was given."""
        return cast("Matrices", self.D)

    @property
    def batch(self) -> torch.Size:
        """The leading axes."""
        return self.A.batch

    @property
    def steps(self) -> int:
        """How many tokens."""
        return self.A.steps

    @property
    def state_size(self) -> int:
        """Number of states of one channel."""
        return self.A.state_size

    @property
    def input_size(self) -> int:
        """Number of input ports."""
        return self.B.shape[-1]

    @property
    def output_size(self) -> int:
        """Number of output ports."""
        return self.C.shape[-2]

    @cached_property
    def dtype(self) -> torch.dtype:
        """The number type to which all parts promote."""
        parts = (self.A, self.B, self.C, self.feedthrough, self.initial)
        kinds = [part.dtype for part in parts if part is not None]
        return reduce(torch.promote_types, kinds)

    @property
    def device(self) -> torch.device:
        """The device of the parts."""
        return self.A.device

    def cut(self, start: int, stop: int, *, dtype: torch.dtype | None = None) -> "System":
        """The tokens ``start`` to ``stop - 1`` without the initial state; lazy parts stay lazy."""
        self.check_span(start, stop)
        return self.with_ports(
            lambda part: cut_of(part, start, stop, dtype),
            A=self.A.cut(start, stop).to(dtype=dtype),
            initial=None,
        )

    def window(self, start: int, stop: int, *, dtype: torch.dtype | None = None) -> "System":
        """The tokens ``start`` to ``stop - 1``, all parts written out, without the initial state.

        With ``dtype``, in that number type: lazily sampled coefficients are computed in it.

        Raises:
            ValueError: if the tokens are outside the sequence.
        """
        few = self.cut(start, stop, dtype=dtype)
        return few.with_ports(dense_of, A=few.A.window(0, stop - start))

    def with_ports(self: Kind, act: Callable[[Matrices], Matrices], **changes: Any) -> Kind:
        """The system with ``act`` applied to B, C and D, and other fields changed."""
        return replace(self, B=act(self.B), C=act(self.C), D=act(self.feedthrough), **changes)

    @checked
    def states(
        self,
        signal: Shaped[Tensor, "*batch time input channel"],
        at: Sequence[int] | slice | int | None = None,
    ) -> Shaped[Tensor, "*batch at state channel"]:
        """The states that a signal leaves after some tokens, one token after the other.

        They depend on the basis of the states: numbers that do not are the map, its Hankel singular
        values, and how fast either fades.

        Args:
            signal: what drives the system, for example ``layer.signal``.
            at: after which tokens, in the order in which they are to be returned; negative numbers
                count from the end. All tokens by default. A system that runs backward has come
                from the last token to this one.

        Raises:
            ShapeError: if the signal does not fit the system.
            IndexError: if there is no such token.

        Example:
            >>> import dsf, torch
            >>> from dsf.systems import transition
            >>> one = torch.ones(3, 1)
            >>> system = dsf.System.from_write_and_read(transition.Diagonal(one / 2), one, one)
            >>> system.states(torch.ones(3, 1, 1), at=[0, -1]).flatten()
            tensor([1.0000, 1.7500])
        """
        agree("System.states", "batch", system=tuple(self.batch), signal=signal.shape[:-3])
        agree("System.states", "time", system=self.steps, signal=signal.shape[-3])
        agree("System.states", "input", system=self.input_size, signal=signal.shape[-2])
        wanted = self._tokens(at)
        if self.runs_backward:
            mirrored = [self.steps - 1 - token for token in wanted]
            return time_reversed(self).states(signal.flip(-3), mirrored)
        dtype = torch.promote_types(self.dtype, signal.dtype)
        shape = (*self.batch, self.state_size, signal.shape[-1])
        state = signal.new_zeros(shape, dtype=dtype)
        if self.initial is not None:
            state = self.initial.to(dtype).expand(shape)
        kept: dict[int, Tensor] = {}
        for start in range(0, max(wanted) + 1, SPAN):
            wide = dtype if dtype.is_complex != self.dtype.is_complex else None
            part = self.window(start, min(start + SPAN, self.steps), dtype=wide)
            drive = dense_of(part.B).to(dtype) @ signal[..., start : start + SPAN, :, :].to(dtype)
            states, state = continued(part.A, drive, state)
            for token in set(wanted).intersection(range(start, start + part.steps)):
                kept[token] = states[..., token - start, :, :].clone()
        return torch.stack([kept[token] for token in wanted], dim=-3)

    def _tokens(self, at: Sequence[int] | slice | int | None) -> list[int]:
        chosen = slice(None) if at is None else at
        if isinstance(chosen, slice):
            chosen = range(self.steps)[chosen]
        tokens = [chosen] if isinstance(chosen, int) else chosen
        for token in tokens:
            if not -self.steps <= token < self.steps:
                raise IndexError(
                    f"System.states: 'at' names {token}: there is no token {token}; "
                    f"the {self.steps} tokens are numbered from 0 to {self.steps - 1}."
                )
        if not tokens:
            raise IndexError("System.states: 'at' chooses no token; give at least one.")
        return [token % self.steps for token in tokens]

    def check_span(self, start: int, stop: int) -> None:
        """Raise ValueError unless the tokens ``start`` to ``stop - 1`` are in the sequence."""
        for name, token in (("start", start), ("stop", stop)):
            if type(token) is not int:
                at_least(0, "System.window", name, token)
        if not 0 <= start < stop <= self.steps:
            raise ValueError(
                f"System.window: needs 0 <= start < stop <= {self.steps}, "
                f"but start is {start} and stop is {stop}."
            )

    def __repr__(self) -> str:
        kind = type(self.A).__name__
        sizes = (
            f"{self.steps} tokens, {self.state_size} states, "
            f"{self.input_size} in, {self.output_size} out"
        )
        batch = f", batch {tuple(self.batch)}" if self.batch else ""
        notes = [
            name.replace("_", " ")
            for name in ("reads_before_update", "takes_real_part", "runs_backward")
            if getattr(self, name)
        ]
        if self.initial is not None:
            notes.append("initial state")
        tail = f"; {', '.join(notes)}" if notes else ""
        number = str(self.dtype).removeprefix("torch.")
        return f"System({sizes}{batch}; A: {kind}; {number} on {self.device}{tail})"

    def _check(self) -> None:
        B, C, D = self.B.shape, self.C.shape, self.feedthrough.shape
        agree("System", "batch", A=tuple(self.batch), B=B[:-3], C=C[:-3], D=D[:-3])
        agree("System", "time", A=self.steps, B=B[-3], C=C[-3], D=D[-3])
        agree("System", "state", A=self.state_size, B=B[-2], C=C[-1])
        agree("System", "input", B=B[-1], D=D[-1])
        agree("System", "output", C=C[-2], D=D[-2])
        if self.initial is not None:
            has_axes("System", "initial", self.initial.shape, "*batch state channel")
            agree("System", "batch", A=tuple(self.batch), initial=self.initial.shape[:-2])
            agree("System", "state", A=self.state_size, initial=self.initial.shape[-2])
        parts = {name: getattr(self, name) for name in KINDS}
        given = {name: part.device for name, part in parts.items() if part is not None}
        on_one_device("System", **given)
        if self.steps == 0:
            raise ShapeError("System: needs at least one token, but the time axis has none.")

    def _check_kinds(self) -> None:
        for name, kind in KINDS.items():
            part = getattr(self, name)
            if part is None and name in ("D", "initial"):
                continue
            if not isinstance(part, kind):
                matrices = "a structure of dsf.systems.transition, such as Dense(matrix)"
                raise TypeError(
                    f"System: {name} must be {matrices if name == 'A' else 'a torch tensor'}, but "
                    f"it is {type(part).__name__}."
                )
            if not (part.dtype.is_floating_point or part.dtype.is_complex):
                raise TypeError(
                    f"System: {name} has the number type {str(part.dtype).removeprefix('torch.')}; "
                    f"convert it to real or complex numbers first, for example with .double()."
                )


def time_reversed(system: System) -> System:
    """The tokens in reverse order, and the recurrence in the opposite direction."""
    backward = not system.runs_backward
    return system.with_ports(flipped, A=system.A.flipped(), runs_backward=backward)
