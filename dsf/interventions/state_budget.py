"""What rounding the state of a recurrence does: exactly, in forecast, and at most; and a plan.

A state h_t that is stored with few bits moves by e_t at every token, and the response by
``C_t Phi(t, s) e_s``: a system with the same A and C, whose input is e. The state of one head
is one block, with one scale for each token: its largest magnitude over ``2^(bits - 1) - 1``.
``plan_state`` chooses the bits of every head under a budget of bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeGuard

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.functional import pad

from dsf.attribution import stack
from dsf.evaluate import respond
from dsf.evaluate.arguments import Response, Signal, State, state_at_start
from dsf.evaluate.stepwise import advance
from dsf.inspection.errors import InspectionError
from dsf.inspection.results.table import Table
from dsf.interventions import edits
from dsf.interventions.edits import RoundState
from dsf.runtime.argument_checks import checked
from dsf.runtime.shapes import at_least
from dsf.systems import algebra
from dsf.systems.coefficient import TokenSlots, dense_of
from dsf.systems.composite import Operator
from dsf.systems.system import System
from dsf.systems.transition import States, Transition

CHOICES = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16)
"""Numbers of bits that a plan chooses from."""
SCALE_BYTES = 2
"""Bytes of the scale of one head's state."""
PROBES = 8
"""Number of sums over all tokens, with random signs, whose variance is forecast."""
ROUNDING = 1 + 1e-9
"""Factor on a bound that covers the rounding of the bound itself."""

Bits = Float[Tensor, "*batch"]


def is_recurrent(system: Operator) -> TypeGuard[System]:
    """Return whether a state continues from token to token, unlike in an attention cache."""
    return (
        isinstance(system, System)
        and not system.runs_backward
        and not isinstance(system.B, TokenSlots)
    )


def rounded(states: State, bits: Bits | int | str) -> State:
    """Round states to the nearest number that ``bits`` hold, with one scale for each head.

    Args:
        bits: how many for each head, or for all; or the name of a number type of torch.
    """
    if isinstance(bits, str):
        return states.to(getattr(torch, bits)).to(states)
    step = _step_of(states, bits)
    return torch.round(states / step) * step


def rounded_at_random(states: State, bits: Bits | int, rng: torch.Generator) -> State:
    """Round states to one of both neighbours, the more likely the nearer, so that the mean stays.

    Args:
        bits: as for ``rounded``.
        rng: where the numbers come from.
    """
    step = _step_of(states, bits)
    drawn = torch.rand(states.shape, generator=rng, dtype=states.dtype, device=rng.device)
    return torch.floor(states / step + drawn.to(states.device)) * step


def _step_of(states: State, bits: Bits | int) -> Tensor:
    step = states.abs().amax(dim=(-2, -1)) / levels(bits)
    return step[..., None, None].clamp_min(torch.finfo(states.dtype).tiny)


def with_feedback(store: Callable[[State], State]) -> Callable[[State], State]:
    """Return a rounding that adds what it took from one token's state to that of the next."""
    left: State | None = None

    def stored(states: State) -> State:
        nonlocal left
        wanted = states if left is None else states + left
        kept = store(wanted)
        left = wanted - kept
        return kept

    return stored


def levels(bits: Bits | int) -> Any:
    return 2.0 ** (bits - 1) - 1


def rounded_run(
    system: System, signal: Signal, store: Callable[[State], State]
) -> tuple[Response, States]:
    """Return the response with states that are rounded at every token, and the roundings e_t.

    Args:
        store: rounds the state of one token.
    """
    errors = []

    def solve(A: Transition, drive: Tensor, entering: Any) -> tuple[Tensor, Tensor]:
        states = [entering]
        for t in range(system.steps):
            carried = (A.window(t, t + 1) @ states[-1].unsqueeze(-3)).squeeze(-3)
            exact = carried + drive[..., t, :, :]
            states.append(store(exact))
            errors.append(states[-1] - exact)
        return torch.stack(states[1:], dim=-3), states[-1]

    response, _ = advance(system, signal, state_at_start(system, signal), solve=solve)
    return response, torch.stack(errors, dim=-3)


def replayed(system: System, errors: States) -> Response:
    """Return by how much perturbations of the state move the response, exactly."""
    identity = torch.eye(system.state_size).to(errors).expand(*errors.shape[:-2], -1, -1)
    return respond(replace(system, B=identity, D=None, initial=None), errors)


def forecast(
    system: System, signal: Signal, bits: Bits, *, at_random: bool = False, feedback: bool = False
) -> Shaped[Tensor, "*batch time"]:
    """Forecast the variance of the response's error at every token, without a rounded run.

    Roundings are taken for white noise, which goes through ``P_t = A_t P_(t-1) A_t^T + v_t``. Its
    variances v_t are those of the roundings of the exact state, entry by entry: with few bits most
    entries are less than half a step and lose all that they are.

    Args:
        bits: for each head.
        at_random: forecast ``rounded_at_random``.
        feedback: forecast ``with_feedback``. The error is then ``x_t = z_t - r_t`` with the
            rounding r_t and ``z_t = A_t z_(t-1) + (1 - A_t) r_(t-1)``: less where A is near one.
    """
    identity = torch.eye(system.state_size).to(signal)
    read, found = dense_of(system.C), []
    error = last = covariance = torch.zeros_like(identity)
    for t, state in enumerate(system.states(signal).unbind(-3)):
        noise = _noise(state, bits, at_random=at_random, feedback=feedback)
        before, a, added = error, _dense(system, t), torch.diag_embed(noise.sum(dim=-1))
        covariance = a @ covariance @ a.mT
        if feedback:
            covariance = covariance + (identity - a) @ last @ (identity - a).mT
        last, error = added, covariance + added
        covariance = covariance if feedback else error
        c = read[..., t, :, :]
        seen = c @ (before if system.reads_before_update else error) @ c.mT
        found.append(seen.diagonal(dim1=-2, dim2=-1).sum(-1).expand(noise.shape[:-2]))
    return torch.stack(found, dim=-1)


def _noise(states: State, bits: Bits | int, *, at_random: bool, feedback: bool) -> State:
    """The variance of the rounding of every entry.

    What is fed back makes all roundings of a step equally likely.
    """
    step = _step_of(states, bits)
    part = states / step - torch.floor(states / step)
    if feedback:
        return (step.square() / (6 if at_random else 12)).expand_as(states)
    if at_random:
        return step.square() * part * (1 - part)
    return step.square() * torch.minimum(part, 1 - part).square()


def bound(system: System, signal: Signal, bits: Bits) -> Shaped[Tensor, "*batch time"]:
    """Bound the error of every entry of the response at every token.

    Both a bound of every entry of the state, through ``|A_t|``, and one of the norm of a column,
    through the spectral norm of A_t, go from token to token; the smaller of them counts. The step
    is that of the rounded state, which is at most the error larger than the exact one.
    """
    most = _magnitudes(system, signal)
    entries = most.new_zeros(*most.shape[:-1], system.state_size)
    norm = torch.zeros_like(most[..., 0])
    read, found = dense_of(system.C).abs(), []
    for t in range(system.steps):
        a = _dense(system, t)
        entries_before, norm_before = entries, norm
        entries = (a.abs() @ entries.unsqueeze(-1)).squeeze(-1)
        norm = torch.linalg.matrix_norm(a, 2) * norm
        entries = torch.minimum(entries, norm.unsqueeze(-1))
        step = (most[..., t] + entries.amax(dim=-1)) / levels(bits)
        entries = ROUNDING * (entries + step.unsqueeze(-1) / 2)
        norm = ROUNDING * (norm + step / 2 * system.state_size**0.5)
        seen = (entries_before, norm_before) if system.reads_before_update else (entries, norm)
        c = read[..., t, :, :]
        by_entries = (c @ seen[0].unsqueeze(-1)).squeeze(-1).amax(-1)
        by_norm = c.square().sum(-1).sqrt().amax(-1) * seen[1]
        found.append(ROUNDING * torch.minimum(by_entries, by_norm))
    return torch.stack(found, dim=-1)


def noise_weight(system: System, signal: Signal, adjoint: Response) -> Bits:
    """Return the variance of ``<adjoint, response>`` where every step is the state's magnitude.

    Divided by the squared number of levels it is the forecast for any number of bits: with few of
    them more than the variance, since entries below half a step lose no more than they are.
    """
    backward: Any = algebra.adjoint(system)
    moved = backward.states(adjoint)
    if system.reads_before_update:  # later tokens alone read a state
        moved = pad(moved[..., 1:, :, :], (0, 0, 0, 0, 0, 1))
    squares = moved.square().sum(dim=(-2, -1)) * _magnitudes(system, signal).square()
    return squares.sum(dim=-1) / 12


def _magnitudes(system: System, signal: Signal) -> Shaped[Tensor, "*batch time"]:
    """The largest magnitude in the state of every head after every token."""
    return system.states(signal).abs().amax(dim=(-2, -1))


def _dense(system: System, t: int) -> Tensor:
    return system.A.window(t, t + 1).dense().squeeze(-3)


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
        at_least(CHOICES[0], "uniform", "bits", bits)
        return StatePlan(tuple(_with_bits(row, bits) for row in self.rows))

    def within(self, bytes: int) -> "StatePlan":
        """Return the plan of the smallest forecast under another budget.

        The forecast falls by less for every further bit, so that adding bits where a byte helps
        most is the best choice.

        Raises:
            ValueError: if the smallest number of bits does not fit.
        """
        at_least(1, "within", "bytes", bytes)
        rows: list[StateRow] = []
        steps: list[tuple[float, int, StateRow, StateRow]] = []
        for at, row in enumerate(self.rows):
            # Of numbers of bits that take as many bytes only the largest counts.
            sizes = {each.bytes: each for each in (_with_bits(row, bits) for bits in CHOICES)}
            rows.append(next(iter(sizes.values())))
            for less, more in pairwise(sizes.values()):
                gain = (less.forecast - more.forecast) / (more.bytes - less.bytes)
                steps.append((gain, at, less, more))
        left = bytes - sum(row.bytes for row in rows)
        if left < 0:
            raise ValueError(
                f"plan_state: 'bytes' expected at least {bytes - left}, which {CHOICES[0]} bits "
                f"take everywhere, got {bytes}."
            )
        for _, at, less, more in sorted(steps, key=lambda step: -step[0]):
            if rows[at] is less and more.bytes - less.bytes <= left:
                left -= more.bytes - less.bytes
                rows[at] = more
        return StatePlan(tuple(rows))

    @checked
    def applied(self, model: nn.Module) -> "RoundedModel":
        """Return a module that runs ``model`` with its states rounded as planned."""
        return RoundedModel(model, self.edits)

    def table(self) -> Table:
        """Return one record for each head."""
        return Table(tuple(asdict(row) | {"forecast": row.forecast} for row in self.rows))

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
        with edits.applied(self.model, self.edits):
            return self.model(*inputs, **named)


@torch.inference_mode(False)
def plan_state(model: nn.Module | str | Path, *inputs: Any, bytes: int, **named: Any) -> StatePlan:
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
    if found.logits is None or found.logits.shape[-1] < 2:
        raise InspectionError(
            "plan_state: 'model' expected a model that returns logits of two tokens or more, got "
            "none."
        )
    top = found.logits.topk(2, dim=-1).indices
    count, rng = PROBES * top[..., 0].numel(), torch.Generator().manual_seed(0)
    for _ in range(PROBES):
        # The mean square of a sum with random signs is the sum of the squares.
        signs = torch.randint(2, top.shape[:-1], generator=rng).to(top.device) * 2.0 - 1

        def margins(logits: Tensor, signs: Tensor = signs) -> Tensor:
            first, second = logits.gather(-1, top).unbind(dim=-1)
            return (signs * (first - second)).reshape(len(first), -1).sum(dim=-1)

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
            rows.append(StateRow(layer.name, head, entries, CHOICES[0], 0, each))
    return StatePlan(tuple(rows)).within(bytes)


def _with_bits(row: StateRow, bits: int) -> StateRow:
    return replace(row, bits=bits, bytes=-(-row.entries * bits // 8) + SCALE_BYTES)
