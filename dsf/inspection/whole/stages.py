"""What a layer computes before and after its mixer, as a chain of affine stages.

Gates, norms and activations are frozen at their values on one run and become factors: an activation
its secant ``act(p) / p``, a norm one over the root mean square or deviation that it divided by.
Every stage takes and returns ``sample time width``.

Converts between ``sample time width`` and a mixer's axes of heads and channels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import linear

from dsf.inspection.errors import UnreadableError

Tokens = Float[Tensor, "*batch time _"]


@dataclass(frozen=True, eq=False)
class Project:
    """A projection of every token: ``weight x + bias``."""

    weight: Float[Tensor, "output width"]
    bias: Float[Tensor, " output"] | None = None

    def linear(self, x: Tokens) -> Tokens:
        return linear(x, self.weight)

    def adjoint(self, cotangent: Tokens) -> Tokens:
        rows = cotangent.reshape(-1, cotangent.shape[-1])
        some = rows.any(dim=-1)  # a logit belongs to one token: nearly all rows of a head are zero
        moved = rows.new_zeros(len(rows), self.weight.shape[-1])
        moved[some] = rows[some] @ self.weight
        return moved.reshape(*cotangent.shape[:-1], -1)

    def __call__(self, x: Tokens) -> Tokens:
        return linear(x, self.weight, self.bias)


@dataclass(frozen=True, eq=False)
class Scale:
    """An elementwise factor and offset: ``factor x + offset``."""

    factor: Tensor
    offset: Tensor | None = None

    def linear(self, x: Tokens) -> Tokens:
        return self.factor * x

    adjoint = linear

    def __call__(self, x: Tokens) -> Tokens:
        return self.linear(x) if self.offset is None else self.linear(x) + self.offset

    def at(self, tokens: Int[Tensor, " some"]) -> "Scale":
        offset = None if self.offset is None else _of_tokens(self.offset, tokens)
        return Scale(_of_tokens(self.factor, tokens), offset)


@dataclass(frozen=True, eq=False)
class Filter:
    """A convolution of every channel along the tokens.

    Attributes:
        ahead: how many tokens after the current one the last tap multiplies; 0 if it is causal.
        earlier: the inputs of the tokens before the first, the latest last; zero when absent.
    """

    kernel: Float[Tensor, "width taps"]
    bias: Float[Tensor, " width"] | None = None
    ahead: int = 0
    earlier: Float[Tensor, "sample before width"] | None = None

    def linear(self, x: Tokens) -> Tokens:
        steps, taps = x.shape[-2], self.kernel.mT.contiguous()  # rows are quicker than columns
        by_lag = {len(taps) - 1 - place - self.ahead: tap for place, tap in enumerate(taps)}
        now = by_lag.pop(0, None)
        filtered = torch.zeros_like(x) if now is None else x * now
        for lag, tap in by_lag.items():
            if 0 < lag < steps:
                filtered[..., lag:, :].addcmul_(x[..., : steps - lag, :], tap)
            elif 0 < -lag < steps:
                filtered[..., : steps + lag, :].addcmul_(x[..., -lag:, :], tap)
        return filtered

    def adjoint(self, cotangent: Tokens) -> Tokens:
        """A token moves what it is filtered into: the same taps the other way."""
        return self.linear(cotangent.flip(-2)).flip(-2)

    def __call__(self, x: Tokens) -> Tokens:
        filtered = self.linear(x)
        if self.earlier is not None:
            count = self.earlier.shape[-2]
            both = torch.cat([self.earlier, torch.zeros_like(x)], dim=-2)
            filtered = filtered + self.linear(both)[..., count:, :]
        return filtered if self.bias is None else filtered + self.bias


@dataclass(frozen=True, eq=False)
class Centre:
    """Subtracts from every channel the mean over the channels of its head."""

    heads: int

    def linear(self, x: Tokens) -> Tokens:
        by_head = x.unflatten(-1, (self.heads, -1))
        return (by_head - by_head.mean(dim=-1, keepdim=True)).flatten(-2)

    adjoint = __call__ = linear


Stage = Project | Scale | Filter | Centre


@dataclass(frozen=True, eq=False)
class Chain:
    """Stages in the order in which they are applied."""

    stages: tuple[Stage, ...]

    def linear(self, x: Tokens) -> Tokens:
        """The linear part: the stages without their biases and offsets."""
        for stage in self.stages:
            x = stage.linear(x)
        return x

    def adjoint(self, cotangent: Tokens) -> Tokens:
        for stage in reversed(self.stages):
            cotangent = stage.adjoint(cotangent)
        return cotangent

    def __call__(self, x: Tokens) -> Tokens:
        for stage in self.stages:
            x = stage(x)
        return x

    @property
    def keeps_tokens_apart(self) -> bool:
        return not any(isinstance(stage, Filter) for stage in self.stages)

    def at(self, tokens: Int[Tensor, " some"]) -> "Chain":
        """The same for some tokens only, of stages that keep tokens apart."""
        stages = (stage.at(tokens) if isinstance(stage, Scale) else stage for stage in self.stages)
        return Chain(tuple(stages))

    def behind_projections(self) -> "Chain":
        """The stages after the last projection, where channels do not mix (but for ``Centre``)."""
        places = [k for k, stage in enumerate(self.stages) if isinstance(stage, Project)]
        return Chain(self.stages[places[-1] + 1 :] if places else self.stages)

    def before_projection(self) -> "Chain":
        places = (k for k, stage in enumerate(self.stages) if isinstance(stage, Project))
        return Chain(self.stages[: next(places, len(self.stages))])

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.stages)


def _of_tokens(factor: Tensor, tokens: Int[Tensor, " some"]) -> Tensor:
    if factor.ndim < 2 or factor.shape[-2] == 1:
        return factor
    return factor[..., tokens, :]


def secant(act: Callable[[Tensor], Tensor], p: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """``act(p) / p``: the factor that stands for the activation at ``p``; 0 where ``p`` is 0."""
    if bool(act(torch.zeros_like(p[..., :1])).any()):
        raise UnreadableError(
            "the activation of its values is not zero at zero, so that no factor can stand for it"
        )
    return torch.where(p == 0, torch.zeros_like(p), act(p) / torch.where(p == 0, 1, p))


def as_tokens(
    response: Shaped[Tensor, "*batch time 1 channel"], value: Shaped[Tensor, "*axes"]
) -> Shaped[Tensor, "sample time width"]:
    """A mixer's response with heads and channels in one axis, as the module has it."""
    if response.ndim == value.ndim + 1:  # the channels share their coefficients
        response = response.squeeze(-2)
        return response if value.ndim == 3 else rearrange(response, "s h t c -> s t (h c)")
    response = response.squeeze((-2, -1))  # every channel is a system of its own
    return response.mT if value.ndim == 3 else rearrange(response, "s h c t -> s t (h c)")


def as_values(
    x: Shaped[Tensor, "sample time width"], value: Shaped[Tensor, "*axes"]
) -> Shaped[Tensor, "*axes"]:
    return x if value.ndim == 3 else rearrange(x, "s t (h c) -> s h t c", h=value.shape[1])


def width_of(value: Shaped[Tensor, "*axes"]) -> int:
    """The number of channels of all heads together."""
    return value.shape[-1] if value.ndim == 3 else value.shape[1] * value.shape[-1]
