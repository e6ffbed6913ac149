"""The feedthrough of systems with several ports: a factor for every port, or a matrix."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.shapes import agree, has_axes


def feedthrough_matrix(
    owner: str, feedthrough: Shaped[Tensor, "*ports"], *, outputs: int, inputs: int
) -> Shaped[Tensor, "output input"]:
    """A vector goes on the diagonal, a matrix stays.

    Raises:
        ShapeError: if it does not fit the ports.
    """
    if feedthrough.ndim == 1:
        size = feedthrough.shape[0]
        agree(owner, "channel", feedthrough=size, output=outputs, input=inputs)
        return torch.diag_embed(feedthrough)
    has_axes(owner, "feedthrough", tuple(feedthrough.shape), "output input")
    agree(owner, "output", feedthrough=feedthrough.shape[0], read=outputs)
    agree(owner, "input", feedthrough=feedthrough.shape[1], write=inputs)
    return feedthrough
