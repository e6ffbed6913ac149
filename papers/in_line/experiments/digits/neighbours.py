"""Which tokens of the image a query leaves out: its neighbours, or as many drawn at random."""

import torch
from jaxtyping import Bool
from torch import Tensor

from papers.in_line.experiments.digits.digits import GRID


def within(radius: int) -> Bool[Tensor, "queries tokens"]:
    """The window of ``2 radius + 1`` rows and columns around each token, itself included."""
    places = torch.cartesian_prod(*(torch.arange(float(side)) for side in GRID))
    return torch.cdist(places, places, p=torch.inf) <= radius


def as_many_at_random(
    window: Bool[Tensor, "queries tokens"], images: int, *, seed: int
) -> Bool[Tensor, "images 1 queries tokens"]:
    """For each query of each image as many tokens as its window holds, any of them."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(images, 1, *window.shape, generator=generator)
    return drawn.argsort(dim=-1).argsort(dim=-1) < window.sum(dim=-1, keepdim=True)
