"""One map on matplotlib axes."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.image import AxesImage
from torch import Tensor

from dsf.report.plain import plain

MASKED = "#e7e3da"
NOT_FINITE = "#96be00"
LABELLED, LONGEST_LABEL = 40, 10
# The colours of the page: cool subtracts, zero is paper, warm adds.
COOL = ["#103e78", "#3879b5", "#7daed5", "#c4dbec"]
WARM = ["#fbd6b8", "#f49d6b", "#d65430", "#831816"]
SIGNED = LinearSegmentedColormap.from_list("signed", [*COOL, "#f6f5f1", *WARM])


def draw_map(
    axes: Axes,
    map: Float[Tensor, "rows columns"] | Float[np.ndarray, "rows columns"],
    *,
    title: str,
    masked: Bool[np.ndarray, "rows columns"] | None = None,
    tokens: Sequence[str] | None = None,
) -> AxesImage:
    """Show one map: row i is written, column j is read, zero in the middle of the colours.

    The colours reach to the largest finite magnitude. What is not finite is green.

    Args:
        map: real weights; of a complex map pass the magnitudes or the real part.
        masked: cells where no weight can stand, drawn grey.
        tokens: labels for both axes of a square map, drawn up to 40.

    Raises:
        ValueError: for anything but one real matrix.
    """
    weights = map.numpy(force=True) if isinstance(map, Tensor) else map
    if weights.ndim != 2 or np.iscomplexobj(weights):
        raise ValueError(
            f"draw_map: 'map' must be one real matrix, but it is {weights.dtype} of shape "
            f"{weights.shape}. Pick one map, such as layer.map()[0, 3]."
        )
    odd = ~np.isfinite(weights)
    hidden = odd if masked is None else odd | masked
    reach = float(np.abs(weights[~odd]).max(initial=0.0)) or 1.0
    axes.set_facecolor(MASKED)
    image = axes.imshow(np.ma.masked_array(weights, hidden), cmap=SIGNED, vmin=-reach, vmax=reach)
    if odd.any():
        axes.imshow(np.ma.masked_array(odd, ~odd), cmap=ListedColormap([NOT_FINITE]))
    axes.set_title(title, fontsize=9, parse_math=False)
    _name_tokens(axes, tokens, weights.shape)
    return image


def _name_tokens(axes: Axes, tokens: Sequence[str] | None, shape: tuple[int, int]) -> None:
    """Token texts where they fit, otherwise no ticks: a wall of numbers says nothing."""
    if tokens is None or len(tokens) > LABELLED or shape != (len(tokens), len(tokens)):
        axes.set_xticks([])
        axes.set_yticks([])
        return
    texts = [plain(token)[:LONGEST_LABEL] for token in tokens]
    size = min(6.0, 140 / len(texts))
    axes.set_xticks(range(len(texts)), texts, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(range(len(texts)), texts, fontsize=size, parse_math=False)
    axes.tick_params(length=0, pad=2)
