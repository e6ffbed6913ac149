r"""Normalised attention: scores divided by a normaliser that depends on the query token alone.

    a_ij = q_i.k_j / η_i        o_i = Σ_{j<=i} a_ij v_j

Source: Sieber et al. 2024, arXiv:2405.15731, where η = exp, softplus or sigmoid of a projection.
"""

from jaxtyping import Float
from torch import Tensor

from dsf.mixers.base import KeyedMixer, between, laws, mixer
from dsf.mixers.ingredients.matrix_memories import accumulator
from dsf.systems.composite import SystemSum
from dsf.systems.system import System


@mixer
class NormalisedAttention(KeyedMixer):
    """Linear attention without a feature map, each row divided by a number of its own.

    Attributes:
        normaliser: η_i, usually above zero; the sums of rows are not fixed.
    """

    normaliser: Float[Tensor, "*batch time"]

    drawn = laws(normaliser=between(0.5, 3.0))

    def system(self) -> System | SystemSum:
        read = self.query / self.normaliser.unsqueeze(-1)
        return accumulator(self.key, read, causal=True)
