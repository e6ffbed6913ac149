"""The same attention over the tokens that are left when a query may not read some."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from dsf import attention_map
from dsf.mixers import InLineAttention, LinearAttention, Mixer, SoftmaxAttention
from experiments.training.examples import Examples
from papers.in_line.experiments.digits.neighbours import as_many_at_random, within
from papers.in_line.experiments.digits.vision import Mix, VisionTransformer

RADII = {1: 0, 3: 1, 5: 2}
"""By width of the window, in tokens."""
SEED = 0


def map_without(
    mixer: Mixer, hidden: Bool[Tensor, "*axes queries tokens"]
) -> Float[Tensor, "batch head queries tokens"]:
    """The map of ``mixer`` over the tokens that are not ``hidden``; every row sums to one.

    Softmax and linear attention divide by the sum over the tokens left. InLine attention subtracts
    the mean score of the tokens left and adds an equal share for each.

    Raises:
        TypeError: for any other mixer, where it is not said what is left.
    """
    if isinstance(mixer, SoftmaxAttention):
        *_, queries, tokens = (*mixer.query.shape[:-1], mixer.key.shape[-2])
        bias = mixer.query.new_zeros(()).expand(*mixer.query.shape[:-2], queries, tokens)
        return attention_map(replace(mixer, bias=bias.masked_fill(hidden, -torch.inf)).system())
    rest = attention_map(mixer.system()).masked_fill(hidden, 0)
    if isinstance(mixer, LinearAttention):
        return rest / rest.sum(dim=-1, keepdim=True)
    if isinstance(mixer, InLineAttention):
        left = ~hidden
        share = (1 - rest.sum(dim=-1, keepdim=True)) / left.sum(dim=-1, keepdim=True)
        return rest + share * left
    raise TypeError(
        f"map_without: got {type(mixer).__name__}, but only softmax, linear and InLine attention "
        f"have a rule for the tokens that are left."
    )


def mix_without(hidden: Bool[Tensor, "*axes queries tokens"]) -> Mix:
    """Mix as the model does, but hide some tokens."""

    def mix(mixer: Mixer) -> Shaped[Tensor, "batch head time 1 channel"]:
        return (map_without(mixer, hidden) @ mixer.signal().squeeze(-2)).unsqueeze(-2)

    return mix


def masked_accuracies(model: VisionTransformer, examples: Examples) -> dict[str, dict[str, float]]:
    """Accuracy with the local window, or as many random tokens, hidden in every block."""
    found = {}
    for width, radius in RADII.items():
        window = within(radius)
        random = as_many_at_random(window, len(examples.targets), seed=SEED)
        found[str(width)] = {
            "local": _accuracy(model, examples, window),
            "random": _accuracy(model, examples, random),
        }
    return found


def _accuracy(model: VisionTransformer, examples: Examples, hidden: Tensor) -> float:
    with torch.inference_mode():
        answers = model(examples.inputs, mix_without(hidden)).argmax(dim=-1)
    return (answers == examples.targets).double().mean().item()
