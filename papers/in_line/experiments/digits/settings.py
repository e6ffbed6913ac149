"""The runs: an attention, with or without the local residual, and a seed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.layers import InLineAttention, LinearAttention, SoftmaxAttention
from dsf.mixers import ingredients
from papers.in_line.experiments.digits.vision import HEADS, WIDTH, Attention, VisionTransformer

SEEDS = (0, 1, 2)
FLOOR = 1e-6


def relu_above_zero(x: Float[Tensor, "*axes key"]) -> Float[Tensor, "*axes key"]:
    """ReLU plus a millionth: a query of zeros would leave a row without a sum to divide by."""
    return torch.relu(x) + FLOOR


ATTENTIONS: dict[str, Callable[[], Attention]] = {
    "softmax": partial(SoftmaxAttention, WIDTH, heads=HEADS, causal=False),
    **{
        f"linear-{name}": partial(
            LinearAttention, WIDTH, heads=HEADS, causal=False, feature_map=feature_map
        )
        for name, feature_map in (
            ("relu", relu_above_zero),
            ("elu", ingredients.elu_plus_one),
            ("leaky", ingredients.leaky_relu),
            ("identity", ingredients.identity),
        )
    },
    **{
        f"in-line-{name}": partial(
            InLineAttention, WIDTH, heads=HEADS, causal=False, feature_map=feature_map
        )
        for name, feature_map in (
            ("identity", ingredients.identity),
            ("leaky", ingredients.leaky_relu),
            ("relu", torch.relu),
            ("elu", ingredients.elu_plus_one),
        )
    },
}
"""By name: the attention and its feature map. Where features have both signs a row of linear
attention may sum to nothing and then has a pole."""

COMPARED = ("softmax", "linear-relu", "linear-elu", "in-line-identity")
"""With and without the local residual; the other kernels run without."""


@dataclass(frozen=True)
class Setting:
    """One run."""

    attention: str
    residual: bool
    seed: int

    @property
    def variant(self) -> str:
        """What the seeds of one row of a table have in common."""
        return self.attention + "+local" * self.residual

    def model(self) -> VisionTransformer:
        """The model at its first step."""
        torch.manual_seed(self.seed)
        return VisionTransformer(ATTENTIONS[self.attention], residual=self.residual)


def settings() -> dict[str, Setting]:
    """All runs by name, the ones that answer most first."""
    compared = [
        Setting(attention, residual, seed)
        for seed in SEEDS
        for residual in (False, True)
        for attention in COMPARED
    ]
    kernels = [
        Setting(attention, False, seed)
        for seed in SEEDS
        for attention in ATTENTIONS
        if attention not in COMPARED
    ]
    return {f"{each.variant}-{each.seed}": each for each in (*compared, *kernels)}
