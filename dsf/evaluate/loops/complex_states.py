"""Time-invariant systems with complex states and real signals: S4, S5, the linear recurrent unit.

A block of tokens at a time: the drive of all states is one product of matrices, a compiled loop
takes the states through the block, and the response is another product.
"""

from typing import cast

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.arguments import state_at_start
from dsf.evaluate.invariant import first_token, varying
from dsf.runtime.threads import in_parallel
from dsf.systems.kernels import applies
from dsf.systems.system import System
from dsf.systems.transition import Diagonal, DiagonalPlusLowRank

BLOCK = 2**17
"""Numbers of a block: drives, or states, of some tokens and sequences, which stay in the cache."""

SPAN = 128
"""Tokens of a block, where it has room for so many."""


def complex_response(
    system: System, signal: Shaped[Tensor, "*batch time input channel"]
) -> tuple[Tensor, Tensor] | None:
    """The real response of a forward system and its final state; None where no loop applies.

    Args:
        signal: of complex type with imaginary parts of zero, as evaluators are given it.
    """
    if not (system.takes_real_part and system.dtype.is_complex and signal.is_complex()):
        return None
    if not isinstance(system.A, Diagonal | DiagonalPlusLowRank) or varying(system) is not None:
        return None
    A, B, C, D = first_token(system, signal.dtype)
    if isinstance(A, DiagonalPlusLowRank):
        if A.left.shape[-1] != 1:
            return None
        parts = [part[..., 0, :] for part in (A.decay, A.left[..., 0], A.right[..., 0])]
    else:
        parts = [cast("Diagonal", A).decay[..., 0, :]]
    entering = state_at_start(system, signal)
    if not applies(*parts, B, C, D, entering, signal, work=signal.numel() * system.state_size):
        return None
    return _Sequences(system, signal, parts, (B, C, D), entering).answered()


class _Sequences:
    """Every entry of the batch and every column of its signal as a sequence of its own."""

    def __init__(
        self,
        system: System,
        signal: Tensor,
        parts: list[Tensor],
        ports: tuple[Tensor, ...],
        entering: Tensor,
    ) -> None:
        self.batch, self.columns = signal.shape[:-3], signal.shape[-1]
        self.before, self.steps = system.reads_before_update, system.steps
        self.parts = [part.expand(*self.batch, -1).flatten(0, -2) for part in parts]
        self.ports = [part.expand(*self.batch, *part.shape[-2:]).flatten(0, -3) for part in ports]
        self.given = signal.real.movedim(-1, -3).flatten(0, -3)  # sequence time input
        self.entering = entering.mT.flatten(0, -2)  # sequence state
        self.response = self.given.new_empty(*self.given.shape[:2], system.output_size)
        self.leaving = torch.empty_like(self.entering)

    def answered(self) -> tuple[Tensor, Tensor]:
        count = len(self.given)
        width = 2 * self.parts[0].shape[-1]
        share = min(max(1, BLOCK // (SPAN * width)), -(-count // torch.get_num_threads()))
        in_parallel(lambda first: self._some(first, first + share), range(0, count, share))
        response = self.response.unflatten(0, (*self.batch, self.columns)).movedim(-3, -1)
        return response, self.leaving.unflatten(0, (*self.batch, self.columns)).mT

    def _some(self, first: int, last: int) -> None:
        from dsf.systems.kernels.complex_states import ComplexStates

        some = slice(first, last)
        given, response = self.given[some], self.response[some]
        entries = torch.arange(len(self.given))[some] // self.columns
        B, C, D = (part[entries] for part in self.ports)
        states = ComplexStates(
            self.parts[0][entries], self.entering[some], *(part[entries] for part in self.parts[1:])
        )
        drives = states.padded(B.mT).contiguous()  # sequence input twice_width
        reads = states.padded(C.conj().resolve_conj()).mT.contiguous()
        span = max(1, BLOCK // (len(given) * drives.shape[-1]))
        room = given.new_empty(len(given), min(span, self.steps), drives.shape[-1])
        for start in range(0, self.steps, span):
            stop = min(start + span, self.steps)
            block = given[:, start:stop]
            drive = room[:, : stop - start]
            if stop - start < room.shape[1]:
                drive = torch.empty_like(drive, memory_format=torch.contiguous_format)
            if drives.shape[1] == 1:
                torch.mul(block, drives, out=drive)
            else:
                torch.matmul(block, drives, out=drive)
            states.scan(drive, before=self.before)
            torch.baddbmm(block @ D.real.mT, drive, reads, out=response[:, start:stop])
        self.leaving[some] = states.reached
