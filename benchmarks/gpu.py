"""Responses, maps and statistics on a CUDA device, timed by the device's own events.

    python -m benchmarks.gpu [--only WORD]

Writes ``docs/gpu.json`` and ``docs/gpu.md``. The layers are those of ``python -m benchmarks``; a
method that a machine lacks, or that fails, is told and left out.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import dsf
from benchmarks import layers
from benchmarks.page import DOCS
from dsf import measures
from dsf.mixers import Mixer, SoftmaxAttention

Row = dict[str, Any]
ROUNDS, WARM = 10, 2
NO_CARD = "benchmarks.gpu: this machine has no CUDA device, so there is nothing to measure."


@dataclass(frozen=True)
class Case:
    """One piece of work: ours as a function of a system, and other ways to the same numbers."""

    system: Any
    work: Callable[[Any], Tensor]
    others: dict[str, Callable[[], Tensor]] = field(default_factory=dict)

    def exact(self) -> Tensor:
        """In double precision, by the plain path."""
        with kernels("0"):
            return self.work(dsf.systems.algebra.converted(self.system, dtype=torch.float64))


@contextmanager
def kernels(word: str):
    """With ``DSF_KERNELS`` set to a word: 0 is the plain path of torch."""
    before = os.environ.get("DSF_KERNELS")
    os.environ["DSF_KERNELS"] = word
    try:
        yield
    finally:
        del os.environ["DSF_KERNELS"]
        if before is not None:
            os.environ["DSF_KERNELS"] = before


@cache
def compiled_path() -> Callable[..., Tensor]:
    """The plain path through torch's compiler."""
    return torch.compile(partial(dsf.respond, method="chunkwise"))


def response(mixer: Mixer, device: str) -> Case:
    """A layer's response, beside torch.compile of the plain path."""
    mixer = mixer.to(device)
    system, signal = mixer.system(), mixer.signal()

    def work(any_system: Any) -> Tensor:
        return dsf.respond(any_system, signal.to(any_system.dtype)).squeeze(-2)

    others = {"torch.compile": lambda: compiled_path()(system, signal).squeeze(-2)}
    return Case(system, work, others)


def softmax(device: str, tokens: int, heads: int, width: int) -> Case:
    """Softmax attention beside torch's fused one called by hand."""
    query, key, value = (layers.normal(1, heads, tokens, width).to(device) for _ in range(3))
    mixer = SoftmaxAttention(query=query, key=key, value=value)
    signal = mixer.signal()

    def work(system: Any) -> Tensor:
        return dsf.respond(system, signal.to(system.dtype)).squeeze(-2)

    fused = partial(scaled_dot_product_attention, query, key, value, is_causal=True)
    return Case(mixer.system(), work, {"SDPA": fused})


def statistics(system: Any) -> Tensor:
    """Two measures of every row in one pass."""
    seen = measures.streamed(system, measures.row_entropy, measures.negative_share)
    return torch.cat([each.flatten() for each in seen.values])


def cases(device: str, *, share: int = 1) -> dict[str, Callable[[], Case]]:
    """Every case; ``share`` divides tokens and channels, to build and try them quickly."""

    def tokens(number: int) -> int:
        return number // share

    def of_layer(work: Callable[[Any], Tensor], mixer: Mixer) -> Case:
        return Case(mixer.to(device).system(), work)

    wide, few = 1536 // share, 64 // share
    return {
        "Mamba, 4096 tokens": lambda: response(layers.selective(tokens(4096), wide), device),
        "Mamba-2, 4096 tokens": lambda: response(layers.dual(tokens(4096)), device),
        "Mamba-2, 16384 tokens": lambda: response(layers.dual(tokens(16384)), device),
        "Gated delta rule, 8192 tokens": lambda: response(layers.gated_delta(tokens(8192)), device),
        "GLA, 2048 tokens": lambda: response(layers.gated_linear(tokens(2048)), device),
        "Softmax, 4096 tokens": lambda: softmax(device, tokens(4096), 16, 64),
        "Map of Mamba, 64 x 1024": lambda: of_layer(
            dsf.attention_map, layers.selective(tokens(1024), few)
        ),
        "Map of Mamba-2, 24 x 4096": lambda: of_layer(dsf.attention_map, layers.dual(tokens(4096))),
        "Statistics of Mamba-2, 24 x 4096": lambda: of_layer(statistics, layers.dual(tokens(4096))),
    }


def seconds(work: Callable[[], Any]) -> float:
    """The median between two events on the device, after turns that do not count."""
    taken = []
    for turn in range(ROUNDS + WARM):
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        work()
        ended.record()
        ended.synchronize()
        if turn >= WARM:
            taken.append(begun.elapsed_time(ended) / 1e3)
    return median(taken)


def apart(found: Tensor, exact: Tensor) -> float:
    """Relative error over all numbers."""
    return float((found.double().reshape_as(exact) - exact).norm() / exact.norm())


def rows(
    name: str, case: Case, *, clock: Callable[[Callable[[], Any]], float] = seconds
) -> list[Row]:
    """Every method of one case, ours first."""

    def plain() -> Tensor:
        with kernels("0"):
            return case.work(case.system)

    exact, made = case.exact(), []
    methods = {"dsf": lambda: case.work(case.system), "dsf, torch": plain, **case.others}
    for method, work in methods.items():
        try:
            error, taken = apart(work(), exact), clock(work)
        except Exception as fault:  # a peer that cannot do this case ends nothing
            print(f"{name:>34} {method:>16} failed: {type(fault).__name__}: {fault}"[:200])
            continue
        print(f"{name:>34} {method:>16} {taken * 1e3:9.3f} ms  error {error:.0e}", flush=True)
        made.append({"case": name, "method": method, "seconds": taken, "error": error})
    mine = made[0]["seconds"]
    return [{**row, "ratio": row["seconds"] / mine} for row in made]


def page(found: dict[str, Any]) -> str:
    """The record as a page."""
    lines = [
        "---",
        "orphan: true",
        "---",
        "",
        "# On a graphics card",
        "",
        "Written by `python -m benchmarks.gpu`; nothing here is typed by hand. Medians between two",
        "events of the device. *Ratio* is what a method takes over what dsf takes; *error* is",
        "against double precision.",
        "",
        f"Card: {found['card']}. torch {found['torch']}.",
        "",
        "| case | method | ms | ratio | error |",
        "|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        numbers = f"{row['seconds'] * 1e3:.4g} | {row['ratio']:.3g} | {row['error']:.0e}"
        lines.append(f"| {row['case']} | {row['method']} | {numbers} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Measure and write; 2 where there is no card."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--only", metavar="WORD", default="", help="cases with this in their names")
    asked = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print(NO_CARD, file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    card = torch.cuda.get_device_name(device)
    print(f"{card}, torch {torch.__version__}")
    found: dict[str, Any] = {"card": card, "torch": torch.__version__, "rows": []}
    for name, build in cases("cuda").items():
        if asked.only in name:
            found["rows"] += rows(name, build())
    if not asked.only:
        (DOCS / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (DOCS / "gpu.md").write_text(page(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
