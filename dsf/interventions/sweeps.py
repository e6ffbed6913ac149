"""``sweep``: many edited runs of one model, several of them as samples of one batch.

Edits act on samples separately, so that runs which edit the same layers in the same way can share a
batch. Whether the samples of a model leave each other alone is asked of it: the first batch of
every kind holds a sample without edits and one whose run was also made alone, and both have to come
out the same. Otherwise the runs of that kind are made one after the other.

``SweepRecord`` is the file of a sweep: one JSON object a line, the first of which says what it is a
sweep of. A run is one line, flushed to disk at once; a torn one is cut off and its run made again.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path

from dsf.attribution.targets import Positions, Target, measured
from dsf.inspection.adapter import Adapter
from dsf.inspection.choice import Chosen, written
from dsf.inspection.errors import InspectionError, InspectionMemoryError
from dsf.inspection.model_input import model_input, tokens_shown, without_logits
from dsf.inspection.rebuild import relative_error
from dsf.inspection.results.layers import Inspection
from dsf.inspection.seen_attentions import CallKey
from dsf.interventions import edits as kinds
from dsf.interventions.edited_mixing import places
from dsf.interventions.edits import Edit
from dsf.interventions.intervention import (
    LiveModel,
    Planned,
    checked_edits,
    checked_sources,
    live_model,
)
from dsf.runtime.files import alone, replace_file
from dsf.runtime.shapes import at_least, of_kind

MAX_TOKENS = {"cpu": 1024}
"""Maximum number of tokens of all samples of a batch, by the kind of device."""
MAX_TOKENS_ELSEWHERE = 16384
MAX_RUNS = 64
"""Maximum number of runs in one batch."""
BATCH_TOL = {torch.float64: 1e-6, torch.float32: 3e-5}
"""Maximum relative difference of a sample in another batch; norms compute in float32."""
BATCH_TOL_ELSEWHERE = 5e-2
RECORD_VERSION = 2
RECORD_TITLE = "dsf_sweep"
MAX_RECORD_BYTES = 1 << 28
"""Maximum size of a file that is read."""
Plan = Mapping[CallKey, Planned]
Kind = tuple[Any, ...]


@torch.inference_mode(False)
def sweep(  # noqa: PLR0913 (which edits, on which number, how far it is)
    model: nn.Module | str | Path,
    *inputs: Any,
    edits: Sequence[Edit | Sequence[Edit]] | Edit,
    target: Target,
    against: Target | None = None,
    position: Positions = -1,
    layers: Chosen = None,
    heads: Chosen = None,
    sources: Mapping[str, Inspection] | None = None,
    adapters: Sequence[Adapter] = (),
    together: int | None = None,
    resume: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    **named: Any,
) -> Float[Tensor, "edit sample"]:
    """The effects of many edits, each in a run of its own, on a logit or a difference of two.

    The model is read once. Runs that edit the same layers in the same way are samples of one batch
    where that gives the same numbers to rounding, which is tried first.

    Args:
        edits: for every run one edit, or several that act together.
        target, against, position: the number of interest, as for ``Intervention.effect``.
        together: how many runs at most share a batch; by default as many as suit the length of the
            input and the device. 1 runs one after the other.
        resume: a file of JSON lines, to which every finished run is added. A sweep that was
            interrupted continues there; a file of another model, input, target or list of edits, or
            that another process is writing, is refused.
        progress: is called after every run with how many are done and how many there are.
        model, inputs, layers, heads, sources, adapters, named: as for :func:`intervene`.

    Raises:
        InspectionError, ReconstructionError: as for :func:`intervene`; all edits are checked
            before the first changed run.
        TypeError, ValueError: if ``together`` is less than 1, or the file is of another sweep.

    Example:
        >>> import dsf, torch
        >>> from dsf.models import folder, recall
        >>> tokens = recall.draw(torch.Generator().manual_seed(0), samples=1).tokens
        >>> heads = [dsf.edits.Ablate(layer, heads=[k]) for layer in (0, 1) for k in (0, 1)]
        >>> effects = dsf.sweep(folder("llama"), edits=heads, target=7, input_ids=tokens)
        >>> effects.reshape(2, 2).shape  # layer, head
        torch.Size([2, 2])
    """
    if resume is not None:
        of_kind("sweep", "resume", resume, str | Path, "the path of a file")
    if progress is not None:
        words = "a function of how many runs are done and how many there are"
        of_kind("sweep", "progress", progress, callable, words)
    if together is not None:
        at_least(1, "sweep", "together", together)
    of_kind("sweep", "edits", edits, Edit | Iterable, "a list of edits such as dsf.edits.Cut(...)")
    runs = [edits] if isinstance(edits, Edit) else edits
    wanted, known = [checked_edits(each, heads) for each in runs], checked_sources(sources)
    opening = model_input(model, inputs, named, where="sweep")
    module, inputs, named = opening.model, opening.inputs, opening.named
    record = None if resume is None else SweepRecord(resume, wanted)
    shown, given = tokens_shown(inputs, named), named
    ids = named.get("input_ids", inputs[0] if inputs else None)
    steps = ids.shape[1] if isinstance(ids, Tensor) and ids.ndim == 2 else None
    at_end = isinstance(position, int) and (position == -1 or position + 1 == steps)
    if at_end and (shown is None or bool(shown[:, -1].all())) and not callable(target):
        given = without_logits(module, inputs, named)  # but those after the last token
        position = position if given is named else -1
    opened = live_model(module, inputs, given, adapters)
    with nullcontext() if record is None else alone(record.path), opened as live:
        clean = live.clean.double()
        number = measured(target, against, position, clean, opening.tokenizer, shown)
        before = number(clean)
        plans = live.plans(wanted, known, within=layers)
        finished: dict[int, list[float]] = {}
        if record is not None:
            # two targets are one if they agree on numbers at random
            noise = torch.rand(2, *clean.shape, generator=torch.Generator().manual_seed(0))
            drawn = [number(each).cpu() for each in noise.to(clean)]
            facts = {"model": module, "input": (inputs, named), "target": drawn}
            facts |= {"choice of layers": written(layers), "list of edits": record.edits}
            facts |= {f"run {name!r}": run for name, run in known.items()}
            tolerance = 10 * BATCH_TOL.get(live.clean.dtype, BATCH_TOL_ELSEWHERE)
            rounding = tolerance * (before.abs() + clean.abs().max()) + 1e-12
            finished = record.begin(facts, before.cpu(), rounding.cpu())
        rows = {at: torch.tensor(row, dtype=torch.float64) for at, row in finished.items()}
        for at, output in SweepRun(live, plans, together).outputs(set(finished)):
            rows[at] = (number(output.double()) - before).cpu()
            if record is not None:
                record.add(at, rows[at].tolist())
            if progress is not None:
                progress(len(rows), len(plans))
    effects = [rows[at].to(before.device) for at in range(len(wanted))]
    return torch.stack(effects) if effects else before.new_zeros(0, len(before))


@dataclass(eq=False)
class SweepRun:
    """The runs of a sweep in batches; ``joins`` says for every kind that was tried if it may be."""

    live: LiveModel
    plans: Sequence[Plan]
    together: int | None
    joins: dict[Kind, bool] = field(default_factory=dict)

    def outputs(self, finished: set[int]) -> Iterator[tuple[int, Tensor]]:
        """The numbers of the runs and what they return."""
        if self.together is None:
            steps = max((each.steps for plan in self.plans for each in plan.values()), default=1)
            room = MAX_TOKENS.get(self.live.clean.device.type, MAX_TOKENS_ELSEWHERE)
            self.together = max(1, min(MAX_RUNS, room // (steps * len(self.live.clean))))
        left = [at for at in range(len(self.plans)) if at not in finished]
        while left:
            kind, batch = self._kind(self.plans[left[0]]), left[:1]
            if kind is not None and self.joins.get(_anywhere(kind), True):
                batch = [at for at in left if self._kind(self.plans[at]) == kind][: self.together]
            rows = self._joined(batch, kind) if kind is not None and len(batch) > 1 else None
            for number, at in enumerate(batch):
                yield at, self.live.changed(self.plans[at]) if rows is None else rows[number]
            left = [at for at in left if at not in batch]

    def _joined(self, batch: list[int], kind: Kind) -> list[Tensor] | None:
        """Return the outputs of the runs, made in one batch; None where they may not be."""
        plans = [self.plans[at] for at in batch]
        if _anywhere(kind) in self.joins:
            return self._several(plans)
        alone = self.live.changed(plans[0])
        try:
            unedited = {key: replace(planned, edits=()) for key, planned in plans[0].items()}
            clean, *outputs = self._several([unedited, *plans])
        except InspectionError:
            self.joins[_anywhere(kind)] = False
            return None
        same = _is_same(clean, self.live.clean) and _is_same(outputs[0], alone)
        self.joins[_anywhere(kind)] = same
        return outputs if same else None

    def _several(self, plans: list[Plan]) -> list[Tensor]:
        """Runs in one batch, or in halves of it where memory does not suffice."""
        try:
            output = self.live.changed(self._side_by_side(plans), len(plans))
        except InspectionMemoryError:
            if len(plans) < 3:
                raise
            half = len(plans) // 2
            self.together = half
            return [*self._several(plans[:half]), *self._several(plans[half:])]
        if len(output) != len(plans) * len(self.live.clean):
            raise InspectionError("sweep: the model does not return the samples of its input.")
        return list(output.chunk(len(plans)))

    def _side_by_side(self, plans: Sequence[Plan]) -> Plan:
        """The runs as one: the edits of each at samples of its own."""
        count, found = len(self.live.clean), {}
        for key, planned in plans[0].items():
            edits = []
            for number, plan in enumerate(plans):
                for edit in plan[key].edits:
                    chosen = places("samples", edit.samples, count) + number * count
                    edits.append(replace(edit, samples=chosen.tolist()))
            found[key] = replace(planned, edits=tuple(edits))
        return found

    def _kind(self, plan: Plan) -> Kind | None:
        """What two runs must have in common to share a batch; None where they cannot."""
        alone: Any = kinds.Reduce
        if self.live.samples > 1:
            alone = alone | kinds.MapFrom | kinds.ValueFrom | kinds.StateFrom
        found: list[Any] = []
        for key, planned in plan.items():
            if not planned.is_batch or any(isinstance(edit, alone) for edit in planned.edits):
                return None
            edited = sorted({type(edit).__name__ for edit in planned.edits})
            found.append((key, planned.mixer, *edited))
        return tuple(found) or None


def _is_same(one: Tensor, other: Tensor) -> bool:
    limit = BATCH_TOL.get(other.dtype, BATCH_TOL_ELSEWHERE)
    return relative_error(one.double(), other.double()) <= limit


def _anywhere(kind: Kind) -> Kind:
    """The same without which layers are edited."""
    return tuple(sorted({each[1:] for each in kind}, key=str))


class SweepRecord:
    """The file of one sweep, which may exist already."""

    def __init__(self, path: str | Path, wanted: Sequence[Sequence[Edit]]):
        self.path = Path(path)
        if self.path.exists() and not self.path.is_file():
            raise ValueError(
                f"sweep: resume={str(path)!r} is a folder, a device or a pipe. Give the name of a "
                "file."
            )
        self.edits = [[edit.to_json() for edit in edits] for edits in wanted]

    def begin(
        self,
        facts: Mapping[str, Any],
        clean: Float[Tensor, " sample"],
        rounding: Float[Tensor, " sample"],
    ) -> dict[int, list[float]]:
        """Make the file, or read what is in it: the effects of the finished runs, by number."""
        known = {name: fingerprint(part) for name, part in facts.items()}
        here = list(map(in_json, clean.tolist()))
        start = {RECORD_TITLE: RECORD_VERSION, "of": known, "clean": here}
        if not self.path.exists():
            text = json.dumps(start) + "\n"
            replace_file(self.path, lambda draft: draft.write_text(text, encoding="utf-8"))
            return {}
        if self.path.stat().st_size > MAX_RECORD_BYTES:
            raise self._refusal(f"has more than {MAX_RECORD_BYTES} bytes")
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        try:
            first, *lines = [json.loads(line) for line in whole.splitlines()]
            if first[RECORD_TITLE] != RECORD_VERSION:
                raise TypeError
            other = [name for name in known if first["of"].get(name) != known[name]]
            before = torch.tensor([float(each) for each in first["clean"]], dtype=torch.float64)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise self._refusal("is not a record of a sweep") from None
        if other:
            raise self._refusal(f"is of another {' and another '.join(other)}")
        if before.shape != clean.shape or ((before - clean).abs() > rounding).any():
            raise self._refusal(
                f"was begun with a number of {first['clean']} without edits, where the model now "
                f"has {here}, so something else about it is not the same"
            )
        try:
            runs = {line["run"]: [float(each) for each in line["effect"]] for line in lines}
        except (ValueError, KeyError, TypeError):
            runs = {-1: []}
        odd = (type(at) is not int or not 0 <= at < len(self.edits) for at in runs)
        if any(odd) or any(len(effect) != len(clean) for effect in runs.values()):
            raise self._refusal("has a line that is not a run of this sweep")
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))
        return runs

    def add(self, number: int, effect: Sequence[float]) -> None:
        record = {"run": number, "edits": self.edits[number], "effect": list(map(in_json, effect))}
        with self.path.open("ab") as file:
            file.write(f"{json.dumps(record)}\n".encode())
            file.flush()
            os.fsync(file.fileno())

    def _refusal(self, reason: str) -> ValueError:
        return ValueError(
            f"sweep: resume={str(self.path)!r} {reason}. Name another file for this sweep, or "
            "delete that one to start again."
        )


def fingerprint(part: Any) -> str:
    """A hash of all numbers in tensors, modules, inspections and plain containers."""
    if isinstance(part, nn.Module):
        part = {type(part).__name__: dict(sorted(part.state_dict().items()))}
    elif isinstance(part, Inspection):
        part = [(layer.name, vars(layer.mixer)) for layer in part]
    digest: Any = sha256()
    for path, leaf in tree_flatten_with_path(part)[0]:
        digest.update(f"{keystr(path)}:".encode())
        if isinstance(leaf, Tensor):
            digest.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
            plain = leaf.detach().resolve_conj().resolve_neg().cpu().contiguous()
            digest.update(plain.reshape(-1).view(torch.uint8).numpy())
        else:
            digest.update(repr(leaf).encode())
    return digest.hexdigest()


def in_json(number: float) -> float | str:
    """A number as JSON has it; text where it has none."""
    return number if math.isfinite(number) else str(number)
