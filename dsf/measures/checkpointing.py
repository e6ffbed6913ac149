"""Checkpoints of a pass over the rows of a map: an interrupted run can be resumed from a file."""

import json
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dsf.measures.fold import MapOrSystem
from dsf.measures.row_reductions import Progress, Reduced, RowPass, RowReduction, name_of
from dsf.runtime.files import replace_file
from dsf.systems.composite import Operator
from dsf.systems.transition.timeline import on_stored

PERIOD = 60.0  # seconds between two writes of the file
FACTS = "statistics"


class Checkpoint:
    """The file of one pass, written at most once a minute and at the end.

    Args:
        path: the file, which may exist already.
        source: a map or a system; the file is valid for exactly its numbers.
        wanted: the row reductions that the pass computes.
        error: the error bound that was requested.

    Raises:
        ValueError: if ``source`` is an iterable of blocks, which can be read only once.
    """

    def __init__(
        self, path: str | Path, source: MapOrSystem, wanted: Sequence[RowReduction], *, error: float
    ) -> None:
        if not isinstance(source, Tensor | Operator):
            raise ValueError(
                "streamed: 'resume' needs a map or a system, whose rows can be computed again, but "
                "it got blocks of rows. Leave 'resume' out, or pass the system they come from."
            )
        self.path, self.written = Path(path), monotonic()
        names = sorted(name_of(each) for each in wanted)
        self.facts = {"system": fingerprint(source), "measures": names, "error": error}

    def resume(self, row_pass: RowPass) -> tuple[int, bool]:
        """Restore the pass from the file; the next block, and whether the pass is finished.

        Raises:
            ValueError: if the file belongs to another pass, or is not a checkpoint.
        """
        self.facts["pass"] = type(row_pass).__name__
        if not self.path.exists():
            return 0, False
        try:
            with safe_open(self.path, framework="pt") as file:
                facts: dict[str, Any] = json.loads((file.metadata() or {}).get(FACTS, "{}"))
                self._check(facts)
                row_pass.resume({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except SafetensorError as reason:
            raise self._refusal(f"is not a checkpoint of a pass ({reason})") from reason
        return facts["block"], facts["finished"]

    def write(self, row_pass: RowPass, block: int, *, finished: bool) -> None:
        """Write the file if a minute has passed or the pass is finished; ``block`` is the next."""
        if not finished and monotonic() - self.written < PERIOD:
            return
        found = {name: part.detach().contiguous() for name, part in row_pass.found().items()}
        facts = json.dumps({**self.facts, "block": block, "finished": finished}, sort_keys=True)
        replace_file(self.path, lambda draft: save_file(found, draft, metadata={FACTS: facts}))
        self.written = monotonic()

    def _check(self, facts: dict[str, Any]) -> None:
        if not facts:
            raise self._refusal("is not a checkpoint of a pass")
        for name, own in self.facts.items():
            if facts.get(name) != own:
                seen = "" if name == "system" else f": {facts.get(name)} instead of {own}"
                raise self._refusal(f"was started with another value of '{name}'{seen}")

    def _refusal(self, reason: str) -> ValueError:
        return ValueError(
            f"streamed: {self.path} {reason}. Name another file for this run, or delete that one "
            f"to start again."
        )


def checkpointed(
    row_pass: RowPass,
    *,
    error: float = 0.0,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> Reduced:
    """The reductions of all rows, resumed from ``checkpoint`` and written to it as it goes."""
    block, finished = (0, False) if checkpoint is None else checkpoint.resume(row_pass)
    for done in () if finished else row_pass.blocks(block):
        block += 1
        if checkpoint is not None:
            checkpoint.write(row_pass, block, finished=done == row_pass.rows)
        if progress is not None and row_pass.rows is not None:
            progress(done, row_pass.rows)
    return row_pass.reduced(error)


def fingerprint(source: Any) -> str:
    """A hash of all tensors and options of a map or a system."""
    digest = sha256()
    _feed(digest, source)
    return digest.hexdigest()


def _feed(digest: Any, part: Any) -> None:
    if isinstance(part, Tensor):

        def stored(numbers: Tensor) -> Tensor:
            plain = numbers.detach().resolve_conj().resolve_neg().cpu().contiguous()
            digest.update(plain.squeeze().reshape(-1).view(torch.uint8).numpy())
            return numbers

        digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
        on_stored(part, stored)
    elif is_dataclass(part):
        digest.update(type(part).__name__.encode())
        for field in fields(part):
            digest.update(field.name.encode())
            _feed(digest, getattr(part, field.name))
    elif isinstance(part, tuple):
        for each in part:
            _feed(digest, each)
    else:
        digest.update(repr(part).encode())
