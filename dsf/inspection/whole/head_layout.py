"""Converts between ``sample time width`` and a mixer's axes of heads and channels."""

from einops import rearrange
from jaxtyping import Shaped
from torch import Tensor


def as_tokens(
    response: Shaped[Tensor, "*batch time 1 channel"], value: Shaped[Tensor, "*axes"]
) -> Shaped[Tensor, "sample time width"]:
    """A mixer's response with heads and channels in one axis, as the module has it.

    Args:
        value: the mixer's values, ``sample time channel`` or ``sample head time channel``.
    """
    if response.ndim == value.ndim + 1:  # the channels share their coefficients
        response = response.squeeze(-2)
        return response if value.ndim == 3 else rearrange(response, "s h t c -> s t (h c)")
    response = response.squeeze((-2, -1))  # every channel is a system of its own
    return response.mT if value.ndim == 3 else rearrange(response, "s h c t -> s t (h c)")


def as_values(
    x: Shaped[Tensor, "sample time width"], value: Shaped[Tensor, "*axes"]
) -> Shaped[Tensor, "*axes"]:
    """``x`` in the axes of ``value``."""
    return x if value.ndim == 3 else rearrange(x, "s t (h c) -> s h t c", h=value.shape[1])


def width_of(value: Shaped[Tensor, "*axes"]) -> int:
    """The number of channels of all heads together."""
    return value.shape[-1] if value.ndim == 3 else value.shape[1] * value.shape[-1]
