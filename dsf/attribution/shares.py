"""The numbers of an attribution: what a folder keeps of one, and how well they predict cuts."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from dsf.inspection.choice import chosen_layers
from dsf.inspection.results.table import Record, Table
from dsf.runtime.shapes import at_least

By = Literal["held", "direct", "gradient"]
"""How edges and heads are counted, see ``Attribution``."""


@dataclass(frozen=True, eq=False, repr=False)
class Shares:
    """The shares of one number in a run of a model, by token and by layer.

    Attributes:
        value: the number that is attributed.
        tokens: what each token of the first residual stream contributes, along all paths.
        layers: what each token mixer and every other branch (such as a feed-forward layer) adds to
            the residual stream, *directly*: along residual connections alone.
        total: the same along all paths, through later layers too. Shares of layers that feed each
            other overlap, so these do not sum to the value.
        embedding: what the first residual stream contributes directly.
        streams: for every residual stream what each of its tokens contributes along all paths.
            Their sums differ from the value by what biases in later layers contribute.
        remainder: the part that does not come from the tokens.
    """

    value: Float[Tensor, " sample"]
    tokens: Float[Tensor, "sample read"]
    layers: dict[str, Float[Tensor, " sample"]]
    total: dict[str, Float[Tensor, " sample"]]
    embedding: Float[Tensor, " sample"]
    streams: tuple[Float[Tensor, "sample time"], ...]
    remainder: Float[Tensor, " sample"]

    def to_pandas(self) -> Any:
        """Return the shares of tokens and layers as a data frame.

        Rows have ``sample``, ``part`` (``token``, ``layer``, ``embedding`` or ``remainder``),
        ``name``, ``share``, and for a layer ``total``, along all paths. Tokens and remainder sum
        to the value; so do embedding, layers and remainder.

        Raises:
            ModuleNotFoundError: if pandas is not installed.
        """
        records: list[Record] = []
        for sample in range(len(self.value)):
            rows = [("token", str(at), share) for at, share in enumerate(self.tokens[sample])]
            rows += [("layer", name, part[sample]) for name, part in self.layers.items()]
            rows.append(("embedding", "", self.embedding[sample]))
            rows.append(("remainder", "", self.remainder[sample]))
            for kind, name, share in rows:
                record = {"sample": sample, "part": kind, "name": name, "share": share.item()}
                if kind == "layer":
                    record["total"] = self.total[name][sample].item()
                records.append(record)
        return Table(tuple(records)).to_pandas()

    def __repr__(self) -> str:
        values = ", ".join(f"{value:.4g}" for value in self.value.tolist())
        return f"{type(self).__name__}(value {values}; {self.tokens.shape[1]} tokens)"


@dataclass(frozen=True, eq=False, repr=False)
class SavedAttribution(Shares):
    """The numbers of an :class:`~dsf.attribution.Attribution`, without its run.

    The run is not kept, so there are no paths, and no edges of single heads.

    Attributes:
        names: the layers of the inspection, in the order in which they ran.
        by_head: what every head contributes, counted in each of the three ways.
        sums: the edges of every layer, summed over heads, counted in each of the three ways.
    """

    names: tuple[str, ...]
    by_head: dict[str, Float[Tensor, "sample layer head"]] = field(default_factory=dict)
    sums: dict[str, dict[str, Float[Tensor, "sample query key"]]] = field(default_factory=dict)

    def edge_sums(self, layer: str | int, by: By = "held") -> Float[Tensor, "sample query key"]:
        """Return the edges of a layer, summed over all heads or channels.

        Raises:
            KeyError: if there is no such layer, or it has no edges.
            InspectionError: if a pattern or a number fits no layer.
        """
        (name,) = chosen_layers(list(self.names), layer)
        return self.sums[by][name]

    def heads(self, by: By = "held") -> Float[Tensor, "sample layer head"]:
        """Return what every head contributes, layer by layer; nan where there is none."""
        return self.by_head[by]

    def strongest_edges(self, count: int = 10, *, by: By = "held", sample: int = 0) -> Table:
        """Return the edges with the largest absolute shares, summed over heads or channels.

        Raises:
            ValueError: if ``count`` is less than 1.
        """
        at_least(1, "strongest_edges", "count", count)
        sums = ((layer, each[sample]) for layer, each in self.sums[by].items())
        return Table(tuple(largest_edges(sums, count)))


def largest_edges(
    sums: Iterable[tuple[str, Float[Tensor, "query key"]]], count: int
) -> list[Record]:
    """Return the edges with the largest absolute shares of all layers, the largest first."""
    found: list[Record] = []
    for layer, edges in sums:
        flat = edges.flatten()
        for at in flat.abs().topk(min(count, flat.numel())).indices.tolist():
            query, key = divmod(at, edges.shape[1])
            found.append({"layer": layer, "query": query, "key": key, "share": flat[at].item()})
    return sorted(found, key=lambda edge: -abs(edge["share"]))[:count]


@dataclass(frozen=True, repr=False)
class Agreement:
    """How well the shares of edges predict what is lost when they are cut.

    Attributes:
        edges: for every edge that was cut ``layer``, ``query``, ``key``, its shares ``held`` and
            ``gradient``, and what was lost without it, ``measured``.
    """

    edges: Table

    def spearman(self, by: By) -> float:
        """Return the rank correlation of shares and losses."""
        from scipy.stats import spearmanr

        return float(spearmanr(*self._both(by)).statistic)

    def pearson(self, by: By) -> float:
        """Return the linear correlation of shares and losses."""
        return float(np.corrcoef(*self._both(by))[0, 1])

    def to_json(self) -> dict[str, int | float]:
        """Return how many edges were cut, and both rank correlations."""
        return {"cuts": len(self.edges)} | {way: self.spearman(way) for way in ("held", "gradient")}

    def _both(self, by: By) -> tuple[list[float], list[float]]:
        return [edge[by] for edge in self.edges], [edge["measured"] for edge in self.edges]

    def __repr__(self) -> str:
        found = "; ".join(
            f"{by}: rank correlation {self.spearman(by):.2f}, linear {self.pearson(by):.2f}"
            for by in ("held", "gradient")
        )
        return f"Agreement({len(self.edges)} edges cut; {found})"
