"""Safetensors files: the header is looked at before the library sees the file."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from dsf.inspection.loading.bounded_json import parse_object
from dsf.inspection.loading.errors import LoadError, reason

MOST_TENSORS = 100_000
_MOST_HEADER_BYTES = 16 * 1024**2
_LENGTH_BYTES = 8


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, by name.

    Raises:
        LoadError: the header is too long, lists more than 100,000 tensors, is not JSON, or
            disagrees with the file about sizes.
    """
    check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            # Copies: a tensor on the mapped file would change, or crash, with the file.
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise LoadError(
            f"{path}: the header and the data disagree ({reason(error)}); "
            "download or save the file again."
        ) from None


def check_header(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES or length > min(_MOST_HEADER_BYTES, size - _LENGTH_BYTES):
            raise LoadError(
                f"{path}: the header claims {length} bytes in a file of {size} (at most "
                f"{_MOST_HEADER_BYTES} are read); download or save the file again."
            )
        header = parse_object(file.read(length), str(path))
    if len(header) > MOST_TENSORS:
        raise LoadError(
            f"{path}: lists {len(header)} tensors, where at most {MOST_TENSORS} are read; "
            "merge them or check that this is the right file."
        )
