"""What an LSTM does at every token, from its weights."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.ingredients.cell_weights import CellWeights


class Gates(NamedTuple):
    """The gates of every token, the candidate before its tanh, the cell, and what came before.

    All of shape ``*batch time channel``; ``output_before`` is ``*batch time output``.
    """

    write: Tensor
    forget: Tensor
    candidate: Tensor
    read: Tensor
    cell: Tensor
    cell_before: Tensor
    output_before: Tensor


def run_lstm(
    weights: CellWeights,
    inputs: Float[Tensor, "*batch time input"],
    start: Float[Tensor, "*batch output"],
    start_cell: Float[Tensor, "*batch channel"],
) -> Gates:
    """Run the layer from the first token to the last.

    i, f, g, o = σ, σ, tanh, σ (W x_t + b + U h_{t-1} + b')
    c_t = f c_{t-1} + i g        h_t = o tanh(c_t), through the projection where there is one
    """
    bias = weights.input_bias + weights.recurrent_bias
    driven = torch.einsum("gci,...ti->...tgc", weights.input_weight, inputs) + bias
    output, cell, tokens = start, start_cell, []
    for fed in driven.unbind(-3):
        recalled = torch.einsum("gco,...o->...gc", weights.recurrent_weight, output)
        write, forget, candidate, read = (fed + recalled).unbind(-2)
        write, forget, read = write.sigmoid(), forget.sigmoid(), read.sigmoid()
        after = forget * cell + write * candidate.tanh()
        tokens.append(Gates(write, forget, candidate, read, after, cell, output))
        cell, output = after, read * after.tanh()
        if weights.projection is not None:
            output = output @ weights.projection.mT
    return Gates(*(torch.stack(part, dim=-2) for part in zip(*tokens, strict=True)))
