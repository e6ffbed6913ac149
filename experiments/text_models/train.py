"""Train the text models that come with the package and put them into ``dsf/models``.

    python -m experiments.text_models.train [--only text_llama] [--force]

Run from the repository. An interrupted run goes on where it stopped; a model that ``results.json``
lists is left alone unless forced. Two processes can share two cores with ``--only``.
"""

import argparse
import json
import platform
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import transformers
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from dsf import models
from dsf.models import text as told
from dsf.runtime.files import replace_file
from experiments.text_models import configurations, page, sampling, tables, text, tokens
from experiments.text_models.fit import Progress, Schedule, fit

RESULTS = Path(__file__).with_name("results.json")
RECORD = models.folder(models.TEXT_NAMES[0]).parent / "text.json"
CHECKPOINTS = text.CACHE.parent / "text_models"
SCHEDULE = Schedule()
PROMPT = "KING RICHARD II\n"


def main() -> None:
    """Train what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=models.TEXT_NAMES, help="train this model and no other")
    parser.add_argument("--force", action="store_true", help="train again what is already there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    split = text.read()
    for name in [arguments.only] if arguments.only else models.TEXT_NAMES:
        if name in _results()["models"] and models.folder(name).exists() and not arguments.force:
            print(f"{name}: already trained, --force trains it again")
            continue
        progress = train(name, split.train)
        _write(name, {**facts(name, progress), **figures(name, split)}, split)
        (CHECKPOINTS / f"{name}.pt").unlink()
    page.write(_results())


def train(name: str, words: str) -> Progress:
    """Train one model and store it; where training stood at its end."""
    tokenizer = tokens.train(words)
    encoded = torch.tensor(tokenizer.encode(words).ids)
    model = start(name)
    for progress in fit(model, encoded, SCHEDULE, CHECKPOINTS / f"{name}.pt"):
        print(_line(name, progress), flush=True)
    store(model, tokenizer, models.folder(name))
    return progress


def start(name: str) -> PreTrainedModel:
    """One model before training."""
    torch.manual_seed(SCHEDULE.seed)
    configuration = getattr(configurations, name.removeprefix("text_"))()
    return AutoModelForCausalLM.from_config(configuration)


def store(model: PreTrainedModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Keep weights (as float16), settings and tokenizer, nothing about this machine.

    Whoever loads the folder gets a model that computes in float32, with weights of eleven bits. The
    limit on step sizes is the library's own, whose upper end JSON has no number for.
    """
    folder.mkdir(exist_ok=True)
    with TemporaryDirectory() as scratch:
        model.half().save_pretrained(scratch)
        weights = Path(scratch, "model.safetensors").read_bytes()
        settings = json.loads(Path(scratch, "config.json").read_text())
    for machine_or_infinite in ("_name_or_path", "time_step_limit"):
        settings.pop(machine_or_infinite, None)
    (folder / "model.safetensors").write_bytes(weights)
    _write_json(folder / "config.json", {**settings, "dtype": "float32"})
    (folder / "tokenizer.json").write_text(tokenizer.to_str() + "\n", encoding="utf-8")
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    _write_json(folder / "tokenizer_config.json", kind)


def facts(name: str, progress: Progress) -> dict[str, object]:
    """How one model was made."""
    folder = models.folder(name)
    return {
        "parameters": AutoModelForCausalLM.from_pretrained(folder).num_parameters(),
        "bytes": (folder / "model.safetensors").stat().st_size,
        "seed": SCHEDULE.seed,
        "rate": SCHEDULE.rate,
        "steps": progress.steps,
        "tokens": progress.tokens,
        "processor_seconds": round(progress.seconds),
        "training_loss": round(progress.loss, 4),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def figures(name: str, split: text.Split) -> dict[str, object]:
    """What the stored model predicts and writes."""
    folder = models.folder(name)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    held_out = told.bits_per_byte(model, tokenizer, split.held_out)
    count = len(tokenizer(split.held_out)["input_ids"])
    prompt: Int[Tensor, " time"] = torch.tensor(tokenizer(PROMPT)["input_ids"])
    written = sampling.go_on(model, prompt, seed=0, tokens=60)
    return {
        "bits_per_byte": held_out,
        "nats_per_token": held_out * 0.6931471805599453 * len(split.held_out.encode()) / count,
        "passage_bits_per_byte": told.bits_per_byte(model, tokenizer, told.PASSAGE),
        "sample": tokenizer.decode(written),
    }


def record(results: dict) -> dict[str, object]:
    """What a reader of the maps wants to know, without how the training went."""
    kept = ("parameters", "seed", "bits_per_byte", "passage_bits_per_byte")
    each = results["models"].items()
    return {
        "task": "the next token of plays of Shakespeare",
        "text": results["text"],
        "models": {name: {key: result[key] for key in kept} for name, result in each},
    }


def described(split: text.Split) -> dict[str, object]:
    """The text, and how well tables of bytes predict its held-out part."""
    train, held_out = (part.encode() for part in split)
    pairs = tables.bigram(train)
    return {
        "source": text.REQUIREMENT,
        "sha256": text.TEXT_SHA256,
        "licence": "the plays are in the public domain; the wheel is under the MIT licence",
        "held_out": list(text.HELD_OUT),
        "train_bytes": len(train),
        "held_out_bytes": len(held_out),
        "unigram_bits_per_byte": tables.unigram_bits(tables.unigram(train), held_out),
        "bigram_bits_per_byte": tables.bigram_bits(pairs, held_out),
        "passage_bigram_bits_per_byte": tables.bigram_bits(pairs, told.PASSAGE.encode()),
    }


def _line(name: str, progress: Progress) -> str:
    return (
        f"{name}: step {progress.steps}, {progress.tokens:,} tokens, loss {progress.loss:.4f}, "
        f"{progress.seconds:.0f} s of one core"
    )


def _results() -> dict:
    return json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {"models": {}}


def _write(name: str, result: dict[str, object], split: text.Split) -> None:
    """Add one model's numbers; read first, because two processes may train at once."""
    results = {"text": described(split), "models": _results()["models"] | {name: result}}
    _write_json(RESULTS, results)
    _write_json(RECORD, record(results))


def _write_json(path: Path, content: object) -> None:
    words = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    replace_file(path, lambda draft: draft.write_text(words, encoding="utf-8"))


if __name__ == "__main__":
    main()
