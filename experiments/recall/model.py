"""Two equal blocks around any mixer, so that the mixer is all that differs."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dsf.layers.short_filter import ShortFilter
from experiments.recall import queries

DEPTH = 2
TAPS = 2


class Block(nn.Module):
    """``x + mixer(filter(norm(x)))``, then the same with two linear maps and a GELU."""

    def __init__(self, width: int, mixer: nn.Module) -> None:
        super().__init__()
        self.filter = ShortFilter(width, TAPS, bias=True)
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

    def __init__(self, width: int, mixer: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.tokens = nn.Embedding(queries.VOCABULARY, width)
        self.positions = nn.Embedding(queries.LENGTH, width)
        self.blocks = nn.Sequential(*(Block(width, mixer()) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(width)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.1)

    def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocabulary"]:
        """Scores of the answer at every token."""
        places = torch.arange(tokens.shape[-1], device=tokens.device)
        x = self.tokens(tokens) + self.positions(places)
        return self.norm(self.blocks(x)) @ self.tokens.weight.mT
