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
    one_port = system.input_size * system.output_size * signal.shape[-1] == 1
    if not (from_rest and one_port) or signal.dtype != system.dtype.to_real():
        return None
    A, B, C, D = first_token(system, system.dtype)
    decay, work = A.diagonal(), signal.numel() * system.state_size
    if decay is None or not (applies(decay, B, C, work=work) and applies(signal, work=work)):
        return None
    if varying(system) is not None:
        return None
    from dsf.kernels.modes import ring

    flat = signal[..., 0, 0].reshape(-1, system.steps)
    decay, weight = (part.reshape(len(flat), -1) for part in (decay, B.mT * C))
    memory = None if out is None or out.ndim != signal.ndim else out[..., 0, 0].flatten(0, -2)
    response = placed(flat.shape, flat, memory)
    ring(decay, weight, D.real.reshape(-1), flat, into=response)
    return response.view(signal.shape)
