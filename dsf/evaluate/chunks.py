"""Window by window in matrix products, with the state carried between."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.equations import at_border, at_start
from dsf.evaluate.folding import fold
from dsf.system import System

SIZE = 64


def chunkwise(
    system: System,
    signal: Shaped[Tensor, "*batch time input channel"],
    *,
    size: int = SIZE,
) -> Shaped[Tensor, "*batch time output channel"]:
    """The response in windows of ``size`` tokens: matrix products inside, the state between.

    Holds one window and the carried state at a time. Accurate for every decay, zeros included:
    decays are only ever multiplied.

    Raises:
        ValueError: if ``size`` is below 1.
    """
    if size < 1:
        raise ValueError(f"chunkwise: size must be at least 1 token, but it is {size}.")

    def run(forward: System, plain: Tensor) -> Tensor:
        return _run(forward, plain, size)

    return at_border(run, system, signal)


def _run(system: System, signal: Tensor, size: int) -> Tensor:
    state, responses = at_start(system, signal), []
    for start in range(0, system.steps, size):
        stop = min(start + size, system.steps)
        panel = fold(system, start, stop)
        part = signal[..., start:stop, :, :].flatten(-3, -2)
        response = panel.local.to(signal.dtype) @ part + panel.reach.to(signal.dtype) @ state
        responses.append(response.unflatten(-2, (stop - start, system.output_size)))
        state = panel.carried(state) + panel.write.to(signal.dtype) @ part
    return torch.cat(responses, dim=-3)
