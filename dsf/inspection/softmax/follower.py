"""Listens to all torch functions of a run for softmax attention, fused or written out.

Between products of two stacks of matrices tensors are followed by their identity: the ``Scores`` of
a product, or the ``Normalised`` output of a softmax. ``explained`` gives query, key, scale and bias
that reproduce the weights; where an operation on the scores or the weights is not understood, the
weights are recorded instead, which are the map. A softmax of anything but a product of two tensors
(experts, residual streams, additive attention) is not recorded. ``MULTIHEAD`` reads torch's module
as a whole, by what its own code asks fused attention for.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Size, Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Call, Captured, Through, add_call, copied
from dsf.inspection.capture.containers import kept, tensors_in, times_written
from dsf.inspection.capture.modes import Functions, unheard
from dsf.inspection.capture.module_stack import Frame, ModuleStack, surroundings
from dsf.inspection.capture.precision import in_float64
from dsf.inspection.capture.weights import double_copy
from dsf.inspection.errors import InspectionError, UnreadableError
from dsf.inspection.softmax.attention import AttentionCall, adapter_of, as_bias, attention
from dsf.inspection.whole.stages import Chain, Project
from dsf.mixers import SoftmaxAttention

PRODUCTS = {"matmul", "bmm", "baddbmm", "einsum"}
EQUATION = re.compile(r"^([\w.]+),([\w.]+)->([\w.]+)$")
SPARE = "ZYXWVUTSRQPONMLKJIHGFEDCBA"
POSITIONAL = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
"""Arguments of ``torch.nn.functional.scaled_dot_product_attention``, in order."""
STACK = 3
"""The least number of axes of a stack of matrices; a tensor with two is taken for a weight."""


@dataclass(frozen=True, eq=False)
class Product:
    """A matrix product ``factor left @ right`` that a torch function computed.

    ``places`` are the axes of time and read in the function's output, counted from its end.
    """

    left: Shaped[Tensor, "*lefts time inner"]
    right: Shaped[Tensor, "*rights inner read"]
    sources: tuple[Tensor, Tensor]
    output: Shaped[Tensor, "*batch time read"]
    factor: float = 1.0
    places: tuple[int, int] = (-2, -1)

    @property
    def transposed(self) -> "Product":
        sources, places = self.sources[::-1], self.places[::-1]
        return Product(self.right.mT, self.left.mT, sources, self.output.mT, self.factor, places)


def product(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
) -> Product | None:
    """The product that the torch function ``name`` computed; None if it is none of two stacks."""
    if name == "einsum":
        return _contracted(args, output)
    given = [part for part in (*args, *kwargs.values()) if isinstance(part, Tensor)][-2:]
    if name not in PRODUCTS or len(given) < 2 or any(part.ndim < STACK for part in given):
        return None
    left, right = given
    return Product(left, right, (left, right), output, float(kwargs.get("alpha", 1.0)))


def _contracted(args: tuple[Any, ...], output: Tensor) -> Product | None:
    """The matrix product in an einsum of two stacks that sums over one axis; None if it is none."""
    # An operand may lack axes of the batch, such as that of heads where all share their keys. Of
    # the axes that only one operand has, that of its rows or columns is the last one of the output.
    written = args[0].replace(" ", "") if args and isinstance(args[0], str) else ""
    equation = EQUATION.match(written)
    operands = args[1] if len(args) == 2 and isinstance(args[1], tuple | list) else args[1:]
    if equation is None or len(operands) != 2 or any(part.ndim < STACK for part in operands):
        return None
    names = [*equation.groups()]
    for place, part in enumerate((*operands, output)):
        missing = part.ndim - len(names[place].replace("...", ""))
        spare = "".join(letter for letter in SPARE if letter not in written)
        names[place] = names[place].replace("...", spare[len(spare) - missing :] if missing else "")
    first, second, out = names
    summed = [axis for axis in first if axis in second and axis not in out]
    rows = [axis for axis in out if axis in first and axis not in second]
    columns = [axis for axis in out if axis in second and axis not in first]
    if len(summed) != 1 or not rows or not columns or len({*out}) != len(out):
        return None
    row, column = rows[-1], columns[-1]
    batch = [axis for axis in out if axis not in (row, column)]
    left = _laid_out(operands[0], first, [*batch, row, *summed])
    right = _laid_out(operands[1], second, [*batch, *summed, column])
    arranged = _laid_out(output, out, [*batch, row, column])
    if left is None or right is None or arranged is None:
        return None
    places = out.index(row) - len(out), out.index(column) - len(out)
    return Product(left, right, (operands[0], operands[1]), arranged, places=places)


def _laid_out(part: Tensor, axes: str, wanted: list[str]) -> Tensor | None:
    """``part`` with its axes in the order of ``wanted``, of size 1 where it lacks one."""
    # None if it has other axes.
    if any(axis not in wanted for axis in axes) or len({*axes}) != len(axes):
        return None
    there = (axis if axis in axes else "1" for axis in wanted)
    return rearrange(part, f"{' '.join(axes)} -> {' '.join(there)}")


MULTIPLIES = {"mul", "imul", "rmul", "multiply"}
DIVIDES = {"div", "truediv", "itruediv", "divide", "true_divide"}
# ADDS: what these functions add or mask is a bias of the scores. KEEPS: these keep all numbers.
ADDS = {"add", "iadd", "radd", "sub", "isub", "masked_fill", "where", "max", "maximum", "clamp"}
KEEPS = {"view", "reshape", "unflatten", "flatten", "squeeze", "unsqueeze", "contiguous", "clone"}
KEEPS |= {"to", "type", "type_as", "float", "double", "half", "bfloat16", "dropout"}


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores that a module makes of a product, ``laid_out`` while in the axes of its output."""

    module: nn.Module | None
    product: Product
    factor: float
    plain: bool = True
    laid_out: bool = True

    def summed_along(self, dim: int) -> "Scores | None":
        """The scores whose weights sum to one along an axis, counted from the end; else None."""
        # That is the axis of the keys; where it is that of the rows, the product is the other way.
        rows, columns = self.product.places if self.laid_out else (-2, -1)
        if dim == columns:
            return self
        turned = self.laid_out and dim == rows and columns != -1
        return replace(self, product=self.product.transposed) if turned else None


@dataclass(frozen=True, eq=False)
class Normalised:
    """The weights that a softmax makes of scores, or scores that are used as they are.

    ``written`` is torch's version counter of ``output``, which a later change in place raises.
    """

    module: nn.Module | None
    given: Tensor
    output: Tensor
    scores: Scores
    written: int | None


def changed(scores: Scores | Normalised, name: str, given: list[Any]) -> Scores | Normalised:
    """The scores, or the weights, after the torch function ``name`` was given them."""
    if isinstance(scores, Normalised) or name in ADDS or name in KEEPS:
        return scores
    if name in MULTIPLIES or name in DIVIDES:
        others = [part for part in given if isinstance(part, Tensor | int | float)][:2]
        factors = [float(x) for x in others if not isinstance(x, Tensor) or x.numel() == 1]
        if len(factors) == 1:
            times = factors[0] if name in MULTIPLIES else 1 / factors[0]
            return replace(scores, factor=scores.factor * times)
    return replace(scores, plain=False)


@unheard()
def explained(weights: Normalised, made: Product) -> dict[str, Any]:
    """Query, key, scale and bias that reproduce the weights in ``made``, or those weights."""
    # Tensors have one leading axis for all maps, map time width.
    each, scores = made.left.detach(), weights.scores  # one map for several values, perhaps
    used = each.expand(*made.output.shape[:-2], *each.shape[-2:]).flatten(0, -3)
    output = weights.output.detach()
    is_whole = output.numel() == used.numel() and times_written(output) == weights.written
    is_used = is_whole and torch.equal(used, output.reshape(used.shape).to(used.dtype))
    if not (scores.plain and is_used):  # the values' factor is not what the softmax returned
        return {"weights": kept(used)}
    leading = scores.product.output.shape[:-2]
    left, right = scores.product.left.detach(), scores.product.right.detach().mT
    query, key = (part.expand(*leading, *part.shape[-2:]).flatten(0, -3) for part in (left, right))
    scale = scores.factor
    products = scale * in_float64(query) @ in_float64(key).mT
    bias = _bias(products, query, key, scale, weights.given)
    return {"query": kept(query), "key": kept(key), "scale": scale, "bias": bias}


def _bias(
    products: Float[Tensor, "map time read"],
    query: Tensor,
    key: Tensor,
    scale: float,
    given: Tensor,
) -> Tensor | None:
    """What was added to the scaled products before softmax; None where that is only rounding."""
    # In half precision it is always kept, because there rounding is as large as some biases.
    bias = as_bias(in_float64(given.detach()).reshape(products.shape) - products)
    if not bool((bias != 0).any()):
        return None
    shown = bias > -torch.inf
    longest = (in_float64(part).norm(dim=-1).max() for part in (query, key))
    largest = abs(scale) * math.prod(longest)
    coarsest = max(torch.finfo(part.dtype).eps for part in (key, given))
    rounding = 16 * coarsest * largest
    if coarsest <= torch.finfo(torch.float32).eps and bool((bias[shown].abs() <= rounding).all()):
        return None if bool(shown.all()) else bias.masked_fill(shown, 0)
    return bias


STARTS = {*PRODUCTS, "softmax"}
"""Names of the functions with which a softmax attention begins or continues."""


def record_heads(where: ModuleStack, call: Call, mixed: Tensor) -> None:
    """Once the module of ``call`` has returned, record the number of heads and its surroundings."""
    # heads is None where the attention makes only a part of the module's output.

    @unheard()
    def record(frame: Frame, ran: int, given: Any, output: Any) -> None:
        put_out = next(iter(tensors_in(output)), None)
        behind = [one.given.shape[-1] for one in frame.projected[ran:]]
        heads = None if put_out is None else heads_of(mixed, put_out, behind)
        call.arguments["heads"] = heads
        if heads is not None:
            value = call.arguments["value"].unflatten(0, (-1, heads))
            merged = rearrange(mixed.flatten(0, -3), "(s h) t c -> s t (h c)", h=heads)
            call.surroundings = surroundings(frame, ran, value, merged, given, output, where.own)

    where.after_call(call.module, record)


def heads_of(mixed: Tensor, output: Tensor, behind: Sequence[int] = ()) -> int | None:
    """The number of heads; None where the attention makes only a part of the module's output."""
    if mixed.ndim > STACK and output.shape in (mixed.shape, mixed.transpose(-2, -3).shape):
        return mixed.shape[-3]
    for axis in (-1, 1):
        width = output.shape[axis]
        heads = _heads(mixed, output.movedim(axis, -1).shape[:-1])
        widths = {width, *behind} if axis == -1 else {width}
        if heads is not None and heads * mixed.shape[-1] in widths:
            return heads
    return None


def _heads(mixed: Tensor, tokens: Size) -> int | None:
    """The number of responses for every token, if ``tokens`` is the shape of whole samples."""
    steps, maps = mixed.shape[-2], mixed.shape[:-2].numel()
    heads, rest = divmod(maps * steps, max(tokens.numel(), 1))
    if rest or not heads or maps % heads or (mixed.ndim > STACK and mixed.shape[-3] != heads):
        return None
    fits = len(tokens) == 1 or steps in tokens or steps == tokens[1:].numel()
    return heads if fits else None


@contextmanager
def recording_softmax(where: ModuleStack, calls: list[Call]) -> Iterator[None]:
    """Append to ``calls`` every attention, fused or written out, of modules that none claims."""
    with where.followed(), SoftmaxListener(where, calls):
        yield


class SoftmaxListener(Functions):
    """One mode for all, since every mode that is active costs time at every call of torch."""

    def __init__(self, where: ModuleStack, calls: list[Call]):
        super().__init__()
        self._where, self._calls = where, calls
        self._followed: dict[Tensor, Scores | Normalised] = {}
        self._unused: list[Scores] = []

    def hears(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is functional.multi_head_attention_forward and not self._where.is_claimed():
            with self:
                return _opened(func)(*args, **kwargs)
        output = func(*args, **kwargs)
        # What a vectorising transform holds is nothing outside of it: no call could be kept.
        is_vectorised = isinstance(output, Tensor) and is_functorch_wrapped_tensor(output)
        if is_vectorised or self._where.is_claimed():
            return output
        if func is functional.scaled_dot_product_attention:
            output = self._fused(args, kwargs, output)
        name = getattr(func, "__name__", "").strip("_")
        if name not in STARTS and not self._followed:
            return output
        if isinstance(output, Tensor) and output.ndim >= STACK:
            if name == "softmax":
                self._normalised(args, kwargs, output)
            elif (made := product(name, args, kwargs, output)) is not None:
                return self._multiplied(made, output)
            elif self._followed:
                self._passed_on(name, tree_leaves((args, kwargs)), output)
        return output

    def _fused(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Any:
        """Record a call of the function; its output, or what it is to return instead."""
        where, module = self._where, self._where.module
        if module is None or not where.records(where.name_of(module)):
            return output
        given = dict(zip(POSITIONAL, args, strict=False)) | kwargs
        name = where.name_of(module)
        call = Call(name, module, copied(given), copied(output), Through.FUSED)
        if type(given.get("attn_mask")) not in (type(None), Tensor, nn.Parameter):
            call.refused = "its mask is of a class of its own, which says what it hides"
        seen = {"query": given.get("query"), "value": given.get("value"), "output": output}
        put_out = add_call(self._calls, call, where, output, seen)
        if output.ndim == 4:
            where.pass_surroundings(call, output.transpose(1, 2).flatten(-2))
        return put_out

    def _multiplied(self, made: Product, output: Tensor) -> Tensor:
        """Record a product; its result, or what the attention is to return instead."""
        number = self._where.count_product()
        for place, each in ((number, made), (-number, made.transposed)):
            weights = self._find(each.sources[0])
            if not isinstance(weights, Normalised) and self._where.are_weights(each, place):
                weights = self._as_weights(weights, each)
            if isinstance(weights, Normalised):
                return self._recorded(weights, each, output, place)
        running = self._where.frame_of  # the tensors of modules that have returned are forgotten
        self._unused = [one for one in self._unused if running(one.module)]
        followed = self._followed.items()
        self._followed = {tensor: what for tensor, what in followed if running(what.module)}
        scores = Scores(self._where.module, made, made.factor)
        self._unused.append(scores)
        self._followed[output] = scores
        return output

    def _as_weights(self, scores: Scores | None, made: Product) -> Normalised:
        """What values are multiplied with as it is: sigmoid, squares, decays."""
        used, module = made.sources[0], self._where.module
        scores = Scores(module, made, 1.0) if scores is None else scores
        self._unused = [one for one in self._unused if one.module is not scores.module]
        return Normalised(module, used, used, replace(scores, plain=False), times_written(used))

    def _normalised(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        given = args[0] if args else kwargs["input"]
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        scores = self._find(given)
        if dim is None or not isinstance(scores, Scores):
            return
        along = dim % output.ndim - output.ndim
        scores = scores.summed_along(along)
        if scores is None:
            return
        rivals = [one for one in self._unused if one.module is scores.module]
        self._unused = [one for one in self._unused if one.module is not scores.module]
        # The scores may be more than one product of queries and keys.
        is_one = len(rivals) <= 1 and output.shape[along] == scores.product.output.shape[-1]
        scores, written = scores if is_one else replace(scores, plain=False), times_written(output)
        module = self._where.module
        self._followed[output] = Normalised(module, given, output, scores, written)

    def _passed_on(self, name: str, given: list[Any], output: Tensor) -> None:
        for part in given:
            source = self._find(part)
            if source is not None:
                if output.numel() == part.numel() or output.shape[:-1] == part.shape[:-1]:
                    passed = changed(source, name, given)
                    if isinstance(passed, Scores) and output.shape != part.shape:
                        passed = replace(passed, laid_out=False)
                    self._followed[output] = passed
                return

    def _find(self, part: Any) -> Scores | Normalised | None:
        return self._followed.get(part) if isinstance(part, Tensor) else None

    def _recorded(self, weights: Normalised, made: Product, output: Tensor, place: int) -> Tensor:
        module = self._where.module
        if module is None or not self._where.records(self._where.name_of(module)):
            return output
        leading = made.output.shape[:-2]
        value = made.right.expand(*leading, *made.right.shape[-2:]).flatten(0, -3)
        arguments = explained(weights, made) | {"value": kept(value)}
        mixed = kept(made.output)
        call = Call(
            self._where.name_of(module),
            module,
            arguments,
            mixed.flatten(0, -3),
            Through.FOLLOWED,
            weights_by=weights.module,
            product=place,
        )
        query = weights.scores.product.left
        seen = {"query": query, "value": made.right, "output": made.output}
        # The product may be a permuted view of the output, so that it is written into.
        put_out = add_call(self._calls, call, self._where, made.output, seen)
        if put_out is not made.output:
            made.output.copy_(put_out)
        record_heads(self._where, call, mixed)
        return output


def _opened(func: Any) -> Callable[..., Any]:
    """A function of torch written in Python, whose own calls of torch are heard, not it itself."""
    names = {**func.__globals__, "has_torch_function": lambda _: False}
    return FunctionType(func.__code__, names, argdefs=func.__defaults__)


def _followed(layer: Captured) -> AttentionCall:
    """A call that was followed: queries, keys and a bias where these explain it; else weights."""
    given, heads = layer.arguments, layer.arguments.get("heads")
    if heads is None and layer.maps is None:
        raise UnreadableError(
            "it multiplies the output of a softmax with values, but that is only a part of its "
            "output (attention in blocks, several streams, or a further branch), so this would not "
            "be its map"
        )

    def in_heads(part: Any) -> Any:
        return part if part is None or heads is None else part.unflatten(0, (-1, heads))

    names = ("query", "key", "value", "bias", "weights")
    query, key, value, bias, weights = (in_heads(given.get(name)) for name in names)
    output, scale = in_heads(layer.output), given.get("scale")
    return AttentionCall(query, key, value, output, bias, weights, scale)


def join(calls: Sequence[Call]) -> Sequence[Call]:
    """The attentions of one module; only one, if some make only a part of the module's output."""
    parts = [call for call in calls if call.arguments.get("heads") is None]
    if len(parts) == len({call.invocation for call in parts}) and all(call.maps for call in parts):
        return calls
    for call in parts:
        call.maps = None
    return parts[:1] or calls


def _fully_masked(layer: Captured) -> Tensor | None:
    bias = layer.arguments.get("bias")
    return None if bias is None else (bias == -torch.inf).all(dim=-1)


FOLLOWED = adapter_of(_followed, idle=_fully_masked, join=join)


class _Fused(Functions):
    """Keeps what torch's fused attention is called with."""

    def hears(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is functional.multi_head_attention_forward:
            with self:
                return _opened(func)(*args, **kwargs)
        if func is functional.scaled_dot_product_attention:
            self.given = dict(zip(POSITIONAL, args, strict=False)) | kwargs
        return func(*args, **kwargs)


def read_torch(layer: Captured) -> SoftmaxAttention:
    """The mixer, of what the module's own code in float64 asks fused attention for."""
    module: Any = double_copy(layer.module)
    heard, plainly = _Fused(), {"need_weights": False, "is_causal": False}
    with torch.no_grad(), heard:
        nn.MultiheadAttention.forward(module, **{**layer.arguments, **plainly})
    query, key, value, mask = (heard.given[name] for name in POSITIONAL[:4])
    bias = None if mask is None else as_bias(mask)
    return attention(query, key, value, bias, scale=query.shape[-1] ** -0.5)


def finish_torch(
    layer: Captured, mixed: Shaped[Tensor, "*batch time output channel"]
) -> Shaped[Tensor, "*axes"]:
    """The response through the output projection, in the module's layout."""
    response = layer.project("out_proj", mixed.squeeze(-2).transpose(1, 2).flatten(-2))
    if layer.output.ndim == 2:
        return response.squeeze(0)
    return response if layer.module.batch_first else response.transpose(0, 1)


def _enter_torch(layer: Captured) -> Chain:
    module = layer.module
    extended = "bias_v" in layer.weights or module.add_zero_attn
    if layer.output.ndim == 2 or not module.batch_first or extended:
        raise InspectionError(
            f"{layer.name}: the whole layer is known only for batch_first=True, inputs of three "
            "axes, and without add_bias_kv and add_zero_attn. layer.map() gives the maps of its "
            "heads."
        )
    weights, bias = layer.weights, layer.weights.get("in_proj_bias")
    is_one = "in_proj_weight" in weights
    weight = weights["in_proj_weight"].chunk(3)[2] if is_one else weights["v_proj_weight"]
    return Chain((Project(weight, None if bias is None else bias.chunk(3)[2]),))


def _leave_torch(layer: Captured, _: Tensor) -> Chain:
    return Chain((layer.projection("out_proj"),))


MULTIHEAD = Adapter(
    families={"torch.nn.modules.activation.MultiheadAttention": "multihead"},
    read=read_torch,
    finish=finish_torch,
    enter=_enter_torch,
    leave=_leave_torch,
    takes="value",
)
