"""A checkpoint is audited, and the audit becomes a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dsf.cli.errors import FAILED, LIMIT, WELL, MissingHereError
from dsf.cli.progress import progress
from dsf.cli.run_model import DTYPES
from dsf.cli.terminal import print_table
from dsf.cli.threads import ThreadCount
from dsf.inspection.choice import parsed
from dsf.loading import load_model
from dsf.properties.audit import NOT_READ, ROUNDED, WRONG, AuditRow, audit
from dsf.report.escaping import escaped

HEADS = ("number type", "tokens", "layer", "formula", "rounding", "expected", "verdict")


@dataclass(frozen=True)
class AuditedCheckpoint:
    """The rows of an audit, and what was ignored when the checkpoint was loaded."""

    rows: list[AuditRow]
    notes: tuple[str, ...]


def audit_checkpoint(
    path: str,
    lengths: Sequence[int],
    dtypes: Sequence[torch.dtype],
    layers: str | None,
    device: str | None,
    threads: ThreadCount,
    *,
    offline: bool,
    watched: bool,
) -> AuditedCheckpoint:
    """Load a checkpoint and audit it on random tokens.

    Raises:
        MissingHereError: if this machine has no such device.
        LoadError: if the checkpoint is refused.
        ValueError: if the model has no table of token embeddings to draw tokens for.
        InspectionError: if it cannot be run, or no layer can be read.
    """
    if device is not None:
        check_there(device)
    loaded = load_model(path, offline=offline)
    model: Any = loaded.model
    vocabulary = getattr(model.get_input_embeddings(), "num_embeddings", None)
    if vocabulary is None:
        raise ValueError(
            f"{path} has no table of token embeddings, so no random tokens can be drawn for it. "
            "dsf.properties.audit.audit takes a model and its vocabulary."
        )
    threads.suit(sum(part.numel() for part in model.parameters()) * sum(lengths))
    with progress(f"{path}", shown=watched) as told:
        rows = audit(
            model,
            lengths=lengths,
            dtypes=dtypes,
            vocabulary=vocabulary,
            layers=None if layers is None else parsed(layers),
            device=device,
            progress=lambda done, every: told(done / every),
        )
    return AuditedCheckpoint(rows, loaded.notes)


def check_there(device: str) -> None:
    """Whether this machine has a device.

    Raises:
        MissingHereError: if not.
    """
    asked = torch.device(device)
    there = 1 if asked.type == "cpu" else getattr(torch, asked.type).device_count()
    if there <= (asked.index or 0):
        found = f"{there} of this kind" if there else "none of this kind"
        raise MissingHereError(
            f"--device is {device!r}, but torch {torch.__version__} finds {found} on this machine. "
            "Leave --device out to run on the processor; 'dsf doctor' says what there is."
        )


def typed(text: str) -> list[torch.dtype]:
    """Number types by their names, which were checked."""
    return [DTYPES[part.strip()] for part in text.split(",")]


def code_of(rows: Sequence[AuditRow]) -> int:
    """The exit code: of a layer that was not read nothing is known."""
    verdicts = {row.verdict for row in rows}
    if verdicts & {ROUNDED, WRONG}:
        return FAILED
    return LIMIT if NOT_READ in verdicts else WELL


def show_audit(rows: Sequence[AuditRow]) -> None:
    """One line for every layer, length and number type, then the reasons and what is not known."""
    print_table(
        HEADS,
        [
            (
                row.dtype,
                str(row.tokens),
                row.layer,
                _shown(row.formula),
                _shown(row.rounding),
                f"{row.expected:.0e}",
                row.verdict,
            )
            for row in rows
        ],
    )
    for row in rows:
        if row.reason:
            print(f"{row.dtype}, {row.tokens} tokens, {escaped(row.layer)}: {row.reason}")
    unread = dict.fromkeys(escaped(row.layer) for row in rows if row.verdict == NOT_READ)
    if unread:
        print(f"Not read, so nothing is known about {len(unread)}: {', '.join(unread)}.")


def _shown(number: float | None) -> str:
    return "" if number is None else f"{number:.1e}"
