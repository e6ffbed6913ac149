"""``SavedAttribution``: the numbers of an attribution, as they are kept in a folder.

The run that they are of is not kept, so there are no paths, and no edges of single heads.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from dsf.inspection.choice import chosen_layers
from dsf.inspection.results.table import Table
from dsf.runtime.shapes import at_least


@dataclass(frozen=True, eq=False, repr=False)
class SavedAttribution:
    """The numbers of an :class:`~dsf.attribution.Attribution`, without its run.

    Attributes:
        value, tokens, layers, total, embedding, streams, remainder: as for the attribution.
        names: the layers of the inspection, in the order in which they ran.
        by_head: what every head contributes, counted in each of the three ways.
        sums: the edges of every layer, summed over heads, counted in each of the three ways.
    """

    value: Float[Tensor, " sample"]
    tokens: Float[Tensor, "sample read"]
    layers: dict[str, Float[Tensor, " sample"]]
    total: dict[str, Float[Tensor, " sample"]]
    embedding: Float[Tensor, " sample"]
    streams: tuple[Float[Tensor, "sample time"], ...]
    remainder: Float[Tensor, " sample"]
    names: tuple[str, ...]
    by_head: dict[str, Float[Tensor, "sample layer head"]] = field(default_factory=dict)
    sums: dict[str, dict[str, Float[Tensor, "sample query key"]]] = field(default_factory=dict)

    def edge_sums(self, layer: str | int, by: str = "held") -> Float[Tensor, "sample query key"]:
        """Return the edges of a layer, summed over all heads or channels.

        Raises:
            KeyError: if there is no such layer, or it has no edges.
            InspectionError: if a pattern or a number fits no layer.
        """
        (name,) = chosen_layers(list(self.names), layer)
        return self.sums[by][name]

    def heads(self, by: str = "held") -> Float[Tensor, "sample layer head"]:
        """Return what every head contributes, layer by layer; nan where there is none."""
        return self.by_head[by]

    def strongest_edges(self, count: int = 10, *, by: str = "held", sample: int = 0) -> Table:
        """Return the edges with the largest absolute shares, summed over heads or channels.

        Raises:
            ValueError: if ``count`` is less than 1.
        """
        at_least(1, "strongest_edges", "count", count)
        found = []
        for layer, sums in self.sums[by].items():
            edges = sums[sample].numpy()
            for at in np.abs(edges).ravel().argsort()[::-1][:count].tolist():
                query, key = divmod(at, edges.shape[1])
                share = float(edges[query, key])
                found.append({"layer": layer, "query": query, "key": key, "share": share})
        found.sort(key=lambda edge: -abs(edge["share"]))
        return Table(tuple(found[:count]))

    def to_pandas(self) -> Any:
        """Return all shares as a data frame: see :func:`parts`."""
        return parts(self).to_pandas()

    def __repr__(self) -> str:
        values = ", ".join(f"{value:.4g}" for value in self.value.tolist())
        return f"SavedAttribution(value {values}; {self.tokens.shape[1]} tokens)"


def parts(share: Any) -> Table:
    """The shares of an attribution as a table with one record for each token and layer.

    Records have ``sample``, ``part`` (``token``, ``layer``, ``embedding`` or ``remainder``),
    ``name``, ``share``, and for a layer ``total``, along all paths. Tokens and remainder sum to the
    value; so do embedding, layers and remainder.
    """
    records = []
    for sample in range(len(share.value)):
        ends = {"embedding": share.embedding, "remainder": share.remainder}
        records += [
            {"sample": sample, "part": "token", "name": str(place), "share": number}
            for place, number in enumerate(share.tokens[sample].tolist())
        ]
        for name, part in share.layers.items():
            whole = share.total[name][sample].item() if name in share.total else None
            one = {"sample": sample, "part": "layer", "name": name, "share": part[sample].item()}
            records.append({**one, "total": whole})
        records += [
            {"sample": sample, "part": name, "name": "", "share": part[sample].item()}
            for name, part in ends.items()
        ]
    return Table(tuple(records))
