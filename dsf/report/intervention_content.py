"""What a page shows of an intervention: the largest logits without and with its edits."""

from collections.abc import Sequence
from typing import Any

import torch

from dsf.inspection import Inspection
from dsf.interventions import Intervention
from dsf.loading import token_texts
from dsf.report.escaping import escaped
from dsf.report.selection import SAMPLES

LOGITS = 10


def intervention_content(
    result: Intervention | None, inspections: Sequence[Inspection]
) -> dict[str, Any] | None:
    """The edits in words, and of every sample by how much the output moves and its last logits.

    ``moved`` is the largest absolute change at every token. ``logits`` holds
    ``[name, clean, changed]`` at the last token: the ten largest of either run.

    Raises:
        TypeError: if it is not what ``dsf.intervene`` returns.
        ValueError: if the outputs are not ``sample time logits``, or of other tokens than all
            inspections.
    """
    if result is None:
        return None
    if not isinstance(result, Intervention):
        raise TypeError(
            "'intervention' must be what dsf.intervene(...) returns, but it is "
            f"{type(result).__name__}."
        )
    clean, changed = result.clean.double(), result.output.double()
    if clean.ndim != 3:
        raise ValueError(
            "'intervention' must be of a model that puts out (sample, time, logits), but its "
            f"output has the shape {tuple(clean.shape)}."
        )
    counts = {layer.system.steps for each in inspections for layer in each}
    if clean.shape[1] not in counts:
        raise ValueError(
            f"'intervention' is of {clean.shape[1]} tokens, but the layers of 'inspection' have "
            f"{sorted(counts)}. Intervene and inspect on the same input."
        )
    pairs = list(zip(clean[:SAMPLES], changed[:SAMPLES], strict=True))
    return {
        "edits": [escaped(repr(edit), most=200) for edit in result.edits],
        "moved": [(after - before).abs().amax(dim=-1).tolist() for before, after in pairs],
        "logits": [_largest(result, before[-1], after[-1]) for before, after in pairs],
    }


def _largest(result: Intervention, clean: torch.Tensor, changed: torch.Tensor) -> list[list[Any]]:
    count = min(LOGITS, clean.numel())
    found = {*clean.topk(count).indices.tolist(), *changed.topk(count).indices.tolist()}
    numbers = sorted(found, key=lambda number: -clean[number].item())
    known = result.tokenizer is not None and max(numbers) < len(result.tokenizer)
    names = token_texts(result.tokenizer, numbers) if known else [f"token {k}" for k in numbers]
    return [
        [escaped(name), clean[number].item(), changed[number].item()]
        for name, number in zip(names, numbers, strict=True)
    ]
