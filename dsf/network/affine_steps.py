"""A recorded run as affine steps, from one residual stream to another, and how to replay them.

Operations that are linear in the stream are steps; everything else (a gate, the root mean square
that a norm divides by) is frozen at its value on this run. Replayed on the stream of the run, the
steps give the hidden states of the model; replayed on a part of it, the contribution of that part.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Step:
    """One affine operation of a run: ``linear(*sources) + rest``.

    Attributes:
        number: the position in the run.
        shape: the shape of the result.
        sources: the steps whose results it takes; none for the stream that the run starts from.
        linear: a function from the results of the sources to its own result, all with one more
            leading axis.
        rest: the constant it adds, without that axis; None for zero.
    """

    number: int
    shape: torch.Size
    sources: tuple["Step", ...] = ()
    linear: Callable[..., Tensor] | None = None
    rest: Tensor | None = None


def contributed(
    start: Step, stop: Step, given: Float[Tensor, "front sample *axes"]
) -> Float[Tensor, "front sample *axes"]:
    """What ``given``, as the result of ``start``, adds to the result of ``stop``.

    It is linear in ``given``. Paths that reach ``stop`` from before ``start`` without passing
    ``start`` are not included.
    """
    chain, earlier = _between(start, stop)
    known = {step: given.new_zeros(len(given), *step.shape) for step in earlier}
    return _replayed(chain, known | {start: given}, stop, affine=False)


def left_over(
    start: Step, stop: Step, root: Step, stream: Shaped[Tensor, "*axes"]
) -> Shaped[Tensor, "*axes"]:
    """The result of ``stop`` if that of ``start`` were zero: from biases and from other paths.

    Args:
        root: the first step of the run.
        stream: the result of ``root``.
    """
    chain, earlier = _between(start, stop)
    known = {root: stream.unsqueeze(0)}
    for step in earlier:
        if step not in known:
            known[step] = _replayed(_between(root, step)[0], dict(known), step, affine=True)
    known[start] = stream.new_zeros(1, *start.shape)
    return _replayed(chain, known, stop, affine=True)[0]


def _between(start: Step, stop: Step) -> tuple[list[Step], list[Step]]:
    """The steps from ``start`` to ``stop`` in order, and the earlier steps that they need."""
    chain: dict[Step, None] = {}
    earlier: dict[Step, None] = {}
    waiting = [stop]
    while waiting:
        step = waiting.pop()
        if step is start or step in chain or step in earlier:
            continue
        if step.number < start.number:
            earlier[step] = None
            continue
        chain[step] = None
        waiting.extend(step.sources)
    return sorted(chain, key=lambda step: step.number), list(earlier)


def _replayed(chain: list[Step], known: dict[Step, Tensor], stop: Step, *, affine: bool) -> Tensor:
    last_read = {source: step for step in chain for source in step.sources}
    for step in chain:
        if step.linear is None:
            raise ValueError(
                "a step without sources cannot be replayed: give its result, or start from it."
            )
        result = step.linear(*(known[source] for source in step.sources))
        known[step] = result + step.rest if affine and step.rest is not None else result
        for source in step.sources:
            if last_read[source] is step:
                known.pop(source, None)
    return known[stop]
