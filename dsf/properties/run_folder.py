"""``checked_run``: decides all properties of an inspection and stores them in a folder."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dsf.certificates import checker
from dsf.inspection.results.layers import InspectedLayer, Inspection
from dsf.inspection.results.measurements import measured
from dsf.inspection.results.table import Table
from dsf.properties.decided import findings, square, verdicts
from dsf.saving import replace_file

SCHEMA = 1
Progress = Callable[[int, int], None]


def checked_run(inspection: Inspection, folder: Path, *, progress: Progress | None = None) -> Table:
    """Decide every property of every layer, and write measures and evidence to ``folder``.

    Writes ``manifest.json``, ``units/`` (one file for every finished layer), ``certificates/`` and
    ``tensors/`` inside each unit's folder, ``metrics.csv``, ``metrics.json``, ``verdicts.csv``,
    ``verdicts.json`` and a copy of ``checker.py``. A layer whose unit exists and was made from the
    same numbers is not decided again, so that an interrupted run can be resumed.

    Raises:
        ValueError: if the folder holds a run of another schema.
    """
    _prepare(folder)
    tables = []
    for number, layer in enumerate(inspection):
        tables.append(_unit(layer, folder, number))
        if progress is not None:
            progress(number + 1, len(inspection))
    metrics = Table(tuple(record for unit in tables for record in unit["metrics"]))
    decided = Table(tuple(record for unit in tables for record in unit["verdicts"]))
    for name, table in (("metrics", metrics), ("verdicts", decided)):
        _write(folder / f"{name}.csv", table.to_csv())
        _write(folder / f"{name}.json", _text(table.to_json()))
    manifest = {
        "schema_version": SCHEMA,
        "model": inspection.model,
        "environment": inspection.environment,
        "tokens": inspection.tokens,
        "layers": [
            {"name": layer.name, "family": layer.family, "error": layer.error,
             "formula": layer.formula, "rounding": layer.rounding, "tolerance": layer.tolerance,
             "unit": f"units/{number:04d}"}
            for number, layer in enumerate(inspection)
        ],
        "unsupported": [vars(missed) for missed in inspection.unsupported],
    }  # fmt: skip
    _write(folder / "manifest.json", _text(manifest))
    return decided


def _prepare(folder: Path) -> None:
    manifest = folder / "manifest.json"
    if manifest.exists():
        version = json.loads(manifest.read_text(encoding="utf-8")).get("schema_version")
        if version != SCHEMA:
            raise ValueError(
                f"{folder} holds a run of schema {version}, but this release writes schema "
                f"{SCHEMA}. Choose another folder."
            )
    (folder / "units").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(checker.__file__, folder / "checker.py")


def _unit(layer: InspectedLayer, folder: Path, number: int) -> dict[str, Any]:
    """The measures and verdicts of one layer, from its file if it has the same numbers."""
    place = folder / "units" / f"{number:04d}"
    path, wanted = place / "unit.json", _fingerprint(layer)
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if kept["fingerprint"] == wanted:
            return kept
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    weights = layer.map()
    decided = verdicts(list(findings(layer, folder=place, weights=weights)))
    whole = weights if square(layer) else None
    unit = {
        "fingerprint": wanted,
        "metrics": measured((layer,), whole=whole).to_json(),
        "verdicts": decided.to_json(),
    }
    _write(path, _text(unit))
    return unit


def _fingerprint(layer: InspectedLayer) -> str:
    """A hash of the layer's name, of the heads that are looked at, and of its mixer's numbers."""
    digest = hashlib.sha256(f"{layer.name}|{layer.family}|{type(layer.mixer).__name__}".encode())
    if layer.heads is not None:
        digest.update(repr(layer.heads).encode())
    for name, part in sorted(vars(layer.mixer).items()):
        digest.update(name.encode())
        plain = (
            part.detach().cpu().contiguous().numpy().tobytes() if hasattr(part, "detach") else None
        )
        digest.update(plain if plain is not None else repr(part).encode())
    return digest.hexdigest()


def _text(content: Any) -> str:
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"


def _write(path: Path, text: str) -> None:
    replace_file(path, lambda draft: draft.write_text(text, encoding="utf-8", newline="\n"))
