"""The exit code of an error, and its words for a person."""

import errno
from pathlib import Path

WELL = 0
FAILED = 1
"""A layer was not reproduced, a required property is refuted, or a unit of a job failed."""
USAGE = 2
"""A wrong call, or input that was refused."""
LIMIT = 3
"""A limit was hit, or something is missing on this machine."""
FAULT = 4
"""A fault of dsf itself."""
INTERRUPTED = 130
BROKEN_PIPE = 141

IN_WORDS = {
    WELL: "all well",
    FAILED: "a layer was not reproduced, a required property refuted, or a unit of a job failed",
    USAGE: "a wrong call, or input that was refused",
    LIMIT: "a limit was hit, something is missing on this machine, or nothing is known",
    FAULT: "a fault of dsf itself",
    INTERRUPTED: "interrupted",
    BROKEN_PIPE: "whoever read the answer stopped reading",
}
"""What every exit code says, for ``--help`` and the page of wrong calls."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EFBIG}
_CURES = {
    errno.ENOSPC: "make room there, or write to another disk",
    errno.EDQUOT: "make room there, or write to another disk",
    errno.EACCES: "change its permissions, or give another path",
    errno.EPERM: "change its permissions, or give another path",
    errno.EROFS: "give a path on another disk",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of the path is a file; check it",
    errno.EISDIR: "give the path of a file",
    errno.EEXIST: "give another name, or remove what is there",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ELOOP: "remove the links that lead in a circle",
}


class MissingHereError(Exception):
    """Something that was asked for is not on this machine."""


def code_of(error: Exception) -> int | None:
    """The exit code of an error that a person can act on; None for a fault of the program."""
    if isinstance(error, OSError):
        return LIMIT if error.errno in _FULL else USAGE
    if isinstance(error, MemoryError | MissingHereError):
        return LIMIT
    if isinstance(error, ImportError):  # with a name: one of our own imports
        return LIMIT if error.name is None else None
    from dsf.evaluate.memory_plan import is_out_of_memory
    from dsf.inspection import ReconstructionError
    from dsf.jobs import JobError

    if isinstance(error, (ReconstructionError, JobError)):
        return FAILED
    if is_out_of_memory(error):
        return LIMIT
    return USAGE if isinstance(error, ValueError) else None


def worded(error: BaseException) -> str:
    """What happened and what to do, in one sentence or a few."""
    if isinstance(error, OSError) and error.strerror and error.errno is not None:
        place = f"{_named(error.filename)}: " if error.filename is not None else ""
        cure = _CURES.get(error.errno)
        return f"{place}{error.strerror}" + (f"; {cure}." if cure else ".")
    if isinstance(error, UnicodeDecodeError):
        return (
            f"what was read is no UTF-8 text, since byte {error.start} is "
            f"0x{error.object[error.start]:02x}. Check which file was given."
        )
    if _without_words(error):
        reason = str(error).partition("\n")[0].rstrip(". ")
        told = f" ({reason})" if reason else ""
        return (
            f"the memory of this machine ran out{told}. Give a shorter input or fewer layers "
            "(--layers)."
        )
    return str(error)


def _without_words(error: BaseException) -> bool:
    """Whether memory ran out, and the error is not one of ours, which say what to do."""
    if not isinstance(error, MemoryError | RuntimeError) or type(error).__module__[:4] == "dsf.":
        return False
    from dsf.evaluate.memory_plan import is_out_of_memory

    return is_out_of_memory(error)


def _named(filename: object) -> str:
    return str(Path(str(filename)))
