"""Attention caches: systems that store every token in a state, so the map is the rows of C."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.systems.coefficient import Coefficient, TokenSlots, dense_of
from dsf.systems.composite import PANEL, ExplicitMap, Mixed, Operator, RowSource, Values
from dsf.systems.system import System
from dsf.systems.transition import ScaledIdentity


def kept_rows(system: System) -> RowSource | None:
    """The rows of C if the system is an attention cache without decay, else None."""
    if not (isinstance(system.B, TokenSlots) and isinstance(system.C, RowSource)):
        return None
    if not isinstance(system.A, ScaledIdentity) or isinstance(system.feedthrough, Coefficient):
        return None
    tokens = torch.arange(system.steps, device=system.device)
    in_order = system.B.slots == system.steps and torch.equal(system.B.tokens, tokens)
    return system.C if in_order and bool((system.A.decay == 1).all()) else None


def whole_rows(system: Operator) -> RowSource | None:
    """The row source whose rows are exactly the rows of the map; None where there is none."""
    if isinstance(system, ExplicitMap):
        return system.rows
    if not isinstance(system, System):
        return None
    rows = kept_rows(system)
    if rows is None or not _reads_only_stored_tokens(system, rows) or _feeds_through(system):
        return None
    return rows


def kept_window(
    system: System, rows: RowSource, start: int, stop: int
) -> Shaped[Tensor, "*batch time read"]:
    """Rows of the map: the rows of C where the key is already in the cache, plus D."""
    weights = rows.window(start, stop).squeeze(-2)
    only_stored, through = _reads_only_stored_tokens(system, rows), _feeds_through(system)
    if only_stored and not through:
        return weights
    written = torch.arange(start, stop, device=rows.device)
    lag = written[:, None] - torch.arange(rows.shape[-1], device=rows.device)
    if not only_stored:
        back = -lag if system.runs_backward else lag
        weights = torch.where(back > 0 if system.reads_before_update else back >= 0, weights, 0)
    if through:
        weights = weights + torch.where(lag == 0, system.feedthrough[..., start:stop, 0, :], 0)
    return weights


def kept_response(system: System, rows: RowSource, signal: Mixed) -> Mixed:
    """The response of a cache without initial state; a panel of rows at a time where not causal."""
    if whole_rows(system) is not None:
        return applied(rows, signal)
    value = signal.squeeze(-2)
    panels = []
    for start in range(0, system.steps, PANEL):
        weights = kept_window(system, rows, start, min(start + PANEL, system.steps))
        dtype = torch.promote_types(weights.dtype, value.dtype)
        panels.append(weights.to(dtype) @ value.to(dtype))
    return torch.cat(panels, dim=-2).unsqueeze(-2)


def _reads_only_stored_tokens(system: System, rows: RowSource) -> bool:
    return rows.is_causal and not (system.runs_backward or system.reads_before_update)


def _feeds_through(system: System) -> bool:
    return bool((dense_of(system.feedthrough) != 0).any())


def applied(rows: RowSource, signal: Values) -> Mixed:
    """``rows`` times the signal, in the number type to which both promote."""
    if signal.is_complex() and not rows.dtype.is_complex:
        return torch.complex(applied(rows, signal.real), applied(rows, signal.imag))
    dtype = torch.promote_types(rows.dtype, signal.dtype)
    return rows.to(dtype=dtype).apply(signal.to(dtype))
