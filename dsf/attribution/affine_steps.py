"""A recorded run as affine steps, from one residual stream to another, and how to replay them.

Operations that are linear in the stream are steps; everything else (a gate, the root mean square
that a norm divides by) is frozen at its value on this run. Replayed on the stream of the run, the
steps give the hidden states of the model; replayed on a part of it, the contribution of that part.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dsf.attribution.functionals import Functional
from dsf.attribution.linear_parts import Placewise, Transposable


@dataclass(eq=False)
class Step:
    """One affine operation of a run: ``linear(*sources) + rest``.

    The step of a token mixer is recorded while the model runs, and what it computes is filled in
    once its layer is rebuilt.

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
    sources: tuple["Step", ...] = field(default=(), repr=False)
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
    return _replayed(chain, known | {start: given}, stop)


def rebuilt(
    start: Step,
    given: Shaped[Tensor, "*given"] | None,
    stop: Step,
    root: Step,
    stream: Shaped[Tensor, "*axes"],
) -> Shaped[Tensor, "*result"]:
    """The result of ``stop`` if that of ``start`` is ``given`` and that of ``root`` is ``stream``.

    Args:
        given: None for zero.
        root: the first step of the run.
    """
    chain, earlier = _between(start, stop)
    known: dict[Step, Tensor | None] = {root: stream.unsqueeze(0)}
    for step in earlier:
        if step not in known:
            known[step] = _affine(_between(root, step)[0], dict(known), step)
    known[start] = None if given is None else given.unsqueeze(0)
    result = _affine(chain, known, stop)
    return stream.new_zeros(()).expand(stop.shape) if result is None else result[0]


def left_over(
    start: Step, stop: Step, root: Step, stream: Shaped[Tensor, "*axes"]
) -> Shaped[Tensor, "*result"]:
    """The result of ``stop`` if that of ``start`` were zero: from biases and from other paths.

    Args:
        root: the first step of the run.
        stream: the result of ``root``.
    """
    return rebuilt(start, None, stop, root, stream)


def linear_results(
    root: Step,
    stream: Shaped[Tensor, "*axes"],
    wanted: Collection[Step],
    results: Mapping[Step, Tensor],
) -> dict[Step, Tensor]:
    """The results of the ``wanted`` steps where every constant is zero: what ``stream`` adds there.

    Without constants they are the results of the run, of which those at hand are taken.

    Args:
        root: the first step of the run.
        stream: the result of ``root``.
        results: of some steps, in the run.
    """
    chain = leading_to(wanted, {root})
    known = {root: stream}
    if all(step.rest is None for step in chain):
        known |= results
        chain = leading_to(wanted, known)
    kept = {step: known[step] for step in wanted if step in known}
    last_read = {source: step for step in chain for source in step.sources}
    for step in chain:
        known[step] = _linear(step)(*(known[source].unsqueeze(0) for source in step.sources))[0]
        if step in wanted:
            kept[step] = known[step]
        for source in step.sources:
            if last_read[source] is step:
                known.pop(source, None)
    return kept


def pulled_back(step: Step, given: Functional) -> tuple[Functional, ...]:
    """The adjoint of a step: by how much the results it takes move ``<given, its result>``."""
    linear, shapes = _linear(step), [source.shape for source in step.sources]
    if not given.is_everywhere and isinstance(linear, Placewise):
        moved = linear.at(given.places, 1 - len(step.shape)).adjoint(given.weights)
        return tuple(
            Functional(by, shape, given.start) for by, shape in zip(moved, shapes, strict=True)
        )
    return tuple(given.carried_to(by) for by in adjoint_of(linear, shapes, given.dense()))


def adjoint_of(
    linear: Callable[..., Tensor], shapes: Sequence[torch.Size], cotangent: Tensor
) -> tuple[Tensor, ...]:
    """The adjoint of a function that is linear in tensors of ``shapes`` with one more axis."""
    if isinstance(linear, Transposable):
        return linear.adjoint(cotangent)
    with torch.inference_mode(False), torch.enable_grad():
        given = [cotangent.new_zeros(1, *shape, requires_grad=True) for shape in shapes]
        result = linear(*given)
        moved = torch.autograd.grad(result, given, cotangent.unsqueeze(0), allow_unused=True)
    return tuple(
        part.new_zeros(part.shape[1:]) if by is None else by[0]
        for part, by in zip(given, moved, strict=True)
    )


def adjoints(
    stop: Step, functional: Functional, wanted: Set[Step], *, ends: Collection[Step] = ()
) -> dict[Step, Tensor]:
    """Carry ``functional`` of the result of ``stop`` back through the run to the ``wanted`` steps.

    Args:
        ends: the steps that it is not carried beyond.

    Returns:
        The functional of each wanted step, with the shape of its result; zero where it does not
        depend on that step.
    """
    found = {}
    for step, given in _carried_back(stop, functional, ends):
        if step in wanted:
            found[step] = given.dense()
    return _or_zero(found, wanted, functional)


def adjoints_and_constant(
    stop: Step, functional: Functional, wanted: Set[Step]
) -> tuple[dict[Step, Tensor], Shaped[Tensor, ""]]:
    """The adjoints, and what the constants of all steps add to ``functional`` of ``stop``.

    The constants are summed over all samples: a step need not have an axis of them.
    """
    found, constant = {}, functional.weights.new_zeros(())
    for step, given in _carried_back(stop, functional):
        if step in wanted:
            found[step] = given.dense()
        if step.rest is not None:
            constant = constant + (given.weights * given.at_its_places(step.rest)).sum()
    return _or_zero(found, wanted, functional), constant


def _or_zero(
    found: dict[Step, Tensor], wanted: Set[Step], functional: Functional
) -> dict[Step, Tensor]:
    lacking = [step for step in wanted if step not in found]
    return found | {step: functional.weights.new_zeros(step.shape) for step in lacking}


def _carried_back(
    stop: Step, functional: Functional, ends: Collection[Step] = ()
) -> Iterator[tuple[Step, Functional]]:
    """The functional of every step that ``stop`` depends on, last to first, up to ``ends``."""
    waiting = {stop: functional}
    while waiting:
        step = max(waiting, key=lambda step: step.number)
        given = waiting.pop(step)
        yield step, given
        if step in ends or step.linear is None:
            continue
        for source, by in zip(step.sources, pulled_back(step, given), strict=True):
            waiting[source] = waiting[source] + by if source in waiting else by


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


def _linear(step: Step) -> Callable[..., Tensor]:
    if step.linear is None:
        raise ValueError(
            "a step without sources cannot be replayed: give its result, or start from it."
        )
    return step.linear


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


def _replayed(chain: list[Step], known: dict[Step, Tensor], stop: Step) -> Tensor:
    """The linear part of the run: the result of ``stop`` where every constant is zero."""
    last_read = {source: step for step in chain for source in step.sources}
    for step in chain:
        known[step] = _linear(step)(*(known[source] for source in step.sources))
        for source in step.sources:
            if last_read[source] is step:
                known.pop(source, None)
    return known[stop]


def _affine(
    chain: list[Step], known: dict[Step, Tensor | None], stop: Step
) -> Shaped[Tensor, "*result"] | None:
    """The result of ``stop``, constants included; None for zero, which costs nothing."""
    last_read = {source: step for step in chain for source in step.sources}
    for step in chain:
        rest = None if step.rest is None else step.rest.unsqueeze(0)
        given = [known[source] for source in step.sources]
        some = next((part for part in given if part is not None), None)
        if some is None:
            known[step] = rest
        else:
            sized = zip(given, step.sources, strict=True)
            full = [some.new_zeros(1, *of.shape) if part is None else part for part, of in sized]
            result = _linear(step)(*full)
            known[step] = result if rest is None else result + rest
        for source in step.sources:
            if last_read[source] is step:
                known.pop(source, None)
    return known[stop]
