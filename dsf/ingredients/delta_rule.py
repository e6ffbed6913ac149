"""Delta rules: what the memory holds at a key is looked up, taken out, and written anew."""

from jaxtyping import Inexact
from torch import Tensor

from dsf.system import System
from dsf.transition import DiagonalPlusLowRank


def delta_rule(
    *,
    decay: Inexact[Tensor, "*batch time key"],
    write: Inexact[Tensor, "*batch time key rank"],
    removal: Inexact[Tensor, "*batch time key rank"],
    read: Inexact[Tensor, "*batch time key"],
) -> System:
    """``A_t = (I - write_t removal_tᵀ) diag(decay_t)``, ``B_t = write_t``, ``C_t = read_t``.

    The memory fades before it is looked up; where all coordinates share a decay the order makes no
    difference. Every column of ``write`` is an input port. A shared decay costs less when it is
    expanded along ``key`` rather than copied.
    """
    A = DiagonalPlusLowRank(decay=decay, left=-write, right=decay.unsqueeze(-1) * removal)
    return System(A, B=write, C=read.unsqueeze(-2))
