"""Token mixers that are not one causal system: maps given by their rows, and sums of systems.

Rows of attention maps are computed on demand from query-key scores.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from dsf.runtime.shapes import ShapeError, agree, has_axes
from dsf.systems.coefficient import Coefficient, TokenSlots, dense_of
from dsf.systems.system import System
from dsf.systems.transition import ScaledIdentity

PANEL = 64
Values = Shaped[Tensor, "*batch read 1 channel"]
Mixed = Shaped[Tensor, "*batch time 1 channel"]


class RowSource(Coefficient):
    """Rows of a map, computed when they are needed: shape ``(*batch, time, 1, read)``.

    The axis ``time`` counts queries (rows), ``read`` counts keys (columns). Used as the C of a
    system that stores every token in a state of its own (an attention cache), or on its own as an
    :class:`ExplicitMap`.
    """

    @property
    def is_causal(self) -> bool:
        """Whether row t is known to be zero after column t; False where that is not known."""
        return False

    def reach(self, start: int, stop: int) -> Shaped[Tensor, "*batch rows keys"]:
        """The rows ``start`` to ``stop - 1``, without columns after the last that they may read."""
        rows = self.window(start, stop).squeeze(-2)
        return rows[..., :stop] if self.is_causal else rows

    def flipped(self) -> Coefficient:
        return StoredRows(self.dense().squeeze(-2).flip(-2))

    @abstractmethod
    def apply(self, signal: Values) -> Mixed:
        """The map times the signal, without storing the map."""


@dataclass(frozen=True)
class StoredRows(RowSource):
    """Rows of a map that is stored as a matrix, ``query x key``."""

    matrix: Shaped[Tensor, "*batch time read"]

    @property
    def shape(self) -> torch.Size:
        return torch.Size([*self.matrix.shape[:-1], 1, self.matrix.shape[-1]])

    def window(self, start: int, stop: int) -> Shaped[Tensor, "*batch time 1 read"]:
        return self.matrix[..., start:stop, :].unsqueeze(-2)

    def apply(self, signal: Values) -> Mixed:
        return (self.matrix @ signal.squeeze(-2)).unsqueeze(-2)


@dataclass(frozen=True, eq=False)
class ExplicitMap:
    """A mixer given by the rows of its map alone, without a recurrent state.

    For non-causal softmax attention, cross attention (a rectangular map), and attention whose
    weights follow from no recurrence. One input and one output port.
    """

    rows: RowSource
    initial: None = None
    takes_real_part: bool = False
    input_size: ClassVar[int] = 1
    output_size: ClassVar[int] = 1

    def __post_init__(self) -> None:
        has_axes("ExplicitMap", "rows", self.rows.shape, "*batch time 1 read")
        if 0 in (self.steps, self.read_steps):
            raise ShapeError(
                f"ExplicitMap: needs at least one query (row) and one key (column), but it has "
                f"{self.steps} and {self.read_steps}."
            )

    @property
    def batch(self) -> torch.Size:
        """The leading axes."""
        return self.rows.shape[:-3]

    @property
    def steps(self) -> int:
        """How many queries (rows, tokens that are written)."""
        return self.rows.shape[-3]

    @property
    def read_steps(self) -> int:
        """How many keys (columns, tokens that are read)."""
        return self.rows.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        """The number type of the map."""
        return self.rows.dtype

    @property
    def device(self) -> torch.device:
        """The device of the map."""
        return self.rows.device

    def __repr__(self) -> str:
        batch = f", batch {tuple(self.batch)}" if self.batch else ""
        return (
            f"ExplicitMap({self.steps} tokens written, {self.read_steps} read{batch}; "
            f"{type(self.rows).__name__})"
        )


@dataclass(frozen=True, eq=False)
class SystemSum:
    """Systems applied to one signal with their responses added: ``y = Σ_k S_k(u)``.

    The sum of a forward and a backward system is a non-causal (quasi-separable) mixer.
    """

    parts: tuple[System, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("SystemSum: needs at least one system, but it got none.")
        for axis in ("batch", "steps", "input_size", "output_size"):
            sizes = {f"part {k}": getattr(part, axis) for k, part in enumerate(self.parts)}
            agree("SystemSum", axis, **sizes)

    def __repr__(self) -> str:
        return f"SystemSum({' + '.join(map(repr, self.parts))})"

    def __iter__(self) -> Iterator[System]:
        return iter(self.parts)

    @property
    def batch(self) -> torch.Size:
        """The leading axes."""
        return self.parts[0].batch

    @property
    def steps(self) -> int:
        """How many tokens."""
        return self.parts[0].steps

    @property
    def input_size(self) -> int:
        """Number of input ports."""
        return self.parts[0].input_size

    @property
    def output_size(self) -> int:
        """Number of output ports."""
        return self.parts[0].output_size

    @property
    def dtype(self) -> torch.dtype:
        """The number type to which all parts promote."""
        return reduce(torch.promote_types, (part.dtype for part in self.parts))

    @property
    def device(self) -> torch.device:
        """The device of the parts."""
        return self.parts[0].device


Operator = System | ExplicitMap | SystemSum


def parts_of(system: Operator) -> tuple[System | ExplicitMap, ...]:
    """The parts of a sum, or the system alone."""
    return system.parts if isinstance(system, SystemSum) else (system,)


def at_rest(system: Operator) -> Operator:
    """The same without an initial state, which is not part of the map."""
    if isinstance(system, System):
        return replace(system, initial=None)
    if isinstance(system, SystemSum):
        return SystemSum(tuple(replace(part, initial=None) for part in system))
    return system


def response_dtype(system: Operator) -> torch.dtype:
    """The number type of the response to a real signal."""
    parts = parts_of(system)
    dtypes = (part.dtype.to_real() if part.takes_real_part else part.dtype for part in parts)
    return reduce(torch.promote_types, dtypes)


Logits = Float[Tensor, "*batch rows keys"]
Pairs = TypeVar("Pairs", bound="PairRows")


@dataclass(frozen=True)
class PairRows(RowSource):
    """Rows from scores ``scale q_i.k_j``, causal unless ``is_causal`` is overridden.

    Subclasses define ``window``, which turns scores into weights.
    """

    query: Float[Tensor, "*batch time key"]
    key: Float[Tensor, "*batch read key"]
    scale: float

    @classmethod
    def of(cls: type[Pairs], mixer: Any, **others: Any) -> Pairs:
        """The rows whose fields are those of a mixer with the same names, or ``others``.

        A scale that is absent is ``key ** -0.5``.
        """
        names = [field.name for field in fields(cls) if hasattr(mixer, field.name)]
        parts = {name: getattr(mixer, name) for name in names} | others
        if parts["scale"] is None:
            parts["scale"] = mixer.query.shape[-1] ** -0.5
        return cls(**parts)

    @property
    def shape(self) -> torch.Size:
        return torch.Size([*self.query.shape[:-1], 1, self.key.shape[-2]])

    @property
    def is_causal(self) -> bool:
        return True

    def scores(self, start: int, stop: int, *, keys: int | None = None) -> Logits:
        """Scores of the queries ``start`` to ``stop - 1`` with the first ``keys`` keys, or all."""
        return (self.scale * self.query[..., start:stop, :]) @ self.key[..., :keys, :].mT

    def lags(self, start: int, stop: int) -> Shaped[Tensor, "rows read"]:
        """Query position minus key position, in tokens; negative for later keys."""
        written = torch.arange(start, stop, device=self.device)
        return written[:, None] - torch.arange(self.key.shape[-2], device=self.device)

    def ahead(self, start: int, stop: int) -> Bool[Tensor, "rows read"]:
        return self.lags(start, stop) < 0

    def mixed(
        self, start: int, stop: int, value: Shaped[Tensor, "*batch read channel"]
    ) -> Shaped[Tensor, "*batch rows channel"]:
        """The rows ``start`` to ``stop - 1`` times values, in the type to which both promote."""
        weights = self.reach(start, stop)
        dtype = torch.promote_types(weights.dtype, value.dtype)
        return weights.to(dtype) @ value[..., : weights.shape[-1], :].to(dtype)

    def apply(self, signal: Values) -> Mixed:
        value, steps = signal.squeeze(-2), self.query.shape[-2]
        spans = ((start, min(start + PANEL, steps)) for start in range(0, steps, PANEL))
        return torch.cat([self.mixed(*span, value) for span in spans], dim=-2).unsqueeze(-2)


@dataclass(frozen=True)
class ExponentialRows(PairRows):
    """Rows that are exponentials of logits divided by their sum: a softmax."""

    @abstractmethod
    def logits(self, start: int, stop: int) -> Logits:
        """The logits, in nats; minus infinity where a key is not read.

        For every key, or for those before ``stop`` where rows are causal.
        """

    def reach(self, start: int, stop: int) -> Logits:
        """The rows ``start`` to ``stop - 1``, for as many keys as ``logits`` has."""
        return softmax_in_reach(self.logits(start, stop))

    def window(self, start: int, stop: int) -> Shaped[Tensor, "*batch time 1 read"]:
        weights = self.reach(start, stop)
        missing = self.shape[-1] - weights.shape[-1]
        later = weights.new_zeros(()).expand(*weights.shape[:-1], missing)
        return torch.cat([weights, later], dim=-1).unsqueeze(-2)


def softmax_in_reach(scores: Logits) -> Logits:
    """Softmax over the last axis; a row whose scores are all minus infinity becomes zeros."""
    reachable = (scores > -torch.inf).any(dim=-1, keepdim=True)
    if bool(reachable.all()):
        return scores.softmax(dim=-1)
    return scores.masked_fill(~reachable, 0).softmax(dim=-1) * reachable


@dataclass(frozen=True)
class SoftmaxRows(ExponentialRows):
    """Softmax of ``scale q.k``, soft-capped, plus ``bias``, over the keys that a query reads.

    ``log_decay`` (causal rows only) adds to a score the log decays of the tokens after the key up
    to the query, in nats. ``sink`` adds ``exp(sink)`` to the denominator only, so that rows sum to
    less than one. A row that reads no key is zero. In causal rows the query of token i reads the
    keys 0 ... i only.
    """

    causal: bool
    bias: Float[Tensor, "*batch time read"] | None = None
    softcap: float | None = None
    sink: Float[Tensor, "*batch"] | None = None
    log_decay: Float[Tensor, "*batch read"] | None = None

    @property
    def is_causal(self) -> bool:
        return self.causal

    @property
    def is_fused(self) -> bool:
        """Whether the response is that of torch's fused attention, which forms no rows."""
        parts = (self.softcap, self.sink, self.bias, self.log_decay)
        return all(part is None for part in parts)

    def logits(self, start: int, stop: int) -> Logits:
        keys = stop if self.causal else self.key.shape[-2]
        scores = self.scores(start, stop, keys=keys)
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        if self.bias is not None:
            scores = scores + self.bias[..., start:stop, :keys]
        if self.log_decay is not None:
            scores = scores + faded(self.log_decay[..., :keys], start, stop)
        if self.causal:
            square = torch.ones(stop - start, stop - start, dtype=torch.bool, device=self.device)
            scores[..., start:].masked_fill_(square.triu(1), -torch.inf)
        return scores

    def reach(self, start: int, stop: int) -> Logits:
        logits = self.logits(start, stop)
        keys = logits.shape[-1]
        if self.sink is not None:
            column = self.sink[..., None, None].to(logits.dtype).expand(*logits.shape[:-1], 1)
            logits = torch.cat([logits, column], dim=-1)
        always_reads = self.causal and self.bias is None and self.log_decay is None
        weights = logits.softmax(dim=-1) if always_reads else softmax_in_reach(logits)
        return weights[..., :keys]

    def apply(self, signal: Values) -> Mixed:
        if not self.is_fused:
            return super().apply(signal)
        mixed = scaled_dot_product_attention(
            self.query, self.key, signal.squeeze(-2), is_causal=self.causal, scale=self.scale
        )
        return mixed.unsqueeze(-2)


def faded(
    log_decay: Float[Tensor, "*batch read"], start: int, stop: int
) -> Float[Tensor, "*batch time read"]:
    """Sums of ``log_decay`` over the tokens after a key up to a query in ``start ... stop - 1``.

    Zero for later keys. Sums are accumulated directly and never differences of cumulative sums, so
    no digits are lost for tokens far from the start.
    """
    earlier, inside, later = log_decay.tensor_split([start, stop], dim=-1)
    after = torch.cat([earlier[..., 1:], torch.zeros_like(earlier[..., :1])], dim=-1)
    to_window = after.flip(-1).cumsum(dim=-1).flip(-1)
    passed = inside.cumsum(dim=-1).unsqueeze(-1)
    token = torch.arange(stop - start, device=log_decay.device)
    follows = token[:, None] > token
    between = torch.where(follows, inside.unsqueeze(-1), 0).cumsum(dim=-2)
    between = torch.where(follows, between, 0)
    ahead = torch.zeros_like(later).unsqueeze(-2).expand(*between.shape[:-1], -1)
    return torch.cat([to_window.unsqueeze(-2) + passed, between, ahead], dim=-1)


def cache_system(rows: RowSource) -> System:
    """A_t = I, B_t = e_t and C_t = row t of a causal map; neither e_t nor the rows are stored."""
    *batch, steps, _, _ = rows.shape
    kept = torch.ones((), dtype=rows.dtype, device=rows.device)
    return System(
        A=ScaledIdentity(kept.expand(*batch, steps), steps),
        B=TokenSlots.cache(kept, batch=torch.Size(batch), steps=steps),
        C=rows,
    )


def kept_rows(system: Operator) -> RowSource | None:
    """The rows of an explicit map, or of C if the system is an attention cache without decay.

    A cache runs forward, and its rows read what is stored after the update. Every other system with
    a slot for each token is evaluated by its recurrence.
    """
    if isinstance(system, ExplicitMap):
        return system.rows
    if not isinstance(system, System) or system.runs_backward or system.reads_before_update:
        return None
    if not isinstance(system.B, TokenSlots) or not isinstance(system.A, ScaledIdentity):
        return None
    if not isinstance(system.C, RowSource) or isinstance(system.feedthrough, Coefficient):
        return None
    tokens = torch.arange(system.steps, device=system.device)
    in_order = system.B.slots == system.steps and torch.equal(system.B.tokens, tokens)
    return system.C if in_order and bool((system.A.decay == 1).all()) else None


def whole_rows(system: Operator) -> RowSource | None:
    """The row source whose rows are exactly the rows of the map; None where there is none."""
    rows = kept_rows(system)
    if rows is None or not isinstance(system, System):
        return rows
    return rows if rows.is_causal and not _feeds_through(system) else None


def kept_window(
    system: System, rows: RowSource, start: int, stop: int
) -> Shaped[Tensor, "*batch time read"]:
    """Rows of the map of a cache: the rows of C up to their own token, plus D on the diagonal."""
    weights = rows.window(start, stop).squeeze(-2)
    if not rows.is_causal:
        weights = weights.tril(start)
    if not _feeds_through(system):
        return weights
    written = torch.arange(start, stop, device=rows.device)
    is_own = written[:, None] == torch.arange(rows.shape[-1], device=rows.device)
    return weights + torch.where(is_own, system.feedthrough[..., start:stop, 0, :], 0)


def kept_response(system: System, rows: RowSource, signal: Mixed) -> Mixed:
    """The response of a cache without initial state, whose rows are causal."""
    mixed = mixed_by(rows, signal)
    return mixed + dense_of(system.feedthrough) * signal if _feeds_through(system) else mixed


def _feeds_through(system: System) -> bool:
    return bool((dense_of(system.feedthrough) != 0).any())


def mixed_by(rows: RowSource, signal: Values) -> Mixed:
    """``rows`` times the signal, in the number type to which both promote."""
    if signal.is_complex() and not rows.dtype.is_complex:
        return torch.complex(mixed_by(rows, signal.real), mixed_by(rows, signal.imag))
    dtype = torch.promote_types(rows.dtype, signal.dtype)
    return rows.to(dtype=dtype).apply(signal.to(dtype))
