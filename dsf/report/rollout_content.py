"""Attention rollout: the maps of the layers multiplied, as if nothing else stood between them.

Of every layer the mean magnitude of its maps is taken, its rows scaled to sum to one, and averaged
with the identity, which stands for the residual connection:

    R_l = (I + W_l) R_{l-1} / 2        R_0 = I

Values, output projections, norms and feed-forward layers do not enter, and a negative weight counts
like a positive one. ``Stack.rollout`` has all of these in it, and signs.

Of a layer whose channels have a map each the mean would say little, since channels differ in scale.
There ``W_l`` holds the lengths of what a token contributes through all channels, rows scaled alike.

Source: Abnar and Zuidema 2020, arXiv:2005.00928, for softmax maps, which are not negative; lengths
of contributions are multiplied like this by Modarressi et al. 2022, arXiv:2205.03286.

``RowsTogether`` takes the rows of the drawn maps of a layer while these are formed once,
``LayersTogether`` multiplies layer after layer, and its ``content`` gives pictures in the form of
those of a layer, or the reason for which there are none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from dsf.evaluate import Rows
from dsf.inspection import InspectedLayer
from dsf.report.escaping import escaped
from dsf.report.layer_content import bare_maps, thumbnails
from dsf.report.layer_picture import groups_of, lengths_of
from dsf.report.map_bytes import packed
from dsf.report.selection import Selection, has_channels, same_tokens, why_not_in_order
from dsf.report.views import MapView, Strongest, edges


class MapRollout:
    """The rollout after some layers, of which each is added in blocks of rows.

    Keys may be joined in groups of neighbours before the first layer. The share of a group is the
    exact sum of the shares of its keys, for a product with so many fewer columns.
    """

    def __init__(self, samples: int, steps: int, starts: Int[np.ndarray, " groups"]) -> None:
        groups = np.searchsorted(starts, np.arange(steps), side="right") - 1
        alone = (groups[:, None] == np.arange(len(starts))).astype(np.float32)
        self.shares: Float[np.ndarray, "sample written groups"] = np.repeat(
            alone[None], samples, axis=0
        )
        self._next = self.shares.copy()

    def add(self, mixing: "MixingRows") -> None:
        tokens = mixing.tokens
        for sample, before in enumerate(self.shares):
            # By torch, whose threads form the rows: those of another library would wait for them.
            read = torch.from_numpy(mixing.weights[sample]) @ torch.from_numpy(before)
            alone = mixing.reads_nothing[sample][:, None]
            shares = np.where(alone, before[tokens], read.numpy())
            self._next[sample, tokens] = (before[tokens] + shares) / 2

    def finish(self) -> None:
        self.shares, self._next = self._next, self.shares


@dataclass(frozen=True)
class MixingRows:
    """The mean of some rows of all maps of a layer, for every sample."""

    tokens: slice
    weights: Float[np.ndarray, "sample written read"]
    reads_nothing: Bool[np.ndarray, "sample written"]


def mixing_rows(rows: Rows, samples: Sequence[int], *, read: int) -> MixingRows:
    maps = rows.weights.reshape(-1, *rows.weights.shape[-2:])
    tokens = slice(int(rows.written[0]), int(rows.written[-1]) + 1)
    found = []
    for sample in sorted(set(samples)):
        of_sample = [k for k, each in enumerate(samples) if each == sample]
        sums = maps[of_sample].abs().float().sum(dim=0).numpy(force=True)
        of_ports = sums.reshape(tokens.stop - tokens.start, -1, read, sums.shape[1] // read)
        found.append(of_ports.sum(axis=(1, 3)))
    return _scaled(np.stack(found), tokens)


def mixing_of(lengths: Float[np.ndarray, "sample written read"]) -> MixingRows:
    """All rows of a layer of channels: what tokens contribute through all of them."""
    return _scaled(lengths.astype(np.float32), slice(0, lengths.shape[1]))


def _scaled(magnitudes: Float[np.ndarray, "sample written read"], tokens: slice) -> MixingRows:
    sums = magnitudes.sum(axis=2, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = magnitudes / sums
    return MixingRows(tokens, shares, sums[..., 0] == 0)


QUARTERS = 4
LARGEST = 128
"""Cells along each side of a picture of more tokens than a page keeps exactly."""


class LayersTogether:
    """The rollout of one model, of which ``content`` makes pictures."""

    def __init__(
        self,
        layers: Sequence[tuple[InspectedLayer, Selection]],
        *,
        left_out: int,
        side: int,
        of_channels: int,
    ) -> None:
        self.layers, self.left_out = layers, left_out
        self.reason = why_not(layers, of_channels)
        self.signed = self.lengths = self.done = 0
        self._pictures: list[dict[str, Any]] = []
        self._seen: list[MapView] = []
        count = len(layers)
        self._shown = {-(-count * k // QUARTERS) for k in range(1, QUARTERS + 1)}
        if layers and not self.reason:
            drawn = layers[0][1]
            self._starts = edges(drawn.system.steps, min(side, drawn.system.steps))
            self._samples = len(set(drawn.samples))
            self._rollout = MapRollout(self._samples, drawn.system.steps, self._starts)

    def of_layer(self, layer: InspectedLayer, drawn: Selection) -> "RowsTogether":
        return RowsTogether(drawn, wanted=not self.reason and not has_channels(layer))

    def add(self, rows: "RowsTogether", *, signed: bool) -> None:
        """Add the next layer; ``signed`` is whether any of its weights is negative."""
        if self.reason:
            return
        layer, drawn = self.layers[self.done]
        if has_channels(layer):
            self._rollout.add(mixing_of(lengths_of(layer, drawn.system.steps)))
        for mixing in rows.mixing:
            self._rollout.add(mixing)
        self._rollout.finish()
        self.done += 1
        self.lengths += has_channels(layer)
        self.signed += signed and not has_channels(layer)
        if not np.isfinite(self._rollout.shares).all():
            self.reason = f"a weight of {self.layers[self.done - 1][0].name} is not finite"
        elif self.done in self._shown:
            for sample in range(self._samples):
                self._draw(self._view(sample))

    def content(self, *, model: int) -> dict[str, Any] | None:
        """Pictures after a quarter, a half, three quarters and all of the layers, or the reason."""
        if len(self.layers) < 2:  # of one layer its own map says it
            return None
        if self.reason:
            return {"model": model, "reason": escaped(self.reason, most=240), "maps": []}
        steps = self.layers[0][1].system.steps
        facts = {
            "layers": len(self.layers),
            "signed": self.signed,
            "lengths": self.lengths,
            "chosen": any(_is_part(*each) for each in self.layers),
            "left_out": self.left_out,
        }
        return {
            "model": model,
            "reason": "",
            "name": "Rollout",
            "written": steps,
            "read": steps,
            "ports": 1,
            "same_tokens": True,
            "disorder": "",
            "inputs": None,
            "row_texts": True,
            "key_texts": True,
            "total": len(self._pictures),
            "chosen": "",
            "thumbnails": thumbnails(self._seen),
            "maps": [{**picture, "rollout": facts} for picture in self._pictures],
        }

    def _draw(self, view: MapView) -> None:
        """Add a picture with exact numbers, whose colours do not end at the share of a sink.

        After many layers the first token has nearly all of every query. One byte for a cell, up to
        that share, would show nothing else.
        """
        inner = view.weights.copy()
        np.fill_diagonal(inner, 0)
        inner[:, 0] = 0
        clipped = np.minimum(view.weights, inner.max() or 1)
        strongest = Strongest()
        strongest.add(clipped, self._starts, self._starts)
        seen = replace(view, weights=clipped, strongest=strongest.links())
        (picture,) = bare_maps([seen], exact=True)
        picture["view"]["values"] = packed(view.weights.astype(np.float32))
        picture["links"] = [[link.written, link.read, link.weight] for link in view.strongest]
        self._pictures.append(picture)
        self._seen.append(seen)

    def _view(self, sample: int) -> MapView:
        shares, starts = self._rollout.shares[sample].astype(float), self._starts
        lengths = np.diff(np.append(starts, len(shares)))
        weights = np.add.reduceat(shares, starts, axis=0) / lengths[:, None]
        strongest = Strongest()
        strongest.add(weights, starts, starts)
        columns = np.zeros(len(shares))
        columns[starts] = shares.sum(axis=0)
        first = "first" if self.done == 1 else f"first {self.done}"
        words = "all" if self.done == len(self.layers) else f"{first} of"
        label = f"{words} {len(self.layers)} layers"
        return MapView(
            label=label if self._samples == 1 else f"sample {sample}, {label}",
            sample=sample,
            weights=weights,
            masked=np.triu(np.ones(weights.shape, dtype=bool), 1) & (weights == 0),
            strongest=strongest.links(),
            column_sums=columns,
            row_sums=shares.sum(axis=1),
            empty_rows=[],
            nans=0,
            infinities=0,
            complex_=False,
            signed=False,
        )


def _is_part(layer: InspectedLayer, drawn: Selection) -> bool:
    return layer.heads is not None if has_channels(layer) else bool(drawn.chosen)


class RowsTogether:
    """The rows of the drawn maps of one layer, in so far as ``LayersTogether`` needs them."""

    def __init__(self, drawn: Selection, *, wanted: bool) -> None:
        self.mixing: list[MixingRows] = []
        self._drawn, self._wanted = drawn, wanted

    def __call__(self, rows: Rows) -> None:
        if self._wanted:
            steps = self._drawn.system.steps
            self.mixing.append(mixing_rows(rows, self._drawn.samples, read=steps))


def why_not(layers: Sequence[tuple[InspectedLayer, Selection]], side: int) -> str:
    """Why the maps of some layers cannot be multiplied; empty if they can."""
    of = next((layer.row_input for layer, _ in layers if layer.row_input), "")
    for layer, drawn in layers:
        steps, first = drawn.system.steps, layers[0][1]
        reason = _why_no_lengths(layer, steps, side)
        if reason:
            return reason
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


def _why_no_lengths(layer: InspectedLayer, steps: int, side: int) -> str:
    """Why channels have no lengths of single tokens; empty if they have, or there are none."""
    groups = groups_of(layer, side=side)
    if groups is None and has_channels(layer):
        return f"{layer.name} has a map for every channel and no picture of all of them"
    if groups is not None and groups < steps:
        return (
            f"the channels of {layer.name} are drawn together for {groups} groups of its "
            f"{steps:,} tokens, and shares of groups do not multiply like those of tokens"
        )
    return ""
