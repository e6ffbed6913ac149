"""States of time-invariant systems with a complex diagonal, with or without a term of rank one.

    h_t = decay h_{t-1} + left (right . h_{t-1}) + drive_t

S4, S5, the linear recurrent unit, and S4D where it starts from a state. The states of a sequence
stay in registers or in the first cache over the tokens of a block, in double precision, because
slowly decaying states accumulate rounding errors over many tokens.
"""

from typing import no_type_check

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn.functional import pad

from dsf.systems.kernels.compiling import kernel
from dsf.systems.kernels.registers import (
    WIDE,
    ahead,
    doubled,
    each,
    load,
    loaded,
    nothing,
    pointers,
    product_and_sum,
    store,
    total,
)

TOGETHER = 4 * WIDE  # states in registers


class ComplexStates:
    """The coefficients of some sequences, as the loop takes them, and the states they have reached.

    Attributes:
        width: number of states with padding; real parts come first, then imaginary parts.
    """

    def __init__(
        self,
        decay: Complex[Tensor, "sequence state"],
        entering: Complex[Tensor, "sequence state"],
        left: Complex[Tensor, "sequence state"] | None = None,
        right: Complex[Tensor, "sequence state"] | None = None,
    ) -> None:
        self.states = decay.shape[-1]
        self.width = self.states + -self.states % TOGETHER
        parts = [decay] if left is None or right is None else [decay, left, right]
        tables = [self.padded(part).double() for part in parts]
        self._table = torch.cat(tables, dim=-1).contiguous().numpy()
        self._state = self.padded(entering).double().contiguous()
        self._rank_one = len(parts) > 1

    def padded(self, part: Complex[Tensor, "*any state"]) -> Float[Tensor, "*any twice_width"]:
        """Real and imaginary parts behind each other, each padded with zeros."""
        more = self.width - self.states
        return torch.cat([pad(part.real, (0, more)), pad(part.imag, (0, more))], dim=-1)

    def scan(self, drive: Float[Tensor, "sequence time twice_width"], *, before: bool) -> None:
        """Take the states through some tokens; they replace the drive.

        Args:
            before: whether the states before every token are written instead of those after it.
        """
        _scan(self._table, self._state.numpy(), drive.numpy(), before, self._rank_one)

    @property
    def reached(self) -> Complex[Tensor, "sequence state"]:
        """The states after the last token."""
        real, imaginary = self._state.unflatten(-1, (2, -1)).unbind(-2)
        return torch.complex(real, imaginary)[..., : self.states]


_sum_less_product = each(lambda a, b, c: c - a * b)


@kernel(inlined=True)
@no_type_check
def _store(pointer, at, four):
    for n in range(4):
        store(pointer, at + n * WIDE, four[n])


@kernel()
@no_type_check
def _uncoupled(table, state, drive, width, count, before):
    """One group of states, as many as fit in registers, over ``count`` tokens."""
    decay, turn = loaded(table, 0, WIDE), loaded(table, width, WIDE)
    real, imaginary = loaded(state, 0, WIDE), loaded(state, width, WIDE)
    for t in range(count):
        o = 2 * t * width
        first, second = doubled(drive, o, WIDE), doubled(drive, o + width, WIDE)
        if before:
            _store(drive, o, real)
            _store(drive, o + width, imaginary)
        moved = _sum_less_product(turn, imaginary, first)
        imaginary = product_and_sum(decay, imaginary, product_and_sum(turn, real, second))
        real = product_and_sum(decay, real, moved)
        if not before:
            _store(drive, o, real)
            _store(drive, o + width, imaginary)
    _store(state, 0, real)
    _store(state, width, imaginary)


@kernel()
@no_type_check
def _seen(table, state, width):
    """``right . h``: what the term of rank one reads of the states."""
    real, imaginary = nothing(state), nothing(state)
    for n in range(0, width, WIDE):
        a, b = load(table, 4 * width + n), load(table, 5 * width + n)
        x, y = load(state, n), load(state, width + n)
        real, imaginary = real + (a * x - b * y), imaginary + (a * y + b * x)
    return total(real), total(imaginary)


@kernel()
@no_type_check
def _coupled(table, state, drive, width, count, before):
    """All states of a sequence, with the term of rank one, over ``count`` tokens."""
    p, q = _seen(table, state, width)
    for t in range(count):
        o = 2 * t * width
        found = nothing(state), nothing(state), nothing(state), nothing(state)
        other = nothing(state), nothing(state), nothing(state), nothing(state)
        ps, qs = (p, p, p, p), (q, q, q, q)
        for n in range(0, width, TOGETHER):
            decay, turn = loaded(table, n, WIDE), loaded(table, width + n, WIDE)
            left, across = loaded(table, 2 * width + n, WIDE), loaded(table, 3 * width + n, WIDE)
            right, askew = loaded(table, 4 * width + n, WIDE), loaded(table, 5 * width + n, WIDE)
            real, imaginary = loaded(state, n, WIDE), loaded(state, width + n, WIDE)
            first, second = doubled(drive, o + n, WIDE), doubled(drive, o + width + n, WIDE)
            if before:
                _store(drive, o + n, real)
                _store(drive, o + width + n, imaginary)
            first = _sum_less_product(across, qs, product_and_sum(left, ps, first))
            second = product_and_sum(across, ps, product_and_sum(left, qs, second))
            first = _sum_less_product(turn, imaginary, first)
            imaginary = product_and_sum(decay, imaginary, product_and_sum(turn, real, second))
            real = product_and_sum(decay, real, first)
            found = _sum_less_product(askew, imaginary, product_and_sum(right, real, found))
            other = product_and_sum(askew, real, product_and_sum(right, imaginary, other))
            _store(state, n, real)
            _store(state, width + n, imaginary)
            if not before:
                _store(drive, o + n, real)
                _store(drive, o + width + n, imaginary)
        p = total((found[0] + found[1]) + (found[2] + found[3]))
        q = total((other[0] + other[1]) + (other[2] + other[3]))


@kernel()
@no_type_check
def _scan(table, state, drive, before, rank_one):
    width = state.shape[1] // 2
    for sequence in range(len(drive)):
        coefficients, mine = pointers(table[sequence]), pointers(state[sequence])
        rows = pointers(drive[sequence])
        if rank_one:
            _coupled(coefficients, mine, rows, width, drive.shape[1], before)
        else:
            for n in range(0, width, TOGETHER):
                some, here, there = ahead(coefficients, n), ahead(mine, n), ahead(rows, n)
                _uncoupled(some, here, there, width, drive.shape[1], before)
