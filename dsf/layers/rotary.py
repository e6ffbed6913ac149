"""Rotary positions: queries and keys turn with their place, so that products know the lag."""

import torch
from jaxtyping import Float
from torch import Tensor

BASE = 10_000.0


def rotated(
    x: Float[Tensor, "*batch time key"], position: Float[Tensor, " time"], *, base: float = BASE
) -> Float[Tensor, "*batch time key"]:
    """``x`` with its entries k and ``k + key / 2`` turned by an angle that grows with position.

    The angle is ``position base^(-2 k / key)`` radians. Lengths stay, and the product of two turned
    vectors depends on their positions by the difference alone. Angles are calculated in the number
    type of ``position``: half precision counts no further than 256.

    Source: Su et al. 2021, arXiv:2104.09864.
    """
    half = x.shape[-1] // 2
    speed = base ** (-torch.arange(half, dtype=position.dtype, device=x.device) / half)
    angle = position.unsqueeze(-1) * speed
    first, second = x.chunk(2, dim=-1)
    cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
