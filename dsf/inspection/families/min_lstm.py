"""Reads minLSTM, which has no class of its own in the model library: by its parameters alone.

forget = σ(W_f h)      input = σ(W_i h)      value = candidate(W_h h)      output = to_out(scan)

The candidate is one of those of minGRU. Both gates may be divided by their sum. Some write one
projection for all three, in one of two orders.

Source: Feng et al. 2024, arXiv:2410.01201, sections 3.2 and B.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.families import min_gru
from dsf.inspection.families.structure import Settings, Sizes, Structure
from dsf.mixers import MinLSTM

ORDERS = ("hidden forget input", "forget input hidden")


def read(layer: Captured) -> MinLSTM:
    """The recurrence this layer ran."""
    x, module = layer.arguments["x"], layer.module
    if "to_hidden_and_f_i_gate.weight" in layer.weights:
        parts = layer.project("to_hidden_and_f_i_gate", x).chunk(3, dim=-1)
        named = dict(zip(module.order.split(), parts, strict=True))
    else:
        named = {
            "hidden": layer.project("linear_h", x),
            "forget": layer.project("linear_f", x),
            "input": layer.project("linear_i", x),
        }
    return MinLSTM(
        value=min_gru.CANDIDATES[module.candidate](named["hidden"]),
        forget=named["forget"].sigmoid(),
        input=named["input"].sigmoid(),
        normalised=module.is_normalised,
    )


def _settings(_module: Any, _sizes: Sizes) -> Iterator[Settings]:
    for candidate, order, normalised in product(min_gru.CANDIDATES, ORDERS, (True, False)):
        yield {"candidate": candidate, "order": order, "is_normalised": normalised}


def _settings_of_three(module: Any, sizes: Sizes) -> Iterator[Settings]:
    yield from (each for each in _settings(module, sizes) if each["order"] == ORDERS[0])


ADAPTER = Adapter(
    families={}, read=read, leave=min_gru.leave, takes="x", axes=("sample", "channel")
)
STRUCTURES = (
    Structure(
        "minLSTM",
        "min_lstm",
        ADAPTER,
        {"to_hidden_and_f_i_gate.weight": "inner+inner+inner model"},
        _settings,
        called={"to_hidden_and_f_i_gate": ("to_hidden_and_gates", "to_hidden_and_gate")},
    ),
    Structure(
        "minLSTM",
        "min_lstm",
        ADAPTER,
        {
            "linear_f.weight": "inner model",
            "linear_i.weight": "inner model",
            "linear_h.weight": "inner model",
        },
        _settings_of_three,
        called={
            "linear_f": ("to_f", "W_f", "forget_gate"),
            "linear_i": ("to_i", "W_i", "input_gate"),
            "linear_h": ("to_h", "W_h", "candidate"),
        },
    ),
)
