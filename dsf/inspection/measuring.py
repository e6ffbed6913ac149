"""The quantities that an inspection measures on every map, and the table they make."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from dsf import measures
from dsf.composite import Operator
from dsf.evaluate import MapOrSystem, MapTooLarge
from dsf.inspection.table import Record, Table

Quantity = Callable[[Any], Tensor]
WINDOW = 8


@runtime_checkable
class Measurable(Protocol):
    """What is measured: anything with a map, a system, and names for its batch axes."""

    @property
    def name(self) -> str: ...
    @property
    def family(self) -> str: ...
    @property
    def axes(self) -> tuple[str, ...]: ...
    @property
    def system(self) -> Operator: ...
    def map(self) -> Tensor: ...


def _row_mean(measure: Callable[[Any], Tensor]) -> Quantity:
    def mean(map_or_system: MapOrSystem) -> Tensor:
        return measure(map_or_system).nanmean(dim=-1)

    return mean


def _near(map_or_system: MapOrSystem) -> Tensor:
    return measures.window_mass(map_or_system, width=WINDOW)


def _middle_rank(map_or_system: Any) -> Tensor:
    is_map = isinstance(map_or_system, Tensor)
    steps = map_or_system.shape[-1] if is_map else map_or_system.steps
    if steps < 2:
        return torch.zeros(map_or_system.shape[:-2] if is_map else map_or_system.batch)
    return measures.hankel_ranks(map_or_system, positions=[(steps - 1) // 2]).squeeze(-1)


QUANTITIES: Mapping[str, Quantity] = {
    "mean_row_sum": _row_mean(measures.row_sums),
    "row_sum_spread": measures.row_sum_spread,
    "negative_share": measures.negative_share,
    "smallest_entry": measures.smallest_entry,
    "mean_convexity_defect": _row_mean(measures.convexity_defect),
    f"mean_window_mass_{WINDOW}": _row_mean(_near),
    "mean_distance": _row_mean(measures.mean_distance),
    "half_life": measures.half_life,
    "mean_effective_tokens": _row_mean(measures.effective_tokens),
    "mean_uniform_share": _row_mean(measures.uniform_share),
    "sink_mass": measures.sink_mass,
    "absolute_gain": measures.absolute_gain,
    "largest_ahead": measures.largest_ahead,
    "middle_hankel_rank": _middle_rank,
}


def measured(
    layers: Iterable[Measurable], quantities: Mapping[str, Quantity] = QUANTITIES
) -> Table:
    """One record for every layer, batch index and quantity."""
    records: list[Record] = []
    for layer in layers:
        source = _source(layer)
        for name, quantity in quantities.items():
            records += _records(layer, name, quantity, source)
    return Table(tuple(records))


def _source(layer: Measurable) -> Any:
    """The whole map where it fits, the system otherwise: every measure takes both."""
    try:
        return layer.map()
    except MapTooLarge:
        return layer.system


def _records(layer: Measurable, name: str, quantity: Quantity, source: Any) -> list[Record]:
    if isinstance(source, Tensor) and source.shape[-1] != source.shape[-2]:
        source = layer.system
    try:
        values = quantity(source)
    except ValueError as error:  # no meaning for this map, such as the order of a map with NaN
        unmeasured = {"quantity": name, "value": math.nan, "note": str(error)}
        return [{"layer": layer.name, "family": layer.family, **unmeasured}]
    found = []
    for index in _indices(values):
        number = values[index].item()
        record: Record = {"layer": layer.name, "family": layer.family}
        record.update(zip(layer.axes, index, strict=False))
        record.update(quantity=name, value=number if isinstance(number, int) else float(number))
        found.append(record)
    return found


def _indices(values: Tensor) -> list[tuple[int, ...]]:
    sizes = values.shape
    return [
        tuple(int(k) for k in torch.unravel_index(torch.tensor(flat), sizes)) if sizes else ()
        for flat in range(math.prod(sizes))
    ]
