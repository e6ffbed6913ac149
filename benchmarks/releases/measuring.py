"""Every family on the release of transformers that is installed here, as one file of numbers.

    python -m benchmarks.releases.measuring FILE [FAMILY ...]

Each model is inspected as it is, in float32, and as a copy that is float64 throughout. What is
refused is the library's fault where ``defects.py`` can show it with the library alone, and ours
everywhere else.
"""

import json
import sys
import warnings
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

import dsf
from benchmarks.releases.cases import FAMILIES, LENGTHS, PADDINGS, Family, build, inputs
from benchmarks.releases.defects import fault, rounding
from dsf.inspection import InspectionError
from tests.inspection.families.tiny_models import off_diagonal_share

SINGLE = 3e-6  # what a float32 model may differ by from its float64 rebuild
MIXING = 0.1  # the least part of a map that is off its diagonal
LONE = (21, "left", 1)


def main() -> None:
    place, *wanted = sys.argv[1:]
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    runs = []
    for name in wanted or FAMILIES:
        runs += measured(name)
        print(f"{transformers.__version__:8} {name}", flush=True)
    Path(place).write_text(json.dumps(report(runs), indent=1) + "\n", encoding="utf-8")


def report(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The runs, and what they ran on."""
    return {"transformers": transformers.__version__, "torch": torch.__version__, "runs": runs}


def measured(name: str, lengths: tuple[int, ...] = LENGTHS) -> Iterator[dict[str, Any]]:
    """Every length and padding of one family, and one sample alone; nothing if it is absent."""
    family = FAMILIES[name]
    model = build(family)
    if model is None:
        return
    cases = [(length, padding, 2) for length in lengths for padding in PADDINGS]
    for length, padding, samples in [*cases, LONE]:
        case = {"family": name, "length": length, "padding": padding, "samples": samples}
        yield case | _run(model, family, length, padding, samples)


def _run(
    model: nn.Module, family: Family, length: int, padding: str, samples: int
) -> dict[str, Any]:
    given = inputs(family, length, padding, samples)
    try:
        single, double = (
            dsf.inspect(model, exact=exact, strict=True, checks="none", **given)
            for exact in (False, True)
        )
    except InspectionError as error:
        facts = {"outcome": "refused", "said": str(error), "error": _error(model, given)}
        return facts | fault(family, length, padding, samples)
    facts = {
        "single": _largest(single),
        "double": _largest(double),
        "layers": len(double),
        "unread": len(double.unsupported),
        "share": _share(double),
    }
    if facts["double"] > family.exact or facts["unread"] or facts["share"] <= MIXING:
        return {"outcome": "outside"} | facts
    if facts["single"] <= SINGLE:
        return {"outcome": "rebuilt"} | facts
    coarse = [layer.name for layer in single if layer.error > SINGLE]
    return {"outcome": "outside"} | facts | rounding(model, given, coarse, facts["single"])


def _error(model: nn.Module, given: dict[str, torch.Tensor]) -> float | None:
    """How far a refused model is from its rebuild; None if it does not run at all."""
    try:
        return _largest(dsf.inspect(model, exact=True, tolerance=inf, **given))
    except InspectionError:
        return None


def _largest(inspection: dsf.inspection.Inspection) -> float:
    return max(layer.error for layer in inspection)


def _share(inspection: dsf.inspection.Inspection) -> float:
    """The layer that looks least at other tokens."""
    return min(off_diagonal_share(layer) for layer in inspection)


if __name__ == "__main__":
    main()
