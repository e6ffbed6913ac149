"""The one entry to every evaluator."""

from collections.abc import Callable

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.composite import ExplicitMap, Operator, SystemSum
from dsf.evaluate.cache import kept_rows
from dsf.evaluate.chunks import chunkwise
from dsf.shapes import agree, has_axes
from dsf.system import System

Method = Callable[[System, Tensor], Tensor]


def respond(
    system: Operator,
    signal: Shaped[Tensor, "*batch time input channel"],
    *,
    method: Method | None = None,
) -> Shaped[Tensor, "*batch time output channel"]:
    """What ``system`` makes of ``signal``. Every ``method`` gives the same numbers, to rounding.

    Args:
        system: a system, a sum of systems, or an explicit map.
        signal: ``*batch time input channel``; ``channel`` columns share A, B, C, D.
        method: ``dsf.recurrent``, ``dsf.scan``, ``dsf.chunkwise`` or ``dsf.convolution``, or any
            function of a system and a signal. By default the one that suits the system: fused
            attention for an attention cache, ``dsf.chunkwise`` otherwise.

    Raises:
        ShapeError: if the signal does not fit the system.
        ValueError: if ``method`` needs what the system lacks.
    """
    _fits(system, signal)
    if isinstance(system, SystemSum):
        return torch.stack([respond(part, signal, method=method) for part in system]).sum(dim=0)
    if isinstance(system, ExplicitMap):
        if method is not None:
            raise ValueError(
                "respond: this mixer is an explicit map without a finite state, so no method "
                "applies to it. Leave 'method' out."
            )
        return system.rows.apply(signal.to(torch.promote_types(system.dtype, signal.dtype)))
    if method is None:
        rows = kept_rows(system)
        if rows is not None and signal.dtype == system.dtype:
            return rows.apply(signal)
    return (method or chunkwise)(system, signal)


def _fits(system: Operator, signal: Tensor) -> None:
    has_axes("respond", "signal", signal.shape, "*batch time input channel")
    reads = system.read_steps if isinstance(system, ExplicitMap) else system.steps
    agree("respond", "time", system=reads, signal=signal.shape[-3])
    agree("respond", "input", system=system.input_size, signal=signal.shape[-2])
    agree("respond", "batch", system=tuple(system.batch), signal=tuple(signal.shape[:-3]))
    if isinstance(system, System) and system.initial is not None:
        held = system.initial.shape[-1]
        agree("respond", "channel", initial=held, signal=signal.shape[-1])
