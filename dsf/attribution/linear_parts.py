"""Which torch functions are linear in the residual stream, and the linear part of their calls.

Tables (``SAME``, ``LAYOUT``, ``ADDING``, ``MULTIPLYING``, ...) say in which arguments a function is
linear. ``pieces`` splits a call into a linear part and a constant; ``secant``, ``smallest`` and
``NORMS`` give the linear parts of activations, of modules that are not understood, and of norms.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Shaped
from torch import Tensor, vmap
from torch.nn import functional

Linear = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a torch function: its arguments and its output."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


@runtime_checkable
class Transposable(Protocol):
    """A linear function of tensors whose adjoint needs no run of its own."""

    @property
    def __call__(self) -> Callable[..., Tensor]:
        """Its result."""

    def adjoint(self, cotangent: Tensor, /) -> tuple[Tensor, ...]:
        """By how much each tensor moves the inner product of ``cotangent`` with the result."""


@runtime_checkable
class Placewise(Transposable, Protocol):
    """One that treats every place of its second axis by itself, and has the axes of its tensors."""

    def at(self, places: slice, axis: int) -> Transposable:
        """The same for some places alone.

        Args:
            axis: the second one, counted from the end.
        """


@dataclass(frozen=True, eq=False)
class Elementwise:
    """``x * factor``, where the factor has no more entries than ``x``."""

    factor: Shaped[Tensor, "*axes"]

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.factor

    def adjoint(self, cotangent: Tensor) -> tuple[Tensor]:
        return (cotangent * self.factor,)

    def at(self, places: slice, axis: int) -> "Elementwise":
        if self.factor.ndim < -axis or self.factor.shape[axis] == 1:
            return self
        some = self.factor.narrow(axis, places.start, places.stop - places.start)
        return Elementwise(some)


@dataclass(frozen=True)
class Addition:
    """``x + y`` of one shape."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def adjoint(self, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        return cotangent, cotangent

    def at(self, places: slice, axis: int) -> "Addition":  # noqa: ARG002 (it has nothing of them)
        return self


@dataclass(frozen=True, eq=False)
class Projection:
    """``x @ weight.T``."""

    weight: Shaped[Tensor, "output width"]

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight)

    def adjoint(self, cotangent: Tensor) -> tuple[Tensor]:
        return (cotangent @ self.weight,)

    def at(self, places: slice, axis: int) -> "Projection":  # noqa: ARG002 (nor has it)
        return self


@dataclass(frozen=True, eq=False)
class Written:
    """What is left of a tensor where others were written into some of its places.

    It is linear in the streams among the two, which it takes in this order.

    Attributes:
        shape: of the whole tensor.
        places: for every number that was written, its place in the whole, counted row by row.
        given: the shape of the value before it was expanded to ``places``.
        into_stream, of_stream: whether the tensor, and the value, are streams; else constants.
    """

    shape: torch.Size
    places: Shaped[Tensor, "*written"]
    given: torch.Size
    into_stream: bool
    of_stream: bool

    def __call__(self, *parts: Tensor) -> Tensor:
        own = self.shape if self.into_stream else self.given
        lead = parts[0].shape[: parts[0].ndim - len(own)]
        places = self.places.flatten()
        if self.into_stream:
            whole = parts[0].reshape(*lead, -1).index_fill(-1, places, 0)
        else:
            whole = parts[0].new_zeros(*lead, self.shape.numel())
        if self.of_stream:
            axes = (1,) * (self.places.ndim - len(self.given))
            value = parts[-1].reshape(*lead, *axes, *self.given).expand(*lead, *self.places.shape)
            whole = whole.index_add(-1, places, value.reshape(*lead, -1))
        return whole.reshape(*lead, *self.shape)

    def rest(self, whole: Tensor) -> Tensor | None:
        """The numbers of ``whole`` that come from no stream."""
        written = torch.zeros(self.shape.numel(), dtype=torch.bool, device=whole.device)
        written = written.index_fill(0, self.places.flatten(), True).reshape(self.shape)
        kept = torch.where(written, not self.of_stream, not self.into_stream)
        return unless_zero(torch.where(kept, whole, 0))


def places_of(whole: Tensor, index: Any) -> Tensor | None:
    """The places that an index takes of a tensor, row by row; None where it takes one twice."""
    found = torch.arange(whole.numel(), device=whole.device).reshape(whole.shape)[index]
    return found if found.unique().numel() == found.numel() else None


def pieces(call: Call, streams: Sequence[Tensor]) -> Iterator[tuple[Tensor, Linear, Tensor | None]]:
    """Every output tensor of a call, with its linear dependence on ``streams`` and its constant.

    The function must be affine in ``streams`` together; its other arguments are frozen. What is
    yielded does not keep the streams alive.
    """
    name = name_of(call.func)
    if name == "linear" and len(streams) == 1 and any(part is streams[0] for part in call.args[:1]):
        yield call.output, *_projection(call.output, *call.args[1:], **call.kwargs)
        return
    if (plain := _plain(name, call, streams)) is not None:
        yield call.output, plain, None
        return
    holes = {id(part): _Hole(k) for k, part in enumerate(streams)}
    args, kwargs = _mapped((call.args, call.kwargs), lambda leaf: holes.get(id(leaf), _alias(leaf)))
    again = partial(_filled, call.func, args, kwargs)
    still = None if name in HOMOGENEOUS else again(*map(torch.zeros_like, streams))
    if isinstance(call.output, Tensor):
        yield call.output, _linear(again, still), unless_zero(still)
        return
    for k, each in enumerate(call.output):
        part, rest = partial(_part_of, again, k), None if still is None else still[k]
        yield each, _linear(part, rest), unless_zero(rest)


def _plain(name: str, call: Call, streams: Sequence[Tensor]) -> Transposable | None:
    """A product with one factor, or a sum of two streams of one shape; None for other calls."""
    tensors = [part for part in call.args if isinstance(part, Tensor)]
    if call.kwargs or len(call.args) != 2 or len(tensors) != 2 or tensors[0] is tensors[1]:
        return None
    others = [part for part in tensors if all(part is not stream for stream in streams)]
    same = all(call.output.shape == stream.shape for stream in streams)
    if name == "add" and same and not others:
        return Addition()
    if name == "mul" and same and len(others) == len(streams) == 1:
        return Elementwise(_alias(others[0]))
    return None


def _alias(leaf: Any) -> Any:
    """The numbers of a tensor without the tensor, which is followed as long as anybody has it."""
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


@dataclass(frozen=True)
class _Hole:
    """Stands for the ``k``-th stream among the arguments of a call."""

    k: int


def _filled(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *streams: Tensor
) -> Any:
    def stream_or_itself(leaf: Any) -> Any:
        return streams[leaf.k] if isinstance(leaf, _Hole) else leaf

    put, named = _mapped((args, kwargs), stream_or_itself)
    return func(*put, **named)


def _projection(
    output: Tensor, weight: Tensor, bias: Tensor | None = None
) -> tuple[Linear, Tensor | None]:
    return Projection(weight), None if bias is None else bias.expand_as(output)


def secant(
    value: Shaped[Tensor, "*axes"], given: Shaped[Tensor, "*axes"]
) -> Callable[[Tensor], Tensor]:
    """Multiplication by ``value / given``, elementwise; both must be zero in the same places."""
    return Elementwise(torch.where(given == 0, 0, value / torch.where(given == 0, 1, given)))


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


def _linear(call: Callable[..., Tensor], still: Tensor | None) -> Linear:
    constant = unless_zero(still)

    def linear(*given: Tensor) -> Tensor:
        result = vmap(call)(*given)
        return result if constant is None else result - constant

    return linear


def unless_zero(part: Tensor | None) -> Tensor | None:
    """``part``, or None if all its numbers are zero."""
    return part if part is not None and bool(part.any()) else None


def _mapped(part: Any, change: Callable[[Any], Any]) -> Any:
    """``part`` with every leaf of its tuples, lists and dictionaries changed."""
    if type(part) in (tuple, list):
        return type(part)(_mapped(each, change) for each in part)
    if type(part) is dict:
        return {name: _mapped(each, change) for name, each in part.items()}
    return change(part)


Function = Callable[..., Any]

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
ADDING: dict[str, Function] = {
    "add": torch.add,
    "iadd": torch.add,
    "radd": torch.add,
    "sub": torch.sub,
    "isub": torch.sub,
    "rsub": torch.rsub,
    "cat": torch.cat,
    "concat": torch.cat,
    "concatenate": torch.cat,
    "stack": torch.stack,
    "where": torch.where,
}
# Linear in one tensor while the others are frozen.
MULTIPLYING: dict[str, Function] = {
    "mul": torch.mul,
    "imul": torch.mul,
    "rmul": torch.mul,
    "matmul": torch.matmul,
    "bmm": torch.bmm,
    "mm": torch.mm,
    "addmm": torch.addmm,
    "baddbmm": torch.baddbmm,
    "einsum": torch.einsum,
    "linear": functional.linear,
    "conv1d": torch.conv1d,
    "conv2d": torch.conv2d,
}
# Zero where the tensors in which they are linear are zero.
HOMOGENEOUS = (LAYOUT - {"masked_fill", "pad"}) | {
    "mul", "matmul", "bmm", "mm", "einsum", "div", "attention",
}  # fmt: skip
# Linear in the first tensor while the second is frozen.
DIVIDING: dict[str, Function] = {
    "div": torch.div,
    "idiv": torch.div,
    "truediv": torch.div,
    "itruediv": torch.div,
}
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


# Linear in the third tensor, the values, while queries and keys are frozen.
MIXING: dict[str, Function] = {"scaled_dot_product_attention": attention}
REPLAYED = ADDING | MULTIPLYING | DIVIDING | MIXING
"""The function to call when a step is replayed, which does not write in place."""
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
    return Elementwise(factor if weight is None else factor * weight), None


NORMS: dict[str, Callable[..., tuple[Callable[[Tensor], Tensor], Tensor | None]]] = {
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
}
