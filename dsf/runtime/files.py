"""Atomic replacement of files: a reader finds either the old file or the complete new one.

``replace_file`` writes where a path leads that its user gave. ``write_inside``, ``read_inside`` and
``remove_inside`` stay inside a folder that may come from anywhere: no part of a name below it is
followed where it is a link.
"""

import os
import re
import secrets
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_DRAFT = re.compile(r"\.dsf-[0-9a-f]{32}\.draft(\.[\w.]*)?")
_HAS_FOLDERS = {os.open, os.mkdir, os.unlink, os.rename, os.stat} <= os.supports_dir_fd
_PLAIN = os.O_CLOEXEC if hasattr(os, "O_CLOEXEC") else 0
_claims: set[int] = set()
_STAY = _PLAIN | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class LeadsOutside(ValueError):
    """A part of a folder is a link or nothing plain; nothing was read or written there."""


def replace_file(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` create a file beside ``path``, then move it to ``path`` in one step.

    If anything fails before that step, the old file is unchanged. A link at ``path`` is replaced by
    the file; where it leads, nothing changes.

    Raises:
        IsADirectoryError: if ``path`` is a folder.
        ValueError: if it is a device, a pipe or a socket, which a file would take the place of.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder. Give the name of a file in it, such as {path}/report.html."
        )
    if is_special(path):
        raise ValueError(f"{path} is a device or a pipe, and a file is written. Give another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(_draft_name(path.suffix))
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _STAY, 0o666))
    try:
        with writing(path):
            write(draft)
            _to_disk(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    _to_disk(path.parent)
    return path


def make_file(path: Path, text: str) -> bool:
    """Make a file that is whole from its first moment, unless there is one; whether it was made."""
    draft = path.with_name(_draft_name(path.suffix))
    replace_file(draft, lambda place: place.write_text(text, encoding="utf-8"))
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    except OSError:  # a disk without links
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return True


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Nobody else who asks for this file or folder has it during the ``with`` block.

    The system takes the claim back when this process ends, however it does, even if processes that
    it forked live on. Where a system or a disk has no such claims, nothing is asked.

    Raises:
        ValueError: if it is in use.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    handle = os.open(path, (os.O_RDONLY if path.is_dir() else os.O_RDWR) | _PLAIN)
    _claims.add(handle)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{path} is being written by another process, and what two of them write would be "
                "mixed up. Wait until it has ended, or choose another name."
            ) from None
        except OSError:  # a disk that knows no claims
            pass
        yield
    finally:
        if handle in _claims:
            _claims.remove(handle)
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_UN)  # also for a process that was forked just now
            os.close(handle)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """As ``alone``, for a folder that is made where there is none.

    What was made is removed at the end if nothing was written there.

    Raises:
        ValueError: if it is in use.
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


def _leave_claims() -> None:
    """A forked process would keep a claim for as long as it lives: the system asks for the last."""
    while _claims:
        os.close(_claims.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_claims)


def write_over(path: Path, text: str) -> None:
    """Put text where a path leads: a file in one step, a link such as ``/dev/stdout`` directly."""
    if path.is_symlink() or is_special(path):
        with writing(path):
            path.write_text(text, encoding="utf-8")
    else:
        replace_file(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def is_special(path: Path) -> bool:
    """Whether there is something at ``path`` that is no file, no folder and no link."""
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """An error of the system, as of a full disk, names no file by itself; here it names one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def write_inside(folder: Path, name: str, data: bytes) -> Path:
    """Replace the file ``name`` inside ``folder`` in one step; folders in between are made.

    Raises:
        LeadsOutside: if a part of ``name`` is a link, or not the plain file or folder it should be.
    """
    with _entered(folder, name, make=True) as place:
        place.check(missing=True)
        draft = place.beside(_draft_name(""))
        try:
            with writing(folder / name):
                handle = draft.open(os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            draft.rename(place)
        except BaseException:
            draft.remove()
            raise
        place.sync()
    return folder / name


def read_inside(folder: Path, name: str, largest: int) -> bytes:
    """The bytes of the file ``name`` inside ``folder``, at most ``largest``.

    Raises:
        LeadsOutside: as ``write_inside``.
        FileNotFoundError: if there is none.
        ValueError: if it is larger.
    """
    with _entered(folder, name, make=False) as place:
        place.check(missing=False)
        with os.fdopen(place.open(os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            data = file.read(largest + 1)
    if len(data) > largest:
        raise ValueError(f"{folder / name} has more than {largest} bytes, which are not read.")
    return data


def remove_inside(folder: Path, name: str) -> None:
    """Remove the file ``name`` inside ``folder``, if it is there.

    Raises:
        LeadsOutside: as ``write_inside``.
    """
    try:
        with _entered(folder, name, make=False) as place:
            place.check(missing=True)
            place.remove()
    except FileNotFoundError:
        return


def names_inside(folder: Path, name: str) -> list[str]:
    """What is in the folder ``name`` inside ``folder``, or in it where that is empty, in order.

    Raises:
        LeadsOutside: as ``write_inside``.
    """
    try:
        with _entered(folder, f"{name}/any" if name else "any", make=False) as place:
            return sorted(os.listdir(place.folder))
    except FileNotFoundError:
        return []


def remove_drafts(folder: Path, name: str) -> None:
    """Remove what writers that were killed left in the folder ``name`` inside ``folder``.

    Raises:
        LeadsOutside: as ``write_inside``.
    """
    for each in names_inside(folder, name):
        if _DRAFT.fullmatch(each):
            remove_inside(folder, f"{name}/{each}" if name else each)


def _draft_name(suffix: str) -> str:
    """A name that nobody can have put there before, and that no other file bears."""
    return f".dsf-{secrets.token_hex(16)}.draft{suffix}"


class _Place:
    """A name in a folder that is open, or where folders cannot be opened, in the one at a path."""

    def __init__(self, folder: int | Path, name: str, path: Path):
        self.folder, self.name, self.path = folder, name, path
        self._within = {"dir_fd": folder} if isinstance(folder, int) else {}

    @property
    def _own(self) -> str | Path:
        return self.name if isinstance(self.folder, int) else self.folder / self.name

    def beside(self, name: str) -> "_Place":
        return _Place(self.folder, name, self.path.with_name(name))

    def open(self, flags: int) -> int:
        return os.open(self._own, flags | _STAY, 0o666, **self._within)

    def mode(self) -> int:
        return os.stat(self._own, follow_symlinks=False, **self._within).st_mode

    def check(self, *, missing: bool, folder: bool = False) -> None:
        """Raise unless here is a plain file, or a folder, or nothing where it may be missing."""
        try:
            mode = self.mode()
        except FileNotFoundError:
            if missing:
                return
            raise
        if not (stat.S_ISDIR(mode) if folder else stat.S_ISREG(mode)):
            kind = "a link" if stat.S_ISLNK(mode) else "no folder" if folder else "no plain file"
            raise LeadsOutside(
                f"{self.path} is {kind}, and only plain files and folders inside the given one are "
                "used. Remove it, or choose another folder."
            )

    def enter(self, *, make: bool) -> "int | Path":
        """The folder here, open where that is possible."""
        self.check(missing=make, folder=True)
        if make:
            with suppress(FileExistsError):
                os.mkdir(self._own, **self._within)
        if not isinstance(self.folder, int):
            self.check(missing=False, folder=True)
            return self.folder / self.name
        return self.open(os.O_RDONLY | os.O_DIRECTORY)

    def rename(self, target: "_Place") -> None:
        if isinstance(self.folder, int):
            os.rename(self.name, target.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        else:
            os.replace(self._own, target._own)

    def remove(self) -> None:
        try:
            os.unlink(self._own, **self._within)
        except FileNotFoundError:
            return

    def sync(self) -> None:
        if isinstance(self.folder, int):
            os.fsync(self.folder)


@contextmanager
def _entered(folder: Path, name: str, *, make: bool) -> Iterator[_Place]:
    """The place of a name such as ``units/0000/unit.json``, its folders entered one by one."""
    *parts, last = name.split("/")
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in (*parts, last)):
        raise LeadsOutside(f"{name!r} is no plain name of a file inside {folder}.")
    if make:
        folder.mkdir(parents=True, exist_ok=True)
    path = folder
    here: int | Path = os.open(folder, os.O_RDONLY | _PLAIN) if _HAS_FOLDERS else folder
    try:
        for part in parts:
            path = path / part
            below = _Place(here, part, path).enter(make=make)
            if isinstance(here, int):
                os.close(here)
            here = below
        yield _Place(here, last, path / last)
    finally:
        if isinstance(here, int):
            os.close(here)


def _to_disk(path: Path) -> None:
    """Flush a file or a folder to disk; Windows cannot open folders, so there they are skipped."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
