"""Train one model once through a text, resumable to the last bit."""

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from experiments.text_models import scan
from experiments.training.weight_decay import matrices_decay


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """AdamW: linear warm-up, ``rate`` held, a line to zero in the last fifth; no window twice.

    Until that last fifth a step does not depend on ``steps``: a run can be made longer or shorter
    while it is on its way.
    """

    rate: float = 2e-3
    steps: int = 400
    context: int = 256
    """Tokens that are predicted in one window."""
    batch: int = 4
    seed: int = 0
    warm_up: int = 100
    weight_decay: float = 0.1
    largest_gradient: float = 1.0
    report_every: int = 50

    def factor(self, step: int) -> float:
        """Share of ``rate`` in force at ``step``, counted from 0."""
        rising = (step + 1) / self.warm_up
        falling = (self.steps - step) / (self.steps / 5)
        return min(1.0, rising, falling)

    def order(self, tokens: int) -> Int[Tensor, "steps batch"]:
        """The first token of each window of each step, all different.

        Raises:
            ValueError: if there are too few tokens for ``steps``.
        """
        windows = (tokens - 1) // self.context
        if windows < self.steps * self.batch:
            raise ValueError(
                f"order: {self.steps} steps of {self.batch} windows of {self.context} tokens take "
                f"{self.steps * self.batch * self.context + 1} tokens, but there are {tokens}. "
                f"Train for fewer steps."
            )
        generator = torch.Generator().manual_seed(self.seed)
        starts = torch.randperm(windows, generator=generator) * self.context
        return starts[: self.steps * self.batch].view(-1, self.batch)


@dataclass(frozen=True)
class Progress:
    """Where training stands: steps, tokens seen, processor seconds, mean loss since the last."""

    steps: int
    tokens: int
    seconds: float
    loss: float


def fit(
    model: nn.Module, tokens: Int[Tensor, " time"], schedule: Schedule, checkpoint: Path
) -> Iterator[Progress]:
    """Train in place, one report and one checkpoint every ``report_every`` steps.

    A run that finds ``checkpoint`` goes on from there and reports that place first. Interrupted or
    not, the weights come out equal bit by bit, on one machine with one thread.
    """
    order = schedule.order(len(tokens))
    optimiser = torch.optim.AdamW(matrices_decay(model, schedule.weight_decay), betas=(0.9, 0.95))
    done, losses = Progress(0, 0, 0.0, math.nan), []
    if checkpoint.exists():
        done = _resume(checkpoint, model, optimiser)
        yield done
    begun = time.process_time() - done.seconds
    model.train()
    for step in range(done.steps, len(order)):
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate * schedule.factor(step)
        windows = torch.stack([tokens[at : at + schedule.context + 1] for at in order[step]])
        losses.append(_update(model, optimiser, windows, schedule.largest_gradient))
        if (step + 1) % schedule.report_every == 0 or step + 1 == len(order):
            seen = (step + 1) * schedule.batch * schedule.context
            seconds = time.process_time() - begun
            done = Progress(step + 1, seen, seconds, sum(losses) / len(losses))
            losses.clear()
            _keep(checkpoint, model, optimiser, done)
            yield done


def _update(
    model: nn.Module, optimiser: torch.optim.Optimizer, windows: Tensor, largest: float
) -> float:
    with scan.sooner():
        logits = model(windows[:, :-1], use_cache=False).logits
    loss = cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), largest)
    optimiser.step()
    return loss.item()


def _keep(
    checkpoint: Path, model: nn.Module, optimiser: torch.optim.Optimizer, done: Progress
) -> None:
    draft = checkpoint.with_suffix(f".tmp-{os.getpid()}")
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), **vars(done)}
    torch.save(state, draft)
    draft.replace(checkpoint)


def _resume(checkpoint: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> Progress:
    state = torch.load(checkpoint, weights_only=True)
    model.load_state_dict(state.pop("model"))
    optimiser.load_state_dict(state.pop("optimiser"))
    return Progress(**state)
