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
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from dsf.evaluate import Rows


class MapRollout:
    """The rollout after some layers, of which each is added in blocks of rows.

    Keys may be joined in groups of neighbours before the first layer. The share of a group is the
    exact sum of the shares of its keys, for a product with so many fewer columns.

    Attributes:
        shares: of every group of keys in every query, ``sample written groups``; rows sum to one.
    """

    def __init__(self, samples: int, steps: int, starts: Int[np.ndarray, " groups"]) -> None:
        groups = np.searchsorted(starts, np.arange(steps), side="right") - 1
        alone = (groups[:, None] == np.arange(len(starts))).astype(np.float32)
        self.shares: Float[np.ndarray, "sample written groups"] = np.repeat(
            alone[None], samples, axis=0
        )
        self._next = self.shares.copy()

    def add(self, mixing: "MixingRows") -> None:
        """Add some rows of a layer."""
        tokens = mixing.tokens
        for sample, before in enumerate(self.shares):
            # By torch, whose threads form the rows: those of another library would wait for them.
            read = torch.from_numpy(mixing.weights[sample]) @ torch.from_numpy(before)
            alone = mixing.reads_nothing[sample][:, None]
            shares = np.where(alone, before[tokens], read.numpy())
            self._next[sample, tokens] = (before[tokens] + shares) / 2

    def finish(self) -> None:
        """End a layer, of which all rows were added."""
        self.shares, self._next = self._next, self.shares


@dataclass(frozen=True)
class MixingRows:
    """The mean of some rows of all maps of a layer, for every sample.

    Attributes:
        tokens: the queries.
        weights: magnitudes that sum to one in every row.
        reads_nothing: the queries whose weights are all zero, and whose share is their own.
    """

    tokens: slice
    weights: Float[np.ndarray, "sample written read"]
    reads_nothing: Bool[np.ndarray, "sample written"]


def mixing_rows(rows: Rows, samples: Sequence[int], *, read: int) -> MixingRows:
    """The mean of some rows.

    Args:
        samples: the sample of every map.
        read: the number of keys.
    """
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
