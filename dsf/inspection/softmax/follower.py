"""Records softmax attention that a module computes itself, from the scores to the values.

Many modelling files multiply queries and keys, add a mask or bias to the scores, call softmax and
multiply the values. A torch function mode sees these calls in any module; between them a tensor is
followed by its identity. If an operation on the scores or the weights is not understood, the
weights are recorded instead, which are the map. A softmax of anything but a product of two tensors
(experts, residual streams, additive attention) is not recorded.

``record_heads`` adds to a recorded call the number of heads and what the module computes before and
after the attention, which are known only once the module has returned.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from torch import Size, Tensor

from dsf.inspection.capture.calls import Call, Through, add_call
from dsf.inspection.capture.integrity import times_written
from dsf.inspection.capture.module_stack import Frame, ModuleStack, around
from dsf.inspection.capture.precision import home
from dsf.inspection.softmax.scores import (
    PRODUCTS,
    STACK,
    Normalised,
    Product,
    Scores,
    changed,
    explained,
    flat,
    product,
)
from dsf.inspection.softmax.torch_module import FUNCTION, call_tensors, functional_call

STARTS = {*PRODUCTS, "softmax", FUNCTION.__name__.strip("_")}
"""Names of the functions with which a softmax attention begins or continues."""
UNNORMALISED = "unnormalised"
"""The argument of a recorded call whose weights no softmax made."""


def record_heads(where: ModuleStack, call: Call, mixed: Tensor) -> None:
    """Once the module of ``call`` has returned, record the number of heads and its surroundings.

    ``heads`` is None where the attention makes only a part of the module's output.

    Args:
        mixed: the response as the module has it, ``*batch time channel``.
    """

    def record(frame: Frame, ran: int, given: Any, output: Any) -> None:
        put_out = first_tensor(output)
        behind = [one.given.shape[-1] for one in frame.projected[ran:]]
        heads = None if put_out is None else heads_of(mixed, put_out, behind)
        call.arguments["heads"] = heads
        if heads is not None:
            value = call.arguments["value"].unflatten(0, (-1, heads))
            merged = rearrange(mixed.flatten(0, -3), "(s h) t c -> s t (h c)", h=heads)
            call.surroundings = around(frame, ran, value, merged, given, output)

    where.after_call(call.module, record)


def first_tensor(output: Any) -> Tensor | None:
    """The first tensor in a module's output; None if there is none."""
    while isinstance(output, tuple | list | dict) and output:
        output = next(iter(output.values() if isinstance(output, dict) else output))
    return output if isinstance(output, Tensor) else None


def heads_of(mixed: Tensor, output: Tensor, behind: Sequence[int] = ()) -> int | None:
    """The number of heads; None where the attention makes only a part of the module's output.

    Args:
        mixed: the attention's response, ``*batch time channel``.
        output: the module's output, with channels in the last axis or, as images have them, second.
        behind: the input widths of the linear maps called after the attention.
    """
    if output.shape == mixed.shape and mixed.ndim > STACK:
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


class Follower:
    """Appends to ``calls`` every softmax between two products."""

    def __init__(self, where: ModuleStack, calls: list[Call]):
        self._where, self._calls = where, calls
        # The tensors are kept alive, so that no other tensor gets the same id.
        self._followed: dict[int, tuple[Tensor, Scores | Normalised]] = {}
        self._unused: list[Scores] = []

    def heard(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        """The output of a torch function that ran, or what an attention is to put out instead."""
        name = getattr(func, "__name__", "").strip("_")
        if name not in STARTS and not self._followed:
            return output
        if func is FUNCTION:
            call = functional_call(self._where, args, kwargs, output, len(self._calls))
            if call is not None:
                given = call_tensors(args, kwargs)
                call.seen = self._where.coordinates(**given, output=output[0])
                return add_call(self._calls, call, self._where, output)
        elif isinstance(output, Tensor) and output.ndim >= STACK:
            if name == "softmax":
                self._normalised(args, kwargs, output)
            elif (made := product(name, args, kwargs, output)) is not None:
                return self._multiplied(made, output)
            elif self._followed:
                self._passed_on(name, flat((*args, *kwargs.values())), output)
        return output

    def _multiplied(self, made: Product, output: Tensor) -> Tensor:
        """Record a product; its result, or what the attention is to put out instead."""
        self._where.count_product()
        for each in (made, made.transposed):
            weights = self._find(each.sources[0])
            if not isinstance(weights, Normalised) and self._where.are_weights(each):
                weights = self._as_weights(weights, each)
            if isinstance(weights, Normalised):
                return self._recorded(weights, each, output)
        self._forget()
        one = torch.ones((), dtype=torch.float64, device=home(output.device))
        scores = Scores(self._where.module, made, made.factor * one)
        self._unused.append(scores)
        self._follow(output, scores)
        return output

    def _as_weights(self, scores: Scores | None, made: Product) -> Normalised:
        """What values are multiplied with as it is: sigmoid, squares, decays."""
        used, module = made.sources[0], self._where.module
        if scores is None:
            scores = Scores(module, made, torch.ones((), dtype=torch.float64))
        self._unused = [one for one in self._unused if one.module is not scores.module]
        scores = replace(scores, plain=False)
        return Normalised(module, used, used, scores, times_written(used), is_softmax=False)

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
        if len(rivals) > 1 or output.shape[along] != scores.product.output.shape[-1]:
            scores = replace(
                scores, plain=False
            )  # the scores are more than one product of queries and keys
        self._follow(
            output, Normalised(self._where.module, given, output, scores, times_written(output))
        )

    def _passed_on(self, name: str, given: tuple[Any, ...], output: Tensor) -> None:
        for part in given:
            source = self._find(part)
            if source is not None:
                if output.numel() == part.numel() or output.shape[:-1] == part.shape[:-1]:
                    passed = changed(source, name, given, output)
                    if isinstance(passed, Scores) and output.shape != part.shape:
                        passed = replace(passed, laid_out=False)
                    self._follow(output, passed)
                return

    def _follow(self, tensor: Tensor, what: Scores | Normalised) -> None:
        self._followed[id(tensor)] = tensor, what

    def _find(self, part: Any) -> Scores | Normalised | None:
        entry = self._followed.get(id(part)) if isinstance(part, Tensor) else None
        return None if entry is None else entry[1]

    def _forget(self) -> None:
        """Forget the tensors of modules that have returned."""
        running = self._where.is_running
        self._unused = [one for one in self._unused if running(one.module)]
        self._followed = {
            key: entry for key, entry in self._followed.items() if running(entry[1].module)
        }

    def _recorded(self, weights: Normalised, made: Product, output: Tensor) -> Tensor:
        module = self._where.module
        if module is None or not self._where.records(self._where.name_of(module)):
            return output
        leading = made.output.shape[:-2]
        value = made.right.expand(*leading, *made.right.shape[-2:]).flatten(0, -3)
        arguments = explained(weights, made) | {"value": value.detach().clone()}
        if not weights.is_softmax:
            arguments[UNNORMALISED] = True
        mixed = made.output.detach().clone()
        call = Call(
            self._where.name_of(module),
            module,
            arguments,
            mixed.flatten(0, -3),
            len(self._calls),
            Through.FOLLOWED,
            weights_by=weights.module,
            product=self._where.products,
        )
        call.seen = self._where.coordinates(
            query=weights.scores.product.left, value=made.right, output=made.output
        )
        # The product may be a permuted view of the output, so that it is written into.
        put_out = add_call(self._calls, call, self._where, made.output)
        if put_out is not made.output:
            made.output.copy_(put_out)
        record_heads(self._where, call, mixed)
        return output
