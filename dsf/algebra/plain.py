"""Systems with every part written out, as putting them together needs them."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from dsf.coefficient import dense_of
from dsf.shapes import ShapeError, agree
from dsf.system import System


def written_out(system: System) -> System:
    """Input, output and feedthrough matrices as tensors of the number type that holds them all."""
    dtype = system.dtype
    return replace(
        system,
        A=system.A.to(dtype=dtype),
        B=dense_of(system.B).to(dtype),
        C=dense_of(system.C).to(dtype),
        D=dense_of(system.feedthrough).to(dtype),
    )


def reading_before(system: System) -> System:
    """The same responses from the state before the update: ``C_t A_t h_{t-1} + (C_t B_t + D_t) u``.

    Every system has this form; the other way round A_t would have to be invertible.
    """
    if system.reads_before_update:
        return system
    B, C, D = (dense_of(part) for part in (system.B, system.C, system.feedthrough))
    return replace(
        system, C=(system.A.transposed() @ C.mT).mT, D=C @ B + D, reads_before_update=True
    )


def joint_initial(systems: Sequence[System]) -> torch.Tensor | None:
    """The initial states one below the other, zeros for those at rest; None when all are."""
    held = [system.initial for system in systems if system.initial is not None]
    if not held:
        return None
    channels = {f"part {k}": each.shape[-1] for k, each in enumerate(held)}
    agree("initial states", "channel", **channels)
    channel = held[0].shape[-1]
    return torch.cat(
        [
            held[0].new_zeros(*system.batch, system.state_size, channel)
            if system.initial is None
            else system.initial
            for system in systems
        ],
        dim=-2,
    )


def same_sequence(owner: str, systems: Sequence[System]) -> None:
    """Raise unless all systems run over the same tokens on the same device.

    Raises:
        ShapeError: naming the axis and the sizes.
    """
    names = [f"system {k}" for k in range(len(systems))]
    batches = [tuple(system.batch) for system in systems]
    agree(owner, "batch", **dict(zip(names, batches, strict=True)))
    agree(owner, "time", **dict(zip(names, [each.steps for each in systems], strict=True)))
    devices = {str(system.device) for system in systems}
    if len(devices) > 1:
        raise ShapeError(f"{owner}: all systems must be on one device, but they are on {devices}.")
