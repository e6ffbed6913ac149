"""Rows of attention maps computed on demand from query-key scores, and their cache system.

- ``PairRows``: the base class, with scores ``scale q_i.k_j`` and lags.
- ``ExponentialRows``: rows that are a softmax of logits; ``SoftmaxRows`` is softmax attention with
  optional bias, soft cap, sink and decays.
- ``cache_system``: a causal map as a system that stores every token in a state.
"""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from dsf.systems.coefficient import TokenSlots
from dsf.systems.composite import PANEL, Mixed, RowSource, StoredRows, Values
from dsf.systems.system import System
from dsf.systems.transition import ScaledIdentity

Logits = Float[Tensor, "*batch rows keys"]


@dataclass(frozen=True)
class PairRows(RowSource):
    """Rows from scores ``scale q_i.k_j``, causal unless ``is_causal`` is overridden.

    Subclasses define ``window``, which turns scores into weights.
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

    def scores(self, start: int, stop: int, *, keys: int | None = None) -> Logits:
        """Scores of the queries ``start`` to ``stop - 1`` with the first ``keys`` keys, or all."""
        return (self.scale * self.query[..., start:stop, :]) @ self.key[..., :keys, :].mT

    def lags(self, start: int, stop: int) -> Shaped[Tensor, "rows read"]:
        """Query position minus key position, in tokens; negative for later keys."""
        written = torch.arange(start, stop, device=self.device)
        return written[:, None] - torch.arange(self.key.shape[-2], device=self.device)

    def ahead(self, start: int, stop: int) -> Bool[Tensor, "rows read"]:
        return self.lags(start, stop) < 0

    def apply(self, signal: Values) -> Mixed:
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
    """Rows that are exponentials of logits divided by their sum: a softmax."""

    @abstractmethod
    def logits(self, start: int, stop: int) -> Logits:
        """The logits, in nats; minus infinity where a key is not read.

        For every key, or for those before ``stop`` where rows are causal.
        """

    def reach(self, start: int, stop: int) -> Logits:
        """The rows ``start`` to ``stop - 1``, for as many keys as ``logits`` has."""
        return softmax_in_reach(self.logits(start, stop))

    def window(self, start: int, stop: int) -> Shaped[Tensor, "*batch time 1 read"]:
        weights = self.reach(start, stop)
        missing = self.shape[-1] - weights.shape[-1]
        later = weights.new_zeros(()).expand(*weights.shape[:-1], missing)
        return torch.cat([weights, later], dim=-1).unsqueeze(-2)


def scale_or_default(scale: float | None, query: Float[Tensor, "*batch time key"]) -> float:
    return query.shape[-1] ** -0.5 if scale is None else scale


def softmax_in_reach(scores: Logits) -> Logits:
    """Softmax over the last axis; a row whose scores are all minus infinity becomes zeros."""
    reachable = (scores > -torch.inf).any(dim=-1, keepdim=True)
    if bool(reachable.all()):
        return scores.softmax(dim=-1)
    return scores.masked_fill(~reachable, 0).softmax(dim=-1) * reachable


@dataclass(frozen=True)
class SoftmaxRows(ExponentialRows):
    """Softmax of ``scale q.k``, soft-capped, plus ``bias``, over the keys that a query reads.

    ``log_decay`` (causal rows only) adds to a score the log decays of the tokens after the key up
    to the query, in nats. ``sink`` adds ``exp(sink)`` to the denominator only, so that rows sum to
    less than one. A row that reads no key is zero. In causal rows the query of token i reads the
    keys 0 ... i only.
    """

    causal: bool
    bias: Float[Tensor, "*batch time read"] | None = None
    softcap: float | None = None
    sink: Float[Tensor, "*batch"] | None = None
    log_decay: Float[Tensor, "*batch read"] | None = None

    @property
    def is_causal(self) -> bool:
        return self.causal

    @property
    def is_fused(self) -> bool:
        """Whether the response is that of torch's fused attention, which forms no rows."""
        parts = (self.softcap, self.sink, self.bias, self.log_decay)
        return all(part is None for part in parts)

    def logits(self, start: int, stop: int) -> Logits:
        keys = stop if self.causal else self.key.shape[-2]
        scores = self.scores(start, stop, keys=keys)
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        if self.bias is not None:
            scores = scores + self.bias[..., start:stop, :keys]
        if self.log_decay is not None:
            scores = scores + faded(self.log_decay[..., :keys], start, stop)
        if self.causal:
            square = torch.ones(stop - start, stop - start, dtype=torch.bool, device=self.device)
            scores[..., start:].masked_fill_(square.triu(1), -torch.inf)
        return scores

    def reach(self, start: int, stop: int) -> Logits:
        logits = self.logits(start, stop)
        keys = logits.shape[-1]
        if self.sink is not None:
            column = self.sink[..., None, None].to(logits.dtype).expand(*logits.shape[:-1], 1)
            logits = torch.cat([logits, column], dim=-1)
        always_reads = self.causal and self.bias is None and self.log_decay is None
        weights = logits.softmax(dim=-1) if always_reads else softmax_in_reach(logits)
        return weights[..., :keys]

    def apply(self, signal: Values) -> Mixed:
        if not self.is_fused:
            return super().apply(signal)
        mixed = scaled_dot_product_attention(
            self.query, self.key, signal.squeeze(-2), is_causal=self.causal, scale=self.scale
        )
        return mixed.unsqueeze(-2)


def faded(
    log_decay: Float[Tensor, "*batch read"], start: int, stop: int
) -> Float[Tensor, "*batch time read"]:
    """Sums of ``log_decay`` over the tokens after a key up to a query in ``start ... stop - 1``.

    Zero for later keys. Sums are accumulated directly and never differences of cumulative sums, so
    no digits are lost for tokens far from the start.
    """
    earlier, inside, later = log_decay.tensor_split([start, stop], dim=-1)
    after = torch.cat([earlier[..., 1:], torch.zeros_like(earlier[..., :1])], dim=-1)
    to_window = after.flip(-1).cumsum(dim=-1).flip(-1)
    passed = inside.cumsum(dim=-1).unsqueeze(-1)
    token = torch.arange(stop - start, device=log_decay.device)
    follows = token[:, None] > token
    between = torch.where(follows, inside.unsqueeze(-1), 0).cumsum(dim=-2)
    between = torch.where(follows, between, 0)
    ahead = torch.zeros_like(later).unsqueeze(-2).expand(*between.shape[:-1], -1)
    return torch.cat([to_window.unsqueeze(-2) + passed, between, ahead], dim=-1)


def cache_system(rows: RowSource) -> System:
    """A_t = I, B_t = e_t and C_t = row t of a causal map; neither e_t nor the rows are stored."""
    *batch, steps, _, _ = rows.shape
    kept = torch.ones((), dtype=rows.dtype, device=rows.device)
    return System(
        A=ScaledIdentity(kept.expand(*batch, steps), steps),
        B=TokenSlots.cache(kept, batch=torch.Size(batch), steps=steps),
        C=rows,
    )
