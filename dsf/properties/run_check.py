"""``check_run``: whether a run folder is as it was written, and what its evidence proves.

Everything is named that was removed, added, edited, renamed, copied or swapped. If nothing was,
the checker decides every certificate, and the tables have to say what it says.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dsf.certificates import checker
from dsf.inspection.results.table import Table
from dsf.properties.run_folder import LARGEST_MANIFEST, MANIFEST, SCHEMA, is_shown, part_of, text_of

LARGEST_MEMBER = 1 << 30
DECIDED = ("PROVED", "REFUTED")


@dataclass
class RunCheck:
    """What a run folder holds.

    Attributes:
        root: SHA-256 of the manifest, which holds the hash of every other file; whoever knows it
            from elsewhere knows that this is the same run.
        accepted: how many certificates the checker accepts, by verdict.
        undecided: how many properties have no certificate, by verdict.
        faults: what is wrong, by the file or the property that it concerns.
    """

    root: str = ""
    accepted: Counter[str] = field(default_factory=Counter)
    undecided: Counter[str] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong and something is proved or refuted."""
        return not self.faults and bool(self.accepted)

    def fault(self, name: str, reason: str) -> None:
        """Add a fault, unless one is known of this file."""
        self.faults.setdefault(checker.shown(name), reason)


def check_run(folder: Path, *, root: str | None = None) -> RunCheck:
    """Check a run that ``checked_run`` wrote; the folder may come from anywhere.

    Args:
        root: the root hash that the run must have.
    """
    found = RunCheck()
    try:
        raw = checker.read_file(folder / MANIFEST, LARGEST_MANIFEST)
        manifest = _manifest(raw)
    except checker.Rejected as error:
        found.fault(MANIFEST, str(error))
        return found
    found.root = hashlib.sha256(raw).hexdigest()
    if root is not None and root.removeprefix("sha256 ") != found.root:
        found.fault(MANIFEST, f"the root hash is {found.root}, not the given one")
    _members(folder, manifest["members"], found)
    if found.faults:
        return found  # nothing is accepted of a run that is not the one that was written
    try:
        _verdicts(folder, manifest, found)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        found.fault(MANIFEST, f"malformed: {type(error).__name__}: {checker.shown(str(error))}")
    return found


def _manifest(raw: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise checker.Rejected("a name stands twice")
        return dict(pairs)

    try:
        manifest = json.loads(raw.decode("ascii"), object_pairs_hook=unique)
        canonical = text_of(manifest).encode() == raw
    except (ValueError, RecursionError) as error:
        raise checker.Rejected(f"not readable: {checker.shown(str(error))}") from None
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
    """Name every file that is not as the manifest says."""
    present: dict[str, str] = {}
    for name, path in _files(folder):
        try:
            data = checker.read_file(path, LARGEST_MEMBER)
        except checker.Rejected as error:
            found.fault(name, str(error))
            continue
        present[name] = hashlib.sha256(data).hexdigest()
    present.pop(MANIFEST, None)
    gone = {digest: name for name, digest in members.items() if name not in present}
    listed = {digest: name for name, digest in members.items()}
    for name, digest in present.items():
        wanted = members.get(name)
        if wanted is None:
            where = gone.get(digest) or listed.get(digest)
            verb = "renamed from" if digest in gone else "a copy of"
            reason = f"{verb} {where}" if where else "not listed in the manifest"
            found.fault(name, f"added: {reason}")
        elif digest != wanted:
            other = listed.get(digest)
            swapped = other is not None and present.get(other) == wanted
            told = f"{'swapped with' if swapped else 'overwritten by a copy of'} {other}"
            found.fault(name, told if other else "edited: its hash is not the one in the manifest")
    for name in members:
        if name not in present:
            found.fault(name, "removed: listed in the manifest, but missing")


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file below a folder, and every link, none of which is followed."""
    for place, folders, files in os.walk(folder, followlinks=False):
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        for name in sorted(files + links):
            path = Path(place) / name
            yield path.relative_to(folder).as_posix(), path


def _verdicts(folder: Path, manifest: Mapping[str, Any], found: RunCheck) -> None:
    """Whether everything that had to be decided is there, and is what the checker says."""
    tables = {
        unit: _json(folder, f"{unit}/unit.json")["verdicts"]
        for unit in (layer["unit"] for layer in manifest["layers"])
    }
    records = [(unit, record) for unit, table in tables.items() for record in table]
    wanted = [
        (layer["unit"], layer["name"], part, name)
        for layer in manifest["layers"]
        for part in layer["parts"]
        for name in manifest["properties"]
    ]
    expected = manifest["expected"]
    stated = [(e["unit"], e["layer"], e["part"], e["property"]) for e in expected]
    if stated != wanted or len(records) != len(expected):
        missing = next((each for each in wanted if each not in stated), "one too many")
        found.fault(MANIFEST, f"not every property of every head is listed: {missing}")
        return
    for each, (unit, record) in zip(expected, records, strict=True):
        _one(folder / unit, each, record, found)
    every = [record for _, record in records]
    if _json(folder, "verdicts.json") != every:
        found.fault("verdicts.json", "does not say what the units say")
    if _text(folder, "verdicts.csv") != Table(tuple(every)).to_csv():
        found.fault("verdicts.csv", "does not say what the units say")
    named = Counter(f"{e['unit']}/{e['certificate']}" for e in expected if e["certificate"])
    stray = {n for n in manifest["members"] if "/certificates/" in n} - set(named)
    for name in sorted(stray):
        found.fault(name, "a certificate of nothing that had to be decided")
    for name, count in named.items():
        if count > 1:
            found.fault(name, f"stands for {count} properties")


def _one(place: Path, each: Mapping[str, Any], record: Mapping[str, Any], found: RunCheck) -> None:
    """One property of one head: its certificate, and what the tables say of it."""
    about = f"{each['layer']}, {each['part']}, {each['property']}"
    agree = ("layer", "property", "verdict", "certificate", "identity")
    same = all(each[name] == record[name] for name in agree) and each["part"] == part_of(record)
    if each["verdict"] not in DECIDED:
        if not same or each["certificate"] or each["identity"]:
            found.fault(about, "has no verdict, but a certificate, or another one in the table")
        found.undecided[each["verdict"]] += 1
        return
    name = f"{place.parent.name}/{place.name}/{each['certificate']}"
    try:
        shown = is_shown(place, record)
    except checker.Rejected as error:
        found.fault(name, f"rejected: {checker.shown(str(error))}")
        return
    if not same or not shown:
        found.fault(name, f"does not say what the tables say of {about}")
    else:
        found.accepted[each["verdict"]] += 1


def _text(folder: Path, name: str) -> str:
    try:
        return checker.read_file(checker.inside(folder, name), LARGEST_MANIFEST).decode()
    except (checker.Rejected, UnicodeDecodeError) as error:
        raise ValueError(f"{name} {error}") from None


def _json(folder: Path, name: str) -> Any:
    return json.loads(_text(folder, name))
