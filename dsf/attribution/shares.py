"""The numbers of an attribution: what a folder keeps of one, how well they predict cuts, and paths.

A path is a chain from an input token over edges to the number. It stays at a token along the
residual connections, norms and feed-forward layers, and moves to another token along one edge of a
mixer. Every run is the sum of all its paths, whose number grows exponentially with the layers; the
strongest ones are found from the end, the largest share first.
"""

from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.attribution.affine_steps import Functional, Step, adjoints, pulled_back
from dsf.attribution.trace import MixerStep, Trace
from dsf.inspection.choice import chosen_layers
from dsf.inspection.results.table import Record, Table
from dsf.runtime.shapes import at_least

By = Literal["held", "direct", "gradient"]
"""How edges and heads are counted, see ``Attribution``."""
Edges = Float[Tensor, "sample query key"]


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

    def edge_sums(self, layer: str | int, by: By = "held") -> Edges:
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


@dataclass(frozen=True, eq=False)
class Decomposition:
    """What adds to the residual stream of a run before one of its steps.

    Attributes:
        streams: the residual streams up to ``stop``, and their values in the run.
        from_tokens: what the tokens contribute to the results of parts, of mixers, and of their
            sources.
        not_whole: the layers that are not mixers of the run.
        number: of the residual stream that ``stop`` gives; None for the logits.
        constant: the result of ``stop`` where the first stream is zero.
    """

    stop: Step
    streams: tuple[tuple[Step, Tensor], ...]
    parts: tuple[tuple[str, Step], ...]
    mixers: tuple[MixerStep, ...]
    from_tokens: dict[Step, Tensor]
    names: tuple[str, ...]
    not_whole: tuple[str, ...]
    live: Trace
    number: int | None
    constant: Tensor


class Edge(NamedTuple):
    """One edge of a path.

    Attributes:
        layer: the name of its mixer.
        query, key: the token it writes to and the token it reads.
    """

    layer: str
    query: int
    key: int


@dataclass(frozen=True)
class Path:
    """One chain from an input token to the number.

    Attributes:
        token: where it starts.
        edges: what it passes, in the order of the layers; none for the residual stream alone.
        share: what it contributes to the number.
    """

    token: int
    edges: tuple[Edge, ...]
    share: float

    def to_json(self) -> dict[str, Any]:
        """Numbers, strings and lists."""
        edges = [edge._asdict() for edge in self.edges]
        return {"token": self.token, "edges": edges, "share": self.share}


@dataclass(frozen=True, repr=False)
class Paths(Sequence[Path]):
    """The paths that were found, those with the largest absolute shares first.

    Attributes:
        found: the paths.
        total: what all paths together contribute, that is the shares of all tokens.
        continued: how many ends of paths were followed one layer further.
        is_settled: whether the search came to its end: every end of a path that was not followed
            has a share, summed over all ways on from there, below those that were found.
        sample: the sample that they are of.
    """

    found: tuple[Path, ...]
    total: float
    continued: int
    is_settled: bool
    sample: int

    def __getitem__(self, index: Any) -> Any:
        return self.found[index]

    def __len__(self) -> int:
        return len(self.found)

    @property
    def covered(self) -> float:
        """The sum of their shares. The other paths contribute ``total - covered``."""
        return sum((path.share for path in self.found), 0.0)

    def to_json(self) -> dict[str, Any]:
        """Numbers, strings and lists."""
        names = ("total", "covered", "continued", "is_settled", "sample")
        facts = {name: getattr(self, name) for name in names}
        return {**facts, "paths": [path.to_json() for path in self.found]}

    def __repr__(self) -> str:
        return f"Paths({len(self)} with {self.covered:.4g} of {self.total:.4g})"


class _End(NamedTuple):
    """A path as far as it was followed back: to one token of a mixer, or of the first stream.

    ``path`` has the edges after it, and the share of all paths with this end; ``at`` is the mixer.
    """

    path: Path
    at: MixerStep | None
    adjoint: Tensor


def _rank(end: _End) -> float:
    return -abs(end.path.share)


def strongest_paths(
    functional: Functional, into: Decomposition, total: float, sample: int, count: int, most: int
) -> Paths:
    """The paths to a functional of what is decomposed, the largest end followed first.

    What ends with the same edges is one number, the sum over all ways on from there, so that an end
    is followed before others that are smaller as a whole. ``total`` is the shares of all tokens.
    """
    root, first = into.streams[0]
    from_tokens = {root: first} | into.from_tokens
    kept, continued = count + most, 0

    def back(stop: Step, functional: Functional, behind: _End | None = None) -> Iterator[_End]:
        """What the number has directly from each token of the first stream and of mixers."""
        earlier = {each.step: each for each in into.mixers if each.step.number <= stop.number}
        ends = [root, *earlier]
        carried = adjoints(stop, functional, set(ends), ends=set(ends))
        pairs = ((carried[step][sample], from_tokens[step][sample]) for step in ends)
        shares = torch.stack([(by * given).flatten(1).sum(dim=1) for by, given in pairs])
        largest = shares.flatten().abs().topk(min(kept, shares.numel())).indices
        for at in largest.tolist():
            place, token = divmod(at, shares.shape[1])
            share, step = shares[place, token].item(), ends[place]
            passed: tuple[Edge, ...] = ()
            if behind is not None and behind.at is not None:
                passed = Edge(behind.at.name, behind.path.token, token), *behind.path.edges
            if share:
                adjoint = carried[step][sample, token].clone()
                yield _End(Path(token, passed, share), earlier.get(step), adjoint)

    waiting = sorted(back(into.stop, functional), key=_rank)
    found: list[_End] = []
    while waiting and len(found) < count:
        end = waiting[0]
        if end.at is not None and continued == most:
            break
        del waiting[0]
        if end.at is None:
            found.append(end)
            continue
        continued += 1
        given = end.adjoint.new_zeros(end.at.step.shape)
        given[sample, end.path.token] = end.adjoint
        (moved,) = pulled_back(end.at.step, given)
        for each in back(end.at.source, Functional(moved), end):
            insort(waiting, each, key=_rank)
    is_settled = len(found) == count or not waiting
    complete = sorted(found + [end for end in waiting if end.at is None], key=_rank)
    strongest = tuple(end.path for end in complete[:count])
    return Paths(strongest, total, continued, is_settled, sample)
