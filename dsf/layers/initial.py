"""Initial weights, and the initialisation of published runs."""

import math

from torch import nn

SMALL = 0.02


def draw_weights(linear: nn.Linear, std: float = SMALL) -> None:
    """Weights from N(0, std²); biases zero."""
    nn.init.normal_(linear.weight, std=std)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def as_executed(module: nn.Module, *, depth: int = 2) -> None:
    """Initialise ``module`` in place as the published runs of arXiv:2405.15731 did.

    Every linear map gets N(0, 0.02²) and a bias of zero, the one called ``out``
    N(0, (0.02 / √(2 depth))²), embeddings N(0, 0.02²); everything else keeps what it has. That also
    overwrites the bias of the time step in ``SelectiveStateSpace``, ``StateSpaceDuality`` and
    ``Mamba``, so that the step starts at log 2 = 0.693 instead of 0.001 to 0.1: the fastest
    forgetting.

    Args:
        depth: how many blocks the model has.
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            draw_weights(part)
            if name.rpartition(".")[2] == "out":
                nn.init.normal_(part.weight, std=SMALL / math.sqrt(2 * depth))
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=SMALL)
