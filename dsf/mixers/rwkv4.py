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
from dsf.mixers.ingredients.recurrences import before, one_state, running_maximum
from dsf.systems.system import System
from dsf.systems.transition import ScaledIdentity, continued


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
        peak_before: Tensor | float = -torch.inf if self.start_peak is None else self.start_peak
        largest = running_maximum(self.log_decay.expand_as(self.key), self.key, start=peak_before)
        earlier = before(largest, axis=-2, start=peak_before)
        decay = (earlier + self.log_decay - largest).exp()
        write = (self.key - largest).exp()
        first = None if self.start_total is None else self.start_total[..., None, None]
        total = continued(ScaledIdentity(decay.mT, 1), write.mT[..., None, None], first)[0]
        total_before: Tensor | float = 0.0 if self.start_total is None else self.start_total
        boosted = self.key + self.bonus
        peak = torch.maximum(earlier, boosted)
        past, own = (earlier - peak).exp(), (boosted - peak).exp()
        normaliser = past * before(total[..., 0, 0].mT, axis=-2, start=total_before) + own
        B, C, D = (
            part.mT[..., None, None] for part in (write, past / normaliser, own / normaliser)
        )
        initial = None if self.start is None else self.start[..., None, None]
        A = ScaledIdentity(decay.mT, 1)
        return System(A, B, C, D, initial=initial, reads_before_update=True)
