r"""Linear attention: a kernel in place of the exponential, so that a state of fixed size suffices.

    a_ij = φ(q_i).φ(k_j) / (Σ_s φ(q_i).φ(k_s) + ε)        o_i = Σ_j a_ij v_j

The denominator depends on queries and keys alone and is part of C.

Source: Katharopoulos et al. 2020, arXiv:2006.16236. Based (Arora et al. 2024, arXiv:2402.18668) is
``feature_map=second_order, epsilon=1e-6``, ReBased (Aksenov et al. 2024, arXiv:2402.10644) is
``feature_map=squares, epsilon=1e-6``, both with a scaled query.
"""

from dsf.mixers.base import KeyedMixer, mixer
from dsf.mixers.ingredients.feature_maps import FeatureMap, elu_plus_one
from dsf.mixers.ingredients.matrix_memories import accumulator, total_in_reach
from dsf.systems.composite import SystemSum
from dsf.systems.system import System


@mixer
class LinearAttention(KeyedMixer):
    """Attention with a feature map.

    Attributes:
        feature_map: φ, applied along ``key``; it may change the width.
        normalised: divide every row by its sum. Features of both signs can make it zero.
        causal: token i reads tokens 0 ... i. Otherwise every token reads all, as the sum of a
            forward and a backward system.
        epsilon: ε, added to the sum of a row; rows then sum to less than one. No effect without
            ``normalised``.
    """

    feature_map: FeatureMap = elu_plus_one
    normalised: bool = True
    causal: bool = True
    epsilon: float = 0.0

    def system(self) -> System | SystemSum:
        write, read = self.feature_map(self.key), self.feature_map(self.query)
        if self.normalised:
            reached = total_in_reach(write, causal=self.causal)
            read = read / ((read * reached).sum(dim=-1, keepdim=True) + self.epsilon)
        return accumulator(write, read, causal=self.causal)
