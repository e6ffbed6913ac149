"""Train one model on recall until it answers, and say what it took."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from dsf.models import recall
from experiments.embedded_models import scan
from experiments.training.weight_decay import matrices_decay

CHECK_EVERY = 200
CHECK_SEED = 1
CHECK_SAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """AdamW with a linear warm-up and a cosine to zero at ``steps``."""

    rate: float
    steps: int
    seed: int = 0
    warm_up: int = 200
    easier: int = 600
    """Steps during which a batch has any number of pairs up to the final one."""
    batch: int = 64
    weight_decay: float = 0.1
    enough: float = 0.999
    """The share of right answers at which training ends; infinity trains all ``steps``."""

    def factor(self, step: int) -> float:
        """Share of ``rate`` in force at ``step``."""
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


def fit(model: nn.Module, schedule: Schedule) -> Iterator[Progress]:
    """Train in place, one report per check, until ``enough`` of the queries are answered."""
    optimiser = torch.optim.AdamW(matrices_decay(model, schedule.weight_decay), lr=schedule.rate)
    slope = torch.optim.lr_scheduler.LambdaLR(optimiser, schedule.factor)
    generator = torch.Generator().manual_seed(schedule.seed)
    unseen = recall.draw(torch.Generator().manual_seed(CHECK_SEED), CHECK_SAMPLES)
    started, losses = time.process_time(), []
    model.train()
    for step in range(1, schedule.steps + 1):
        fewest = 1 if step <= schedule.easier else recall.PAIRS
        pairs = int(torch.randint(fewest, recall.PAIRS + 1, (), generator=generator))
        drawn = recall.draw(generator, schedule.batch, pairs=pairs)
        losses.append(_update(model, optimiser, drawn))
        slope.step()
        if step % CHECK_EVERY == 0 or step == schedule.steps:
            reached = recall.accuracy(model, unseen)
            seconds = time.process_time() - started
            yield Progress(step, seconds, sum(losses) / len(losses), reached)
            if reached >= schedule.enough:
                return
            losses.clear()


def _update(model: nn.Module, optimiser: torch.optim.Optimizer, drawn: recall.Recall) -> float:
    with scan.sooner():
        logits = model(drawn.tokens, use_cache=False).logits
    loss = cross_entropy(logits.flatten(0, 1), drawn.targets.flatten(), ignore_index=recall.SILENT)
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return loss.item()
