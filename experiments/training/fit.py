"""Train one model until it answers, and say what it took. A plain loop, no framework."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from experiments.training.examples import Examples, accuracy, loss


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """AdamW with a linear warm-up to ``rate`` and a cosine to zero at ``steps``."""

    rate: float
    steps: int
    warm_up: int = 100
    weight_decay: float = 0.1
    largest_gradient: float = 1.0
    """Norm to which the gradient of all parameters together is cut."""
    check_every: int = 100
    enough: float = 1.0
    """Accuracy on the checked examples, 0 to 1, at which training stops."""

    def factor(self, step: int) -> float:
        """Share of ``rate`` in force at ``step``, counted from 0."""
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        return 0.5 + 0.5 * math.cos(math.pi * (step - self.warm_up) / (self.steps - self.warm_up))


@dataclass(frozen=True)
class Progress:
    """Where training stands: steps, processor seconds, loss since the last check, accuracy now."""

    steps: int
    seconds: float
    loss: float
    accuracy: float


def fit(
    model: nn.Module, batches: Iterator[Examples], checked: Examples, schedule: Schedule
) -> Iterator[Progress]:
    """Train in place, one report per check, until ``enough`` of ``checked`` is answered.

    The last report is that of the last step. Two runs from equal weights and batches are equal, bit
    by bit, on one machine with one thread.

    Args:
        model: maps inputs to scores, the classes along the last axis.
        batches: at least ``schedule.steps`` of them.
        checked: examples that are not trained on; a final figure belongs to yet others.
        schedule: rate, steps and when to stop.
    """
    optimiser = torch.optim.AdamW(_groups(model, schedule.weight_decay), lr=schedule.rate)
    slope = torch.optim.lr_scheduler.LambdaLR(optimiser, schedule.factor)
    started, losses = time.process_time(), []
    model.train()
    for step, batch in enumerate(islice(batches, schedule.steps), start=1):
        losses.append(_update(model, optimiser, batch, schedule.largest_gradient))
        slope.step()
        if step % schedule.check_every == 0 or step == schedule.steps:
            reached = accuracy(model, checked)
            seconds = time.process_time() - started
            yield Progress(step, seconds, torch.stack(losses).mean().item(), reached)
            if reached >= schedule.enough:
                return
            losses.clear()


def _update(
    model: nn.Module, optimiser: torch.optim.Optimizer, batch: Examples, largest: float
) -> Tensor:
    missed = loss(model(batch.inputs), batch.targets)
    optimiser.zero_grad()
    missed.backward()
    nn.utils.clip_grad_norm_(model.parameters(), largest, error_if_nonfinite=True)
    optimiser.step()
    return missed.detach()


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weights of linear layers decay; poles, embeddings, filters, norms and biases do not."""
    decaying = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    parameters = list(model.parameters())
    return [
        {
            "params": [each for each in parameters if id(each) in decaying],
            "weight_decay": weight_decay,
        },
        {"params": [each for each in parameters if id(each) not in decaying], "weight_decay": 0.0},
    ]
