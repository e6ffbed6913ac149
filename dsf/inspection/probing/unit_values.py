"""Measures the map of a linear function of values by unit values, and checks that it is linear.

Where the channels of a head share one map and do not mix, one forward pass measures as many columns
as a head has channels, each token in a channel of its own: ceil(T / width) passes. Several
consecutive heads may read the values of one. Where every channel has its own map it takes T passes,
and where channels mix, one pass for every token and channel.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.inspection.errors import UnreadableError

Function = Callable[[Tensor], Tensor]
ROUNDING = 1e-9
"""The largest relative difference taken for rounding; a smaller nonlinearity is not detected."""
MOST_PASSES = 20_000
"""The largest number of forward passes for one map."""
PAIRED = 3.0
"""A change of values by a step and by as many against it, to see whether a function is affine."""


@dataclass(frozen=True, eq=False)
class Linear:
    """An affine function of values: a map and the response to zero values.

    Attributes:
        weights: ``sample head time read``, or ``sample output input time read`` where channels mix.
        width: channels of a head; 1 where every channel has its own map, 0 where channels mix.
        rest: the response to zero values.
        superposition: the relative error of superposition; 0 for an affine function.
    """

    weights: Tensor
    width: int
    rest: Float[Tensor, "sample time output"]
    superposition: float

    def __call__(self, values: Float[Tensor, "sample read input"]) -> Tensor:
        """The response to ``values``."""
        return applied(self.weights, values, self.width) + self.rest

    @property
    def ahead(self) -> float:
        """The largest weight on a later token, relative to the largest of all."""
        return (self.weights.triu(1).abs().max() / self.weights.abs().max()).item()


def superposition(function: Function, like: Float[Tensor, "sample read input"]) -> float:
    """The relative error of superposition: 0 if ``function`` is affine, nan if it is not finite."""
    one, other = random_values(like, seed=0), random_values(like, seed=1)
    rest = function(torch.zeros_like(like))
    first, second = function(one) - rest, function(other) - rest
    both = function(2 * one - 3 * other) - rest
    scaled = function(50 * one) - rest
    size = first.abs().max() + second.abs().max()
    if size == 0:
        return 0.0
    apart = (both - 2 * first + 3 * second).abs().max() / 5
    return (torch.maximum(apart, (scaled - 50 * first).abs().max() / 50) / size).item()


def mixes(function: Function, like: Float[Tensor, "sample read input"]) -> bool:
    """Whether the first or the last token changes the response at any other token."""
    values, rest = random_values(like, seed=0), function(torch.zeros_like(like))
    if like.shape[1] == 1 or rest.shape[1] != like.shape[1]:
        return True
    for token, others in ((0, slice(1, None)), (-1, slice(0, -1))):
        alone = torch.zeros_like(values)
        alone[:, token] = values[:, token]
        if bool((function(alone) - rest)[:, others].any()):
            return True
    return False


def read_off(
    function: Function, like: Float[Tensor, "sample read input"], *, rounding: float = ROUNDING
) -> Linear:
    """The map of ``function``, measured by unit values and checked on random values.

    Args:
        rounding: the largest relative difference taken for rounding.

    Raises:
        UnreadableError: if it is not linear, or takes too many passes.
    """
    bent = superposition(function, like)
    if not bent <= rounding:
        raise UnreadableError(f"it is not linear in its values: superposition error {bent:.1e}")
    rest = function(torch.zeros_like(like))

    def part(values: Tensor) -> Tensor:
        return function(values) - rest

    control = random_values(like, seed=2)
    expected = part(control)
    for width in _widths(part, like, expected, rounding):
        weights = _by_units(part, like, width) if width else _by_impulses(part, like)
        apart = (applied(weights, control, width) - expected).abs().max()
        if apart <= rounding * expected.abs().max():
            return Linear(weights, width, rest, bent)
    raise UnreadableError("its response is not the sum of its responses to single values")


def applied(weights: Tensor, values: Tensor, width: int) -> Float[Tensor, "sample time output"]:
    """A map times values, for channels in heads of ``width``; 0 where they mix."""
    if width == 0:
        return torch.einsum("soitr,sri->sto", weights, values)
    return torch.einsum("shtr,shrc->sthc", weights, by_head(values, weights, width)).flatten(2)


def by_head(values: Tensor, weights: Tensor, width: int) -> Float[Tensor, "sample head read _"]:
    """The values in heads of ``width``, repeated for every head of the map that reads them."""
    heads = values.unflatten(-1, (-1, width)).transpose(1, 2)
    return heads.repeat_interleave(weights.shape[1] // heads.shape[1], dim=1)


def random_values(like: Tensor, *, seed: int) -> Tensor:
    """Random values as large as those of ``like``."""
    rng = torch.Generator().manual_seed(seed)
    size = like.std(correction=0).clamp(min=1e-3).item() if like.numel() else 1.0
    return size * torch.randn(like.shape, generator=rng, dtype=like.dtype).to(like.device)


def _widths(part: Function, like: Tensor, expected: Tensor, rounding: float) -> list[int]:
    """Candidate head widths, the likeliest first: a head maps equal channels to equal responses."""
    channels = like.shape[-1]
    if expected.shape[-1] % channels:
        return [0]
    alike = part(random_values(like[..., :1], seed=3).expand_as(like).contiguous())
    limit = rounding * alike.abs().max()
    for width in range(channels, 1, -1):
        if channels % width == 0:
            heads = alike.unflatten(-1, (-1, width))
            if (heads - heads[..., :1]).abs().max() <= limit:
                return [width, 1, 0]
    return [1, 0]


def _by_units(part: Function, like: Tensor, width: int) -> Float[Tensor, "sample head time read"]:
    columns = []
    steps, heads = like.shape[1], like.shape[-1] // width
    for start in range(0, steps, width):
        driven = torch.arange(start, min(start + width, steps), device=like.device)
        values = torch.zeros_like(like).unflatten(-1, (heads, width))
        values[:, driven, :, driven - start] = 1
        response = part(values.flatten(2)).unflatten(-1, (-1, width))
        columns.append(response[..., : len(driven)].transpose(1, 2))
    return torch.cat(columns, dim=-1)


def _by_impulses(part: Function, like: Tensor) -> Float[Tensor, "sample output input time read"]:
    _, steps, channels = like.shape
    if steps * channels > MOST_PASSES:
        raise UnreadableError(
            f"its channels mix, so that {steps * channels} forward passes would be needed, but at "
            f"most {MOST_PASSES} are made: name the projection of the values and the module behind "
            "the mixer (value=..., response=...)"
        )
    responses = []
    for channel in range(channels):
        for token in range(steps):
            values = torch.zeros_like(like)
            values[:, token, channel] = 1
            responses.append(part(values))
    stacked = torch.stack(responses).unflatten(0, (channels, steps))
    return stacked.permute(2, 4, 0, 3, 1)
