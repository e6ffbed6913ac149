"""What a few tokens of a system do, as four matrices."""

from dataclasses import dataclass

from jaxtyping import Shaped
from torch import Tensor

from dsf.transition import Transition


@dataclass(frozen=True)
class Panel:
    """A window of tokens, folded.

    With ``u`` the signals and ``y`` the responses of the window, token after token, ``h`` the
    state that enters and ``h'`` the one that leaves:

        y = local u + reach h        h' = carry h + write u

    Attributes:
        local: the map of the window alone.
        reach: what an entering state adds to the responses.
        write: what the signals leave in the state.
        carry: the product of all A_t of the window, as a transition of one step.
    """

    local: Shaped[Tensor, "*batch rows columns"]
    reach: Shaped[Tensor, "*batch rows state"]
    write: Shaped[Tensor, "*batch state columns"]
    carry: Transition

    def carried(
        self, state: Shaped[Tensor, "*batch state channel"]
    ) -> Shaped[Tensor, "*batch state channel"]:
        """``carry h``."""
        return (self.carry @ state.unsqueeze(-3)).squeeze(-3)
