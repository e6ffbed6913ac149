"""A pass over the rows of a map that is kept in a file, so that a stopped run goes on."""

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

from dsf.composite import Operator
from dsf.evaluate import MapOrSystem
from dsf.measures.row_reductions import Progress, Reduced, RowPass, RowReduction, name_of
from dsf.saving import replace_file
from dsf.transition.timeline import on_stored

PERIOD = 60.0  # seconds between two writes of the file
FACTS = "statistics"


class Checkpoint:
    """The file of one pass, written now and then.

    Args:
        path: where it is, or will be.
        source: a map or a system; the file belongs to its numbers.
        wanted: what is noted of every row.
        error: the bound that was asked for.

    Raises:
        ValueError: if ``source`` are blocks of rows, which pass by once.
    """

    def __init__(
        self, path: str | Path, source: MapOrSystem, wanted: Sequence[RowReduction], *, error: float
    ) -> None:
        if not isinstance(source, Tensor | Operator):
            raise ValueError(
                "streamed: 'resume' needs a map or a system, which can be gone through again, but "
                "blocks of rows came. Leave 'resume' out, or pass the system they come from."
            )
        self.path, self.written = Path(path), monotonic()
        names = sorted(name_of(each) for each in wanted)
        self.facts = {"system": fingerprint(source), "measures": names, "error": error}

    def resume(self, row_pass: RowPass) -> tuple[int, bool]:
        """Give the pass what was kept; the block to go on with, and whether none is left.

        Raises:
            ValueError: if the file holds something else.
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
            raise self._refusal(f"is no file of statistics ({reason})") from reason
        return facts["block"], facts["finished"]

    def write(self, row_pass: RowPass, block: int, *, finished: bool) -> None:
        """Write the file if it is time, or if the pass is over; ``block`` is the next one."""
        if not finished and monotonic() - self.written < PERIOD:
            return
        found = {name: part.detach().contiguous() for name, part in row_pass.found().items()}
        facts = json.dumps({**self.facts, "block": block, "finished": finished}, sort_keys=True)
        replace_file(self.path, lambda draft: save_file(found, draft, metadata={FACTS: facts}))
        self.written = monotonic()

    def _check(self, facts: dict[str, Any]) -> None:
        if not facts:
            raise self._refusal("is no file of statistics")
        for name, own in self.facts.items():
            if facts.get(name) != own:
                seen = "" if name == "system" else f": {facts.get(name)} instead of {own}"
                raise self._refusal(f"was begun with another value of '{name}'{seen}")

    def _refusal(self, reason: str) -> ValueError:
        return ValueError(
            f"streamed: {self.path} {reason}. Name another file for this run, or delete that one "
            f"to begin anew."
        )


def checkpointed(
    row_pass: RowPass,
    *,
    error: float = 0.0,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> Reduced:
    """The numbers of all rows."""
    block, finished = (0, False) if checkpoint is None else checkpoint.resume(row_pass)
    for done in () if finished else row_pass.blocks(block):
        block += 1
        if checkpoint is not None:
            checkpoint.write(row_pass, block, finished=done == row_pass.rows)
        if progress is not None and row_pass.rows is not None:
            progress(done, row_pass.rows)
    return row_pass.reduced(error)


def fingerprint(source: Any) -> str:
    """A hash of everything a map or a system is made of."""
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
