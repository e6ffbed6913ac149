"""What a layer keeps of the past, measured for every drawn map; left out where it takes long."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor

from dsf import measures
from dsf.composite import ExplicitMap, Operator, SystemSum
from dsf.evaluate.cache import kept_rows
from dsf.report.selection import Selection
from dsf.system import System

MOST_WORK = 2**28
"""Multiplications, about: maps times tokens times the cube of the states."""

MOST_CELLS = 2**23
"""Of all drawn maps of a layer, for the mean weight by lag."""

LONGEST = 512
POINTS = 64
QUARTERS = (1 / 4, 1 / 2, 3 / 4)


def states_of(drawn: Selection, *, finite: bool) -> list[dict[str, Any]]:
    """For every drawn map its Hankel spectrum, decay and memory, as far as they have a meaning.

    ``hankel`` holds ``[token, singular values]`` after a quarter, a half and three quarters of the
    tokens; ``exponents`` the growth of each direction in nats per token; ``left`` what remains of
    the largest unit state, and ``horizon`` the tokens until that is one half; ``lags`` the mean
    absolute weight by lag. ``states`` is the number of states, None where every token is kept.

    Args:
        finite: whether every weight is; nothing is measured otherwise.
    """
    system, maps = drawn.system, len(drawn.labels)
    keeps_all = not isinstance(system, System) or kept_rows(system) is not None
    found: list[dict[str, Any]] = [
        {"states": None if keeps_all else getattr(system, "state_size", None)} for _ in range(maps)
    ]
    if not finite or system.steps < 2 or _rectangular(system):
        return found
    _add_lags(found, system)
    if _runs_forward(system) and _work(system, maps, keeps_all=keeps_all) <= MOST_WORK:
        _add_hankel(found, system)
        if isinstance(system, System) and not keeps_all and system.state_size:
            _add_decay(found, system)
    return found


def _rectangular(system: Operator) -> bool:
    return isinstance(system, ExplicitMap) and system.read_steps != system.steps


def _runs_forward(system: Operator) -> bool:
    """Whether every state, where there is one, runs from the first token to the last."""
    parts = system.parts if isinstance(system, SystemSum) else (system,)
    return not any(getattr(part, "runs_backward", False) for part in parts)


def _work(system: Operator, maps: int, *, keeps_all: bool) -> int:
    """About how many multiplications the measures of the state take."""
    if system.steps > LONGEST:
        return MOST_WORK + 1
    if keeps_all or not isinstance(system, System):
        return 4 * maps * system.steps**3  # a decomposition takes several products
    return maps * system.steps * system.state_size**3


def _add_lags(found: list[dict[str, Any]], system: Operator) -> None:
    if len(found) * system.steps**2 > MOST_CELLS:
        return
    at = _points(system.steps)
    mass = _by_map(measures.mass_by_lag, system)
    for facts, curve in zip(found, mass, strict=True):
        facts["lags"] = [at.tolist(), _short(curve[at])]


def _add_hankel(found: list[dict[str, Any]], system: Operator) -> None:
    positions = sorted({int(share * (system.steps - 1)) for share in QUARTERS})
    values = _by_map(measures.hankel_singular_values, system, positions=positions)
    for facts, blocks in zip(found, values, strict=True):
        facts["hankel"] = [
            [token, _short(block[:POINTS])] for token, block in zip(positions, blocks, strict=True)
        ]


def _add_decay(found: list[dict[str, Any]], system: System) -> None:
    at = _points(system.steps)
    exponents = _by_map(measures.lyapunov_exponents, system)
    norms = _by_map(measures.product_norms, system)
    horizon = _by_map(measures.memory_horizon, system)
    for k, facts in enumerate(found):
        facts["exponents"] = _short(exponents[k][:POINTS])
        facts["left"] = [(at + 1).tolist(), _short(norms[k][at])]
        facts["horizon"] = int(horizon[k])


def _points(count: int) -> Int[np.ndarray, " points"]:
    """Some of the places 0 ... count - 1, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, POINTS)).round().astype(int))


def _by_map(measure: Callable[..., Tensor], system: Operator, **options: Any) -> np.ndarray:
    """What a measure says of every map; a system of one map may have no batch axis."""
    values = measure(system, **options)
    return (values if system.batch else values[None]).numpy(force=True)


def _short(numbers: np.ndarray) -> list[float | None]:
    """Four digits of each; None for what is not finite."""
    return [float(f"{each:.4g}") if np.isfinite(each) else None for each in numbers]
