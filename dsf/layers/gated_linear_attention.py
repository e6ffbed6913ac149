"""The layer of gated linear attention: every key channel has a decay computed from the input."""

from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from dsf import mixers
from dsf.layers.heads import divide, merge, split
from dsf.layers.layer import Layer, Memory

RANK = 16
TEMPERATURE = 16


class GatedLinearAttention(Layer):
    """Linear attention with low-rank decay ``σ(x W₁ W₂ + b)^{1/16}`` and gate ``SiLU(x W + b)``.

    The response is normalised per head (LayerNorm without weights) before the output gate.
    With ``d = model_size`` and ``n = key_size`` the matrices have ``3 d^2 + 2 d n + 16 (d + n)``
    entries, ``4 d^2 + 24 d`` at n = d / 2; the biases of decay and gate are ``n + d`` more.

    Args:
        model_size: d.
        key_size: n, the width of all queries together; by default d / 2.
        heads: the number of heads, which share both widths.

    Raises:
        ShapeError: if a width is not a multiple of ``heads``.

    Source: Yang et al. 2023, arXiv:2312.06635; this parametrisation: Chou et al. 2024,
    arXiv:2411.10741.
    """

    def __init__(self, model_size: int, *, key_size: int | None = None, heads: int = 1) -> None:
        super().__init__()
        keys = model_size // 2 if key_size is None else key_size
        divide("GatedLinearAttention", heads=heads, model_size=model_size, key_size=keys)
        self.heads, self.sizes = heads, [keys, keys, model_size]
        self.projections = nn.Linear(model_size, sum(self.sizes), bias=False)
        self.decay_low = nn.Linear(model_size, RANK, bias=False)
        self.decay = nn.Linear(RANK, keys)
        self.gate = nn.Linear(model_size, model_size)
        self.out = nn.Linear(model_size, model_size, bias=False)

    def mixer(
        self, x: Float[Tensor, "batch time model"], memory: Memory | None = None
    ) -> mixers.GatedLinearAttention:
        """The mixer with query, key, value and log decay."""
        query, key, value = self.projections(x).split(self.sizes, dim=-1)
        log_decay = functional.logsigmoid(self.decay(self.decay_low(x))) / TEMPERATURE
        return mixers.GatedLinearAttention(
            query=split(query, self.heads),
            key=split(key, self.heads),
            value=split(value, self.heads),
            log_decay=split(log_decay, self.heads),
        )

    def finish(
        self, x: Float[Tensor, "batch time model"], mixed: Shaped[Tensor, "..."]
    ) -> Float[Tensor, "batch time model"]:
        """The norm of every head, the output gate, then the output projection."""
        normal = functional.layer_norm(mixed, mixed.shape[-1:])
        return self.out(merge(normal) * functional.silu(self.gate(x)))
