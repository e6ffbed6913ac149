"""Two equal blocks around any mixer, so that the mixer is all that differs."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from papers.dynamical_systems.experiments.recall import queries

DEPTH = 2


class TwoTaps(nn.Module):
    """A causal filter of every channel over a token and the one before it.

    Written out, because a convolution takes as long to find its gradient as the rest of a block.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.now, self.before, self.bias = (nn.Parameter(torch.empty(width)) for _ in range(3))
        for each in self.parameters():
            nn.init.uniform_(each, -(2**-0.5), 2**-0.5)  # what a convolution starts with

    def forward(self, x: Float[Tensor, "batch time model"]) -> Float[Tensor, "batch time model"]:
        """Filter ``x``; before the first token there is nothing."""
        return self.now * x + self.before * pad(x, (0, 0, 1, -1)) + self.bias


class Block(nn.Module):
    """``x + mixer(filter(norm(x)))``, then the same with two linear maps and a GELU."""

    def __init__(self, width: int, mixer: nn.Module) -> None:
        super().__init__()
        self.filter = TwoTaps(width)
        self.mixer = mixer
        self.before_mixer, self.before_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Float[Tensor, "batch time model"]) -> Float[Tensor, "batch time model"]:
        """Mix tokens, then channels."""
        x = x + self.mixer(self.filter(self.before_mixer(x)))
        return x + self.perceptron(self.before_perceptron(x))


class Recaller(nn.Module):
    """Embedding, learned positions, blocks, norm, and the embedding again as the output."""

    def __init__(
        self,
        width: int,
        mixer: Callable[[], nn.Module],
        *,
        vocabulary: int = queries.VOCABULARY,
        length: int = queries.LENGTH,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, mixer()) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(width)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.1)

    def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocabulary"]:
        """Scores of the answer at every token."""
        places = torch.arange(tokens.shape[-1], device=tokens.device)
        x = self.tokens(tokens) + self.positions(places)
        return self.norm(self.blocks(x)) @ self.tokens.weight.mT
