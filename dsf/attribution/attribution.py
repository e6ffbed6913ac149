"""``Attribution``: how much each token, layer and edge of a run contributed to one number.

The run is affine (:mod:`dsf.attribution.affine_steps`), so that a logit is an inner product with
the first residual stream plus a remainder. One adjoint pass gives the shares of everything between.
They hold all factors (softmax, gates, norms) and sum to the number. What happens *without* an edge
or a head is another question: to first order its gradient times what it adds, which is one backward
pass of the model itself.
"""

import math
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import NoReturn, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dsf.attribution.affine_steps import Functional, adjoints, paired
from dsf.attribution.shares import (
    Agreement,
    By,
    Decomposition,
    Edges,
    Paths,
    SavedAttribution,
    Shares,
    largest_edges,
    strongest_paths,
)
from dsf.attribution.trace import MixerStep, result_of
from dsf.evaluate import respond
from dsf.evaluate.memory_plan import check_room
from dsf.inspection.choice import Chosen, chosen_heads, chosen_layers
from dsf.inspection.errors import InspectionError, ReconstructionError, UnreadableError
from dsf.inspection.results.saving import save
from dsf.inspection.results.table import Record, Table
from dsf.inspection.whole.stages import WholeMixer, as_tokens, as_values
from dsf.measures.erasers import spared_pairs
from dsf.runtime.argument_checks import is_index
from dsf.runtime.shapes import at_least, of_kind
from dsf.systems.coefficient import TokenSlots
from dsf.systems.system import System

SUM_TOL = 1e-9
"""Maximum relative difference between all shares and their number, where the layers are exact."""
MAX_INTEGRATED = 10
"""Maximum number of edges whose gradient is averaged from cut to whole."""
LEAST = {"count": 1, "most": 1, "steps": 0, "edits": 2}
"""Minimum values of numbers that methods take."""
MAX_ENTRIES = 2**24
"""Maximum number of entries of maps that are held at once where edges are summed over channels."""


@dataclass(frozen=True, eq=False, repr=False)
class Attribution(Shares):
    """The shares of one number, such as a logit, in a run of a model.

    All shares are of *this run*: queries and keys, decays, gates, activations and the factors of
    norms are held at their values. Every share counts what comes from the tokens; what comes from
    biases and first states is the remainder. Two sums are exact, for every sample:

    - ``tokens.sum(-1) + remainder == value``
    - ``embedding + sum(layers.values()) + remainder == value``

    Edges and heads are counted in three ways, ``by=``:

    - ``"held"``: their shares, along all paths, with all factors held. They sum to ``total``.
    - ``"direct"``: the same along residual connections alone. They sum to ``layers``.
    - ``"gradient"``: what is lost without them, to first order: the gradient of the number, through
      softmax, gates and norms, times what they add to the response, biases of values included. Use
      it for questions of the form "what happens without", and :meth:`agreement` for how far it can
      be trusted. A token that is cut in all layers at once loses another number than the sum of its
      edges: ``dsf.intervene`` measures it.

    Attributes:
        value, tokens, layers, total, embedding, streams, remainder: as for ``Shares``.
    """

    _mixed: dict[str, "MixerShares"]
    _size: Float[Tensor, " sample"]
    _into: Decomposition
    _functional: Functional
    _chosen: tuple[Chosen, Chosen] = (None, None)
    _unit: str = ""

    @property
    def error(self) -> float:
        """By how much one of the two sums misses the value, relative; the larger of both.

        Relative to the sum of the absolute shares, or of the absolute terms of the value if that is
        larger, since a value near zero is a sum of large ones.
        """
        errors = []
        for shares in (self.tokens, torch.stack([self.embedding, *self.layers.values()], dim=-1)):
            size = torch.maximum(shares.abs().sum(dim=-1) + self.remainder.abs(), self._size)
            missed = (shares.sum(dim=-1) + self.remainder - self.value).abs()
            errors.append((missed / size.clamp_min(torch.finfo(size.dtype).tiny)).max().item())
        return max(errors)

    def edges(self, layer: str | int, by: By = "held") -> Float[Tensor, "*batch written read"]:
        """Return what every edge of a layer contributes: a token's value, mixed into another.

        It is ``map[query, key] <adjoint at query, value at key>``, where the adjoint says by
        how much the mixed value moves the number. With ``by="held"`` biases are not part of the
        value; with ``by="gradient"`` they are, since an edge that is cut takes them along.

        Args:
            layer: a name, a number in the order in which the layers ran, or a pattern of one layer
                such as ``"*.3.*"``.
            by: ``"held"``, ``"direct"`` or ``"gradient"``.

        Returns:
            The axes of the layer's map: ``sample head query key``, or channels in place of heads
            for a mixer with a map for each channel.

        Raises:
            KeyError: if there is no such layer, or it was not recorded as a whole layer.
            InspectionError: if the mixer has no map with one column for each token, what enters
                and leaves it is not known as linear maps of the stream, or it adds nothing to the
                stream directly.
            MapTooLarge: if they would take more than half of the free memory; see ``edge_sums``.
        """
        return self._of(layer).edges(*self._ends(layer, by))

    def edge_sums(self, layer: str | int, by: By = "held", heads: Chosen = None) -> Edges:
        """Return the sum of the edges over all heads or channels, a few rows at a time.

        Args:
            heads: which heads or channels are summed, as for ``dsf.inspect``; all by default.

        Raises:
            KeyError, InspectionError: as for ``edges``; InspectionError also for a head that the
                layer does not have.
        """
        return self._of(layer).edge_sums(*self._ends(layer, by), heads)

    def heads(self, by: By = "held") -> Float[Tensor, "sample layer head"]:
        """Return what every head contributes, layer by layer in the order in which they ran.

        A head of a mixer with a map for each channel is a channel. With ``by="gradient"`` it is
        what is lost, to first order, where the response of the head is zero.

        Returns:
            One row for every layer of the inspection: nan where a layer has fewer heads than
            another, or no shares.
        """
        rows = []
        for name in self._into.names:
            try:
                rows.append(self._of(name).heads(*self._ends(name, by)))
            except (KeyError, InspectionError):
                rows.append(self.value.new_zeros(len(self.value), 0))
        return pad_sequence([row.mT for row in rows], padding_value=math.nan).permute(2, 1, 0)

    def adjoint(self, layer: str | int, by: By = "gradient") -> Tensor:
        """Return the derivative of the number by the response of a layer's mixer.

        Returns:
            The axes of the mixer's values.

        Raises:
            KeyError, InspectionError: as for ``edges``.
        """
        return self._ends(layer, by)[0]

    def strongest_edges(
        self, count: int = 10, *, by: By = "held", sample: int = 0, steps: int = 4
    ) -> Table:
        """Return the edges with the largest absolute shares, summed over heads or channels.

        Each record has ``layer``, ``query``, ``key`` and ``share``. A mixer without edges follows
        as a record with a ``note``. Edges are those of the layers and heads that ``dsf.attribute``
        was called with.

        Args:
            count: how many, at least 1.
            by: as for ``edges``.
            sample: of which sample.
            steps: with ``by="gradient"`` the ten strongest are sorted by ``integrated``, the
                gradient averaged over so many points of the way from the cut edge to the whole one,
                each a run of the model with a backward pass; 0 leaves it out.

        Raises:
            ValueError: if ``count`` is less than 1, or ``steps`` less than 0.
            IndexError: if there is no such sample.
        """
        self._check("strongest_edges", sample, count=count, steps=steps)
        layers, heads = self._chosen
        names = chosen_layers(list(self._into.names), layers)
        sums: list[tuple[str, Tensor]] = []
        without: list[Record] = []
        for name in (each for each in self._mixed if each in names):
            try:
                sums.append((name, self.edge_sums(name, by, heads)[sample]))
            except InspectionError:
                if heads is not None:  # perhaps there is no such head
                    raise
                note = "no edges: its channels feed back into each other"
                without.append({"layer": name, "note": note})
        # What is integrated is of an edge in all heads.
        found = self._ranked(
            largest_edges(sums, count), count, by, sample, 0 if heads is not None else steps
        )
        note = "no edges: what enters and leaves its mixer is not known as linear maps"
        without += [{"layer": name, "note": note} for name in self._into.not_whole if name in names]
        return Table((*found, *without))

    def strongest_heads(
        self, count: int = 10, *, by: By = "held", sample: int = 0, steps: int = 4
    ) -> Table:
        """Return the heads, or channels, with the largest absolute shares of all mixers.

        Each record has ``layer``, ``head`` and ``share``.

        Args:
            count, by, sample, steps: as for ``strongest_edges``.

        Raises:
            ValueError, IndexError: as for ``strongest_edges``.
        """
        self._check("strongest_heads", sample, count=count, steps=steps)
        shares = self.heads(by)[sample]
        found: list[Record] = [
            {"layer": self._into.names[row], "head": head, "share": shares[row, head].item()}
            for row, head in (~shares.isnan()).nonzero().tolist()
        ]
        return Table(tuple(self._ranked(found, count, by, sample, steps)))

    @torch.inference_mode(False)
    def forgotten(self, count: int = 10, *, sample: int = 0) -> Table:
        """Return what the number lacks most since one token erased what an earlier one had written.

        Each record has ``layer``, ``key`` (the token that was erased), ``token`` (the eraser),
        ``share`` (what the number would gain, to first order, had the token let the trace of the
        key pass unchanged) and its parts ``decay`` and ``overwriting``, summed over heads or
        channels. ``dsf.edits.Protect(layer, key=key, from_=token)`` measures it. Tokens are those
        of the mixer, behind any short convolution. Layers without a state erase nothing.

        Raises:
            ValueError: if ``count`` is less than 1.
            IndexError: if there is no such sample.
        """
        self._check("forgotten", sample, count=count)
        found: list[Record] = []
        without: list[Record] = []
        for name, mixed in self._mixed.items():
            try:
                moved, _ = self._ends(name, "gradient")
                parts = mixed.forgotten(moved)
            except InspectionError:
                note = "no gradient at its response: its channels feed back into each other"
                without.append({"layer": name, "note": note})
                continue
            if parts is None:
                continue
            decay, overwriting = (part[sample] for part in parts)
            for edge in largest_edges([(name, decay + overwriting)], count):
                token, key, share = edge["query"], edge["key"], edge["share"]
                split = {"decay": decay[token, key], "overwriting": overwriting[token, key]}
                record = {"layer": name, "key": key, "token": token, "share": share}
                if share:  # a token erases earlier ones only
                    found.append(record | {part: value.item() for part, value in split.items()})
        found.sort(key=lambda record: -abs(record["share"]))
        return Table((*found[:count], *without))

    def _ranked(
        self, found: list[Record], count: int, by: By, sample: int, steps: int
    ) -> list[Record]:
        """The largest edges or heads; by gradient the first with the mean from cut to whole."""
        found = sorted(found, key=lambda one: -abs(one["share"]))[:count]
        if by != "gradient" or not steps:
            return found
        first, rest = found[:MAX_INTEGRATED], found[MAX_INTEGRATED:]
        points, weights = np.polynomial.legendre.leggauss(steps)
        for one in first:
            one["integrated"] = 0.0
            for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
                with torch.inference_mode(False), torch.enable_grad():
                    cut = self.value.new_tensor(point).requires_grad_()
                    (slope,) = torch.autograd.grad(self._without(one, cut, sample)[sample], cut)
                one["integrated"] -= float(weight) * slope.item()
        return [*sorted(first, key=lambda one: -abs(one["integrated"])), *rest]

    @torch.inference_mode(False)
    def agreement(self, edits: int = 40, *, sample: int = 0) -> Agreement:
        """Cut edges one by one, and compare what is lost with their shares.

        Half of the edges are the strongest by gradient, the others are drawn at random among those
        that can contribute. Every cut is a run of the model in float64.

        Args:
            edits: how many edges are cut, at least 2.
            sample: of which sample.

        Raises:
            ValueError: if ``edits`` is less than 2.
            IndexError: if there is no such sample.
        """
        self._check("agreement", sample, edits=edits)
        every: list[Record] = []
        for name in self._mixed:
            try:
                sums = {by: self.edge_sums(name, by)[sample] for by in ("held", "gradient")}
            except InspectionError:
                continue
            for query, key in sums["gradient"].nonzero().tolist():
                shares = {by: each[query, key].item() for by, each in sums.items()}
                every.append({"layer": name, "query": query, "key": key, **shares})
        every.sort(key=lambda edge: -abs(edge["gradient"]))
        rest = every[edits - edits // 2 :]
        order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(0)).tolist()
        chosen = every[: edits - edits // 2] + [rest[at] for at in order[: edits // 2]]
        with torch.no_grad():
            for edge in chosen:
                lost = self.value - self._without(edge, 1.0, sample)
                edge["measured"] = lost[sample].item()
        return Agreement(Table(tuple(chosen)))

    def _without(self, part: Record, cut: Tensor | float, sample: int) -> Tensor:
        """The number where an edge or head of one sample is taken away in part; 1 for all of it."""
        name = part["layer"]
        changed = self._mixed[name].without(part, cut, sample)
        return self._functional.pair(self._into.live.result({name: changed}, self._into.number))

    @cached_property
    def _gradients(self) -> dict[str, Tensor]:
        """The gradient of the number at the output of every mixer, by one backward pass."""
        live = self._into.live
        wanted = [mixed.mixer for name, mixed in self._mixed.items() if name in live.places]
        with torch.inference_mode(False), torch.enable_grad():
            nothing = {
                mixer.name: torch.zeros_like(result_of(mixer.whole)).requires_grad_()
                for mixer in wanted
            }
            value = self._functional.pair(live.result(nothing, self._into.number))
            given = [*nothing.values()]
            found = torch.autograd.grad(value.sum(), given, materialize_grads=True)
        missed = ((value.detach() - self.value).abs() / self._size.clamp_min(1e-300)).max().item()
        if not missed <= SUM_TOL:
            raise ReconstructionError(
                f"attribute: the model gives another number when it runs again, by {missed:.1e} "
                "relative. Does it draw random numbers, or keep a state between runs?",
                missed,
            )
        return dict(zip(nothing, found, strict=True))

    def _ends(self, layer: str | int, by: By) -> tuple[Tensor, Tensor]:
        """The adjoint at the response of a mixer, and its values, in the axes of the values."""
        mixed = self._of(layer)
        name = mixed.mixer.name
        if by == "held":
            return mixed.moved(mixed.adjoint), mixed.values()
        if by == "direct":
            if mixed.direct is None:
                raise InspectionError(
                    f"edges: {name} is inside of another branch, so it adds nothing to the stream "
                    "directly. Use by='held' or by='gradient'."
                )
            return mixed.moved(mixed.direct), mixed.values()
        if by != "gradient":
            raise ValueError(
                f"edges: 'by' must be 'held', 'direct' or 'gradient', but it is {by!r}."
            )
        if name not in self._gradients:
            raise InspectionError(
                f"edges: the output of {name} is not that of one module, so its gradient is not "
                "known. Use by='held'."
            )
        return mixed.moved(self._gradients[name], truly=True), mixed.whole().mixer.value

    @torch.inference_mode(False)
    def paths(self, count: int = 10, *, sample: int = 0, most: int = 200) -> Paths:
        """The paths from a token over edges to the number that have the largest absolute shares.

        A path stays at a token along residual connections, norms and feed-forward layers, and moves
        along one edge of each mixer that it passes, summed over its heads or channels, and of the
        whole layer: short convolutions included. The sum over all paths is ``tokens.sum()``.

        They are searched for from the end, the largest share first. Where shares of both signs
        cancel behind an end, a path there may be larger than the end and not be found.

        Args:
            count: how many paths, at least 1.
            sample: of which sample.
            most: how many ends are followed at most. Each costs an adjoint pass through the layers
                before it.

        Raises:
            ValueError: if ``count`` or ``most`` is less than 1.
            IndexError: if there is no such sample.
        """
        self._check("paths", sample, count=count, most=most)
        total, number = self.tokens[sample].sum().item(), sample % len(self.value)
        return strongest_paths(self._functional, self._into, total, number, count, most)

    def _check(self, asked: str, sample: int, **numbers: int) -> None:
        for name, number in numbers.items():
            at_least(LEAST[name], asked, name, number)
        of_kind(asked, "sample", sample, is_index, "a whole number")
        samples = len(self.value)
        if not -samples <= sample < samples:
            raise IndexError(f"{asked}: sample={sample}, but there are {samples} samples.")

    def _of(self, layer: str | int) -> "MixerShares":
        chosen = [layer] if layer in self._into.names else []  # and not its further calls
        if not chosen:
            with suppress(InspectionError):
                chosen = sorted(chosen_layers(self._into.names, layer))
        if len(chosen) == 1 and chosen[0] in self._mixed:
            return self._mixed[chosen[0]]
        if len(chosen) == 1 and chosen[0] in self._into.not_whole:
            raise InspectionError(
                f"edges: what enters and leaves the mixer of {chosen[0]} is not known as linear "
                "maps of the stream, so it has no edges. Its map is stack.inspection[name].map(), "
                "and 'layers' has what the modules in it contribute. If the call continued a "
                "cache, attribute the whole sequence, whose last rows are those of this step."
            )
        raise KeyError(
            f"edges: 'layer' must be one layer, but {layer!r} is {len(chosen)}; there are "
            f"{', '.join(self._mixed) or 'none'}"
        )

    def save(self, folder: str | Path) -> Path:
        """Write the numbers of this attribution into a folder; ``dsf.load`` returns them.

        Kept are the shares of tokens, layers and heads, and the edges summed over heads. Paths and
        the edges of single heads are computed from the run, which is not kept.
        """
        sums: dict[str, dict[str, Tensor]] = {}
        for by in get_args(By):
            sums[by] = {}
            for name in self._mixed:
                with suppress(KeyError, InspectionError):
                    sums[by][name] = self.edge_sums(name, by)
        kept = SavedAttribution(
            **{each.name: getattr(self, each.name) for each in fields(Shares)},
            names=tuple(self._mixed),
            by_head={by: self.heads(by) for by in get_args(By)},
            sums=sums,
        )
        return save(kept, folder)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an Attribution cannot be pickled or copied: its edges and paths are computed from the "
            "run when they are asked for. Save its numbers, such as share.tokens, by "
            "share.save(folder)."
        )

    def __repr__(self) -> str:
        inner = super().__repr__().removesuffix(")").replace("(", f"({self._unit}", 1)
        return f"{inner}, {len(self.layers)} parts; complete to {self.error:.0e})"


@dataclass(frozen=True, eq=False)
class MixerShares:
    """One mixer with what the tokens contribute to its input, and the adjoints at its output."""

    mixer: MixerStep
    given: Float[Tensor, "sample time width"]
    adjoint: Float[Tensor, "sample written output"]
    direct: Float[Tensor, "sample written output"] | None = None

    @torch.inference_mode(False)
    def edges(self, moved: Tensor, values: Tensor) -> Float[Tensor, "*batch written read"]:
        whole = self.whole()
        maps, written, read = whole.map_shape
        check_room("edges", (*maps, written, read), values.dtype, values.device)
        return _weighted(whole.mixing_map(), moved, values)

    @torch.inference_mode(False)
    def edge_sums(self, moved: Tensor, values: Tensor, heads: Chosen = None) -> Edges:
        whole = self.whole()
        maps, written, read = whole.map_shape
        count = maps[1:2].numel()
        taken = chosen_heads(self.mixer.name, count, heads)
        rows = max(1, MAX_ENTRIES // (maps.numel() * read))
        sums = []
        for start in range(0, written, rows):
            block = slice(start, min(start + rows, written))
            edges = _weighted(whole.mixing_map(block), moved[..., block, :], values)
            edges = edges.reshape(len(edges), count, -1, *edges.shape[-2:])
            edges = edges if taken is None else edges[:, list(taken)]
            sums.append(edges.sum(dim=(1, 2)))
        return torch.cat(sums, dim=1)

    @torch.inference_mode(False)
    def heads(self, moved: Tensor, values: Tensor) -> Float[Tensor, "sample head"]:
        """What the response of every head, or channel, contributes."""
        whole = self.whole()
        if values is whole.mixer.value:  # all of the response, which is lost without the head
            response = self.response()
        else:
            response = whole.mixed(whole.enter.linear(self.given).unsqueeze(0))[0]
        maps, *_ = whole.map_shape
        each = (moved * as_values(response, whole.mixer.value)).sum(dim=-2)
        return each.reshape(len(each), maps[1:2].numel(), -1).sum(dim=-1)

    def forgotten(self, moved: Tensor) -> tuple[Tensor, Tensor] | None:
        """For all pairs of an eraser and a key what the number would gain; None without a state."""
        mixer = self.whole().mixer
        system = mixer.system()
        if not isinstance(system, System) or isinstance(system.B, TokenSlots):
            return None
        has_channels = len(system.batch) == moved.ndim - 2  # that share their coefficients
        adjoint = moved.unsqueeze(-2) if has_channels else moved.mT[..., None, None]
        return spared_pairs(system, mixer.signal(), adjoint)

    def whole(self) -> WholeMixer:
        whole = self.mixer.whole
        if not isinstance(whole, WholeMixer):
            raise InspectionError(
                f"edges: the channels of {self.mixer.name} ({self.mixer.layer.family}) feed back "
                "into each other, so it has no map with one number for two tokens. Use 'total', or "
                "layer.whole.contributions()."
            )
        return whole

    def values(self) -> Tensor:
        """What enters the mixer from the tokens, in the axes of its values."""
        whole = self.whole()
        return as_values(whole.enter.linear(self.given), whole.mixer.value)

    def response(self) -> Float[Tensor, "sample written width"]:
        mixer = self.whole().mixer
        return as_tokens(respond(mixer.system(), mixer.signal()), mixer.value)

    @torch.inference_mode(False)
    def moved(self, adjoint: Tensor, *, truly: bool = False) -> Tensor:
        """The adjoint at the response of the mixer, the factors behind it held unless ``truly``."""
        whole = self.whole()
        if not truly or whole.leaving is None:
            return as_values(whole.leave.adjoint(adjoint), whole.mixer.value)
        with torch.enable_grad():
            response = self.response().detach().requires_grad_()
            (moved,) = torch.autograd.grad(whole.leaving(response), response, adjoint)
        return as_values(moved, whole.mixer.value)

    def without(self, part: Record, cut: Tensor | float, sample: int) -> Tensor:
        """The change of the output where an edge or a head of one sample is lost in part."""
        whole, response = self.whole(), self.response()
        lost = torch.zeros_like(response)
        if "head" in part:
            heads = whole.map_shape[0][1:2].numel(), -1
            place = sample, slice(None), part["head"]
            lost.unflatten(-1, heads)[place] = response.unflatten(-1, heads)[place]
        else:
            query, key = part["query"], part["key"]
            value = whole.mixer.value[sample, ..., key, :]
            row = whole.mixing_map(slice(query, query + 1))[sample, ..., 0, key]
            row = row if row.ndim == value.ndim else row[..., None]
            lost[sample, query] = (row * value).flatten()
        leaving = whole.leave if whole.leaving is None else whole.leaving
        return leaving(response - cut * lost) - leaving(response)


def _weighted(map: Tensor, moved: Tensor, values: Tensor) -> Tensor:
    """The edges: of heads whose channels share a map, or of channels with maps of their own."""
    if map.ndim > moved.ndim:
        return map * torch.einsum("...wc,...rc->...cwr", moved, values)
    return map * torch.einsum("...wc,...rc->...wr", moved, values)


def shares_of(
    functional: Functional, result: Tensor, into: Decomposition, tolerance: float
) -> Attribution:
    root, first = into.streams[0]
    if result.shape[0] != first.shape[0]:
        raise UnreadableError(
            f"attribute: the numbers that are attributed have the sizes {tuple(result.shape)}, but "
            f"the first residual stream {tuple(first.shape)}: both must have the samples on the "
            "first axis. Give the model inputs with the samples first, or have it return its "
            "logits so."
        )
    steps = [step for _, step in into.parts]
    direct = adjoints(into.stop, functional, {root, *steps}, ends=set(steps))
    mixed = [mixer.step for mixer in into.mixers]
    everywhere = {*steps, *mixed, *(step for step, _ in into.streams)}
    along_all = adjoints(into.stop, functional, everywhere)
    value = functional.pair(result)
    remainder = functional.pair(into.constant)
    layers: dict[str, Tensor] = {}
    total: dict[str, Tensor] = {}
    for name, step in into.parts:
        for shares, adjoint in ((layers, direct), (total, along_all)):
            # A module may have joined the axes of samples and tokens; where it has put the tokens
            # first, the shares do not sum to the value, which is refused.
            terms = adjoint[step] * into.from_tokens[step]
            share = terms.reshape(len(value), -1).sum(dim=1)
            shares[name] = shares[name] + share if name in shares else share
    for mixer in into.mixers:  # also those inside of another part
        total[mixer.name] = paired(along_all[mixer.step], into.from_tokens[mixer.step])
    streams = [(along_all[step] * stream).flatten(2).sum(-1) for step, stream in into.streams]
    made = Attribution(
        value=value,
        tokens=streams[0],
        layers=layers,
        total=total,
        embedding=paired(direct[root], first),
        streams=tuple(streams),
        remainder=remainder,
        _mixed={
            mixer.name: MixerShares(
                mixer, into.from_tokens[mixer.source], along_all[mixer.step], direct.get(mixer.step)
            )
            for mixer in into.mixers
        },
        _size=functional.pair(result, absolute=True),
        _into=into,
        _functional=functional,
    )
    if not made.error <= max(SUM_TOL, 10 * tolerance):
        raise ReconstructionError(
            f"attribute: the shares of the tokens or of the layers, and the remainder, miss the "
            f"value by {made.error:.1e} relative, so they are not its parts. Does the model draw "
            "random numbers, or keep a state between runs?",
            made.error,
        )
    return made
