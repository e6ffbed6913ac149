r"""MetaLA: the key is one minus the decay, and the current token may get additional weight.

    S_t = diag(α_t) S_{t-1} + (1 - α_t) v_tᵀ        o_t = S_tᵀ q_t + q_t.(w ⊙ (1 - α_t)) v_t

The layer applies a sigmoid to the second term, which makes it nonlinear in v; here there is none.

Source: Chou et al. 2024, arXiv:2411.10741.
"""

from jaxtyping import Float
from torch import Tensor

from dsf.mixers.base import Mixer, between, laws, mixer, normal
from dsf.runtime.shapes import agree
from dsf.systems.system import System
from dsf.systems.transition import Diagonal


@mixer
class MetaLinearAttention(Mixer):
    """Attention by a query and a decay.

    Attributes:
        decay: α_t, a factor per token in 0 ... 1 for every key coordinate.
        augmentation: w; adds D_t = q_t.(w ⊙ (1 - α_t)), the sigmoid-free self-augmentation. One w
            for all, or with leading axes that end in those of the batch, such as one a head.
    """

    query: Float[Tensor, "*batch time key"]
    value: Float[Tensor, "*batch time channel"]
    decay: Float[Tensor, "*batch time key"]
    augmentation: Float[Tensor, "*leading key"] | None = None

    drawn = laws(decay=between(0.4, 0.98), augmentation=normal)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.augmentation is not None and self.augmentation.ndim > 1:
            leading = self.augmentation.shape[:-1]
            batch = self.query.shape[:-2][-len(leading) :]
            agree("MetaLinearAttention", "batch", query=batch, augmentation=leading)

    def system(self) -> System:
        write, D = 1 - self.decay, None
        if self.augmentation is not None:
            D = (self.query * self.augmentation.unsqueeze(-2) * write).sum(dim=-1)
        return System.from_write_and_read(Diagonal(self.decay), write, self.query, feedthrough=D)
