"""Text that a model writes, the same for the same seed."""

import torch
from jaxtyping import Int
from torch import Tensor, nn

TEMPERATURE = 0.8


def go_on(
    model: nn.Module, prompt: Int[Tensor, " time"], *, seed: int, tokens: int
) -> Int[Tensor, " longer"]:
    """``prompt`` and ``tokens`` more, drawn one by one."""
    generator = torch.Generator().manual_seed(seed)
    written = prompt
    with torch.inference_mode():
        for _ in range(tokens):
            scores = model(written[None], use_cache=False).logits[0, -1]
            shares = (scores.double() / TEMPERATURE).softmax(dim=0)
            written = torch.cat([written, shares.multinomial(1, generator=generator)])
    return written
