r"""InLine attention: linear attention less the mean score, plus an equal share for each token.

    a_ij = φ(q_i).φ(k_j) - mean_s φ(q_i).φ(k_s) + 1/n_i        o_i = Σ_j a_ij v_j

Rows sum to one and may have negative weights. The state of the system has one entry more than the
features: the sum of all values so far, for the mean score and the equal share.

Source: Han et al. 2024, arXiv:2412.06590 (every token reads all; the causal form is its
counterpart over the n_i = i tokens up to i).
"""

import torch

from dsf.mixers.base import KeyedMixer, mixer
from dsf.mixers.ingredients.feature_maps import FeatureMap, identity
from dsf.mixers.ingredients.matrix_memories import accumulator, total_in_reach
from dsf.systems.composite import SystemSum
from dsf.systems.system import System


@mixer
class InLineAttention(KeyedMixer):
    """Injective linear attention.

    Attributes:
        feature_map: φ, applied along ``key``; it may change the width.
        causal: token i reads tokens 0 ... i. Otherwise every token reads all, as the sum of a
            forward and a backward system.
    """

    feature_map: FeatureMap = identity
    causal: bool = True

    def system(self) -> System | SystemSum:
        write, read = self.feature_map(self.key), self.feature_map(self.query)
        one = torch.ones_like(write[..., :1])
        reached, tokens = (total_in_reach(part, causal=self.causal) for part in (write, one))
        share = (1 - (read * reached).sum(dim=-1, keepdim=True)) / tokens
        return accumulator(
            torch.cat([write, one], dim=-1),
            torch.cat([read, share], dim=-1),
            causal=self.causal,
        )
