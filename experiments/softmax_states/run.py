"""How many states does softmax attention take, and how many do its approximations use?

    python -m experiments.softmax_states.run

Run from the repository; writes ``results.json``, ``figure.png`` and the table of ``README.md``.
"""

import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import process_time
from typing import Any

import torch

from dsf.evaluate import attention_map
from experiments.softmax_states.approximations import (
    least_errors,
    random_feature_errors,
    reduced_errors,
    series_errors,
)
from experiments.softmax_states.figure import draw
from experiments.softmax_states.heads import Group, groups, trained
from experiments.softmax_states.table import pair_table, put_into, table
from experiments.training.sweep import write_json

FOLDER = Path(__file__).parent
STATES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32, 40, 48, 56, 64)
ORDERS = range(41)
WIDTHS = (1, 4, 16, 64, 256, 1024, 4096)
DRAWS = 5
MOST = 10**8
"""States beyond which an order of the series is not looked at."""

PAIRS = range(2, 8)
PROMPTS = 8

Curve = dict[str, list[Any]]


def main() -> None:
    """Compute, write, draw."""
    torch.set_num_threads(1)
    started = process_time()
    found = {group.name: measured(group) for group in groups()}
    by_pairs = {pairs: last_layer(pairs) for pairs in PAIRS}
    seconds = round(process_time() - started, 1)
    write_json(
        FOLDER / "results.json",
        {
            "groups": found,
            "by_pairs": by_pairs,
            "processor_seconds": seconds,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    )
    draw(found, FOLDER / "figure.png")
    tables = f"{table(found)}\n\n{pair_table(by_pairs)}\n\n{seconds} seconds of one core."
    put_into(FOLDER / "README.md", tables)
    print(tables)


def measured(
    group: Group,
    *,
    states: Sequence[int] = STATES,
    orders: Sequence[int] = ORDERS,
    widths: Sequence[int] = WIDTHS,
    draws: int = DRAWS,
) -> Mapping[str, Any]:
    """Errors of every approximation against its number of states, one list a head."""
    map = attention_map(group.heads.system())
    tokens, key = map.shape[-1], group.heads.key.shape[-1]
    few = [n for n in states if n < tokens // 2]
    series = {order: math.comb(key + order, order) for order in orders}
    orders = [order for order in orders if series[order] <= MOST]
    return {
        "tokens": tokens,
        "key_width": key,
        "maps": len(map),
        "at_least": _curve(few, least_errors(map, few)),
        "reduced": _curve(few, reduced_errors(map, few)),
        "series": _curve([series[order] for order in orders], series_errors(group.heads, orders)),
        "random_features": _curve(widths, random_feature_errors(group.heads, widths, draws=draws)),
    }


def last_layer(pairs: int) -> Curve:
    """Least errors in the second layer of the trained model on prompts with so many pairs."""
    map = attention_map(trained(PROMPTS, pairs=pairs)[-1].heads.system())
    few = range(1, max(PAIRS) + 2)
    return _curve(few, least_errors(map, few))


def _curve(states: Sequence[int], errors: torch.Tensor) -> Curve:
    return {"states": list(states), "errors": errors.tolist()}


if __name__ == "__main__":
    main()
