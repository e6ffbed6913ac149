"""Splits channels into heads, as batch axes of a mixer, and merges them again."""

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from dsf.runtime.shapes import ShapeError


def divide(owner: str, *, heads: int, **sizes: int) -> None:
    """Raise unless every size is a positive multiple of ``heads``.

    Raises:
        ShapeError: naming ``owner``, the size and the number of heads.
    """
    if heads < 1:
        raise ShapeError(f"{owner}: needs at least 1 head, but heads is {heads}.")
    for name, size in sizes.items():
        if size < 1 or size % heads:
            raise ShapeError(
                f"{owner}: {name} must be a positive multiple of the {heads} heads, but it is "
                f"{size}. Change {name} or heads."
            )


def split(
    x: Float[Tensor, "batch time model"], heads: int
) -> Float[Tensor, "batch head time width"]:
    """``x``, ``batch time (head width)``, split into heads, ``batch head time width``."""
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3)


def merge(
    mixed: Shaped[Tensor, "batch head time 1 width"],
) -> Shaped[Tensor, "batch time model"]:
    """The response of a mixer with heads, with the channels of all heads in one axis."""
    return mixed.squeeze(-2).transpose(-2, -3).flatten(-2)


class QueryKeyValue(nn.Module):
    """The projections of attention: one for query and key, one for value, split into heads.

    ``(2 key_size + model_size) (model_size + 1)`` parameters; ``key_size`` is ``model_size`` when
    absent. Errors name ``owner``, a layer.
    """

    def __init__(self, owner: str, model_size: int, key_size: int | None, *, heads: int) -> None:
        super().__init__()
        key_size = model_size if key_size is None else key_size
        divide(owner, heads=heads, model_size=model_size, key_size=key_size)
        self.heads = heads
        self.query_key = nn.Linear(model_size, 2 * key_size)
        self.value = nn.Linear(model_size, model_size)

    def forward(
        self, x: Float[Tensor, "batch time model"]
    ) -> tuple[
        Float[Tensor, "batch head time key"],
        Float[Tensor, "batch head time key"],
        Float[Tensor, "batch head time channel"],
    ]:
        """Query, key and value."""
        query, key = self.query_key(x).chunk(2, dim=-1)
        return split(query, self.heads), split(key, self.heads), split(self.value(x), self.heads)
