"""Errors of every evaluator and of the compiled loops in single precision, where decays are hard.

    python -m benchmarks.accuracy     # writes docs/accuracy.md

The decays are drawn in single precision, and a loop in double precision takes those very numbers:
the error is that of the calculation alone, the norm of the difference over that of the response,
or of the rows of a map.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

import dsf
from benchmarks.hard_decays import REGIMES, STRUCTURES, drawn, exact, exact_rows
from dsf.evaluate.compiled import compiled
from dsf.evaluate.loops import modes_response

LENGTHS = (1024, 16384)
LIMIT = 1e-6
ROWS, FEW = 64, slice(0, 2)
COMPILED = ("scalar", "diagonal", "delta rule", "selective", "complex, unchanging")
COMPILED_MAPS = ("scalar", "diagonal", "selective")
PAGE = Path(__file__).resolve().parents[1] / "docs" / "accuracy.md"

Method = Callable[[dsf.System, Tensor], Tensor]


def _loops(system: dsf.System, signal: Tensor) -> Tensor:
    """The compiled loop, however small the work."""
    of_modes = modes_response(system, signal)
    if of_modes is not None:
        return of_modes
    with patch("dsf.evaluate.loops.FEW_COLUMNS", 1):
        found = compiled(system, signal)
    if found is None:
        raise RuntimeError("accuracy: no compiled loop applies; see dsf doctor.")
    return found[0]


def _by_rows(system: dsf.System, signal: Tensor) -> Tensor:
    """The response from the map, a block of rows at a time."""
    columns, blocks = signal.squeeze(-2).double(), dsf.evaluate.row_blocks(system, overwrites=True)
    return torch.cat([rows.weights.double() @ columns for rows in blocks], dim=-2).unsqueeze(-2)


RESPONSES: dict[str, Method] = {
    "recurrent": dsf.evaluate.recurrent,
    "scan": dsf.evaluate.scan,
    "chunkwise": dsf.evaluate.chunkwise,
    "chunkwise, one column": lambda system, signal: dsf.evaluate.chunkwise(system, signal[..., :1]),
    "convolution": dsf.evaluate.convolution,
    "compiled": _loops,
    "row blocks": _by_rows,
    "row blocks, compiled": _by_rows,
}
MAPS = ("map", "map, compiled")
METHODS = (*RESPONSES, *MAPS)


def applies(name: str, structure: str) -> bool:
    """Whether there is such a way for such systems."""
    if name == "convolution":
        return structure == "complex, unchanging"
    if name == "compiled":
        return structure in COMPILED
    return structure in COMPILED_MAPS or not name.endswith("compiled")


def errors(structure: str, regime: str, steps: int) -> Iterator[tuple[str, float]]:
    """Every method that applies and its relative error; nan if a number of its result is."""
    system, signal = drawn(structure, regime, steps)
    expected, few = exact(system, signal), dsf.systems.algebra.select(system, FEW)
    last = exact_rows(few, ROWS)
    for name in METHODS:
        if not applies(name, structure):
            continue
        worth = 0 if name.endswith("compiled") else 2**62
        with patch("dsf.systems.kernels.WORTH", worth):
            if name in MAPS:
                yield name, _distance(dsf.attention_map(few, rows=slice(-ROWS, None)), last)
            elif name.startswith("row blocks"):
                yield name, _distance(_by_rows(few, signal[FEW]), expected[FEW])
            else:
                response = RESPONSES[name](system, signal)
                yield name, _distance(response, expected[..., : response.shape[-1]])


def _distance(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def main() -> None:
    head = ["structure", "decays", "tokens", *METHODS]
    lines = [head, ["---"] * len(head)]
    torch.set_num_threads(1)  # loops of small operations
    for structure in STRUCTURES:
        for regime in REGIMES:
            for steps in LENGTHS:
                found = dict(errors(structure, regime, steps))
                shown = [f"{found[name]:.1e}" if name in found else "" for name in METHODS]
                lines.append([structure, regime, f"{steps:,}", *shown])
                print(*lines[-1], sep="  ", flush=True)
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    PAGE.write_text(TEXT.format(limit=LIMIT, rows=ROWS, table=table), encoding="utf-8")


TEXT = """---
orphan: true
---

# Accuracy in single precision

This page lists errors of every [evaluator](glossary.md#evaluator) in single precision, relative to
a loop in double precision over the same numbers. In the column *decays*, *slow* decays are
exp(-0.000001) on average, *violent* ones are exp(-50) at one token in twenty, and *exact zeros*
erase the state at one token in a hundred. In the time-invariant structure (*complex, unchanging*)
one mode in four has such a decay instead. Of maps the last {rows} rows are compared; row blocks are
multiplied with the signal, and all of the response is compared. The
page is written by `python -m benchmarks.accuracy`.

All errors are within {limit:.0e}. Two things are done in double precision for this: decays that are
computed from a step size (selective) wherever many of them are multiplied, and the state of
diagonal systems between windows. In single precision a decay close to one would lose 3e-8 at every
token.

{table}
"""

if __name__ == "__main__":
    main()
