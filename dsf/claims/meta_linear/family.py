"""What a family of the unified form is, and the response it is compared with."""

from collections.abc import Callable
from typing import TypeVar, cast

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate import respond
from dsf.mixers import Mixer

STEPS = 7
Drawn = TypeVar("Drawn", bound=Mixer)


Form = Callable[..., Tensor]
"""S_t = diag(α_t) S_{t-1} + k_tᵀ v_t and o_t = q_t S_t over one sequence.

Takes ``query``, ``key`` and ``decay``, each ``time key``, and ``value``, ``time channel``, by name;
gives what every token reads, ``time channel``.
"""

Family = Callable[[Form], tuple[Tensor, Tensor]]
"""From the form to (the mixer's response, the form's with the family's extra terms)."""


def drawn(mixer: type[Drawn]) -> Drawn:
    """The random instance that the library draws, two sequences."""
    return cast(Drawn, mixer.draw(torch.Generator().manual_seed(0), steps=STEPS))


def response(mixer: Mixer) -> Shaped[Tensor, "*batch time output channel"]:
    """What the library makes of it."""
    return respond(mixer.system(), mixer.signal())
