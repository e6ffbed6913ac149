"""Whole models at the shapes of published checkpoints, beside their plain forward pass.

    python -m benchmarks.real_shapes [--threads N] [--tokens N,N] [SHAPE ...]

Random weights as the model library draws them. Every number is a multiple of the processor time
that the plain forward pass takes, in the same run, before and after.
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

import dsf
from benchmarks.least import mixers_in_float64
from benchmarks.limits import interleaved
from benchmarks.record import Row, row

TOKENS = (512, 2048)
WARM, FIRST = 400, 4  # tokens of the inspection that does not count, and its layers measured
SHAPES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "GPT-2 124M": ("GPT2LMHeadModel", {"n_positions": 2048}),
    "SmolLM2 135M": (
        "LlamaForCausalLM",
        {
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "tie_word_embeddings": True,
            "max_position_embeddings": 8192,
        },
    ),
    "Mamba 130M": (
        "MambaForCausalLM",
        {"vocab_size": 50280, "hidden_size": 768, "num_hidden_layers": 24, "state_size": 16},
    ),
    "Mamba-2 130M": (
        "Mamba2ForCausalLM",
        {
            "vocab_size": 50288,
            "hidden_size": 768,
            "num_hidden_layers": 24,
            "num_heads": 24,
            "head_dim": 64,
            "state_size": 128,
            "n_groups": 1,
        },
    ),
    "Qwen3-Next, 92M": (
        "Qwen3NextForCausalLM",
        {
            "vocab_size": 32000,
            "hidden_size": 640,
            "intermediate_size": 1792,
            "num_hidden_layers": 12,
            "num_attention_heads": 10,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "linear_num_key_heads": 5,
            "linear_num_value_heads": 10,
            "linear_key_head_dim": 64,
            "linear_value_head_dim": 128,
            "mlp_only_layers": list(range(12)),
            "tie_word_embeddings": True,
        },
    ),
}

SOFTMAX = ("GPT-2 124M", "SmolLM2 135M")
"""Shapes of which the library itself gives every map."""


def model_of(shape: str) -> nn.Module:
    """The model, with random weights."""
    return built(*SHAPES[shape])


def built(name: str, settings: Mapping[str, Any]) -> nn.Module:
    """A model of a class of the library, with random weights."""
    cls = getattr(transformers, name)
    torch.manual_seed(0)
    model: nn.Module = cls(cls.config_class(**settings)).eval()
    return model


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time in all threads, and what was returned."""
    begun = time.process_time()
    result = work()
    return time.process_time() - begun, result


def rows(shape: str, tokens: int = 512) -> list[Row]:
    """One shape: the inspection, what comes after it, and ways of the library."""
    model = model_of(shape)
    ids = torch.randint(0, 1000, (1, tokens), generator=torch.Generator().manual_seed(0))
    inspection = dsf.inspect(model, input_ids=ids, checks="none")

    def run(**more: Any) -> Any:
        with torch.no_grad():
            return model(input_ids=ids, use_cache=False, **more)

    mixers = [layer.name for layer in inspection]

    def attentions() -> None:
        before = model.config._attn_implementation
        model.set_attn_implementation("eager")
        run(output_attentions=True)
        model.set_attn_implementation(before)

    phases: dict[str, Callable[[], Any]] = {
        "dsf": lambda: dsf.inspect(model, input_ids=ids, checks="none"),
        "dsf, with checks": lambda: dsf.inspect(model, input_ids=ids),
        "library, the run alone": run,
        "library, mixers in float64": mixers_in_float64(model, mixers, run),
    }
    if all("channel" not in layer.axes for layer in inspection):
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "report.html"
            phases |= {
                "dsf, measures": inspection.measure,
                "dsf, report": lambda: dsf.show(inspection, page),
            }
            if shape in SOFTMAX:
                phases["library, output_attentions"] = attentions
            taken = interleaved(phases, rounds=1)
    else:
        taken = interleaved(phases, rounds=1)
    formula = max(layer.formula for layer in inspection)
    return [
        row(
            f"Real shape {shape}, {tokens} tokens",
            name,
            spent,
            taken["dsf"],
            formula if name == "dsf" else 0.0,
        )
        for name, spent in taken.items()
    ]


def compared(shape: str, tokens: int, *, long: bool = False) -> dict[str, Any]:
    """The multiples of one model at one length.

    Args:
        long: whether to measure and report where every channel has a map of its own, too.
    """
    model = model_of(shape)
    ids = torch.randint(0, 30000, (1, tokens), generator=torch.Generator().manual_seed(0))

    def run() -> Any:
        with torch.no_grad():
            return model(input_ids=ids, use_cache=False)

    short = dsf.inspect(model, input_ids=ids[:, :WARM])[:FIRST]  # compiles and imports
    short.measure()
    before, _ = seconds(run)
    taken, inspection = seconds(lambda: dsf.inspect(model, input_ids=ids))
    after, _ = seconds(run)
    plain = (before + after) / 2
    found: dict[str, Any] = {
        "seconds": plain,
        "inspect": taken / plain,
        "formula": max(layer.formula for layer in inspection),
        "rounding": max(layer.rounding for layer in inspection),
    }
    if long or all("channel" not in layer.axes for layer in inspection):
        found["measure"] = seconds(inspection.measure)[0] / plain
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "report.html"
            dsf.show(short, page)
            report = seconds(lambda: dsf.show(inspection, page))[0]
        found["report"] = report / plain
    gc.collect()
    return found


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_shapes")
    parser.add_argument("shapes", nargs="*", metavar="SHAPE", default=list(SHAPES))
    parser.add_argument("--threads", type=int, default=0, help="of torch; its own number if 0")
    parser.add_argument("--tokens", default=",".join(map(str, TOKENS)))
    parser.add_argument("--long", action="store_true", help="maps of single channels, too")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    threads = f"{torch.get_num_threads()} threads"
    for shape in asked.shapes:
        for tokens in map(int, asked.tokens.split(",")):
            found = compared(shape, tokens, long=asked.long)
            told = "  ".join(f"{name} {number:.3g}" for name, number in found.items())
            print(f"{shape}, {tokens} tokens, {threads}: {told}", flush=True)


if __name__ == "__main__":
    main()
