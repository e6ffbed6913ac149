"""The file of a sweep: one JSON object a line, the first of which says what it is a sweep of.

A run is one line, written at once and flushed to disk, so that a sweep which is stopped leaves
whole lines. Where a machine lost its power in the middle of one, that line is cut off and its run
made again.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsf.inspection.results.layers import Inspection
from dsf.interventions.edits import Edit
from dsf.runtime.files import alone, is_special, make_file

VERSION = 1
TITLE = "dsf_sweep"
LARGEST = 1 << 28
"""Bytes of a file that is read."""


class SweepRecord:
    """The file of one sweep.

    Args:
        path: the file, which may exist already.
        wanted: the edits of every run.

    Raises:
        ValueError: if the path is a folder or a device, or an edit holds another run itself and not
            its name.
    """

    def __init__(self, path: str | Path, wanted: Sequence[Sequence[Edit]]):
        self.path = Path(path)
        if self.path.is_dir():
            raise ValueError(f"sweep: resume={str(path)!r} is a folder. Give the name of a file.")
        if is_special(self.path):
            raise ValueError(
                f"sweep: resume={str(path)!r} is a device or a pipe, which keeps nothing. Give the "
                "name of a file."
            )
        self._held, self._is_held = ExitStack(), False
        self._edits = [[edit.to_json() for edit in edits] for edits in wanted]

    def __enter__(self) -> "SweepRecord":
        if self.path.exists():
            self._hold()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def _hold(self) -> None:
        """Keep other sweeps away from the file until this one ends."""
        if not self._is_held:
            self._held.enter_context(alone(self.path))
            self._is_held = True

    def begin(
        self,
        facts: Mapping[str, Any],
        sources: Mapping[str, Inspection],
        clean: Float[Tensor, " sample"],
        rounding: Float[Tensor, " sample"],
    ) -> dict[int, list[float]]:
        """Make the file, or read what is in it: the effects of the finished runs, by number.

        Args:
            facts: what the sweep is of: by name, anything that holds tensors.
            sources: the other runs that edits refer to.
            clean: the number without edits, and by how much it may differ in another process.

        Raises:
            ValueError: if the file is of another sweep, or of none, or another process is at it.
        """
        known = {name: fingerprint(part) for name, part in facts.items()}
        known |= {f"run {name!r}": fingerprint(run) for name, run in sources.items()}
        known["edits"] = sha256(json.dumps(self._edits).encode()).hexdigest()
        self._samples = len(clean)
        start = {TITLE: VERSION, "of": known, "edits": len(self._edits), "clean": _out(clean)}
        made = not self.path.exists() and make_file(self.path, _line(start))
        self._hold()
        if made:
            return {}
        first, lines, size = self._read()
        words = {name: name for name in known} | {"edits": "list of edits"}
        other = [words[name] for name in known if first["of"].get(name) != known[name]]
        if other:
            raise self._refusal(f"is of another {' and another '.join(other)}")
        before = torch.tensor(first["clean"], dtype=torch.float64)
        same = (
            before.shape == clean.shape and ((before - clean.cpu()).abs() <= rounding.cpu()).all()
        )
        if not bool(same):
            raise self._refusal(
                f"was begun with a number of {first['clean']} without edits, where the model now "
                f"has {_out(clean)}, so something else about it is not the same"
            )
        if any(not self._is_run(line) for line in lines):
            raise self._refusal("has a line that is no run of this sweep")
        if size < self.path.stat().st_size:
            os.truncate(self.path, size)
        return {line["run"]: _numbers(line["effect"]) for line in lines}

    def add(self, number: int, effect: Sequence[float]) -> None:
        """Add a finished run."""
        record = {"run": number, "edits": self._edits[number], "effect": _out(effect)}
        size = self.path.stat().st_size
        try:
            with self.path.open("ab") as file:
                file.write(_line(record).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            os.truncate(self.path, size)  # a disk that is full took a part of the line
            raise

    def _read(self) -> tuple[dict[str, Any], list[Any], int]:
        """The first line, the others, and how many bytes they have without a torn one."""
        if self.path.stat().st_size > LARGEST:
            raise self._refusal(f"has more than {LARGEST} bytes")
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        try:
            first, *lines = [json.loads(line) for line in whole.splitlines()]
            if first[TITLE] != VERSION or not isinstance(first["of"], dict):
                raise TypeError
            first["clean"] = _numbers(first["clean"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._refusal("is no record of a sweep") from None
        return first, lines, len(whole)

    def _is_run(self, line: Any) -> bool:
        try:
            number, count = line["run"], len(_numbers(line["effect"]))
        except (ValueError, KeyError, TypeError):
            return False
        known = type(number) is int and 0 <= number < len(self._edits)
        return known and count == self._samples

    def _refusal(self, reason: str) -> ValueError:
        return ValueError(
            f"sweep: resume={str(self.path)!r} {reason}. Name another file for this sweep, or "
            "delete that one to start again."
        )


def fingerprint(part: Any) -> str:
    """A hash of all numbers in tensors, modules, inspections and plain containers."""
    digest = sha256()
    _feed(digest, part)
    return digest.hexdigest()


def _feed(digest: Any, part: Any) -> None:
    if isinstance(part, Tensor):
        digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
        plain = part.detach().resolve_conj().resolve_neg().cpu().contiguous()
        digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(part, nn.Module):
        digest.update(type(part).__name__.encode())
        _feed(digest, dict(sorted(part.state_dict().items())))
    elif isinstance(part, Inspection):
        for layer in part:
            _feed(digest, (layer.name, vars(layer.mixer)))
    elif isinstance(part, Mapping):
        for name, each in part.items():
            digest.update(f"{name}:".encode())
            _feed(digest, each)
    elif isinstance(part, list | tuple):
        digest.update(f"{len(part)}:".encode())
        for each in part:
            _feed(digest, each)
    else:
        digest.update(repr(part).encode())


def _out(numbers: Tensor | Sequence[float]) -> list[float | str]:
    """Numbers as JSON has them; text for those that it does not have."""
    plain = numbers.tolist() if isinstance(numbers, Tensor) else numbers
    return [number if math.isfinite(number) else str(number) for number in plain]


def _numbers(read: Any) -> list[float]:
    """The numbers that ``_out`` wrote.

    Raises:
        ValueError, TypeError: if something else was read.
    """
    if not isinstance(read, list):
        raise TypeError(f"{type(read).__name__} is no list")
    return [float(number) for number in read]


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record) + "\n"
