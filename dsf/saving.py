"""Files that are there whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path


def replace_file(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` make a file beside ``path``, then put it in its place in one move.

    Whatever goes wrong before that move leaves the old file as it was.

    Raises:
        IsADirectoryError: if ``path`` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder; name a file in it, such as {path}/report.html."
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
    """Flush a file or a folder; folders cannot be opened everywhere."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
