"""Rows of a softmax attention map, from query and key on demand."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from dsf.ingredients.pair_rows import ExponentialRows


@dataclass(frozen=True)
class SoftmaxRows(ExponentialRows):
    """Softmax over the keys in reach of ``scale q.k``, soft-capped, plus ``bias``.

    ``log_decay`` (causal rows only) adds to a score the decays of the tokens after the key up to
    the query, in nats.
    ``sink`` adds ``exp(sink)`` to the denominator only, so that rows sum to less than one. A row
    that reaches no key is empty: zeros. Rows are causal when the query of token i reads the keys
    0 ... i only.
    """

    causal: bool
    bias: Float[Tensor, "*batch time read"] | None = None
    softcap: float | None = None
    sink: Float[Tensor, "*batch"] | None = None
    log_decay: Float[Tensor, "*batch read"] | None = None

    @property
    def is_causal(self) -> bool:
        return self.causal

    def logits(self, start: int, stop: int) -> Float[Tensor, "*batch rows keys"]:
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

    def unread(self) -> Float[Tensor, "*batch"] | None:
        return self.sink

    def apply(
        self, signal: Shaped[Tensor, "*batch read 1 channel"]
    ) -> Shaped[Tensor, "*batch time 1 channel"]:
        if any(part is not None for part in (self.softcap, self.sink, self.bias, self.log_decay)):
            return super().apply(signal)
        mixed = scaled_dot_product_attention(
            self.query, self.key, signal.squeeze(-2), is_causal=self.causal, scale=self.scale
        )
        return mixed.unsqueeze(-2)


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
