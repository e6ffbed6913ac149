"""The result of an inspection: ``InspectedLayer`` for each token mixer, and those not read."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from pathlib import Path, PurePath
from typing import Any, overload

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from dsf.evaluate import attention_map
from dsf.evaluate.maps import Selection
from dsf.evaluate.memory_plan import check_room, naming_out_of_memory
from dsf.inspection.capture.containers import Fingerprint
from dsf.inspection.errors import InspectionError, ReconstructionError
from dsf.inspection.results import measurements
from dsf.inspection.results.memory import Forecast
from dsf.inspection.results.saving import Returns, save
from dsf.inspection.results.table import Table, inspection_table
from dsf.inspection.whole.stages import AffineLayer, Contributions, WholeMixer
from dsf.measures.erasers import Eraser
from dsf.mixers import Mixer
from dsf.runtime.argument_checks import checked
from dsf.systems.algebra import select
from dsf.systems.composite import Operator

ALL = 0.999
"""A share above this counts as all."""
INSTEAD_OF_MAPS = (
    "Ask for some rows (rows=slice(0, 64)), for some heads or channels "
    "(dsf.inspect(..., heads=[0, 1]), on the command line --heads), or for what all of them do "
    "together (layer.contribution_norms(groups=256)); inspection.measure() and the report form no "
    "whole map."
)


@dataclass(frozen=True, eq=False, repr=False)
class InspectedLayer:
    """One token mixer of a model on one input, rebuilt and compared with its output.

    Attributes:
        name: the path of the module in the model, such as ``model.layers.0.self_attn``.
        family: the family that it was read as, such as ``mamba2``.
        mixer: the coefficients, in float64.
        axes: what the batch axes of the system count, such as ``("sample", "head")``.
        error: the larger of ``formula`` and ``rounding``: how far the rebuilt layer may be from
            what the module returned in this run.
        tolerance: the limit of ``formula``.
        fingerprint: of the mixer when it was compared, to detect later changes; None to skip that.
        shell: a function that builds the whole layer around the mixer; None where only the mixer
            is known.
        formula: largest difference of the rebuilt layer from ``compared_with``, relative to the
            largest number there. Within ``tolerance``; by default ``error``. Softmax attention
            of more than 256 tokens is rebuilt by 64 rows of its map, and compared there.
        rounding: how far what the module returned in this run is from the module in float64,
            relative: what the number type and the kernels of the run did to it.
        compared_with: what ``formula`` was measured against: the module itself in float64, or why
            that was not possible and what replaced it.
        heads: which heads, or channels, of the layer are looked at; None for all. ``system``,
            ``signal`` and ``map`` are of these alone.
        is_on_disk: whether the mixer and what the whole layer is built from lie in a file that is
            mapped into memory; then nothing that is made of them is kept.
        share: how much of what a replaced token moves at other tokens of the module's output is due
            to this map: 1 for all of it, less for a part, nan where the run was not asked.
        columns: what a column of the map is: ``token``; ``slot`` where each is made of several
            tokens, or of none, as learnt ones are, or it is not known of which; ``token or
            padding``.
        row_order, column_order: the token of the model that every row and column belongs to,
            ``*batch rows`` and ``*batch columns``, with -1 for none; None where row i and column i
            belong to token i. ``row_tokens`` and ``column_tokens`` have them in any case.
        row_input, column_input: the input of the model whose tokens these are, such as
            ``input_ids``; empty where that is not known.
        checks: what the run was asked about this layer, and what it answered.
        padding: which tokens the ``attention_mask`` of the run hides, ``sample time``, on the
            processor; None for none. ``measure`` and ``heads`` leave them out.
    """

    name: str
    family: str
    mixer: Mixer
    axes: tuple[str, ...]
    error: float
    tolerance: float
    fingerprint: Fingerprint | None = None
    shell: Callable[[], AffineLayer] | None = None
    formula: float = math.nan
    rounding: float = 0.0
    compared_with: str = "its output"
    heads: tuple[int, ...] | None = None
    is_on_disk: bool = False
    share: float = math.nan
    columns: str = "token"
    row_order: Tensor | None = None
    column_order: Tensor | None = None
    row_input: str = ""
    column_input: str = ""
    checks: Table = field(default_factory=lambda: Table(()))
    padding: Bool[Tensor, "sample time"] | None = None

    def __post_init__(self) -> None:
        if math.isnan(self.formula):  # nothing ran a second time
            object.__setattr__(self, "formula", self.error)

    @property
    def system(self) -> Operator:
        """The mixer as a linear time-varying system: in its signal, given its coefficients.

        Raises:
            ReconstructionError: if the mixer was altered after it was compared with the layer.
        """
        self._check_unaltered()
        return self._made_system() if self.is_on_disk else self._system

    @property
    def row_tokens(self) -> Int[Tensor, "*batch rows"]:
        """The token of the model that every row of the map belongs to, -1 for none."""
        return self._tokens(self.row_order, self.system.steps)

    @property
    def column_tokens(self) -> Int[Tensor, "*batch columns"]:
        """The token of the model that every column belongs to, -1 for none and for slots."""
        steps = getattr(self.system, "read_steps", self.system.steps)
        return self._tokens(self.column_order, steps, in_order=self.columns != "slot")

    def _tokens(self, order: Tensor | None, steps: int, *, in_order: bool = True) -> Tensor:
        plain = torch.arange(steps) if in_order else torch.full((steps,), -1)
        return plain.expand(*self.system.batch, steps) if order is None else order

    @property
    def signal(self) -> Shaped[Tensor, "*batch time input channel"]:
        """The input of the system in this run: the values of the mixer."""
        self._check_unaltered()
        signal = self.mixer.signal()
        return signal if self.heads is None else signal[self._index(signal.device)]

    def map(self, rows: Selection | None = None) -> Shaped[Tensor, "*batch rows columns"]:
        """The attention map of the layer, or some of its rows.

        Raises:
            MapTooLarge: if it would take more than half of the free memory, before anything is
                computed, or where the memory runs out all the same.
            ReconstructionError: if the mixer was altered after it was compared with the layer.
        """
        with naming_out_of_memory(f"{self.name}: its map", cure=INSTEAD_OF_MAPS):
            system = self.system
            if rows is None:
                columns = getattr(system, "read_steps", system.steps) * system.input_size
                size = (*system.batch, system.steps * system.output_size, columns)
                owner = f"{self.name}: all its maps"
                check_room(owner, size, system.dtype, system.device, cure=INSTEAD_OF_MAPS)
            return attention_map(system, rows)

    @property
    def whole(self) -> AffineLayer:
        """The whole layer, from input to output: convolution, activation, scan, gate and norm.

        It is affine in its input once its factors (gates, norms, decays) are frozen at this run.

        Raises:
            InspectionError: if only the mixer of this layer is known, or its module continues with
                what the projection behind the mixer returns.
            ReconstructionError: if the whole layer does not reproduce the captured output.
        """
        found = self.with_stages
        if not found.is_all:
            raise InspectionError(
                f"{self.name}: only the mixer is known and the projections around it, with which "
                "its module goes on, as with a norm or a factor: layer.with_stages has what is "
                "known."
            )
        return found

    @property
    def with_stages(self) -> AffineLayer:
        """The mixer with those of the stages around it that are known: the whole layer, if all are.

        Where its module continues with what the projection behind the mixer returns (``is_all`` is
        False), as with a norm, it ends there.

        Raises:
            InspectionError: if only the mixer of this layer is known.
            ReconstructionError: if this does not reproduce what was captured.
        """
        self._check_unaltered()
        if self.shell is None:
            raise InspectionError(
                f"{self.name}: of the family '{self.family}' only the mixer is known, not the "
                "stages between it and the module's input and output. layer.map() gives the "
                "mixer's map."
            )
        return self.shell() if self.is_on_disk else self._with_stages

    @cached_property
    @torch.inference_mode(False)
    def _with_stages(self) -> AffineLayer:
        assert self.shell is not None  # noqa: S101  # asked by ``with_stages``
        return self.shell()

    def mixer_map(
        self, rows: Selection | None = None
    ) -> Float[Tensor, "sample channel rows columns"]:
        """The map of the whole layer, one for every channel, or some of its rows.

        Raises:
            MapTooLarge: if it would take more than half of the free memory.
            InspectionError: if only the mixer of this layer is known, or its channels mix.
        """
        return self.whole.map(rows)

    def contribution_norms(
        self, rows: Selection | None = None, *, groups: int | None = None
    ) -> Float[Tensor, "sample rows columns"]:
        """How strongly token j (column) acts on token i (row) through all heads or channels.

        The length (2-norm) of what the values of token j contribute to the layer's output at token
        i: the maps of all heads or channels (those of ``heads``) times their values, through the
        output gate or norm (frozen at this run) and the output projection. What biases add belongs
        to no token. Where only the mixer is known, contributions are to its response. The memory in
        use is about 0.3 GB, or one row of contributions (tokens times the layer's width).

        Args:
            rows: the queries (rows) to return, a slice or one token; all by default.
            groups: take neighbouring tokens together in at most so many groups: a column is then
                what all tokens of its group contribute together, to the last token of the row's
                group. For causal recurrent layers this takes one pass along the sequence.

        Raises:
            MapTooLarge: if the result would take more than half of the free memory.
            IndexError: if ``rows`` selects no token.
            ValueError: if both ``rows`` and ``groups`` are given, or ``groups`` is below 1.
            ReconstructionError: if the whole layer does not reproduce the captured output.
        """
        if groups is not None and (rows is not None or groups < 1):
            raise ValueError(
                f"contribution_norms: 'groups' is {groups} and 'rows' is {rows}; give one of them, "
                "and at least one group."
            )
        whole, has_samples = self._whole_mixer(), self.axes[:1] in (("sample",), ("window",))
        entries = self.mixer.system().batch[int(has_samples) :]
        numbers = torch.arange(prod(entries)).reshape(entries)
        contributions = Contributions(
            system=self.system,
            signal=self.signal,
            leave=None if whole is None else whole.leave,
            has_samples=has_samples,
            numbers=(numbers if self.heads is None else numbers[..., list(self.heads)]).flatten(),
            total=numbers.numel(),
        )
        return contributions.norms(rows, groups)

    @checked
    def erasers(
        self, *, query: int, key: int, head: int = 0, sample: int = 0
    ) -> tuple[Eraser, ...]:
        """Return what every token between ``key`` and ``query`` erased of the key, in their order.

        Records with ``token, decay, overwriting, total``. The totals sum to the map's entry less
        what it would be had nothing come between, ``C_i Phi(i, j) B_j - C_i B_j``; negative where a
        token weakens what the query reads. Attention erases nothing: see ``Eraser.moved_on``.

        Args:
            query, key: tokens of the model, the later and the earlier one; negative numbers count
                from the end.
            head: the head (or channel), numbered as in the model.
            sample: the sample of the batch.

        Raises:
            IndexError: if there is no such token, head or sample.
            ValueError: if the query does not read the key.
        """
        return measurements.erasers_of(self, query=query, key=key, head=head, sample=sample)

    @property
    def contributes_to(self) -> str:
        """What ``contribution_norms`` counts contributions to, in words."""
        whole = self._whole_mixer()
        if whole is None:
            return "the mixer's response"
        return "the layer's output" if whole.is_all else "the projected response"

    def _whole_mixer(self) -> WholeMixer | None:
        """The mixer with its stages, where these are chains around it."""
        try:
            whole = None if self.shell is None else self.with_stages
        except ReconstructionError:
            raise
        except InspectionError:  # only the mixer is known
            return None
        return whole if isinstance(whole, WholeMixer) else None

    @cached_property
    def _system(self) -> Operator:
        return self._made_system()

    def _made_system(self) -> Operator:
        system = self.mixer.system()
        return system if self.heads is None else select(system, self._index(system.device))

    def _index(self, device: torch.device) -> tuple[slice | Tensor, ...]:
        """The heads that are looked at, on the last batch axis."""
        return (*[slice(None)] * (len(self.axes) - 1), torch.tensor(self.heads, device=device))

    def place(self, index: Sequence[int]) -> tuple[int, ...]:
        """Where an entry of the batch axes sits in the whole layer: its sample, its head."""
        if self.heads is None or len(index) < len(self.axes):
            return tuple(index)
        return (*index[:-1], self.heads[index[-1]])

    def to_save(self) -> dict[str, Any]:
        """What a saved layer has in place of fields that need the model: its known stages."""
        self._check_unaltered()
        whole = None
        with suppress(InspectionError):  # only the mixer is known
            whole = None if self.shell is None else self.with_stages
        return {"mixer": self.mixer, "shell": None if whole is None else Returns(whole)}

    def _check_unaltered(self) -> None:
        if self.fingerprint is not None and not self.fingerprint.matches(self.mixer):
            raise ReconstructionError(
                f"{self.name}: its mixer was altered after it was compared with the layer, so the "
                f"error of {self.error:.1e} is not that of this mixer. Inspect the model again. To "
                "study a changed mixer, build it yourself with dataclasses.replace and call its "
                "system()."
            )

    @property
    def is_reproduced(self) -> bool:
        """Whether the rebuilt layer is what it was compared with."""
        return self.formula <= self.tolerance

    @property
    def is_part(self) -> bool:
        """Whether the module mixes tokens in other ways besides this map."""
        return self.share < ALL

    @property
    def is_exact(self) -> bool:
        """Whether the layer is reproduced and its map is all of the module's mixing of tokens.

        False where the second is not known: its ``share`` is nan, as with ``checks="none"`` where
        no adapter reads the whole module.
        """
        return self.is_reproduced and self.share >= ALL

    def __repr__(self) -> str:
        mixer = type(self.mixer).__name__
        return f"InspectedLayer({self.name}: {self.family} as {mixer}, {_worded(self)})"


def _worded(layer: InspectedLayer) -> str:
    errors = f"formula {layer.formula:.0e}, rounding {layer.rounding:.0e}"
    part = f", a part: {layer.share:.0%} of what its module moves" if layer.is_part else ""
    return errors + part + (f", columns: {layer.columns}" if layer.columns != "token" else "")


@dataclass(frozen=True)
class Unsupported:
    """A token mixer that was found but not read: its path, its class and the reason.

    Attributes:
        formula: for a layer that was rebuilt and did not come out right, by how much, relative;
            NaN where nothing could be compared, None where no rebuilding was tried.
    """

    name: str
    kind: str
    reason: str
    formula: float | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Inspection(Sequence[InspectedLayer]):
    """All token mixers of a model on one input, in the order in which they ran.

    Attributes:
        layers: the layers that were read; iterating over the inspection gives them.
        unsupported: the token mixers that were found but not read, with reasons.
        model: a name for the model: its class, folder or hub id.
        tokens: the text of every token of every sample, where known.
        decoder_tokens: the same of ``decoder_input_ids``, which the model may have made itself.
        environment: versions, dtype, device and settings the run depends on.
        forecast: the memory that was expected before the run; None where there is none.
        checks: what the run was asked about every module in which tokens meet, and what it
            answered.
    """

    layers: tuple[InspectedLayer, ...]
    unsupported: tuple[Unsupported, ...] = ()
    model: str = ""
    tokens: tuple[tuple[str, ...], ...] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    forecast: Forecast | None = None
    checks: Table = field(default_factory=lambda: Table(()))
    decoder_tokens: tuple[tuple[str, ...], ...] | None = None

    @overload
    def __getitem__(self, index: int | str) -> InspectedLayer: ...
    @overload
    def __getitem__(self, index: slice) -> "Inspection": ...
    def __getitem__(self, index: int | str | slice) -> "InspectedLayer | Inspection":
        """A layer by its number or name; some of them, by a slice, as an inspection."""
        if isinstance(index, slice):
            return replace(self, layers=self.layers[index])
        if isinstance(index, str):
            found = next((layer for layer in self.layers if layer.name == index), None)
            if found is None:
                listed = ", ".join(layer.name for layer in self.layers)
                raise KeyError(f"no layer is called '{index}'; there are {listed}")
            return found
        try:
            return self.layers[index]
        except IndexError:
            raise IndexError(
                f"Inspection: layer {index} is none of the {len(self)}, which are numbered from 0 "
                f"to {len(self) - 1}."
            ) from None

    def save(self, folder: str | Path) -> Path:
        """Write this inspection into a folder, from which ``dsf.load`` reads it without the model.

        Maps, measures and reports of the loaded one are the same; so are the stages around every
        mixer, where they are known. The weights of these are part of what is written.
        """
        return save(self, folder)

    def __contains__(self, wanted: object) -> bool:
        """Whether there is this layer, or one of this name."""
        return any(wanted in (layer, layer.name) for layer in self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def measure(self, *quantities: str) -> Table:
        """Quantities of every map: one record for each layer, batch index and quantity.

        Of a text that was padded in a batch they are those of the text alone.

        Args:
            quantities: their names, such as ``"mean_distance"``; all by default. Of maps of more
                than 1,024 tokens ``"middle_hankel_rank"``, which factorises a block of each unless
                it follows from states, is then a record with the value ``nan`` and a ``note``.

        Raises:
            ValueError: for a name that is none.
        """
        return measurements.measured(self.layers, measurements.chosen(quantities))

    def heads(self, tokens: Int[Tensor, "sample time"] | None = None) -> Table:
        """What every head (or channel) looks at: scores by name, next to those of chance.

        ``previous_token``, ``first_token``, ``self_token``, ``duplicate_token`` and ``induction``
        of :mod:`dsf.measures`, each the mean over the samples that have it. ``value`` is the share
        of the absolute weight, ``net`` its signed part, and ``control`` what chance gives: for the
        first three the score of a map that weighs all tokens alike which it may read, for the
        others the mean score where the tokens stand in random order. A layer without scores is a
        record with a ``note``.

        Args:
            tokens: the token numbers of the input; None where equal texts are equal tokens.

        Raises:
            InspectionError: without numbers, if the inspection has no texts of tokens.
        """
        tokens = measurements.text_numbers(self.tokens) if tokens is None else tokens
        return measurements.scored_heads(self.layers, tokens)

    @checked
    def erasers(self, *, query: int = -1, count: int = 20) -> Table:
        """Return the strongest losses of one query: which token erased which, in any layer.

        One record for each loss, the largest first: ``layer``, the batch axes such as ``head``,
        ``query``, ``key`` (what was erased), ``token`` (the eraser), ``share``, ``decay`` and
        ``overwriting``: norms of what is missing in the mixer's response at the query, relative to
        that response, because ``token`` came. Layers without a state erase nothing.

        Raises:
            IndexError: if there is no such token.
            ValueError: if ``count`` is below 1.
        """
        return measurements.strongest_erasers(self.layers, query=query, count=count)

    def __repr__(self) -> str:
        path = PurePath(self.model)
        name = path.name if path.is_absolute() else self.model  # texts are passed on, as pages are
        lines = [f"Inspection({name}: {len(self.layers)} layers)"]
        width = max((len(layer.name) for layer in self.layers), default=0)
        lines += [
            f"  {layer.name:{width}}  {layer.family} as {type(layer.mixer).__name__}, "
            f"{_worded(layer)}"
            for layer in self.layers
        ]
        lines += [f"  not read: {missed.name} ({missed.reason})" for missed in self.unsupported]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return inspection_table(self)
