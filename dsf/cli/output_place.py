"""Where a command will write is tried before anything heavy is imported."""

import os
import tempfile
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from dsf.loading.folder import holds_model
from dsf.runtime.files import alone, is_special

PLACES = ("--out", "--file", "--csv", "--edits", "--resume", "--slurm")
"""The options that name a file or a folder."""
RUN_NAMES = ("manifest.json", "unfinished.json")
"""By one of which a folder is known as that of a run."""
REPORT = ("report.html", "maps.png")
"""What a report consists of."""


def check_named(arguments: Sequence[str]) -> None:
    """Whether every option that names a place says one.

    Empty text would be the folder around; and where the shell does not write the home folder for
    ``~``, as behind ``=``, a folder of this name would be made.

    Raises:
        ValueError: if not.
    """
    pairs = [*pairwise(arguments), *(word.split("=", 1) for word in arguments if "=" in word)]
    for option, name in pairs:
        if option in PLACES and not name:
            raise ValueError(
                f"{option} is empty. Give a name, or '.' for the folder that this runs in."
            )
        if option in PLACES and name.startswith("~"):
            raise ValueError(
                f"{option} is {name!r}: the shell leaves '~' as it is in quotes and behind '='. "
                f"Write your home folder out, or './{name}' for a name that begins so."
            )


def check_folder(
    folder: Path, *, files: Iterable[str] = (), models: Iterable[str] = (), option: str = "--out"
) -> None:
    """Whether files can be written to a folder, which need not be there yet.

    Args:
        files: names of those that will be written.
        models: what is read, which nothing is written into.

    Raises:
        ValueError: if not.
    """
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
            f"{where}: holds the files of a model, which nothing is written beside. Give another "
            "folder."
        )
    for name in files:
        if (folder / name).is_dir():
            raise ValueError(f"{where}: {name} in it is a folder. Give another folder.")
    _try(above, where)


def check_file(file: Path, option: str, *, makes_folder: bool = False) -> None:
    """Whether a file can be written.

    Args:
        makes_folder: whether its folder is made where it is not there, and the file is put in its
            place in one step, which no device can be.

    Raises:
        ValueError: if not.
    """
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


def check_no_run(folder: Path, option: str = "--out") -> None:
    """Raises ValueError if a run lies in the folder, whose files its manifest binds together."""
    for name in RUN_NAMES:
        if (folder / name).exists():
            raise ValueError(
                f"{option} {str(folder)!r}: holds a run of dsf check ({name}), whose report would "
                "no longer be the one that it wrote. Give another folder."
            )


def check_free(folder: Path) -> None:
    """Raises ValueError if another process is writing into the folder, which may not be there."""
    if folder.is_dir():
        with alone(folder):
            pass


def _owner(file: Path) -> str:
    """What a file belongs to, in words; empty where that is nothing of ours."""
    folder = file.parent
    if any((folder / name).exists() for name in RUN_NAMES):
        return "a run"
    if (folder / "job.json").exists():
        return "a job"
    return "a model" if file.suffix == ".gguf" or holds_model(folder) else ""


def _try(place: Path, where: str) -> None:
    """A file without a name is made there, and is gone."""
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ValueError(
            f"{where}: nothing can be written to {str(place)!r}: {error.strerror}. Give another "
            "folder."
        ) from None
