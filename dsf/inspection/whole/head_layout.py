"""Between ``sample time width`` and the axes that a mixer gives to its heads and channels."""

from einops import rearrange
from jaxtyping import Shaped
from torch import Tensor


def as_tokens(
    response: Shaped[Tensor, "*batch time 1 channel"], value: Shaped[Tensor, "*axes"]
) -> Shaped[Tensor, "sample time width"]:
    """A mixer's response with its heads and channels side by side.

    Args:
        value: the mixer's values, ``sample time channel`` or ``sample head time channel``.
    """
    if response.ndim == value.ndim + 1:  # channels share their coefficients
        response = response.squeeze(-2)
        return response if value.ndim == 3 else rearrange(response, "s h t c -> s t (h c)")
    response = response.squeeze((-2, -1))  # every channel is a system of its own
    return response.mT if value.ndim == 3 else rearrange(response, "s h c t -> s t (h c)")


def as_values(
    x: Shaped[Tensor, "sample time width"], value: Shaped[Tensor, "*axes"]
) -> Shaped[Tensor, "*axes"]:
    """``x`` laid out like ``value``."""
    return x if value.ndim == 3 else rearrange(x, "s t (h c) -> s h t c", h=value.shape[1])


def width_of(value: Shaped[Tensor, "*axes"]) -> int:
    """Channels of all heads together."""
    return value.shape[-1] if value.ndim == 3 else value.shape[1] * value.shape[-1]
