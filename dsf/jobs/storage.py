"""Units as files: one folder a unit, one file a layer, and a last file that says it is finished."""

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
    """What is said of a layer beside its numbers.

    Attributes:
        name, family, axes: as inspected; the first axis counts the prompts of the unit.
        error, tolerance: of the reconstruction, the largest over the prompts of the unit.
        unmeasured: why a quantity has no meaning here, by its name.
    """

    name: str
    family: str
    axes: tuple[str, ...]
    error: float
    tolerance: float
    unmeasured: Mapping[str, str]


def is_finished(folder: Path, unit: Unit) -> bool:
    """Whether every layer of the unit is there."""
    return (folder / UNITS / unit.name / FINISHED).exists()


def write_layer(
    folder: Path, unit: Unit, number: int, facts: LayerFacts, values: Mapping[str, Tensor]
) -> None:
    """Put the numbers of one layer into its file, whole or not at all."""
    tensors = {name: value.to(torch.float64).contiguous() for name, value in values.items()}
    # One entry: the order of several is not the same in every run.
    metadata = {_FACTS: json.dumps(asdict(facts), sort_keys=True)}
    path = folder / UNITS / unit.name / f"{number:04d}.safetensors"
    replace_file(path, lambda draft: save_file(tensors, draft, metadata=metadata))


def finish(folder: Path, unit: Unit, layers: int, unsupported: tuple[Unsupported, ...]) -> None:
    """Say that a unit has all its layers; ``unsupported`` are those that could not be read."""
    content = {
        "prompts": list(unit.prompts),
        "layers": layers,
        "unsupported": [asdict(each) for each in unsupported],
    }
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    path = folder / UNITS / unit.name / FINISHED
    replace_file(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def read_layers(folder: Path, unit: Unit) -> Iterator[tuple[LayerFacts, dict[str, Tensor]]]:
    """The layers of a finished unit in their order."""
    place = folder / UNITS / unit.name
    count = json.loads((place / FINISHED).read_text(encoding="utf-8"))["layers"]
    for number in range(count):
        with safe_open(place / f"{number:04d}.safetensors", framework="pt") as file:
            facts: dict[str, Any] = json.loads(file.metadata()[_FACTS])
            names = file.keys()
            values = {name: file.get_tensor(name) for name in names}
        yield LayerFacts(**facts | {"axes": tuple(facts["axes"])}), values


def remove_unfinished(folder: Path) -> None:
    """Remove what processes that were killed left half-written."""
    for draft in folder.rglob(".*.tmp-*"):
        draft.unlink(missing_ok=True)
