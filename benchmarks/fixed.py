"""Case 5: a system that does not change with time, S4D with complex modes.

Its response beside convolutions with the impulse response, given or made of the exponential of
every mode and lag; and making the impulse response alone.
"""

from collections.abc import Callable

import torch
from scipy.signal import oaconvolve
from torch import Tensor

import dsf
from benchmarks.evaluation import Row, measured
from benchmarks.layers import RNG, normal, steps
from dsf.evaluate.invariant import lags
from dsf.mixers import DiagonalStateSpace


def invariant(tokens: int, *, channels: int = 256, modes: int = 32) -> list[Row]:
    rate = -torch.rand(channels, modes, generator=RNG) - 0.1
    mixer = DiagonalStateSpace(
        value=normal(channels, tokens, 1),
        pole=torch.complex(rate, 3 * normal(channels, modes)),
        write=torch.complex(normal(channels, modes), normal(channels, modes)),
        read=torch.complex(normal(channels, modes), normal(channels, modes)),
        step=steps(channels),
    )
    system, signal = mixer.system(), mixer.signal()
    kernel = _by_exponentials(system, torch.complex128)
    given, value = kernel.float(), mixer.value[..., 0]
    works: dict[str, Callable[[], Tensor]] = {
        "dsf": lambda: dsf.respond(system, signal),
        "dsf, convolution": lambda: dsf.respond(system, signal, method="convolution"),
        "scipy, oaconvolve, kernel given": lambda: torch.from_numpy(
            oaconvolve(given.numpy(), value.numpy(), axes=-1)[:, :tokens]
        ),
        "FFT, kernel given": lambda: _convolved(given, value),
        "FFT, kernel by exponentials": lambda: _convolved(
            _by_exponentials(system, torch.complex64), value
        ),
    }
    exact = _convolved(kernel, value.double())
    found = measured(f"Time-invariant, {tokens} tokens", works, exact)
    kernels: dict[str, Callable[[], Tensor]] = {
        "dsf": lambda: lags(system)[..., 0, 0],
        "exponentials": lambda: _by_exponentials(system, torch.complex128),
    }
    return found + measured(f"Impulse response, {tokens} lags", kernels, kernel)


def _by_exponentials(system: dsf.System, dtype: torch.dtype) -> Tensor:
    """``channel lag``, channel after channel."""
    decay = system.A.diagonal()[:, 0].to(torch.complex128).log().to(dtype)
    weight = (system.B[:, 0, :, 0].to(torch.complex128) * system.C[:, 0, 0]).to(dtype)
    lags = torch.arange(system.steps, dtype=dtype.to_real())
    rows = zip(weight, decay, strict=True)
    return torch.stack([((lags[:, None] * each).exp() @ row).real for row, each in rows])


def _convolved(kernel: Tensor, value: Tensor) -> Tensor:
    size = 2 * kernel.shape[-1]
    spectrum = torch.fft.rfft(kernel, size) * torch.fft.rfft(value, size)
    return torch.fft.irfft(spectrum, size)[:, : kernel.shape[-1]]
