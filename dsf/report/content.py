"""Collects what the viewer shows in one dictionary: maps as bytes, everything else as JSON.

Before that the memory that drawing takes is forecast.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch

from dsf.evaluate.memory_plan import GB, MapTooLarge, free_memory, naming_out_of_memory
from dsf.inspection import Forecast, InspectedLayer, Inspection
from dsf.inspection.results import measurements
from dsf.interventions import Intervention
from dsf.loading import token_texts
from dsf.report.escaping import escaped
from dsf.report.layer_content import Explained, check_tokens, layer_content
from dsf.report.selection import (
    CHANNELS,
    HEADS,
    LARGEST_VIEW,
    SAMPLES,
    Decided,
    Shown,
    plan,
    select,
    subjects,
)
from dsf.report.views import (
    AT_ONCE,
    BLOCK_BYTES,
    FULL_BYTES,
    LONGEST,
    Progress,
    add_full_maps,
    ignored,
)
from dsf.runtime.threads import each_in_parallel

SCHEMA_VERSION = 4


def content(
    shown: Shown,
    *,
    verdicts: Decided = None,
    full_resolution: int = FULL_BYTES,
    explained: Explained | None = None,
    intervention: Intervention | None = None,
    progress: Progress = ignored,
) -> dict[str, Any]:
    """Models, layers, maps and tokens of one or several inspections; every number is finite.

    Arrays are compressed bytes (deflate); ``embedded`` writes them into a page, a widget sends them
    unchanged.
    """
    all_ = subjects(shown, verdicts)
    if explained is not None:
        if not isinstance(shown, Inspection):
            raise ValueError(
                "'attribution' is of one model, but 'result' is a list. Pass a single inspection."
            )
        check_tokens("attribution", explained.share.tokens.shape[1], [shown])
    drawn = [(subject, layer, select(layer)) for subject in all_ for layer in subject.inspection]
    selections = [selection for *_, selection in drawn]
    planned = plan(selections, whole=full_resolution > 0)
    layers, most = [], at_a_time([layer for _, layer, _ in drawn])
    alone = most == 1 or torch.get_num_threads() == 1

    def drawn_layer(number: int) -> dict[str, Any]:
        subject, layer, selection = drawn[number]

        def part(share: float) -> None:
            progress((number + share) / len(drawn))

        return layer_content(
            subject,
            layer,
            selection,
            planned,
            model=all_.index(subject),
            explained=explained,
            progress=part if alone else ignored,
        )

    for found in each_in_parallel(drawn_layer, range(len(drawn)), most=most):
        layers.append(found)
        progress(len(layers) / len(drawn))
    return {
        "attribution": None if explained is None else explained.content(),
        "intervention": intervention_content(intervention, [each.inspection for each in all_]),
        "full": add_full_maps(layers, selections, full_resolution, at_a_time=most),
        "schema_version": SCHEMA_VERSION,
        "models": [
            {
                "name": subject.name,
                "tokens": _texts(subject.inspection.tokens),
                "decoder_tokens": _texts(subject.inspection.decoder_tokens),
            }
            for subject in all_
        ],
        "layers": layers,
    }


def embedded(value: Mapping[str, Any]) -> str:
    """JSON that is safe inside a script element: pure ASCII, without ``<``, ``>`` and ``&``."""
    in_text = lambda data: base64.b64encode(data).decode("ascii")  # noqa: E731
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), default=in_text)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _texts(tokens: Sequence[Sequence[str]] | None) -> list[list[str]] | None:
    if tokens is None:
        return None
    return [[escaped(token) for token in sample] for sample in tokens[:SAMPLES]]


LOGITS = 10


def intervention_content(
    result: Intervention | None, inspections: Sequence[Inspection]
) -> dict[str, Any] | None:
    """The edits, the largest change at every token, and the largest last logits of either run."""
    if result is None:
        return None
    clean, changed = result.clean.double(), result.output.double()
    if clean.ndim != 3:
        raise ValueError(
            "'intervention' must be of a model that returns (sample, time, logits), but its "
            f"output has the shape {tuple(clean.shape)}."
        )
    check_tokens("intervention", clean.shape[1], inspections)

    def logits(clean: torch.Tensor, changed: torch.Tensor) -> list[list[Any]]:
        count = min(LOGITS, clean.numel())
        found = {*clean.topk(count).indices.tolist(), *changed.topk(count).indices.tolist()}
        numbers = sorted(found, key=lambda number: -clean[number].item())
        known = result.tokenizer is not None and max(numbers) < len(result.tokenizer)
        names = token_texts(result.tokenizer, numbers) if known else [f"token {k}" for k in numbers]
        return [
            [escaped(name), clean[number].item(), changed[number].item()]
            for name, number in zip(names, numbers, strict=True)
        ]

    pairs = list(zip(clean[:SAMPLES], changed[:SAMPLES], strict=True))
    return {
        "edits": [escaped(repr(edit), most=200) for edit in result.edits],
        "moved": [(after - before).abs().amax(dim=-1).tolist() for before, after in pairs],
        "logits": [logits(before[-1], after[-1]) for before, after in pairs],
    }


# Memory

DOUBLE = 8
# Copies: of a block of rows while it is pooled, of one map while it is kept without pooling, of the
# response by which heads are chosen, and of maps without pooling until they are text.
OF_BLOCK, OF_WHOLE, OF_RESPONSE, OF_TEXT = 6, 6, 4, 4
TOGETHER = 3 * 2**27  # the contributions of all channels, some channels at a time, and their copies
SPARE = 2**27
CURE = (
    "Show fewer layers or heads (layers=..., heads=..., on the command line --layers, --heads), "
    "keep no map without pooling (full_resolution=0), or give a shorter input; without a report "
    "(--no-report) every layer is still rebuilt and compared."
)


def report_bytes(*, steps: int, maps: int, samples: int, width: int, whole: bool = True) -> int:
    """Return about how many bytes writing a page takes at its peak, beyond the inspection."""
    drawn = min(maps, CHANNELS if maps > HEADS else HEADS) * min(samples, SAMPLES)
    row = drawn * steps * DOUBLE
    block = OF_BLOCK * max(min(BLOCK_BYTES, row * steps), row)
    kept = OF_WHOLE * DOUBLE * steps**2 if whole and steps <= LONGEST else 0
    if kept and drawn * steps**2 <= AT_ONCE:
        block += 2 * row * steps  # maps and masks, and what is encoded of them
    text = OF_TEXT * FULL_BYTES if kept and steps > LARGEST_VIEW else 0
    response = OF_RESPONSE * DOUBLE * samples * steps * width
    together = TOGETHER if maps > HEADS else 0
    return max(block, kept, response) + text + together + SPARE


def check_report(expected: Forecast) -> int:
    """Return the bytes that a report is going to take, before its inspection runs."""
    steps = expected.tokens // expected.samples
    needed = report_bytes(
        steps=steps,
        maps=expected.largest_maps // max(DOUBLE * expected.samples * steps**2, 1),
        samples=expected.samples,
        width=expected.kept // max(DOUBLE * expected.tokens * expected.layers, 1),
    )
    kept = 0 if expected.uses_disk else expected.kept
    if expected.available is not None and needed + kept > expected.available:
        raise MapTooLarge(
            f"the report takes about {needed / GB:.1f} GB at its peak, plus {kept / GB:.1f} GB "
            f"that the layers keep, but {expected.available / GB:.1f} GB are available. {CURE}"
        )
    return needed


@contextmanager
def within_memory(
    owner: str, shown: Inspection | Sequence[Inspection], *, whole: bool = True
) -> Iterator[None]:
    """Before the ``with`` block, refuse what does not fit; inside, name memory that runs out."""
    inspections = [shown] if isinstance(shown, Inspection) else shown
    with naming_out_of_memory(owner, cure=CURE):
        for layer in (layer for each in inspections for layer in each):
            needed, free = _needed(layer, whole), free_memory(layer.system.device)
            if free is not None and needed > free:
                raise MapTooLarge(
                    f"{owner}: drawing {layer.name} takes about {needed / GB:.1f} GB at its peak, "
                    f"but {free / GB:.1f} GB are available. {CURE}"
                )
        yield


def at_a_time(layers: Sequence[InspectedLayer]) -> int:
    """How many layers may be drawn side by side, so that all fit in half of the free memory."""
    return measurements.at_a_time(layers, lambda layer: _needed(layer, True))


def _needed(layer: InspectedLayer, whole: bool) -> int:
    system = layer.system
    samples = system.batch[0] if layer.axes[:1] == ("sample",) and system.batch else 1
    steps = max(system.steps, getattr(system, "read_steps", 1))
    return report_bytes(
        steps=steps,
        maps=prod(system.batch) // samples,
        samples=samples,
        width=layer.signal.numel() // (samples * steps),
        whole=whole,
    )
