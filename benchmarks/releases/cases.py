"""What is run on every release: the smallest model of every family, and inputs with padding."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from torch import Tensor, nn

from tests.inspection import softmax_models
from tests.inspection.families import tiny_models

LENGTHS = (21, 150)
PADDINGS = ("none", "left", "right")
ONE_CHUNK = {"chunk_size": 256}
IN_ONE_CHUNK = ("nemotron_h", "zamba2", "xlstm")  # what old releases get right
PLACES = 160  # positions that a learned embedding has to offer


@dataclass(frozen=True)
class Family:
    """A row of the table.

    Attributes:
        model: the family's name in the library.
        changes: of the settings that the tests use.
        exact: the largest error in float64; more where the library keeps a buffer in float32.
    """

    model: str
    changes: dict[str, Any] = field(default_factory=dict)
    exact: float = 1e-13


def _softmax(name: str) -> Family:
    places = {"gpt2": "n_positions"}.get(name, "max_position_embeddings")
    return Family(name, {} if name == "t5" else {places: PLACES})


FAMILIES = {
    **{name: Family(name) for name in tiny_models.FAMILIES},
    "minimax": Family("minimax", exact=1e-7),
    **{f"{name}, in one chunk": Family(name, ONE_CHUNK) for name in IN_ONE_CHUNK},
    **{name: _softmax(name) for name in softmax_models.BUILT if name != "vit"},
}


def build(family: Family, **changes: Any) -> nn.Module | None:
    """The model with parameters that make it mix; None where this release has no such family."""
    source = tiny_models if family.model in tiny_models.FAMILIES else softmax_models
    try:
        return source.build(family.model, **{**family.changes, **changes})
    except pytest.skip.Exception:
        return None


def inputs(family: Family, length: int, padding: str, samples: int = 2) -> dict[str, Tensor]:
    """Padding leaves out five tokens of the first sample and two of the second."""
    given = {
        name: part[:samples] for name, part in tiny_models.inputs(length, padding=padding).items()
    }
    if family.model == "t5":
        given["decoder_input_ids"] = given["input_ids"].flip(-1)
    return given
