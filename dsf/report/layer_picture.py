"""One picture of a layer whose channels have a map each: what tokens do through all of them.

The rows and columns are tokens, or groups of neighbours where the layer is wide or the sequence
long; the numbers are those of ``layer.contribution_norms``.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
from jaxtyping import Bool, Float

from dsf.inspection import InspectedLayer
from dsf.inspection.whole.affine_layer import group_bounds
from dsf.report.selection import SAMPLES, has_channels, remembered
from dsf.report.views import MapView, Strongest
from dsf.systems.composite import ExplicitMap, SystemSum

MOST_WORK = 2**16
"""The largest number of groups times channels; the time grows with its square."""

FEWEST = 48
"""Groups that are formed even of very wide layers."""


@dataclass(frozen=True)
class LayerPicture:
    """The pictures of one layer, one for each sample.

    Attributes:
        views: the lengths of contributions.
        channels, total: how many channels act together, and how many the layer has.
        onto: what is contributed to, in words.
    """

    views: list[MapView]
    channels: int
    total: int
    onto: str


def layer_picture(layer: InspectedLayer, *, side: int) -> LayerPicture | None:
    """How strongly tokens act on each other through all channels; None for layers of heads.

    Of a layer with chosen channels, these alone act.

    Args:
        side: the largest number of rows and columns.

    Raises:
        ReconstructionError: if the whole layer does not reproduce the captured output.
    """
    system = layer.system
    groups = groups_of(layer, side=side)
    if groups is None:
        return None
    has_samples = layer.axes[0] == "sample"
    channels = prod(system.batch[int(has_samples) :])
    samples = system.batch[0] if has_samples else 1
    together = lengths_of(layer, groups)
    bounds = group_bounds(system.steps, groups)
    hidden = _hidden(layer, groups)
    words = "channels" if layer.heads is None else "chosen channels"
    label = f"all {channels} {words}" if channels > 1 else "the only channel"
    views = [
        _view(label if samples == 1 else f"sample {k}, {label}", k, each, hidden, bounds)
        for k, each in enumerate(together)
    ]
    total = prod(layer.mixer.system().batch[int(has_samples) :])
    return LayerPicture(views, channels, total, layer.contributes_to)


def groups_of(layer: InspectedLayer, *, side: int) -> int | None:
    """How many groups of tokens are drawn; None of a layer that has no such picture."""
    system = layer.system
    if not has_channels(layer) or isinstance(system, ExplicitMap):
        return None
    channels = prod(system.batch[int(layer.axes[0] == "sample") :])
    return min(system.steps, side, max(MOST_WORK // channels, FEWEST))


def lengths_of(layer: InspectedLayer, groups: int) -> Float[np.ndarray, "sample rows columns"]:
    """What groups of tokens contribute to each other through all channels of the first samples."""
    norms = remembered(layer, groups, lambda: layer.contribution_norms(groups=groups))
    return norms[:SAMPLES].numpy(force=True)


def _view(
    label: str, sample: int, norms: np.ndarray, hidden: Bool[np.ndarray, "_ _"], bounds: list[int]
) -> MapView:
    starts, ends = np.array(bounds[:-1]), np.array(bounds[1:]) - 1
    strongest = Strongest()
    strongest.add(norms, ends, starts)
    columns = np.zeros(bounds[-1])
    columns[starts] = norms.sum(axis=0)
    return MapView(
        label=label,
        sample=sample,
        weights=norms,
        masked=hidden,
        strongest=strongest.links(),
        column_sums=columns,
        row_sums=norms.sum(axis=1),
        empty_rows=[last for last, row in zip(ends.tolist(), norms, strict=True) if not row.any()],
        nans=int(np.isnan(norms).sum()),
        infinities=int(np.isinf(norms).sum()),
        complex_=False,
        signed=False,
    )


def _hidden(layer: InspectedLayer, groups: int) -> Bool[np.ndarray, "_ _"]:
    """Return where contributions are zero for all coefficients: to tokens before, or after."""
    system = layer.system
    parts = system.parts if isinstance(system, SystemSum) else (system,)
    ways = {bool(getattr(part, "runs_backward", False)) for part in parts}
    if len(ways) > 1:
        return np.zeros((groups, groups), dtype=bool)
    later = np.triu(np.ones((groups, groups), dtype=bool), 1)
    return later.T if ways.pop() else later
