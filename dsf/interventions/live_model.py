"""A model and a run of it, which can be repeated with some of its token mixers edited."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dsf.attribution.targets import put_out
from dsf.evaluate import respond
from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Call, Exchange, Through
from dsf.inspection.capture.finite_outputs import FiniteWeights
from dsf.inspection.capture.integrity import times_written
from dsf.inspection.capture.isolation import isolated
from dsf.inspection.capture.precision import dtype_of
from dsf.inspection.capture.screening import check_finite, check_has_data
from dsf.inspection.choice import Chosen, chosen_layers
from dsf.inspection.errors import InspectionError, ReconstructionError
from dsf.inspection.examine import sequences
from dsf.inspection.families.registry import Known, known_modules
from dsf.inspection.rebuild import Limits, captured_layers, rebuild
from dsf.inspection.recorded_run import run
from dsf.inspection.results.layers import InspectedLayer, Inspection
from dsf.interventions.edited_mixing import Subject, edited_response
from dsf.interventions.edits import Edit
from dsf.interventions.likely_layers import likely_layers
from dsf.interventions.run_facts import RunFacts
from dsf.interventions.unedited_blocks import CleanBlocks, Copies, has_hold_of

Key = tuple[Through, str, int]
"""By which way a call was recorded, in which module, and which of its calls it is."""
HOOKED = (Through.MODULE, Through.INTERFACE)
"""The ways for which nobody has to listen to every call of torch."""


@dataclass(frozen=True, eq=False)
class Planned:
    """One call whose mixer is edited.

    Attributes:
        name: of the layer.
        mixer: what its mixer is.
        samples: how many samples the clean run has.
        has_samples: whether the first batch axis of the mixer's system counts them.
        is_batch: whether they are also the first axis of what the model puts out.
        steps: how many tokens it mixes.
        adapter, family: how it is read.
        heads: for an attention that a module computes itself, its number of heads.
        edits: what is changed in it.
        sources: other runs by name.
    """

    name: str
    mixer: type
    samples: int
    has_samples: bool
    is_batch: bool
    steps: int
    adapter: Adapter
    family: str
    heads: int | None
    edits: tuple[Edit, ...]
    sources: Mapping[str, Inspection]

    def put_out(self, call: Call) -> Tensor:
        """What the module, or its attention, puts out with the edits; unmoved numbers stay."""
        call.name = self.name
        if call.through is Through.FOLLOWED:
            call.arguments["heads"] = self.heads
        (captured,) = captured_layers(call, self.adapter, self.family)
        mixer = self.adapter.read(captured)
        plain = respond(mixer.system(), mixer.signal())
        clean = self.adapter.finished(captured, mixer, plain)
        subject = Subject(self.name, mixer, self.sources, self.has_samples)
        edited = edited_response(subject, self.edits, plain)
        changed = self.adapter.finished(captured, mixer, edited)
        moved = changed != clean
        other = self.adapter.overlooked(captured)
        if other is not None and moved.shape[:-1] == other.shape:
            moved = moved & ~other.unsqueeze(-1)
        return torch.where(moved, changed, captured.output)


@dataclass(frozen=True, eq=False)
class LiveModel:
    """A model and a run of it, which can be repeated with some mixers edited.

    Attributes:
        clean: what it puts out without edits.
    """

    clean: Tensor
    _model: nn.Module
    _inputs: tuple[Any, ...]
    _named: dict[str, Any]
    _known: Known
    _found: Sequence[tuple[Call, Adapter, str, Key | None]]
    _blocks: CleanBlocks
    _written: int

    @classmethod
    def of_run(
        cls,
        model: nn.Module,
        inputs: tuple[Any, ...],
        named: dict[str, Any],
        known: Known,
        kept: Collection[str] | None,
    ) -> "LiveModel":
        """The model after a run of it.

        Args:
            kept: the paths of the modules whose calls can be edited; None for all.
        """
        blocks = CleanBlocks(model)
        joined = {path for path, (adapter, _) in known.items() if adapter.joins}
        with blocks.recorded(until=kept):
            both = None if kept is None else {*kept, *joined}
            calls, clean = _run(model, inputs, named, known, kept=both)
        count = _Counter()
        keys = {id(call): count.key_of(call) for call in calls}
        found = [
            (call, adapter, family, keys.get(id(call)))
            for call, adapter, family in sequences(calls, known)
        ]
        return cls(clean, model, inputs, named, known, found, blocks, times_written(clean))

    def modules_of(self, layers: Sequence[Chosen]) -> set[str]:
        """The paths of the modules of these layers, as far as there are such layers."""
        names = [call.name for call, *_ in self._found]
        chosen: set[str] = set()
        for each in layers:
            with suppress(InspectionError):
                chosen |= chosen_layers(names, each)
        path_of = {part: path for path, part in self._model.named_modules()}
        return {path_of.get(call.module, "") for call, *_ in self._found if call.name in chosen}

    def plans(
        self,
        wanted: Sequence[Sequence[Edit]],
        sources: Mapping[str, Inspection],
        keep: Callable[[InspectedLayer], object] = lambda _: None,
    ) -> list[dict[Key, Planned]]:
        """For every changed run which calls are edited and how.

        Each layer is rebuilt once, in the order in which they ran, and the edits are tried on it.

        Args:
            keep: is given every layer that is edited, as it is in the clean run.

        Raises:
            InspectionError: if an edit does not fit.
            ReconstructionError: if a layer is not reproduced from its coefficients.
        """
        names = [call.name for call, *_ in self._found]
        chosen = []
        for number, edits in enumerate(wanted):
            with _named(number, edits, wanted):
                chosen.append([chosen_layers(names, edit.layer) for edit in edits])
        plans: list[dict[Key, Planned]] = [{} for _ in wanted]
        for call, adapter, family, key in self._found:
            there = {
                number: mine
                for number, (edits, layers) in enumerate(zip(wanted, chosen, strict=True))
                if (mine := _of_layer(call.name, edits, layers))
            }
            if not there:
                continue
            layer, place = self._rebuilt(call, adapter, family, key)
            has_samples = self._has_samples(layer)
            keep(layer)
            for number, mine in there.items():
                with _named(number, wanted[number], wanted):
                    edited_response(Subject(call.name, layer.mixer, sources, has_samples), mine)
                plans[number][place] = Planned(
                    name=call.name,
                    mixer=type(layer.mixer),
                    samples=self.samples,
                    has_samples=has_samples,
                    is_batch=has_samples and layer.system.batch[0] == self.samples,
                    steps=layer.system.steps,
                    adapter=adapter,
                    family=family,
                    heads=call.arguments.get("heads"),
                    edits=mine,
                    sources=sources,
                )
        return plans

    def _rebuilt(
        self, call: Call, adapter: Adapter, family: str, key: Key | None
    ) -> tuple[InspectedLayer, Key]:
        limits = Limits(guarded=self._is_wide)
        layers = [build() for _, build in rebuild(call, adapter, family, limits)]
        if len(layers) != 1 or key is None:
            raise InspectionError(
                f"intervene: {call.name} is not one mixer that is called once for a sequence "
                f"({len(layers)} were read from it), so it cannot be edited as it runs."
            )
        return layers[0], key

    @property
    def samples(self) -> int:
        """How many samples the clean run has, if what it puts out has one row for each."""
        return len(self.clean) if self.clean.ndim else 1

    def _has_samples(self, layer: InspectedLayer) -> bool:
        """Whether a layer mixes one sequence for each sample, and not one for each window of it.

        Then some input or the output has as many samples, on its first axis or behind its tokens.
        """
        batch = tuple(layer.system.batch[:1])
        given = (part for part in tree_leaves((self._inputs, self._named)) if torch.is_tensor(part))
        rows = [part.shape[:2] for part in (self.clean, *given) if part.ndim > 1]
        found = any(
            batch == tuple(row[:1]) or (layer.system.steps, *batch) == tuple(row) for row in rows
        )
        return layer.axes[:1] == ("sample",) and found

    def changed(self, plan: Mapping[Key, Planned], times: int = 1) -> Tensor:
        """What the model puts out where the planned calls are edited.

        Args:
            times: how often the run has the samples of the clean one, one after the other.
        """
        copies = Copies(self.samples, times)
        if not plan:
            return copies.of(self.clean)
        count, met, edited = _Counter(), set(), {name for _, name, _ in plan}
        listens = any(through not in HOOKED for through, _, _ in plan)

        def exchange(call: Call) -> Tensor | None:
            key = count.key_of(call)
            if key not in plan:
                return None
            met.add(key)
            return plan[key].put_out(call)

        again = self._model, copies.of(self._inputs), copies.of(self._named), self._known
        try:
            with self._blocks.left_out_before(edited, copies):
                _, output = _run(*again, exchange, only=edited, listens=listens)
        except InspectionError:  # a block left something that others need beside its output
            count, met = _Counter(), set()
            _, output = _run(*again, exchange, only=edited, listens=listens)
        missed = [planned.name for key, planned in plan.items() if key not in met]
        if missed:
            raise InspectionError(
                f"intervene: with the edits {missed[0]} did not run any more, so the edits were "
                "not applied. Does the model choose its layers by its input?"
            )
        if times_written(self.clean) != self._written:
            raise InspectionError(
                "intervene: the model writes what it puts out into the tensor of its run before, "
                "so that the two cannot be compared. Have it put out a tensor of its own."
            )
        return output

    @property
    def calls(self) -> Sequence[Key | None]:
        """The calls of the mixers, in the order in which they ran."""
        return [key for *_, key in self._found]

    @property
    def _is_wide(self) -> bool:
        return dtype_of(self._model) is torch.float64


def _of_layer(
    name: str, edits: Sequence[Edit], layers: Sequence[Collection[str]]
) -> tuple[Edit, ...]:
    """The edits of one layer, given which layers each is of."""
    return tuple(edit for edit, those in zip(edits, layers, strict=True) if name in those)


@contextmanager
def _named(number: int, edits: Sequence[Edit], wanted: Sequence[object]) -> Iterator[None]:
    """Inside, an error says which of several runs has the edit that does not fit."""
    try:
        yield
    except ReconstructionError:
        raise
    except InspectionError as error:
        if len(wanted) == 1:
            raise
        listed = "; ".join(map(repr, edits))
        raise InspectionError(f"sweep: number {number} of the edits, {listed}: {error}") from error


class _Counter:
    """Numbers the calls of every module."""

    def __init__(self) -> None:
        self._seen: dict[tuple[Through, str], int] = {}

    def key_of(self, call: Call) -> Key:
        place = call.through, call.name
        self._seen[place] = self._seen.get(place, 0) + 1
        return *place, self._seen[place]


@contextmanager
def live_model(
    model: nn.Module,
    inputs: tuple[Any, ...],
    named: dict[str, Any],
    adapters: Sequence[Adapter],
    wanted: Sequence[Sequence[Edit]] = (),
) -> Iterator[LiveModel]:
    """Run ``model`` once, and again as often as wanted inside the ``with`` block.

    Args:
        wanted: the edits of every changed run that is to follow, so that what their layers were
            given and put out is kept; without any, that of all layers.

    Raises:
        InspectionError: if the model cannot be run on these inputs.
    """
    check_has_data(model)
    known = known_modules(model, adapters)
    layers = [edit.layer for edits in wanted for edit in edits]
    kept = likely_layers(model, known, layers) if layers else None
    finite = FiniteWeights(model)
    check_finite(model, besides=finite.expects)
    with isolated(model):
        try:
            with finite.watched():
                live = LiveModel.of_run(model, inputs, named, known, kept)
        finally:  # also where that is why the model could not be run
            check_finite(model, besides=lambda part: part in finite or not finite.expects(part))
        needed = live.modules_of(layers)
        if kept is not None and not needed <= kept:
            live = LiveModel.of_run(model, inputs, named, known, needed)
        yield live


@dataclass(frozen=True, eq=False)
class KeptRun:
    """A clean run that later interventions on the same input take up.

    Attributes:
        live: the run.
        facts: what it depended on.
        rewritten: the first weight that the model itself wrote into as it ran; None for none.
    """

    live: LiveModel
    facts: RunFacts
    rewritten: str | None

    @classmethod
    def of(cls, live: LiveModel, facts: RunFacts, before: Sequence[int]) -> "KeptRun":
        """The run, given how often every weight had been written into before it."""
        now = ((name, times_written(part)) for name, part in facts.model.named_parameters())
        changed = (name for (name, times), then in zip(now, before, strict=True) if times != then)
        return cls(live, facts, next(changed, None))

    @contextmanager
    def again(
        self,
        model: nn.Module,
        inputs: tuple[Any, ...],
        named: dict[str, Any],
        adapters: Sequence[Adapter],
    ) -> Iterator[LiveModel]:
        """The same as ``live_model``, without running the model.

        Raises:
            ValueError: if a run of ``model`` on these inputs would not be this one.
        """
        if self.rewritten is not None:
            raise ValueError(
                "intervene: 'clean' is a run of a model that writes into its own weights as it "
                f"runs, such as '{self.rewritten}', so that it cannot be taken up. Leave it out."
            )
        other = self.facts.difference(model, inputs, named, adapters)
        if times_written(self.live.clean) != self.live._written:
            other = "had its output written into"
        if other is not None:
            raise ValueError(
                f"intervene: 'clean' {other}, so it is not the run without these edits. Make it "
                "anew with this model and input: clean = dsf.intervene(model, input_ids=ids)."
            )
        with isolated(model):
            yield replace(self.live, _inputs=inputs, _named=named)


def _run(  # noqa: PLR0913 (what a run is called with, and what is kept of it)
    model: nn.Module,
    inputs: tuple[Any, ...],
    named: dict[str, Any],
    known: Known,
    exchange: Exchange | None = None,
    *,
    only: Collection[str] | None = None,
    kept: Collection[str] | None = None,
    listens: bool = True,
) -> tuple[list[Call], Tensor]:
    results: list[Any] = []
    handle = model.register_forward_hook(lambda _, __, output: results.append(output))
    watched = {path: model.get_submodule(path) for path in known}
    try:
        calls = run(
            model,
            watched,
            inputs,
            named,
            exchange=exchange,
            only=only,
            kept=kept,
            listens=listens,
        )
    finally:
        handle.remove()
    output = put_out(results[-1])
    if output is None:
        raise InspectionError(
            f"intervene: {type(model).__name__} puts out no tensor but "
            f"{type(results[-1]).__name__}, so nothing can be compared."
        )
    output = output.detach()
    is_part = output.untyped_storage().nbytes() != output.nbytes
    held = is_part or has_hold_of(model, (inputs, named), output)
    return calls, output.clone() if held else output
