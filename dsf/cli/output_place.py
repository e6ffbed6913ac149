"""Where a command will write is tried before anything heavy is imported."""

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dsf.loading.folder import holds_model
from dsf.runtime.files import alone, is_special, read_inside

RUN_NAMES = ("manifest.json", "unfinished.json")
"""Either makes a folder that of a run."""
RUN_FILES = ("units", "metrics.csv", "metrics.json", "verdicts.csv", "verdicts.json")
SOURCE_KEYS = ("weights", "configuration", "input")
"""These identify a run; the path of a model may be written in many ways."""
REPORT = ("report.html", "maps.png")
"""The files of a report."""
MAX_MANIFEST_BYTES = 64 << 20


def check_folder(
    folder: Path, *, files: Iterable[str] = (), models: Iterable[str] = (), option: str = "--out"
) -> None:
    """Check that files can be written to a folder, which need not exist yet."""
    where = f"{option} {str(folder)!r}"
    for above in (folder, *folder.parents):
        if above.is_symlink() and not above.exists():
            raise ValueError(f"{where}: {above} is a link that leads nowhere. Remove it.")
        if above.exists():
            break
    if not above.is_dir():
        named = "is" if above == folder else f"lies in {str(above)!r}, which is"
        raise ValueError(f"{where}: {named} a file, and a folder is expected. Give another name.")
    for model in models:
        if Path(model).is_dir() and folder.is_dir() and folder.samefile(model):
            raise ValueError(
                f"{where}: is the folder of the model, which is only read. Give another folder."
            )
    if holds_model(folder):
        raise ValueError(
            f"{where}: holds the files of a model; nothing is written next to them. Give another "
            "folder."
        )
    for name in files:
        if (folder / name).is_dir():
            raise ValueError(f"{where}: {name} in it is a folder. Give another folder.")
    _try(above, where)


def check_file(file: Path, option: str, *, makes_folder: bool = False) -> None:
    """Check that a file can be written."""
    where = f"{option} {str(file)!r}"
    if file.is_dir():
        raise ValueError(f"{where}: is a folder. Give the name of a file.")
    if makes_folder and is_special(file):
        raise ValueError(f"{where}: is a device or a pipe, and a file is written. Give another.")
    if file.is_symlink() and not file.exists():
        raise ValueError(f"{where}: is a link that leads nowhere. Remove it.")
    if file.exists() and (owner := _owner(file)):
        raise ValueError(
            f"{where}: is a file of {owner}, which is not written over. Give another name."
        )
    if file.exists() and not os.access(file, os.W_OK):
        raise ValueError(f"{where}: is write-protected. Give another name, or unprotect it.")
    if makes_folder:
        check_folder(file.parent, option=option)
        return
    if not file.parent.is_dir():
        raise ValueError(f"{where}: there is no folder {str(file.parent)!r}. Make it first.")
    _try(file.parent, where)


def _owner(file: Path) -> str:
    """What a file belongs to, in words; empty where that is nothing of ours."""
    folder = file.parent
    if any((folder / name).exists() for name in RUN_NAMES):
        return "a run"
    if (folder / "job.json").exists():
        return "a job"
    return "a model" if file.suffix == ".gguf" or holds_model(folder) else ""


def _try(place: Path, where: str) -> None:
    """Make a file without a name there, which is gone at once."""
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ValueError(
            f"{where}: nothing can be written to {str(place)!r}: {error.strerror}. Give another "
            "folder."
        ) from None


def check_free(folder: Path) -> None:
    """Raise ValueError if another process is writing into the folder, which may not exist."""
    if folder.is_dir():
        with alone(folder):
            pass


# Folders of runs


def is_run(path: Path) -> bool:
    return (path / RUN_NAMES[0]).is_file() and (path / "units").is_dir()


def check_no_run(folder: Path) -> None:
    """Raise ValueError if the folder holds a run, whose files its manifest binds together."""
    for name in RUN_NAMES:
        if (folder / name).exists():
            raise ValueError(
                f"--out {str(folder)!r}: holds a run of dsf check ({name}), whose report would no "
                "longer be the one that it wrote. Give another folder."
            )


def check_not_foreign(folder: Path) -> None:
    """Raise ValueError if the folder has what no run wrote, under the names of a run."""
    if not any((folder / name).exists() for name in RUN_NAMES):
        foreign = [name for name in RUN_FILES if (folder / name).exists()]
        if foreign:
            raise ValueError(
                f"--out {str(folder)!r}: has {', '.join(foreign)}, but no {RUN_NAMES[0]}, so no "
                "run wrote them. Give another folder."
            )


def check_not_of_another(folder: Path, source: Mapping[str, str]) -> None:
    """Raise ValueError if the run in ``folder`` is known to come from something else."""
    there = _source(folder)
    other = [
        key for key in SOURCE_KEYS if key in source and there.get(key) not in (None, source[key])
    ]
    if other:
        raise ValueError(
            f"--out {str(folder)!r}: holds a run with another {' and another '.join(other)}, which "
            "is not written over. Give another folder, or remove this one first."
        )


def _source(folder: Path) -> dict[str, Any]:
    """Where the run in the folder comes from; empty where nothing says it."""
    for name in RUN_NAMES:
        try:
            found = json.loads(read_inside(folder, name, MAX_MANIFEST_BYTES))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(found, dict) and isinstance(found.get("source"), dict):
            return dict(found["source"])
    return {}
