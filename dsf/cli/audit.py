"""``dsf audit``: how far the runs of a model lie from its modules in float64."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from dsf.cli.command import FAILED, LIMIT, WELL, Answer, MissingHereError, Run, Work
from dsf.cli.model_argument import check_model
from dsf.cli.options import (
    MAX_DRAWN,
    Checkpoint,
    Layers,
    NumberType,
    Offline,
    Revision,
    device_name,
    expected,
    typed_by,
)
from dsf.cli.terminal import print_table, progress
from dsf.report.escaping import escaped

if TYPE_CHECKING:
    from dsf.testing.models import AuditRow

HEADS = ("number type", "tokens", "layer", "formula", "rounding", "expected", "verdict")


class Lengths(list[int]):
    """Numbers of tokens."""


class Dtypes(list[str]):
    """Names of number types."""


def token_counts(typed: str) -> Lengths:
    """Parse ``512,4k``; k is 1024."""
    found = Lengths()
    for word in (part.strip().lower() for part in typed.split(",")):
        number = word.removesuffix("k")
        length = 0
        if number.isascii() and number.isdecimal():
            length = int(number) * (1024 if word.endswith("k") else 1)
        if not 1 <= length <= MAX_DRAWN:
            raise expected(f"whole numbers of tokens such as 512,4k, at most {MAX_DRAWN}", typed)
        found.append(length)
    return found


def number_types(typed: str) -> Dtypes:
    """Parse names of number types with commas between them."""
    found = Dtypes(part.strip() for part in typed.split(","))
    if not set(found) <= set(NumberType):
        raise expected(f"some of {', '.join(NumberType)}, with commas between them", typed)
    return found


def audit(
    model: Checkpoint,
    *,
    lengths: Annotated[
        Lengths, typed_by(token_counts, 'Numbers of tokens, such as "512,4k,32k"; k is 1024.')
    ] = "512,2k",  # type: ignore[assignment]  # the parser reads it
    dtypes: Annotated[
        Dtypes, typed_by(number_types, "Number types of the weights, with commas between them.")
    ] = "float32,bfloat16",  # type: ignore[assignment]
    layers: Layers = None,
    device: Annotated[
        str | None,
        typed_by(device_name, "Where the model runs, such as cuda; the processor if left out."),
    ] = None,
    revision: Revision = None,
    offline: Offline = False,
) -> Work:
    """Compare the layers of MODEL with their modules in float64, by length and number type.

    The tokens are random. Exit code 1: a layer was not reproduced, or a run lies further from its
    module in float64 than its number type and length explain, as after a mistake in a kernel. Exit
    code 3: nothing of the kind, but a layer was not read, so that nothing is known about it.
    """
    check_model(model, offline=offline, revision=revision).check_length(max(lengths))

    def work(run: Run) -> Answer:
        import torch

        from dsf.loading import load_model
        from dsf.testing.models import audit as audit_runs

        if device is not None:
            _check_here(device)
        loaded = load_model(model, offline=offline, revision=revision)
        module: Any = loaded.model
        vocabulary = getattr(module.get_input_embeddings(), "num_embeddings", None)
        if vocabulary is None:
            raise ValueError(
                f"{model}: expected a table of token embeddings to draw random tokens for, got "
                "none. dsf.testing.audit takes a model and its vocabulary."
            )
        run.threads.suit(sum(part.numel() for part in module.parameters()) * sum(lengths))
        with progress(model, shown=run.is_watched) as report:
            rows = audit_runs(
                module,
                lengths=lengths,
                dtypes=[getattr(torch, name) for name in dtypes],
                vocabulary=vocabulary,
                layers=layers,
                device=device,
                progress=lambda done, every: report(done / every),
            )
        return Answer(
            facts={"model": model, "rows": [vars(row) for row in rows]},
            show=lambda: _show(rows),
            code=_code_of(rows),
            notes={"": " ".join(loaded.notes)},
        )

    return work


def _check_here(device: str) -> None:
    """Raise MissingHereError if this machine has no such device."""
    import torch

    asked = torch.device(device)
    there = 1 if asked.type == "cpu" else getattr(torch, asked.type).device_count()
    if there <= (asked.index or 0):
        found = f"{there} of this kind" if there else "none of this kind"
        raise MissingHereError(
            f"--device: expected a device of this machine, got {device!r}: torch "
            f"{torch.__version__} finds {found} on this machine. Leave --device out to run on the "
            "processor; 'dsf doctor' lists what there is."
        )


def _code_of(rows: Sequence["AuditRow"]) -> int:
    """The exit code: of a layer that was not read nothing is known."""
    from dsf.testing.models import NOT_READ, ROUNDED, WRONG

    verdicts = {row.verdict for row in rows}
    if verdicts & {ROUNDED, WRONG}:
        return FAILED
    return LIMIT if NOT_READ in verdicts else WELL


def _show(rows: Sequence["AuditRow"]) -> None:
    """One line for every layer, length and number type, then the reasons and what is not known."""
    from dsf.testing.models import NOT_READ

    def shown(number: float | None) -> str:
        return "" if number is None else f"{number:.1e}"

    print_table(
        HEADS,
        [
            (
                row.dtype,
                str(row.tokens),
                row.layer,
                shown(row.formula),
                shown(row.rounding),
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
