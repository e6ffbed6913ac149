"""``Attribution``: how much each token, layer and edge of a run contributed to one number.

The run is affine (:mod:`dsf.attribution.affine_steps`), so that a logit is an inner product with
the first residual stream plus a remainder. One adjoint pass gives the shares of everything
in between.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import NoReturn

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dsf.attribution.affine_steps import (
    Step,
    adjoint_of,
    adjoints,
    adjoints_and_constant,
    left_over,
)
from dsf.attribution.coefficients import by_coefficients
from dsf.attribution.functionals import Functional, paired
from dsf.attribution.mixer_calls import MixerStep
from dsf.attribution.parts import Part
from dsf.attribution.paths import Paths, Search
from dsf.evaluate.memory_plan import check_room
from dsf.inspection.errors import InspectionError, ReconstructionError, UnreadableError
from dsf.inspection.results.table import Record, Table
from dsf.inspection.whole.affine_layer import WholeMixer
from dsf.inspection.whole.head_layout import as_values, width_of

COMPLETE = 1e-9
"""By how much all shares may miss their number, relative, where the layers are exact."""


AT_ONCE = 2**24
"""The number of entries of maps that are held at once where edges are summed over channels."""


@dataclass(frozen=True, eq=False, repr=False)
class Attribution:
    """The shares of one number, such as a logit, in a run of a model.

    All shares are of *this run*: queries and keys, decays, gates, activations and the factors of
    norms are held at their values. Every share counts what comes from the tokens; what comes from
    biases and first states is the remainder. Two sums are exact, for every sample:

    - ``tokens.sum(-1) + remainder == value``
    - ``embedding + sum(layers.values()) + remainder == value``

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
    _mixed: dict[str, "_Mixed"] = field(repr=False)
    _size: Float[Tensor, " sample"] = field(repr=False)
    _into: "Decomposition" = field(repr=False)
    _functional: Functional = field(repr=False)

    @property
    def error(self) -> float:
        """By how much one of the two sums misses the value, relative; the larger of both.

        Relative to the sum of the absolute shares, or of the absolute terms of the value if that is
        larger, since a value near zero is a sum of large ones.
        """
        direct = torch.stack([self.embedding, *self.layers.values()], dim=-1)
        return max(self._missed(self.tokens), self._missed(direct))

    def _missed(self, shares: Float[Tensor, "sample part"]) -> float:
        size = torch.maximum(shares.abs().sum(dim=-1) + self.remainder.abs(), self._size)
        missed = (shares.sum(dim=-1) + self.remainder - self.value).abs()
        return (missed / size.clamp_min(torch.finfo(size.dtype).tiny)).max().item()

    def edges(self, layer: str) -> Float[Tensor, "*batch written read"]:
        """What one edge of a layer contributes: the value of one token, mixed into another.

        It is ``map[written, read] <adjoint at written, value at read>``, where the adjoint says by
        how much the mixed value moves the number, along all later paths. Biases are no part of
        the value here. The sum over all edges of a sample is ``total[layer]``.

        Returns:
            The axes of the layer's map: ``sample head written read``, or channels in place of heads
            for a mixer with a map for each channel.

        Raises:
            KeyError: if no mixer of that name was recorded.
            InspectionError: if the mixer has no map with one column for each token, or what enters
                and leaves it is not known as linear maps of the stream.
            MapTooLarge: if they would take more than half of the free memory; see ``edge_sums``.
        """
        return self._of(layer).edges()

    def edge_sums(self, layer: str) -> Float[Tensor, "sample written read"]:
        """The sum of the edges over all heads or channels, a few of them at a time.

        Raises:
            KeyError, InspectionError: as for ``edges``.
        """
        return self._of(layer).edge_sums()

    def by_coefficients(self, layer: str) -> dict[str, Float[Tensor, "sample ..."]]:
        """Which coefficients of a layer the number hangs on: their gradients, times their entries.

        The other shares hold the coefficients of this run and say whose values reach the number.
        Here the same adjoint goes on into the coefficients: through the softmax into queries, keys
        and the bias, through the recurrence into step, decay, pole, write and read vectors. An
        entry is the change of the number, to first order, for each unit by which that entry of the
        coefficient grows relative to itself; minus that is the first guess of what is lost without
        it. These are gradients and no parts of a whole: a number that is linear in several
        coefficients is counted once in each.

        Two sums are exact. Those of ``"value"``, in which the number is linear, are the share of
        the layer: ``total[layer]``. Those of a coefficient in which the response is linear (the
        read vector of a recurrence without feedthrough, the query of a linear attention) are the
        share of all that the layer's mixer puts out, what comes from biases of its values included.

        Returns:
            By the names of the mixer's fields, in their axes (such as ``sample head time key``); a
            coefficient that all samples share has their axis before its own.

        Raises:
            KeyError: if no mixer of that name was recorded.
            InspectionError: if the coefficients depend on the mixer's own outputs, as those of a
                GRU do.
        """
        return self._of(layer).by_coefficients()

    def coefficients(self, *, sample: int = 0) -> Table:
        """The sums of ``by_coefficients`` for all mixers, largest first.

        Each record has ``layer``, ``coefficient``, ``gradient`` (the sum over all entries) and
        ``magnitude`` (the sum of their absolute values). A mixer whose coefficients depend on its
        own outputs follows as a record with a ``note``.

        Args:
            sample: of which sample.

        Raises:
            IndexError: if there is no such sample.
        """
        self._check("coefficients", sample)
        found: list[Record] = []
        without: list[Record] = []
        for name in self._mixed:
            try:
                shares = self.by_coefficients(name)
            except InspectionError:
                without.append({"layer": name, "note": "its coefficients depend on its outputs"})
                continue
            for coefficient, share in shares.items():
                net, size = share[sample].sum().item(), share[sample].abs().sum().item()
                record = {"layer": name, "coefficient": coefficient}
                found.append({**record, "gradient": net, "magnitude": size})
        found.sort(key=lambda record: -record["magnitude"])
        return Table((*found, *without))

    def strongest_edges(self, count: int = 10, *, sample: int = 0) -> Table:
        """The edges with the largest absolute shares of all mixers, summed over heads or channels.

        Each record has ``layer``, ``written``, ``read`` and ``share``. A mixer without
        edges follows as a record with a ``note``: its channels feed back into each other, or what
        enters and leaves it is not known as linear maps of the stream.

        Args:
            count: how many, at least 1.
            sample: of which sample.

        Raises:
            ValueError: if ``count`` is less than 1.
            IndexError: if there is no such sample.
        """
        _check_count("strongest_edges", "count", count)
        self._check("strongest_edges", sample)
        found: list[Record] = []
        without: list[Record] = []
        for name in self._mixed:
            try:
                edges = self.edge_sums(name)[sample]
            except InspectionError:
                note = "no edges: its channels feed back into each other"
                without.append({"layer": name, "note": note})
                continue
            flat = edges.flatten()
            largest = flat.abs().topk(min(count, flat.numel())).indices.tolist()
            for at in largest:
                written, read = divmod(at, edges.shape[1])
                share = flat[at].item()
                found.append({"layer": name, "written": written, "read": read, "share": share})
        found.sort(key=lambda edge: -abs(edge["share"]))
        note = "no edges: what enters and leaves its mixer is not known as linear maps"
        without += [{"layer": name, "note": note} for name in self._into.not_whole]
        return Table((*found[:count], *without))

    @torch.inference_mode(False)
    def paths(self, count: int = 10, *, sample: int = 0, most: int = 200) -> Paths:
        """The paths from a token over edges to the number that have the largest absolute shares.

        A path stays at a token along residual connections, norms and feed-forward layers, and moves
        along one edge of each mixer that it passes, summed over its heads or channels. An edge here
        is of the whole layer: it reads the token of the stream, also where a short convolution
        carries that to the values of later tokens. The sum over all paths of a sample is
        ``tokens.sum()``; ``covered`` says how much of it those that are returned have.

        They are searched for from the end: of all ends of paths, that with the largest share is
        followed one mixer further back. Where shares of both signs cancel behind an end, a path
        there may be larger than the end and not be found.

        Args:
            count: how many paths, at least 1.
            sample: of which sample.
            most: how many ends are followed at most. Each costs an adjoint pass through the layers
                before it.

        Raises:
            ValueError: if ``count`` or ``most`` is less than 1.
            IndexError: if there is no such sample.
        """
        for name, number in (("count", count), ("most", most)):
            _check_count("paths", name, number)
        self._check("paths", sample)
        root, first = self._into.streams[0]
        search = Search(
            root=root,
            mixers=self._into.mixers,
            from_tokens={root: first} | self._into.from_tokens,
            total=self.tokens[sample].sum().item(),
            sample=sample % len(self.value),
            most=most,
        )
        return search.strongest(self._into.stop, self._functional, count)

    def _check(self, asked: str, sample: int) -> None:
        _check_whole(asked, "sample", sample)
        samples = len(self.value)
        if not -samples <= sample < samples:
            raise IndexError(f"{asked}: sample={sample}, but there are {samples} samples.")

    def _of(self, layer: str) -> "_Mixed":
        if layer in self._into.not_whole:
            raise InspectionError(
                f"edges: what enters and leaves the mixer of {layer} is not known as linear maps "
                "of the stream, so it has neither edges nor shares of its coefficients. Its map is "
                "stack.inspection[name].map(), and 'layers' has what the modules in it contribute."
            )
        if layer not in self._mixed:
            raise KeyError(
                f"no mixer '{layer}' was recorded as a whole layer; there are "
                f"{', '.join(self._mixed) or 'none'}"
            )
        return self._mixed[layer]

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an Attribution cannot be pickled or copied: its edges and paths are computed from the "
            "run when they are asked for. Save its numbers, such as share.tokens, share.layers, "
            "share.total, share.edge_sums(layer) and share.paths().to_json()."
        )

    def __repr__(self) -> str:
        values = ", ".join(f"{value:.4g}" for value in self.value.tolist())
        return (
            f"Attribution(value {values}; {self.tokens.shape[1]} tokens, {len(self.layers)} parts; "
            f"complete to {self.error:.0e})"
        )


@dataclass(frozen=True, eq=False)
class _Mixed:
    """One mixer with what entered it from the tokens, and the adjoint at its output."""

    mixer: MixerStep
    given: Float[Tensor, "sample time width"]
    adjoint: Float[Tensor, "sample written output"]

    @torch.inference_mode(False)
    def edges(self) -> Float[Tensor, "*batch written read"]:
        whole = self._whole()
        moved, values = self._moved(whole), self._values(whole)
        maps, written, read = whole.map_shape
        check_room("edges", (*maps, written, read), values.dtype, values.device)
        return _weighted(whole.mixing_map(), moved, values)

    @torch.inference_mode(False)
    def edge_sums(self) -> Float[Tensor, "sample written read"]:
        whole = self._whole()
        moved, values = self._moved(whole), self._values(whole)
        maps, written, read = whole.map_shape
        rows = max(1, AT_ONCE // (maps.numel() * read))
        sums = []
        for start in range(0, written, rows):
            block = slice(start, min(start + rows, written))
            edges = _weighted(whole.mixing_map(block), moved[..., block, :], values)
            sums.append(edges.flatten(1, -3).sum(dim=1) if edges.ndim > 3 else edges)
        return torch.cat(sums, dim=1)

    @torch.inference_mode(False)
    def by_coefficients(self) -> dict[str, Tensor]:
        whole = self.mixer.whole
        if not isinstance(whole, WholeMixer):
            raise InspectionError(
                f"by_coefficients: the coefficients of {self.mixer.name} "
                f"({self.mixer.layer.family}) depend on its own outputs, so there is no gradient "
                "for each of them with the others held. Use 'total'."
            )
        return by_coefficients(whole.mixer, self._moved(whole), self._values(whole))

    def _whole(self) -> WholeMixer:
        whole = self.mixer.whole
        if not isinstance(whole, WholeMixer):
            raise InspectionError(
                f"edges: the channels of {self.mixer.name} ({self.mixer.layer.family}) feed back "
                "into each other, so it has no map with one number for two tokens. Use "
                "'total', or layer.whole.contributions()."
            )
        return whole

    def _values(self, whole: WholeMixer) -> Tensor:
        """What enters the mixer from the tokens, in the axes of its values."""
        return as_values(whole.enter.linear(self.given), whole.mixer.value)

    def _moved(self, whole: WholeMixer) -> Tensor:
        """The adjoint at the response of the mixer, in the axes of its values."""
        given = self.adjoint if self.mixer.shown is None else self.adjoint * self.mixer.shown
        samples, written, _ = given.shape
        shape = torch.Size((samples, written, width_of(whole.mixer.value)))
        (moved,) = adjoint_of(whole.leave.linear, [shape], given)
        return as_values(moved, whole.mixer.value)


def _weighted(map: Tensor, moved: Tensor, values: Tensor) -> Tensor:
    """The edges: of heads whose channels share a map, or of channels with maps of their own."""
    if map.ndim > moved.ndim:
        return map * torch.einsum("...wc,...rc->...cwr", moved, values)
    return map * torch.einsum("...wc,...rc->...wr", moved, values)


def _check_whole(asked: str, name: str, number: int) -> None:
    """Raises TypeError unless it is a whole number, also one of NumPy or torch."""
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        raise TypeError(f"{asked}: '{name}' must be a whole number, but it is {number!r}.")


def _check_count(asked: str, name: str, number: int) -> None:
    """Raises TypeError or ValueError unless it counts something."""
    _check_whole(asked, name, number)
    if number < 1:
        raise ValueError(f"{asked}: '{name}' must be at least 1, but it is {number}.")


def _by_sample(terms: Shaped[Tensor, "*axes"], samples: int) -> Float[Tensor, " sample"]:
    """The sums of each sample, also where a module has joined the axes of samples and tokens.

    Where it has put the tokens first, the shares do not sum to the value, which is refused.
    """
    return terms.reshape(samples, -1).sum(dim=1)


@dataclass(frozen=True, eq=False)
class Decomposition:
    """What adds to the residual stream of a run before one of its steps.

    Attributes:
        stop: the step.
        streams: the residual streams up to ``stop``, and their values in the run.
        parts, mixers: what adds to the stream, and the token mixers in it.
        from_tokens: what the tokens contribute to the results of the steps of the parts, of the
            mixers, and of their sources.
        not_whole: the layers of the inspection that are no mixers of the run.
    """

    stop: Step
    streams: tuple[tuple[Step, Tensor], ...]
    parts: tuple[Part, ...]
    mixers: tuple[MixerStep, ...]
    from_tokens: dict[Step, Tensor]
    not_whole: tuple[str, ...] = ()

    @cached_property
    def constant(self) -> Tensor:
        """The result of ``stop`` where the first stream is zero."""
        root, first = self.streams[0]
        return left_over(root, self.stop, root, first)


def attributed(
    functional: Functional, result: Tensor, *, into: Decomposition, tolerance: float
) -> Attribution:
    """The shares of ``functional``.

    Args:
        result: the result of ``into.stop``, as the model itself computed it.
        into: what it is shared among.
        tolerance: the largest relative error that the layers of the run were allowed.

    Raises:
        UnreadableError: if the result has other samples than the first stream.
        ReconstructionError: if the shares do not sum to the value.
    """
    root, first = into.streams[0]
    if result.shape[0] != first.shape[0]:
        raise UnreadableError(
            f"attribute: the numbers that are attributed have the sizes {tuple(result.shape)}, but "
            f"the first residual stream {tuple(first.shape)}: both must have the samples on the "
            "first axis. Give the model inputs with the samples first, or have it put out its "
            "logits so."
        )
    steps = [part.step for part in into.parts]
    direct = adjoints(into.stop, functional, {root, *steps}, ends=set(steps))
    mixed = [mixer.step for mixer in into.mixers]
    everywhere = {*steps, *mixed, *(step for step, _ in into.streams)}
    along_all, constant = adjoints_and_constant(into.stop, functional, everywhere)
    value = functional.pair(result)
    # With one sample the adjoint pass has the remainder; several are told apart by a run from zero.
    remainder = constant.unsqueeze(0) if len(value) == 1 else functional.pair(into.constant)
    layers: dict[str, Tensor] = {}
    total: dict[str, Tensor] = {}
    for part in into.parts:
        for shares, adjoint in ((layers, direct), (total, along_all)):
            share = _by_sample(adjoint[part.step] * into.from_tokens[part.step], len(value))
            shares[part.name] = shares[part.name] + share if part.name in shares else share
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
            mixer.name: _Mixed(mixer, into.from_tokens[mixer.source], along_all[mixer.step])
            for mixer in into.mixers
        },
        _size=functional.pair(result, absolute=True),
        _into=into,
        _functional=functional,
    )
    if not made.error <= max(COMPLETE, 10 * tolerance):
        raise ReconstructionError(
            f"attribute: the shares of the tokens or of the layers, and the remainder, miss the "
            f"value by {made.error:.1e} relative, so they are not its parts. Does the model draw "
            "random numbers, or keep a state between runs?",
            made.error,
        )
    return made
