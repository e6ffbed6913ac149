"""``intervene``: runs a model with some of its token mixers edited, and compares it with itself.

An edited layer reads its coefficients from the input that it has in the changed run, its system is
edited, and the response continues through the rest of the layer and of the model. Later layers
compute their own coefficients anew. Layers without an edit run as they are.

``LiveModel`` keeps all calls of mixers of the clean run, so that edits can be tried on them before
the model runs again.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from dsf.attribution.targets import Positions, Target, measured, put_out
from dsf.evaluate import respond
from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Call, Through
from dsf.inspection.capture.isolation import isolated
from dsf.inspection.capture.precision import dtype_of
from dsf.inspection.capture.weights import check_runnable
from dsf.inspection.choice import Chosen, chosen_layers
from dsf.inspection.errors import InspectionError, ReconstructionError
from dsf.inspection.examine import sequences
from dsf.inspection.families.registry import Known, known_modules
from dsf.inspection.model_input import model_input, run, tokens_shown
from dsf.inspection.rebuild import Limits, captured_layers, layer_names, rebuild
from dsf.inspection.results.layers import InspectedLayer, Inspection
from dsf.inspection.results.saving import save
from dsf.inspection.seen_attentions import CallKey, key_of
from dsf.interventions.edited_mixing import EditedMixer, edited_response
from dsf.interventions.edits import Edit
from dsf.runtime.shapes import of_kind


@dataclass(frozen=True, eq=False, repr=False)
class Intervention:
    """A model's output with and without edits.

    Attributes:
        output: what the model returns with the edits: its logits, or the first tensor of its
            output. In the number type of the model.
        clean: the same without edits, from the model as it is.
        edits: the edits.
        layers: the layers that were edited, as they are in the clean run.
        tokenizer: reads targets that are given as text; None where there is none.
        notes: what was ignored when the checkpoint was loaded, one sentence each; none where the
            model is a module.
        shown: the tokens of the input that are not padding; None for all.
    """

    output: Shaped[Tensor, "*axes"]
    clean: Shaped[Tensor, "*axes"]
    edits: tuple[Edit, ...]
    layers: tuple[InspectedLayer, ...]
    tokenizer: Any | None = None
    notes: tuple[str, ...] = ()
    shown: Bool[Tensor, "sample time"] | None = field(default=None, repr=False)

    @property
    def logits(self) -> Shaped[Tensor, "*axes"]:
        """The same as ``output``."""
        return self.output

    def effect(
        self, target: Target, against: Target | None = None, position: Positions = -1
    ) -> Float[Tensor, " sample"]:
        """Return by how much the edits change a logit, or the difference of two.

        Args:
            target, against, position: as for ``Stack.attribute``. A function of the logits need not
                be linear: it may be a log-probability, or a distance from the clean logits.

        Raises:
            TypeError, ValueError, IndexError: if there is no such target or position.
        """
        clean, changed = self.clean.double(), self.output.double()
        number = measured(target, against, position, clean, self.tokenizer, self.shown)
        return number(changed) - number(clean)

    def save(self, folder: str | Path) -> Path:
        """Write this result into a folder, from which ``dsf.load`` reads it without the model."""
        return save(self, folder)

    def __repr__(self) -> str:
        moved = (self.output - self.clean).abs().max().item()
        listed = "; ".join(map(repr, self.edits)) or "no edits"
        return f"Intervention({listed}: outputs move by at most {moved:.3g})"


@torch.inference_mode(False)
def intervene(
    model: nn.Module | str | Path,
    *inputs: Any,
    edits: Sequence[Edit] | Edit = (),
    layers: Chosen = None,
    heads: Chosen = None,
    sources: Mapping[str, Inspection] | None = None,
    adapters: Sequence[Adapter] = (),
    **named: Any,
) -> Intervention:
    """Run a model with edited token mixers, and once without.

    For many questions about one input, ``dsf.sweep`` shares the run without edits.

    Args:
        model: a torch module, the folder of a checkpoint, or a hub id. A module is left unchanged.
        inputs, named: a text, a mapping of tensors, or what the model is called with, such as
            ``input_ids=...``, with the options of :data:`dsf.inspection.model_input.OPTIONS`.
        edits: what is changed, see ``dsf.edits``; they may also come last among ``inputs``.
            Edits of one layer act together: those of values first, then of the state or the map,
            then of the response.
        layers, heads: where the edits act, as for :func:`dsf.inspect`: in these layers of those
            that they name, and on these heads where they name none; everywhere by default.
        sources: other runs by name, for edits that refer to one by its name.
        adapters: how to read modules of your own, as for :func:`dsf.inspect`.

    Raises:
        InspectionError: if an edit is of a layer, head, token or run that there is not, or does not
            fit its layer, or the layer cannot be read; before the changed run where possible.
        ReconstructionError: if an edited layer is not reproduced from its coefficients.

    Example:
        Without the edge from the key to its value the model forgets the answer:

        >>> import dsf, torch
        >>> from dsf.models import folder, recall
        >>> prompts = recall.draw(torch.Generator().manual_seed(0), samples=1)
        >>> cut = dsf.edits.Cut("*.1.self_attn", query=[-1])
        >>> result = dsf.intervene(folder("llama"), edits=[cut], input_ids=prompts.tokens)
        >>> result.output.shape
        torch.Size([1, 32, 33])
    """
    if not edits and inputs:
        last = inputs[-1]
        first = last[0] if isinstance(last, list | tuple) and last else last
        if isinstance(first, Edit):
            inputs, edits = inputs[:-1], last
    wanted = checked_edits(edits, heads)
    opened = model_input(model, inputs, named, where="intervene")
    module, inputs, named = opened.model, opened.inputs, opened.named
    with live_model(module, inputs, named, adapters) as live:
        edited: list[InspectedLayer] = []
        (plan,) = live.plans([wanted], checked_sources(sources), edited.append, layers)
        output = live.changed(plan)
    return Intervention(
        output=output,
        clean=live.clean,
        edits=wanted,
        layers=tuple(edited),
        tokenizer=opened.tokenizer,
        notes=opened.notes,
        shown=tokens_shown(inputs, named),
    )


def checked_edits(edits: Sequence[Edit] | Edit, heads: Chosen = None) -> tuple[Edit, ...]:
    """The edits of one run, on ``heads`` where they name none."""
    several: tuple[Any, ...] = tuple(edits) if isinstance(edits, Iterable) else (edits,)
    odd = [each for each in several if not isinstance(each, Edit) or type(each) is Edit]
    if odd:
        raise TypeError(
            f"intervene: 'edits' must hold edits such as dsf.edits.Cut(...), but one is "
            f"{type(odd[0]).__name__}."
        )
    if heads is None:
        return several
    return tuple(each if each.heads is not None else replace(each, heads=heads) for each in several)


def checked_sources(sources: Mapping[str, Inspection] | None) -> Any:
    known: Any = {} if sources is None else sources
    for each in known.values() if isinstance(known, Mapping) else [known]:
        words = "inspections by name, as in sources={'other': dsf.inspect(model, ...)}"
        of_kind("intervene", "sources", each, Inspection, words)
    return known


def repeated(samples: int, times: int, part: Any) -> Any:
    """``part`` with every tensor whose first axis counts the samples repeated along it."""

    def of_leaf(leaf: Any) -> Any:
        is_batch = isinstance(leaf, Tensor) and leaf.shape[:1] == (samples,)
        return leaf.repeat(times, *(1 for _ in leaf.shape[1:])) if is_batch else leaf

    return part if times == 1 else tree_map(of_leaf, part)


@dataclass(frozen=True, eq=False)
class Planned:
    """One call whose mixer is edited.

    ``has_samples``: whether the first batch axis of its system counts the samples of the clean run;
    ``is_batch``: whether they are also the first axis of what the model returns.
    """

    name: str
    mixer: type
    has_samples: bool
    is_batch: bool
    steps: int
    adapter: Adapter
    family: str
    heads: int | None
    edits: tuple[Edit, ...]
    sources: Mapping[str, Inspection]

    def response(self, layer: str, mixer: Any, plain: Tensor | None = None) -> Tensor:
        """What a mixer responds with the edits, where it responds ``plain`` without."""
        subject = EditedMixer(layer, mixer, self.sources, self.has_samples)
        return edited_response(subject, self.edits, plain)

    def put_out(self, call: Call) -> Tensor:
        """What the module, or its attention, returns with the edits; unmoved numbers stay."""
        call.name = self.name
        if call.through is Through.FOLLOWED:
            call.arguments["heads"] = self.heads
        (captured,) = captured_layers(call, self.adapter, self.family)
        mixer = self.adapter.read(captured)
        plain = respond(mixer.system(), mixer.signal())
        clean = self.adapter.finished(captured, mixer, plain)
        edited = self.response(captured.name, mixer, plain)
        changed = self.adapter.finished(captured, mixer, edited)
        moved = changed != clean
        other = self.adapter.overlooked(captured)
        if other is not None and moved.shape[:-1] == other.shape:
            moved = moved & ~other.unsqueeze(-1)
        return torch.where(moved, changed, captured.output)


@dataclass(frozen=True, eq=False)
class LiveModel:
    """A model and a clean run of it, which can be repeated with some mixers edited."""

    clean: Tensor
    _model: nn.Module
    _inputs: tuple[Any, ...]
    _named: dict[str, Any]
    _known: Known
    _found: Sequence[tuple[Call, Adapter, str, CallKey | None]]

    def plans(
        self,
        wanted: Sequence[Sequence[Edit]],
        sources: Mapping[str, Inspection],
        keep: Callable[[InspectedLayer], object] = lambda _: None,
        within: Chosen = None,
    ) -> list[dict[CallKey, Planned]]:
        """For every changed run which calls are edited and how, once all edits were tried."""
        names = [layer_names(*each[:3]) for each in self._found]
        every = [name for several in names for name in several]
        inside, chosen = chosen_layers(every, within), []
        for number, edits in enumerate(wanted):
            with _named(number, edits, wanted):
                chosen.append([(edit, chosen_layers(every, edit.layer) & inside) for edit in edits])
        plans: list[dict[CallKey, Planned]] = [{} for _ in wanted]
        limits = Limits(guarded=dtype_of(self._model) is torch.float64)
        for (call, adapter, family, key), several in zip(self._found, names, strict=True):
            there = {
                number: mine
                for number, pairs in enumerate(chosen)
                if (mine := tuple(edit for edit, those in pairs if those.intersection(several)))
            }
            if not there:
                continue
            layers_of_call = [build() for _, build in rebuild(call, adapter, family, limits)]
            if len(layers_of_call) != 1 or key is None:
                raise InspectionError(
                    f"intervene: {call.name} is not one mixer that is called once for a sequence "
                    f"({len(layers_of_call)} were read from it), so it cannot be edited as it runs."
                )
            (layer,) = layers_of_call
            has_samples = self._has_samples(layer)
            keep(layer)
            for number, mine in there.items():
                plans[number][key] = Planned(
                    name=call.name,
                    mixer=type(layer.mixer),
                    has_samples=has_samples,
                    is_batch=has_samples and layer.system.batch[0] == self.samples,
                    steps=layer.system.steps,
                    adapter=adapter,
                    family=family,
                    heads=call.arguments.get("heads"),
                    edits=mine,
                    sources=sources,
                )
                with _named(number, wanted[number], wanted):
                    plans[number][key].response(layer.name, layer.mixer)
        return plans

    @property
    def samples(self) -> int:
        """How many samples the clean run has, if what it returns has one row for each."""
        return len(self.clean) if self.clean.ndim else 1

    def _has_samples(self, layer: InspectedLayer) -> bool:
        """Whether a layer mixes one sequence for each sample, as some input or the output has."""
        batch = tuple(layer.system.batch[:1])
        given = (part for part in tree_leaves((self._inputs, self._named)) if torch.is_tensor(part))
        rows = [part.shape[:2] for part in (self.clean, *given) if part.ndim > 1]
        found = any(
            batch == tuple(row[:1]) or (layer.system.steps, *batch) == tuple(row) for row in rows
        )
        return layer.axes[:1] == ("sample",) and found

    def changed(self, plan: Mapping[CallKey, Planned], times: int = 1) -> Tensor:
        several = partial(repeated, self.samples, times)
        if not plan:
            return several(self.clean)
        met: set[CallKey] = set()
        count: Counter[tuple[Through, str]] = Counter()
        edited = {name for _, name, _ in plan}

        def exchange(call: Call) -> Tensor | None:
            key = key_of(call, count)
            if key not in plan:
                return None
            met.add(key)
            return plan[key].put_out(call)

        again = self._model, several(self._inputs), several(self._named), self._known
        _, output = _run(*again, exchange=exchange, only=edited)
        missed = [planned.name for key, planned in plan.items() if key not in met]
        if missed:
            raise InspectionError(
                f"intervene: with the edits {missed[0]} did not run any more, so the edits were "
                "not applied. Does the model choose its layers by its input?"
            )
        return output


@contextmanager
def _named(number: int, edits: Sequence[Edit], wanted: Sequence[object]) -> Iterator[None]:
    """Inside, an error says which of several runs has the edit that does not fit."""
    try:
        yield
    except InspectionError as error:
        if len(wanted) == 1 or isinstance(error, ReconstructionError):
            raise
        listed = "; ".join(map(repr, edits))
        raise InspectionError(f"sweep: number {number} of the edits, {listed}: {error}") from error


@contextmanager
def live_model(
    model: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], adapters: Sequence[Adapter]
) -> Iterator[LiveModel]:
    """Run ``model`` once, and again as often as wanted inside the ``with`` block."""
    check_runnable(model)
    known = known_modules(model, adapters)
    with isolated(model):
        calls, clean = _run(model, inputs, named, known)
        count = Counter[tuple[Through, str]]()
        keys = {id(call): key_of(call, count) for call in calls}
        found = [(*each, keys.get(id(each[0]))) for each in sequences(calls, known)]
        yield LiveModel(clean, model, inputs, named, known, found)


def _run(
    model: nn.Module, inputs: Any, named: Any, known: Known, **asked: Any
) -> tuple[list[Call], Tensor]:
    results: list[Any] = []
    watched = {path: model.get_submodule(path) for path in known}
    with model.register_forward_hook(lambda _, __, output: results.append(output)):
        calls = run(model, watched, inputs, named, **asked)
    output = put_out(results[-1])
    if output is None:
        raise InspectionError(
            f"intervene: {type(model).__name__} returns no tensor but "
            f"{type(results[-1]).__name__}, so nothing can be compared."
        )
    return calls, output.detach().clone()  # a later run may write into that of this one
