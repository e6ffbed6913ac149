"""``dsf doctor``: what this machine has, what is missing, and what else is called ``dsf``."""

import os
import platform
import re
import shutil
import sys
import tempfile
import tomllib
import webbrowser
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.metadata import (
    Distribution,
    PackageNotFoundError,
    distributions,
    packages_distributions,
    requires,
    version,
)
from pathlib import Path
from typing import Annotated, Literal

from dsf.cli.browser import for_pictures, has_display
from dsf.cli.command import LIMIT, WELL, Answer, Run, Work
from dsf.cli.options import written_place
from dsf.cli.terminal import print_table
from dsf.runtime.distribution import NAME, VERSION

IMPORTED_AS = "dsf"
RUNNING = Path(__file__).resolve().parents[1]
MIN_MEMORY_BYTES, MIN_DISK_BYTES = 10**9, 10**8
# Name, floor and extra of a line such as: transformers>=5.3; extra == "hf"
_LINE = re.compile(r"""([\w.-]+)(?:\[[^]]*\])?(?:>=([\d.]+))?[^;]*(?:;.*extra == ['"](\w+)['"])?""")
Status = Literal["ok", "optional", "warning", "missing"]


def doctor(
    out: Annotated[Path, written_place("Folder that reports would go to.")] = Path(),
) -> Work:
    """Check versions, device, memory, disk, the extras, and other packages that are called dsf.

    Exit code 0 if dsf can work here, else 3.
    """
    if out.is_symlink() and not out.exists():
        raise ValueError(f"--out {str(out)!r}: is a link that leads nowhere. Remove it.")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {str(out)!r}: is a file, and a folder is expected.")

    def work(run: Run) -> Answer:
        found = findings(out, str(run.threads))
        missing = sum(each.verdict == "missing" for each in found)
        warnings = sum(each.verdict == "warning" for each in found)

        def show() -> None:
            rows = [(each.what, each.found, each.verdict, each.cure) for each in found]
            print_table(("what", "found", "verdict", "cure"), rows)
            print(f"{missing} missing: see above" if missing else "dsf can work here")
            if warnings:
                print(f"{warnings} to look at: see the warnings above")

        facts = {"findings": [vars(each) for each in found]}
        return Answer(facts=facts, show=show, code=LIMIT if missing else WELL)

    return work


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        verdict: ``optional`` is absent and not needed, ``warning`` does no harm yet, ``missing``
            keeps dsf from working.
        cure: what to do, empty where nothing is to be done.
    """

    what: str
    found: str
    verdict: Status = "ok"
    cure: str = ""


def findings(out: Path, threads: str) -> list[Finding]:
    """Everything ``dsf doctor`` looks at."""
    return [
        *_packages(),
        *_import_name(),
        *_hardware(threads),
        _disk(out),
        _writable(out),
        _browser(),
    ]


def _packages() -> Iterator[Finding]:
    yield Finding("python", platform.python_version())
    try:
        lines = requires(NAME) or []
        yield Finding(NAME, VERSION)
    except PackageNotFoundError:
        lines = _required_by_checkout()
        words = f"{VERSION}, not installed: runs from a folder"
        yield Finding(NAME, words, "warning", "pip install -e . in the checkout")
    wanted = [match.groups() for line in lines if (match := _LINE.match(line))]
    yield from (needed(name, floor) for name, floor, extra in wanted if not extra)
    for extra in dict.fromkeys(extra for _, _, extra in wanted if extra):
        yield offered(extra, {name: floor for name, floor, of in wanted if of == extra})


def _required_by_checkout() -> list[str]:
    """The lines of ``requires`` for a package that runs from its checkout; none elsewhere."""
    settings = RUNNING.parent / "pyproject.toml"
    if not settings.is_file():
        return []
    project = tomllib.loads(settings.read_text(encoding="utf-8")).get("project", {})
    extras = project.get("optional-dependencies", {})
    offers = (f"{line}; extra == '{name}'" for name, lines in extras.items() for line in lines)
    return [*project.get("dependencies", ()), *offers]


def needed(name: str, floor: str | None) -> Finding:
    """Whether a package that dsf cannot do without is there and new enough."""
    fault = _fault(name, floor)
    if not fault:
        return Finding(name, version(name))
    return Finding(name, fault, "missing", f'pip install "{name}>={floor or 0}"')


def offered(extra: str, floors: Mapping[str, str | None]) -> Finding:
    """Whether everything that an extra brings is there."""
    without = [name for name, floor in floors.items() if _fault(name, floor)]
    if without:
        cure = f'pip install "{NAME}[{extra}]"'
        return Finding(f"extra {extra}", f"without {', '.join(without)}", "optional", cure)
    return Finding(f"extra {extra}", ", ".join(f"{name} {version(name)}" for name in floors))


def _fault(name: str, floor: str | None) -> str:
    try:
        found = version(name)
    except PackageNotFoundError:
        return "not installed"
    old = floor and _numbers(found) < _numbers(floor)
    return f"{found} is older than {floor}" if old else ""


def _numbers(release: str) -> tuple[int, ...]:
    leading = re.match(r"[\d.]*", release)
    return tuple(int(part) for part in (leading.group() if leading else "").split(".") if part)


def _import_name() -> Iterator[Finding]:
    """Where this package lies, and what else is called by its name."""
    what = f"import {IMPORTED_AS}"
    yield Finding(what, str(RUNNING))
    for other in name_conflicts():
        words = f"{other.what} in {other.place}"
        if other.shadows:
            words += f" is imported instead of {NAME}, or lies among its files"
        yield Finding(what, words, "missing" if other.shadows else "warning", other.cure)


def _hardware(threads: str) -> Iterator[Finding]:
    import torch

    from dsf.evaluate.memory_plan import free_memory
    from dsf.systems.kernels import found, why_off

    cuda = torch.cuda.is_available()
    yield Finding("device", torch.cuda.get_device_name() if cuda else "cpu")
    yield Finding("threads", threads)
    yield Finding("kernels", found(), "optional" if why_off() else "ok")
    yield from _kernels_on_cuda()
    free = free_memory(torch.device("cpu"))
    if free is None:
        yield Finding("free memory", "unknown", "optional")
    elif free < MIN_MEMORY_BYTES:
        yield Finding("free memory", _gigabytes(free), "missing", "close other programs")
    else:
        yield Finding("free memory", _gigabytes(free))


def _kernels_on_cuda() -> Iterator[Finding]:
    """Each is tried on the spot: a few seconds, on a machine with a CUDA device."""
    import torch

    from dsf.evaluate.cuda import all_trial_results
    from dsf.systems.kernels import why_off_on_cuda

    why = why_off_on_cuda()
    if why:
        yield Finding("kernels for cuda", f"off: {why}", "optional")
        return
    device = torch.device("cuda", torch.cuda.current_device())
    for name, found in all_trial_results(device).items():
        yield Finding(f"cuda: {name}", found, "ok" if found == "active" else "optional")


def _disk(out: Path) -> Finding:
    free = shutil.disk_usage(_existing(out)).free
    if free < MIN_DISK_BYTES:
        return Finding("free disk", _gigabytes(free), "missing", "make room, or use --out")
    return Finding("free disk", _gigabytes(free))


def _writable(out: Path) -> Finding:
    place = _existing(out)
    try:
        with tempfile.TemporaryFile(dir=place):
            return Finding("write access", str(place.resolve()))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return Finding("write access", f"{place.resolve()}: {reason}", "missing", "use --out")


def _browser() -> Finding:
    drawing = for_pictures()
    if not has_display():
        cure = "open report.html on another machine"
        if drawing:
            words = f"{drawing}, for pictures; there is no display to show report.html on"
            return Finding("browser", words, cure=cure)
        return Finding("browser", "none, and no display", "optional", cure)
    try:
        return Finding("browser", webbrowser.get().name)
    except (webbrowser.Error, AttributeError):
        return Finding("browser", "none", "optional", "open report.html on another machine")


def _existing(path: Path) -> Path:
    """The nearest folder above that is there."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


# Other packages called dsf: on a package index that name belongs to somebody else


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
