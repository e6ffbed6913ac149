"""``check_run``: whether a run folder is consistent in itself, and what its evidence proves.

Every file that was removed, added or edited is named. If none was, the checker decides every
certificate; each has to make a claim of its property, and the tables have to agree with it.
Whoever knows the root hash from elsewhere knows that this is the same run; without it, what is
measured and what stayed UNKNOWN is only stated.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dsf.certificates import checker
from dsf.inspection.results.table import Table
from dsf.properties.decided import PROPERTIES, part_of
from dsf.properties.names import MANIFEST, MAX_MANIFEST_BYTES
from dsf.properties.run_folder import MEMBER, SCHEMA, shown_by, text_of, unit_name

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
    found.root = hashlib.sha256(raw).hexdigest()
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
    if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA:
        raise checker.Rejected(
            f"not of schema {SCHEMA}; runs of earlier releases have to be made anew"
        )
    members = manifest.get("members")
    fine = isinstance(members, dict) and all(isinstance(each, str) for each in members.values())
    if not canonical or not fine:
        raise checker.Rejected("its text is not the one that was written")
    return manifest


def _members(folder: Path, members: Mapping[str, str], found: RunCheck) -> None:
    """Name every file that is not as the manifest says; links are not followed."""
    present = {MANIFEST}
    walk = os.walk(folder, followlinks=False)
    parts = (Path(place) / name for place, folders, files in walk for name in (*folders, *files))
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
        if hashlib.sha256(data).hexdigest() != wanted:
            found.fault(name, "edited: its hash is not the one in the manifest")
    for name in members:
        if name not in present:
            found.fault(name, "removed: listed in the manifest, but missing")


def _units(folder: Path, manifest: Mapping[str, Any], found: RunCheck) -> None:
    """Whether every property of every head is decided, once, and all tables say the same."""
    tables: dict[str, list[Any]] = {"verdicts": [], "metrics": []}
    used: Counter[str] = Counter()
    if manifest["properties"] != list(PROPERTIES):
        found.fault(MANIFEST, f"the properties are not {', '.join(PROPERTIES)}")
    for number, layer in enumerate(manifest["layers"]):
        name = unit_name(number)
        unit = _json(folder, f"{name}/unit.json")
        records = unit["verdicts"]
        wanted = [(part, one) for part in layer["parts"] for one in PROPERTIES]
        if [(part_of(record), record["property"]) for record in records] != wanted or any(
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
        part = part_of(record)
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
