"""Rotary position embedding: rotates queries and keys so that their products depend on the lag."""

import torch
from jaxtyping import Float
from torch import Tensor

BASE = 10_000.0


def rotated(
    x: Float[Tensor, "*batch time key"], position: Float[Tensor, " time"], *, base: float = BASE
) -> Float[Tensor, "*batch time key"]:
    """``x`` with entries k and ``k + key / 2`` rotated by an angle proportional to the position.

    The angle is ``position base^(-2 k / key)`` radians. Lengths are preserved, and the product of
    two rotated vectors depends only on the difference of their positions. Angles are computed in
    the dtype of ``position``; half precision represents integers only up to 256 or 2048.

    Source: Su et al. 2021, arXiv:2104.09864.
    """
    half = x.shape[-1] // 2
    speed = base ** (-torch.arange(half, dtype=position.dtype, device=x.device) / half)
    angle = position.unsqueeze(-1) * speed
    first, second = x.chunk(2, dim=-1)
    cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
