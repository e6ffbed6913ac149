"""Rows of a softmax attention map, from query and key on demand."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from dsf.composite import PANEL, RowSource, StoredRows


@dataclass(frozen=True)
class SoftmaxRows(RowSource):
    """Softmax over the keys in reach of ``scale q.k``, soft-capped, plus ``bias``.

    ``log_decay`` (causal rows only) adds to a score the decays of the tokens after the key up to
    the query, in nats.
    ``sink`` adds ``exp(sink)`` to the denominator only, so that rows sum to less than one. A row
    that reaches no key is empty: zeros. Rows are causal when the query of token i reads the keys
    0 ... i only.
    """

    query: Float[Tensor, "*batch time key"]
    key: Float[Tensor, "*batch read key"]
    scale: float
    causal: bool
    bias: Float[Tensor, "*batch time read"] | None = None
    softcap: float | None = None
    sink: Float[Tensor, "*batch"] | None = None
    log_decay: Float[Tensor, "*batch read"] | None = None

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
        return self.causal

    def window(self, start: int, stop: int) -> Shaped[Tensor, "*batch time 1 read"]:
        scores = self.scale * (self.query[..., start:stop, :] @ self.key.mT)
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        if self.bias is not None:
            scores = scores + self.bias[..., start:stop, :]
        if self.log_decay is not None:
            scores = scores + faded(self.log_decay, start, stop)
        if self.causal:
            scores = scores.masked_fill(self._ahead(start, stop), -torch.inf)
        return self._normalised(scores).unsqueeze(-2)

    def _ahead(self, start: int, stop: int) -> Bool[Tensor, "time read"]:
        written = torch.arange(start, stop, device=self.device)
        read = torch.arange(self.key.shape[-2], device=self.device)
        return read > written[:, None]

    def _normalised(self, scores: Tensor) -> Tensor:
        keys = scores.shape[-1]
        if self.sink is not None:
            column = self.sink[..., None, None].to(scores.dtype).expand(*scores.shape[:-1], 1)
            scores = torch.cat([scores, column], dim=-1)
        reachable = (scores > -torch.inf).any(dim=-1, keepdim=True)
        weights = scores.masked_fill(~reachable, 0).softmax(dim=-1) * reachable
        return weights[..., :keys]

    def apply(
        self, signal: Shaped[Tensor, "*batch read 1 channel"]
    ) -> Shaped[Tensor, "*batch time 1 channel"]:
        value = signal.squeeze(-2)
        if all(part is None for part in (self.softcap, self.sink, self.bias, self.log_decay)):
            mixed = scaled_dot_product_attention(
                self.query, self.key, value, is_causal=self.causal, scale=self.scale
            )
            return mixed.unsqueeze(-2)
        steps = self.query.shape[-2]
        panels = [
            self.window(start, min(start + PANEL, steps)).squeeze(-2) @ value
            for start in range(0, steps, PANEL)
        ]
        return torch.cat(panels, dim=-2).unsqueeze(-2)

    def flipped(self) -> StoredRows:
        return StoredRows(self.dense().squeeze(-2).flip(-2))


def faded(
    log_decay: Float[Tensor, "*batch read"], start: int, stop: int
) -> Float[Tensor, "*batch time read"]:
    """Sums of ``log_decay`` over the tokens after a key up to a query in ``start ... stop - 1``.

    Zero for keys behind the query. Only added up, never a difference of long sums, so neighbours
    of a distant start keep all digits.
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
