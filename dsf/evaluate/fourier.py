"""Time-invariant systems as convolutions, by the fast Fourier transform."""

from dataclasses import replace

import torch
from jaxtyping import Shaped
from scipy.fft import next_fast_len
from torch import Tensor

from dsf.evaluate.arguments import Response, Signal, forward_form, with_checked_arguments
from dsf.evaluate.chunks import chunkwise
from dsf.evaluate.invariant import lags, varying
from dsf.evaluate.stepwise import applied
from dsf.runtime.number_types import exact_dtype
from dsf.systems.system import System


def convolution(system: System, signal: Signal) -> Response:
    """The response of a time-invariant system by one fast Fourier transform.

    Impulse response and transform are computed in double precision for every number type.

    Raises:
        ValueError: if any of A, B, C, D changes with time (names it).
    """
    return with_checked_arguments(_run, system, signal)


def impulse_response(system: System) -> Shaped[Tensor, "*batch time output input"]:
    """The response at every lag to a unit at the first processed token, a column for every input.

    In double precision where the device has it, whatever the number type of the system; real if the
    system takes the real part of its response.
    """
    if varying(system) is None:
        return lags(system)
    at_rest = replace(forward_form(system), initial=None, takes_real_part=False)
    dtype = exact_dtype(system.dtype, system.device)
    ports = torch.eye(system.input_size, dtype=dtype, device=system.device)
    units = torch.cat([ports[None], ports.new_zeros(system.steps - 1, *ports.shape)])
    response = chunkwise(at_rest, units.expand(*system.batch, *units.shape))
    return response.real if system.takes_real_part else response


def _run(system: System, signal: Tensor) -> Tensor:
    name = varying(system)
    if name is not None:
        raise ValueError(
            f"convolution: needs a time-invariant system, but {name} changes with time. "
            f"Use method='chunkwise', which takes any coefficients."
        )
    if system.takes_real_part:
        signal = signal.real
    exact = exact_dtype(signal.dtype, signal.device)
    kernel = lags(system).to(exact)
    length = next_fast_len(2 * system.steps - 1, real=not signal.is_complex())
    transform, inverse = (
        (torch.fft.fft, torch.fft.ifft)
        if signal.is_complex()
        else (torch.fft.rfft, torch.fft.irfft)
    )
    spectra = (transform(part, n=length, dim=-3) for part in (kernel, signal.to(exact)))
    response = inverse(applied(*spectra), n=length, dim=-3)
    response = response[..., : system.steps, :, :].to(signal.dtype)
    if system.initial is None:
        return response
    return response + chunkwise(system, torch.zeros_like(signal))
