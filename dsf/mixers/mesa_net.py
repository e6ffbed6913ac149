r"""MesaNet: at every token, the ridge regression of all past values on all past keys.

    H_t = exp(g_t) H_{t-1} + β_t k_t k_tᵀ        S_t = exp(g_t) S_{t-1} + β_t k_t v_tᵀ
    o_t = S_tᵀ (H_t + diag(λ))⁻¹ q_t

H_t depends on keys only, so the solution for the query is part of C.

Source: von Oswald et al. 2025, arXiv:2506.05233. Kernels solve by a few conjugate gradient steps;
here the solution is exact.
"""

from jaxtyping import Float
from torch import Tensor

from dsf.mixers.base import KeyedMixer, between, laws, minus, mixer
from dsf.mixers.ingredients.matrix_memories import read_from
from dsf.systems.system import System
from dsf.systems.transition import ScaledIdentity, solved


@mixer
class MesaNet(KeyedMixer):
    """Linear attention with the query multiplied by (H_t + diag(λ))⁻¹. No scale is applied.

    Attributes:
        rate: β_t, weight of the token in the regression, at least 0.
        log_decay: g_t, nats per token, at most 0.
        ridge: λ, above 0.
    """

    rate: Float[Tensor, "*batch time"]
    log_decay: Float[Tensor, "*batch time"]
    ridge: Float[Tensor, "*batch key"]

    drawn = laws(
        rate=between(0.2, 0.9),
        log_decay=minus(0.02, 0.5),
        ridge=between(0.3, 2.0),
    )

    def system(self) -> System:
        """The mixer as a system.

        Raises:
            ValueError: if an entry of ``ridge`` is not above zero: with fewer tokens than key
                entries the regression then has no unique solution.
        """
        if not bool((self.ridge > 0).all()):
            raise ValueError(
                f"MesaNet: 'ridge' must be above zero in every entry, but its smallest is "
                f"{self.ridge.min().item():.3g}. A small value such as 1e-6 is enough."
            )
        write = self.rate.unsqueeze(-1) * self.key
        A = ScaledIdentity(self.log_decay.exp(), self.key.shape[-1])
        read = read_from(A, write, self.key, self._solved)
        return System.from_write_and_read(A, write, read)

    def _solved(self, curvature: Tensor, start: int, stop: int) -> Tensor:
        """``(H_t + diag(λ))⁻¹ q_t``."""
        full = curvature + self.ridge.diag_embed().unsqueeze(-3)
        return solved(full, self.query[..., start:stop, :].unsqueeze(-1)).squeeze(-1)
