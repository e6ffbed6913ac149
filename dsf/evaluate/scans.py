"""Scans in other orders than that of the tokens, such as both directions.

A sum of systems that each scan the tokens in an order of their own,

    y = Σ_k P_kᵀ S_k(P_k u)        its map: Σ_k P_kᵀ Φ_k P_k        P_k: the order of scan k

is exact for any permutation, also where no single recurrence along the tokens has this map.
"""

from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from dsf.evaluate.chunks import respond
from dsf.runtime.shapes import agree
from dsf.systems import composite
from dsf.systems.algebra import adjoint, converted, select

__all__ = ["scanned"]

Order = Int[Tensor, " time"]
"""The token that a scan visits at each of its steps."""
Scan = tuple[composite.Operator, Order]


def in_scan_order(part: Shaped[Tensor, "*axes"], order: Order, axis: int) -> Tensor:
    return part.index_select(axis, order.to(part.device))


def in_token_order(part: Shaped[Tensor, "*axes"], order: Order, axis: int) -> Tensor:
    return part.index_select(axis, order.argsort().to(part.device))


def scanned(*scans: Scan) -> composite.ExplicitMap:
    """The sum of systems that each scan the tokens in an order of their own, in token order.

    The response costs as much as the responses of the systems. Rows of the map are computed as
    responses of the adjoint systems, a block of rows at a time.

    Args:
        scans: pairs of a system, with its coefficients in scan order, and that scan order: the
            token that is visited at each step, any permutation.

    Raises:
        ValueError: without a scan, if an order visits a token twice or not at all, or if a system
            has an initial state, whose response is not part of a map.
        ShapeError: if sizes differ, or a system has more than one port.

    Example:
        A state that halves, scanned both ways; the token itself is counted twice:

        >>> import dsf, torch
        >>> from dsf.systems import transition
        >>> one = torch.ones(4, 1)
        >>> system = dsf.System.from_write_and_read(transition.Diagonal(one / 2), one, one)
        >>> forward = torch.arange(4)
        >>> both = scanned((system, forward), (system, forward.flip(0)))
        >>> dsf.attention_map(both)
        tensor([[2.0000, 0.5000, 0.2500, 0.1250],
                [0.5000, 2.0000, 0.5000, 0.2500],
                [0.2500, 0.5000, 2.0000, 0.5000],
                [0.1250, 0.2500, 0.5000, 2.0000]])
        >>> dsf.respond(both, torch.ones(4, 1, 1)).flatten()
        tensor([2.8750, 3.2500, 3.2500, 2.8750])
    """
    if not scans:
        raise ValueError("scanned: needs at least one system with its order, but it got none.")
    for k, (system, order) in enumerate(scans):
        reads = getattr(system, "read_steps", system.steps)
        agree(f"scanned (scan {k})", "time", written=system.steps, read=reads, order=len(order))
        agree(f"scanned (scan {k})", "port", input=system.input_size, output=system.output_size,
              scanned=1)  # fmt: skip
        visited = order.sort().values.tolist()
        if visited != list(range(len(order))):
            raise ValueError(
                f"scanned: the order of scan {k} must visit each of the tokens 0 to "
                f"{len(order) - 1} once, but sorted its visits are {visited[:20]}."
            )
        if any(part.initial is not None for part in composite.parts_of(system)):
            raise ValueError(
                f"scanned: the system of scan {k} has an initial state, whose response is not part "
                "of a map. Use dataclasses.replace(system, initial=None) and add that response "
                "separately."
            )
    for axis in ("batch", "steps"):
        agree("scanned", axis, **{f"scan {k}": getattr(s, axis) for k, (s, _) in enumerate(scans)})
    return composite.ExplicitMap(ScannedRows(scans))


@dataclass(frozen=True, eq=False)
class ScannedRows(composite.RowSource):
    """Rows of the summed map of several scans."""

    scans: tuple[Scan, ...]

    @property
    def shape(self) -> torch.Size:
        system, order = self.scans[0]
        return torch.Size([*system.batch, len(order), 1, len(order)])

    @property
    def dtype(self) -> torch.dtype:
        dtypes = [composite.response_dtype(system) for system, _ in self.scans]
        return reduce(torch.promote_types, dtypes)

    @property
    def device(self) -> torch.device:
        return self.scans[0][0].device

    def window(self, start: int, stop: int) -> Shaped[Tensor, "*batch time 1 read"]:
        """Row t of a system's map is the response of its adjoint to a unit signal at token t."""
        rows = []
        for system, order in self.scans:
            steps = order.argsort()[start:stop].to(self.device)
            units = torch.zeros(
                len(order), len(steps), dtype=composite.response_dtype(system), device=self.device
            )
            units[steps, torch.arange(len(steps), device=self.device)] = 1
            units = units.unsqueeze(-2).expand(*system.batch, -1, -1, -1)
            columns = respond(adjoint(system), units).squeeze(-2)
            rows.append(in_token_order(columns, order, -2).mT.unsqueeze(-2))
        return reduce(torch.add, rows)

    def apply(self, signal: composite.Values) -> composite.Mixed:
        responses = (
            in_token_order(respond(system, in_scan_order(signal, order, -3)), order, -3)
            for system, order in self.scans
        )
        return reduce(torch.add, responses)

    def to(
        self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> "ScannedRows":
        moved = ((converted(s, dtype=dtype, device=device), order) for s, order in self.scans)
        return replace(self, scans=tuple(moved))

    def picked(self, index: Any, batch: torch.Size) -> "ScannedRows":  # noqa: ARG002
        return replace(self, scans=tuple((select(s, index), order) for s, order in self.scans))
