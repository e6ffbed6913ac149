"""Complex numbers, such as eigenvalues, in the complex plane."""

import numpy as np
from jaxtyping import Shaped
from matplotlib.axes import Axes
from matplotlib.patches import Circle
from torch import Tensor

from dsf.report.plot.drawing_style import array, on, worded
from dsf.runtime.argument_checks import checked


@checked
def complex_plane(
    values: Shaped[Tensor, "..."] | np.ndarray,
    *,
    label: str | None = None,
    title: str = "",
    axes: Axes | None = None,
) -> Axes:
    """Eigenvalues and the unit circle.

    The eigenvalues of A_t depend on the basis of the state. ``by_lag`` and ``spectrum`` show
    quantities that depend on the map alone.

    Args:
        label: a name for these points, if several sets share the axes.

    Example:
        >>> import torch
        >>> axes = complex_plane(torch.tensor([0.5 + 0.5j, 0.5 - 0.5j]))
        >>> axes.get_xlabel(), axes.get_ylabel()
        ('real part', 'imaginary part')
    """
    axes = on(axes)
    numbers = array(values).reshape(-1)
    if not any(isinstance(patch, Circle) for patch in axes.patches):
        axes.add_patch(Circle((0, 0), 1, fill=False, color="#4a4a4a", linewidth=0.8))
    axes.plot(numbers.real, numbers.imag, linestyle="", marker="o", alpha=0.6, label=label)
    axes.set_aspect("equal", adjustable="datalim")
    if label is not None:
        axes.legend()
    return worded(axes, title=title, x="real part", y="imaginary part")
