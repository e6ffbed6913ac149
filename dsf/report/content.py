"""Collects what the viewer shows in one dictionary: maps as bytes, everything else as JSON.

Before that the memory that drawing takes is forecast; below the layers is their rollout.
"""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from math import prod
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from dsf.evaluate import Rows
from dsf.evaluate.memory_plan import GB, MapTooLarge, free_memory, naming_out_of_memory
from dsf.inspection import Forecast, InspectedLayer, Inspection
from dsf.inspection.results import measurements
from dsf.interventions import Intervention
from dsf.loading import token_texts
from dsf.report.escaping import escaped
from dsf.report.layer_content import bare_maps, layer_content, thumbnails
from dsf.report.layer_picture import Explained, groups_of, lengths_of
from dsf.report.map_bytes import FULL_BYTES, LONGEST, add_full_maps, packed
from dsf.report.selection import (
    CHANNELS,
    HEADS,
    LARGEST_VIEW,
    SAMPLES,
    Decided,
    Selection,
    Shown,
    has_channels,
    plan,
    same_tokens,
    select,
    subjects,
    why_not_in_order,
)
from dsf.report.views import BLOCK_BYTES, MapView, Progress, Strongest, edges, ignored
from dsf.runtime.threads import each_in_parallel, limited_to

SCHEMA_VERSION = 2


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
    drawn = [(subject, layer, select(layer)) for subject in all_ for layer in subject.inspection]
    selections = [selection for *_, selection in drawn]
    planned = plan(selections)
    rollouts = [
        Rollout(
            [(layer, chosen) for each, layer, chosen in drawn if each is subject],
            left_out=len(subject.inspection.unsupported),
            side=planned.side if planned.exact else min(planned.side, LARGEST),
            of_channels=planned.side,
        )
        for subject in all_
    ]

    def drawn_layer(number: int) -> tuple[dict[str, Any], list[Magnitudes]]:
        subject, layer, selection = drawn[number]
        model, rows = all_.index(subject), list[Magnitudes]()

        def keep(block: Rows) -> None:
            if not (rollouts[model].reason or has_channels(layer)):
                rows.append(magnitudes(block, selection.samples, read=selection.system.steps))

        def part(share: float) -> None:
            if alone:
                progress((number + share) / len(drawn))

        return layer_content(
            subject,
            layer,
            selection,
            planned,
            model=model,
            explained=explained,
            also=(keep,),
            progress=part,
        ), rows

    layers, most = [], at_a_time([layer for _, layer, _ in drawn])
    alone = most == 1 or torch.get_num_threads() == 1
    for found, rows in each_in_parallel(drawn_layer, range(len(drawn)), most=most):
        weights = [map for map in found["maps"] if not {"share", "together"} & set(map)]
        with nullcontext() if alone else limited_to(1):  # the others are forming maps
            rollouts[found["model"]].add(rows, signed=any(map["signed"] for map in weights))
        layers.append(found)
        progress(len(layers) / len(drawn))
    together = [each.content(model=k) for k, each in enumerate(rollouts)]
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
        "rollouts": [each for each in together if each is not None],
    }


def embedded(value: Mapping[str, Any]) -> str:
    """JSON that is safe inside a script element: pure ASCII, without ``<``, ``>`` and ``&``."""

    def in_text(data: bytes) -> str:
        return base64.b64encode(data).decode("ascii")

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
    counts = {layer.system.steps for each in inspections for layer in each}
    if clean.shape[1] not in counts:
        raise ValueError(
            f"'intervention' is of {clean.shape[1]} tokens, but the layers of 'inspection' have "
            f"{sorted(counts)}. Intervene and inspect on the same input."
        )

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


# Attention rollout

LARGEST = 128
"""Cells along each side of a picture of more tokens than a page keeps exactly."""

Magnitudes = tuple[slice, Float[np.ndarray, "sample _ read"]]
"""Some queries, and the summed magnitudes of all maps of a layer there."""


def magnitudes(rows: Rows, samples: Sequence[int], *, read: int) -> Magnitudes:
    """Some rows of all maps of a layer; ``samples`` has the sample of every map."""
    maps = rows.weights.reshape(-1, *rows.weights.shape[-2:])
    tokens = slice(int(rows.written[0]), int(rows.written[-1]) + 1)
    found = []
    for sample in sorted(set(samples)):
        of_sample = [k for k, each in enumerate(samples) if each == sample]
        sums = maps[of_sample].abs().float().sum(dim=0).numpy(force=True)
        of_ports = sums.reshape(tokens.stop - tokens.start, -1, read, sums.shape[1] // read)
        found.append(of_ports.sum(axis=(1, 3)))
    return tokens, np.stack(found)


Shares = Float[np.ndarray, "sample written groups"]


def first_shares(samples: int, steps: int, starts: Int[np.ndarray, " groups"]) -> Shares:
    """Before the first layer every token is its own."""
    groups = np.searchsorted(starts, np.arange(steps), side="right") - 1
    alone = (groups[:, None] == np.arange(len(starts))).astype(np.float32)
    return np.stack([alone] * samples)


def next_shares(shares: Shares, rows: Iterable[Magnitudes]) -> Shares:
    """The shares after a layer; a token that reads nothing stays what it is."""
    after = shares.copy()
    for tokens, sizes in rows:
        sums = sizes.sum(axis=2, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            weights = sizes / sums
        for sample, before in enumerate(shares):
            # By torch, whose threads form the rows: those of another library would wait for them.
            read = torch.from_numpy(weights[sample]) @ torch.from_numpy(before)
            mixed = np.where(sums[sample] == 0, before[tokens], read.numpy())
            after[sample, tokens] = (before[tokens] + mixed) / 2
    return after


class Rollout:
    """The maps of a model's layers multiplied, as if nothing but residuals were between them.

    ``R_l = (I + W_l) R_{l-1} / 2`` with ``R_0 = I``; ``W_l`` is the mean magnitude of a layer's
    maps, its rows scaled to sum to one, or of channels, which differ in scale, the lengths of what
    a token contributes through all. ``Stack.rollout`` has values, norms and signs in it. The share
    of a group of neighbouring keys is the sum of their shares.

    ``left_out`` of the model's mixers were not read; ``side`` and ``of_channels`` are the most rows
    of a picture, and of one of all channels.

    Source: Abnar and Zuidema 2020, arXiv:2005.00928, for softmax maps; lengths of contributions are
    multiplied like this by Modarressi et al. 2022, arXiv:2205.03286.
    """

    def __init__(
        self,
        layers: Sequence[tuple[InspectedLayer, Selection]],
        *,
        left_out: int,
        side: int,
        of_channels: int,
    ) -> None:
        self.layers, self.left_out = layers, left_out
        self.reason = why_no_rollout(layers, of_channels)
        self.signed = self.lengths = self.done = 0
        if layers and not self.reason:
            drawn = layers[0][1]
            self.steps = drawn.system.steps
            self._starts = edges(self.steps, min(side, self.steps))
            self._shares = first_shares(len(set(drawn.samples)), self.steps, self._starts)

    def add(self, rows: Sequence[Magnitudes], *, signed: bool) -> None:
        """Add the next layer; ``signed`` is whether any of its weights is negative."""
        if self.reason:
            return
        layer, _ = self.layers[self.done]
        by_length = has_channels(layer)
        if by_length:
            lengths = lengths_of(layer, self.steps).astype(np.float32)
            rows = [(slice(0, self.steps), lengths)]
        self._shares = next_shares(self._shares, rows)
        self.done += 1
        self.lengths += by_length
        self.signed += signed and not by_length
        if not np.isfinite(self._shares).all():
            self.reason = f"a weight of {layer.name} is not finite"

    def content(self, *, model: int) -> dict[str, Any] | None:
        """One picture for each sample, or the reason for which there is none."""
        if len(self.layers) < 2:  # of one layer its own map says it
            return None
        if self.reason:
            return {"model": model, "reason": escaped(self.reason, most=240), "maps": []}
        facts = {
            "layers": len(self.layers),
            "signed": self.signed,
            "lengths": self.lengths,
            "chosen": any(
                layer.heads is not None if has_channels(layer) else bool(drawn.chosen)
                for layer, drawn in self.layers
            ),
            "left_out": self.left_out,
        }
        drawn = [self._drawn(sample) for sample in range(len(self._shares))]
        return {
            "model": model,
            "reason": "",
            "name": "Rollout",
            "written": self.steps,
            "read": self.steps,
            "ports": 1,
            "same_tokens": True,
            "disorder": "",
            "inputs": None,
            "row_texts": True,
            "key_texts": True,
            "total": len(drawn),
            "chosen": "",
            "thumbnails": thumbnails([view for view, _ in drawn]),
            "maps": [{**picture, "rollout": facts} for _, picture in drawn],
        }

    def _drawn(self, sample: int) -> tuple[MapView, dict[str, Any]]:
        """A picture with exact numbers, whose colours do not end at the share of a sink.

        After many layers the first token has nearly all of every query. One byte for a cell, up to
        that share, would show nothing else.
        """
        shares, starts = self._shares[sample].astype(float), self._starts
        lengths = np.diff(np.append(starts, len(shares)))
        weights = np.add.reduceat(shares, starts, axis=0) / lengths[:, None]
        columns = np.zeros(len(shares))
        columns[starts] = shares.sum(axis=0)
        inner = weights.copy()
        np.fill_diagonal(inner, 0)
        inner[:, 0] = 0
        clipped = np.minimum(weights, inner.max() or 1)
        strongest, largest = Strongest(), Strongest()
        strongest.add(clipped, starts, starts)
        largest.add(weights, starts, starts)
        label = f"all {len(self.layers)} layers"
        view = MapView(
            label=label if len(self._shares) == 1 else f"sample {sample}, {label}",
            sample=sample,
            weights=clipped,
            masked=np.triu(np.ones(weights.shape, dtype=bool), 1) & (weights == 0),
            strongest=strongest.links,
            column_sums=columns,
            row_sums=shares.sum(axis=1),
        )
        (picture,) = bare_maps([view], exact=True)
        picture["view"]["values"] = packed(weights.astype(np.float32))
        picture["links"] = [[link.written, link.read, link.weight] for link in largest.links]
        return view, picture


def why_no_rollout(  # noqa: PLR0911  # one for each reason
    layers: Sequence[tuple[InspectedLayer, Selection]], side: int
) -> str:
    """Why the maps of some layers cannot be multiplied; empty if they can."""
    of = next((layer.row_input for layer, _ in layers if layer.row_input), "")
    for layer, drawn in layers:
        steps, first = drawn.system.steps, layers[0][1]
        groups = groups_of(layer, side=side)
        if groups is None and has_channels(layer):
            return f"{layer.name} has a map for every channel and no picture of all of them"
        if groups is not None and groups < steps:
            return (
                f"the channels of {layer.name} are drawn together for {groups} groups of its "
                f"{steps:,} tokens, and shares of groups do not multiply like those of tokens"
            )
        if layer.is_part:
            return f"of what {layer.name} mixes only a part is shown"
        if not same_tokens(layer):
            return f"the queries of {layer.name} are other tokens than its keys"
        if why_not_in_order(layer):
            return f"the rows of a map of {layer.name} are not all tokens in their order"
        others = layer.row_input not in ("", of) or steps != first.system.steps
        if others or set(drawn.samples) != set(first.samples):
            return f"{layer.name} has other tokens than {layers[0][0].name}"
    return ""
