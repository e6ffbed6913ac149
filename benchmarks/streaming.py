"""Measures of maps that never fit: a layer the shape of Mamba-2 (24 heads, 128 states).

    python benchmarks/streaming.py [--tokens 32768] [--long 1000000]

Folds over blocks of rows at ``--tokens`` (quadratic work, linear memory), and what is linear in the
map by the recurrence at ``--long`` (linear work). Prints seconds and the peak memory of the
process, and writes ``benchmarks/streaming.json``.
"""

import argparse
import json
import resource
import time
from functools import partial
from pathlib import Path

import torch

from dsf import measures
from dsf.mixers import StateSpaceDuality

HEADS, STATES, WINDOW = 24, 128, 64
FOLDS = {
    "negative_mass": measures.negative_mass,
    "window_mass": partial(measures.window_mass, width=WINDOW),
    "mean_distance": measures.mean_distance,
    "row_entropy": measures.row_entropy,
    "sink_rate": measures.sink_rate,
}


def layer(tokens: int) -> StateSpaceDuality:
    """Random coefficients with decays like those of trained layers: half-lives of 2 to 5000."""
    rng = torch.Generator().manual_seed(0)
    half_life = torch.logspace(0.3, 3.7, HEADS)
    return StateSpaceDuality(
        value=torch.zeros(()).expand(HEADS, tokens, 1),
        step=0.5 + torch.rand(HEADS, tokens, generator=rng),
        pole=-torch.log(torch.tensor(2.0)) / half_life,
        write=torch.randn(1, tokens, STATES, generator=rng) * STATES**-0.5,
        read=torch.randn(1, tokens, STATES, generator=rng) * STATES**-0.5,
    )


def peak() -> float:
    """Peak memory of the process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def timed(name: str, work, system) -> dict:
    begun = time.perf_counter()
    value = work(system)
    seconds = time.perf_counter() - begun
    assert value.isfinite().all()
    found = {"measure": name, "tokens": system.steps, "seconds": seconds, "peak_gb": peak()}
    print(
        "{measure:>16} {tokens:>9} tokens {seconds:8.1f} s  peak {peak_gb:.2f} GB".format(**found)
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--long", type=int, default=1_000_000)
    asked = parser.parse_args()
    print(f"{'at the start':>16} {'':>16} {'':>10}  peak {peak():.2f} GB")
    system = layer(asked.tokens).system()
    rows = [timed("row_sums", measures.row_sums, system)]
    rows += [timed(name, work, system) for name, work in FOLDS.items()]
    system = layer(asked.long).system()
    window_sums = partial(measures.window_sums, width=WINDOW)
    rows += [timed("row_sums", measures.row_sums, system)]
    rows += [timed("window_sums", window_sums, system)]
    shape = {"heads": HEADS, "states": STATES, "window": WINDOW, "torch": torch.__version__}
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps({**shape, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
