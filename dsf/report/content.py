"""Collects what the viewer shows in one dictionary: maps as bytes, everything else as JSON."""

import base64
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from dsf.inspection import Inspection
from dsf.interventions import Intervention
from dsf.loading import token_texts
from dsf.report.escaping import escaped
from dsf.report.layer_content import layer_content
from dsf.report.layer_picture import Explained
from dsf.report.map_bytes import FULL_BYTES, add_full_maps
from dsf.report.memory_needs import at_a_time
from dsf.report.rollout_content import LARGEST, LayersTogether, RowsTogether
from dsf.report.selection import SAMPLES, Decided, Selection, Shown, Subject, plan, select, subjects
from dsf.report.views import Progress, ignored
from dsf.runtime.shapes import at_least, of_kind
from dsf.runtime.threads import each_in_parallel, one_thread

LOGITS = 10


def intervention_content(
    result: Intervention | None, inspections: Sequence[Inspection]
) -> dict[str, Any] | None:
    """The edits in words, and of every sample by how much the output moves and its last logits.

    ``moved`` is the largest absolute change at every token. ``logits`` holds
    ``[name, clean, changed]`` at the last token: the ten largest of either run.
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
            "'intervention' must be of a model that returns (sample, time, logits), but its "
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


SCHEMA_VERSION = 2
Grid = tuple[int, int]


def content(
    shown: Shown,
    *,
    verdicts: Decided = None,
    grid: Grid | None = None,
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
    drawn = [(subject, layer, select(layer)) for subject in all_ for layer in subject.inspection]
    _check_grid(grid, [selection for *_, selection in drawn])
    planned = plan([selection for *_, selection in drawn])
    together = [
        LayersTogether(
            [(layer, chosen) for each, layer, chosen in drawn if each is subject],
            left_out=len(subject.inspection.unsupported),
            side=planned.side if planned.exact else min(planned.side, LARGEST),
            of_channels=planned.side,
        )
        for subject in all_
    ]

    def drawn_layer(number: int) -> tuple[dict[str, Any], RowsTogether]:
        subject, layer, selection = drawn[number]
        model = all_.index(subject)
        rows = together[model].of_layer(layer, selection)
        part = _part(progress, number, len(drawn)) if alone else ignored
        return layer_content(
            subject,
            layer,
            selection,
            planned,
            model=model,
            explained=explained,
            also=(rows,),
            progress=part,
        ), rows

    layers, most = [], at_a_time([layer for _, layer, _ in drawn])
    alone = most == 1 or torch.get_num_threads() == 1
    for found, rows in each_in_parallel(drawn_layer, range(len(drawn)), most=most):
        weights = [map for map in found["maps"] if not {"share", "together"} & set(map)]
        with nullcontext() if alone else one_thread():  # the others are forming maps
            together[found["model"]].add(rows, signed=any(map["signed"] for map in weights))
        layers.append(found)
        progress(len(layers) / len(drawn))
    rollouts = [each.content(model=k) for k, each in enumerate(together)]
    selections = [selection for *_, selection in drawn]
    return {
        "attribution": None if explained is None else explained.content(),
        "intervention": intervention_content(intervention, [each.inspection for each in all_]),
        "full": add_full_maps(layers, selections, full_resolution, at_a_time=most),
        "schema_version": SCHEMA_VERSION,
        "models": [_model(subject) for subject in all_],
        "grid": list(grid) if grid else None,
        "layers": layers,
        "rollouts": [each for each in rollouts if each is not None],
    }


def embedded(value: Mapping[str, Any]) -> str:
    """JSON that is safe inside a script element: pure ASCII, without ``<``, ``>`` and ``&``."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), default=_base64)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _model(subject: Subject) -> dict[str, Any]:
    found = subject.inspection
    return {
        "name": subject.name,
        "tokens": _texts(found.tokens),
        "decoder_tokens": _texts(found.decoder_tokens),
    }


def _texts(tokens: Sequence[Sequence[str]] | None) -> list[list[str]] | None:
    if tokens is None:
        return None
    return [[escaped(token) for token in sample] for sample in tokens[:SAMPLES]]


def _part(progress: Progress, at: int, parts: int) -> Progress:
    """A progress function for one of several equal parts, which reports the share of all."""
    return lambda share: progress((at + share) / parts)


def _check_grid(grid: Grid | None, drawn: list[Selection]) -> None:
    if grid is None:
        return
    is_pair = lambda given: isinstance(given, list | tuple) and len(given) == 2  # noqa: E731
    of_kind("show", "grid", grid, is_pair, "a height and a width, such as (14, 14)")
    for size in grid:
        at_least(1, "show", "grid", size, " token")
    counts = {getattr(each.system, "read_steps", each.system.steps) for each in drawn}
    if max(counts, default=0) < grid[0] * grid[1]:
        raise ValueError(
            f"'grid' must be the height and width of the picture in tokens, but {grid} has "
            f"{grid[0] * grid[1]} patches and the layers have {sorted(counts)} keys."
        )
