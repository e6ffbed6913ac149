"""Starts the child process that reads an archive's list of tensors."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from dsf.inspection.loading.archive import start
from dsf.inspection.loading.errors import LoadError, shown

_BYTES_OF_MEMORY = 2 * 1024**3
_SECONDS = 60
_GRACE = 60  # on a busy machine seconds of work take longer than that
_START = Path(start.__file__)


def archive_inventory(
    path: Path,
    member: str,
    *,
    torchscript: bool,
    seconds: int = _SECONDS,
    bytes_of_memory: int = _BYTES_OF_MEMORY,
) -> dict[str, dict[str, Any]]:
    """The tensors that ``member`` of the archive lists, by name, as plain data.

    Raises:
        LoadError: the archive was refused, or reading its list hit a limit.
    """
    kind = "torchscript" if torchscript else "tensors"
    arguments = [str(path), member, kind, str(bytes_of_memory), str(seconds)]
    try:
        done = subprocess.run(  # noqa: S603 - our own file, and arguments that no shell reads
            [sys.executable, "-I", "-S", _START, *arguments],
            capture_output=True,
            timeout=seconds + _GRACE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LoadError(_stopped(path, "took too long")) from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise LoadError(_stopped(path, f"stopped ({shown(said or f'code {done.returncode}')})"))
    answer = json.loads(done.stdout)
    if "refused" in answer:
        raise LoadError(
            f"{path}: refused, because {answer['refused']}; convert it to safetensors "
            "where you trust it, and load that."
        )
    tensors: dict[str, dict[str, Any]] = answer["tensors"]
    return tensors


def _stopped(path: Path, what: str) -> str:
    return (
        f"{path}: the process that reads its list of tensors {what}; "
        "convert it to safetensors where you trust it, and load that."
    )
