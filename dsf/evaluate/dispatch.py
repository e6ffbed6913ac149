"""``respond``: the response of any system by the evaluator that suits it, or a given one."""

from collections.abc import Callable
from functools import partial, reduce

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.arguments import check_signal
from dsf.evaluate.chunks import by_default, chunkwise, convolution, scan
from dsf.evaluate.memory_plan import check_plan, respond_bytes
from dsf.evaluate.stepwise import recurrent
from dsf.runtime.shapes import ShapeError, of_kind
from dsf.systems.composite import (
    ExplicitMap,
    Operator,
    SystemSum,
    applied,
    kept_response,
    kept_rows,
)
from dsf.systems.system import System

Method = Callable[[System, Tensor], Tensor]
METHODS: dict[str, Method] = {
    "recurrent": recurrent,
    "scan": scan,
    "chunkwise": chunkwise,
    "convolution": convolution,
}

# For signals of at least this many numbers the free memory is checked first.
LARGE = 2**24
SMALLER = (
    "Process fewer entries of the batch or fewer channels at a time, or split the sequence: "
    "dsf.evaluate.final_state gives the initial state of the next part."
)


def respond(
    system: Operator,
    signal: Shaped[Tensor, "*batch time input channel"],
    *,
    method: Method | str | None = None,
    out: Shaped[Tensor, "*batch written output channel"] | None = None,
) -> Shaped[Tensor, "*batch written output channel"]:
    """The response of ``system`` to ``signal``. Every ``method`` gives the same, to rounding.

    Args:
        system: a system, a sum of systems, or an explicit map.
        signal: ``*batch time input channel``; ``channel`` columns share A, B, C, D.
        method: ``"recurrent"``, ``"scan"``, ``"chunkwise"`` or ``"convolution"`` (functions of
            ``dsf.evaluate``), or any function of a system and a signal. By default the one that
            suits the system: fused attention for an attention cache; a compiled loop where one
            applies (real numbers on a CPU, no gradients, enough work to pay for loading the
            compiler); else chunks.
        out: an earlier response, which is overwritten and returned: allocating fresh memory takes
            about as long as writing it ten times. It may share no memory with the arguments.

    Raises:
        ShapeError: if the signal does not fit the system, or ``out`` does not fit the response.
        ValueError: if ``method`` does not support the system.
        MapTooLarge: if the response takes more than half of the free memory.

    Example:
        A state with decay 0.5, driven by a unit impulse:

        >>> import dsf, torch
        >>> from dsf.systems import transition
        >>> one = torch.ones(3, 1)
        >>> system = dsf.System.from_write_and_read(transition.Diagonal(one / 2), one, one)
        >>> unit = torch.tensor([1.0, 0, 0]).reshape(3, 1, 1)  # time, input, channel
        >>> dsf.respond(system, unit).flatten()
        tensor([1.0000, 0.5000, 0.2500])
        >>> dsf.respond(system, unit, method="recurrent").flatten()
        tensor([1.0000, 0.5000, 0.2500])
    """
    check_signal(system, signal)
    if isinstance(method, str) and method in METHODS:
        method = METHODS[method]
    if method is not None and not callable(method):
        kind = ValueError if isinstance(method, str) else TypeError
        raise kind(
            f"respond: expected 'method' to be one of {', '.join(METHODS)}, or a function of a "
            f"system and a signal, got {method!r}."
        )
    if isinstance(system, System) and out is None and signal.numel() >= LARGE:
        needed = respond_bytes(system, signal.shape[-1])
        check_plan("respond", needed, signal.device, cure=SMALLER)
    if out is not None:
        _can_hold(out, system, signal)
    response = _respond(system, signal, method, out)
    return response if out is None else _written(response, out)


def _respond(
    system: Operator, signal: Tensor, method: Method | None, out: Tensor | None = None
) -> Tensor:
    if isinstance(system, SystemSum):
        return reduce(torch.add, [_respond(part, signal, method) for part in system])
    if isinstance(system, ExplicitMap):
        if method is not None:
            raise ValueError(
                "respond: this mixer is an explicit map without a recurrent state, so no method "
                "applies to it. Leave 'method' out."
            )
        return applied(system.rows, signal)
    if method is None and system.initial is None and not system.takes_real_part:
        rows = kept_rows(system)
        if rows is not None:
            return kept_response(system, rows, signal)
    return (method or partial(by_default, out=out))(system, signal)


def _can_hold(out: Tensor, system: Operator, signal: Tensor) -> None:
    """Raise before the work where ``out`` can hold no response, or one of its sources."""
    of_kind("respond", "out", out, Tensor, "a torch tensor, such as an earlier response")
    if out.layout is not torch.strided or 0 in out.stride() or (out.requires_grad and out.is_leaf):
        raise ValueError(
            "respond: 'out' must be a dense tensor with memory of its own for every entry, and no "
            "parameter that is trained, such as an earlier response."
        )
    shape = (*system.batch, system.steps, system.output_size, signal.shape[-1])
    if (tuple(out.shape), out.device) != (shape, system.device):
        raise ShapeError(
            f"respond: 'out' must have the shape {shape} and be on {system.device}, but it has the "
            f"shape {tuple(out.shape)} and is on {out.device}. Pass an earlier response of the "
            f"same sizes."
        )
    if out.is_meta or not out.numel():
        return
    if _span(out)[0] < _span(signal)[1] and _span(signal)[0] < _span(out)[1]:
        raise ValueError(
            "respond: 'out' shares memory with 'signal', which would be overwritten while it is "
            "read. Pass a copy of one of them."
        )


def _span(tensor: Tensor) -> tuple[int, int]:
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def _written(response: Tensor, out: Tensor) -> Tensor:
    """``out``, with the response copied into it unless the evaluator has already written there."""
    if response.dtype != out.dtype:
        raise ShapeError(
            f"respond: 'out' must have the type {response.dtype}, but it has {out.dtype}. Pass an "
            f"earlier response of the same type."
        )
    return out if response.data_ptr() == out.data_ptr() else out.copy_(response)
