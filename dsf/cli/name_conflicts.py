"""Other packages that are imported as ``dsf``: on a package index that name is somebody else's."""

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, distributions, packages_distributions
from pathlib import Path

from dsf.runtime.distribution import NAME

IMPORTED_AS = "dsf"
RUNNING = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Conflict:
    """Something else that is called ``dsf``.

    Attributes:
        what: the distribution and its release, or what kind of thing it is.
        place: where it lies.
        shadows: whether it is imported instead of this package, or lies among its files.
        cure: what to do about it.
    """

    what: str
    place: Path
    shadows: bool
    cure: str


def name_conflicts() -> list[Conflict]:
    """Distributions that are called or imported ``dsf``, and what lies earlier on the path.

    The path is looked through twice, as Python sees it when it starts in this folder and when it
    starts anywhere else.
    """
    imported = {home for home in (_imported(here=True), _imported(here=False)) if home is not None}
    homes = [(other, _home(other)) for other in _others()]
    unexplained = imported - {home for _, home in homes} - {RUNNING}
    found = [_of_distribution(other, home, imported) for other, home in homes]
    found += [_of_path(home) for home in sorted(unexplained)]
    return list(dict.fromkeys(found))  # a folder may stand on the path twice


def _imported(*, here: bool) -> Path | None:
    """The folder or file behind ``import dsf`` in a Python that starts now."""
    working = Path.cwd()
    path = [entry for entry in sys.path if Path(entry or ".").resolve() != working]
    if here and not sys.flags.safe_path:
        path = [os.fspath(working), *path]
    spec = PathFinder.find_spec(IMPORTED_AS, path)
    if spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin).resolve()
    return origin.parent if spec.submodule_search_locations else origin


def _others() -> Iterator[Distribution]:
    """Distributions other than this one that bear the name or bring the import."""
    claimants = set(packages_distributions().get(IMPORTED_AS, ()))
    for each in distributions():
        name = _normal(each.name)
        if name == _normal(NAME):
            continue
        if name == IMPORTED_AS or each.name in claimants or _edited_home(each) is not None:
            yield each


def _normal(name: str | None) -> str:
    """As an index compares names; empty for remains without metadata."""
    return re.sub(r"[-_.]+", "-", name or "").lower()


def _home(other: Distribution) -> Path | None:
    """The folder or file that a distribution has imported as ``dsf``, if it is there."""
    places = (Path(str(other.locate_file(name))) for name in (IMPORTED_AS, f"{IMPORTED_AS}.py"))
    listed = {Path(str(file)).parts[0] for file in other.files or ()}
    for place in places:
        if place.exists() and (not listed or place.name in listed):
            return place.resolve()
    return _edited_home(other)


def _edited_home(other: Distribution) -> Path | None:
    """The same for an installation in place, which lists a file of folders instead of a package."""
    if other.read_text("direct_url.json") is None:
        return None
    for file in other.files or ():
        listed = Path(str(other.locate_file(file)))
        if listed.suffix != ".pth" or not listed.is_file():
            continue
        for line in filter(None, listed.read_text(encoding="utf-8").splitlines()):
            for name in (IMPORTED_AS, f"{IMPORTED_AS}.py"):
                place = listed.parent / line / name
                if place.exists():
                    return place.resolve()
    return None


def _of_distribution(other: Distribution, home: Path | None, imported: set[Path]) -> Conflict:
    if home is None:
        place, shadows = Path(str(other.locate_file(""))).resolve(), False
    elif home == RUNNING:
        place, shadows = home, _edited_home(other) is None
    else:
        place, shadows = home, home in imported and not _is_ours(home)
    cure = f"pip uninstall {other.name}, then install {NAME} again: uninstalling takes shared files"
    return Conflict(f"{other.name} {other.version}", place, shadows, cure)


def _of_path(home: Path) -> Conflict:
    if _is_ours(home):
        return Conflict("another copy of this package", home, False, "install the one you want")
    kind = "a folder" if home.is_dir() else "a file"
    return Conflict(kind, home, True, "rename it, or put it later on sys.path")


def _is_ours(home: Path) -> bool:
    """Whether a folder holds a copy of this package, such as another checkout."""
    return (home / "cli" / "doctor.py").is_file()
