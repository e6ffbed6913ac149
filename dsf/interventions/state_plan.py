"""``plan_state``: with how many bits to store the state of every head under a budget of bytes."""

import heapq
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dsf.attribution import stack
from dsf.inspection.errors import InspectionError
from dsf.inspection.results.table import Table
from dsf.interventions.edited_mixing import is_recurrent
from dsf.interventions.edits import RoundState
from dsf.interventions.state_budget import MAX_BITS, MIN_BITS, levels, noise_weight
from dsf.runtime.shapes import at_least

CHOICES = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16)
"""Numbers of bits that a plan chooses from."""
SCALE_BYTES = 2
"""Bytes of the scale of one head's state."""
PROBES = 8
"""Number of sums over all tokens, with random signs, whose variance is forecast."""


@dataclass(frozen=True)
class StateRow:
    """The state of one head, or channel.

    Attributes:
        entries: how many numbers the state has.
        bits: with how many each is stored.
        bytes: of the state and its scale.
        noise: the variance of the logits for a step of the state's magnitude.
    """

    layer: str
    head: int
    entries: int
    bits: int
    bytes: int
    noise: float

    @property
    def forecast(self) -> float:
        """The variance of the logits that its roundings are going to cause."""
        return self.noise / float(levels(torch.tensor(float(self.bits)))) ** 2


@dataclass(frozen=True)
class StatePlan:
    """With how many bits the state of every head is stored.

    Attributes:
        rows: one for each head.
    """

    rows: tuple[StateRow, ...]

    @property
    def bytes(self) -> int:
        """The memory of all states of one sample."""
        return sum(row.bytes for row in self.rows)

    @property
    def forecast(self) -> float:
        """The standard deviation of the logits that is forecast."""
        return sum(row.forecast for row in self.rows) ** 0.5

    @property
    def edits(self) -> tuple[RoundState, ...]:
        """The plan as edits, for ``dsf.intervene`` and ``dsf.edits.applied``."""
        groups: dict[tuple[str, int], list[int]] = {}
        for row in self.rows:
            groups.setdefault((row.layer, row.bits), []).append(row.head)
        return tuple(
            RoundState(layer, bits=bits, heads=heads) for (layer, bits), heads in groups.items()
        )

    def uniform(self, bits: int) -> "StatePlan":
        """Return the plan that stores every state with the same number of bits."""
        return StatePlan(tuple(_with_bits(row, bits) for row in self.rows))

    def within(self, bytes: int) -> "StatePlan":
        """Return the plan of the smallest forecast under another budget.

        The forecast falls by less for every further bit, so that adding bits where a byte helps
        most is the best choice.

        Raises:
            ValueError: if the smallest number of bits does not fit.
        """
        rows = [_with_bits(row, CHOICES[0]) for row in self.rows]
        left = bytes - sum(row.bytes for row in rows)
        if left < 0:
            raise ValueError(
                f"plan_state: 'bytes' expected at least {bytes - left}, which {CHOICES[0]} bits "
                f"take everywhere, got {bytes}."
            )
        waiting: list[tuple[float, int, StateRow]] = []

        def wait(at: int) -> None:
            """By how much the next number of bits lowers the forecast for each byte."""
            row, more = rows[at], [bits for bits in CHOICES if bits > rows[at].bits]
            if more:
                larger = _with_bits(row, more[0])
                gain = (row.forecast - larger.forecast) / (larger.bytes - row.bytes)
                heapq.heappush(waiting, (-gain, at, larger))

        for at in range(len(rows)):
            wait(at)
        while waiting:
            _, at, larger = heapq.heappop(waiting)
            if larger.bytes - rows[at].bytes <= left:
                left -= larger.bytes - rows[at].bytes
                rows[at] = larger
                wait(at)
        return StatePlan(tuple(rows))

    def applied(self, model: nn.Module) -> "RoundedModel":
        """Return a module that runs ``model`` with its states rounded as planned."""
        return RoundedModel(model, self.edits)

    def table(self) -> Table:
        """Return one record for each head."""
        return Table(tuple(asdict(row) | {"forecast": row.forecast} for row in self.rows))

    def to_json(self) -> list[dict[str, Any]]:
        """Return the rows as plain data."""
        return [asdict(row) for row in self.rows]

    @classmethod
    def from_json(cls, rows: Sequence[dict[str, Any]]) -> "StatePlan":
        """Return the plan that ``to_json`` wrote."""
        return cls(tuple(StateRow(**row) for row in rows))

    def __repr__(self) -> str:
        several = sorted({row.bits for row in self.rows})
        return (
            f"StatePlan({len(self.rows)} heads with {several[0]} to {several[-1]} bits, "
            f"{self.bytes} bytes; forecast {self.forecast:.2e})"
        )


class RoundedModel(nn.Module):
    """A model whose recurrent states are rounded after every token."""

    def __init__(self, model: nn.Module, edits: Sequence[RoundState]):
        super().__init__()
        self.model, self.edits = model, tuple(edits)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Call the model."""
        from dsf.interventions.applied import applied

        with applied(self.model, self.edits):
            return self.model(*inputs, **named)


@torch.inference_mode(False)
def plan_state(
    model: nn.Module | str | Path,
    *inputs: Any,
    bytes: int,
    **named: Any,
) -> StatePlan:
    """Choose with how many bits to store the recurrent state of every head.

    The loss is the variance of the logits (of the predicted token minus that of its runner-up, in
    the mean over the tokens of the text). It is forecast without a rounded run: roundings are white
    noise of the size of a step, which reaches the logits through the recurrence and the gradient of
    the rest of the model.

    Args:
        model, inputs, named: a model and a text, as for ``dsf.attribute``.
        bytes: of all states of one sample, with their scales.

    Raises:
        InspectionError: if the model has no recurrent state.
        ValueError: if two bits for every number take more than ``bytes``.

    Example:
        >>> import dsf
        >>> plan = dsf.plan_state(
        ...     dsf.models.folder("text_mamba2"), "And all our yesterdays", bytes=30_000
        ... )
        >>> plan.bytes <= 30_000
        True
    """
    at_least(1, "plan_state", "bytes", bytes)
    found = stack(model, *inputs, **named)
    layers = [layer for layer in found.inspection if is_recurrent(layer.mixer.system())]
    if not layers:
        raise InspectionError(
            f"plan_state: 'model' expected a model with recurrent states, got "
            f"{found.inspection.model}, which has none."
        )
    noise: dict[str, Tensor] = {}
    if found.logits is None:
        raise InspectionError("plan_state: 'model' expected a model that returns logits, got none.")
    top = found.logits.topk(2, dim=-1).indices
    count, rng = PROBES * top.shape[1], torch.Generator().manual_seed(0)
    for _ in range(PROBES):
        # The mean square of a sum with random signs is the sum of the squares.
        signs = torch.randint(2, top.shape[:2], generator=rng).to(top.device) * 2.0 - 1

        def margins(logits: Tensor, signs: Tensor = signs) -> Tensor:
            first, second = logits.gather(-1, top).unbind(dim=-1)
            return (signs * (first - second)).sum(dim=-1)

        share = found.attribute(margins)
        for layer in layers:
            mixer: Any = layer.mixer
            signal = mixer.signal()
            adjoint = share.adjoint(layer.name)
            shaped = adjoint.reshape(*signal.shape[:-2], -1, signal.shape[-1])
            weight = noise_weight(mixer.system(), signal, shaped)
            weight = weight.sum(dim=0) if weight.ndim > 1 else weight.sum().reshape(1)
            noise[layer.name] = noise.get(layer.name, torch.zeros_like(weight)) + weight
    rows = []
    for layer in layers:
        mixer = layer.mixer
        entries = mixer.system().state_size * mixer.signal().shape[-1]
        for head, each in enumerate((noise[layer.name] / count).flatten().tolist()):
            row = StateRow(layer.name, head, entries, MIN_BITS, 0, each)
            rows.append(_with_bits(row, MAX_BITS))
    return StatePlan(tuple(rows)).within(bytes)


def _with_bits(row: StateRow, bits: int) -> StateRow:
    return replace(row, bits=bits, bytes=-(-row.entries * bits // 8) + SCALE_BYTES)
