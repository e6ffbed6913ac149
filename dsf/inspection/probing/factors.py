"""Finds the factors of what is linear in the values of a module, such as one over a deviation.

A factor is made of the values, but not linearly, and multiplies what is linear in them: held at its
number, as the weights of a softmax are, it leaves a linear function. It is looked for where numbers
that are linear in the values and others that are not go into one operation: what that returns is
linear where the others are held, and they change nothing in it where the linear ones are zero.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from dsf.inspection.capture.modes import unheard
from dsf.inspection.probing.driven import PAIRED
from dsf.inspection.recording import Memory, Operation, Recording, Value

Run = dict[int, Memory]
"""What was computed anew in a run, by the number of a version of memory."""


def factors_of(
    recording: Recording,
    value: Value,
    changed: Sequence[Tensor],
    wanted: Iterable[Value],
    rounding: float,
) -> list[Value]:
    """The values that only multiply what is linear in a value, on the way to the wanted ones.

    Args:
        changed: the value with a step added, and with ``PAIRED`` times that step taken away.
    """
    recording.replays += len(changed)
    recorded, found = recording.numbers, dict[Value, None]()

    def with_numbers(run: Run, numbers: Mapping[Value, Tensor]) -> Run:
        run = dict(run)
        for one, new in numbers.items():
            run[one.memory] = run.get(one.memory, recorded[one.memory]).clone()
            one.within(run[one.memory]).copy_(new)
        return run

    def is_bent(runs: Sequence[Run], one: Value) -> bool | None:
        """Whether a value changes, but not linearly; None if it does not change."""
        before, *after = (
            one.within(run.get(one.memory, recorded[one.memory])) for run in ({}, *runs)
        )
        if all(torch.equal(now, before) for now in after):
            return None
        if not (before.is_floating_point() or before.is_complex()):
            return True
        once, back = (now - before for now in after)
        bent = (back + PAIRED * once).abs().max()
        return not bool(bent <= rounding * PAIRED * once.abs().max())

    def bends(operation: Operation, runs: Sequence[Run]) -> bool:
        """Whether an operation returns what changes, but not linearly."""
        return any(is_bent(runs, out) for out in operation.outs if out.memory in operation.makes)

    def is_nothing(operation: Operation, runs: Sequence[Run], linear: Iterable[Value]) -> bool:
        """Whether an operation returns the same in all runs where what is linear is zero."""
        nothing = {one: torch.zeros((), dtype=one.dtype) for one in linear}
        zeros = (with_numbers(run, nothing) for run in runs)
        made = [recording.run(operation, run) for run in zeros]
        return all(
            torch.equal(*(out.within(one[out.memory]) for one in made))
            for out in operation.outs
            if out.memory in operation.makes
        )

    with torch.no_grad(), unheard():
        runs = [with_numbers({}, {value: new}) for new in changed]
        for number in recording.needed_for(frozenset(one.memory for one in wanted)):
            operation = recording.operations[number]
            if not any(one.memory in runs[0] for one in operation.reads):
                continue
            made = [recording.run(operation, run) for run in runs]
            if bends(operation, made):
                read = {one: is_bent(runs, one) for one in operation.reads}
                factors = [one for one, bent in read.items() if bent]
                linear = [one for one, bent in read.items() if bent is False]
                before = {one: recording.tensor(one) for one in factors}
                held = [with_numbers(run, before) for run in runs]
                of_held = [recording.run(operation, run) for run in held] if factors else made
                is_factor = bool(linear) and not bends(operation, of_held)
                if is_factor and is_nothing(operation, (runs[0], held[0]), linear):
                    made = of_held
                    found |= dict.fromkeys(factors)
            for run, new in zip(runs, made, strict=True):
                run.update(new)
    return list(found)
