"""Random layers of real size, the same for every benchmark of responses, in single precision."""

import torch
from torch import Tensor

from dsf.mixers import GatedDeltaNet, GatedLinearAttention, SelectiveStateSpace, StateSpaceDuality

RNG = torch.Generator().manual_seed(0)


def normal(*size: int) -> Tensor:
    return torch.randn(*size, generator=RNG)


def steps(*size: int) -> Tensor:
    """Between 0.001 and 0.1, evenly in their logarithm, as models draw them."""
    return (-6.9 + 4.6 * torch.rand(*size, generator=RNG)).exp()


def selective(tokens: int, channels: int = 1536, states: int = 16) -> SelectiveStateSpace:
    """Mamba: every channel at its own steps."""
    return SelectiveStateSpace(
        value=normal(1, tokens, channels),
        step=steps(1, tokens, channels),
        pole=-torch.arange(1.0, states + 1).repeat(channels, 1),
        write=normal(1, tokens, states),
        read=normal(1, tokens, states),
        feedthrough=normal(channels),
    )


def dual(tokens: int, heads: int = 24, width: int = 64, states: int = 128) -> StateSpaceDuality:
    """Mamba-2: all heads read and write alike."""
    return StateSpaceDuality(
        value=normal(1, heads, tokens, width),
        step=steps(1, heads, tokens),
        pole=-torch.linspace(1, 16, heads),
        write=normal(1, 1, tokens, states),
        read=normal(1, 1, tokens, states),
        feedthrough=normal(heads),
    )


def gated_delta(tokens: int, heads: int = 8, width: int = 128) -> GatedDeltaNet:
    """The gated delta rule, keys of length one."""
    return GatedDeltaNet(
        query=normal(1, heads, tokens, width) * width**-0.5,
        key=torch.nn.functional.normalize(normal(1, heads, tokens, width), dim=-1),
        value=normal(1, heads, tokens, width),
        rate=torch.rand(1, heads, tokens, generator=RNG),
        log_decay=-0.1 * torch.rand(1, heads, tokens, generator=RNG),
    )


def gated_linear(
    tokens: int, heads: int = 4, keys: int = 128, width: int = 256
) -> GatedLinearAttention:
    """Gated linear attention: every key forgets at its own pace."""
    return GatedLinearAttention(
        query=normal(1, heads, tokens, keys) * keys**-0.5,
        key=normal(1, heads, tokens, keys),
        value=normal(1, heads, tokens, width),
        log_decay=-0.1 * torch.rand(1, heads, tokens, keys, generator=RNG),
    )
