"""``Layer``: the base class of all trainable layers; heads, decoding by tokens, initial weights."""

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from dsf.evaluate import final_state, respond
from dsf.evaluate.arguments import Response, Signal
from dsf.mixers.base import Mixer
from dsf.runtime.shapes import ShapeError, agree, has_axes
from dsf.systems.system import System

Tokens = Float[Tensor, "batch time model"]
"""What a layer takes and returns."""


def divide(owner: str, *, heads: int, **sizes: int) -> None:
    """Raise unless every size is a positive multiple of ``heads``."""
    if heads < 1:
        raise ShapeError(f"{owner}: needs at least 1 head, but heads is {heads}.")
    for name, size in sizes.items():
        if size < 1 or size % heads:
            raise ShapeError(
                f"{owner}: {name} must be a positive multiple of the {heads} heads, but it is "
                f"{size}. Change {name} or heads."
            )


def split(x: Tokens, heads: int) -> Float[Tensor, "batch head time width"]:
    """``x``, ``batch time (head width)``, split into heads, ``batch head time width``."""
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3)


def merge(mixed: Shaped[Tensor, "batch head time 1 width"]) -> Shaped[Tensor, "batch time model"]:
    """The response of a mixer with heads, with the channels of all heads in one axis."""
    return mixed.squeeze(-2).transpose(-2, -3).flatten(-2)


class QueryKeyValue(nn.Module):
    """The projections of attention: one for query and key, one for value, split into heads."""

    def __init__(self, owner: str, model_size: int, key_size: int | None, *, heads: int) -> None:
        super().__init__()
        key_size = model_size if key_size is None else key_size
        divide(owner, heads=heads, model_size=model_size, key_size=key_size)
        self.heads = heads
        self.query_key = nn.Linear(model_size, 2 * key_size)
        self.value = nn.Linear(model_size, model_size)

    def forward(
        self, x: Tokens
    ) -> tuple[
        Float[Tensor, "batch head time key"],
        Float[Tensor, "batch head time key"],
        Float[Tensor, "batch head time channel"],
    ]:
        """Query, key and value."""
        query, key = self.query_key(x).chunk(2, dim=-1)
        return split(query, self.heads), split(key, self.heads), split(self.value(x), self.heads)


Memory = dict[str, Tensor]
"""What decoding keeps between tokens, by name: states, sums, the last inputs of a convolution."""


class Layer(nn.Module, ABC):
    """A token mixer with its projections: ``(batch, time, model)`` to the same shape.

    Tokens are mixed by a mixer of ``dsf.mixers``; a layer adds weights before it (``mixer``) and
    after it (``finish``). Attention weights have no dropout, since a map with dropout is not
    the map of the layer.

    Attributes:
        out: the output projection.
        causal: whether token i reads tokens 0 ... i only, which decoding requires.

    Example:
        A layer mixes a sequence at once or token by token, and shows the map it applies:

        >>> import dsf, torch
        >>> layer = dsf.layers.LinearAttention(8, heads=2).double()
        >>> x, memory, tokens = torch.randn(1, 5, 8).double(), None, []
        >>> for token in x.unbind(dim=1):
        ...     mixed, memory = layer.step(token, memory)
        ...     tokens.append(mixed)
        >>> torch.allclose(torch.stack(tokens, dim=1), layer(x))
        True
        >>> dsf.attention_map(layer.mixer(x).system()).shape
        torch.Size([1, 2, 5, 5])
    """

    out: nn.Linear
    causal: bool = True

    @abstractmethod
    def mixer(self, x: Tokens, memory: Memory | None = None) -> Mixer:
        """The mixer with the coefficients for the input ``x``.

        Args:
            x: the layer's input.
            memory: when decoding, what is kept of earlier tokens; it is updated in place.
        """

    def finish(self, x: Tokens, mixed: Tensor) -> Tokens:
        """The layer's output from its input and the response of its mixer.

        Here the heads are merged and projected; layers with norms or gates define their own.
        """
        return self.out(merge(mixed))

    def forward(self, x: Tokens) -> Tokens:
        """Apply the layer to a whole sequence, from a state of zero.

        Raises:
            ShapeError: if ``x`` is not ``(batch, time, model_size)``, or has no token.
        """
        self._fits(x, "batch time model")
        mixer = self.mixer(x)
        return self.finish(x, respond(mixer.system(), mixer.signal()).to(x.dtype))

    def step(
        self, token: Float[Tensor, "batch model"], memory: Memory | None = None
    ) -> tuple[Float[Tensor, "batch model"], Memory]:
        """Apply the layer to the next token, as in decoding.

        Args:
            token: the next input.
            memory: the memory that the call for the previous token returned; None for the first
                token. It is not changed.

        Raises:
            ShapeError: if ``token`` is not ``(batch, model_size)``.
            ValueError: if the layer is not causal.
        """
        self._fits(token, "batch model")
        if not self.causal:
            raise ValueError(
                f"{type(self).__name__}.step: this layer reads the whole sequence for every token, "
                f"so it cannot decode. Build it with causal=True, or call it on the whole sequence."
            )
        memory = dict(memory or {})
        x = token.unsqueeze(-2)
        mixed = self.mix_token(self.mixer(x, memory), memory)
        return self.finish(x, mixed.to(x.dtype)).squeeze(-2), memory

    def mix_token(self, mixer: Mixer, memory: Memory) -> Tensor:
        """The mixer's response to one token; overridden if coefficients depend on earlier ones."""
        return advanced(cast("System", mixer.system()), mixer.signal(), memory)

    def _fits(self, x: Tensor, axes: str) -> None:
        owner = type(self).__name__
        has_axes(owner, "x", x.shape, axes)
        agree(owner, "model", layer=self.out.out_features, x=x.shape[-1])


def advanced(system: System, signal: Signal, memory: Memory) -> Response:
    """The response from the ``state`` in ``memory``, which is replaced by the final state."""
    if "state" in memory:
        system = replace(system, initial=memory["state"])
    memory["state"] = final_state(system, signal)
    return respond(system, signal)


def tokens_so_far(x: Tokens, memory: Memory | None) -> Float[Tensor, " time"]:
    """The number of tokens up to each one, itself included: 1, 2, ...

    When decoding, the count continues from ``memory``. It has at least single precision, since half
    precision represents integers only up to 256 or 2048.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    count = torch.arange(1, x.shape[-2] + 1, dtype=dtype, device=x.device)
    if memory is not None:
        count = count + memory.get("tokens", torch.zeros_like(count[:1]))
        memory["tokens"] = count[-1:]
    return count


def read_from_cache(mixer: Any, memory: Memory) -> Tensor:
    """The response of softmax to one token, whose key and value are appended to ``memory``."""
    for name in ("key", "value"):
        new = getattr(mixer, name)
        memory[name] = torch.cat([memory[name], new], dim=-2) if name in memory else new
    cache = replace(mixer, key=memory["key"], value=memory["value"], causal=False)
    return respond(cache.system(), cache.signal())


SMALL = 0.02


def draw_weights(linear: nn.Linear, std: float = SMALL) -> None:
    """Weights from N(0, std²); biases zero."""
    nn.init.normal_(linear.weight, std=std)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def as_executed(module: nn.Module, *, depth: int = 2) -> None:
    """Initialise ``module`` in place as the published runs of arXiv:2405.15731 did.

    Every linear map gets N(0, 0.02²) and a bias of zero, the one called ``out``
    N(0, (0.02 / √(2 depth))²), embeddings N(0, 0.02²); everything else keeps what it has. That also
    overwrites the bias of the time step in ``SelectiveStateSpace``, ``StateSpaceDuality`` and
    ``Mamba``, so that the step starts at log 2 = 0.693 instead of 0.001 to 0.1: the fastest
    forgetting.

    Args:
        depth: how many blocks the model has.
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            draw_weights(part)
            if name.rpartition(".")[2] == "out":
                nn.init.normal_(part.weight, std=SMALL / math.sqrt(2 * depth))
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=SMALL)
