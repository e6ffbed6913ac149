"""Random transitions of every structure and random systems around them, from an explicit seed."""

import numpy as np
import torch

import dsf
from dsf.systems.coefficient import SampledWrite, TokenSlots
from dsf.systems.composite import SoftmaxRows, SystemSum
from dsf.systems.transition import (
    Dense,
    Diagonal,
    DiagonalPlusLowRank,
    Kronecker,
    SampledDiagonal,
    ScaledIdentity,
    Shift,
)
from tests import literal

STRUCTURES = (
    "scaled_identity",
    "diagonal",
    "sampled_diagonal",
    "low_rank",
    "scalar_low_rank",
    "dense",
    "kronecker",
    "shift",
)


class Drawer:
    """Draws tensors, transitions and systems of one number type."""

    def __init__(self, seed=0, *, complex=False, dtype=torch.float64):
        self.rng = torch.Generator().manual_seed(seed)
        self.complex = complex
        self.dtype = dtype

    def real(self, *size, low=-1.0, high=1.0):
        spread = torch.rand(*size, generator=self.rng, dtype=torch.float64)
        return (low + (high - low) * spread).to(self.dtype)

    def tensor(self, *size):
        part = self.real(*size)
        return torch.complex(part, self.real(*size)) if self.complex else part

    def decay(self, *size):
        """Between 0.3 and 1 in size, turned by any angle if complex."""
        size = self.real(*size, low=0.3)
        if not self.complex:
            return size
        return torch.polar(size, self.real(*size.shape, low=-3.0, high=3.0))

    def transition(  # noqa: PLR0911 (one for each structure)
        self, structure, *, batch=(), steps=5, states=3, rank=2
    ):
        shape = (*batch, steps, states)
        if structure == "scaled_identity":
            return ScaledIdentity(self.decay(*batch, steps), states)
        if structure == "diagonal":
            return Diagonal(self.decay(*shape))
        if structure == "sampled_diagonal":
            pole = -self.real(*batch, states, low=0.1, high=2.0)
            pole = torch.complex(pole, self.real(*batch, states)) if self.complex else pole
            return SampledDiagonal(self.real(*batch, steps, low=0.1), pole)
        if structure in ("low_rank", "scalar_low_rank"):
            decay = self.decay(*shape)
            if structure == "scalar_low_rank":
                decay = self.decay(*batch, steps, 1).expand(shape)
            left, right = self.tensor(*shape, rank) / 2, self.tensor(*shape, rank) / 2
            return DiagonalPlusLowRank(decay, left, right)
        if structure == "dense":
            return Dense(self.tensor(*shape, states) / states)
        if structure == "kronecker":
            few = 2 if states % 2 == 0 else states
            return Kronecker(self.tensor(*batch, steps, few, few) / few, states // few)
        like = self.tensor(1)[0]
        return Shift.register(like, batch=torch.Size(batch), steps=steps, size=states)

    def system(self, structure, *, batch=(), steps=5, states=3, ports=(1, 1), **flags):
        """``ports`` are input and output; ``flags`` go to the system, ``initial`` as a width."""
        inputs, outputs = ports
        held = flags.pop("initial", None)
        return dsf.System(
            self.transition(structure, batch=batch, steps=steps, states=states),
            self.tensor(*batch, steps, states, inputs),
            self.tensor(*batch, steps, outputs, states),
            self.tensor(*batch, steps, outputs, inputs),
            initial=None if held is None else self.tensor(*batch, states, held),
            **flags,
        )


def attention(seed=0, steps=6, *, initial=False):
    """Causal softmax attention as a cache of tokens."""
    drawer = Drawer(seed)
    one = torch.ones((), dtype=torch.float64)
    rows = SoftmaxRows(drawer.tensor(steps, 3), drawer.tensor(steps, 3), scale=2.0, causal=True)
    return dsf.System(
        ScaledIdentity(one.expand(steps), steps),
        TokenSlots.cache(one, batch=torch.Size(), steps=steps),
        rows,
        initial=drawer.tensor(steps, 2) if initial else None,
    )


def sampled(seed=0, steps=6, *, channels=4):
    """Mamba: one system for every channel, nothing written out."""
    drawer = Drawer(seed)
    step = drawer.real(channels, steps, low=0.1)
    write = drawer.tensor(1, steps, 3).expand(channels, steps, 3)
    read = drawer.tensor(1, steps, 1, 3).expand(channels, steps, 1, 3)
    A = SampledDiagonal(step, -drawer.real(channels, 3, low=0.1))
    return dsf.System(A, SampledWrite(step, write), read)


def both_ways(drawer, system):
    """``system`` and one that runs the other way."""
    other = drawer.system(
        "diagonal", steps=system.steps, ports=(system.input_size, system.output_size)
    )
    return SystemSum((system, dsf.systems.algebra.reverse(other)))


def written(A):  # noqa: PLR0911 (one for each structure)
    """The maps of a transition without batch axes, by the loops of :mod:`tests.literal`."""
    if isinstance(A, ScaledIdentity):
        return literal.scaled_identity(A.decay.numpy(), A.size)
    if isinstance(A, Diagonal):
        return literal.diagonal(A.decay.numpy())
    if isinstance(A, SampledDiagonal):
        return literal.sampled_diagonal(A.step.numpy(), A.pole.numpy())
    if isinstance(A, DiagonalPlusLowRank):
        return literal.low_rank(A.decay.numpy(), A.left.numpy(), A.right.numpy())
    if isinstance(A, Shift):
        return literal.shift(A.places.tolist(), A.size)
    if isinstance(A, Kronecker):
        return np.stack([np.kron(small, np.eye(A.size)) for small in A.small.numpy()])
    return A.matrix.numpy()


def literal_parts(system):
    """A, B, C, D of a system without batch axes, as plain arrays."""
    parts = (system.B, system.C, system.feedthrough)
    return (written(system.A), *(np.asarray(torch.as_tensor(part)) for part in parts))


def literal_response(system, signal):
    """The response of a system without batch axes, and the state it leaves."""
    states = (system.state_size, signal.shape[-1])
    initial = np.zeros(states) if system.initial is None else system.initial.numpy()
    out, state = literal.response(
        *literal_parts(system),
        signal.numpy(),
        initial,
        before=system.reads_before_update,
        backward=system.runs_backward,
    )
    out = out.real if system.takes_real_part else out
    return torch.from_numpy(np.ascontiguousarray(out)), torch.from_numpy(state)


def literal_map(system):
    """The map of a system without batch axes."""
    weights = literal.weights(
        *literal_parts(system), before=system.reads_before_update, backward=system.runs_backward
    )
    return torch.from_numpy(weights.real.copy() if system.takes_real_part else weights)
