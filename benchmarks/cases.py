"""The cases of the benchmarks by name, each measured in a process of its own."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import torch

from benchmarks import (
    evaluation,
    fixed,
    further_loops,
    lens,
    maps,
    models,
    real_shapes,
    row_statistics,
    wide,
)
from benchmarks.record import Row

CASES: dict[str, Callable[[], list[Row]]] = {
    "Mamba, 1024": lambda: evaluation.selective(1024),
    "Mamba, 4096": lambda: evaluation.selective(4096),
    "Mamba-2, 4096": lambda: evaluation.dual(4096),
    "Mamba-2, 16384": lambda: evaluation.dual(16384),
    "gated delta rule, 2048": lambda: evaluation.gated_delta(2048),
    "gated delta rule, 8192": lambda: evaluation.gated_delta(8192),
    "gated linear attention": lambda: evaluation.gated_linear(2048),
    "RWKV-7": lambda: further_loops.rwkv7(2048) + further_loops.rwkv7(8192),
    "S4": lambda: further_loops.s4(2048) + further_loops.s4(8192),
    "S5": lambda: further_loops.s5(2048) + further_loops.s5(8192),
    "LRU": lambda: further_loops.lru(2048) + further_loops.lru(8192),
    "time-invariant": lambda: fixed.invariant(16384),
    "wide scan, 1024": lambda: wide.wide(1024),
    "wide scan, 4096": lambda: wide.wide(4096),
    "maps of Mamba": maps.selective_maps,
    "maps of Mamba-2": maps.duality_maps,
    "statistics": row_statistics.at_4096,
    "statistics of softmax": lambda: row_statistics.softmax(4096),
    "long statistics": lambda: [
        row_statistics.long(tokens) for tokens in (16_384, 102_400, 1_024_000)
    ],
    "inspection": models.inspected,
    "TransformerLens": lens.rows,
    **{f"real shape {name}": partial(real_shapes.rows, name) for name in real_shapes.SHAPES},
}


def in_its_process(name: str) -> list[Row]:
    """The rows of a case. Where a process holds several GB, new memory comes many times slower."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_rows, name).result()


def _rows(name: str) -> list[Row]:
    torch.set_num_threads(1)
    return CASES[name]()
