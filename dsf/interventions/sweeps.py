"""``sweep``: many edited runs of one model, several of them as samples of one batch.

Edits act on samples separately, so that runs which edit the same layers in the same way can share a
batch. Whether the samples of a model leave each other alone is asked of it: the first batch of
every kind holds a sample without edits and one whose run was also made alone, and both have to come
out the same. Otherwise the runs of that kind are made one after the other.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsf.attribution.functionals import Functional, paired
from dsf.attribution.targets import Target, functional_of
from dsf.inspection.adapter import Adapter
from dsf.inspection.errors import InspectionError, InspectionMemoryError
from dsf.inspection.recorded_run import without_logits
from dsf.inspection.results.layers import Inspection
from dsf.interventions.edited_mixing import places
from dsf.interventions.edits import Edit, Forget, MapEdit, MapFrom, Reduce, StateFrom, ValueFrom
from dsf.interventions.intervention import (
    Intervention,
    checked_edits,
    checked_sources,
    live_or_kept,
    loaded_model,
)
from dsf.interventions.live_model import Key, LiveModel, Planned
from dsf.interventions.sweep_record import SweepRecord
from dsf.runtime.shapes import at_least, of_kind

AT_ONCE = {"cpu": 1024}
"""The tokens of all samples of a batch, by the kind of device."""
AT_ONCE_ELSEWHERE = 16384
MOST = 64
"""The most runs in one batch."""
SAME = {torch.float64: 1e-6, torch.float32: 3e-5}
"""How far a sample may come out in another batch, relative; norms compute in float32."""
SAME_ELSEWHERE = 5e-2
Plan = Mapping[Key, Planned]
Kind = tuple[Any, ...]


@dataclass(frozen=True)
class Pace:
    """How far a sweep is.

    Attributes:
        done: how many runs are finished, those of an earlier call included.
        count: how many there are.
        rate: runs finished for each second of this call.
        left: the seconds that are left, if the rest takes as long as what is done; a run with a
            later edit has fewer blocks to run.
    """

    done: int
    count: int
    rate: float
    left: float

    def __str__(self) -> str:
        return (
            f"{self.done} of {self.count} edits, {self.rate:.2g} for each second, "
            f"{self.left:.0f} s left"
        )


@dataclass(frozen=True, eq=False)
class Swept:
    """The results of a sweep.

    Attributes:
        effects: by how much each run moved the number.
        clean: the number without edits.
        rate: runs for each second of this call; 0 where there was none to make.
        made: how many runs this call made; the others were in the file already.
    """

    effects: Float[Tensor, "edit sample"]
    clean: Float[Tensor, " sample"]
    rate: float
    made: int


def sweep(  # noqa: PLR0913 (which edits, on which number, how far it is)
    model: nn.Module | str | Path,
    *inputs: Any,
    edits: Sequence[Edit | Sequence[Edit]] | Edit,
    target: Target,
    against: Target | None = None,
    position: int = -1,
    sources: Mapping[str, Inspection] | None = None,
    adapters: Sequence[Adapter] = (),
    clean: Intervention | None = None,
    together: int | None = None,
    resume: str | Path | None = None,
    progress: Callable[[int, int], None] | bool | None = None,
    **named: Any,
) -> Float[Tensor, "edit sample"]:
    """The effects of many edits, each in a run of its own, on a logit or a difference of two.

    For heat maps over layers, heads and tokens. The model is read once, and blocks before an edit
    are not run again. Runs that edit the same layers in the same way are samples of one batch where
    that gives the same numbers to rounding, which is tried first.

    Args:
        edits: for every run one edit, or several that act together.
        target, against, position: the number of interest, as for ``Stack.attribute``.
        together: how many runs at most share a batch; by default as many as suit the length of the
            input and the device. 1 runs one after the other.
        resume: a file of JSON lines, to which every finished run is added. A sweep that was
            interrupted goes on there; a file of another model, input, target or list of edits is
            refused, and so is one that another process is writing. Lines are whole whenever the
            program is stopped.
        progress: is called after every run with how many are done and how many there are; True
            shows that, the rate and the time left on standard error.
        model, inputs, sources, adapters, clean, named: as for :func:`intervene`. With ``clean`` all
            logits are computed in every run, as they were in that one.

    Raises:
        InspectionError, ReconstructionError: as for :func:`intervene`; all edits are checked
            before the first changed run.
        TypeError, ValueError: if ``together`` is less than 1, the file is of another sweep, or
            ``clean`` is no run without edits of this model on this input.

    Example:
        >>> import dsf, torch
        >>> from dsf.models import folder, recall
        >>> tokens = recall.draw(torch.Generator().manual_seed(0), samples=1).tokens
        >>> heads = [dsf.edits.Ablate(layer, heads=[k]) for layer in (0, 1) for k in (0, 1)]
        >>> effects = dsf.sweep(folder("llama"), edits=heads, target=7, input_ids=tokens)
        >>> effects.reshape(2, 2).shape  # layer, head
        torch.Size([2, 2])
    """
    words = "True, or a function of how many runs are done and how many there are"
    known = lambda given: given is None or isinstance(given, bool) or callable(given)  # noqa: E731
    of_kind("sweep", "progress", progress, known, words)
    if resume is not None:
        of_kind("sweep", "resume", resume, str | Path, "the path of a file")
    told = _printer() if progress is True else None
    if callable(progress):
        tell = progress
        told = lambda pace: tell(pace.done, pace.count)  # noqa: E731
    question = Question(target, against, position)
    return swept(
        model,
        inputs,
        named,
        edits=edits,
        question=question,
        sources=sources or {},
        adapters=adapters,
        clean=clean,
        together=together,
        resume=resume,
        told=told,
    ).effects


@dataclass(frozen=True)
class Question:
    """Which number of a model's output a sweep is about."""

    target: Target
    against: Target | None = None
    position: int = -1

    def is_last(self, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> bool:
        """Whether the logits after the last token are all that is needed."""
        ids = named.get("input_ids", inputs[0] if inputs else None)
        steps = ids.shape[1] if isinstance(ids, Tensor) and ids.ndim == 2 else None
        at_end = self.position == -1 or (steps is not None and self.position == steps - 1)
        return at_end and not callable(self.target)


@torch.inference_mode(False)
def swept(  # noqa: PLR0913 (what a sweep is called with)
    model: nn.Module | str | Path,
    inputs: tuple[Any, ...],
    named: dict[str, Any],
    *,
    edits: Sequence[Edit | Sequence[Edit]] | Edit,
    question: Question,
    sources: Mapping[str, Inspection] | None = None,
    adapters: Sequence[Adapter] = (),
    clean: Intervention | None = None,
    together: int | None = None,
    resume: str | Path | None = None,
    told: Callable[[Pace], None] | None = None,
    tokenizer: Any | None = None,
) -> Swept:
    """The same as ``sweep``, with more of what was found.

    Args:
        tokenizer: reads targets that are text, where the model is a module.
    """
    if together is not None:
        at_least(1, "sweep", "together", together)
    of_kind("sweep", "edits", edits, Edit | Iterable, "a list of edits such as dsf.edits.Cut(...)")
    runs = [edits] if isinstance(edits, Edit) else edits
    wanted, known = [checked_edits(each) for each in runs], checked_sources(sources)
    module, own, _ = loaded_model(model)
    record = None if resume is None else SweepRecord(resume, wanted)
    given = named
    if clean is None and question.is_last(inputs, named):
        given = without_logits(module, inputs, named)
        question = question if given is named else replace(question, position=-1)
    opened = live_or_kept(clean, wanted)(module, inputs, given, adapters)
    with nullcontext() if record is None else record, opened as live:
        asked = Asked.of(question, live.clean, own or tokenizer)
        plans = live.plans(wanted, known)
        finished: dict[int, list[float]] = {}
        if record is not None:
            facts = {"model": module, "input": (inputs, named), "target": asked.functional.dense()}
            unmoved = asked.of_output(live.clean)
            finished = record.begin(facts, known, unmoved, asked.rounding(live.clean))
        running = _Running(live, plans, asked, together, _Watch(plans, live, set(finished), told))
        rows = {at: torch.tensor(row, dtype=torch.float64) for at, row in finished.items()}
        for at, effect in running.effects(set(finished)):
            rows[at] = effect.cpu()
            if record is not None:
                record.add(at, effect.tolist())
            running.watch.finished(at)
        before = asked.of_output(live.clean)
    effects = [rows[at].to(before.device) for at in range(len(wanted))]
    return Swept(
        effects=torch.stack(effects) if effects else before.new_zeros(0, len(before)),
        clean=before,
        rate=running.watch.rate,
        made=len(wanted) - len(finished),
    )


@dataclass(frozen=True, eq=False)
class Asked:
    """The number that a sweep is about."""

    functional: Functional

    @classmethod
    def of(cls, question: Question, clean: Tensor, tokenizer: Any | None) -> "Asked":
        return cls(
            functional_of(
                question.target, question.against, question.position, clean.double(), tokenizer
            )
        )

    def of_output(self, output: Tensor) -> Float[Tensor, " sample"]:
        return paired(self.functional.weights, self.rows(output).double())

    def rows(self, output: Tensor) -> Tensor:
        """What is looked at of an output."""
        return self.functional.at_its_places(output)

    def rounding(self, clean: Tensor) -> Float[Tensor, " sample"]:
        """By how much the number may differ in another run of the same model."""
        size = paired(self.functional.weights, self.rows(clean).double(), absolute=True)
        return 10 * SAME.get(clean.dtype, SAME_ELSEWHERE) * size + 1e-12


@dataclass(eq=False)
class _Watch:
    """Counts and times the runs."""

    plans: Sequence[Plan]
    live: LiveModel
    before: set[int]
    told: Callable[[Pace], None] | None
    _begun: float = field(default_factory=monotonic)
    _done: int = 0
    _cost: int = 0
    _last: float | None = None

    def __post_init__(self) -> None:
        self._costs = [_cost(plan, self.live) for plan in self.plans]
        left = (cost for at, cost in enumerate(self._costs) if at not in self.before)
        self._all = sum(left)

    def finished(self, at: int) -> None:
        self._done += 1
        self._cost += self._costs[at]
        self._last = monotonic()
        if self.told is not None:
            each = (self._last - self._begun) / self._cost
            done, left = len(self.before) + self._done, self._all - self._cost
            self.told(Pace(done, len(self.plans), self.rate, max(0.0, left * each)))

    @property
    def rate(self) -> float:
        if self._last is None or self._last == self._begun:
            return 0.0
        return self._done / (self._last - self._begun)


def _cost(plan: Plan, live: LiveModel) -> int:
    """How much of the model runs again, in mixers."""
    return len(live.calls) - _first(plan, live) + 1


def _first(plan: Plan, live: LiveModel) -> int:
    """Which mixer is the first that is edited."""
    return min((live.calls.index(key) for key in plan), default=len(live.calls))


@dataclass(eq=False)
class _Running:
    """The runs of a sweep in batches.

    Attributes:
        joins: for every kind of run that was tried in a batch, in whatever layer, whether it may
            be.
    """

    live: LiveModel
    plans: Sequence[Plan]
    asked: Asked
    together: int | None
    watch: _Watch
    joins: dict[Kind, bool] = field(default_factory=dict)

    def effects(self, finished: set[int]) -> Iterator[tuple[int, Tensor]]:
        """The numbers of the runs and their effects, those that run most of the model first."""
        self._before = self.asked.of_output(self.live.clean)
        left = [at for at in range(len(self.plans)) if at not in finished]
        left.sort(key=lambda at: _first(self.plans[at], self.live))
        while left:
            first = self.plans[left[0]]
            kind, most = _kind(first), self._most(first)
            if kind is not None and self.joins.get(_anywhere(kind), True):
                alike = [at for at in left if _kind(self.plans[at]) == kind][:most]
            else:
                alike = left[:1]
            yield from self._batch(alike, kind)
            left = [at for at in left if at not in alike]

    def _batch(self, batch: list[int], kind: Kind | None) -> Iterator[tuple[int, Tensor]]:
        if len(batch) > 1 and kind is not None:
            rows = self._joined(batch, kind)
            if rows is not None:
                for at, output in zip(batch, rows, strict=True):
                    yield at, self._effect(output)
                return
        for at in batch:
            yield at, self._effect(self.live.changed(self.plans[at]))

    def _effect(self, output: Tensor) -> Float[Tensor, " sample"]:
        return self.asked.of_output(output) - self._before

    def _joined(self, batch: list[int], kind: Kind) -> list[Tensor] | None:
        """What the runs put out, made in one batch; None where they may not be."""
        plans = [self.plans[at] for at in batch]
        if _anywhere(kind) in self.joins:
            return self._several(plans)
        alone = self.live.changed(plans[0])
        try:
            clean, *outputs = self._several([_unedited(plans[0]), *plans])
        except InspectionError:
            self.joins[_anywhere(kind)] = False
            return None
        same = self._same(clean, self.live.clean) and self._same(outputs[0], alone)
        self.joins[_anywhere(kind)] = same
        return outputs if same else None

    def _several(self, plans: list[Plan]) -> list[Tensor]:
        """Runs in one batch, or in halves of it where memory does not suffice."""
        try:
            output = self.live.changed(_side_by_side(plans, len(self.live.clean)), len(plans))
        except InspectionMemoryError:
            if len(plans) < 3:
                raise
            half = len(plans) // 2
            self.together = half
            return [*self._several(plans[:half]), *self._several(plans[half:])]
        if len(output) != len(plans) * len(self.live.clean):
            raise InspectionError("sweep: the model does not put out the samples of its input.")
        return list(output.chunk(len(plans)))

    def _same(self, one: Tensor, other: Tensor) -> bool:
        """Whether an output is the same to rounding."""
        one, other = self.asked.rows(one), self.asked.rows(other)
        if one.shape != other.shape:
            return False
        limit = SAME.get(other.dtype, SAME_ELSEWHERE) * other.double().abs().max()
        return bool((one.double() - other.double()).abs().max() <= limit)

    def _most(self, plan: Plan) -> int:
        """How many runs like this one suit one batch."""
        if self.together is not None:
            return self.together
        steps = max((planned.steps for planned in plan.values()), default=1)
        room = AT_ONCE.get(self.live.clean.device.type, AT_ONCE_ELSEWHERE)
        return max(1, min(MOST, room // (steps * len(self.live.clean))))


def _kind(plan: Plan) -> Kind | None:
    """What two runs must have in common to share a batch; None where they cannot."""
    found: list[Any] = []
    for key, planned in plan.items():
        acting = {_acting(edit) for edit in planned.edits} - {None}
        takes = any(isinstance(edit, MapFrom | ValueFrom | StateFrom) for edit in planned.edits)
        if not planned.is_batch or "reduction" in acting or (takes and planned.samples > 1):
            return None
        found.append((key, planned.mixer, *sorted(map(str, acting))))
    return tuple(found) or None


def _anywhere(kind: Kind) -> Kind:
    """The same without which layers are edited."""
    return tuple(sorted({each[1:] for each in kind}, key=str))


def _acting(edit: Edit) -> str | None:
    """On what of a mixer an edit acts where two kinds in one layer exclude each other."""
    if isinstance(edit, Reduce):
        return "reduction"
    if isinstance(edit, Forget | StateFrom):
        return "state"
    return "map" if isinstance(edit, MapEdit) else None


def _unedited(plan: Plan) -> Plan:
    return {key: replace(planned, edits=()) for key, planned in plan.items()}


def _side_by_side(plans: Sequence[Plan], samples: int) -> Plan:
    """The runs as one: the edits of each at samples of its own."""
    return {
        key: replace(
            planned,
            edits=tuple(
                replace(edit, samples=_moved(edit, samples, number))
                for number, plan in enumerate(plans)
                for edit in plan[key].edits
            ),
        )
        for key, planned in plans[0].items()
    }


def _moved(edit: Edit, samples: int, number: int) -> list[int]:
    return [at + number * samples for at in places("samples", edit.samples, samples).tolist()]


SHOWN_EVERY = 10.0
"""Seconds between two lines where nobody watches a terminal."""


def _printer() -> Callable[[Pace], None]:
    """Shows how far a sweep is: in one line of a terminal, else in a line now and then."""
    watched, last = sys.stderr.isatty(), monotonic()

    def tell(pace: Pace) -> None:
        nonlocal last
        if watched:
            end = "\n" if pace.done == pace.count else ""
            print(f"\r\033[K{pace}", end=end, file=sys.stderr, flush=True)
        elif pace.done == pace.count or monotonic() - last > SHOWN_EVERY:
            last = monotonic()
            print(pace, file=sys.stderr, flush=True)

    return tell
