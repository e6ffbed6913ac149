"""Systems of one state for every channel: gated recurrent networks."""

from jaxtyping import Inexact
from torch import Tensor

from dsf.system import System
from dsf.transition import ScaledIdentity


def channel_systems(
    decay: Inexact[Tensor, "*batch time channel"],
    write: Inexact[Tensor, "*batch time channel"],
    read: Inexact[Tensor, "*batch time channel"],
    *,
    initial: Inexact[Tensor, "*batch channel"] | None = None,
    runs_backward: bool = False,
) -> System:
    """``h = decay h + write u``, ``y = read h``, each channel on its own.

    The channel becomes the last batch axis: system batch ``*batch channel``, one state each. The
    signal that fits is ``u.mT[..., None, None]``.
    """
    return System(
        A=ScaledIdentity(decay.mT, 1),
        B=write.mT[..., None, None],
        C=read.mT[..., None, None],
        initial=None if initial is None else initial[..., None, None],
        runs_backward=runs_backward,
    )
