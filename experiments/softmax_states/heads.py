"""Softmax heads to look at: Gaussian queries and keys, and those of a trained model."""

from dataclasses import dataclass

import numpy as np
import torch

import dsf
from dsf.mixers import SoftmaxAttention
from dsf.models import folder, recall

TOKENS = 128
MAPS = 4
GAUSSIAN = ((4, 0.5), (4, 2.0), (16, 1.0), (64, 1.0))
"""Key widths, and factors on logits of unit variance."""
PROMPT_SEED = 3


@dataclass(frozen=True)
class Group:
    """Heads of one kind, the first axis of the mixer counting them."""

    name: str
    heads: SoftmaxAttention


def groups() -> list[Group]:
    """All heads of the experiment."""
    return [gaussian(*each) for each in GAUSSIAN] + trained()


def gaussian(width: int, scale: float, *, tokens: int = TOKENS, maps: int = MAPS) -> Group:
    """Heads with standard normal queries and keys and logits ``scale q.k / sqrt(width)``."""
    rng = np.random.default_rng(0)
    drawn = torch.from_numpy(rng.standard_normal((maps, 2, tokens, width)))
    query, key = drawn.unbind(dim=1)
    heads = SoftmaxAttention(query=query, key=key, value=key, scale=scale * width**-0.5)
    return Group(f"Gaussian, key width {width}, scale {scale:g}", heads)


def trained(prompts: int = MAPS, *, pairs: int = recall.PAIRS) -> list[Group]:
    """The heads of the embedded llama on recall prompts it never saw, one group a layer."""
    generator = torch.Generator().manual_seed(PROMPT_SEED)
    tokens = recall.draw(generator, prompts, pairs=pairs).tokens
    inspection = dsf.inspect(folder("llama"), input_ids=tokens)
    return [
        Group(f"Trained llama, layer {depth}", _flattened(layer.mixer))
        for depth, layer in enumerate(inspection)
    ]


def _flattened(mixer: SoftmaxAttention) -> SoftmaxAttention:
    """Samples and heads on one axis."""
    query, key, value = (part.flatten(0, 1) for part in (mixer.query, mixer.key, mixer.value))
    return SoftmaxAttention(query=query, key=key, value=value, scale=mixer.scale)
