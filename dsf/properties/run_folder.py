"""``checked_run``: decides all properties of an inspection and stores them in a folder.

A run is bound together by its manifest: it lists what had to be decided, and the hash of every
file. ``run_check`` checks a run again.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from dsf.certificates import checker, second_checker
from dsf.inspection.results.layers import InspectedLayer, Inspection
from dsf.inspection.results.measurements import measured
from dsf.inspection.results.table import Table
from dsf.properties.decided import PROPERTIES, findings, in_words, parts_of, square, verdicts
from dsf.saving import replace_file

SCHEMA = 2
MANIFEST = "manifest.json"
LARGEST_MANIFEST = 64 << 20
Progress = Callable[[int, int], None]
Pages = Callable[[Table], Iterable[Path]]


def checked_run(
    inspection: Inspection,
    folder: Path,
    *,
    progress: Progress | None = None,
    pages: Pages | None = None,
) -> Table:
    """Decide every property of every layer, and write measures and evidence to ``folder``.

    Writes ``units/`` (one file for every finished layer, with ``certificates/`` and ``tensors/``
    beside it), ``metrics.csv``, ``metrics.json``, ``verdicts.csv``, ``verdicts.json``, and last
    ``manifest.json``, which lists what had to be decided and the hash of every file. A layer whose
    unit exists and was made from the same numbers is not decided again, so that an interrupted run
    can be resumed; its verdicts are taken from certificates that the checker accepts now.

    Args:
        pages: writes further files into ``folder``, such as a report, and gives their paths.

    Raises:
        ValueError: if the folder holds a run of another schema.
    """
    earlier = _prepare(folder)
    source = _source(inspection)
    units = []
    for number, layer in enumerate(inspection):
        units.append(_unit(layer, folder, number, source))
        if progress is not None:
            progress(number + 1, len(inspection))
    metrics = Table(tuple(record for unit in units for record in unit["metrics"]))
    decided = Table(tuple(record for unit in units for record in unit["verdicts"]))
    written = []
    for name, table in (("metrics", metrics), ("verdicts", decided)):
        written.append(_write(folder / f"{name}.csv", table.to_csv()))
        written.append(_write(folder / f"{name}.json", text_of(table.to_json())))
    written += pages(decided) if pages is not None else ()
    for number in range(len(units)):
        written += [path for path in (folder / unit_name(number)).rglob("*") if path.is_file()]
    members = {path.relative_to(folder).as_posix(): hash_of(path) for path in written}
    _remove_stale(folder, earlier, members)
    _write(folder / MANIFEST, text_of(_manifest(inspection, units, members, source)))
    return decided


def unit_name(number: int) -> str:
    """The folder of a layer inside the run."""
    return f"units/{number:04d}"


def hash_of(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def checker_hashes() -> dict[str, str]:
    """SHA-256 of the installed checkers, by name."""
    files = (Path(str(module.__file__)) for module in (checker, second_checker))
    return {file.name: hash_of(file) for file in files}


def _source(inspection: Inspection) -> dict[str, str]:
    """Where the numbers of a run come from, for every certificate."""
    names = json.dumps(inspection.tokens)
    facts = inspection.environment
    return {
        "model": inspection.model,
        "weights": facts.get("weights", "not from a file"),
        "configuration": facts.get("configuration", "not from a file"),
        "input": facts.get("input", f"sha256 {hashlib.sha256(names.encode()).hexdigest()}"),
        "dtype": facts.get("dtype", "unknown"),
    }


def _manifest(
    inspection: Inspection,
    units: list[dict[str, Any]],
    members: Mapping[str, str],
    source: Mapping[str, str],
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA,
        "model": inspection.model,
        "source": dict(source),
        "environment": inspection.environment,
        "tokens": inspection.tokens,
        "layers": [
            {"name": layer.name, "family": layer.family, "error": layer.error,
             "formula": layer.formula, "rounding": layer.rounding, "tolerance": layer.tolerance,
             "unit": unit_name(number), "fingerprint": units[number]["fingerprint"],
             "parts": [in_words(part) for part in parts_of(layer)]}
            for number, layer in enumerate(inspection)
        ],
        "properties": list(PROPERTIES),
        "unsupported": [vars(missed) for missed in inspection.unsupported],
        "expected": [
            {"unit": unit_name(number), "layer": record["layer"], "part": part_of(record),
             "property": record["property"], "verdict": record["verdict"],
             "certificate": record["certificate"], "identity": record["identity"]}
            for number, unit in enumerate(units)
            for record in unit["verdicts"]
        ],
        "members": dict(members),
        "checkers": checker_hashes(),
    }  # fmt: skip


BESIDE_THE_PART = {
    "layer", "family", "property", "verdict", "level", "scope", "bound", "observed", "claim",
    "limits", "certificate", "identity",
}  # fmt: skip


def part_of(record: Mapping[str, Any]) -> str:
    """The head that a record of verdicts is about, in words."""
    return in_words({k: v for k, v in record.items() if k not in BESIDE_THE_PART})


def _prepare(folder: Path) -> dict[str, str]:
    """The members of an earlier run in the folder."""
    manifest, members = folder / MANIFEST, {}
    if manifest.exists():
        earlier = json.loads(manifest.read_text(encoding="utf-8"))
        if earlier.get("schema_version") != SCHEMA:
            raise ValueError(
                f"{folder} holds a run of schema {earlier.get('schema_version')}, but this release "
                f"writes schema {SCHEMA}. Choose another folder."
            )
        members = dict(earlier["members"])
        manifest.unlink()  # what follows is no longer the run that it binds
    (folder / "units").mkdir(parents=True, exist_ok=True)
    return members


def _remove_stale(folder: Path, earlier: Mapping[str, str], members: Mapping[str, str]) -> None:
    """Remove files of an earlier run that are as it wrote them and no part of this one."""
    for name, digest in earlier.items():
        if name in members:
            continue
        try:
            path = checker.inside(folder, name)
            if hashlib.sha256(checker.read_file(path, LARGEST_MANIFEST)).hexdigest() == digest:
                path.unlink()
        except checker.Rejected:
            continue


def _unit(
    layer: InspectedLayer, folder: Path, number: int, source: Mapping[str, str]
) -> dict[str, Any]:
    """The measures and verdicts of one layer, from its file if it has the same numbers."""
    place = folder / unit_name(number)
    wanted = _fingerprint(layer, source)
    kept = _kept(place, layer, wanted)
    if kept is not None:
        return kept
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    weights = layer.map()
    decided = verdicts(list(findings(layer, folder=place, weights=weights, source=source)))
    whole = weights if square(layer) else None
    unit = {
        "fingerprint": wanted,
        "metrics": measured((layer,), whole=whole).to_json(),
        "verdicts": decided.to_json(),
    }
    _write(place / "unit.json", text_of(unit))
    return unit


def _kept(place: Path, layer: InspectedLayer, wanted: str) -> dict[str, Any] | None:
    """An earlier unit of the same numbers, if the checker accepts all of its verdicts now."""
    try:
        raw = checker.read_file(place / "unit.json", LARGEST_MANIFEST)
        unit: dict[str, Any] = json.loads(raw)
        if set(unit) != {"fingerprint", "metrics", "verdicts"} or unit["fingerprint"] != wanted:
            return None
        pairs = [(part_of(record), record["property"]) for record in unit["verdicts"]]
        every = [(in_words(part), name) for part in parts_of(layer) for name in PROPERTIES]
        fine = pairs == every and all(is_shown(place, record) for record in unit["verdicts"])
    except (checker.Rejected, ValueError, TypeError, KeyError, RecursionError):
        return None
    return unit if fine else None


def is_shown(place: Path, record: Mapping[str, Any]) -> bool:
    """Whether a record of verdicts says what its certificate in a unit's folder proves.

    Raises:
        checker.Rejected: if the checker rejects the certificate.
    """
    if record["verdict"] not in ("PROVED", "REFUTED"):
        return record["identity"] == record["certificate"] == ""
    found = checker.examine(checker.inside(place, record["certificate"]))
    stated = record["verdict"], record["claim"], record["level"], record["identity"]
    told = record["layer"], part_of(record), record["property"]
    known = found.provenance
    return stated == (found.verdict, found.sentence, found.level, found.identity) and told == (
        known.get("layer"), known.get("part"), known.get("property"),
    )  # fmt: skip


def _fingerprint(layer: InspectedLayer, source: Mapping[str, str]) -> str:
    """A hash of the layer's name, of where it comes from, and of every number of its mixer."""
    named = [
        layer.name,
        layer.family,
        type(layer.mixer).__name__,
        sorted(source.items()),
        layer.heads,
    ]
    digest = hashlib.sha256(json.dumps(named).encode())
    for name, part in sorted(vars(layer.mixer).items()):
        digest.update(name.encode())
        plain = (
            part.detach().cpu().contiguous().numpy().tobytes() if hasattr(part, "detach") else None
        )
        digest.update(plain if plain is not None else repr(part).encode())
    return digest.hexdigest()


def text_of(content: Any) -> str:
    """The text of a JSON file of a run; names stay in their order, as columns of tables do."""
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _write(path: Path, text: str) -> Path:
    return replace_file(path, lambda draft: draft.write_text(text, encoding="utf-8", newline="\n"))
