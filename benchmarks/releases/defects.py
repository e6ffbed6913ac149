"""Where a release is at fault: shown with the library alone, without a line of dsf.

A layer that we refuse is the library's fault if the model raises by itself, or if the library gives
two answers to one question: with another size of its chunks, which are an order of summation and
nothing else, or with the padding left out, which is what the mask says about it.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.releases.cases import ONE_CHUNK, Family, build, inputs
from dsf.inspection.capture.calls import recording
from dsf.inspection.capture.module_stack import ModuleStack
from dsf.inspection.capture.precision import guarded, in_float64

CLEAR = 1e-2  # of the largest output; rounding is below 1e-5
ALIKE = 0.1  # how closely our error has to be the library's own rounding


def fault(family: Family, length: int, padding: str, samples: int) -> dict[str, Any]:
    """What this release does wrong here, with its own words or how far its answers are apart.

    The defect is None where nothing was found: then the fault is ours.
    """
    try:
        _run(build(family), inputs(family, length, padding, samples))
    except Exception as error:  # whatever the library comes to
        return {"defect": "raises", "shown": f"{type(error).__name__}: {error}"}
    for defect, difference in (
        ("chunks", _between_chunk_sizes(family, length)),
        ("padding", _with_and_without_padding(family, length, samples) if padding != "none" else 0),
    ):
        if difference > CLEAR:
            return {"defect": defect, "shown": difference}
    return {"defect": None}


def _between_chunk_sizes(family: Family, length: int) -> float:
    """One model, one input, two sizes of chunks."""
    model = build(family)
    if not hasattr(model.config, "chunk_size"):
        return 0.0
    given = inputs(family, length, "none")
    return _apart(_run(model, given), _run(build(family, **ONE_CHUNK), given))


def _with_and_without_padding(family: Family, length: int, samples: int) -> float:
    """The tokens of the first sample behind padding, in its batch, and on their own."""
    model = build(family)
    given = inputs(family, length, "left", samples)
    kept = given["attention_mask"][0].bool()
    alone = {name: part[:1, kept] for name, part in given.items()}
    return _apart(_run(model, given)[:1, kept], _run(model, alone))


@torch.no_grad()
def rounding(
    model: nn.Module, given: dict[str, Tensor], names: Sequence[str], error: float
) -> dict[str, Any]:
    """Whether an error is what the library's float32 layers lose themselves.

    Each of them is run in float64 on what it was given.
    """
    calls = []
    modules = {name: model.get_submodule(name) for name in names}
    with recording(modules, calls, ModuleStack(model, set())):
        _run(model, given)
    lost = 0.0
    for call in calls:
        wide = deepcopy(call.module).double()
        with guarded(wide):
            answer = wide(**in_float64(call.arguments))
        answer = answer if isinstance(answer, Tensor) else answer[0]
        lost = max(lost, _apart(call.first_output, answer))
    own = abs(lost - error) <= ALIKE * error
    return {"defect": "rounding" if own else None, "shown": lost, "error": error}


@torch.no_grad()
def _run(model: nn.Module, given: dict[str, Tensor]) -> Tensor:
    return model(**given, use_cache=False)[0]


def _apart(one: Tensor, other: Tensor) -> float:
    return ((one - other).abs().max() / other.abs().max()).item()
