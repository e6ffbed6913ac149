r"""RWKV-4: a weighted mean over the past in every channel, with a bonus for the current token.

    a_ij ~ e^{(i-1-j) w + k_j} for j < i        a_ii ~ e^{u + k_i}        rows sum to one

The sums are scaled by their running maximum. The system reads before the update, and the current
token contributes through D.

Source: Peng et al. 2023, arXiv:2305.13048.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.mixers.base import ChannelMixer, laws, minus, mixer, spread
from dsf.mixers.ingredients.recurrences import one_state, running_maximum
from dsf.systems.system import System
from dsf.systems.transition import ScaledIdentity, continued, states_before


@mixer
class RWKV4(ChannelMixer):
    """One state for every channel. System batch: ``*batch channel``.

    Attributes:
        key: the logarithm of a token's weight.
        log_decay: w, nats per token, at most 0.
        bonus: u, added to the current token's log weight in place of any decay.
        start, start_total, start_peak: the weighted sum of values and the sum of weights before the
            first token, both divided by e to the power of the last; from rest when absent.
    """

    key: Float[Tensor, "*batch time channel"]
    log_decay: Float[Tensor, " channel"]
    bonus: Float[Tensor, " channel"]
    start: Float[Tensor, "*batch channel"] | None = None
    start_total: Float[Tensor, "*batch channel"] | None = None
    start_peak: Float[Tensor, "*batch channel"] | None = None

    drawn = laws(key=spread, log_decay=minus(0.05, 0.8))

    def __post_init__(self) -> None:
        super().__post_init__()
        one_state("RWKV4", self.start, self.start_total, self.start_peak)

    def system(self) -> System:
        start = -torch.inf if self.start_peak is None else self.start_peak
        fading = self.log_decay.expand_as(self.key)
        earlier, largest = running_maximum(fading, self.key, start=start)
        decay = (earlier + self.log_decay - largest).exp()
        write = (self.key - largest).exp()
        drive, A = write.mT[..., None, None], ScaledIdentity(decay.mT, 1)
        first = torch.zeros_like(drive[..., 0, :, :])
        if self.start_total is not None:
            first = self.start_total[..., None, None]
        total = states_before(first, continued(A, drive, first)[0])[..., 0, 0].mT
        boosted = self.key + self.bonus
        peak = torch.maximum(earlier, boosted)
        past, own = (earlier - peak).exp(), (boosted - peak).exp()
        normaliser = past * total + own
        B, C, D = (
            part.mT[..., None, None] for part in (write, past / normaliser, own / normaliser)
        )
        initial = None if self.start is None else self.start[..., None, None]
        return System(A, B, C, D, initial=initial, reads_before_update=True)
