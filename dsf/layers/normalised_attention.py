"""The layer of normalised attention."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from dsf import mixers
from dsf.layers.heads import QueryKeyValue
from dsf.layers.layer import Layer, Memory
from dsf.mixers.ingredients.feature_maps import exp


class NormalisedAttention(Layer):
    """Linear attention whose rows are divided by a number computed from the query's token.

    With ``d = model_size``, ``n = key_size`` and h heads it has
    ``2 d^2 + 2 d n + 2 d + 2 n + h (d + 1)`` parameters.

    Args:
        model_size: d.
        key_size: n, the width of all queries together; by default d.
        heads: h, the number of heads, which share both widths.
        normaliser: the function from a linear projection, one for every head, to the divisor,
            which must be positive. The paper has ``dsf.mixers.ingredients.exp``,
            ``dsf.mixers.ingredients.softplus`` and ``torch.sigmoid``.

    Raises:
        ShapeError: if a width is not a multiple of ``heads``.

    Source: Sieber et al. 2024, arXiv:2405.15731.
    """

    def __init__(
        self,
        model_size: int,
        *,
        key_size: int | None = None,
        heads: int = 1,
        normaliser: Callable[[Tensor], Tensor] = exp,
    ) -> None:
        super().__init__()
        self.normaliser = normaliser
        self.project = QueryKeyValue("NormalisedAttention", model_size, key_size, heads=heads)
        self.divisor = nn.Linear(model_size, heads)
        self.out = nn.Linear(model_size, model_size)

    def mixer(
        self, x: Float[Tensor, "batch time model"], memory: Memory | None = None
    ) -> mixers.NormalisedAttention:
        """The mixer of unscaled scores, divided by the normaliser of the query's token."""
        query, key, value = self.project(x)
        divisor = self.normaliser(self.divisor(x)).mT
        return mixers.NormalisedAttention(query=query, key=key, value=value, normaliser=divisor)
