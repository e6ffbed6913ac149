"""A 3 x 3 convolution of values on a grid of tokens, with weights computed from the mean token."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, gelu, unfold

from dsf.layers.heads import divide
from dsf.runtime.shapes import agree

TAPS = 9


class LocalResidual(nn.Module):
    """The term that InLine attention adds to the mixed values, before the output projection.

    Every sequence and channel has its own filter, computed from the mean of all tokens; the grid is
    padded with zeros. ``10 C^2 / heads + 10 C`` parameters for C channels.

    Args:
        model_size: C.
        heads: the number of heads; the two maps that compute the filters are separate in each.
        grid: rows and columns of tokens, row by row in the sequence.
        class_token: whether the sequence begins with a token outside the grid, which gets no term.

    Raises:
        ShapeError: if ``model_size`` is not a multiple of ``heads``, or a grid side is below 1.

    Source: Han et al. 2024, arXiv:2412.06590.

    Example:
        If all values are one, the middle of the grid gets the sum of the filter:

        >>> import torch
        >>> residual = LocalResidual(2, heads=1, grid=(3, 3)).double()
        >>> x = torch.randn(1, 9, 2, dtype=torch.float64)
        >>> added = residual(x, torch.ones_like(x))
        >>> torch.allclose(added[:, 4], residual.filters(x).sum(dim=(-2, -1)))
        True
    """

    def __init__(
        self, model_size: int, *, heads: int, grid: tuple[int, int], class_token: bool = False
    ) -> None:
        super().__init__()
        divide("LocalResidual", heads=heads, model_size=model_size)
        divide("LocalResidual", heads=1, rows=grid[0], columns=grid[1])
        self.grid, self.outside = grid, int(class_token)
        self.inner = nn.Conv1d(model_size, model_size, 1, groups=heads)
        self.outer = nn.Conv1d(model_size, TAPS * model_size, 1, groups=heads)

    def filters(
        self, x: Float[Tensor, "batch time model"]
    ) -> Float[Tensor, "batch model rows columns"]:
        """A 3 x 3 filter for every sequence and channel; entry (1, 1) is the token's own weight."""
        mean = x.mean(dim=-2).unsqueeze(-1)
        return self.outer(gelu(self.inner(mean))).unflatten(-2, (-1, 3, 3)).squeeze(-1)

    def forward(
        self, x: Float[Tensor, "batch time model"], value: Float[Tensor, "batch time model"]
    ) -> Float[Tensor, "batch time model"]:
        """The term for every token, from the layer's input and its values.

        Raises:
            ShapeError: if the sequence is not the grid, after the class token if there is one.
        """
        self._fits(value)
        inside = value[..., self.outside :, :].mT.unflatten(-1, self.grid)
        batch, channels = inside.shape[:2]
        filters = self.filters(x).flatten(0, 1).unsqueeze(1)
        images = inside.flatten(0, 1).unsqueeze(0)
        added = conv2d(images, filters, padding=1, groups=batch * channels)
        added = added.unflatten(1, (batch, channels)).squeeze(0).flatten(-2).mT
        return torch.cat([torch.zeros_like(value[..., : self.outside, :]), added], dim=-2)

    def local_map(
        self, x: Float[Tensor, "batch time model"]
    ) -> Float[Tensor, "batch model time time"]:
        """The filters as a map for every channel: rows are queries, columns are keys.

        It is to be added to the map of the mixer. Away from the edge, rows sum to the sum of the
        filter; at the edge to a part of it, and at the class token to zero.

        Raises:
            ShapeError: if the sequence is not the grid, after the class token if there is one.
        """
        self._fits(x)
        tokens = x.shape[-2] - self.outside
        units = torch.eye(tokens, dtype=x.dtype, device=x.device).unflatten(-1, (1, *self.grid))
        seen = unfold(units, 3, padding=1)  # key, tap, query
        weights = torch.einsum("bck,jki->bcij", self.filters(x).flatten(-2), seen)
        return nn.functional.pad(weights, (self.outside, 0, self.outside, 0))

    def _fits(self, x: Tensor) -> None:
        rows, columns = self.grid
        agree("LocalResidual", "time", grid=rows * columns + self.outside, x=x.shape[-2])
