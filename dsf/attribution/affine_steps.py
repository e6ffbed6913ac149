"""A run as affine steps: recorded one torch function at a time, replayed, and carried back.

Operations that are linear in the residual stream are steps, by the tables at the end (``SAME``,
``LAYOUT``, ...); everything else (a gate, the root mean square that a norm divides by) is frozen
at its value on this run. Replayed on the stream of the run, the steps give the hidden states of
the model; replayed on a part of it, the contribution of that part; replayed backward, the adjoint
of a number.
"""

from collections.abc import Callable, Collection, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, vmap
from torch.nn import functional
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.weak import WeakTensorKeyDictionary

from dsf.inspection.capture.containers import memory_key, tensors_in, times_written
from dsf.inspection.capture.modes import Functions
from dsf.inspection.recording import Value
from dsf.inspection.whole.stages import Project, Scale, transposed


@dataclass(frozen=True, eq=False)
class Functional:
    """``<weights, result>``, a linear functional of a result.

    A logit belongs to one token: the weights may be those of some ``places``, zero elsewhere.
    """

    weights: Tensor
    places: tuple[slice, ...] = ()

    def pair(self, result: Tensor, *, absolute: bool = False) -> Float[Tensor, " sample"]:
        return paired(self.weights, result[self.places], absolute=absolute)


def paired(weights: Tensor, result: Tensor, *, absolute: bool = False) -> Float[Tensor, " sample"]:
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


def replayed(
    known: dict[Step, Tensor | None], wanted: Collection[Step], *, constants: bool = False
) -> dict[Step, Tensor | None]:
    """Return the results of the ``wanted`` steps where some are ``known``; None is zero.

    What is constant is left out unless ``constants`` is set. Results have one more leading axis;
    those that are read for the last time leave ``known``.
    """
    chain = leading_to(wanted, known)
    kept = {step: known[step] for step in wanted if step in known}
    last_read = {source: step for step in chain for source in step.sources}
    for step in chain:
        given = [known[source] for source in step.sources]
        some = next((part for part in given if part is not None), None)
        result = None
        if some is not None and step.linear is not None:
            sized = zip(given, step.sources, strict=True)
            full = (
                some.new_zeros(len(some), *of.shape) if part is None else part for part, of in sized
            )
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
    known = getattr(step.linear, "adjoint", None)  # of stages, which have one source
    if known is not None:
        return (known(given),)
    front = [torch.Size((1, *source.shape)) for source in step.sources]
    return tuple(by[0] for by in transposed(step.linear, front, given.unsqueeze(0)))


def adjoints(
    stop: Step, functional: Functional, wanted: Set[Step], *, ends: Collection[Step] = ()
) -> dict[Step, Tensor]:
    """Carry ``functional`` of ``stop`` back to the ``wanted`` steps, and not beyond ``ends``."""
    found = {step: functional.weights.new_zeros(()).expand(step.shape) for step in wanted}
    everywhere = functional.weights.new_zeros(stop.shape)
    everywhere[functional.places] = functional.weights
    waiting = {stop: everywhere}
    while waiting:
        step = max(waiting, key=lambda step: step.number)
        given = waiting.pop(step)
        if step in wanted:
            found[step] = given
        if step in ends or step.linear is None:
            continue
        for source, by in zip(step.sources, pulled_back(step, given), strict=True):
            waiting[source] = waiting[source] + by if source in waiting else by
    return found


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


Linear = Callable[..., Tensor]
Function = Callable[..., Any]
Followed = Step | str
"""A step; or, of a value that is frozen on this run, the function that is not linear."""


class Follower(Functions):
    """Records the torch functions that are applied to the tensors it follows, unless it rests."""

    def __init__(self) -> None:
        super().__init__()
        self.resting = False
        self._numbers = count()
        # Weak, so that what the model throws away does not stay in memory.
        self._followed: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    @contextmanager
    def set(self, *, resting: bool) -> Iterator[None]:
        before, self.resting = self.resting, resting
        try:
            yield
        finally:
            self.resting = before

    def add(
        self,
        output: Tensor,
        sources: Sequence[Step] = (),
        linear: Callable[..., Tensor] | None = None,
        rest: Tensor | None = None,
        *,
        is_gate: bool = False,
    ) -> Step:
        """Follow ``output`` as ``linear(*sources) + rest``; without sources as the first stream."""
        step = Step(next(self._numbers), output.shape, tuple(sources), linear, rest, is_gate)
        self.follow(output, step)
        return step

    def follow(self, tensor: Tensor, what: Followed | None) -> None:
        self._followed[tensor] = what

    def forget(self) -> None:
        """Follow nothing any more: frozen values keep their tensors and this follower alive."""
        self._followed.clear()

    def find(self, part: Any) -> Followed | None:
        """What ``part`` is followed as; None if it does not depend on the stream."""
        found: Followed | None = self._followed.get(part) if isinstance(part, Tensor) else None
        return found

    def hears(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found: list[tuple[Tensor, Followed]] = []
        if not self.resting and self._followed:
            given = ((part, self.find(part)) for part in tensors_in((args, kwargs)))
            found = [(part, what) for part, what in given if what is not None]
        into = args[0] if found and args and isinstance(args[0], Tensor) else None
        before = times_written(into)
        earlier = into.clone() if into is not None and _may_write(func, args, kwargs) else into
        output = func(*args, **kwargs)
        if found:
            is_written = times_written(into) != before
            if is_written and earlier is not into:  # what it was given is no longer there
                args, kwargs, found = tree_map(
                    lambda part: earlier if part is into else part, (args, kwargs, found)
                )
            self._record(func, args, kwargs, output, found)
            if is_written and into is not None:
                self._written_through(into, name_of(func))
        return output

    def _record(
        self,
        func: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
        found: list[tuple[Tensor, Followed]],
    ) -> None:
        name = SYNONYMS.get(name_of(func), name_of(func))
        name = "floor_divide" if kwargs.get("rounding_mode") else name
        if name in BLANK:
            return
        if name in OF_THE_FIRST and args:  # of others it takes the shape or the number type
            found = found[:1] if found[0][0] is args[0] else []
        if not found:
            return
        given, first = found[0]
        leads = bool(args) and args[0] is given
        power = args[1] if name == "pow" and len(args) == 2 else None  # is zero at zero from 1 on
        is_power = isinstance(power, int | float) and power >= 1
        is_square = name == "mul" and len(found) == 2 and found[1][0] is given
        is_activation = name in ACTIVATIONS or is_power or is_square
        if (out := kwargs.get("out")) is not None:
            for each in tensors_in(out):
                self.follow(each, name)
                self._written_through(each, name)
        elif name == "setitem":
            self._write(*args)
        elif name in SAME and leads and isinstance(output, Tensor):
            self.follow(output, first)
        elif is_activation and leads and isinstance(first, Step):
            self.add(output, (first,), secant(output, given), is_gate=True)
        elif name in NORMS and leads and len(found) == 1 and isinstance(first, Step):
            self.add(output, (first,), *NORMS[name](*args, **kwargs))
        elif (streams := _streams(name, args, found)) is not None:
            self._add_linear(without_writing(name, func), args, kwargs, output, streams)
        else:
            reasons = [what for _, what in found if isinstance(what, str)]
            for each in tensors_in(output):
                self.follow(each, reasons[0] if reasons else name)

    def _add_linear(
        self,
        func: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
        streams: Sequence[tuple[Tensor, Step]],
    ) -> None:
        """Follow what a call put out that is affine in ``streams``; of gates alone it is a gate."""
        tensors, sources = zip(*streams, strict=True)
        is_gate = all(step.is_gate for step in sources)
        for each, linear, rest in pieces(func, args, kwargs, output, tensors):
            self.add(each, sources, linear, rest, is_gate=is_gate)

    def _written_through(self, written: Tensor, name: str) -> None:
        """What lies in the same memory holds from now on what was written into a tensor."""
        others = [one for one in self._followed if one is not written and _overlap(one, written)]
        if written._base is not None:
            others.append(written._base)
        for other in others:
            self.follow(other, name)

    def _write(self, whole: Tensor, index: Any, value: Any) -> None:
        """Follow a tensor into which ``value`` has just been written, no entry twice."""
        followed = [self.find(part) for part in (whole, value)]
        by_stream = any(self.find(part) is not None for part in tensors_in(index))
        self.follow(whole, "setitem")
        if by_stream or any(isinstance(what, str) for what in followed):
            return
        places = torch.arange(whole.numel(), device=whole.device).reshape(whole.shape)[index]
        value = torch.as_tensor(value, dtype=whole.dtype, device=whole.device)
        if places.unique().numel() != places.numel() or value.ndim > places.ndim:
            return

        def written(whole: Tensor, value: Tensor) -> Tensor:
            given = value.expand(places.shape).flatten()
            return whole.flatten().scatter(0, places.flatten(), given).reshape(whole.shape)

        pairs = list(zip((whole, value), followed, strict=True))
        args = tuple(part.clone() if what is None else part for part, what in pairs)
        streams = [(part, what) for part, what in pairs if isinstance(what, Step)]
        self._add_linear(written, args, {}, whole, streams)


def _streams(
    name: str, args: tuple[Any, ...], found: list[tuple[Tensor, Followed]]
) -> list[tuple[Tensor, Step]] | None:
    """The tensors in which a function is linear: one factor of a product; None if it is not."""
    steps = [(part, what) for part, what in found if isinstance(what, Step)]
    first = args[0] if args else None
    if name in ADDING:
        return steps if len(steps) == len(found) else None
    if name in LAYOUT:
        return steps if len(steps) == len(found) == 1 and steps[0][0] is first else None
    if name in MIXING:
        values = [known for known in steps if len(args) > 2 and known[0] is args[2]]
        return values if len(values) == 1 else None
    if name in MULTIPLYING:
        chosen = [(part, step) for part, step in steps if not step.is_gate] or steps
        if len(chosen) == 1 and (name != "div" or chosen[0][0] is first):
            return chosen
    return None


def pieces(
    func: Function,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Any,
    streams: Sequence[Tensor],
) -> Iterator[tuple[Tensor, Linear, Tensor | None]]:
    """Every output tensor of a call that is affine in ``streams``, its linear part and constant.

    What is yielded does not keep the streams alive.
    """
    name = name_of(func)
    if name == "linear" and len(streams) == 1 and args and args[0] is streams[0]:
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        yield output, Project(weight), None if bias is None else bias.expand_as(output)
        return
    leaves, tree = tree_flatten((args, kwargs))
    at = [next((k for k, part in enumerate(streams) if part is leaf), None) for leaf in leaves]
    # The numbers of a tensor without the tensor, which is followed as long as anybody has it.
    frozen = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]

    def again(*given: Tensor) -> Any:
        filled = [leaf if k is None else given[k] for leaf, k in zip(frozen, at, strict=True)]
        args, kwargs = tree_unflatten(filled, tree)
        return func(*args, **kwargs)

    still = None if name in HOMOGENEOUS else tensors_in(again(*map(torch.zeros_like, streams)))
    for k, each in enumerate(tensors_in(output)):
        rest = None if still is None else unless_zero(still[k])

        def linear(*given: Tensor, k: int = k, rest: Tensor | None = rest) -> Tensor:
            result = vmap(lambda *one: tensors_in(again(*one))[k])(*given)
            return result if rest is None else result - rest

        yield each, linear, rest


def secant(value: Tensor, given: Tensor) -> Callable[[Tensor], Tensor]:
    """Multiplication by ``value / given``, elementwise; both must be zero in the same places."""
    return Scale(torch.where(given == 0, 0, value / torch.where(given == 0, 1, given)))


def smallest(
    value: Shaped[Tensor, "*axes output"], given: Shaped[Tensor, "*axes width"]
) -> tuple[Callable[[Tensor], Tensor], Tensor | None]:
    """For each token the smallest matrix from ``given`` to ``value``, ``v gᵀ / |g|²``; a rest."""
    square = given.square().sum(dim=-1, keepdim=True)
    along = given / torch.where(square == 0, 1, square)
    rest = torch.where(square == 0, value, 0)
    return lambda x: value * (x * along).sum(dim=-1, keepdim=True), unless_zero(rest)


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
# Linear in one tensor, of a quotient the first, while the others are frozen.
MULTIPLYING = {
    "mul", "div", "matmul", "bmm", "mm", "addmm", "baddbmm", "einsum", "linear", "conv1d", "conv2d",
}  # fmt: skip
# Zero where the tensors in which they are linear are zero.
HOMOGENEOUS = (LAYOUT - {"masked_fill", "pad"}) | {
    "mul", "matmul", "bmm", "mm", "einsum", "div", "attention",
}  # fmt: skip
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


def without_writing(name: str, func: Function) -> Function:
    """The function to call when a step is replayed, which does not write in place."""
    if name in MIXING:
        return attention
    if name not in ADDING | MULTIPLYING and not _is_in_place(func):
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


def _overlap(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have elements that lie in one place of memory."""
    if memory_key(one) != memory_key(other):
        return False
    first, second = (
        Value(0, part.dtype, part.shape, part.stride(), int(part.storage_offset()))
        for part in (one, other)
    )
    return first.overlaps(second)


def _is_in_place(func: Function) -> bool:
    name = getattr(func, "__name__", "")
    return name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))


def _may_write(func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a function may write into its first tensor, as those with ``inplace=True`` do."""
    return _is_in_place(func) or any(part is True for part in (*args, *kwargs.values()))


def layer_norm(
    given: Tensor,
    shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Callable[[Tensor], Tensor], Tensor | None]:
    """A layer norm that divides by the deviation of this run: its linear part, and its bias."""
    axes = tuple(range(-len(shape), 0))
    scale, _ = rms_norm(given - given.mean(dim=axes, keepdim=True), shape, weight, eps)
    rest = None if bias is None else bias.expand(given.shape)
    return lambda x: scale(x - x.mean(dim=axes, keepdim=True)), rest


def rms_norm(
    given: Tensor, shape: Any, weight: Tensor | None = None, eps: float | None = None
) -> tuple[Callable[[Tensor], Tensor], None]:
    """An RMS norm that divides by the root mean square of this run: its linear part."""
    axes = tuple(range(-len(shape), 0))
    least = torch.finfo(given.dtype).eps if eps is None else eps
    factor = (given.square().mean(dim=axes, keepdim=True) + least).rsqrt()
    return Scale(factor if weight is None else factor * weight), None


NORMS: dict[str, Callable[..., Any]] = {"layer_norm": layer_norm, "rms_norm": rms_norm}
