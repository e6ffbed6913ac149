"""The child process: limits its memory and time, reads one archive, prints its tensors as JSON."""

import json
import sys
import zipfile
from dataclasses import asdict
from typing import Any

from dsf.loading.archive_reader.pickle_machine import Machine, Refused, tensors_by_name


def main(path: str, member: str, kind: str, bytes_of_memory: str, seconds: str) -> None:
    """Print as JSON the tensors that ``member`` of the archive lists, or why it was refused."""
    _limit(int(bytes_of_memory), int(seconds))
    json.dump(_answer(path, member, torchscript=kind == "torchscript"), sys.stdout)


def _answer(path: str, member: str, *, torchscript: bool) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        program = archive.read(member)
    try:
        found = tensors_by_name(Machine(torchscript=torchscript).follow(program))
    except Refused as error:
        return {"refused": str(error)}
    return {"tensors": {name: asdict(tensor) for name, tensor in found.items()}}


def _limit(bytes_of_memory: int, seconds: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits; the parent's time limit still applies.
        return
    resource.setrlimit(resource.RLIMIT_AS, (bytes_of_memory, bytes_of_memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
