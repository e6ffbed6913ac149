"""Inputs with the answers they call for: how a batch looks and how answers are judged."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

SILENT = -100
"""The target where nothing is asked: what ``torch.nn.functional.cross_entropy`` ignores."""


class Examples(NamedTuple):
    """Samples along the first axis.

    ``targets`` has the axes of the model's output but the last, the classes: one label a sample, or
    one a token with ``SILENT`` where nothing is asked.
    """

    inputs: Shaped[Tensor, "samples ..."]
    targets: Int[Tensor, "samples ..."]


def batches(examples: Examples, *, size: int, seed: int) -> Iterator[Examples]:
    """Endless batches of ``size``, in a new random order for every pass over the examples.

    What is left at the end of a pass and fills no batch waits for the next order.

    Raises:
        ValueError: if there are fewer examples than one batch takes.
    """
    count = len(examples.targets)
    if not 1 <= size <= count:
        raise ValueError(
            f"batches: size is {size}, but there are {count} examples. Ask for 1 to {count}."
        )
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=generator)
        for chosen in order[: count - count % size].split(size):
            yield Examples(examples.inputs[chosen], examples.targets[chosen])


def loss(
    scores: Float[Tensor, "samples ... classes"], targets: Int[Tensor, "samples ..."]
) -> Float[Tensor, ""]:
    """Mean cross-entropy of the answers that are asked for, nats."""
    return cross_entropy(scores.flatten(0, -2), targets.flatten(), ignore_index=SILENT)


def accuracy(model: nn.Module, examples: Examples, *, size: int = 500) -> float:
    """Share of the asked answers, 0 to 1, that get the highest score.

    ``model`` maps inputs to scores. It is read in evaluation mode, ``size`` samples at a time, and
    left in the mode it came in.
    """
    training = model.training
    model.eval()
    with torch.inference_mode():
        answers = torch.cat([model(part).argmax(dim=-1) for part in examples.inputs.split(size)])
    model.train(training)
    asked = examples.targets != SILENT
    return (answers == examples.targets)[asked].double().mean().item()
