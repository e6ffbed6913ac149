"""A recorded run as affine steps, from one residual stream to another, and how to replay them.

Operations that are linear in the stream are steps; everything else (a gate, the root mean square
that a norm divides by) is frozen at its value on this run. Replayed on the stream of the run, the
steps give the hidden states of the model; replayed on a part of it, the contribution of that part;
replayed backward, the adjoint of a number.

Which torch functions are linear is said by the tables at the end (``SAME``, ``LAYOUT``, ``ADDING``,
``MULTIPLYING``, ...). ``pieces`` splits a call into a linear part and a constant; ``secant``,
``smallest`` and ``NORMS`` give the linear parts of activations, of modules that are not understood,
and of norms.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, vmap
from torch.nn import functional
from torch.utils._pytree import tree_flatten, tree_unflatten

from dsf.inspection.whole.affine_layer import transposed
from dsf.inspection.whole.stages import Project, Scale

Linear = Callable[..., Tensor]
Function = Callable[..., Any]

PLACED_AXES = 3
"""Minimum number of axes of a result of which a functional may hold some places alone."""


@dataclass(frozen=True, eq=False)
class Functional:
    """``<weights, result>``, a linear functional of a result, zero before the place ``start``.

    A logit belongs to one token of the output, so its numbers are held for a range of places along
    the second axis (the tokens, as a rule).

    Attributes:
        weights: its numbers, in the axes of the result; along the second for its own places alone.
        shape: that of the result.
        start: the first of its places.
    """

    weights: Shaped[Tensor, "*axes"]
    shape: torch.Size
    start: int = 0

    @classmethod
    def of(cls, weights: Shaped[Tensor, "*axes"]) -> "Functional":
        """The functional with these numbers everywhere."""
        return cls(weights, weights.shape)

    @classmethod
    def where_it_is(cls, weights: Shaped[Tensor, "*axes"]) -> "Functional":
        """The same, held from the first place to the last at which they are not all zero."""
        if weights.ndim < PLACED_AXES:
            return cls.of(weights)
        places = weights.flatten(2).any(dim=-1).any(dim=0).nonzero()
        if not len(places):
            return cls.of(weights)
        first, last = int(places[0]), int(places[-1])
        return cls(weights[:, first : last + 1], weights.shape, first)

    @property
    def places(self) -> slice:
        """Those at which it is held."""
        return slice(self.start, self.start + self.weights.shape[1])

    @property
    def is_everywhere(self) -> bool:
        """Whether all places are held."""
        return self.weights.shape == self.shape

    def dense(self) -> Shaped[Tensor, "*axes"]:
        """Its numbers at all places."""
        if self.is_everywhere:
            return self.weights
        full = self.weights.new_zeros(self.shape)
        full[:, self.places] = self.weights
        return full

    def at_its_places(self, result: Shaped[Tensor, "*axes"]) -> Shaped[Tensor, "*places"]:
        """What it has of a result, or of one of fewer numbers that is expanded to it."""
        if self.is_everywhere:
            return result
        return result.expand(self.shape)[:, self.places]

    def pair(
        self, result: Shaped[Tensor, "*axes"], *, absolute: bool = False
    ) -> Float[Tensor, " sample"]:
        """The inner product of each sample, or the sum of the absolute values of its terms."""
        return paired(self.weights, self.at_its_places(result), absolute=absolute)

    def of_sample(self, sample: int) -> "Functional":
        """The same, zero for all samples but one."""
        alone = torch.zeros_like(self.weights)
        alone[sample] = self.weights[sample]
        return Functional(alone, self.shape, self.start)


def paired(
    weights: Shaped[Tensor, "*axes"], result: Shaped[Tensor, "*axes"], *, absolute: bool = False
) -> Float[Tensor, " sample"]:
    """The inner product of each sample, or the sum of the absolute values of its terms."""
    terms = weights * result
    return (terms.abs() if absolute else terms).flatten(1).sum(dim=1)


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
        is_gate: whether activations made it, by their secants, so that a product with another
            step is linear in that one.
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
    """Return what ``given``, as the result of ``start``, adds to the result of ``stop``.

    It is linear in ``given``. Paths that reach ``stop`` from before ``start`` without passing
    ``start`` are not included.
    """
    added = _replayed({start: given}, [stop], constants=False)[stop]
    return given.new_zeros(len(given), *stop.shape) if added is None else added


def rebuilt(
    start: Step,
    given: Shaped[Tensor, "*given"] | None,
    stop: Step,
    root: Step,
    stream: Shaped[Tensor, "*axes"],
) -> Shaped[Tensor, "*result"]:
    """Return the result of ``stop`` if that of ``start`` is ``given``, that of ``root`` ``stream``.

    Args:
        given: None for zero: what is left comes from biases and from other paths.
        root: the first step of the run.
    """
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
    """Return the results of the ``wanted`` steps where every constant is zero.

    Without constants they are the results of the run, of which those at hand are taken.

    Args:
        root: the first step of the run.
        stream: the result of ``root``.
        results: of some steps, in the run.
    """
    known = {root: stream}
    if all(step.rest is None for step in leading_to(wanted, known)):
        known |= results
    front: dict[Step, Tensor | None] = {step: part.unsqueeze(0) for step, part in known.items()}
    found = _replayed(front, wanted, constants=False)
    return {step: part[0] for step, part in found.items() if part is not None}


def _replayed(
    known: dict[Step, Tensor | None], wanted: Collection[Step], *, constants: bool
) -> dict[Step, Tensor | None]:
    """Return the results of the ``wanted`` steps, with or without what is constant.

    Args:
        known: the results to start from, with one more leading axis; None for zero, which costs
            nothing. The first stream is zero where it is not among them. Results are dropped after
            their last use.
    """
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
            result = _linear(step)(*full)
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
    return adjoint_of(_linear(step), [source.shape for source in step.sources], given)


def adjoint_of(
    linear: Callable[..., Tensor], shapes: Sequence[torch.Size], cotangent: Tensor
) -> tuple[Tensor, ...]:
    """The adjoint of a function that is linear in tensors of ``shapes`` with one more axis."""
    if isinstance(linear, Transposable):
        moved = linear.adjoint(cotangent)
        return moved if isinstance(moved, tuple) else (moved,)
    front = [torch.Size((1, *shape)) for shape in shapes]
    return tuple(by[0] for by in transposed(linear, front, cotangent.unsqueeze(0)))


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
    return adjoints_and_constant(stop, functional, wanted, ends=ends)[0]


def adjoints_and_constant(
    stop: Step, functional: Functional, wanted: Set[Step], *, ends: Collection[Step] = ()
) -> tuple[dict[Step, Tensor], Shaped[Tensor, ""]]:
    """The adjoints, and what the constants of all steps add to ``functional`` of ``stop``.

    The constants are summed over all samples: a step need not have an axis of them.
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


def _linear(step: Step) -> Callable[..., Tensor]:
    if step.linear is None:
        raise ValueError(
            "a step without sources cannot be replayed: give its result, or start from it."
        )
    return step.linear


@runtime_checkable
class Transposable(Protocol):
    """A linear function of tensors whose adjoint needs no run of its own."""

    @property
    def __call__(self) -> Callable[..., Tensor]:
        """Its result."""

    def adjoint(self, cotangent: Tensor, /) -> Tensor | tuple[Tensor, ...]:
        """By how much the tensor, or each, moves the product of ``cotangent`` with the result."""


@dataclass(frozen=True)
class Addition:
    """``x + y`` of one shape."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def adjoint(self, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        return cotangent, cotangent


def writing(
    whole: Tensor, index: Any, value: Any, is_stream: tuple[bool, bool]
) -> tuple[Linear, Tensor | None] | None:
    """``whole[index] = value``, which has been run, as a linear function and a constant.

    None where an entry is written twice.

    Args:
        is_stream: whether ``whole`` and ``value`` are streams, which the function takes in this
            order; what is not is constant.
    """
    places = torch.arange(whole.numel(), device=whole.device).reshape(whole.shape)[index]
    value = torch.as_tensor(value, dtype=whole.dtype, device=whole.device)
    if places.unique().numel() != places.numel() or value.ndim > places.ndim:
        return None

    def written(whole: Tensor, value: Tensor) -> Tensor:
        given = value.expand(places.shape).flatten()
        return whole.flatten().scatter(0, places.flatten(), given).reshape(whole.shape)

    parts = whole, value
    none = [part.new_zeros(()).expand(part.shape) for part in parts]
    still = (
        zero if follows else part
        for part, zero, follows in zip(parts, none, is_stream, strict=True)
    )

    def of_streams(*streams: Tensor) -> Tensor:
        given = iter(streams)
        return written(
            *(
                next(given) if follows else zero
                for zero, follows in zip(none, is_stream, strict=True)
            )
        )

    return vmap(of_streams), unless_zero(written(*still))


def pieces(
    func: Function,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Any,
    streams: Sequence[Tensor],
) -> Iterator[tuple[Tensor, Linear, Tensor | None]]:
    """Every output tensor of a call, with its linear dependence on ``streams`` and its constant.

    The function must be affine in ``streams`` together; its other arguments are frozen. What is
    yielded does not keep the streams alive.
    """
    name = name_of(func)
    if name == "linear" and len(streams) == 1 and args and args[0] is streams[0]:
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        yield output, Project(weight), None if bias is None else bias.expand_as(output)
        return
    if not kwargs and (plain := _plain(name, args, output, streams)) is not None:
        yield output, plain, None
        return
    leaves, tree = tree_flatten((args, kwargs))
    at = [next((k for k, part in enumerate(streams) if part is leaf), None) for leaf in leaves]
    frozen = [None if k is not None else _alias(leaf) for leaf, k in zip(leaves, at, strict=True)]

    def again(*given: Tensor) -> Any:
        filled = [leaf if k is None else given[k] for leaf, k in zip(frozen, at, strict=True)]
        args, kwargs = tree_unflatten(filled, tree)
        return func(*args, **kwargs)

    still = None if name in HOMOGENEOUS else again(*map(torch.zeros_like, streams))
    if isinstance(output, Tensor):
        yield output, _linear_part(again, still), unless_zero(still)
        return
    for k, each in enumerate(output):
        part, rest = partial(_part_of, again, k), None if still is None else still[k]
        yield each, _linear_part(part, rest), unless_zero(rest)


def _plain(
    name: str, args: tuple[Any, ...], output: Any, streams: Sequence[Tensor]
) -> Transposable | None:
    """A product with one factor, or a sum of two streams of one shape; None for other calls."""
    tensors = [part for part in args if isinstance(part, Tensor)]
    if len(args) != 2 or len(tensors) != 2 or tensors[0] is tensors[1]:
        return None
    others = [part for part in tensors if all(part is not stream for stream in streams)]
    same = all(output.shape == stream.shape for stream in streams)
    if name == "add" and same and not others:
        return Addition()
    if name == "mul" and same and len(others) == len(streams) == 1:
        return Scale(_alias(others[0]))
    return None


def _alias(leaf: Any) -> Any:
    """The numbers of a tensor without the tensor, which is followed as long as anybody has it."""
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


def secant(
    value: Shaped[Tensor, "*axes"], given: Shaped[Tensor, "*axes"]
) -> Callable[[Tensor], Tensor]:
    """Multiplication by ``value / given``, elementwise; both must be zero in the same places."""
    return Scale(torch.where(given == 0, 0, value / torch.where(given == 0, 1, given)))


def smallest(
    value: Shaped[Tensor, "*axes output"], given: Shaped[Tensor, "*axes width"]
) -> tuple[Callable[[Tensor], Tensor], Tensor | None]:
    """For each token the matrix of smallest norm that maps ``given`` to ``value``: ``v gᵀ / |g|²``.

    Where ``given`` is zero there is none, and the value becomes the constant that is added.
    """
    square = given.square().sum(dim=-1, keepdim=True)
    along = given / torch.where(square == 0, 1, square)
    rest = torch.where(square == 0, value, 0)
    return lambda x: value * (x * along).sum(dim=-1, keepdim=True), unless_zero(rest)


def tensors_in(part: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dictionaries."""
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, tuple | list):
        for each in part:
            yield from tensors_in(each)
    elif isinstance(part, Mapping):
        for each in part.values():
            yield from tensors_in(each)


def _part_of(call: Callable[..., Any], k: int, *given: Tensor) -> Tensor:
    part: Tensor = call(*given)[k]
    return part


def _linear_part(call: Callable[..., Tensor], still: Tensor | None) -> Linear:
    constant = unless_zero(still)

    def linear(*given: Tensor) -> Tensor:
        result = vmap(call)(*given)
        return result if constant is None else result - constant

    return linear


def unless_zero(part: Tensor | None) -> Tensor | None:
    """``part``, or None if all its numbers are zero."""
    return part if part is not None and bool(part.any()) else None


# The result is the tensor itself, or a copy of it.
SAME = {
    "to", "float", "double", "type", "type_as", "contiguous", "clone", "detach", "requires_grad",
    "dropout", "dropout1d", "alpha_dropout", "feature_dropout", "cpu",
}  # fmt: skip
# Made of the numbers of their first tensor alone: another gives its number type or its shape.
OF_THE_FIRST = SAME | {"expand_as", "view_as", "reshape_as"}
# Linear in their first tensor, without reference to others.
LAYOUT = {
    "view", "reshape", "view_as", "reshape_as", "transpose", "permute", "unsqueeze", "squeeze",
    "flatten", "unflatten", "expand", "expand_as", "repeat", "repeat_interleave", "getitem",
    "chunk", "split", "unbind", "tensor_split", "swapaxes", "swapdims", "movedim", "moveaxis",
    "roll", "flip", "select", "narrow", "index_select", "take_along_dim", "gather", "pad", "t", "T",
    "mT", "neg", "sum", "mean", "cumsum", "masked_fill", "tril", "triu", "rearrange",
}  # fmt: skip
# Linear in all tensors together.
ADDING = {"add", "sub", "rsub", "cat", "stack", "where"}
# Linear in one tensor while the others are frozen.
MULTIPLYING = {
    "mul", "matmul", "bmm", "mm", "addmm", "baddbmm", "einsum", "linear", "conv1d", "conv2d",
}  # fmt: skip
# Zero where the tensors in which they are linear are zero.
HOMOGENEOUS = (LAYOUT - {"masked_fill", "pad"}) | {
    "mul", "matmul", "bmm", "mm", "einsum", "div", "attention",
}  # fmt: skip
# Linear in the first tensor while the second is frozen.
DIVIDING = {"div"}
# Linear in the third tensor, the values, while queries and keys are frozen.
MIXING = {"scaled_dot_product_attention"}
SYNONYMS = {
    "iadd": "add", "radd": "add", "isub": "sub", "imul": "mul", "rmul": "mul", "idiv": "div",
    "truediv": "div", "itruediv": "div", "concat": "cat", "concatenate": "cat",
}  # fmt: skip
# These use the shape and dtype of a tensor, not its values.
BLANK = {
    "new_empty", "new_zeros", "new_ones", "new_full", "new_tensor", "zeros_like", "ones_like",
    "empty_like", "full_like", "rand_like", "randn_like", "shape", "dtype", "device", "size", "dim",
    "numel", "is_floating_point",
}  # fmt: skip


def attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **named: Any) -> Tensor:
    """Fused attention as a matrix times the values; the matrix is its response to unit values."""
    unit = torch.eye(key.shape[-2], dtype=key.dtype, device=key.device)
    units = unit.expand(*key.shape[:-1], -1)
    weights = functional.scaled_dot_product_attention(query, key, units, *args, **named)
    return weights @ value.repeat_interleave(query.shape[-3] // value.shape[-3], dim=-3)


def replayed(name: str, func: Function) -> Function:
    """The function to call when a step is replayed, which does not write in place."""
    if name in MIXING:
        return attention
    if name not in ADDING | MULTIPLYING | DIVIDING:
        return func
    found: Function = getattr(torch, name, None) or getattr(functional, name)
    return found


# Elementwise, and zero where their argument is zero.
ACTIVATIONS = {
    "silu", "gelu", "relu", "relu6", "tanh", "elu", "celu", "selu", "leaky_relu", "hardswish",
    "mish", "softsign", "softshrink", "hardtanh", "tanhshrink", "square",
}  # fmt: skip


def name_of(func: Function) -> str:
    """``add`` for ``torch.add``, ``Tensor.add_`` and ``Tensor.__add__``; a property's own name."""
    name: str = getattr(func, "__name__", "")
    if name == "__get__":
        name = getattr(getattr(func, "__self__", None), "__name__", "")
    return name.strip("_")


def layer_norm(
    given: Tensor,
    shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Callable[[Tensor], Tensor], Tensor | None]:
    """A layer norm that divides by the deviation of this run: its linear part, and its bias."""
    axes = tuple(range(-len(shape), 0))
    factor = (given.var(dim=axes, correction=0, keepdim=True) + eps).rsqrt()
    factor = factor if weight is None else factor * weight
    rest = None if bias is None else bias.expand(given.shape)
    return lambda x: (x - x.mean(dim=axes, keepdim=True)) * factor, rest


def rms_norm(
    given: Tensor, shape: Any, weight: Tensor | None = None, eps: float | None = None
) -> tuple[Callable[[Tensor], Tensor], None]:
    """An RMS norm that divides by the root mean square of this run: its linear part."""
    axes = tuple(range(-len(shape), 0))
    least = torch.finfo(given.dtype).eps if eps is None else eps
    factor = (given.square().mean(dim=axes, keepdim=True) + least).rsqrt()
    return Scale(factor if weight is None else factor * weight), None


NORMS: dict[str, Callable[..., tuple[Callable[[Tensor], Tensor], Tensor | None]]] = {
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
}
