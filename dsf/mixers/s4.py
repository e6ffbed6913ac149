r"""S4: a time-invariant state space, diagonal plus rank one in continuous time.

    dh/dt = A h + b u        y = Re(c.h) + d u        A = diag(λ) + p qᴴ

It is discretised by the trapezoidal rule, which preserves diagonal plus rank one.

Source: Gu, Goel & Ré 2021, arXiv:2111.00396. There A = Λ - P Q*: pass ``low_rank_left=-P`` and
``low_rank_right=Q``.
"""

from jaxtyping import Complex, Float
from torch import Tensor

from dsf.mixers.base import Mixer, between, complex_normal, laws, mixer, normal, poles
from dsf.mixers.ingredients.recurrences import Discretisation, bilinear, bilinear_low_rank
from dsf.systems.system import System
from dsf.systems.transition import DiagonalPlusLowRank


@mixer
class S4(Mixer):
    """One state space for every channel column of ``value``.

    A layer with a state space for each of its channels has the channels among the batch axes.

    Attributes:
        pole: λ, the full spectrum, per unit of time: of conjugate pairs give both.
        low_rank_left, low_rank_right: p and q; q is conjugated by the mixer.
        write, read: b and c; c is not conjugated.
        step: time per token, above zero.
        feedthrough: d.
        discretise: only :func:`dsf.mixers.ingredients.bilinear` keeps diagonal plus rank one.

    Raises:
        ValueError: for another ``discretise``.
    """

    value: Float[Tensor, "*batch time channel"]
    pole: Complex[Tensor, " state"]
    low_rank_left: Complex[Tensor, " state"]
    low_rank_right: Complex[Tensor, " state"]
    write: Complex[Tensor, " state"]
    read: Complex[Tensor, " state"]
    step: Float[Tensor, "*batch"]
    feedthrough: Float[Tensor, "*batch"] | None = None
    discretise: Discretisation = bilinear

    drawn = laws(
        pole=poles,
        low_rank_left=lambda rng, *size: -0.5 * complex_normal(rng, *size),
        low_rank_right=lambda rng, *size: 0.5 * complex_normal(rng, *size),
        step=between(0.1, 0.5),
        feedthrough=normal,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.discretise is not bilinear:
            raise ValueError(
                "S4: 'discretise' must be dsf.mixers.ingredients.bilinear, the one rule that keeps "
                "a diagonal plus rank one. For another rule diagonalise A and use "
                "DiagonalStateSpace."
            )

    def system(self) -> System:
        *batch, steps, _ = self.value.shape
        size = (*batch, steps, self.pole.shape[-1])
        sampled = bilinear_low_rank(
            self.pole,
            self.low_rank_left,
            self.low_rank_right,
            self.write,
            self.step.unsqueeze(-1),
        )
        decay, left, right, write = (part.unsqueeze(-2).expand(size) for part in sampled)
        D = None
        if self.feedthrough is not None:
            D = self.feedthrough.unsqueeze(-1).expand(*batch, steps)
        return System.from_write_and_read(
            DiagonalPlusLowRank(decay, left.unsqueeze(-1), right.unsqueeze(-1)),
            write,
            read=self.read.expand(size),
            feedthrough=D,
            takes_real_part=True,
        )
