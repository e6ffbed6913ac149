"""Train the models that come with the package and put them into ``dsf/models``.

    python -m experiments.embedded_models.train [--only llama] [--force]

Run from the repository. A model that ``results.json`` lists is left alone unless forced, so an
interrupted run goes on where it stopped.
"""

import argparse
import json
import math
import platform
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM

from dsf import models
from dsf.models import recall
from experiments.embedded_models import configurations
from experiments.embedded_models.fit import Progress, Schedule, fit
from experiments.training.storing import store

RESULTS = Path(__file__).with_name("results.json")
RECORD = models.folder("llama").parent / "recall.json"
TEST_SEED, TEST_SAMPLES = 2, 1000

SCHEDULES = {
    "llama": Schedule(rate=2e-3, steps=2000),
    "mamba": Schedule(rate=3e-3, steps=1600, enough=math.inf),
    "mamba2": Schedule(rate=2e-3, steps=1600, enough=math.inf),
    "qwen3_next": Schedule(rate=2e-3, steps=4000),
}


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=models.NAMES, help="train this model and no other")
    parser.add_argument("--force", action="store_true", help="train again what is already there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in [arguments.only] if arguments.only else models.NAMES:
        if name in _results() and models.folder(name).exists() and not arguments.force:
            print(f"{name}: already trained, --force trains it again")
        else:
            _write(name, train(name))


def train(name: str) -> dict[str, object]:
    """Train one model, store it, and return what is worth keeping about the run."""
    schedule = SCHEDULES[name]
    model = configurations.start(getattr(configurations, name)(), seed=schedule.seed)
    for progress in fit(model, schedule):
        print(_line(name, progress), flush=True)
    store(model, models.folder(name))
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bytes": sum(file.stat().st_size for file in models.folder(name).iterdir()),
        "seed": schedule.seed,
        "steps": progress.steps,
        "batch": schedule.batch,
        "rate": schedule.rate,
        "processor_seconds": round(progress.seconds),
        "accuracy": _stored_accuracy(name),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def _stored_accuracy(name: str) -> float:
    """Share of the queries of the test seed that the model on disk answers."""
    unseen = recall.draw(torch.Generator().manual_seed(TEST_SEED), TEST_SAMPLES)
    return recall.accuracy(AutoModelForCausalLM.from_pretrained(models.folder(name)), unseen)


def _line(name: str, progress: Progress) -> str:
    return (
        f"{name}: step {progress.steps}, loss {progress.loss:.4f}, "
        f"accuracy {progress.accuracy:.4f}, {progress.seconds:.0f} s of one core"
    )


def _record(results: dict[str, dict[str, object]]) -> dict[str, object]:
    """What a reader of the maps wants to know, without how the training went."""
    kept = ("parameters", "seed", "accuracy")
    return {
        "task": "in-context recall: name the value that followed each key",
        "pairs": recall.PAIRS,
        "length": recall.LENGTH,
        "vocabulary": recall.VOCABULARY,
        "test_seed": TEST_SEED,
        "test_samples": TEST_SAMPLES,
        "models": {name: {key: result[key] for key in kept} for name, result in results.items()},
    }


def _results() -> dict[str, dict[str, object]]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def _write(name: str, result: dict[str, object]) -> None:
    """Add one model's numbers; read first, because two processes may train at once."""
    results = _results() | {name: result}
    for path, content in ((RESULTS, results), (RECORD, _record(results))):
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
