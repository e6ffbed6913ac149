"""Maps with a rigorous bound on their rounding: a midpoint and a radius for every entry.

The recurrence of a system is followed token by token in float64. Every state carries two
bounds on what rounding has added to it so far: one for every entry, which grows by the absolute
transition, and one for its l2 norm, which grows by a proven bound of the spectral norm of the
transition. The first is tight for decays, the second for transitions that turn the state, such as
delta rules.

Source of the rounding bounds: Higham 2002, "Accuracy and stability of numerical algorithms",
chapter 3: the error of a sum of n products, in any order, is at most n u / (1 - n u) times the sum
of their absolute values, where u is half of the machine epsilon.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.arguments import forward_form, norm
from dsf.systems import composite
from dsf.systems.algebra import converted
from dsf.systems.coefficient import SampledWrite, dense_of
from dsf.systems.system import System
from dsf.systems.transition import Dense, DiagonalPlusLowRank, SampledDiagonal, Shift, Transition

UNIT = 2.0**-53
UP = 1 + 2.0**-40  # above the rounding of one step of the bounds themselves
TINY = 2.0**-1000  # above what one operation loses below the smallest normal number
ELEMENTARY = 8 * UNIT  # relative error of torch's exp and tanh, by assumption: 4 units
WINDOW = 32


@dataclass(frozen=True, eq=False)
class Enclosure:
    """A map whose every entry is within ``radius`` of ``midpoint``, in float64.

    The entries are those of the real (or complex) numbers that the stored coefficients define. For
    complex maps the radius is that of a disc. ``inf`` where nothing is known.
    """

    midpoint: Shaped[Tensor, "*batch rows columns"]
    radius: Shaped[Tensor, "*batch rows columns"]


def enclosed_map(system: composite.Operator) -> Enclosure:
    if isinstance(system, composite.SystemSum):
        return _added([enclosed_map(part) for part in system])
    midpoints, radii = zip(*enclosed_rows(system), strict=True)
    midpoint, radius = torch.cat(midpoints, dim=-2), torch.cat(radii, dim=-2)
    return Enclosure(midpoint, _known(midpoint, radius))


def enclosed_rows(system: System | composite.ExplicitMap) -> Iterator[tuple[Tensor, Tensor]]:
    """Midpoints and radii of the rows of each token, from the first to the last, all columns."""
    rows = composite.kept_rows(system)
    if rows is not None:
        yield from _of_rows(system, rows)
    elif isinstance(system, System) and system.runs_backward:
        for midpoint, radius in list(_followed(forward_form(system)))[::-1]:
            yield _mirrored(midpoint, system), _mirrored(radius, system)
    elif isinstance(system, System):
        yield from _followed(system)


def has_enclosure(system: System | composite.ExplicitMap) -> bool:
    rows = composite.kept_rows(system)
    return rows is None or isinstance(rows, composite.StoredRows | composite.SoftmaxRows)


def _known(midpoint: Tensor, radius: Tensor) -> Tensor:
    return torch.where(midpoint.isfinite() & radius.isfinite(), radius, torch.inf)


def _mirrored(rows: Tensor, system: System) -> Tensor:
    return rows.unflatten(-1, (system.steps, system.input_size)).flip(-2).flatten(-2)


def _added(parts: list[Enclosure]) -> Enclosure:
    midpoint, radius = parts[0].midpoint, parts[0].radius
    for part in parts[1:]:
        midpoint = midpoint + part.midpoint
        radius = (radius + part.radius + UNIT * midpoint.abs() * UP) * UP
    return Enclosure(midpoint, _known(midpoint, radius))


def _gamma(terms: int, *parts: Tensor) -> float:
    """A bound on the relative error of a sum of ``terms`` products, more for complex numbers."""
    terms = 4 * terms + 8 if any(part.is_complex() for part in parts) else terms + 2
    return terms * UNIT / (1 - terms * UNIT)


def _product(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    inner = first.shape[-1]
    error = _gamma(inner, first, second) * (first.abs() @ second.abs()) * UP + (inner + 2) * TINY
    return first @ second, error


BOUNDED = (Dense, DiagonalPlusLowRank, Shift)
"""Structures with a bound of their own, besides the diagonal ones; others become dense."""


class _Moved:
    """The transitions of a window of tokens, applied to states and to bounds on their errors."""

    def __init__(self, A: Transition, lazy: Transition) -> None:
        decay = A.diagonal()
        if decay is None and not isinstance(A, BOUNDED):
            A = Dense(A.dense())
        self.A, self.lazy, self.error = A, lazy, torch.zeros(())
        if decay is None and not isinstance(A, Shift):
            self._of_matrix(A)
            return
        size = torch.ones(()) if decay is None else decay.abs()
        if isinstance(lazy, SampledDiagonal) and decay is not None:
            exponent = (lazy.step.unsqueeze(-1) * lazy.pole.unsqueeze(-2)).abs()
            self.error = size * (exponent * _gamma(1, lazy.pole) + ELEMENTARY) * UP + TINY
        self.size = (size + self.error) * UP
        self.norm = self.size.amax(dim=-1) if self.size.ndim else self.size

    def _of_matrix(self, A: Transition) -> None:
        dense = A.dense()
        error = torch.zeros(())
        if isinstance(A, DiagonalPlusLowRank):
            update = A.left.abs() @ A.right.abs().mT
            through = torch.diag_embed(A.decay.abs()) + update
            error = _gamma(A.left.shape[-1] + 1, dense) * through * UP + TINY
        self.size = (dense.abs() + error) * UP
        self.norm = (_spectral_bound(dense) + norm(error.expand(dense.shape).flatten(-2))) * UP

    def state(self, t: int, state: Tensor) -> tuple[Tensor, Tensor]:
        """A_t times the state, and a bound on the rounding of every entry."""
        token = self.A.window(t, t + 1)
        moved = (token @ state.unsqueeze(-3)).squeeze(-3)
        if isinstance(token, Shift):
            return moved, torch.zeros_like(moved.abs())
        if isinstance(token, Dense):
            return _product(token.matrix.squeeze(-3), state)
        if isinstance(token, DiagonalPlusLowRank):
            left, right, decay = (
                part.squeeze(axis)
                for part, axis in ((token.left, -3), (token.right, -3), (token.decay, -2))
            )
            inner, rounded = _product(right.mT, state)
            outer = _gamma(left.shape[-1] + 2, left, state) * (left.abs() @ inner.abs())
            own = _gamma(2, decay, state) * decay.abs().unsqueeze(-1) * state.abs()
            return moved, (outer + own + left.abs() @ rounded) * UP + TINY
        size = moved.abs()
        error = _gamma(1, moved) * size
        if self.error.ndim:
            error = error + self.error[..., t, :].unsqueeze(-1) * state.abs()
        return moved, error * UP + TINY

    def bound(self, t: int, bound: Tensor) -> Tensor:
        """The absolute transition times a bound on every entry of the error of the state."""
        if isinstance(self.A, Shift):
            return (self.A.window(t, t + 1) @ bound.unsqueeze(-3)).squeeze(-3)
        if self.A.diagonal() is None:
            return self.size[..., t, :, :] @ bound
        return self.size[..., t, :].unsqueeze(-1) * bound

    def growth(self, t: int) -> Tensor:
        return self.norm[..., t] if self.norm.ndim else self.norm


def _spectral_bound(matrix: Tensor) -> Tensor:
    """A proven upper bound on the spectral norm of each matrix.

    With the Gram matrix G = V diag(w) V^H + R it is at most the root of max |w| |V|² + |R|, however
    accurate V and w are.
    """
    scale = matrix.abs().amax(dim=(-2, -1), keepdim=True)
    usable = scale.isfinite() & (scale > 0)
    exponent = torch.where(usable, scale, 1).frexp().exponent
    scaled = torch.where(usable, torch.ldexp(matrix, -exponent), 0)
    gram, rounded = _product(scaled.mH, scaled)
    values, vectors = torch.linalg.eigh(gram)
    again, first = _product(vectors * values.unsqueeze(-2), vectors.mH)
    own = _gamma(1, vectors) * (vectors.abs() * values.abs().unsqueeze(-2)) @ vectors.abs().mT
    rest = [(gram - again).abs(), 2 * UNIT * gram.abs(), first, own, rounded]
    unity, second = _product(vectors.mH, vectors)
    off = (unity - torch.eye(unity.shape[-1], dtype=unity.dtype)).abs() + second
    stretch = 1 + norm(off.flatten(-2)) * UP
    residual = sum(norm(part.flatten(-2)) for part in rest)
    square = values.abs().amax(dim=-1) * stretch * UP + residual * UP
    bound = torch.ldexp(square.sqrt() * UP, exponent.squeeze((-2, -1)))
    return torch.where(
        usable.squeeze((-2, -1)), bound, torch.where(scale.squeeze((-2, -1)) == 0, 0.0, torch.inf)
    )


def _followed(system: System) -> Iterator[tuple[Tensor, Tensor]]:
    system = replace(converted(system, device="cpu"), initial=None)
    dtype = torch.promote_types(system.dtype, torch.float64)
    state = torch.zeros(*system.batch, system.state_size, 0, dtype=dtype)
    entries, length = state.abs(), state.abs()[..., 0, :]
    columns, inputs = system.steps * system.input_size, system.input_size
    for start in range(0, system.steps, WINDOW):
        stop = min(start + WINDOW, system.steps)
        part = system.window(start, stop, dtype=torch.float64)
        lazy = system.A.cut(start, stop).to(dtype=torch.float64)
        moving = _Moved(part.A, lazy)
        coefficients = [dense_of(each).to(dtype) for each in (part.B, part.C, part.feedthrough)]
        inexact = UNIT if isinstance(system.B, SampledWrite) else 0.0
        for t in range(stop - start):
            B, C, D = (each[..., t, :, :] for each in coefficients)
            before = state, entries, length
            moved, rounded = moving.state(t, state)
            grown = moving.growth(t).unsqueeze(-1) * length * UP
            pulled = torch.minimum(moving.bound(t, entries) * UP, grown.unsqueeze(-2))
            own = 4 * inexact * B.abs() + (TINY if inexact else 0.0)
            state = torch.cat([moved, B], dim=-1)
            entries = torch.cat([(pulled + rounded) * UP, own], dim=-1)
            length = torch.cat([(grown + norm(rounded, -2) * UP) * UP, norm(own, -2) * UP], dim=-1)
            length = torch.minimum(length, norm(entries, -2) * UP)
            seen = before if system.reads_before_update else (state, entries, length)
            midpoint, radius = _read(C, *seen)
            if system.reads_before_update:
                midpoint = torch.cat([midpoint, D], dim=-1)
                radius = torch.nn.functional.pad(radius, (0, inputs))
            else:
                own_token = midpoint[..., -inputs:] + D
                error = (radius[..., -inputs:] + UNIT * own_token.abs() * UP) * UP
                midpoint = torch.cat([midpoint[..., :-inputs], own_token], dim=-1)
                radius = torch.cat([radius[..., :-inputs], error], dim=-1)
            missing = columns - midpoint.shape[-1]
            midpoint, radius = (
                torch.nn.functional.pad(each, (0, missing)) for each in (midpoint, radius)
            )
            yield midpoint.real if system.takes_real_part else midpoint, radius


def _read(C: Tensor, state: Tensor, entries: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    midpoint, rounded = _product(C, state)
    by_norm = norm(C).unsqueeze(-1) * length.unsqueeze(-2)
    radius = torch.minimum(C.abs() @ entries, by_norm) * UP + rounded
    return midpoint, radius * UP


def _of_rows(
    system: System | composite.ExplicitMap, rows: composite.RowSource
) -> Iterator[tuple[Tensor, Tensor]]:
    alone = composite.whole_rows(system) is not None
    if not isinstance(rows, composite.StoredRows | composite.SoftmaxRows):
        raise ValueError(
            f"attention_map: no enclosure is known for rows of the kind {type(rows).__name__}. "
            f"Use the map without enclosed=True."
        )
    rows = rows.to(dtype=torch.float64, device="cpu")
    for start in range(0, system.steps, WINDOW):
        stop = min(start + WINDOW, system.steps)
        weights = rows.window(start, stop).squeeze(-2)
        radius = torch.zeros_like(weights.abs())
        if isinstance(rows, composite.SoftmaxRows):
            radius = _softmax_radius(rows, weights, start, stop)
        if isinstance(system, System) and not alone:
            weights = composite.kept_window(system, rows, start, stop).to(torch.float64)
            radius = (radius + 2 * UNIT * weights.abs()) * UP
        for t in range(stop - start):
            yield weights[..., t : t + 1, :], radius[..., t : t + 1, :]


def _softmax_radius(rows: composite.SoftmaxRows, weights: Tensor, start: int, stop: int) -> Tensor:
    """From a bound e on the error of the logits: weights change by a factor of at most e^(2 e)."""
    size = abs(rows.scale) * (rows.query[..., start:stop, :].abs() @ rows.key.abs().mT)
    terms = rows.key.shape[-1] + 16
    if rows.bias is not None:
        size = size + rows.bias[..., start:stop, :].nan_to_num(0.0, 0.0, 0.0).abs()
    if rows.log_decay is not None:
        size = size + composite.faded(rows.log_decay.abs(), start, stop)
        terms += rows.key.shape[-2]
    read = weights > 0
    error = (size * _gamma(terms) * UP).where(read, 0).amax(dim=-1, keepdim=True)
    relative = torch.expm1(2 * error) + _gamma(weights.shape[-1] + 2) + 4 * ELEMENTARY
    radius = (weights * relative) * UP + TINY
    return radius.tril(start) if rows.is_causal else radius
