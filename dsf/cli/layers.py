"""The layers of an inspection, for a terminal and for JSON."""

from math import isfinite, prod
from typing import Any

from dsf.cli.terminal import print_table
from dsf.inspection import InspectedLayer, Inspection
from dsf.report.escaping import escaped

HEADS = (
    "layer",
    "family",
    "read as",
    "maps",
    "tokens",
    "formula",
    "rounding",
    "tolerance",
    "verdict",
)


def show_layers(inspection: Inspection) -> None:
    """One line for every layer, then what was not read."""
    print_table(
        HEADS,
        [
            (
                layer.name,
                layer.family,
                type(layer.mixer).__name__,
                _counted(layer.axes, tuple(layer.system.batch)),
                str(layer.system.steps),
                f"{layer.formula:.1e}",
                f"{layer.rounding:.1e}",
                f"{layer.tolerance:.0e}",
                _verdict(layer),
            )
            for layer in inspection
        ],
    )
    if inspection.unsupported:
        print_table(
            ("not read", "class", "reason"),
            [(missed.name, missed.kind, missed.reason) for missed in inspection.unsupported],
        )


def _verdict(layer: InspectedLayer) -> str:
    """``reproduced``, or that its map is only a part of its module."""
    return f"a part, {layer.share:.0%}" if layer.is_part else "reproduced"


def layer_facts(inspection: Inspection) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "model": escaped(inspection.model),
        "layers": [
            {
                "name": escaped(layer.name, most=500),
                "family": layer.family,
                "mixer": type(layer.mixer).__name__,
                "axes": list(layer.axes),
                "batch": list(layer.system.batch),
                "tokens": layer.system.steps,
                "error": layer.error,
                "formula": layer.formula,
                "rounding": layer.rounding,
                "compared_with": escaped(layer.compared_with, most=500),
                "heads": None if layer.heads is None else list(layer.heads),
                "tolerance": layer.tolerance,
                "share": _finite(layer.share),
                "columns": layer.columns,
                "exact": layer.is_exact,
                "checks": layer.checks.to_json(),
            }
            for layer in inspection
        ],
        "checks": inspection.checks.to_json(),
        "unsupported": [
            {
                "name": escaped(missed.name, most=500),
                "class": missed.kind,
                "reason": missed.reason,
                "formula": _finite(missed.formula),
            }
            for missed in inspection.unsupported
        ],
        "environment": inspection.environment,
        "forecast": None if inspection.forecast is None else inspection.forecast.facts(),
    }


def _finite(number: float | None) -> float | None:
    return number if number is not None and isfinite(number) else None


def _counted(axes: tuple[str, ...], batch: tuple[int, ...]) -> str:
    """``4 heads``, with the samples in front where there are several."""
    if len(axes) != len(batch):
        return str(prod(batch))
    shown = [
        f"{size} {axis}{'s' if size != 1 else ''}"
        for axis, size in zip(axes, batch, strict=True)
        if not (axis == "sample" and size == 1)
    ]
    return " x ".join(shown) or "1 map"
