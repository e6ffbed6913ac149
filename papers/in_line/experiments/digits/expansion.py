"""How far InLine attention with plain features is from softmax as the logits grow.

At small logits it is softmax to first order, so the gap falls with the square of their scale.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dsf import attention_map
from dsf.mixers import InLineAttention, SoftmaxAttention

TOKENS, WIDTH = 40, 8
SCALES = (1e-3, 1e-2, 1e-1, 0.3, 1.0, 3.0, 10.0)


def gaps(scales: tuple[float, ...] = SCALES) -> list[dict[str, float]]:
    """Largest difference of a weight for logits ``scale K q``, and what the next order predicts.

    ``local_slope`` compares with the scale before: 2 where the next order alone is seen.
    """
    generator = np.random.default_rng(0)
    key = torch.from_numpy(generator.standard_normal((TOKENS, WIDTH)))
    query = torch.from_numpy(generator.standard_normal(WIDTH))
    rows: list[dict[str, float]] = []
    for scale in scales:
        away = softmax_row(key, scale * query) - in_line_row(key, scale * query)
        row = {
            "scale": scale,
            "gap": away.abs().max().item(),
            "next_order": next_order(scale * (key @ query)).abs().max().item(),
        }
        if rows:
            growth = math.log(row["gap"] / rows[-1]["gap"])
            row["local_slope"] = growth / math.log(scale / rows[-1]["scale"])
        rows.append(row)
    return rows


def next_order(logits: Float[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    """The second-order term of softmax at zero logits."""
    squares = (logits - logits.mean()).square()
    return (squares - squares.mean()) / (2 * len(logits))


def softmax_row(
    key: Float[Tensor, "tokens key"], query: Float[Tensor, " key"]
) -> Float[Tensor, " tokens"]:
    """The weights one query gets."""
    mixer = SoftmaxAttention(query=query.unsqueeze(0), key=key, value=key, scale=1.0, causal=False)
    return attention_map(mixer.system(), rows=0).squeeze(-2)


def in_line_row(
    key: Float[Tensor, "tokens key"], query: Float[Tensor, " key"]
) -> Float[Tensor, " tokens"]:
    """The weights one query gets, scores divided by the number of tokens."""
    mixer = InLineAttention(
        query=(query / len(key)).expand_as(key), key=key, value=key, causal=False
    )
    return attention_map(mixer.system(), rows=0).squeeze(-2)
