"""A system split in two along time, and two systems concatenated along time."""

from dataclasses import replace

import torch

from dsf.runtime.argument_checks import checked
from dsf.runtime.shapes import agree
from dsf.systems.algebra.structures import in_time
from dsf.systems.coefficient import cut_of, dense_of
from dsf.systems.system import System


@checked
def split_at(system: System, token: int) -> tuple[System, System]:
    """The system on the tokens before ``token``, and the system on the tokens from ``token`` on.

    The initial state stays with the part that is processed first. To continue with the other part,
    give it the state after the first: ``replace(second,
    initial=dsf.evaluate.final_state(first, signal))``. Lazily sampled coefficients stay lazy; the
    rows of an attention map are written out.

    Raises:
        ValueError: if one of the two would be empty.

    Example:
        >>> from dataclasses import replace
        >>> import dsf, torch
        >>> from dsf.systems import transition
        >>> one = torch.ones(5, 1)
        >>> system = dsf.System.from_write_and_read(transition.Diagonal(one / 2), one, one)
        >>> signal = torch.ones(5, 1, 1)
        >>> front, back = dsf.systems.algebra.split_at(system, 3)
        >>> state = dsf.evaluate.final_state(front, signal[:3])
        >>> dsf.respond(replace(back, initial=state), signal[3:]).flatten()
        tensor([1.8750, 1.9375])
        >>> dsf.respond(system, signal).flatten()
        tensor([1.0000, 1.5000, 1.7500, 1.8750, 1.9375])
    """
    if not 0 < token < system.steps:
        raise ValueError(
            f"split_at: needs 0 < token < {system.steps}, so that both parts have a token, "
            f"but token is {token}."
        )
    front, back = _cut(system, 0, token), _cut(system, token, system.steps)
    if system.runs_backward:
        return front, replace(back, initial=system.initial)
    return replace(front, initial=system.initial), back


def _cut(system: System, start: int, stop: int) -> System:
    return replace(
        system,
        A=system.A.cut(start, stop),
        B=cut_of(system.B, start, stop),
        C=cut_of(system.C, start, stop),
        D=cut_of(system.feedthrough, start, stop),
        initial=None,
    )


@checked
def concatenated(front: System, back: System) -> System:
    """One system on the tokens of ``front`` followed by those of ``back``, the state carried over.

    The inverse of :func:`split_at`. The structure of A is preserved where both systems have the
    same structure or both are diagonal; B, C and D are written out.

    Raises:
        ShapeError: if batch axes, numbers of states or numbers of ports differ.
        ValueError: if the two differ in ``reads_before_update``, ``takes_real_part`` or
            ``runs_backward``, or if the part that is processed second has an initial state of its
            own, which would contradict the state carried over.

    Example:
        >>> import dsf, torch
        >>> from dsf.systems import transition
        >>> one = torch.ones(5, 1)
        >>> system = dsf.System.from_write_and_read(transition.Diagonal(one / 2), one, one)
        >>> again = dsf.systems.algebra.concatenated(*dsf.systems.algebra.split_at(system, 2))
        >>> dsf.attention_map(again).equal(dsf.attention_map(system))
        True
    """
    agree("concatenated", "batch", front=tuple(front.batch), back=tuple(back.batch))
    agree("concatenated", "state", front=front.state_size, back=back.state_size)
    agree("concatenated", "input", front=front.input_size, back=back.input_size)
    agree("concatenated", "output", front=front.output_size, back=back.output_size)
    for name in ("reads_before_update", "takes_real_part", "runs_backward"):
        if getattr(front, name) != getattr(back, name):
            raise ValueError(f"concatenated: {name} must be the same in both, but it differs.")
    first, second = (back, front) if front.runs_backward else (front, back)
    if second.initial is not None:
        raise ValueError(
            "concatenated: the part that is processed second has an initial state, but it starts "
            "from the final state of the other one. Remove it: replace(system, initial=None)."
        )
    B, C, D = (
        torch.cat([dense_of(getattr(part, name)) for part in (front, back)], dim=-3)
        for name in ("B", "C", "feedthrough")
    )
    return replace(front, A=in_time(front.A, back.A), B=B, C=C, D=D, initial=first.initial)
