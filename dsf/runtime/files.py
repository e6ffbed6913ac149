"""Files written whole: under a temporary name, then ``os.replace``; and one lock for who writes.

``replace_file`` writes where a path leads that its user gave. ``write_inside``, ``read_inside`` and
``remove_inside`` stay inside a folder that is not trusted: no part of a name below it is
followed where it is a link.
"""

import hmac
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_DRAFT = re.compile(r"\.dsf-[0-9a-f]{32}\.draft(\.[\w.]*)?")


class LeadsOutside(ValueError):
    """A part of a folder is a link or a special file; nothing was read or written there."""


def replace_file(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` create a file in the folder of ``path``, then move it to ``path`` in one step.

    If anything fails before that step, the old file is unchanged. A link at ``path`` is replaced by
    the file; where it leads, nothing changes.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder. Give the name of a file in it, such as {path}/report.html."
        )
    if is_special(path):
        raise ValueError(f"{path} is a device or a pipe, and a file is written. Give another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".dsf-{secrets.token_hex(16)}.draft{path.suffix}")
    try:
        with _naming(path):
            draft.touch(exist_ok=False)
            write(draft)
            _to_disk(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    if os.name != "nt":  # Windows cannot open folders
        _to_disk(path.parent)
    return path


def is_special(path: Path) -> bool:
    """Return whether ``path`` exists and is neither a file nor a folder nor a link."""
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep a file or folder from everybody else who asks for it during the ``with`` block.

    The system takes the lock back when this process ends, however it does.
    """
    from filelock import FileLock, Timeout

    place = path / ".dsf.lock" if path.is_dir() else path.with_name(f".{path.name}.lock")
    lock = FileLock(place, blocking=False)
    try:
        lock.acquire()
    except (Timeout, RuntimeError):  # by another process, or by this one
        raise ValueError(
            f"{path} is being written by another process, and what two of them write would be "
            "mixed up. Wait until it has ended, or choose another name."
        ) from None
    try:
        yield
    finally:
        if lock.is_locked:  # not in a process that was forked meanwhile
            if os.name != "nt":  # there the lock removes its file itself
                place.unlink(missing_ok=True)
            lock.release()


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """As ``alone``, for a folder that is made where there is none.

    What was made is removed at the end if nothing was written there.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with alone(folder):
            yield
    finally:
        with suppress(OSError):  # something is in there
            for place in missing:
                place.rmdir()


def write_inside(folder: Path, name: str, data: bytes) -> Path:
    """Replace the file ``name`` inside ``folder`` in one step; folders in between are made."""
    return replace_file(_place(folder, name, make=True), lambda draft: draft.write_bytes(data))


def read_inside(folder: Path, name: str, largest: int) -> bytes:
    """Return the bytes of the file ``name`` inside ``folder``, at most ``largest``."""
    with _place(folder, name).open("rb") as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise ValueError(f"{folder / name} has more than {largest} bytes, which are not read.")
    return data


def remove_inside(folder: Path, name: str) -> None:
    """Remove the file ``name`` inside ``folder``, if it is there; raises as ``write_inside``."""
    _place(folder, name).unlink(missing_ok=True)


def names_inside(folder: Path, name: str) -> list[str]:
    """Return what is in the folder ``name`` inside ``folder``, or in it where that is empty."""
    with suppress(FileNotFoundError):
        return sorted(os.listdir(_place(folder, f"{name}/any" if name else "any").parent))
    return []


def remove_drafts(folder: Path, name: str) -> None:
    """Remove what writers that were killed left in the folder ``name`` inside ``folder``."""
    for each in names_inside(folder, name):
        if _DRAFT.fullmatch(each):
            remove_inside(folder, f"{name}/{each}" if name else each)


def _place(folder: Path, name: str, *, make: bool = False) -> Path:
    """Return the path of a name such as ``units/0000/unit.json``, of which no part is a link."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        raise LeadsOutside(f"{name!r} is not the plain name of a file in {folder}.")
    if make:
        folder.mkdir(parents=True, exist_ok=True)
    path = folder
    for count, part in enumerate(parts, start=1):
        path = path / part
        is_file = count == len(parts)
        if make and not is_file:
            with suppress(FileExistsError):
                path.mkdir()
        with suppress(FileNotFoundError):
            mode = os.lstat(path).st_mode
            if not (stat.S_ISREG(mode) if is_file else stat.S_ISDIR(mode)):
                kind = "not a plain file" if is_file else "not a folder"
                kind = "a link" if stat.S_ISLNK(mode) else kind
                raise LeadsOutside(
                    f"{path} is {kind}, and only plain files and folders inside the given one are "
                    "used. Remove it, or choose another folder."
                )
    return path


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the file's name to errors of the system that lack one, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if path.is_dir() or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


KEY_BYTES = 32


def seal(content: bytes) -> str:
    """Return the seal of ``content`` in hexadecimal; empty where no key can be kept.

    A folder of results is not trusted, and measured numbers have no evidence. What an interrupted
    run or job stored therefore has a seal, made with a key in the user's own folder: it shows
    whether this user wrote it on this machine.
    """
    key = _key()
    return hmac.digest(key, content, "sha256").hex() if key else ""


def fits(stated: object, content: bytes) -> bool:
    wanted = seal(content)
    return (
        bool(wanted)
        and isinstance(stated, str)
        and hmac.compare_digest(stated.encode("utf-8", "replace"), wanted.encode())
    )


def _key() -> bytes:
    """The key of this user, made when it is first needed; empty where that cannot be done."""
    given = os.environ.get("XDG_STATE_HOME") or os.environ.get("LOCALAPPDATA")
    try:
        home = Path(given) if given else Path.home() / ".local" / "state"
        path = home / "dsf" / "resume.key"
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
        key = path.read_bytes()
    except (OSError, RuntimeError):  # no folder of one's own, or none that can be written
        return b""
    return key if len(key) == KEY_BYTES else b""
