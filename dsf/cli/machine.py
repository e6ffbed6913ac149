"""What this machine offers, and whether it is enough."""

import os
import platform
import re
import shutil
import tempfile
import tomllib
import webbrowser
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from dsf.cli.browser import for_pictures, has_display
from dsf.cli.name_conflicts import IMPORTED_AS, RUNNING, name_conflicts
from dsf.runtime.distribution import NAME, VERSION

Verdict = Literal["ok", "optional", "warning", "missing"]
# Name, floor and extra of a line such as: transformers>=5.3; extra == "hf"
_LINE = re.compile(r"""([\w.-]+)(?:\[[^]]*\])?(?:>=([\d.]+))?[^;]*(?:;.*extra == ['"](\w+)['"])?""")
LITTLE_MEMORY, LITTLE_DISK = 10**9, 10**8


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
    verdict: Verdict = "ok"
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


def show_versions() -> None:
    """Print what an issue report needs: versions of Python, dsf and what it uses, and the machine.

    >>> show_versions()
    python...
    """
    import torch

    threads = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    for finding in (*_packages(), *_import_name(), *_hardware(threads)):
        print(f"{finding.what:20} {finding.found}")


def _packages() -> Iterator[Finding]:
    yield Finding("python", platform.python_version())
    try:
        lines = requires(NAME) or []
        yield Finding(NAME, VERSION)
    except PackageNotFoundError:
        lines = _required_by_checkout()
        told = f"{VERSION}, not installed: runs from a folder"
        yield Finding(NAME, told, "warning", "pip install -e . in the checkout")
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
        told = f"{other.what} in {other.place}"
        if other.shadows:
            told += f" is imported instead of {NAME}, or lies among its files"
        yield Finding(what, told, "missing" if other.shadows else "warning", other.cure)


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
    elif free < LITTLE_MEMORY:
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
    if free < LITTLE_DISK:
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
            told = f"{drawing}, for pictures; there is no display to show report.html on"
            return Finding("browser", told, cure=cure)
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
