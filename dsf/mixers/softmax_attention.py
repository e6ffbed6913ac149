r"""Softmax attention, whose state is a cache of all tokens.

    a_ij = softmax_j(scale q_i.k_j, soft-capped, + bias_ij)        o_i = Σ_j a_ij v_j

On a finite sequence it is exactly the system with A_t = I, B_t = e_t and C_t = row t of the map;
neither the e_t nor the rows are stored.

Source: Vaswani et al. 2017, arXiv:1706.03762; as a system: Sieber et al. 2024, arXiv:2405.15731.
"""

import math

from jaxtyping import Float
from torch import Tensor

from dsf.mixers.base import Mixer, laws, mixer, normal, spread
from dsf.mixers.ingredients.feature_maps import Monomials
from dsf.mixers.linear_attention import LinearAttention
from dsf.runtime.shapes import agree
from dsf.systems.composite import ExplicitMap, Operator, SoftmaxRows, cache_system


@mixer
class SoftmaxAttention(Mixer):
    """Scaled dot-product attention, one head per batch entry.

    Attributes:
        scale: factor on q.k; ``key ** -0.5`` when absent.
        bias: added to the scores after the soft cap; ``-inf`` hides a key.
        causal: if set, token i reads tokens 0 ... i only, and the mixer is a system. Otherwise it
            is an explicit map, which may read another sequence (cross attention).
        softcap: scores become ``softcap tanh(score / softcap)``.
        sink: adds ``exp(sink)`` to the denominator of every row.
    """

    query: Float[Tensor, "*batch time key"]
    key: Float[Tensor, "*batch read key"]
    value: Float[Tensor, "*batch read channel"]
    scale: float | None = None
    bias: Float[Tensor, "*batch time read"] | None = None
    causal: bool = True
    softcap: float | None = None
    sink: Float[Tensor, "*batch"] | None = None

    drawn = laws(
        query=spread,
        scale=0.7,
        bias=normal,
        softcap=5.0,
        sink=normal,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.causal:
            steps = self.query.shape[-2]
            agree("SoftmaxAttention (causal)", "time", query=steps, key=self.key.shape[-2])

    def system(self) -> Operator:
        rows = SoftmaxRows.of(self)
        return cache_system(rows) if self.causal else ExplicitMap(rows)

    def expansion(self, order: int) -> LinearAttention:
        """The same attention with the exponential series truncated at ``order``: a finite state.

        It has ``C(key + order, order)`` states, so keep both small. The error of ``exp(score)`` is
        at most ``dsf.mixers.ingredients.series_error(score, order)``. At odd orders the sum of a
        row can be zero or close to it, and the weights then become arbitrarily large.

        Raises:
            ValueError: if ``order`` is negative, or this attention has a bias, a soft cap or a
                sink, or reads another sequence.

        Example:
            >>> import torch
            >>> from dataclasses import replace
            >>> from dsf.evaluate import attention_map
            >>> exact = SoftmaxAttention.draw(torch.Generator().manual_seed(0), steps=3)
            >>> exact = replace(exact, query=exact.query / 4, bias=None, softcap=None, sink=None)
            >>> near = exact.expansion(order=6)
            >>> near.system().state_size
            210
            >>> difference = attention_map(near.system()) - attention_map(exact.system())
            >>> bool(difference.abs().max() < 1e-3)
            True
        """
        extras = [name for name in ("bias", "softcap", "sink") if getattr(self, name) is not None]
        if extras:
            raise ValueError(
                f"SoftmaxAttention.expansion: expands exp(scale q.k) alone, but this attention has "
                f"{' and '.join(extras)}. Remove it first with dataclasses.replace."
            )
        steps, read = self.query.shape[-2], self.key.shape[-2]
        if steps != read:
            raise ValueError(
                f"SoftmaxAttention.expansion: expands attention within one sequence, but "
                f"{steps} tokens read {read}."
            )
        scale = SoftmaxRows.of(self).scale
        return LinearAttention(
            query=self.query * math.copysign(abs(scale) ** 0.5, scale),
            key=self.key * abs(scale) ** 0.5,
            value=self.value,
            feature_map=Monomials(order),
            causal=self.causal,
        )
