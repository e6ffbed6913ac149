"""Train models that remember over thousands of tokens and put them into ``dsf/models``.

    python -m experiments.long_memory.train [--only long_mamba2]

Each starts from the embedded recall model of its architecture, which recalls over 32 tokens, and
trains at growing lags, with pairs in between that write into the same state. After every stage the
weights and ``results.json`` are written, so an interrupted run leaves what it reached.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
import transformers
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM

from dsf import models
from dsf.models import recall
from experiments.training.storing import store
from experiments.training.weight_decay import matrices_decay

RESULTS = Path(__file__).with_name("results.json")
MODELS = models.folder("mamba2").parent
STARTS = {"long_qwen3_next": "qwen3_next", "long_mamba2": "mamba2"}
"""Each model and the recall model that it starts from."""

STAGES = ((32, 48, 300), (128, 16, 300), (512, 6, 300), (1024, 3, 250), (2048, 2, 250))
"""Longest lag, sequences in a batch and steps of each stage."""

RATE, WARM_UP, SEED = 1e-3, 50, 0
DISTRACTORS = 24
"""Maximum number of pairs between an asked pair and its query during training."""

TEST_SEED, TEST_SAMPLES = 2, 100
TEST_LAGS = (32, 128, 512, 1024, 2048, 4096)


def main() -> None:
    """Train one model or both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=tuple(STARTS), help="train this model and no other")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in [arguments.only] if arguments.only else STARTS:
        train(name)


def train(name: str) -> None:
    """Train one model through all stages, writing it after each."""
    torch.manual_seed(SEED)
    source = models.folder(STARTS[name])
    configuration = AutoConfig.from_pretrained(source)
    if hasattr(configuration, "max_position_embeddings"):
        configuration.max_position_embeddings = 2 * TEST_LAGS[-1]
    model = AutoModelForCausalLM.from_pretrained(source, config=configuration)
    generator = torch.Generator().manual_seed(SEED)
    optimiser = torch.optim.AdamW(matrices_decay(model, 0.1), betas=(0.9, 0.95))
    total, step, curve = sum(steps for *_, steps in STAGES), 0, []
    started = time.process_time()
    for lag, batch, steps in STAGES:
        model.train()
        losses = []
        for _ in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = RATE * _factor(step, total)
            losses.append(_update(model, optimiser, _batch(generator, lag, batch)))
            step += 1
            if step % 50 == 0:
                mean = sum(losses[-50:]) / len(losses[-50:])
                seconds = time.process_time() - started
                curve.append({"step": step, "lag": lag, "loss": round(mean, 4)})
                print(
                    f"{name}: step {step}, lag {lag}, loss {mean:.4f}, {seconds:.0f} s", flush=True
                )
        seconds = time.process_time() - started
        reached = {str(lag): accuracy(model, lag) for lag in TEST_LAGS}
        print(f"{name}: after lag {lag}: {reached}", flush=True)
        store(model, MODELS / name)
        _record(
            name,
            {
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "seed": SEED,
                "steps": step,
                "processor_seconds": round(seconds),
                "accuracy": reached,
                "curve": curve,
            },
        )


def accuracy(model: nn.Module, lag: int, *, distractors: int = DISTRACTORS) -> float:
    """Share of right answers at one lag, on sequences of a seed that training never saw."""
    distractors = min(distractors, lag // 2)
    generator = torch.Generator().manual_seed(TEST_SEED)
    right = 0.0
    for _ in range(TEST_SAMPLES // 10):
        drawn = recall.draw_long(generator, 10, lag=lag, distractors=distractors)
        right += recall.accuracy(model, drawn)
    return round(right / (TEST_SAMPLES // 10), 4)


def _batch(generator: torch.Generator, longest: int, samples: int) -> recall.Recall:
    """Sequences with queries over their whole second half, or all the way from the pairs."""
    half = int(torch.randint(2, (), generator=generator))
    lag = 2 * int(torch.randint(longest // 4 + 1, (), generator=generator)) if half else 0
    spread = longest + 32 - lag
    slots = (longest + 32) // 2 - 3 * recall.PAIRS
    distractors = int(torch.randint(min(DISTRACTORS, slots) + 1, (), generator=generator))
    return recall.draw_long(
        generator, samples, lag=lag, distractors=distractors, queries=3, spread=spread
    )


def _update(model: nn.Module, optimiser: torch.optim.Optimizer, drawn: recall.Recall) -> float:
    logits = model(drawn.tokens, use_cache=False).logits
    loss = cross_entropy(logits.flatten(0, 1), drawn.targets.flatten(), ignore_index=recall.SILENT)
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return loss.item()


def _factor(step: int, total: int) -> float:
    """Share of ``RATE`` in force: linear warm-up, then a cosine to a tenth."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return 0.55 + 0.45 * math.cos(math.pi * (step - WARM_UP) / (total - WARM_UP))


def _record(name: str, result: dict[str, object]) -> None:
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(results | {name: result}, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
