"""Time-invariant systems as convolutions."""

from dataclasses import replace

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.coefficient import Matrices, dense_of
from dsf.evaluate.border import at_border, forward_form
from dsf.evaluate.chunks import chunkwise
from dsf.system import System
from dsf.transition.timeline import is_constant


def convolution(
    system: System, signal: Shaped[Tensor, "*batch time input channel"]
) -> Shaped[Tensor, "*batch time output channel"]:
    """The response of a time-invariant system by one fast Fourier transform.

    Impulse response and transform are calculated in double precision whatever the number type.

    Raises:
        ValueError: if any of A, B, C, D changes with time; the message names it.
    """
    return at_border(_run, system, signal)


def varying(system: System) -> str | None:
    """The first of A, B, C, D that changes with time, or None."""
    if not system.A.is_constant:
        return "A"
    for name, part in (("B", system.B), ("C", system.C), ("D", system.feedthrough)):
        if not _is_constant(part):
            return name
    return None


def impulse_response(system: System) -> Shaped[Tensor, "*batch time output input"]:
    """The response at every lag to a unit at the first token met, one column for every input.

    In double precision, whatever the number type of the system.
    """
    at_rest = replace(forward_form(system), initial=None, takes_real_part=False)
    dtype = torch.promote_types(system.dtype, torch.float64)
    ports = torch.eye(system.input_size, dtype=dtype, device=system.device)
    units = torch.cat([ports[None], ports.new_zeros(system.steps - 1, *ports.shape)])
    return chunkwise(at_rest, units.expand(*system.batch, *units.shape))


def _run(system: System, signal: Tensor) -> Tensor:
    name = varying(system)
    if name is not None:
        raise ValueError(
            f"convolution: needs a time-invariant system, but {name} changes with time. "
            f"Use method=dsf.chunkwise, which asks nothing of the coefficients."
        )
    exact = torch.promote_types(signal.dtype, torch.float64)
    kernel = impulse_response(system).to(exact)
    length = 2 * system.steps
    transform = torch.fft.fft if signal.is_complex() else torch.fft.rfft
    product = transform(kernel, n=length, dim=-3) @ transform(signal.to(exact), n=length, dim=-3)
    if signal.is_complex():
        response = torch.fft.ifft(product, n=length, dim=-3)
    else:
        response = torch.fft.irfft(product, n=length, dim=-3)
    response = response[..., : system.steps, :, :].to(signal.dtype)
    if system.initial is None:
        return response
    plain = replace(system, takes_real_part=False)
    return response + chunkwise(plain, torch.zeros_like(signal))


def _is_constant(part: Matrices) -> bool:
    return is_constant(dense_of(part), axis=-3)
