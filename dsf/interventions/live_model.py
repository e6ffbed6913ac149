"""A model and a run of it, which can be repeated with some of its token mixers edited.

``LiveModel`` runs a model and repeats that run with edits. ``CleanBlocks`` leaves out the blocks
before the first edit, whose outputs are those of the clean run. ``likely_layers`` guesses which
modules hold the edited layers, so that only these are kept.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules
from torch.utils._pytree import tree_leaves, tree_map

from dsf.attribution.targets import put_out
from dsf.evaluate import respond
from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Call, Exchange, Through, copied
from dsf.inspection.capture.containers import times_written
from dsf.inspection.capture.isolation import isolated
from dsf.inspection.capture.precision import dtype_of
from dsf.inspection.capture.weights import check_runnable
from dsf.inspection.choice import Chosen, chosen_layers, each_chosen
from dsf.inspection.errors import InspectionError, ReconstructionError
from dsf.inspection.examine import sequences
from dsf.inspection.families.registry import Known, known_modules
from dsf.inspection.rebuild import Limits, captured_layers, rebuild
from dsf.inspection.recorded_run import run
from dsf.inspection.results.layers import InspectedLayer, Inspection
from dsf.inspection.softmax.interface import models_of_library
from dsf.interventions.edited_mixing import EditedMixer, edited_response
from dsf.interventions.edits import Edit

CallKey = tuple[Through, str, int]
"""By which way a call was recorded, in which module, and which of its calls it is."""
HOOKED = (Through.MODULE, Through.INTERFACE)
"""Ways of recording that need no interception of torch functions."""
TORCH_ATTRIBUTES = {"_parameters", "_buffers", "_modules"} | {
    name for name in vars(nn.Module()) if "hook" in name
}
"""Attributes that torch gives to every module."""
PLAIN_TYPES = {int, float, str, bool, type(None)}
CONTAINERS = (list, tuple, set, dict)


@dataclass(frozen=True)
class RepeatedSamples:
    """How often a batch holds the samples of another one, all of them before the first again.

    Attributes:
        samples: how many samples the other batch has.
    """

    samples: int = 1
    times: int = 1

    def of(self, part: Any) -> Any:
        """``part`` with every tensor whose first axis counts the samples repeated along it."""

        def repeated(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor) or leaf.shape[:1] != (self.samples,):
                return leaf
            return leaf.repeat(self.times, *(1 for _ in leaf.shape[1:]))

        return part if self.times == 1 else tree_map(repeated, part)


class CleanBlocks:
    """What the blocks of a model returned in its clean run.

    Blocks are the entries of the outermost lists of modules.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._blocks = _entries(model)
        self._begun: list[str] = []
        self._ended_before: dict[str, set[str]] = {}
        self._outputs: dict[str, Any] = {}
        self._seen: dict[str, list[Any]] = {}
        self._leaving: set[str] = set()
        self._awaited: set[str | None] | None = None
        inside = {id(part) for each in self._blocks.values() for part in each.modules()}
        self._outside = [part for part in model.modules() if id(part) not in inside]

    @contextmanager
    def recorded(self, until: Collection[str] | None = None) -> Iterator[None]:
        """Record what the blocks return inside the ``with`` block.

        Args:
            until: modules that may be the first to be edited in a changed run: no block is
                recorded once those with one of them have all begun.
        """
        if until is not None:
            self._awaited = {_block_of(path, self._blocks) for path in until}
        with ExitStack() as hooks:
            for path, block in self._blocks.items():
                before = block.register_forward_pre_hook(self._before(path), with_kwargs=True)
                # Hooks of others are called again on what a block that is left out returns.
                after = block.register_forward_hook(
                    self._after(path), with_kwargs=True, prepend=True
                )
                hooks.callback(before.remove)
                hooks.callback(after.remove)
            yield

    @contextmanager
    def left_out_before(
        self, edited: Collection[str], copies: "RepeatedSamples | None" = None
    ) -> Iterator[None]:
        """Do not run the blocks that had ended before the first with one of these modules began.

        None is left out where an edited module lies in no block, or in several places.

        Args:
            copies: how often the changed run has the samples of the clean one.
        """
        several = RepeatedSamples() if copies is None else copies
        with ExitStack() as restored:
            for path in self._unedited(edited):
                block, output = self._blocks[path], self._outputs[path]
                block.forward = lambda *_, output=output, **__: several.of(copied(output))
                restored.callback(vars(block).pop, "forward")
            yield

    def _unedited(self, edited: Collection[str]) -> list[str]:
        around = {path: _block_of(path, self._blocks) for path in edited}
        first = next((path for path in self._begun if path in around.values()), None)
        wanted = {self._model.get_submodule(path) for path in edited}
        every = self._model.named_modules(remove_duplicate=False)
        is_shared = sum(module in wanted for _, module in every) > len(wanted)
        if first is None or None in around.values() or is_shared:
            return []
        if torch_modules._global_forward_hooks:  # called before ours, and again
            return []
        once = {path for path in self._outputs if self._begun.count(path) == 1}
        once -= self._leaving
        plain = {path for path in once if "forward" not in vars(self._blocks[path])}
        return sorted(self._ended_before[first] & plain)

    def _before(self, path: str) -> Any:
        def hook(block: nn.Module, args: Any, kwargs: Any) -> None:
            self._ended_before.setdefault(path, set(self._outputs))
            self._begun.append(path)
            if self._awaited is not None:
                self._awaited.discard(path)
            if self._awaited != set():
                self._seen[path] = self._around(block, args, kwargs)

        return hook

    def _after(self, path: str) -> Any:
        def hook(block: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if path not in self._seen:
                return
            self._outputs[path] = copied(output)
            before, after = self._seen.pop(path), self._around(block, args, kwargs)
            if not is_same(before, after):
                self._leaving.add(path)

        return hook

    def _around(self, block: nn.Module, args: Any, kwargs: Any) -> list[Any]:
        """What a block can reach and write into besides its output."""
        found: list[Any] = []
        seen: set[int] = set()  # modules share their configuration, into which one look is enough
        parts = [
            part
            for owner in (*block.modules(), *self._outside)
            for part in (*dict(of_its_own(owner)).values(), *owner._buffers.values())
        ]
        parts += [part for part in (*args, *kwargs.values()) if not isinstance(part, Tensor)]
        for part in parts:
            if type(part) in PLAIN_TYPES:
                found.append(part)
                continue
            found += [part] if id(part) in seen else traces(part)
            seen.add(id(part))
        return found


def of_its_own(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The attributes of a module that are not torch's."""
    return ((name, part) for name, part in vars(module).items() if name not in TORCH_ATTRIBUTES)


def traces(part: Any) -> list[Any]:
    """What would change about an object if something were left in it; it is kept alive."""
    if type(part) in PLAIN_TYPES:
        return [part]
    if isinstance(part, Tensor):
        return [part, times_written(part)]
    if isinstance(part, list | tuple | set):
        return [part, len(part), *(each for each in part if isinstance(each, Tensor))]
    if isinstance(part, dict):
        return [part, len(part), *part.values()]
    if hasattr(part, "__dict__") and not isinstance(part, nn.Module | type):
        values = vars(part).values()
        return [part, *values, *(len(each) for each in values if isinstance(each, CONTAINERS))]
    return [part]


def has_hold_of(model: nn.Module, given: Any, tensor: Tensor) -> bool:
    """Whether a tensor shares its memory with weights, attributes or inputs of a model.

    A later run may write into such a one. One of inference mode takes no part in gradients, and
    counts as held.
    """
    if tensor.is_inference():
        return True
    place = tensor.untyped_storage().data_ptr()
    parts = [*model.parameters(), *model.buffers(), *tree_leaves(given)]
    seen: set[int] = set()
    for module in model.modules():
        for _, part in of_its_own(module):
            if type(part) in PLAIN_TYPES or id(part) in seen:
                continue
            seen.add(id(part))
            parts += tree_leaves(part) if isinstance(part, list | tuple | dict) else traces(part)
    held = (part for part in parts if isinstance(part, Tensor))
    return any(part.untyped_storage().data_ptr() == place for part in held)


def is_same(before: Sequence[Any], after: Sequence[Any]) -> bool:
    """Whether two lists hold the same objects, or equal plain ones."""

    def is_one(one: Any, other: Any) -> bool:
        plain = int | float | str | bool
        is_plain = isinstance(one, plain) and isinstance(other, plain)
        return one is other or (is_plain and bool(one == other))

    return len(before) == len(after) and all(map(is_one, before, after))


def _entries(model: nn.Module) -> dict[str, nn.Module]:
    """The entries of the outermost lists of modules, by path."""
    found: dict[str, nn.Module] = {}
    waiting = [("", model)]
    while waiting:
        path, module = waiting.pop(0)
        children = [(f"{path}.{name}".lstrip("."), part) for name, part in module.named_children()]
        if isinstance(module, nn.ModuleList | nn.Sequential):
            scripted = torch.jit.ScriptModule
            found |= {at: part for at, part in children if not isinstance(part, scripted)}
        else:
            waiting += children
    return found


def _block_of(path: str, blocks: Collection[str]) -> str | None:
    return next((at for at in blocks if path == at or path.startswith(f"{at}.")), None)


def likely_layers(model: nn.Module, known: Known, wanted: Sequence[Chosen]) -> set[str] | None:
    """Paths of modules among which those of the wanted layers are likely to be.

    Args:
        known: the modules that adapters read.
        wanted: which layers, as for ``chosen_layers``.

    Returns:
        The paths; None where only a run can tell.
    """
    paths, mixers = [path for path, _ in model.named_modules()], list(_mixers(model, known))
    found: set[str] = set()
    try:
        for each in (one for several in wanted for one in each_chosen(several)):
            found |= chosen_layers(paths if isinstance(each, str) else mixers, each)
    except InspectionError:  # perhaps a name of another kind than a path
        return None
    return found


def _mixers(model: nn.Module, known: Known) -> Iterator[str]:
    """Modules that mix tokens by their class, where the classes are those of the model library."""
    if models_of_library(model) != [model]:
        return
    attentions = {
        path for path, part in model.named_modules() if type(part).__name__.endswith("Attention")
    }
    outer = {path[:at] for path in attentions for at, sign in enumerate(path) if sign == "."}
    for path, _ in model.named_modules():
        if path in known or (path in attentions and path not in outer):
            yield path


@dataclass(frozen=True, eq=False)
class Planned:
    """One call whose mixer is edited.

    Attributes:
        name: of the layer.
        mixer: what its mixer is.
        samples: how many samples the clean run has.
        has_samples: whether the first batch axis of the mixer's system counts them.
        is_batch: whether they are also the first axis of what the model returns.
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
        """What the module, or its attention, returns with the edits; unmoved numbers stay."""
        call.name = self.name
        if call.through is Through.FOLLOWED:
            call.arguments["heads"] = self.heads
        (captured,) = captured_layers(call, self.adapter, self.family)
        mixer = self.adapter.read(captured)
        plain = respond(mixer.system(), mixer.signal())
        clean = self.adapter.finished(captured, mixer, plain)
        subject = EditedMixer(self.name, mixer, self.sources, self.has_samples)
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
        clean: what it returns without edits.
    """

    clean: Tensor
    _model: nn.Module
    _inputs: tuple[Any, ...]
    _named: dict[str, Any]
    _known: Known
    _found: Sequence[tuple[Call, Adapter, str, CallKey | None]]
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
        count = CallCounter()
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
        within: Chosen = None,
    ) -> list[dict[CallKey, Planned]]:
        """For every changed run which calls are edited and how.

        Each layer is rebuilt once, in the order in which they ran, and the edits are tried on it.

        Args:
            keep: is given every layer that is edited, as it is in the clean run.
            within: the layers in which edits act; all by default.

        Raises:
            InspectionError: if an edit does not fit.
            ReconstructionError: if a layer is not reproduced from its coefficients.
        """
        names = [call.name for call, *_ in self._found]
        inside, chosen = chosen_layers(names, within), []
        for number, edits in enumerate(wanted):
            with _named(number, edits, wanted):
                chosen.append([chosen_layers(names, edit.layer) & inside for edit in edits])
        plans: list[dict[CallKey, Planned]] = [{} for _ in wanted]
        for call, adapter, family, key in self._found:
            there: dict[int, tuple[Edit, ...]] = {}
            for number, (edits, layers) in enumerate(zip(wanted, chosen, strict=True)):
                pairs = zip(edits, layers, strict=True)
                if mine := tuple(edit for edit, those in pairs if call.name in those):
                    there[number] = mine
            if not there:
                continue
            layer, place = self._rebuilt(call, adapter, family, key)
            has_samples = self._has_samples(layer)
            keep(layer)
            for number, mine in there.items():
                with _named(number, wanted[number], wanted):
                    edited_response(EditedMixer(call.name, layer.mixer, sources, has_samples), mine)
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
        self, call: Call, adapter: Adapter, family: str, key: CallKey | None
    ) -> tuple[InspectedLayer, CallKey]:
        limits = Limits(guarded=dtype_of(self._model) is torch.float64)
        layers = [build() for _, build in rebuild(call, adapter, family, limits)]
        if len(layers) != 1 or key is None:
            raise InspectionError(
                f"intervene: {call.name} is not one mixer that is called once for a sequence "
                f"({len(layers)} were read from it), so it cannot be edited as it runs."
            )
        return layers[0], key

    @property
    def samples(self) -> int:
        """How many samples the clean run has, if what it returns has one row for each."""
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

    def changed(self, plan: Mapping[CallKey, Planned], times: int = 1) -> Tensor:
        """What the model returns where the planned calls are edited.

        Args:
            times: how often the run has the samples of the clean one, one after the other.
        """
        copies = RepeatedSamples(self.samples, times)
        if not plan:
            return copies.of(self.clean)
        count, met, edited = CallCounter(), set(), {name for _, name, _ in plan}
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
        except InspectionError:  # a block left something that others need besides its output
            count, met = CallCounter(), set()
            _, output = _run(*again, exchange, only=edited, listens=listens)
        missed = [planned.name for key, planned in plan.items() if key not in met]
        if missed:
            raise InspectionError(
                f"intervene: with the edits {missed[0]} did not run any more, so the edits were "
                "not applied. Does the model choose its layers by its input?"
            )
        if times_written(self.clean) != self._written:
            raise InspectionError(
                "intervene: the model writes its output into the tensor of its run before, "
                "so that the two cannot be compared. Have it return a tensor of its own."
            )
        return output

    @property
    def calls(self) -> Sequence[CallKey | None]:
        """The calls of the mixers, in the order in which they ran."""
        return [key for *_, key in self._found]


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


class CallCounter:
    """Numbers the calls of every module."""

    def __init__(self) -> None:
        self._seen: dict[tuple[Through, str], int] = {}

    def key_of(self, call: Call) -> CallKey:
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
        wanted: the edits of every changed run that is to follow, so that what their layers received
            and returned is kept; without any, that of all layers.

    Raises:
        InspectionError: if the model cannot be run on these inputs.
    """
    check_runnable(model)
    known = known_modules(model, adapters)
    layers = [edit.layer for edits in wanted for edit in edits]
    kept = likely_layers(model, known, layers) if layers else None
    with isolated(model):
        live = LiveModel.of_run(model, inputs, named, known, kept)
        needed = live.modules_of(layers)
        if kept is not None and not needed <= kept:
            live = LiveModel.of_run(model, inputs, named, known, needed)
        yield live


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
            f"intervene: {type(model).__name__} returns no tensor but "
            f"{type(results[-1]).__name__}, so nothing can be compared."
        )
    output = output.detach()
    is_part = output.untyped_storage().nbytes() != output.nbytes
    held = is_part or has_hold_of(model, (inputs, named), output)
    return calls, output.clone() if held else output
