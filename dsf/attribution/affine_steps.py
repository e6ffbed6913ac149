"""A recorded run as affine steps, from one residual stream to another, and how to replay them.

Operations that are linear in the stream are steps; everything else (a gate, the root mean square
that a norm divides by) is frozen at its value on this run. Replayed on the stream of the run, the
steps give the hidden states of the model; replayed on a part of it, the contribution of that part;
replayed backward, the adjoint of a number.
"""

from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dsf.inspection.whole.affine_layer import transposed


@dataclass(frozen=True, eq=False)
class Functional:
    """``<weights, result>``, a linear functional of a result of this ``shape``.

    A logit belongs to one token: the weights may be those of some ``places``, zero elsewhere.
    """

    weights: Shaped[Tensor, "*axes"]
    shape: torch.Size
    places: tuple[slice, ...] = ()

    def dense(self) -> Shaped[Tensor, "*axes"]:
        """Its numbers at all places."""
        full = self.weights.new_zeros(self.shape)
        full[self.places] = self.weights
        return full

    def pair(
        self, result: Shaped[Tensor, "*axes"], *, absolute: bool = False
    ) -> Float[Tensor, " sample"]:
        return paired(self.weights, result.expand(self.shape)[self.places], absolute=absolute)

    def of_sample(self, sample: int) -> "Functional":
        """The same, zero for all samples but one."""
        alone = torch.zeros_like(self.weights)
        alone[sample] = self.weights[sample]
        return Functional(alone, self.shape, self.places)


def paired(
    weights: Shaped[Tensor, "*axes"], result: Shaped[Tensor, "*axes"], *, absolute: bool = False
) -> Float[Tensor, " sample"]:
    """The inner product of each sample, or the sum of the absolute values of its terms."""
    terms = weights * result
    return (terms.abs() if absolute else terms).flatten(1).sum(dim=1)


@dataclass(eq=False)
class Step:
    """One affine operation of a run: ``linear(*sources) + rest``, where None is zero.

    ``linear`` takes and returns results with one more leading axis. A gate was made by secants of
    activations, so that a product with another step is linear in that one.
    """

    number: int
    shape: torch.Size
    sources: tuple["Step", ...] = field(default=(), repr=False)
    linear: Callable[..., Tensor] | None = None
    rest: Tensor | None = None
    is_gate: bool = False


def contributed(
    start: Step, stop: Step, given: Float[Tensor, "front sample *axes"]
) -> Float[Tensor, "front sample *axes"]:
    """What ``given``, as the result of ``start``, adds to that of ``stop`` along paths from it."""
    added = _replayed({start: given}, [stop], constants=False)[stop]
    return given.new_zeros(len(given), *stop.shape) if added is None else added


def rebuilt(
    start: Step,
    given: Shaped[Tensor, "*given"] | None,
    stop: Step,
    root: Step,
    stream: Shaped[Tensor, "*axes"],
) -> Shaped[Tensor, "*result"]:
    """The result of ``stop`` where ``start`` has the result ``given``; None for zero."""
    known: dict[Step, Tensor | None] = {root: stream.unsqueeze(0)}
    known[start] = None if given is None else given.unsqueeze(0)
    result = _replayed(known, [stop], constants=True)[stop]
    return stream.new_zeros(()).expand(stop.shape) if result is None else result[0]


def linear_results(
    root: Step,
    stream: Shaped[Tensor, "*axes"],
    wanted: Collection[Step],
    results: Mapping[Step, Tensor],
) -> dict[Step, Tensor]:
    """The results of the ``wanted`` steps where constants are zero; those of the run if none is."""
    known = {root: stream}
    if all(step.rest is None for step in leading_to(wanted, known)):
        known |= results
    front: dict[Step, Tensor | None] = {step: part.unsqueeze(0) for step, part in known.items()}
    found = _replayed(front, wanted, constants=False)
    return {step: part[0] for step, part in found.items() if part is not None}


def _replayed(
    known: dict[Step, Tensor | None], wanted: Collection[Step], *, constants: bool
) -> dict[Step, Tensor | None]:
    """Return the results of the ``wanted`` steps, with or without what is constant."""
    chain = leading_to(wanted, known)
    kept = {step: known[step] for step in wanted if step in known}
    last_read = {source: step for step in chain for source in step.sources}
    for step in chain:
        given = [known[source] for source in step.sources]
        some = next((part for part in given if part is not None), None)
        result = None
        if some is not None:
            sized = zip(given, step.sources, strict=True)
            full = [
                some.new_zeros(len(some), *of.shape) if part is None else part for part, of in sized
            ]
            assert step.linear is not None  # noqa: S101  # it has sources
            result = step.linear(*full)
        if constants and step.rest is not None:
            rest = step.rest.unsqueeze(0)
            result = rest if result is None else result + rest
        known[step] = result
        if step in wanted:
            kept[step] = result
        for source in step.sources:
            if last_read[source] is step:
                known.pop(source, None)
    return kept


def pulled_back(step: Step, given: Tensor) -> tuple[Tensor, ...]:
    """The adjoint of a step: by how much the results it takes move ``<given, its result>``."""
    assert step.linear is not None  # noqa: S101  # it has sources
    known = getattr(step.linear, "adjoint", None)
    if known is not None:
        moved = known(given)
        return moved if isinstance(moved, tuple) else (moved,)
    front = [torch.Size((1, *source.shape)) for source in step.sources]
    return tuple(by[0] for by in transposed(step.linear, front, given.unsqueeze(0)))


def adjoints(
    stop: Step, functional: Functional, wanted: Set[Step], *, ends: Collection[Step] = ()
) -> tuple[dict[Step, Tensor], Shaped[Tensor, ""]]:
    """Carry ``functional`` of ``stop`` back to the ``wanted`` steps, and not beyond ``ends``.

    Also returned is what the constants of all steps add to it, over all samples together.
    """
    found, constant = {}, functional.weights.new_zeros(())
    waiting = {stop: functional.dense()}
    while waiting:
        step = max(waiting, key=lambda step: step.number)
        given = waiting.pop(step)
        if step in wanted:
            found[step] = given
        if step.rest is not None:
            constant = constant + (given * step.rest).sum()
        if step in ends or step.linear is None:
            continue
        for source, by in zip(step.sources, pulled_back(step, given), strict=True):
            waiting[source] = waiting[source] + by if source in waiting else by
    lacking = [step for step in wanted if step not in found]
    zeros = {step: functional.weights.new_zeros(step.shape) for step in lacking}
    return found | zeros, constant


def leading_to(wanted: Collection[Step], known: Collection[Step]) -> list[Step]:
    """The steps that the ``wanted`` ones need where those ``known`` are given, in order."""
    found: dict[Step, None] = {}
    waiting = list(wanted)
    while waiting:
        step = waiting.pop()
        if step in known or step in found:
            continue
        found[step] = None
        waiting.extend(step.sources)
    return sorted(found, key=lambda step: step.number)
