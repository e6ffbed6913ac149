"""Rows of maps that are made from scores of pairs of tokens: what all of them have in common."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from dsf.composite import PANEL, RowSource, StoredRows


@dataclass(frozen=True)
class PairRows(RowSource):
    """Rows from scores ``scale q_i.k_j``, causal ones unless ``is_causal`` says otherwise.

    ``window`` says what becomes of the scores.
    """

    query: Float[Tensor, "*batch time key"]
    key: Float[Tensor, "*batch read key"]
    scale: float

    @property
    def shape(self) -> torch.Size:
        return torch.Size([*self.query.shape[:-1], 1, self.key.shape[-2]])

    @property
    def dtype(self) -> torch.dtype:
        return self.query.dtype

    @property
    def device(self) -> torch.device:
        return self.query.device

    @property
    def is_causal(self) -> bool:
        return True

    def scores(
        self, start: int, stop: int, *, keys: int | None = None
    ) -> Float[Tensor, "*batch rows keys"]:
        """Scores of the queries ``start`` to ``stop - 1`` with the first ``keys``, or with all."""
        return (self.scale * self.query[..., start:stop, :]) @ self.key[..., :keys, :].mT

    def lags(self, start: int, stop: int) -> Shaped[Tensor, "rows read"]:
        """How many tokens back each key is; negative ahead of the query."""
        written = torch.arange(start, stop, device=self.device)
        return written[:, None] - torch.arange(self.key.shape[-2], device=self.device)

    def ahead(self, start: int, stop: int) -> Bool[Tensor, "rows read"]:
        """Which keys come after their query."""
        return self.lags(start, stop) < 0

    def apply(
        self, signal: Shaped[Tensor, "*batch read 1 channel"]
    ) -> Shaped[Tensor, "*batch time 1 channel"]:
        value, steps = signal.squeeze(-2), self.query.shape[-2]
        panels = [
            self.window(start, min(start + PANEL, steps)).squeeze(-2) @ value
            for start in range(0, steps, PANEL)
        ]
        return torch.cat(panels, dim=-2).unsqueeze(-2)

    def flipped(self) -> StoredRows:
        return StoredRows(self.dense().squeeze(-2).flip(-2))


@dataclass(frozen=True)
class ExponentialRows(PairRows):
    """Rows that are exponentials of scores over their sum: a softmax, never formed here."""

    @abstractmethod
    def logits(self, start: int, stop: int) -> Float[Tensor, "*batch rows keys"]:
        """What is exponentiated, in nats; minus infinity where a key is not read.

        Of every key, or of those before ``stop`` where rows are causal. In memory of its own, which
        who asked may write over.
        """

    def unread(self) -> Float[Tensor, "*batch"] | None:
        """The logarithm of what is added to the sum of a row for no key; None where nothing is."""
        return None

    def window(self, start: int, stop: int) -> Shaped[Tensor, "*batch time 1 read"]:
        logits, beside = self.logits(start, stop), self.unread()
        keys = logits.shape[-1]
        if beside is not None:
            column = beside[..., None, None].to(logits.dtype).expand(*logits.shape[:-1], 1)
            logits = torch.cat([logits, column], dim=-1)
        weights = softmax_in_reach(logits)[..., :keys]
        return torch.nn.functional.pad(weights, (0, self.shape[-1] - keys)).unsqueeze(-2)


def scale_or_default(scale: float | None, query: Float[Tensor, "*batch time key"]) -> float:
    """``scale`` if there is one, otherwise ``key ** -0.5``."""
    return query.shape[-1] ** -0.5 if scale is None else scale


def softmax_in_reach(
    scores: Float[Tensor, "*batch rows read"],
) -> Float[Tensor, "*batch rows read"]:
    """Softmax over the scores above minus infinity; a row without one is zeros."""
    reachable = (scores > -torch.inf).any(dim=-1, keepdim=True)
    return scores.masked_fill(~reachable, 0).softmax(dim=-1) * reachable
