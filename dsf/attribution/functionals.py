"""``Functional``: a linear functional of one result of a run, held where it is not zero.

A logit belongs to one token of the output, and causal layers carry it back to earlier tokens alone.
So its numbers are held for the range of places along the second axis (the tokens, as a rule) that
it can reach, and steps that treat places separately are gone through for these alone.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

PLACED = 3
"""The least number of axes of a result whose second axis is cut; others are held as a whole."""


@dataclass(frozen=True, eq=False)
class Functional:
    """``<weights, result>``, zero at all places but those from ``start`` on.

    Attributes:
        weights: its numbers, in the axes of the result; along the second for its own places alone.
        shape: that of the result.
        start: the first of its places.
    """

    weights: Shaped[Tensor, "*axes"]
    shape: torch.Size
    start: int = 0

    @classmethod
    def of(cls, weights: Shaped[Tensor, "*axes"]) -> "Functional":
        """The functional with these numbers everywhere."""
        return cls(weights, weights.shape)

    @classmethod
    def where_it_is(cls, weights: Shaped[Tensor, "*axes"]) -> "Functional":
        """The same, held from the first place to the last at which they are not all zero."""
        if weights.ndim < PLACED:
            return cls.of(weights)
        places = weights.flatten(2).any(dim=-1).any(dim=0).nonzero()
        if not len(places):
            return cls.of(weights)
        first, last = int(places[0]), int(places[-1])
        return cls(weights[:, first : last + 1], weights.shape, first)

    @property
    def places(self) -> slice:
        """Those at which it is held."""
        return slice(self.start, self.start + self.weights.shape[1])

    @property
    def is_everywhere(self) -> bool:
        """Whether all places are held."""
        return self.weights.shape == self.shape

    def dense(self) -> Shaped[Tensor, "*axes"]:
        """Its numbers at all places."""
        if self.is_everywhere:
            return self.weights
        full = self.weights.new_zeros(self.shape)
        full[:, self.places] = self.weights
        return full

    def at_its_places(self, result: Shaped[Tensor, "*axes"]) -> Shaped[Tensor, "*places"]:
        """What it has of a result, or of one of fewer numbers that is expanded to it."""
        if self.is_everywhere:
            return result
        return result.expand(self.shape)[:, self.places]

    def pair(
        self, result: Shaped[Tensor, "*axes"], *, absolute: bool = False
    ) -> Float[Tensor, " sample"]:
        """The inner product of each sample, or the sum of the absolute values of its terms."""
        return paired(self.weights, self.at_its_places(result), absolute=absolute)

    def of_sample(self, sample: int) -> "Functional":
        """The same, zero for all samples but one."""
        alone = torch.zeros_like(self.weights)
        alone[sample] = self.weights[sample]
        return Functional(alone, self.shape, self.start)

    def __add__(self, other: "Functional") -> "Functional":
        if self.is_everywhere and other.is_everywhere:
            return Functional.of(self.weights + other.weights)
        start = min(self.start, other.start)
        stop = max(self.places.stop, other.places.stop)
        length = stop - start
        if length == self.weights.shape[1] == other.weights.shape[1]:
            return Functional(self.weights + other.weights, self.shape, start)
        both = self.weights.new_zeros(self.shape[0], length, *self.shape[2:])
        for part in (self, other):
            both[:, part.start - start : part.places.stop - start] += part.weights
        return Functional(both, self.shape, start)

    def carried_to(self, weights: Shaped[Tensor, "*axes"]) -> "Functional":
        """The adjoint of a step at its source, where nothing is known of the step.

        Places behind the last of this functional are left out where they are zero, as they are
        behind a causal layer.
        """
        stop = self.places.stop
        if self.is_everywhere or weights.ndim < PLACED or bool(weights[:, stop:].any()):
            return Functional.of(weights)
        return Functional(weights[:, :stop], weights.shape)


def paired(
    weights: Shaped[Tensor, "*axes"], result: Shaped[Tensor, "*axes"], *, absolute: bool = False
) -> Float[Tensor, " sample"]:
    """The inner product of each sample, or the sum of the absolute values of its terms."""
    terms = weights * result
    return (terms.abs() if absolute else terms).flatten(1).sum(dim=1)
