"""Stores units as files: a folder for each unit, a file for each layer, and a final marker file.

A unit is finished once its marker file ``finished.json`` exists.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from dsf.inspection import InspectedLayer, Unsupported
from dsf.jobs.plan import MANIFEST, Unit, malformed, read_record
from dsf.runtime.files import (
    LeadsOutside,
    fits,
    names_inside,
    read_inside,
    remove_drafts,
    seal,
    write_inside,
)

UNITS, FINISHED = "units", "finished.json"
_FACTS = "layer"
_LARGEST_MARKER, _LARGEST_LAYER, _MOST_LAYERS = 16 << 20, 1 << 30, 10_000


@dataclass(frozen=True)
class LayerFacts:
    """The facts about a layer that are stored beside its numbers.

    Attributes:
        name, family, axes: those of the inspected layer; the first axis counts the prompts.
        error, formula, rounding, tolerance: as of an inspected layer, the largest over the prompts.
        unmeasured: for each quantity that is not defined here, the reason.
        heads: which heads, or channels, the last axis counts; None for all.
    """

    name: str
    family: str
    axes: tuple[str, ...]
    error: float
    formula: float
    rounding: float
    tolerance: float
    unmeasured: Mapping[str, str]
    heads: tuple[int, ...] | None = None

    @classmethod
    def of(cls, layer: InspectedLayer, unmeasured: Mapping[str, str]) -> "LayerFacts":
        """Those of an inspected layer."""
        return cls(
            name=layer.name,
            family=layer.family,
            axes=layer.axes,
            error=layer.error,
            formula=layer.formula,
            rounding=layer.rounding,
            tolerance=layer.tolerance,
            unmeasured=unmeasured,
            heads=layer.heads,
        )

    def place(self, index: Sequence[int]) -> tuple[int, ...]:
        """Where an entry of the axes after the first sits in the whole layer: its head."""
        if self.heads is None or len(index) < len(self.axes) - 1:
            return tuple(index)
        return (*index[:-1], self.heads[index[-1]])


def is_finished(folder: Path, unit: Unit) -> bool:
    """Whether all layers of the unit are stored."""
    return FINISHED in names_inside(folder, f"{UNITS}/{unit.name}")


def is_kept(folder: Path, unit: Unit) -> bool:
    """Whether the unit is finished and bears the seal of this user: numbers have no evidence.

    Raises:
        ValueError: if the marker file is not as ``finish`` writes it.
    """
    if not is_finished(folder, unit):
        return False
    marker = read_record(folder, f"{UNITS}/{unit.name}/{FINISHED}", _LARGEST_MARKER)
    stated = marker.pop("seal", None)
    try:
        return fits(stated, _sealed(folder, unit, marker))
    except (FileNotFoundError, KeyError, TypeError):  # a layer is missing, or not counted
        return False


def _sealed(folder: Path, unit: Unit, marker: Mapping[str, Any]) -> bytes:
    """The job, the marker without its seal, and every layer of a unit, by their hashes."""
    names = [MANIFEST, *(_layer_name(unit, number) for number in range(marker["layers"]))]
    files = [read_inside(folder, name, _LARGEST_LAYER) for name in names]
    hashes = [sha256(data).hexdigest() for data in files]
    return json.dumps([unit.name, marker, hashes], sort_keys=True).encode()


def write_layer(
    folder: Path, unit: Unit, number: int, facts: LayerFacts, values: Mapping[str, Tensor]
) -> None:
    """Write the numbers of one layer into its file, atomically."""
    tensors = {name: value.to(torch.float64).contiguous() for name, value in values.items()}
    # A single entry, since the order of several differs from run to run.
    metadata = {_FACTS: json.dumps(asdict(facts), sort_keys=True)}
    write_inside(folder, _layer_name(unit, number), save(tensors, metadata=metadata))


def _layer_name(unit: Unit, number: int) -> str:
    return f"{UNITS}/{unit.name}/{number:04d}.safetensors"


def finish(
    folder: Path,
    unit: Unit,
    layers: int,
    unsupported: tuple[Unsupported, ...],
    notes: tuple[str, ...] = (),
) -> None:
    """Mark a unit as finished.

    Args:
        unsupported: the layers that could not be read.
        notes: what was ignored when the checkpoint was loaded, one sentence each.
    """
    content: dict[str, Any] = {
        "prompts": list(unit.prompts),
        "layers": layers,
        "unsupported": [asdict(each) for each in unsupported],
        "notes": list(notes),
    }
    content["seal"] = seal(_sealed(folder, unit, content))
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    write_inside(folder, f"{UNITS}/{unit.name}/{FINISHED}", text.encode())


def read_layers(folder: Path, unit: Unit) -> Iterator[tuple[LayerFacts, dict[str, Tensor]]]:
    """The layers of a finished unit, in order.

    Raises:
        ValueError: if a file is not as ``write_layer`` and ``finish`` write it.
    """
    marker = f"{UNITS}/{unit.name}/{FINISHED}"
    count = read_record(folder, marker, _LARGEST_MARKER).get("layers")
    if type(count) is not int or not 0 <= count <= _MOST_LAYERS:
        raise malformed(folder, marker, f"the number of layers is {str(count)[:40]!r}")
    for number in range(count):
        yield _layer(folder, unit, _layer_name(unit, number))


def read_notes(folder: Path, unit: Unit) -> tuple[str, ...]:
    """What was ignored when the checkpoint was loaded for a finished unit.

    Raises:
        ValueError: if the marker file is not as ``finish`` writes it.
    """
    marker = f"{UNITS}/{unit.name}/{FINISHED}"
    found = read_record(folder, marker, _LARGEST_MARKER).get("notes", [])
    if not isinstance(found, list) or not all(isinstance(note, str) for note in found):
        raise malformed(folder, marker, f"its notes are {str(found)[:40]!r}")
    return tuple(found)


def _layer(folder: Path, unit: Unit, name: str) -> tuple[LayerFacts, dict[str, Tensor]]:
    try:
        data = read_inside(folder, name, _LARGEST_LAYER)
        values = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        facts = _facts(json.loads(header["__metadata__"][_FACTS]))
    except FileNotFoundError:
        raise malformed(folder, name, "it is missing") from None
    except LeadsOutside:
        raise
    except (
        SafetensorError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
    ) as error:
        raise malformed(folder, name, f"{type(error).__name__}") from None
    for quantity, value in values.items():
        shaped = value.ndim == len(facts.axes) and value.shape[0] == len(unit.prompts)
        if facts.heads is not None:
            shaped = shaped and value.ndim > 1 and value.shape[-1] == len(facts.heads)
        if value.dtype != torch.float64 or not shaped:
            raise malformed(folder, name, f"{quantity[:40]!r} has another shape or type of number")
    return facts, values


def _facts(read: dict[str, Any]) -> LayerFacts:
    texts = (read["name"], read["family"], *read["axes"], *read["unmeasured"].values())
    numbers = [read[name] for name in ("error", "formula", "rounding", "tolerance")]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a name is no text")
    if not all(isinstance(number, int | float) for number in numbers):
        raise TypeError("an error is no number")
    heads = read["heads"]
    if heads is not None and not all(type(head) is int and head >= 0 for head in heads):
        raise TypeError("a head is no number")
    listed = {"axes": tuple(read["axes"]), "heads": None if heads is None else tuple(heads)}
    return LayerFacts(**read | listed)


def remove_unfinished(folder: Path, units: Iterable[Unit]) -> None:
    """Remove incomplete files of processes that were killed."""
    for name in ("", *(f"{UNITS}/{unit.name}" for unit in units)):
        remove_drafts(folder, name)
