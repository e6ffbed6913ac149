"""Pictures of a layer other than its maps: all channels together, and the edges of an attribution.

Their rows and columns are tokens, or groups of neighbours where the layer is wide or the sequence
long; those of channels have the numbers of ``layer.contribution_norms``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from dsf.attribution import Agreement, Attribution, Paths
from dsf.inspection import InspectedLayer, Inspection
from dsf.inspection.errors import InspectionError
from dsf.inspection.whole.affine_layer import group_bounds
from dsf.report.escaping import escaped
from dsf.report.selection import SAMPLES, has_channels, remembered
from dsf.report.views import MapView, Strongest, View
from dsf.systems.composite import ExplicitMap, SystemSum

MOST_WORK = 2**16
"""The largest number of groups times channels; the time grows with its square."""

FEWEST = 48
"""Groups that are formed even of very wide layers."""


@dataclass(frozen=True)
class LayerPicture:
    """The pictures of one layer, one for each sample."""

    views: list[MapView]
    channels: int
    total: int
    onto: str


def layer_picture(layer: InspectedLayer, *, side: int) -> LayerPicture | None:
    """How strongly tokens act on each other through all, or the chosen, channels; None of heads."""
    system = layer.system
    groups = groups_of(layer, side=side)
    if groups is None:
        return None
    has_samples = layer.axes[0] == "sample"
    channels = prod(system.batch[int(has_samples) :])
    samples = system.batch[0] if has_samples else 1
    bounds = group_bounds(system.steps, groups)
    parts = system.parts if isinstance(system, SystemSum) else (system,)
    ways = {bool(getattr(part, "runs_backward", False)) for part in parts}
    hidden = np.zeros((groups, groups), dtype=bool)  # zero for all coefficients
    if len(ways) == 1:
        later = np.triu(np.ones((groups, groups), dtype=bool), 1)
        hidden = later.T if ways.pop() else later
    words = "channels" if layer.heads is None else "chosen channels"
    label = f"all {channels} {words}" if channels > 1 else "the only channel"
    views = [
        _view(label if samples == 1 else f"sample {k}, {label}", k, each, hidden, bounds)
        for k, each in enumerate(lengths_of(layer, groups))
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
        strongest=strongest.links,
        column_sums=columns,
        row_sums=norms.sum(axis=1),
        empty_rows=[last for last, row in zip(ends.tolist(), norms, strict=True) if not row.any()],
        nans=int(np.isnan(norms).sum()),
        infinities=int(np.isinf(norms).sum()),
    )


EDGES = 12


@dataclass(frozen=True, eq=False)
class Explained:
    """An attribution that a page shows, with words for its number."""

    share: Attribution
    target: str
    paths: Paths | None
    agreement: Agreement | None
    cuts: Mapping[int, float] | None

    def edge_views(self, layer: InspectedLayer, *, side: int) -> list[MapView]:
        """What the edges of a layer contribute, over all heads or channels; none without edges."""
        if layer.name not in self.share.total:
            return []
        try:
            sums = self.share.edge_sums(layer.name)
        except (InspectionError, KeyError):
            return []
        found = sums[:SAMPLES].double().numpy(force=True)
        count, written, read = found.shape
        pooled = View(count, written, read, side)
        later = np.triu(np.ones(found.shape, dtype=bool), 1) & (found == 0)
        pooled.add(found, later, np.arange(written), np.arange(read))
        labels = ["edges"] if count == 1 else [f"sample {k}, edges" for k in range(count)]
        return [replace(view, empty_rows=[]) for view in pooled.maps(labels, range(count))]

    def content(self) -> dict[str, Any]:
        """Everything but the pictures of edges; the lists of one sample each, of the first four."""
        share = self.share
        samples = range(min(len(share.value), SAMPLES))
        paths = None if self.paths is None else self.paths.to_json()
        for path in paths["paths"] if paths else ():
            for edge in path["edges"]:
                edge["layer"] = escaped(edge["layer"])
        return {
            "target": escaped(self.target),
            "value": share.value[:SAMPLES].tolist(),
            "remainder": share.remainder[:SAMPLES].tolist(),
            "tokens": share.tokens[:SAMPLES].tolist(),
            "layers": [
                [escaped(name), share.layers[name][:SAMPLES].tolist(), total[:SAMPLES].tolist()]
                for name, total in share.total.items()
                if name in share.layers
            ],
            "edges": [
                [
                    [escaped(edge["layer"]), edge["query"], edge["key"], edge["share"]]
                    for edge in share.strongest_edges(EDGES, sample=sample).to_json()
                    if edge.get("share") is not None
                ]
                for sample in samples
            ],
            "paths": paths,
            "agreement": None if self.agreement is None else self.agreement.to_json(),
            "cuts": self.cuts or None,
        }


def explained(
    inspection: Inspection | Sequence[Inspection],
    share: Attribution | None,
    target: str,
    paths: Paths | None,
    agreement: Agreement | None,
    cuts: Mapping[int, float] | None,
) -> Explained | None:
    if share is None:
        return None
    if not isinstance(inspection, Inspection):
        raise ValueError(
            "'attribution' is of one model, but 'result' is a list. Pass a single inspection."
        )
    counts = {layer.system.steps for layer in inspection}
    tokens = share.tokens.shape[1]
    if tokens not in counts:
        raise ValueError(
            f"'attribution' is of {tokens} tokens, but the layers of 'result' have "
            f"{sorted(counts)}. Attribute and inspect on the same input."
        )
    return Explained(share, target, paths, agreement, cuts)
