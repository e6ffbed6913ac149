"""Stores units as files: a folder for each unit, a file for each layer, and a final marker file.

A unit is finished once its marker file ``finished.json`` exists.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dsf.inspection import Unsupported
from dsf.jobs.plan import Unit
from dsf.saving import replace_file

UNITS, FINISHED = "units", "finished.json"
_FACTS = "layer"


@dataclass(frozen=True)
class LayerFacts:
    """The facts about a layer that are stored beside its numbers.

    Attributes:
        name, family, axes: those of the inspected layer; the first axis counts the prompts.
        error, formula, rounding, tolerance: as of an inspected layer, the largest over the prompts.
        unmeasured: for each quantity that is not defined here, the reason.
    """

    name: str
    family: str
    axes: tuple[str, ...]
    error: float
    formula: float
    rounding: float
    tolerance: float
    unmeasured: Mapping[str, str]


def is_finished(folder: Path, unit: Unit) -> bool:
    """Whether all layers of the unit are stored."""
    return (folder / UNITS / unit.name / FINISHED).exists()


def write_layer(
    folder: Path, unit: Unit, number: int, facts: LayerFacts, values: Mapping[str, Tensor]
) -> None:
    """Write the numbers of one layer into its file, atomically."""
    tensors = {name: value.to(torch.float64).contiguous() for name, value in values.items()}
    # A single entry, since the order of several differs from run to run.
    metadata = {_FACTS: json.dumps(asdict(facts), sort_keys=True)}
    path = folder / UNITS / unit.name / f"{number:04d}.safetensors"
    replace_file(path, lambda draft: save_file(tensors, draft, metadata=metadata))


def finish(folder: Path, unit: Unit, layers: int, unsupported: tuple[Unsupported, ...]) -> None:
    """Mark a unit as finished; ``unsupported`` are the layers that could not be read."""
    content = {
        "prompts": list(unit.prompts),
        "layers": layers,
        "unsupported": [asdict(each) for each in unsupported],
    }
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    path = folder / UNITS / unit.name / FINISHED
    replace_file(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def read_layers(folder: Path, unit: Unit) -> Iterator[tuple[LayerFacts, dict[str, Tensor]]]:
    """The layers of a finished unit, in order."""
    place = folder / UNITS / unit.name
    count = json.loads((place / FINISHED).read_text(encoding="utf-8"))["layers"]
    for number in range(count):
        with safe_open(place / f"{number:04d}.safetensors", framework="pt") as file:
            facts: dict[str, Any] = json.loads(file.metadata()[_FACTS])
            names = file.keys()
            values = {name: file.get_tensor(name) for name in names}
        yield LayerFacts(**facts | {"axes": tuple(facts["axes"])}), values


def remove_unfinished(folder: Path) -> None:
    """Remove incomplete files of processes that were killed."""
    for draft in folder.rglob(".*.tmp-*"):
        draft.unlink(missing_ok=True)
