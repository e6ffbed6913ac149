"""The responses of a linear function to each token alone, in fewer passes than there are tokens.

In a convolution, tokens that are far apart move other rows; in a mean, or a norm over tokens, a row
reads all other tokens alike. Both are guessed here, and tried on a few tokens. Whether the map that
is made of the responses gives those to random values is for the caller to compare.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

Function = Callable[[Tensor], Tensor]
Drive = Float[Tensor, " channel"]
Responses = Callable[[Function, Tensor, Drive], Float[Tensor, "read sample time output"]]
"""The responses of a function of values like some others to one token after the other, each with
the same numbers in its channels."""
FEW = 16
"""So many passes are made one by one: finding a quicker way would take as many."""
TRIED = 8
"""One distance of tokens is tried for so many passes that may be saved."""
EXACT = 1e-12
"""What is not found one token at a time must be right to this relative difference."""


@dataclass(frozen=True)
class Alone:
    """Responses that take so many passes for each drive, and are right to a relative difference."""

    passes: int
    responses: Responses
    rounding: float = EXACT


def one_by_one(like: Float[Tensor, "sample read input"], rounding: float) -> Alone:
    steps = torch.arange(like.shape[1])

    def responses(part: Function, like: Tensor, drive: Drive) -> Tensor:
        return torch.stack([part(_driven(like, step[None], drive)) for step in steps])

    return Alone(len(steps), responses, rounding)


def quick_responses(
    part: Function, like: Float[Tensor, "sample read input"], *, most: int
) -> list[Alone]:
    """Responses in fewer passes, as far as a few tokens tell; none if no way is known.

    Args:
        most: the passes that are to be undercut by half.
    """
    steps = like.shape[1]
    drive = torch.randn(like.shape[-1], generator=torch.Generator().manual_seed(4)).to(like)
    asked = 0, steps // 2, steps // 2 - 1
    first, *inner = (part(_driven(like, torch.tensor([token]), drive)) for token in asked)
    rows = first.shape[1]
    others = torch.arange(rows)
    if rows == steps:
        others = others[~torch.isin(others, torch.tensor(asked))]
    limit = EXACT * max(each.abs().max() for each in (first, *inner))
    is_alike = all((first - each)[:, others].abs().max() <= limit for each in inner)
    if is_alike and bool(first[:, others].any()):
        return [Alone(3, _of_alike)]
    moved = max(int((each.abs() > limit).any(dim=-1).sum(dim=-1).max()) for each in inner)
    least = max(1, math.ceil(moved * steps / rows))
    for spacing in range(least, min(least + most // TRIED, 1 + most // 4)):
        classes = (torch.arange(token % spacing, steps, spacing) for token in asked[1:])
        if all(_told_apart(part, like, tokens, drive)[2] <= limit for tokens in classes):
            return [Alone(2 * spacing, partial(_of_far_apart, spacing))]
    return []


def _driven(like: Tensor, tokens: Int[Tensor, " some"], drive: Tensor) -> Tensor:
    values = torch.zeros_like(like)
    values[:, tokens] = drive
    return values


def _of_alike(part: Function, like: Tensor, drive: Drive) -> Tensor:
    """The responses where every row reads all tokens but its own alike."""
    steps = like.shape[1]
    asked = torch.tensor([0]), torch.tensor([1]), torch.arange(steps)
    first, second, every = (part(_driven(like, tokens, drive)) for tokens in asked)
    if first.shape[1] != steps:  # such as one row, which is of no token
        return first.expand(steps, *first.shape)
    other = first.clone()
    other[:, 0] = second[:, 0]
    found = other.repeat(steps, 1, 1, 1)
    own = torch.arange(steps)
    found[own, :, own] = (every - (steps - 1) * other).transpose(0, 1)
    return found


def _of_far_apart(spacing: int, part: Function, like: Tensor, drive: Drive) -> Tensor:
    """The responses where tokens at this distance move other rows, two passes for all of them."""
    steps = torch.arange(like.shape[1])
    classes = [steps[first::spacing] for first in range(spacing)]
    responses = []
    for tokens in classes:
        plain, which, _ = _told_apart(part, like, tokens, drive)
        each = plain.new_zeros(len(tokens), *plain.shape)
        each.scatter_(0, which[None, :, :, None].expand(1, *plain.shape), plain[None])
        responses.append(each)
    return torch.cat(responses)[torch.cat(classes).argsort()]


def _told_apart(
    part: Function, like: Tensor, tokens: Int[Tensor, " some"], drive: Drive
) -> tuple[Float[Tensor, "sample time output"], Int[Tensor, "sample time"], Tensor]:
    """The response to some tokens that are driven together, and which of them moved each row.

    Driven once more, each with a number of its own, a row tells that by how much it changes. The
    third is the largest number that is left, as where several move one row.
    """
    rng = torch.Generator().manual_seed(5)
    order = torch.randperm(len(tokens), generator=rng)
    uneven = torch.rand(len(tokens), generator=rng) / 4  # no number is the mean of two others
    numbers = (1 + (order + uneven) / len(tokens)).to(like)
    plain = part(_driven(like, tokens, drive))
    numbered = part(_driven(like, tokens, numbers[:, None] * drive))
    strongest = plain.abs().argmax(dim=-1, keepdim=True)
    size = plain.gather(-1, strongest)
    ratio = numbered.gather(-1, strongest) / torch.where(size == 0, 1, size)
    which = (ratio - numbers).abs().argmin(dim=-1)
    left = numbered - numbers[which].unsqueeze(-1) * plain
    return plain, which, left.abs().max()
