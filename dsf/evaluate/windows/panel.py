"""A panel: the input-output behaviour of a window of tokens as four matrices."""

from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.systems.transition import Transition


@dataclass(frozen=True)
class Panel:
    """A window of tokens, folded.

    With ``u`` the signals and ``y`` the responses of the window stacked over its tokens, ``h`` the
    state before the window and ``h'`` the state after it:

        y = local u + reach h        h' = carry h + write u

    Attributes:
        local: the map of the window alone.
        reach: from the state before the window to the responses.
        write: from the signals to the state after the window.
        carry: the product of all A_t of the window, as a transition of one step. It may be in
            double precision, as the products of many windows are multiplied.
    """

    local: Shaped[Tensor, "*batch rows columns"]
    reach: Shaped[Tensor, "*batch rows state"]
    write: Shaped[Tensor, "*batch state columns"]
    carry: Transition

    def carried(
        self, state: Shaped[Tensor, "*batch state channel"]
    ) -> Shaped[Tensor, "*batch state channel"]:
        """``carry h``, in the precision of the state."""
        return _moved(self.carry, state)

    def seen_before(
        self, rows: Shaped[Tensor, "*batch rows state"]
    ) -> Shaped[Tensor, "*batch rows state"]:
        """``rows carry``: rows that read the state after the window, acting on the one before."""
        return _moved(self.carry.transposed(), rows.mT).mT


def _moved(carry: Transition, state: Tensor) -> Tensor:
    exact = torch.promote_types(carry.dtype, state.dtype)
    if carry.diagonal() is None:
        carry = carry.to(dtype=exact)
        moved = (carry @ state.to(exact).unsqueeze(-3)).squeeze(-3)
    else:
        moved = (carry @ state.unsqueeze(-3)).squeeze(-3)
    return moved.to(state.dtype.to_complex() if moved.is_complex() else state.dtype)
