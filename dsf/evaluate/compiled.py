"""Responses and map rows by compiled CPU loops or CUDA kernels, for the systems they support.

- ``compiled``, ``row_loops``: the choice of a loop of :mod:`dsf.evaluate.loops`, or of a kernel.
- ``scanned``: selective state spaces by the scan of :mod:`dsf.systems.kernels.cuda`.
- ``recalled``: matrix memories and delta rules by :mod:`dsf.systems.kernels.cuda`.

A kernel is tested in every process before its first use, and for every size it is compiled for, so
that an untested device, driver or compiler cannot change a result: on small random systems it is
compared with a double-precision reference. A kernel that fails is off.
"""

import warnings
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise, product
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate import loops
from dsf.evaluate.arguments import Answer, Signal, state_at_start
from dsf.evaluate.stepwise import recurrent
from dsf.evaluate.windows import forward_rows
from dsf.systems.coefficient import Coefficient, SampledWrite, dense_of, tensors_of
from dsf.systems.kernels import WORTH, applies, applies_on_cuda, why_off_on_cuda
from dsf.systems.system import System
from dsf.systems.transition import (
    Diagonal,
    DiagonalPlusLowRank,
    SampledDiagonal,
    ScaledIdentity,
    Transition,
)

MEMORIES, DELTA_RULES, SELECTIVE, MAPS = NAMES = (
    "matrix memories",
    "delta rules",
    "selective scan",
    "maps",
)
TOLERANCE = 1e-5

_passed: set[tuple[str, torch.device, Hashable]] = set()
_fault: dict[tuple[str, torch.device], str] = {}


def has_passed(name: str, device: torch.device, kind: Hashable, trial: Callable[[], float]) -> bool:
    """Whether the kernel may run; runs its ``trial`` if ``kind`` was not tried in this process.

    ``trial`` returns the error relative to the reference. If it exceeds ``TOLERANCE`` or the trial
    raises, a warning names the kernel, and it is off on this device until the process ends.
    """
    if (name, device) in _fault:
        return False
    if (name, device, kind) in _passed:
        return True
    try:
        error = trial()
        why = f"its relative error is {error:.0e}"
    except Exception as fault:  # whatever it is, torch operations are used instead
        error, why = torch.inf, " ".join(f"{type(fault).__name__}: {fault}".split())[:300]
    if error <= TOLERANCE:
        _passed.add((name, device, kind))
        return True
    _fault[name, device] = why
    warnings.warn(
        f"dsf: the kernel for {name} failed its trial on {device} and is off in this process; "
        f"dsf uses torch operations instead, with the same results. The reason: {why}",
        RuntimeWarning,
        stacklevel=2,
    )
    return False


def trial_result(name: str, device: torch.device) -> str:
    """``active``, ``off`` with the reason, or ``not tried``."""
    why = why_off_on_cuda() or _fault.get((name, device))
    if why:
        return f"off: {why}"
    tried = any(known[:2] == (name, device) for known in _passed)
    return "active" if tried else "not tried"


def forget_trials() -> None:
    """Forget all results, so that every kernel is tried again."""
    _passed.clear()
    _fault.clear()


# Two sequences of three heads; numbers of tokens and states are not multiples of the tile sizes.
BATCH, STEPS, LONG = (2, 3), 75, 150
BORDERS = [5, 70, LONG]
SINGLE: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}  # whatever the defaults are

Run = Callable[[System, Tensor], tuple[Tensor, Tensor] | None]
Write = Callable[[System, list[int]], Iterator[Tensor]]


class Draw:
    """Random numbers in single precision on one device, from a fixed seed."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.rng = device, torch.Generator().manual_seed(0)

    def normal(self, *size: int) -> Tensor:
        return torch.randn(*size, generator=self.rng, **SINGLE).to(self.device)

    def decay(self, *size: int) -> Tensor:
        """Factors per token: most between 1/2 and 1, some 1e-20, close to one, or exactly zero."""
        chance, decay = torch.rand(2, *size, generator=self.rng, **SINGLE)
        decay = 0.5 + decay / 2
        for share, other in ((0.15, 1 - 1e-6), (0.1, 1e-20), (0.05, 0.0)):
            decay = torch.where(chance < share, other, decay)
        return decay.to(self.device)

    def shared(self, *size: int) -> Tensor:
        """The same vectors for all heads of a sequence, stored once."""
        return self.normal(BATCH[0], 1, *size).expand(*BATCH, *size)

    def system(self, structure: str, *, states: int, steps: int, before: bool) -> System:
        """A system with one port, all of whose coefficients are non-zero."""
        write, read = self.shared(steps, states), self.shared(steps, states)
        D = self.normal(*BATCH, steps, 1, 1)
        key = torch.nn.functional.normalize(write, dim=-1)
        if "delta" in structure:
            write = 2 * self.decay(*BATCH, steps, 1) * key
        A = self._transition(structure, write, key, steps)
        sampled = SampledWrite(A.step, write) if isinstance(A, SampledDiagonal) else None
        B = sampled or write.unsqueeze(-1)
        return System(A, B, read.unsqueeze(-2), D, reads_before_update=before)

    def _transition(self, structure: str, write: Tensor, key: Tensor, steps: int) -> Transition:
        states = key.shape[-1]
        if structure == "scalar":
            return ScaledIdentity(self.decay(*BATCH, steps), states)
        if structure == "sampled":
            step = self.decay(*BATCH, steps).clamp(min=1e-20).log().neg()
            return SampledDiagonal(step, -0.5 - self.decay(*BATCH, states))
        if structure == "diagonal":
            return Diagonal(self.decay(*BATCH, steps, states))
        one = self.decay(*BATCH, steps, 1 if structure == "scalar delta" else states)
        decay = one.expand(*BATCH, steps, states)
        return DiagonalPlusLowRank(decay, -write.unsqueeze(-1), (decay * key).unsqueeze(-1))


def response_error(
    run: Run, device: torch.device, structure: str, *, states: int, channels: int, before: bool
) -> float:
    """The largest error of ``run``, relative to the largest entry."""
    draw = Draw(device)
    system = draw.system(structure, states=states, steps=STEPS, before=before)
    signal = draw.normal(*BATCH, STEPS, 1, channels)
    entering = draw.normal(*BATCH, states, channels)
    answer = run(replace(system, initial=entering), signal)
    if answer is None:
        raise TypeError(f"the kernel does not take a system that is {structure}")
    exact = system.window(0, STEPS, dtype=torch.float64)
    exact = replace(exact, initial=entering.double())
    wanted = recurrent(exact, signal.double())
    eye = torch.eye(states, dtype=wanted.dtype, device=device).expand(*BATCH, STEPS, -1, -1)
    shown = System(exact.A, exact.B, eye, initial=exact.initial)
    states_after = recurrent(shown, signal.double())
    return max(_apart(answer[0], wanted), _apart(answer[1], states_after[..., -1, :, :]))


def rows_error(
    write: Write, device: torch.device, structure: str, *, states: int, before: bool
) -> float:
    """The same for rows of the map, starting with one inside a tile."""
    system = Draw(device).system(structure, states=states, steps=LONG, before=before)
    exact = system.window(0, LONG, dtype=torch.float64)
    found = zip(write(system, BORDERS), forward_rows(exact, BORDERS), strict=True)
    return max(_apart(rows, wanted) for rows, wanted in found)


def _apart(found: Shaped[Tensor, "*axes"], wanted: Shaped[Tensor, "*axes"]) -> float:
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


MOST_STATES = 256  # that fit in the registers of one program
MOST_TOKENS = 16 * 65_535  # as chunks of 16 tokens are one axis of the launch grid
MANY_CHANNELS = 70  # channels of a trial: more than one program takes


def answered_on_cuda(system: System, signal: Signal) -> Answer | None:
    fits = 0 < system.state_size <= MOST_STATES and system.steps <= MOST_TOKENS
    if not fits or signal.numel() * system.state_size < WORTH:
        return None
    return _scanned(system, signal) or _recalled(system, signal)


def _has_passed(
    name: str,
    device: torch.device,
    structure: str,
    states: int,
    *,
    channels: int = 1,
    before: bool = False,
) -> bool:
    def scan(*given: Any) -> Answer | None:
        channels = loops.channels_of(*given)
        return None if channels is None else scanned(channels)

    def trial() -> float:
        sizes: dict[str, Any] = {"states": states, "before": before}
        if name == MAPS:
            write = partial(rows_on_cuda, output=loops.RowBuffer())
            return rows_error(write, device, structure, **sizes)
        run = scan if name == SELECTIVE else recalled
        return response_error(run, device, structure, channels=channels, **sizes)

    return has_passed(name, device, (structure, states, channels, before), trial)


def _scanned(system: System, signal: Tensor) -> Answer | None:
    channels = loops.channels_of(system, signal)
    if channels is None or not applies_on_cuda(*channels) or not channels.share:
        return None
    passed = _has_passed(SELECTIVE, signal.device, "sampled", system.state_size)
    return scanned(channels) if passed else None


def scanned(channels: loops.Channels) -> Answer:
    from dsf.systems.kernels.cuda import selective_scan

    step, signal = channels.step, channels.signal
    batch, size = signal.shape[:-2].numel(), signal.shape[-2:]
    # channels of a sequence share write and read, so those of the first are taken
    write, read = (
        part[..., 0, :, :].reshape(batch, *part.shape[-2:])
        for part in (channels.write, channels.read)
    )
    with torch.cuda.device_of(signal):
        response, leaving = selective_scan(
            step.reshape(batch, *size),
            signal.reshape(batch, *size),
            channels.pole.reshape(batch, *channels.pole.shape[-2:]),
            write,
            read,
            channels.skip.reshape(batch, -1),
            channels.entering.reshape(batch, *channels.entering.shape[-2:]),
        )
    response = response.view(signal.shape)
    if not channels.has_fixed_skip:
        response = response + channels.feedthrough * signal
    return response[..., None, None], leaving.view(channels.entering.shape).unsqueeze(-1)


def _recalled(system: System, signal: Tensor) -> Answer | None:
    parts = loops.bare_arrays(system)
    if parts is None or isinstance(system.feedthrough, Coefficient):
        return None
    tensors = [part for part in parts if part is not None]
    if not applies_on_cuda(*tensors, system.feedthrough, signal, state_at_start(system, signal)):
        return None
    if parts.left is not None and not torch.equal(-parts.left, parts.write):
        return None
    name = MEMORIES if parts.look is None else DELTA_RULES
    structure = "scalar" if parts.decay.ndim < parts.write.ndim else "diagonal"
    structure += "" if parts.look is None else " delta"
    passed = _has_passed(
        name,
        signal.device,
        structure,
        system.state_size,
        channels=min(signal.shape[-1], MANY_CHANNELS),
        before=system.reads_before_update,
    )
    return recalled(system, signal) if passed else None


def recalled(system: System, signal: Shaped[Tensor, "*batch time 1 channel"]) -> Answer | None:
    """The batch axes become one axis of heads for the kernel, and are split again."""
    from dsf.systems.kernels.cuda import recall

    parts = loops.bare_arrays(system)
    if parts is None:
        return None

    def by_head(part: Tensor, own: int) -> Tensor:
        tail = part.shape[part.ndim - own :]
        return part.expand(*system.batch, *tail).reshape(-1, *tail)

    scalar, bare = parts.decay.ndim < parts.write.ndim, signal.squeeze(-2)
    with torch.cuda.device_of(signal):
        response, leaving = recall(
            by_head(parts.decay.unsqueeze(-1) if scalar else parts.decay, 2),
            by_head(parts.gain, 1),
            by_head(parts.write, 2),
            by_head(parts.read, 2),
            None if parts.look is None else by_head(parts.look, 2),
            by_head(bare, 2),
            by_head(state_at_start(system, signal), 2),
            before=system.reads_before_update,
        )
    response = response.reshape(bare.shape) + system.feedthrough[..., 0] * bare
    return response.unsqueeze(-2), leaving.reshape(*system.batch, *leaving.shape[-2:])


def writes_on_cuda(system: System, parts: list[Tensor], *, work: int) -> bool:
    """Whether a kernel for CUDA may write the map of a diagonal system of these ``parts``."""
    few = 0 < system.state_size <= MOST_STATES and system.batch.numel() > 0
    if not few or work < WORTH or not applies_on_cuda(*parts):
        return False
    structure = "scalar" if isinstance(system.A, ScaledIdentity) else "diagonal"
    before = system.reads_before_update
    return _has_passed(MAPS, system.device, structure, system.state_size, before=before)


def rows_on_cuda(
    system: System, boundaries: list[int], output: loops.RowBuffer
) -> Iterator[Shaped[Tensor, "*batch rows columns"]]:
    """The rows between consecutive boundaries, written into the memory that ``output`` provides."""
    from dsf.systems.kernels.cuda import Borders, write_map

    def by_head(part: Tensor) -> Tensor:
        return part.expand(*system.batch, *part.shape[-2:]).reshape(-1, *part.shape[-2:])

    A, before = system.A, system.reads_before_update
    decays = A.decay.unsqueeze(-1) if isinstance(A, ScaledIdentity) else A.decays()
    decay = by_head(decays).contiguous()
    write = by_head(dense_of(system.B).squeeze(-1))
    read = by_head(dense_of(system.C).squeeze(-2))
    D = dense_of(system.feedthrough)[..., 0, 0].expand(*system.batch, system.steps)
    gain = decay.new_ones(1, system.steps).expand(system.batch.numel(), -1)
    products = Borders(decay, before=before)
    for start, stop in pairwise(boundaries):
        shape = (*system.batch, stop - start, system.steps)
        buffer, top = output.take(write, shape, first=start)
        span = (start, stop, top)
        with torch.cuda.device_of(buffer):
            out = loops.flat(buffer)
            write_map(read, write, decay, gain, products, out, rows=span, before=before)
        rows = buffer[..., top : top + stop - start, :]
        rows.diagonal(start, -2, -1).add_(D[..., start:stop])
        yield rows


STATES, CHANNELS = 16, 64


def all_trial_results(device: torch.device) -> dict[str, str]:
    """``active``, or ``off`` with the reason, for every kernel; missing trials are run first."""
    if not why_off_on_cuda():
        for structure in ("scalar", "diagonal"):
            _has_passed(MEMORIES, device, structure, STATES, channels=CHANNELS)
            _has_passed(DELTA_RULES, device, f"{structure} delta", STATES, channels=CHANNELS)
            _has_passed(MAPS, device, structure, STATES)
        _has_passed(SELECTIVE, device, "sampled", STATES)
    return {name: trial_result(name, device) for name in NAMES}


RowLoops = Callable[[list[int], loops.RowBuffer], Iterator[Shaped[Tensor, "*batch rows columns"]]]
"""From the boundaries of windows of tokens, and memory, to the rows of each window."""


def compiled(system: System, signal: Signal, *, out: Tensor | None = None) -> Answer | None:
    """The response of a forward system and its final state; None where no loop applies."""
    if signal.is_complex():
        return loops.complex_response(system, signal)
    if signal.device.type != "cpu":
        return answered_on_cuda(system, signal)
    return _selective(system, signal, out) or loops.memory_response(system, signal, out=out)


def _selective(system: System, signal: Tensor, out: Tensor | None) -> Answer | None:
    channels = loops.channels_of(system, signal)
    work = signal.numel() * system.state_size
    if channels is None or not applies(*channels, work=work) or not channels.share:
        return None
    from dsf.systems.kernels.selective import selective_scan

    memory = None if out is None or out.ndim != signal.ndim else out[..., 0, 0].mT
    step, signal, skip = channels.step, channels.signal, channels.skip
    response = loops.output_memory(signal.mT.shape, signal, memory)
    leaving = torch.empty_like(channels.entering, memory_format=torch.contiguous_format)
    for one in product(*map(range, signal.shape[:-2])):
        selective_scan(
            step[one].mT,
            signal[one].mT,
            channels.pole[one],
            channels.write[one][0],
            channels.read[one][0],
            skip[one],
            channels.entering[one],
            into=(response[one], leaving[one]),
        )
    response = response.mT
    if not channels.has_fixed_skip:
        response = response + channels.feedthrough * signal
    return response[..., None, None], leaving.unsqueeze(-1)


def row_loops(system: System, last: int) -> RowLoops | None:
    """The compiled loops or kernels of the rows before token ``last``; None where none applies."""
    parts = stored_parts(system)
    if parts is None:
        return None
    heads = loops.heads_of(system)
    if heads is None and not loops.is_diagonal(system):
        return None
    work = system.batch.numel() * last * last * system.state_size // 2
    if system.device.type != "cpu":
        return partial(rows_on_cuda, system) if writes_on_cuda(system, parts, work=work) else None
    if not applies(*parts, work=work):
        return None
    if heads is None:
        return partial(loops.diagonal_rows, system)
    return partial(loops.head_rows, heads)


def stored_parts(system: System) -> list[Tensor] | None:
    """All tensors of a system with a diagonal A; None for other systems."""
    if not isinstance(system.A, Diagonal | SampledDiagonal | ScaledIdentity):
        return None
    parts = tensors_of(system.A)
    for part in (system.B, system.C, system.feedthrough):
        if isinstance(part, Coefficient) and not isinstance(part, SampledWrite):
            return None
        parts += [part] if isinstance(part, Tensor) else tensors_of(part)
    return parts
