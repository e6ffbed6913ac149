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

import numpy as np
import torch
from jaxtyping import Float, Int

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

    def add(self, rows: Rows, samples: Sequence[int]) -> None:
        """Add some rows of all maps of a layer.

        Args:
            samples: the sample of every map.
        """
        weights = rows.weights.abs().float().numpy(force=True)
        maps = weights.reshape(-1, *rows.lag.shape)
        written = np.unique(rows.written.numpy(force=True))
        tokens = slice(written[0], written[-1] + 1)
        for sample, before in enumerate(self.shares):
            of_sample = [k for k, each in enumerate(samples) if each == sample]
            magnitudes = maps[of_sample].sum(axis=0)
            mixing = magnitudes.reshape(len(written), -1, len(before), _ports(rows, before))
            self._next[sample, tokens] = (before[tokens] + _mixed(mixing, before, tokens)) / 2

    def add_lengths(self, lengths: Float[np.ndarray, "sample written read"]) -> None:
        """Add all rows of a layer of channels: what tokens contribute through all of them."""
        everywhere = slice(0, lengths.shape[1])
        for sample, (before, each) in enumerate(zip(self.shares, lengths, strict=True)):
            mixing = each.astype(np.float32)[:, None, :, None]
            self._next[sample] = (before + _mixed(mixing, before, everywhere)) / 2

    def finish(self) -> None:
        """End a layer, of which all rows were added."""
        self.shares, self._next = self._next, self.shares


def _ports(rows: Rows, before: Float[np.ndarray, "read groups"]) -> int:
    return rows.lag.shape[1] // len(before)


def _mixed(
    magnitudes: Float[np.ndarray, "written output read input"],
    before: Float[np.ndarray, "read groups"],
    tokens: slice,
) -> Float[np.ndarray, "written groups"]:
    """The shares that some tokens read; those of a token that reads nothing are its own."""
    mixing = magnitudes.sum(axis=(1, 3))
    sums = mixing.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = torch.from_numpy(mixing / sums)
    # By torch, whose threads form the rows: those of another library would wait for them.
    read = (shares @ torch.from_numpy(before)).numpy()
    return np.where(sums == 0, before[tokens], read)
