"""Errors of every evaluator and of the compiled loops in single precision, where decays are hard.

    python -m benchmarks.accuracy     # writes docs/accuracy.md

The decays are drawn in single precision, and a loop in double precision takes those very numbers:
the error is that of the calculation alone, the norm of the difference over that of the response.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

import dsf
from dsf.coefficient import SampledWrite
from dsf.evaluate.compiled import compiled
from dsf.transition import Diagonal, DiagonalPlusLowRank, SampledDiagonal, ScaledIdentity

STATES, COLUMNS = 4, 66
LENGTHS = (1024, 16384)
LIMIT = 1e-6
PAGE = Path(__file__).resolve().parents[1] / "docs" / "accuracy.md"

REGIMES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ordinary": lambda decay, _: decay,
    "slow": lambda decay, _: torch.full_like(decay, -1e-6),
    "violent": lambda decay, chance: torch.where(chance < 0.05, -50.0, decay),
    "exact zeros": lambda decay, chance: torch.where(chance < 0.01, -1e4, decay),
}
STRUCTURES = ("scalar", "diagonal", "delta rule", "selective")


def _loops(system: dsf.System, signal: Tensor) -> Tensor:
    """The compiled loop, however small the work."""
    with (
        patch("dsf.kernels.availability.WORTH", 0),
        patch("dsf.evaluate.memories.FEW_COLUMNS", 1),
    ):
        found = compiled(system, signal)
    if found is None:
        raise RuntimeError("accuracy: no compiled loop applies; see dsf doctor.")
    return found[0]


METHODS: dict[str, Callable[[dsf.System, Tensor], Tensor]] = {
    "recurrent": dsf.recurrent,
    "scan": dsf.scan,
    "chunkwise": dsf.chunkwise,
    "chunkwise, one column": lambda system, signal: dsf.chunkwise(system, signal[..., :1]),
    "compiled": _loops,
}


def limit_of(structure: str, regime: str, method: str, steps: int) -> float:
    """The largest error allowed; see the page for the one case above ``LIMIT``."""
    rounded = structure == "selective" and regime == "slow" and method != "compiled"
    return steps * 2.0**-24 if rounded else LIMIT


def drawn(structure: str, regime: str, steps: int) -> tuple[dsf.System, Tensor]:
    """A system in single precision with decays of one regime, and a signal for it."""
    rng = torch.Generator().manual_seed(12)
    wide = {"diagonal": (1, steps, STATES), "selective": (COLUMNS, steps)}
    size = wide.get(structure, (1, steps))
    logs = REGIMES[regime](-torch.rand(size, generator=rng), torch.rand(size, generator=rng))
    write, read = torch.randn(2, 1, steps, STATES, generator=rng)
    if structure == "selective":
        write, read = (part.expand(COLUMNS, steps, STATES) for part in (write, read))
        A: Any = SampledDiagonal(-logs, -torch.linspace(0.5, 2, STATES).expand(COLUMNS, STATES))
        system = dsf.System(A, SampledWrite(-logs, write), read.unsqueeze(-2), None)
        return system, torch.randn(COLUMNS, steps, 1, 1, generator=rng)
    decay = logs.exp()
    if structure == "scalar":
        A = ScaledIdentity(decay, STATES)
    elif structure == "diagonal":
        A = Diagonal(decay)
    else:
        write = torch.nn.functional.normalize(write, dim=-1)
        erase = (decay * (0.2 + 1.6 * torch.rand(1, steps, generator=rng))).unsqueeze(-1) * write
        spread = decay.unsqueeze(-1).expand(1, steps, STATES)
        A = DiagonalPlusLowRank(spread, -write.unsqueeze(-1), erase.unsqueeze(-1))
    system = dsf.System.from_write_and_read(A, write, read)
    return system, torch.randn(1, steps, 1, COLUMNS, generator=rng)


def exact(system: dsf.System, signal: Tensor) -> Any:
    """The equations, token after token in double precision: ``head time column``."""
    A, C = system.A, system.C.squeeze(-2).double().numpy()
    if isinstance(A, SampledDiagonal):
        step = A.step.double()[..., None]
        decays, B = (step * A.pole.double()[:, None]).exp(), step * system.B.write.double()
    else:
        decays, B = A.decay.double().reshape(1, system.steps, -1), system.B.squeeze(-1).double()
    F, B, u = decays.numpy(), B.numpy(), signal.squeeze(-2).double().numpy()
    low = (A.left, A.right) if isinstance(A, DiagonalPlusLowRank) else ()
    pair = [part[..., 0].double().numpy() for part in low]
    state, out = np.zeros((len(u), STATES, u.shape[-1])), np.empty_like(u)
    for t in range(u.shape[1]):
        moved = F[:, t, :, None] * state
        if pair:
            moved += pair[0][:, t, :, None] * (pair[1][:, t, None] @ state)
        state = moved + B[:, t, :, None] * u[:, t, None]
        out[:, t] = (C[:, t, None] @ state)[:, 0]
    return out


def errors(structure: str, regime: str, steps: int) -> Iterator[tuple[str, float]]:
    """Every method and its relative error; nan if a number of the response is."""
    system, signal = drawn(structure, regime, steps)
    expected = exact(system, signal)
    for name, method in METHODS.items():
        response = method(system, signal).squeeze(-2).double().numpy()
        known = expected[..., : response.shape[-1]]
        yield name, float(np.linalg.norm(response - known) / np.linalg.norm(known))


def main() -> None:
    head = ["structure", "decays", "tokens", *METHODS]
    lines = [head, ["---"] * len(head)]
    for structure in STRUCTURES:
        for regime in REGIMES:
            for steps in LENGTHS:
                found = [f"{error:.1e}" for _, error in errors(structure, regime, steps)]
                lines.append([structure, regime, f"{steps:,}", *found])
                print(*lines[-1], sep="  ", flush=True)
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    PAGE.write_text(TEXT.format(limit=LIMIT, table=table), encoding="utf-8")


TEXT = """---
orphan: true
---

# Accuracy

Relative errors in single precision against a loop in double precision over the same numbers. Slow
decays are exp(-0.000001) at every token, violent ones exp(-50) at one token in twenty, exact zeros
forget everything at one in a hundred. Written by `python -m benchmarks.accuracy`.

All are within {limit:.0e} but one: where a selective state space hardly forgets, the plain
evaluators write its decay out in single precision, which loses up to 6e-8 at every token that is
remembered. The compiled loop takes the decay less one and loses nothing; without it, convert the
system to double precision.

{table}
"""

if __name__ == "__main__":
    main()
