"""``dsf doctor``: what this machine has, what is missing, and what else is called ``dsf``."""

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
    PackageNotFoundError,
    distribution,
    packages_distributions,
    requires,
    version,
)
from pathlib import Path
from typing import Annotated, Literal

from dsf.cli.command import LIMIT, WELL, Answer, Run, Work
from dsf.cli.terminal import has_display, print_table
from dsf.runtime.distribution import NAME, VERSION

IMPORTED_AS = "dsf"
RUNNING = Path(__file__).resolve().parents[1]
MIN_MEMORY_BYTES, MIN_DISK_BYTES = 10**9, 10**8
# Name, floor and extra of a line such as: transformers>=5.3; extra == "hf"
_LINE = re.compile(r"""([\w.-]+)(?:\[[^]]*\])?(?:>=([\d.]+))?[^;]*(?:;.*extra == ['"](\w+)['"])?""")
Status = Literal["ok", "optional", "warning", "missing"]


def doctor(out: Annotated[Path, "Folder that reports would go to."] = Path()) -> Work:
    """Check versions, device, memory, disk, the extras, and other packages that are called dsf.

    Exit code 0 if dsf can work here, else 3.
    """
    if out.is_symlink() and not out.exists():
        raise ValueError(f"--out {str(out)!r}: is a link that leads nowhere. Remove it.")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {str(out)!r}: is a file, and a folder is expected.")

    def work(run: Run) -> Answer:
        hardware, place = _hardware(run.threads), _place(out)
        found = [*_packages(), *_import_name(), *hardware, *place, _browser()]
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
    """One thing that was looked at."""

    what: str
    found: str
    verdict: Status = "ok"
    cure: str = ""


def _packages() -> Iterator[Finding]:
    yield Finding("python", platform.python_version())
    try:
        lines = requires(NAME) or []
        yield Finding(NAME, VERSION)
    except PackageNotFoundError:
        words = f"{VERSION}, not installed: runs from a folder"
        lines = _required_by_checkout()
        yield Finding(NAME, words, "warning", "pip install -e . in the checkout")
    wanted = [match.groups() for line in lines if (match := _LINE.match(line))]
    yield from (needed(name, floor) for name, floor, extra in wanted if not extra)
    for extra in dict.fromkeys(extra for _, _, extra in wanted if extra):
        yield offered(extra, {name: floor for name, floor, of in wanted if of == extra})


def _required_by_checkout() -> list[str]:
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
    """Where this package lies, and what else is imported by its name."""
    what = f"import {IMPORTED_AS}"
    yield Finding(what, str(RUNNING))
    # On the package index that name belongs to somebody else.
    for other in sorted({*packages_distributions().get(IMPORTED_AS, ())} - {NAME}):
        home = Path(str(distribution(other).locate_file(IMPORTED_AS))).resolve()
        words = f"{other} {version(other)} in {home}"
        cure = f"pip uninstall {other}, then install {NAME} again: uninstalling takes shared files"
        if home == RUNNING:
            yield Finding(what, f"{words} overwrites files of {NAME}", "missing", cure)
        else:
            yield Finding(what, words, "warning", cure)
    elsewhere = [entry for entry in sys.path if Path(entry or ".").resolve() != Path.cwd()]
    for path in (elsewhere, [str(Path.cwd()), *elsewhere]):
        spec = PathFinder.find_spec(IMPORTED_AS, path)
        if spec is None or spec.origin is None:  # a folder without __init__.py hides nothing
            continue
        home = Path(spec.origin).resolve()
        if not (home.parent / "cli" / "doctor.py").is_file():
            words = f"{home} is imported instead of {NAME}"
            yield Finding(what, words, "missing", "rename it, or put it later on sys.path")
            return


def _hardware(threads: str) -> Iterator[Finding]:
    import torch

    from dsf.evaluate.memory_plan import free_memory
    from dsf.systems.kernels import found, why_off, why_off_on_cuda

    cuda = torch.cuda.is_available()
    yield Finding("device", torch.cuda.get_device_name() if cuda else "cpu")
    yield Finding("threads", threads)
    yield Finding("kernels", found(), "optional" if why_off() else "ok")
    why = why_off_on_cuda()
    on_cuda = f"off: {why}" if why else "active"
    yield Finding("kernels for cuda", on_cuda, "optional" if why else "ok")
    free = free_memory(torch.device("cpu"))
    if free is None:
        yield Finding("free memory", "unknown", "optional")
    else:
        yield _room("free memory", free, MIN_MEMORY_BYTES, "close other programs")


def _place(out: Path) -> Iterator[Finding]:
    """Room and access in the nearest folder that is there."""
    folder = out.absolute()
    place = next(each for each in (folder, *folder.parents) if each.is_dir())
    free = shutil.disk_usage(place).free
    yield _room("free disk", free, MIN_DISK_BYTES, "make room, or use --out")
    try:
        with tempfile.TemporaryFile(dir=place):
            yield Finding("write access", str(place.resolve()))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        yield Finding("write access", f"{place.resolve()}: {reason}", "missing", "use --out")


def _browser() -> Finding:
    cure = "open report.html on another machine"
    if not has_display():
        return Finding("browser", "no display to show report.html on", "optional", cure)
    try:
        return Finding("browser", webbrowser.get().name)
    except (webbrowser.Error, AttributeError):
        return Finding("browser", "none", "optional", cure)


def _room(what: str, free: int, least: int, cure: str) -> Finding:
    found = f"{free / 1e9:.1f} GB"
    return Finding(what, found, "missing", cure) if free < least else Finding(what, found)
