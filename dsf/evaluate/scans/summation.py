r"""Sums of systems that each scan the tokens in an order of their own.

    y = Σ_k P_kᵀ S_k(P_k u)        its map: Σ_k P_kᵀ Φ_k P_k        P_k: the order of scan k

Exact for any permutation, also where no single recurrence along the tokens has this map.
"""

from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate import respond
from dsf.evaluate.scans.orders import ScanOrder
from dsf.runtime.shapes import agree
from dsf.systems.algebra import adjoint, converted, select
from dsf.systems.composite import ExplicitMap, Operator, RowSource, StoredRows, SystemSum

Scan = tuple[Operator, ScanOrder]


def scanned(*scans: Scan) -> ExplicitMap:
    """The sum of systems that each scan the tokens in an order of their own, in token order.

    The response costs as much as the responses of the systems. Rows of the map are computed as
    responses of the adjoint systems, a block of rows at a time.

    Args:
        scans: pairs of a system, with its coefficients in scan order, and that scan order.

    Raises:
        ValueError: without a scan, or if a system has an initial state, whose response is not part
            of a map.
        ShapeError: if sizes differ, or a system has more than one port.

    Example:
        A state that halves, scanned both ways; the token itself is counted twice:

        >>> import dsf, torch
        >>> one = torch.ones(4, 1)
        >>> system = dsf.System.from_write_and_read(dsf.transition.Diagonal(one / 2), one, one)
        >>> forward, backward = ScanOrder.forward(4), ScanOrder.backward(4)
        >>> both = scanned((system, forward), (system, backward))
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
        agree(f"scanned (scan {k})", "time", written=system.steps, read=reads, order=order.steps)
        agree(f"scanned (scan {k})", "port", input=system.input_size, output=system.output_size,
              scanned=1)  # fmt: skip
        parts = system.parts if isinstance(system, SystemSum) else (system,)
        if any(part.initial is not None for part in parts):
            raise ValueError(
                f"scanned: the system of scan {k} has an initial state, whose response is not part "
                "of a map. Use dataclasses.replace(system, initial=None) and add that response "
                "separately."
            )
    for axis in ("batch", "steps"):
        agree("scanned", axis, **{f"scan {k}": getattr(s, axis) for k, (s, _) in enumerate(scans)})
    return ExplicitMap(ScannedRows(scans))


@dataclass(frozen=True)
class ScannedRows(RowSource):
    """Rows of the summed map of several scans."""

    scans: tuple[Scan, ...]

    @property
    def shape(self) -> torch.Size:
        system, order = self.scans[0]
        return torch.Size([*system.batch, order.steps, 1, order.steps])

    @property
    def dtype(self) -> torch.dtype:
        dtypes = [_response(system) for system, _ in self.scans]
        return reduce(torch.promote_types, dtypes)

    @property
    def device(self) -> torch.device:
        return self.scans[0][0].device

    def window(self, start: int, stop: int) -> Shaped[Tensor, "*batch time 1 read"]:
        """Row t of a system's map is the response of its adjoint to a unit signal at token t."""
        rows = []
        for system, order in self.scans:
            steps = order.met_at[start:stop].to(self.device)
            units = torch.zeros(
                order.steps, len(steps), dtype=_response(system), device=self.device
            )
            units[steps, torch.arange(len(steps), device=self.device)] = 1
            units = units.unsqueeze(-2).expand(*system.batch, -1, -1, -1)
            columns = respond(adjoint(system), units).squeeze(-2)
            rows.append(order.restored(columns, axis=-2).mT.unsqueeze(-2))
        return reduce(torch.add, rows)

    def apply(
        self, signal: Shaped[Tensor, "*batch read 1 channel"]
    ) -> Shaped[Tensor, "*batch time 1 channel"]:
        responses = (
            order.restored(respond(system, order.scanned(signal, axis=-3)), axis=-3)
            for system, order in self.scans
        )
        return reduce(torch.add, responses)

    def flipped(self) -> StoredRows:
        return StoredRows(self.dense().squeeze(-2).flip(-2))

    def to(
        self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> "ScannedRows":
        moved = ((converted(s, dtype=dtype, device=device), order) for s, order in self.scans)
        return replace(self, scans=tuple(moved))

    def picked(self, index: Any, batch: torch.Size) -> "ScannedRows":  # noqa: ARG002
        return replace(self, scans=tuple((select(s, index), order) for s, order in self.scans))


def _response(system: Operator) -> torch.dtype:
    """The number type of the response of a system to a real signal."""
    parts = system.parts if isinstance(system, SystemSum) else (system,)
    dtypes = (part.dtype.to_real() if part.takes_real_part else part.dtype for part in parts)
    return reduce(torch.promote_types, dtypes)
