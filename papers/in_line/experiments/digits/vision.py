"""A small vision transformer that says what its attention does and lets others do it instead."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from dsf import respond
from dsf.layers import InLineAttention, LinearAttention, LocalResidual, SoftmaxAttention
from dsf.mixers import Mixer
from papers.in_line.experiments.digits.digits import CLASSES, GRID

WIDTH = 32
HEADS = 2
DEPTH = 4

Attention = SoftmaxAttention | LinearAttention | InLineAttention
Mix = Callable[[Mixer], Tensor]


def as_trained(mixer: Mixer) -> Shaped[Tensor, "batch head time 1 channel"]:
    """What the mixer makes of its values."""
    return respond(mixer.system(), mixer.signal())


class Block(nn.Module):
    """``x + attention(norm(x))``, then the same with two linear maps and a GELU.

    The local residual, where there is one, is added to the mixed values of any attention as the
    InLine paper adds it to its own: before the last projection.
    """

    def __init__(self, attention: Attention, residual: LocalResidual | None) -> None:
        super().__init__()
        self.attention, self.residual = attention, residual
        self.before_attention, self.before_perceptron = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.perceptron = nn.Sequential(
            nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def mixer(self, x: Float[Tensor, "batch time model"]) -> Mixer:
        """The attention that ``x`` drives, without the local residual."""
        return self.attention.mixer(self.before_attention(x))

    def query(self, x: Float[Tensor, "batch time model"]) -> Float[Tensor, "batch head time key"]:
        """The queries before any feature map or scale, which the mixer may hold already applied."""
        query, _, _ = self.attention.project(self.before_attention(x))
        return query

    def forward(
        self, x: Float[Tensor, "batch time model"], mix: Mix = as_trained
    ) -> Float[Tensor, "batch time model"]:
        """Mix tokens by ``mix``, then channels."""
        normed = self.before_attention(x)
        mixer = self.attention.mixer(normed)
        mixed = mix(mixer)
        if self.residual is not None:
            added = self.residual(normed, mixer.signal().squeeze(-2).transpose(-2, -3).flatten(-2))
            mixed = mixed + added.unflatten(-1, (HEADS, -1)).transpose(-2, -3).unsqueeze(-2)
        x = x + self.attention.finish(normed, mixed)
        return x + self.perceptron(self.before_perceptron(x))


class VisionTransformer(nn.Module):
    """Pixels and their learned positions, four blocks, and the mean token: no class token.

    So every token of every map has a place on the grid.
    """

    def __init__(self, attention: Callable[[], Attention], *, residual: bool) -> None:
        super().__init__()
        self.pixels = nn.Linear(1, WIDTH)
        self.positions = nn.Parameter(torch.randn(GRID[0] * GRID[1], WIDTH))
        self.blocks = nn.ModuleList(
            Block(attention(), LocalResidual(WIDTH, heads=HEADS, grid=GRID) if residual else None)
            for _ in range(DEPTH)
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.classes = nn.Linear(WIDTH, CLASSES)

    def forward(
        self, pixels: Float[Tensor, "batch time 1"], mix: Mix = as_trained
    ) -> Float[Tensor, "batch classes"]:
        """Scores of the ten digits."""
        x = self.pixels(pixels) + self.positions
        for block in self.blocks:
            x = block(x, mix)
        return self.classes(self.norm(x).mean(dim=-2))

    def entered(
        self, pixels: Float[Tensor, "batch time 1"]
    ) -> Iterator[tuple[Block, Float[Tensor, "batch time model"]]]:
        """Every block and what enters it, first block first."""
        x = self.pixels(pixels) + self.positions
        for block in self.blocks:
            yield block, x
            x = block(x)
