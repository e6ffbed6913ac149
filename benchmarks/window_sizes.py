"""How long windows of 16 to 256 tokens take, and what a small model should think they cost.

    python -m benchmarks.window_sizes     # writes benchmarks/window_sizes.json

One thread, without compiled loops. Prints the constants of ``dsf.evaluate.windows`` that fit
this machine best, and what its own choice loses in every case. The file holds ratios to the best
size.
"""

import json
import os
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

import dsf
from benchmarks import layers
from benchmarks.layers import normal
from benchmarks.limits import interleaved
from dsf.evaluate.windows import PROCESSOR, SIZES, Costs, cost, window_size
from dsf.systems.kernels.availability import SWITCH
from dsf.systems.transition import Dense, Diagonal, DiagonalPlusLowRank, ScaledIdentity

RECORD = Path(__file__).with_suffix(".json")
ROUNDS = 7
Case = tuple[dsf.System, Tensor]


def cases() -> dict[str, Case]:
    """Systems that change with time, and are folded, not stepped through."""
    published = {
        "Mamba-2": layers.dual(4096),
        "gated delta rule": layers.gated_delta(2048),
        "GLA": layers.gated_linear(2048),
    }
    small = {"heads": 1, "states": 16, "columns": 16}
    many = small | {"heads": 64}
    middle = {"heads": 8, "states": 64, "columns": 64}
    return {
        **{name: (mixer.system(), mixer.signal()) for name, mixer in published.items()},
        "scalar, small": drawn("scalar", 512, **small),
        "scalar, small and long": drawn("scalar", 4096, **small),
        "scalar, many heads": drawn("scalar", 512, **many),
        "scalar": drawn("scalar", 1024, **middle),
        "scalar, wide": drawn("scalar", 1024, heads=8, states=256, columns=256),
        "diagonal, small": drawn("diagonal", 1024, **small),
        "diagonal, many heads": drawn("diagonal", 512, **many),
        "diagonal": drawn("diagonal", 1024, **middle),
        "delta rule, small": drawn("scalar delta", 1024, **small),
        "delta rule": drawn("scalar delta", 1024, **middle),
        "delta rule, diagonal": drawn("delta", 1024, **middle),
        "delta rule, rank 2": drawn("scalar delta", 1024, rank=2, **middle),
        "dense, small": drawn("dense", 1024, heads=8, states=16, columns=16),
        "dense": drawn("dense", 512, heads=2, states=64, columns=64),
    }


def drawn(
    structure: str, tokens: int, *, heads: int, states: int, columns: int, rank: int = 1
) -> Case:
    """Random parts; decays between 0.8 and 1."""
    size = (heads, tokens, states)
    decay = 1 - 0.2 * torch.rand(*size, generator=layers.RNG)
    keys = torch.nn.functional.normalize(normal(*size, rank), dim=-2)
    if "scalar" in structure:
        decay = decay[..., :1].expand(size)
    A = {
        "scalar": lambda: ScaledIdentity(decay[..., 0], states),
        "diagonal": lambda: Diagonal(decay),
        "scalar delta": lambda: DiagonalPlusLowRank(decay, -0.5 * keys, keys),
        "delta": lambda: DiagonalPlusLowRank(decay, -0.5 * keys, keys),
        "dense": lambda: Dense(0.9 * torch.linalg.qr(normal(*size, states))[0]),
    }[structure]()
    system = dsf.System.from_write_and_read(A, normal(*size), normal(*size))
    return system, normal(heads, tokens, 1, columns)


def measured(system: dsf.System, signal: Tensor) -> list[float]:
    """Seconds by size."""
    works = {
        str(size): partial(dsf.evaluate.chunkwise, system, signal, size=size) for size in SIZES
    }
    return list(interleaved(works, rounds=ROUNDS).values())


def fitted(taken: dict[str, list[float]], systems: dict[str, Case]) -> Costs:
    """The constants whose costs come closest to all times, each relative to itself."""
    units = [Costs(*unit, PROCESSOR.together) for unit in np.eye(3)]
    rows, times = [], []
    for name, seconds in taken.items():
        system, signal = systems[name]
        fixed = system.steps * system.batch.numel() * system.state_size  # whatever the size
        for size, each in zip(SIZES, seconds, strict=True):
            rows.append([*(_with(unit, system, signal, size) for unit in units), fixed])
            times.append(each * 1e9)
    shares = np.array(rows) / np.array(times)[:, None]
    found = nnls(shares, np.ones(len(times)))[0]
    return Costs(*found[:3], PROCESSOR.together)


def _with(costs: Costs, system: dsf.System, signal: Tensor, size: int) -> float:
    with patch("dsf.evaluate.windows.PROCESSOR", costs):
        return cost(system, signal.shape[-1], size)


def main() -> None:
    os.environ[SWITCH] = "0"
    torch.set_num_threads(1)
    systems = cases()
    taken: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {}
    for name, (system, signal) in systems.items():
        taken[name] = measured(system, signal)
        ratios[name] = [round(each / min(taken[name]), 2) for each in taken[name]]
        chosen = window_size(system, signal.shape[-1])
        loss = ratios[name][SIZES.index(chosen)]
        print(f"{name:>24} {ratios[name]}  chosen {chosen}: {loss:.2f}", flush=True)
    print(fitted(taken, systems))
    content = {"sizes": SIZES, "torch": torch.__version__, "ratios": ratios}
    RECORD.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
