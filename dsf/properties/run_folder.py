"""``checked_run``: decides all properties of an inspection and stores them in a folder.

A run is bound together by its manifest: it lists what had to be decided, and the hash of every
file. ``run_check`` checks a run again.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from dsf.certificates import checker
from dsf.certificates.issuing import INPUT
from dsf.inspection.results.layers import InspectedLayer, Inspection
from dsf.inspection.results.measurements import measured
from dsf.inspection.results.table import Table
from dsf.loading.folder import check_holds_no_model
from dsf.properties.decided import (
    DECIDED,
    PROPERTIES,
    UNDECIDED,
    findings,
    in_words,
    part_of,
    parts_of,
    square,
    verdicts,
)
from dsf.properties.names import MANIFEST, MAX_MANIFEST_BYTES, UNFINISHED, check_not_foreign
from dsf.runtime.files import (
    LeadsOutside,
    alone,
    fits,
    names_inside,
    read_inside,
    remove_drafts,
    remove_inside,
    seal,
    write_inside,
)

SCHEMA = 3
MEMBER = re.compile(
    r"(metrics|verdicts)\.(csv|json)"
    r"|units/\d{4,}/(unit\.json|certificates/[\w-]+\.json|tensors/[0-9a-f]{32}\.safetensors)"
    r"|[\w.-]+\.(html|png|svg|pdf)"
)
"""The names of files that a run writes, pages included."""
Progress = Callable[[int, int], None]
Pages = Callable[[Table], Iterable[Path]]


def checked_run(
    inspection: Inspection,
    folder: Path,
    *,
    progress: Progress | None = None,
    pages: Pages | None = None,
) -> Table:
    """Decide every property of every layer; write measures and evidence to ``folder``.

    Writes ``units/`` (one file for every finished layer, with ``certificates/`` and ``tensors/``
    next to it), ``metrics.csv``, ``metrics.json``, ``verdicts.csv``, ``verdicts.json``, and last
    ``manifest.json``, which lists what had to be decided and the hash of every file. A layer whose
    unit this user wrote on this machine, from the same numbers, is not decided again, so that an
    interrupted run can be resumed; its certificates have to be accepted by the checker now.

    The folder is not trusted: no link inside it is followed, and only files are replaced or
    removed that a run wrote there.

    Args:
        pages: writes further files into ``folder``, such as a report, and gives their paths.

    Raises:
        ValueError: if the folder holds a model, a run of another schema, files with a run's names
            that no run wrote, or a link, or another process is writing a run there.
    """
    check_holds_no_model(folder, "run")
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        return _written(inspection, folder, progress, pages)


def _written(
    inspection: Inspection, folder: Path, progress: Progress | None, pages: Pages | None
) -> Table:
    source = source_of(inspection)
    earlier = _earlier(folder)
    check_not_foreign(folder, str(folder))
    # this file makes the folder that of a run until the manifest is written
    _write(folder, UNFINISHED, text_of({"schema_version": SCHEMA, "source": source}))
    remove_inside(folder, MANIFEST)  # what follows is no longer the run that it binds
    remove_drafts(folder, "")
    units = []
    for number, layer in enumerate(inspection):
        units.append(_unit(layer, folder, number, source))
        if progress is not None:
            progress(number + 1, len(inspection))
    metrics = Table(tuple(record for unit in units for record in unit["metrics"]))
    decided = Table(tuple(record for unit in units for record in unit["verdicts"]))
    written = []
    for name, table in (("metrics", metrics), ("verdicts", decided)):
        written.append(_write(folder, f"{name}.csv", table.to_csv()))
        written.append(_write(folder, f"{name}.json", text_of(table.to_json())))
    written += pages(decided) if pages is not None else ()
    names = [path.relative_to(folder).as_posix() for path in written]
    for number, unit in enumerate(units):
        names += _files_of(folder, unit_name(number), unit)
    members = {name: hash_of(folder / name) for name in dict.fromkeys(names)}
    for name, digest in earlier.items():  # a file that is no part of this run, as it was written
        stale = name not in members and MEMBER.fullmatch(name)
        if stale and _has(folder, name, lambda data, digest: _sha(data) == digest, digest):
            remove_inside(folder, name)
    manifest = {
        "schema_version": SCHEMA,
        "model": inspection.model,
        "source": source,
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
        "members": members,
        "checker": checker_hash(),
    }  # fmt: skip
    _write(folder, MANIFEST, text_of(manifest))
    remove_inside(folder, UNFINISHED)
    return decided


def unit_name(number: int) -> str:
    """The folder of a layer inside the run."""
    return f"units/{number:04d}"


def hash_of(path: Path) -> str:
    """SHA-256 of a file."""
    return _sha(path.read_bytes())


def checker_hash() -> str:
    """SHA-256 of the installed checker."""
    return hash_of(Path(checker.__file__))


def source_of(inspection: Inspection) -> dict[str, str]:
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


def _earlier(folder: Path) -> dict[str, str]:
    """The members that the manifest of an earlier run in the folder lists."""
    try:
        manifest = json.loads(read_inside(folder, MANIFEST, MAX_MANIFEST_BYTES))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        if isinstance(error, LeadsOutside):
            raise
        raise ValueError(
            f"{folder / MANIFEST} is not the manifest of a run: {checker.shown(str(error))}. "
            "Choose another folder."
        ) from None
    schema = manifest.get("schema_version") if isinstance(manifest, dict) else None
    members = manifest.get("members") if isinstance(manifest, dict) else None
    if schema != SCHEMA or not isinstance(members, dict):
        raise ValueError(
            f"{folder} holds a run of schema {checker.shown(str(schema))}, but this release "
            f"writes schema {SCHEMA}. Choose another folder."
        )
    return {name: digest for name, digest in members.items() if isinstance(digest, str)}


def _has(folder: Path, name: str, is_ours: Callable[[bytes, str], bool], known: str) -> bool:
    """Whether there is a plain file of this name, which a run wrote as far as is known."""
    try:
        return is_ours(read_inside(folder, name, checker.MAX_TENSOR_BYTES), known)
    except (checker.Rejected, OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _unit(
    layer: InspectedLayer, folder: Path, number: int, source: Mapping[str, str]
) -> dict[str, Any]:
    """The measures and verdicts of one layer, from its file if it has the same numbers."""
    name = unit_name(number)
    for part in (name, f"{name}/certificates", f"{name}/tensors"):
        remove_drafts(folder, part)
    wanted = _fingerprint(layer, source)
    unit = _kept(folder, name, layer, wanted)
    if unit is None:
        place = folder / name
        weights = layer.map()
        decided = verdicts(list(findings(layer, folder=place, weights=weights, source=source)))
        whole = weights if square(layer) else None
        unit = {
            "fingerprint": wanted,
            "metrics": measured((layer,), whole=whole).to_json(),
            "verdicts": decided.to_json(),
        }
        _write(folder, f"{name}/unit.json", text_of({**unit, "seal": seal(_sealed(unit))}))
    # Of a run that was interrupted, only files named by the hashes of what they hold are known.
    known: dict[str, Callable[[bytes, str], bool]] = {
        "certificates": lambda data, stem: (
            stem.rpartition("-")[2] == checker.identity(json.loads(data))[:16]
        ),
        "tensors": lambda data, stem: stem == _sha(data)[:32],
    }
    used = _files_of(folder, name, unit)
    for part, is_ours in known.items():
        for file in names_inside(folder, f"{name}/{part}"):
            left, stem = f"{name}/{part}/{file}", file.rpartition(".")[0]
            if left not in used and _has(folder, left, is_ours, stem):
                remove_inside(folder, left)
    return unit


def _sealed(unit: Mapping[str, Any]) -> bytes:
    return text_of({key: unit[key] for key in ("fingerprint", "metrics", "verdicts")}).encode()


def _files_of(folder: Path, name: str, unit: Mapping[str, Any]) -> list[str]:
    """The files of a unit: its own, the certificates of its verdicts, and what those speak of."""
    names = [f"{name}/unit.json"]
    for record in unit["verdicts"]:
        if record["certificate"]:
            file = f"{name}/{record['certificate']}"
            content = json.loads(read_inside(folder, file, checker.MAX_CERTIFICATE_BYTES))
            names += [file, *(f"{name}/{entry['file']}" for entry in content["subject"])]
    return names


def _kept(folder: Path, name: str, layer: InspectedLayer, wanted: str) -> dict[str, Any] | None:
    """An earlier unit of the same numbers, if this user wrote it and its evidence is accepted."""
    try:
        stored = json.loads(read_inside(folder, f"{name}/unit.json", MAX_MANIFEST_BYTES))
        stated = stored.pop("seal")
        unit: dict[str, Any] = stored
        if not fits(stated, _sealed(unit)) or unit["fingerprint"] != wanted:
            return None
        pairs = [(part_of(record), record["property"]) for record in unit["verdicts"]]
        every = [(in_words(part), name) for part in parts_of(layer) for name in PROPERTIES]
        shown = all(shown_by(folder / name, record)[1] for record in unit["verdicts"])
    except LeadsOutside:
        raise
    except (checker.Rejected, OSError, ValueError, TypeError, KeyError, AttributeError,
            RecursionError):  # fmt: skip
        return None
    return unit if pairs == every and shown else None


def shown_by(place: Path, record: Mapping[str, Any]) -> tuple[checker.Accepted | None, bool]:
    """The certificate of a record of verdicts, and whether the record says what it proves.

    Only UNKNOWN and NOT APPLICABLE have no certificate.

    Raises:
        checker.Rejected: if the checker rejects the certificate.
    """
    if record["verdict"] not in DECIDED:
        without = record["identity"] == record["certificate"] == ""
        return None, without and record["verdict"] in UNDECIDED
    found = checker.examine(checker.inside(place, record["certificate"]))
    bound, observed = found.parameters.get("bound"), found.observed
    stated = {
        "verdict": found.verdict,
        "level": found.level,
        "scope": INPUT,
        "bound": None if bound is None else float(bound),
        "observed": None if observed is None else float(observed),
        "claim": found.sentence,
        "limits": "",
        "identity": found.identity,
    }
    known = {name: found.provenance.get(name) for name in ("layer", "family", "part", "property")}
    same = stated.items() <= record.items()
    same = same and known.items() <= {**record, "part": part_of(record)}.items()
    return found, same and PROPERTIES[record["property"]].is_claimed_by(found)


def _fingerprint(layer: InspectedLayer, source: Mapping[str, str]) -> str:
    """A hash of the layer's name, of where it comes from, and of every number of its mixer."""
    kind = type(layer.mixer).__name__
    named = [layer.name, layer.family, kind, sorted(source.items()), layer.heads]
    digest = hashlib.sha256(json.dumps(named).encode())
    for name, part in sorted(vars(layer.mixer).items()):
        digest.update(name.encode())
        is_tensor = hasattr(part, "detach")
        digest.update(part.detach().cpu().contiguous().numpy().tobytes() if is_tensor
                      else repr(part).encode())  # fmt: skip
    return digest.hexdigest()


def text_of(content: Any) -> str:
    """The text of a JSON file of a run; names stay in their order, as columns of tables do."""
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _write(folder: Path, name: str, text: str) -> Path:
    return write_inside(folder, name, text.encode())
