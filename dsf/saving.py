"""Atomic replacement of files: a reader finds either the old file or the complete new one."""

import os
from collections.abc import Callable
from pathlib import Path


def replace_file(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` create a file beside ``path``, then move it to ``path`` in one step.

    If anything fails before that step, the old file is unchanged.

    Raises:
        IsADirectoryError: if ``path`` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder. Give the name of a file in it, such as {path}/report.html."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.tmp-{os.getpid()}{path.suffix}")
    try:
        write(draft)
        _to_disk(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    _to_disk(path.parent)
    return path


def _to_disk(path: Path) -> None:
    """Flush a file or a folder to disk; Windows cannot open folders, so there they are skipped."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
