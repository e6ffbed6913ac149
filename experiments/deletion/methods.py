"""What is compared: ways to say how much each token of a prompt counts for a logit.

Every method takes a model, the numbers of the tokens of one prompt, and the token whose logit at
the last position is to be explained, and returns one number for each token.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

import dsf

STEPS = 20
"""Steps of the path that integrated gradients sum along."""

Ids = Int[Tensor, "1 time"]
Method = Callable[[nn.Module, Ids, int], Float[Tensor, " time"]]


def shares(model: nn.Module, ids: Ids, target: int) -> Float[Tensor, " time"]:
    """The shares of the tokens, ``stack.attribute``."""
    adapters = getattr(model, "adapters", ())
    return dsf.stack(model, input_ids=ids, adapters=adapters).attribute(target).tokens[0]


def gradient_times_input(model: nn.Module, ids: Ids, target: int) -> Float[Tensor, " time"]:
    """The gradient with respect to the embeddings, times the embeddings."""
    given = model.get_input_embeddings()(ids).detach().requires_grad_()  # type: ignore[operator]
    (gradient,) = torch.autograd.grad(_logits(model, given)[:, target].sum(), given)
    return (gradient * given).sum(dim=-1)[0].detach()


def integrated_gradients(model: nn.Module, ids: Ids, target: int) -> Float[Tensor, " time"]:
    """Captum's integrated gradients from embeddings of zero (Sundararajan et al. 2017)."""
    from captum.attr import IntegratedGradients

    given = model.get_input_embeddings()(ids).detach()  # type: ignore[operator]
    method = IntegratedGradients(lambda embeddings: _logits(model, embeddings))
    found: Tensor = method.attribute(given, target=target, n_steps=STEPS, internal_batch_size=STEPS)
    return found.sum(dim=-1)[0].detach()


def rollout(model: nn.Module, ids: Ids, _: int) -> Float[Tensor, " time"]:
    """Attention rollout (Abnar and Zuidema 2020), which does not know the target.

    The mean map of every layer, its absolute rows scaled to sum to one, is mixed half and half with
    the identity; the product over the layers is read in its last row. Maps with negative weights
    are taken by their absolute values.
    """
    adapters = getattr(model, "adapters", ())
    inspection = dsf.inspect(model, input_ids=ids, checks="none", adapters=adapters)
    product = torch.eye(ids.shape[1], dtype=torch.float64)
    for layer in inspection:
        weights = layer.map().abs().flatten(1, -3).mean(dim=1)[0].double()
        weights = weights / weights.sum(dim=-1, keepdim=True).clamp_min(1e-300)
        product = (weights + torch.eye(len(weights))) / 2 @ product
    return product[-1]


@dataclass(frozen=True)
class Chance:
    """Numbers drawn at random, as a control."""

    generator: torch.Generator

    def __call__(self, _: nn.Module, ids: Ids, __: int) -> Float[Tensor, " time"]:
        return torch.rand(ids.shape[1], generator=self.generator)


def known(generator: torch.Generator) -> dict[str, Method]:
    """All methods by name."""
    return {
        "shares of the tokens": shares,
        "gradient x input": gradient_times_input,
        "integrated gradients": integrated_gradients,
        "attention rollout": rollout,
        "chance": Chance(generator),
    }


def _logits(model: nn.Module, embeddings: Tensor) -> Float[Tensor, "sample vocabulary"]:
    """The logits of the last token, with these embeddings in place of the model's own."""
    count, length, _ = embeddings.shape
    blank = torch.zeros(count, length, dtype=torch.long)
    with _embedding_as(model, embeddings):
        logits: Tensor = model(input_ids=blank, use_cache=False).logits
    return logits[:, -1]


@contextmanager
def _embedding_as(model: nn.Module, embeddings: Tensor) -> Iterator[None]:
    def exchange(*_: Any) -> Tensor:
        return embeddings

    handle = model.get_input_embeddings().register_forward_hook(exchange)  # type: ignore[operator]
    try:
        yield
    finally:
        handle.remove()
