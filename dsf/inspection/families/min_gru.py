"""Reads minGRU, which has no class of its own in the model library: by its parameters alone.

    update = σ(W_z h)      value = candidate(W_h h)      output = to_out(scan)

The candidate is the projection itself, its tanh, or, where the states are kept positive,
``x + 0.5`` for ``x >= 0`` and ``σ(x)`` below. Some write one projection for both.

Source: Feng et al. 2024, arXiv:2410.01201, sections 3.1 and B.
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.families.structure import Settings, Sizes, Structure
from dsf.inspection.whole.stages import Chain
from dsf.mixers import MinGRU

CANDIDATES: dict[str, Callable[[Tensor], Tensor]] = {
    "positive": lambda x: torch.where(x >= 0, x + 0.5, x.sigmoid()),
    "plain": lambda x: x,
    "tanh": torch.tanh,
}


def read(layer: Captured) -> MinGRU:
    """The recurrence this layer ran."""
    x, module = layer.arguments["x"], layer.module
    if "to_hidden_and_gate.weight" in layer.weights:
        parts = layer.project("to_hidden_and_gate", x).chunk(2, dim=-1)
        hidden, update = parts if module.hidden_first else parts[::-1]
    else:
        hidden, update = layer.project("linear_h", x), layer.project("linear_z", x)
    return MinGRU(value=CANDIDATES[module.candidate](hidden), update=update.sigmoid())


def leave(layer: Captured, _: Tensor) -> Chain:
    """The output projection, where there is one."""
    return Chain((layer.projection("to_out"),) if "to_out.weight" in layer.weights else ())


def _settings(_module: Any, _sizes: Sizes) -> Iterator[Settings]:
    for candidate, first in product(CANDIDATES, (True, False)):
        yield {"candidate": candidate, "hidden_first": first}


ADAPTER = Adapter(families={}, read=read, leave=leave, takes="x", axes=("sample", "channel"))
STRUCTURES = tuple(
    Structure("minGRU", "min_gru", ADAPTER, parameters, _settings)
    for parameters in (
        {"to_hidden_and_gate.weight": "inner+inner model"},
        {"linear_z.weight": "inner model", "linear_h.weight": "inner model"},
    )
)
