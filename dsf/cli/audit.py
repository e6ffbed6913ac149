"""``dsf audit``: which layer and stage made a run differ from the model in float64."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from dsf.cli import options as shared
from dsf.cli.command import FAILED, WELL, Answer, Run, Work
from dsf.cli.early_checks import check_call, check_file, check_model
from dsf.interventions.edits import state_type

ENDINGS = (".json", ".xml", ".txt", ".png", ".svg", ".pdf")
"""Endings of files that a ledger is written to."""


def audit(
    model: shared.Checkpoint,
    *,
    prompt: shared.Prompt,
    suspect: Annotated[
        str | None, "Another checkpoint with the same parts, such as a quantised copy."
    ] = None,
    decode: Annotated[
        int | None,
        shared.whole_number(
            "Run the last N tokens one at a time, with the model's cache.", least=1
        ),
    ] = None,
    chunk: Annotated[
        int | None,
        shared.whole_number("Tokens in a chunk, for mixers that compute in chunks.", least=1),
    ] = None,
    state_dtype: Annotated[
        str | None,
        "Round recurrent states to this type after every token: bfloat16, float16, int8...",
    ] = None,
    recorded: Annotated[
        Path | None,
        typer.Option(
            exists=True, help="Outputs of another engine: a folder of safetensors files, or one."
        ),
    ] = None,
    asked: shared.Asked,
    out: Annotated[
        Path | None, "Write the ledger: .json, .xml (JUnit), .txt, or a figure .png, .svg, .pdf."
    ] = None,
    loading: shared.Loading,
) -> Work:
    """Name the layer and stage that made a run of MODEL differ from the same model in float64.

    The run is that of the model as it is saved, in another number type (--dtype), with its last
    tokens decoded one at a time (--decode), with other chunks (--chunk), with rounded states
    (--state-dtype), of another checkpoint (--suspect), or of another engine (--recorded). What
    every stage adds by itself, times what that moves the logit, is its share; the shares sum to
    the change. With --layers or --heads the others are one row. Without --target the logit is that
    of the predicted token less its runner-up.

    Exit code 1: a stage added more than its number type and length, or a healthy run, explain.

    Example: dsf audit FOLDER --text "The capital of France is" --dtype bfloat16 --decode 3
    """
    shared.exclude_each_other(suspect=suspect, recorded=recorded)
    shared.exclude_each_other(state_dtype=state_dtype, decode=decode)
    others = {"decode": decode, "chunk": chunk, "dtype": loading.dtype, "state_dtype": state_dtype}
    for option, value in others.items():
        shared.exclude_each_other(recorded=recorded, **{option: value})
    if out is not None and out.suffix not in ENDINGS:
        raise ValueError(f"--out: expected a name that ends in {', '.join(ENDINGS)}, got {out}.")
    if out is not None:
        check_file(out, "--out")
    if state_dtype is not None:
        state_type("audit", "--state-dtype", state_dtype)
    target, against = asked.tokens(prompt) or (None, None)
    facts = check_call(model, prompt, loading)
    if suspect is not None:
        check_model(suspect, offline=loading.offline)
    facts.check_asked(asked, prompt)

    def work(run: Run) -> Answer:
        from dsf.cli.run_model import open_checkpoint
        from dsf.interventions.run_audit import audit as find_culprit
        from dsf.loading import load_model

        kind = None if loading.dtype is None else str(loading.dtype)
        as_saved = replace(loading, dtype=None)
        words = [token for token in (target, against) if isinstance(token, str)]
        opened = open_checkpoint(model, prompt, run, as_saved, others=words)
        other: Any = None
        if suspect is not None:
            other = load_model(suspect, offline=loading.offline).model.to(opened.ids.device)
        ledger = find_culprit(
            opened.loaded.model,
            input_ids=opened.ids,
            tokenizer=opened.loaded.tokenizer,
            suspect=other,
            decode=decode,
            dtype=kind,
            state_dtype=state_dtype,
            chunk=chunk,
            recorded=recorded,
            target=target,
            against=against,
            position=opened.place(asked.position),
            layers=asked.layers,
            heads=asked.heads,
        )
        if out is not None:
            ledger.save(out)
        return Answer(
            facts={"model": model, **ledger.to_json()},
            show=lambda: print(ledger),
            code=WELL if ledger.is_healthy else FAILED,
            notes=opened.notes,
        )

    return work
