"""A run written down as affine steps from the residual stream to the residual stream.

What is linear in the stream stays a step; what is not (a gate, the size a norm divides by) is held
as it was. Replayed on the stream of the run the steps give back what the model computed; replayed
on a part of it they say what that part contributes.
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
        number: grows along the run.
        shape: of what it gives.
        sources: whose results it takes; none for the stream that is put in.
        linear: takes the results of the sources, each with one more axis in front, and gives its
            own with that axis in front.
        rest: what it adds, without that axis; None for nothing.
    """

    number: int
    shape: torch.Size
    sources: tuple["Step", ...] = ()
    linear: Callable[..., Tensor] | None = None
    rest: Tensor | None = None


def contributed(
    start: Step, stop: Step, given: Float[Tensor, "front sample *axes"]
) -> Float[Tensor, "front sample *axes"]:
    """What ``given`` at ``start`` adds to the result of ``stop``, linear in ``given``.

    What reaches ``stop`` from before ``start`` on another way is not part of it.
    """
    chain, earlier = _between(start, stop)
    known = {step: given.new_zeros(len(given), *step.shape) for step in earlier}
    return _replayed(chain, known | {start: given}, stop, affine=False)


def left_over(
    start: Step, stop: Step, root: Step, stream: Shaped[Tensor, "*axes"]
) -> Shaped[Tensor, "*axes"]:
    """The result of ``stop`` if ``start`` gave zero: what biases and other ways around it leave.

    Args:
        root: the first step of the run.
        stream: what was put in there.
    """
    chain, earlier = _between(start, stop)
    known = {root: stream.unsqueeze(0)}
    for step in earlier:
        if step not in known:
            known[step] = _replayed(_between(root, step)[0], dict(known), step, affine=True)
    known[start] = stream.new_zeros(1, *start.shape)
    return _replayed(chain, known, stop, affine=True)[0]


def _between(start: Step, stop: Step) -> tuple[list[Step], list[Step]]:
    """The steps from ``start`` to ``stop`` in order, and those before ``start`` that they read."""
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
            raise ValueError("a stream that was put in elsewhere has no result to replay")
        result = step.linear(*(known[source] for source in step.sources))
        known[step] = result + step.rest if affine and step.rest is not None else result
        for source in step.sources:
            if last_read[source] is step:
                known.pop(source, None)
    return known[stop]
