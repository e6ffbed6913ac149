"""The folder of a job: its plan, divided into units, and what each unit has found.

A unit is one file, written whole: it is finished once that exists. The folder is not trusted, so
that whatever is read there is held against what a job writes.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from dsf.inspection.choice import Chosen, written
from dsf.properties.names import check_not_foreign
from dsf.runtime.files import LeadsOutside, fits, read_inside, seal, write_inside

SCHEMA = 5
MANIFEST = "job.json"
AS_THEY_ARE = ("model", "weights", "configuration", "batch", "layerwise", "tolerance")
"""Parts of a plan that its manifest has unchanged."""
OWN_NAMES = ("units", "summary.csv")
MAX_MANIFEST_BYTES = 64 << 20
MAX_UNIT_PROMPTS = 1 << 16
UNIT_NAME = re.compile(r"(\d{8,15})\+(\d{1,6})")


@dataclass(frozen=True)
class Unit:
    """Prompts of one length that run together; the smallest piece of work that can be resumed."""

    prompts: tuple[int, ...]

    @property
    def name(self) -> str:
        """A name that depends on the prompts alone and sorts in their order."""
        return f"{self.prompts[0]:08d}+{len(self.prompts)}"

    @property
    def file(self) -> str:
        return f"{UNITS}/{self.name}.safetensors"


@dataclass(frozen=True, kw_only=True)
class Running:
    """How a model is loaded and where it runs, by names; None for what ``load_model`` does."""

    dtype: str | None = None
    device: str | None = None
    revision: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that determines the results, as for ``measure_prompts``; equal plans are one job.

    ``weights`` and ``configuration`` are SHA-256 of the model's files; ``left_out`` are quantities
    that would take longer than all others.
    """

    model: str
    weights: str
    configuration: str
    prompts: tuple[tuple[int, ...], ...]
    quantities: tuple[str, ...]
    batch: int
    layerwise: bool = False
    tolerance: float | None = None
    layers: Chosen = None
    heads: Chosen = None
    left_out: tuple[str, ...] = ()
    how: Running = Running()

    @property
    def units(self) -> tuple[Unit, ...]:
        """Consecutive prompts of one length, at most ``batch`` in each unit."""
        return tuple(_grouped(self.prompts, self.batch))

    @property
    def described(self) -> dict[str, Any]:
        """The content of the manifest, which is fixed before the first unit runs."""
        prompts = json.dumps(self.prompts, separators=(",", ":"))
        return {
            "schema_version": SCHEMA,
            **{name: getattr(self, name) for name in AS_THEY_ARE},
            "prompts": len(self.prompts),
            "prompts_hash": sha256(prompts.encode()).hexdigest(),
            "quantities": list(self.quantities),
            "layers": written(self.layers),
            "heads": written(self.heads),
            "units": [unit.name for unit in self.units],
            **({"left_out": list(self.left_out)} if self.left_out else {}),
            **{name: value for name, value in asdict(self.how).items() if value is not None},
        }


def claim(folder: Path, plan: Plan) -> None:
    """Write the manifest of this job into ``folder``, or check that it is there."""
    try:
        found = _manifest(folder)
    except FileNotFoundError:
        check_not_foreign(folder, str(folder), "job", OWN_NAMES, (MANIFEST,))
        text = json.dumps(plan.described, indent=1, sort_keys=True) + "\n"
        write_inside(folder, MANIFEST, text.encode())
        return
    ours = plan.described
    other = sorted(key for key in {*ours, *found} if found.get(key) != ours.get(key))
    if other:
        raise ValueError(
            f"{folder} holds another job: {', '.join(other)} differ. Choose another folder, or "
            "remove this one to start anew."
        )


def _manifest(folder: Path) -> dict[str, Any]:
    data = read_inside(folder, MANIFEST, MAX_MANIFEST_BYTES)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        found = f"({type(error).__name__})"
    if not isinstance(found, dict):
        raise malformed(folder, MANIFEST, f"no JSON object, but {str(found)[:40]!r}")
    return found


def malformed(folder: Path, name: str, what: str) -> ValueError:
    return ValueError(
        f"{folder / name} is not as a job writes it: {what}. Remove this folder to start anew, or "
        "ask whoever sent it for a whole one."
    )


def units_of(folder: Path) -> list[Unit]:
    """The units that the manifest lists: consecutive prompts, all of them."""
    described = _manifest(folder)
    names, prompts = described.get("units"), described.get("prompts")
    if not isinstance(names, list) or type(prompts) is not int:
        raise malformed(folder, MANIFEST, "it lists no units")
    units, first = [], 0
    for name in names:
        match = UNIT_NAME.fullmatch(name) if isinstance(name, str) else None
        count = int(match[2]) if match else 0
        if match is None or int(match[1]) != first or not 0 < count <= MAX_UNIT_PROMPTS:
            raise malformed(folder, MANIFEST, f"{str(name)[:40]!r} does not follow {first} prompts")
        units.append(Unit(tuple(range(first, first + count))))
        first += count
    if first != prompts:
        raise malformed(folder, MANIFEST, f"its units have {first} prompts of {prompts}")
    return units


def _grouped(prompts: Sequence[Sequence[int]], batch: int) -> Iterator[Unit]:
    for _, alike in groupby(range(len(prompts)), key=lambda number: len(prompts[number])):
        numbers = tuple(alike)
        yield from (Unit(numbers[at : at + batch]) for at in range(0, len(numbers), batch))


UNITS = "units"
_RECORD = "unit"
_MAX_UNIT_BYTES = 1 << 30


@dataclass(frozen=True)
class LayerFacts:
    """Facts about a layer, stored with its numbers.

    Attributes:
        name, family, axes: those of the inspected layer; the first axis counts the prompts.
        unmeasured: for each quantity that is not defined here, the reason.
        heads: which heads, or channels, the last axis counts; None for all.
    """

    name: str
    family: str
    axes: tuple[str, ...]
    unmeasured: Mapping[str, str]
    heads: tuple[int, ...] | None = None

    def place(self, index: Sequence[int]) -> tuple[int, ...]:
        """Where an entry of the axes after the first sits in the whole layer: its head."""
        if self.heads is None or len(index) < len(self.axes) - 1:
            return tuple(index)
        return (*index[:-1], self.heads[index[-1]])


def is_finished(folder: Path, unit: Unit) -> bool:
    return os.path.lexists(folder / unit.file)


def is_kept(folder: Path, unit: Unit) -> bool:
    """Whether the unit is finished and bears the seal of this user: numbers have no evidence."""
    if not is_finished(folder, unit):
        return False
    record, tensors = _read(folder, unit)
    stated = record.pop("seal", None)
    return fits(stated, _sealed(folder, unit, record, tensors))


def finish(
    folder: Path,
    unit: Unit,
    layers: Sequence[tuple[LayerFacts, Mapping[str, Tensor]]],
    notes: Sequence[str] = (),
) -> None:
    """Write what a unit found; ``notes`` say what was ignored when the checkpoint was loaded."""
    tensors = {
        f"{number:04d} {name}": value.to(torch.float64).contiguous()
        for number, (_, values) in enumerate(layers)
        for name, value in values.items()
    }
    record: dict[str, Any] = {
        "layers": [asdict(facts) for facts, _ in layers],
        "notes": list(notes),
    }
    record["seal"] = seal(_sealed(folder, unit, record, tensors))
    write_inside(folder, unit.file, _saved(record, tensors))


def _saved(record: Mapping[str, Any], tensors: dict[str, Tensor]) -> bytes:
    # A single entry, since the order of several differs from run to run.
    return save(tensors, metadata={_RECORD: json.dumps(record, sort_keys=True)})


def _sealed(
    folder: Path, unit: Unit, record: Mapping[str, Any], tensors: dict[str, Tensor]
) -> bytes:
    """The job, and the unit without its seal, by their hashes."""
    files = (read_inside(folder, MANIFEST, MAX_MANIFEST_BYTES), _saved(record, tensors))
    return json.dumps([unit.name, *(sha256(data).hexdigest() for data in files)]).encode()


def _read(folder: Path, unit: Unit) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        data = read_inside(folder, unit.file, _MAX_UNIT_BYTES)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return dict(json.loads(header["__metadata__"][_RECORD])), load(data)
    except LeadsOutside:
        raise
    except (SafetensorError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise malformed(folder, unit.file, type(error).__name__) from None


def read_layers(folder: Path, unit: Unit) -> list[tuple[LayerFacts, dict[str, Tensor]]]:
    record, tensors = _read(folder, unit)
    try:
        layers = {
            f"{number:04d}": (_facts(each), dict[str, Tensor]())
            for number, each in enumerate(record["layers"])
        }
        for name, value in tensors.items():
            number, _, quantity = name.partition(" ")
            facts, values = layers[number]
            shaped = value.ndim == len(facts.axes) and value.shape[0] == len(unit.prompts)
            if facts.heads is not None:
                shaped = shaped and value.ndim > 1 and value.shape[-1] == len(facts.heads)
            if value.dtype != torch.float64 or not shaped:
                raise TypeError(f"{quantity} has another shape or type of number")
            values[quantity] = value
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise malformed(folder, unit.file, str(error)[:80]) from None
    return list(layers.values())


def read_notes(folder: Path, unit: Unit) -> tuple[str, ...]:
    """What was ignored when the checkpoint was loaded for a finished unit."""
    found = _read(folder, unit)[0].get("notes")
    if not isinstance(found, list) or not all(isinstance(note, str) for note in found):
        raise malformed(folder, unit.file, f"its notes are {str(found)[:40]!r}")
    return tuple(found)


def _facts(read: dict[str, Any]) -> LayerFacts:
    texts = (read["name"], read["family"], *read["axes"], *read["unmeasured"].values())
    heads = None if read["heads"] is None else tuple(read["heads"])
    is_plain = all(isinstance(text, str) for text in texts)
    if not is_plain or not all(type(head) is int and head >= 0 for head in heads or ()):
        raise TypeError("a name is not a text, or a head is not a number")
    return LayerFacts(**read | {"axes": tuple(read["axes"]), "heads": heads})
