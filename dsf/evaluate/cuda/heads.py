"""Systems with a matrix-valued state as tensors with one head axis, for the CUDA kernels."""

from typing import NamedTuple

from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.arguments import state_at_start
from dsf.evaluate.loops.responses import BareArrays, bare_arrays
from dsf.systems.system import System

Answer = tuple[Shaped[Tensor, "*batch time output channel"], Shaped[Tensor, "*batch state channel"]]


class Heads(NamedTuple):
    """The coefficients of a system with one port, its signal and its initial state, by head."""

    decay: Shaped[Tensor, "head time decays"]
    gain: Shaped[Tensor, "head time"]
    write: Shaped[Tensor, "head time state"]
    read: Shaped[Tensor, "head time state"]
    look: Shaped[Tensor, "head time state"] | None
    signal: Shaped[Tensor, "head time channel"]
    entering: Shaped[Tensor, "head state channel"]


def one_port_parts(system: System) -> BareArrays | None:
    """The coefficients of a system with one input and one output; None for other systems."""
    one_port = system.input_size * system.output_size == 1
    return bare_arrays(system) if one_port else None


def by_head(system: System, signal: Shaped[Tensor, "*batch time 1 channel"]) -> Heads | None:
    """The batch axes flattened to one head axis; None where :func:`one_port_parts` is None."""
    parts = one_port_parts(system)
    if parts is None:
        return None
    batch, heads = system.batch, system.batch.numel()

    def flat(part: Tensor, own: int) -> Tensor:
        tail = part.shape[part.ndim - own :]
        return part.expand(*batch, *tail).reshape(heads, *tail)

    scalar = parts.decay.ndim < parts.write.ndim
    return Heads(
        flat(parts.decay.unsqueeze(-1) if scalar else parts.decay, 2),
        flat(parts.gain, 1),
        flat(parts.write, 2),
        flat(parts.read, 2),
        None if parts.look is None else flat(parts.look, 2),
        flat(signal.squeeze(-2), 2),
        flat(state_at_start(system, signal), 2),
    )


def by_batch(
    system: System,
    signal: Shaped[Tensor, "*batch time 1 channel"],
    response: Shaped[Tensor, "head time channel"],
    leaving: Shaped[Tensor, "head state channel"],
) -> Answer:
    """The head axis split into batch axes again, and the feedthrough added to the response."""
    bare = signal.squeeze(-2)
    response = response.reshape(bare.shape) + system.feedthrough[..., 0] * bare
    return response.unsqueeze(-2), leaving.reshape(*system.batch, *leaving.shape[-2:])
