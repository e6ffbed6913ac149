"""``checked_run``: decides all properties of an inspection and stores them in a folder.

A run is bound together by its manifest: it lists what had to be decided, and the hash of every
file. ``check_run`` names every file that was removed, added or edited. If none was, the checker
decides every certificate; each has to make a claim of its property, and the tables have to agree
with it. Whoever knows the root hash from elsewhere knows that this is the same run; without it,
what is measured and what stayed UNKNOWN is only stated.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from dsf.certificates import checker
from dsf.certificates.certificate import INPUT
from dsf.inspection.results.layers import InspectedLayer, Inspection
from dsf.inspection.results.measurements import measured
from dsf.inspection.results.table import Table
from dsf.loading.folder import check_holds_no_model
from dsf.properties import decided as deciding
from dsf.properties.names import MANIFEST, MAX_MANIFEST_BYTES, UNFINISHED, check_not_foreign
from dsf.runtime import files

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
    with files.alone(folder):
        return _written(inspection, folder, progress, pages)


def _written(
    inspection: Inspection, folder: Path, progress: Progress | None, pages: Pages | None
) -> Table:
    source = source_of(inspection)
    earlier = _earlier(folder)
    check_not_foreign(folder, str(folder))
    # this file makes the folder that of a run until the manifest is written
    _write(folder, UNFINISHED, text_of({"schema_version": SCHEMA, "source": source}))
    files.remove_inside(folder, MANIFEST)  # what follows is no longer the run that it binds
    files.remove_drafts(folder, "")
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
        if stale:
            _remove(folder, name, lambda data, digest: _sha(data) == digest, digest)
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
             "parts": deciding.parts_of(layer)}
            for number, layer in enumerate(inspection)
        ],
        "properties": list(deciding.PROPERTIES),
        "unsupported": [vars(missed) for missed in inspection.unsupported],
        "members": members,
        "checker": checker_hash(),
    }  # fmt: skip
    _write(folder, MANIFEST, text_of(manifest))
    files.remove_inside(folder, UNFINISHED)
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
        "input": facts.get("input", f"sha256 {_sha(names.encode())}"),
        "dtype": facts.get("dtype", "unknown"),
    }


def _earlier(folder: Path) -> dict[str, str]:
    """The members that the manifest of an earlier run in the folder lists."""
    try:
        raw = files.read_inside(folder, MANIFEST, MAX_MANIFEST_BYTES)
        members: dict[str, str] = _manifest(raw)["members"]
    except FileNotFoundError:
        return {}
    except checker.Rejected as error:
        raise ValueError(
            f"{folder / MANIFEST}: expected the manifest of a run, got one that is "
            f"{checker.shown(str(error))}. Choose another folder."
        ) from None
    return members


def _remove(folder: Path, name: str, is_ours: Callable[[bytes, str], bool], known: str) -> None:
    """Remove a plain file that a run wrote, as far as is known."""
    try:
        written = is_ours(files.read_inside(folder, name, checker.MAX_TENSOR_BYTES), known)
    except (checker.Rejected, OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    if written:
        files.remove_inside(folder, name)


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _unit(
    layer: InspectedLayer, folder: Path, number: int, source: Mapping[str, str]
) -> dict[str, Any]:
    """The measures and verdicts of one layer, from its file if it has the same numbers."""
    name = unit_name(number)
    for part in (name, f"{name}/certificates", f"{name}/tensors"):
        files.remove_drafts(folder, part)
    wanted = _fingerprint(layer, source)
    unit = _kept(folder, name, layer, wanted)
    if unit is None:
        place = folder / name
        weights = layer.map()
        decided = deciding.verdicts(
            list(deciding.findings(layer, folder=place, weights=weights, source=source))
        )
        whole = weights if deciding.square(layer) else None
        unit = {
            "fingerprint": wanted,
            "metrics": measured((layer,), whole=whole).to_json(),
            "verdicts": decided.to_json(),
        }
        _write(folder, f"{name}/unit.json", text_of({**unit, "seal": files.seal(_sealed(unit))}))
    # Of a run that was interrupted, only files named by the hashes of what they hold are known.
    known: dict[str, Callable[[bytes, str], bool]] = {
        "certificates": lambda data, stem: (
            stem.rpartition("-")[2] == checker.identity(json.loads(data))[:16]
        ),
        "tensors": lambda data, stem: stem == _sha(data)[:32],
    }
    used = _files_of(folder, name, unit)
    for part, is_ours in known.items():
        for file in files.names_inside(folder, f"{name}/{part}"):
            left, stem = f"{name}/{part}/{file}", file.rpartition(".")[0]
            if left not in used:
                _remove(folder, left, is_ours, stem)
    return unit


def _sealed(unit: Mapping[str, Any]) -> bytes:
    return text_of({key: unit[key] for key in ("fingerprint", "metrics", "verdicts")}).encode()


def _files_of(folder: Path, name: str, unit: Mapping[str, Any]) -> list[str]:
    """The files of a unit: its own, the certificates of its verdicts, and what those speak of."""
    names = [f"{name}/unit.json"]
    for record in unit["verdicts"]:
        if record["certificate"]:
            file = f"{name}/{record['certificate']}"
            content = json.loads(files.read_inside(folder, file, checker.MAX_CERTIFICATE_BYTES))
            names += [file, *(f"{name}/{entry['file']}" for entry in content["subject"])]
    return names


def _kept(folder: Path, name: str, layer: InspectedLayer, wanted: str) -> dict[str, Any] | None:
    """An earlier unit of the same numbers, if this user wrote it and its evidence is accepted."""
    try:
        stored = json.loads(files.read_inside(folder, f"{name}/unit.json", MAX_MANIFEST_BYTES))
        stated = stored.pop("seal")
        unit: dict[str, Any] = stored
        if not files.fits(stated, _sealed(unit)) or unit["fingerprint"] != wanted:
            return None
        pairs = [(deciding.part_of(record), record["property"]) for record in unit["verdicts"]]
        every = list(product(deciding.parts_of(layer), deciding.PROPERTIES))
        shown = all(shown_by(folder / name, record)[1] for record in unit["verdicts"])
    except files.LeadsOutside:
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
    if record["verdict"] not in deciding.DECIDED:
        without = record["identity"] == record["certificate"] == ""
        return None, without and record["verdict"] in deciding.UNDECIDED
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
    same = same and known.items() <= {**record, "part": deciding.part_of(record)}.items()
    return found, same and deciding.PROPERTIES[record["property"]].is_claimed_by(found)


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
    return files.write_inside(folder, name, text.encode())


MAX_MEMBER_BYTES = 1 << 30


@dataclass
class RunCheck:
    """What a run folder holds.

    Attributes:
        root: SHA-256 of the manifest, which holds the hash of every other file.
        is_known: whether a root hash was given that the run has.
        accepted: how many certificates the checker accepts, by verdict.
        undecided: how many properties have no certificate, by verdict.
        faults: what is wrong, by the file or the property that it concerns.
    """

    root: str = ""
    is_known: bool = False
    accepted: Counter[str] = field(default_factory=Counter)
    undecided: Counter[str] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong and something is proved or refuted."""
        return not self.faults and bool(self.accepted)

    def fault(self, name: str, reason: str) -> None:
        """Add a fault as it may be printed, unless one is known of this file."""
        self.faults.setdefault(checker.shown(name), checker.shown(reason))


def check_run(folder: Path, *, root: str | None = None) -> RunCheck:
    """Check a run that ``checked_run`` wrote; the folder is not trusted.

    Args:
        root: the root hash that the run must have, in letters of either case.
    """
    found = RunCheck()
    try:
        raw = checker.read_file(folder / MANIFEST, MAX_MANIFEST_BYTES)
        manifest = _manifest(raw)
    except checker.Rejected as error:
        found.fault(MANIFEST, str(error))
        return found
    found.root = _sha(raw)
    if root is not None:
        found.is_known = root.removeprefix("sha256 ").lower() == found.root
        if not found.is_known:
            found.fault(MANIFEST, f"the root hash is {found.root}, not the given one")
    _members(folder, manifest["members"], found)
    if found.faults:
        return found  # nothing is accepted of a run that is not the one that was written
    try:
        _units(folder, manifest, found)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        found.fault(MANIFEST, f"malformed: {type(error).__name__}: {error}")
    return found


def _manifest(raw: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(raw.decode("ascii"))
        canonical = text_of(manifest).encode() == raw
    except (ValueError, RecursionError) as error:
        raise checker.Rejected(f"not readable: {error}") from None
    schema = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if schema != SCHEMA:
        raise checker.Rejected(
            f"of schema {schema}, not {SCHEMA}; runs of other releases have to be made anew"
        )
    members = manifest.get("members")
    fine = isinstance(members, dict) and all(isinstance(each, str) for each in members.values())
    if not canonical or not fine:
        raise checker.Rejected("edited: its text is not the one that was written")
    return manifest


def _members(folder: Path, members: Mapping[str, str], found: RunCheck) -> None:
    """Name every file that is not as the manifest says; links are not followed."""
    present = {MANIFEST}
    walk = os.walk(folder, followlinks=False)
    parts = (Path(place) / name for place, folders, others in walk for name in (*folders, *others))
    for path in sorted(part for part in parts if part.is_symlink() or not part.is_dir()):
        name = path.relative_to(folder).as_posix()
        present.add(name)
        wanted = members.get(name)
        if name == MANIFEST:
            continue
        if wanted is None or not MEMBER.fullmatch(name):
            found.fault(name, "added: not listed in the manifest, or no file of a run")
            continue
        try:
            data = checker.read_file(path, MAX_MEMBER_BYTES)
        except checker.Rejected as error:
            found.fault(name, str(error))
            continue
        if _sha(data) != wanted:
            found.fault(name, "edited: its hash is not the one in the manifest")
    for name in members:
        if name not in present:
            found.fault(name, "removed: listed in the manifest, but missing")


def _units(folder: Path, manifest: Mapping[str, Any], found: RunCheck) -> None:
    """Whether every property of every head is decided, once, and all tables say the same."""
    tables: dict[str, list[Any]] = {"verdicts": [], "metrics": []}
    used: Counter[str] = Counter()
    if manifest["properties"] != list(deciding.PROPERTIES):
        found.fault(MANIFEST, f"the properties are not {', '.join(deciding.PROPERTIES)}")
    for number, layer in enumerate(manifest["layers"]):
        name = unit_name(number)
        unit = _json(folder, f"{name}/unit.json")
        records = unit["verdicts"]
        wanted = list(product(layer["parts"], deciding.PROPERTIES))
        if [(deciding.part_of(record), record["property"]) for record in records] != wanted or any(
            (record["layer"], record["family"]) != (layer["name"], layer["family"])
            for record in records
        ):
            found.fault(f"{name}/unit.json", "not every property of every head, once and in order")
            return
        _decided(folder / name, name, records, found)
        used.update(
            f"{name}/{record['certificate']}" for record in records if record["certificate"]
        )
        for kind, rows in tables.items():
            rows.extend(unit[kind])
    for kind, rows in tables.items():
        if _json(folder, f"{kind}.json") != rows:
            found.fault(f"{kind}.json", "does not say what the units say")
        if _text(folder, f"{kind}.csv") != Table(tuple(rows)).to_csv():
            found.fault(f"{kind}.csv", "does not say what the units say")
    for name in manifest["members"]:
        if "/certificates/" in name and used[name] != 1:
            found.fault(name, f"a certificate of {used[name]} properties")


def _decided(place: Path, name: str, records: list[dict[str, Any]], found: RunCheck) -> None:
    """Whether the certificates of a unit prove its records, for one set of numbers in each head."""
    numbers: dict[tuple[str, str], str] = {}
    for record in records:
        part = deciding.part_of(record)
        about = f"{record['layer']}, {part}, {record['property']}"
        try:
            accepted, same = shown_by(place, record)
        except checker.Rejected as error:
            found.fault(f"{name}/{record['certificate']}", f"rejected: {error}")
            continue
        for role, digest in accepted.digests.items() if accepted is not None else ():
            if role in ("map", "key"):
                same = same and numbers.setdefault((part, role), digest) == digest
        if not same:
            found.fault(about, "the table does not say what a certificate of this property proves")
        elif accepted is None:
            found.undecided[record["verdict"]] += 1
        else:
            found.accepted[accepted.verdict] += 1


def _text(folder: Path, name: str) -> str:
    try:
        return checker.read_file(checker.inside(folder, name), MAX_MANIFEST_BYTES).decode()
    except (checker.Rejected, UnicodeDecodeError) as error:
        raise ValueError(f"{name} {error}") from None


def _json(folder: Path, name: str) -> Any:
    return json.loads(_text(folder, name))
