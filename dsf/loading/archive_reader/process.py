"""The child process: limits its memory and time, reads one archive, lists its tensors."""

import zipfile
from dataclasses import asdict
from typing import Any

from dsf.loading.archive_reader.pickle_machine import Machine, Refused, tensors_by_name
from dsf.loading.child.limits import limit


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The tensors that ``member`` of the archive ``path`` lists, or why it was refused."""
    limit(address_bytes=request["bytes_of_memory"], data_bytes=None, seconds=request["seconds"])
    with zipfile.ZipFile(request["path"]) as archive:
        program = archive.read(request["member"])
    try:
        found = tensors_by_name(Machine(torchscript=request["torchscript"]).follow(program))
    except Refused as error:
        return {"refused": str(error)}
    return {"tensors": {name: asdict(tensor) for name, tensor in found.items()}}
