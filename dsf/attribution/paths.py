"""The strongest paths of an attribution: chains from an input token over edges to the number.

A path stays at a token along the residual connections, norms and feed-forward layers, and moves to
another token along one edge of a mixer. Every run is the sum of all its paths, whose number grows
exponentially with the layers; the strongest ones are found from the end, the largest share first.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count as counted
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dsf.attribution.affine_steps import Functional, Step, adjoints, pulled_back, replayed
from dsf.attribution.trace import LiveRun, MixerStep


@dataclass(frozen=True, eq=False)
class Decomposition:
    """What adds to the residual stream of a run before one of its steps.

    Attributes:
        streams: the residual streams up to ``stop``, and their values in the run.
        from_tokens: what the tokens contribute to the results of parts, of mixers, and of their
            sources.
        not_whole: the layers that are not mixers of the run.
        number: of the residual stream that ``stop`` gives; None for the logits.
    """

    stop: Step
    streams: tuple[tuple[Step, Tensor], ...]
    parts: tuple[tuple[str, Step], ...]
    mixers: tuple[MixerStep, ...]
    from_tokens: dict[Step, Tensor]
    names: tuple[str, ...]
    not_whole: tuple[str, ...]
    live: LiveRun
    number: int | None

    @cached_property
    def constant(self) -> Tensor:
        """The result of ``stop`` where the first stream is zero."""
        root, first = self.streams[0]
        result = replayed({root: None}, [self.stop], constants=True)[self.stop]
        return first.new_zeros(()).expand(self.stop.shape) if result is None else result[0]


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
        return {
            "total": self.total,
            "covered": self.covered,
            "continued": self.continued,
            "is_settled": self.is_settled,
            "sample": self.sample,
            "paths": [path.to_json() for path in self.found],
        }

    def __repr__(self) -> str:
        return f"Paths({len(self)} with {self.covered:.4g} of {self.total:.4g})"


class _End(NamedTuple):
    """A path as far as it was followed back: to one token of a mixer, or of the first stream.

    ``rank`` is minus the absolute share of all paths with this end; ``path`` has the edges after
    it; ``at`` is the mixer.
    """

    rank: float
    number: int
    path: Path
    at: MixerStep | None
    adjoint: Tensor


def strongest_paths(
    functional: Functional, into: Decomposition, total: float, sample: int, count: int, most: int
) -> Paths:
    """The paths to a functional of what is decomposed, the largest end followed first.

    What ends with the same edges is one number, the sum over all ways on from there, so that an end
    is followed before others that are smaller as a whole. ``total`` is the shares of all tokens.
    """
    root, first = into.streams[0]
    from_tokens = {root: first} | into.from_tokens
    numbers, kept, continued = counted(), count + most, 0

    def back(
        stop: Step, functional: Functional, layer: str, query: int, edges: tuple[Edge, ...]
    ) -> Iterator[_End]:
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
            if share:
                passed = (Edge(layer, query, token), *edges) if layer else ()
                adjoint = carried[step][sample, token].clone()
                path = Path(token, passed, share)
                yield _End(-abs(share), next(numbers), path, earlier.get(step), adjoint)

    waiting = list(back(into.stop, functional.of_sample(sample), "", 0, ()))
    heapq.heapify(waiting)
    found: list[_End] = []
    while waiting and len(found) < count:
        end = waiting[0]
        if end.at is not None and continued == most:
            break
        heapq.heappop(waiting)
        if end.at is None:
            found.append(end)
            continue
        continued += 1
        given = end.adjoint.new_zeros(end.at.step.shape)
        given[sample, end.path.token] = end.adjoint
        (moved,) = pulled_back(end.at.step, given)
        behind = Functional(moved, moved.shape)
        for each in back(end.at.source, behind, end.at.name, end.path.token, end.path.edges):
            heapq.heappush(waiting, each)
    is_settled = len(found) == count or not waiting
    complete = found + [end for end in waiting if end.at is None]
    strongest = tuple(end.path for end in heapq.nsmallest(count, complete))
    return Paths(strongest, total, continued, is_settled, sample)
