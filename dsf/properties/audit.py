"""How far the runs of a model lie from their modules in float64, by layer, length and number type.

An audit is the instrument for fast kernels: it runs a model at several lengths and in several
number types, and holds what every layer put out against the same module in float64.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from dsf.inspection import InspectedLayer, InspectionError, RoundingWarning, Unsupported, inspect
from dsf.inspection.capture.precision import expected_rounding
from dsf.inspection.choice import Chosen

EXACT, ROUNDED, WRONG, NOT_READ = "exact", "rounded too much", "not reproduced", "not read"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class AuditRow:
    """One layer at one length in one number type.

    Attributes:
        dtype, tokens: of the run.
        layer, family: as inspected; the family is empty where the layer was not reproduced.
        formula: difference of the rebuilt layer from its module in float64, relative.
        rounding: difference of the run from that module, relative.
        expected: what the number type and the length explain of it.
        verdict: ``exact``; ``rounded too much``, where the run lies further from its module in
            float64 than expected; ``not reproduced``; ``not read``, where nothing was compared.
        reason: in words, where the verdict is not ``exact``.
    """

    dtype: str
    tokens: int
    layer: str
    family: str
    formula: float | None
    rounding: float | None
    expected: float
    verdict: str
    reason: str = ""


def audit(
    model: nn.Module,
    *,
    lengths: Sequence[int],
    dtypes: Sequence[torch.dtype],
    vocabulary: int,
    layers: Chosen = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> list[AuditRow]:
    """Run a model on random tokens at every length in every number type, and compare its layers.

    Args:
        model: a model that takes ``input_ids``; it is copied for every number type.
        lengths: numbers of tokens.
        dtypes: number types of the weights.
        vocabulary: token ids are drawn from 0 to ``vocabulary - 1``.
        layers: which layers to compare, as ``dsf.inspect`` takes them. What cannot be read has a
            row all the same.
        device: where the copies run; by default where the model is.
        progress: called with the number of finished runs and that of all runs.

    Raises:
        InspectionError: if the model cannot be run, or has no layer that can be read.
    """
    rows: list[AuditRow] = []
    done, every = 0, len(lengths) * len(dtypes)
    for dtype in dtypes:
        twin = copy.deepcopy(model).to(dtype=dtype, device=device)
        for tokens in lengths:
            rng = torch.Generator().manual_seed(0)
            ids = torch.randint(vocabulary, (1, tokens), generator=rng)
            rows += _rows(twin, ids.to(next(twin.parameters()).device), dtype, layers)
            done += 1
            if progress is not None:
                progress(done, every)
    return rows


def _rows(
    model: nn.Module, ids: Int[Tensor, "1 time"], dtype: torch.dtype, layers: Chosen
) -> Iterator[AuditRow]:
    expected = expected_rounding(dtype, ids.shape[1])
    run: dict[str, Any] = {
        "dtype": str(dtype).removeprefix("torch."),
        "tokens": ids.shape[1],
        "expected": expected,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RoundingWarning)  # the rows say it
            found = inspect(model, input_ids=ids, layers=layers)
    except InspectionError as error:
        formula = getattr(error, "formula", None)
        if formula is None:
            raise
        yield AuditRow(**run, **_failed("every layer", str(error), formula))
        return
    for layer in found:
        yield AuditRow(**run, **_compared(layer, expected))
    for missed in found.unsupported:
        yield AuditRow(**run, **_missed(missed))


def _compared(layer: InspectedLayer, expected: float) -> dict[str, Any]:
    within = layer.rounding <= expected
    return {
        "layer": layer.name,
        "family": layer.family,
        "formula": layer.formula,
        "rounding": layer.rounding,
        "verdict": EXACT if within else ROUNDED,
        "reason": ""
        if within
        else f"the run lies {layer.rounding / expected:.0f} times further from its module in "
        "float64 than its number type and length explain",
    }


def _missed(missed: Unsupported) -> dict[str, Any]:
    if missed.formula is not None:
        return _failed(missed.name, missed.reason, missed.formula)
    return _failed(missed.name, missed.reason, None) | {"verdict": NOT_READ}


def _failed(layer: str, reason: str, formula: float | None) -> dict[str, Any]:
    return {
        "layer": layer,
        "family": "",
        "formula": formula,
        "rounding": None,
        "verdict": WRONG,
        "reason": reason,
    }
