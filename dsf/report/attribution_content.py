"""What a page shows of an attribution: shares of tokens, layers and edges, and strongest paths."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dsf.attribution import Attribution, Paths
from dsf.inspection import InspectedLayer, Inspection
from dsf.inspection.errors import InspectionError
from dsf.report.escaping import escaped
from dsf.report.selection import SAMPLES
from dsf.report.views import MapView, View

EDGES = 12


@dataclass(frozen=True, eq=False)
class Explained:
    """An attribution that a page shows, with words for its number.

    Attributes:
        target: what is shared, such as ``the logit of “Paris”``.
        paths: its strongest paths, if they were searched for.
    """

    share: Attribution
    target: str
    paths: Paths | None = None

    def edge_views(self, layer: InspectedLayer, *, side: int) -> list[MapView]:
        """What the edges of a layer contribute, over all heads or channels; none without edges."""
        if layer.name not in self.share.total:
            return []
        try:
            sums = self.share.edge_sums(layer.name)
        except (InspectionError, KeyError):
            return []
        found = sums[:SAMPLES].double().numpy(force=True)
        return [_view(edges, k, len(found), side) for k, edges in enumerate(found)]

    def content(self) -> dict[str, Any]:
        """Everything but the pictures of edges; the lists of one sample each, of the first four."""
        share = self.share
        samples = range(min(len(share.value), SAMPLES))
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
            "edges": [_edges(share, sample) for sample in samples],
            "paths": None if self.paths is None else _paths(self.paths),
        }


def explained(
    inspection: Inspection | Sequence[Inspection],
    share: Attribution | None,
    target: str,
    paths: Paths | None,
) -> Explained | None:
    """The attribution that belongs to an inspection; None where there is none.

    Raises:
        TypeError: if it is not what ``stack.attribute`` returns.
        ValueError: if it is of other tokens than the inspection, or this is a list.
    """
    if share is None:
        return None
    if not isinstance(share, Attribution):
        raise TypeError(
            "'attribution' must be what stack.attribute(...) returns, but it is "
            f"{type(share).__name__}."
        )
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
    return Explained(share, target, paths)


def _view(edges: np.ndarray, sample: int, samples: int, side: int) -> MapView:
    written, read = edges.shape
    pooled = View(1, written, read, side)
    rows, columns = np.arange(written), np.arange(read)
    later = np.triu(np.ones(edges.shape, dtype=bool), 1) & (edges == 0)
    pooled.add(edges[None], later[None], rows, columns)
    label = "edges" if samples == 1 else f"sample {sample}, edges"
    (view,) = pooled.maps([label], [sample])
    return replace(view, empty_rows=[])


def _edges(share: Attribution, sample: int) -> list[list[Any]]:
    found = share.strongest_edges(EDGES, sample=sample).to_json()
    return [
        [escaped(edge["layer"]), edge["query"], edge["key"], edge["share"]]
        for edge in found
        if edge.get("share") is not None
    ]


def _paths(paths: Paths) -> dict[str, Any]:
    found = paths.to_json()
    for path in found["paths"]:
        for edge in path["edges"]:
            edge["layer"] = escaped(edge["layer"])
    return found
