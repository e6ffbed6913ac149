"""Channels of complex modes that do not change with time, handed to a compiled loop: S4D."""

from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.invariant import first_token, varying
from dsf.evaluate.loops.memories import placed
from dsf.kernels import applies
from dsf.system import System


def rung(
    system: System,
    signal: Shaped[Tensor, "*batch time input channel"],
    *,
    out: Tensor | None = None,
) -> Shaped[Tensor, "*batch time output channel"] | None:
    """The real part of the response to a real signal; None where the loop does not apply.

    The signal stays real: as a complex one it would take longer to write down than to answer.
    """
    if not (system.takes_real_part and system.dtype.is_complex) or signal.is_complex():
        return None
    from_rest = system.initial is None and not (system.runs_backward or system.reads_before_update)
    one_port = system.input_size * system.output_size == 1
    if not (from_rest and one_port) or signal.dtype != system.dtype.to_real():
        return None
    A, B, C, D = first_token(system, system.dtype)
    decay, work = A.diagonal(), signal.numel() * system.state_size
    if decay is None or not (applies(decay, B, C, work=work) and applies(signal, work=work)):
        return None
    if varying(system) is not None:
        return None
    from dsf.kernels.modes import ring

    columns = signal.squeeze(-2).mT
    flat = columns.reshape(-1, system.steps)

    def of_columns(part: Tensor) -> Tensor:
        """One entry of the batch after the other, as often as it has columns."""
        return part.expand(*columns.shape[:-1], part.shape[-1]).reshape(len(flat), -1)

    decay, weight, skip = map(of_columns, (decay, B.mT * C, D.real))
    memory = None if out is None or out.ndim != signal.ndim else out.squeeze(-2).mT.flatten(0, -2)
    response = placed(flat.shape, flat, memory)
    ring(decay, weight, skip.squeeze(-1), flat, into=response)
    return response.view(columns.shape).mT.unsqueeze(-2)
