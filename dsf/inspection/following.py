"""Softmax attention that a module computes on its own, followed from the scores to the values.

Many modelling files multiply queries and keys, add to the scores what they like, call softmax and
multiply the values. Whatever their modules are called, these three calls are seen; in between a
tensor is followed by its identity. Anything done to the scores or the weights that is not
understood leaves the weights themselves, which are the map. Softmax of other numbers than products
(experts, residual streams, additive attention) is none of this.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dsf.inspection.functional_attention import FUNCTION, functional_call
from dsf.inspection.hooks import Call, Through
from dsf.inspection.products import STACK, Product, flat, product
from dsf.inspection.scores import Normalised, Scores, changed, explained
from dsf.inspection.seal import version
from dsf.inspection.seen_heads import tell_heads
from dsf.inspection.whereabouts import Whereabouts


@contextmanager
def recording_followed(where: Whereabouts, calls: list[Call]) -> Iterator[None]:
    """Append every softmax between two products to ``calls`` that nothing else accounts for."""
    with _Follower(where, calls):
        yield


class _Follower(TorchFunctionMode):
    def __init__(self, where: Whereabouts, calls: list[Call]):
        super().__init__()
        self._where, self._calls = where, calls
        # The tensors are kept beside, so that no other gets their identity.
        self._followed: dict[int, tuple[Tensor, Scores | Normalised]] = {}
        self._unused: list[Scores] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func is FUNCTION and not self._where.is_claimed():
            call = functional_call(self._where, args, kwargs, output, len(self._calls))
            self._calls += [] if call is None else [call]
        elif isinstance(output, Tensor) and output.ndim >= STACK:
            name = getattr(func, "__name__", "").strip("_")
            if name == "softmax":
                self._normalised(args, kwargs, output)
            elif (made := product(name, args, kwargs, output)) is not None:
                self._multiplied(made, output)
            elif self._followed:
                self._passed_on(name, flat((*args, *kwargs.values())), output)
        return output

    def _multiplied(self, made: Product, output: Tensor) -> None:
        if self._where.is_claimed():
            return
        for each in (made, made.transposed):
            weights = self._find(each.sources[0])
            if isinstance(weights, Normalised):
                self._record(weights, each)
                return
        self._forget()
        one = torch.ones((), dtype=torch.float64, device=output.device)
        scores = Scores(self._where.module, made, made.factor * one)
        self._unused.append(scores)
        self._follow(output, scores)

    def _normalised(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        given = args[0] if args else kwargs["input"]
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        if dim not in (-1, output.ndim - 1) or self._where.is_claimed():
            return
        scores = self._find(given)
        if not isinstance(scores, Scores):
            return
        rivals = [one for one in self._unused if one.module is scores.module]
        self._unused = [one for one in self._unused if one.module is not scores.module]
        if len(rivals) > 1 or output.shape[-1] != scores.product.output.shape[-1]:
            scores = replace(scores, plain=False)  # more than queries times keys is in them
        self._follow(output, Normalised(self._where.module, given, output, scores, version(output)))

    def _passed_on(self, name: str, given: tuple[Any, ...], output: Tensor) -> None:
        for part in given:
            source = self._find(part)
            if source is not None:
                if output.numel() == part.numel() or output.shape[:-1] == part.shape[:-1]:
                    passed = changed(source, name, given, output)
                    self._follow(output, passed)
                return

    def _follow(self, tensor: Tensor, what: Scores | Normalised) -> None:
        self._followed[id(tensor)] = tensor, what

    def _find(self, part: Any) -> Scores | Normalised | None:
        entry = self._followed.get(id(part)) if isinstance(part, Tensor) else None
        return None if entry is None else entry[1]

    def _forget(self) -> None:
        """Let go of what modules did that are through."""
        running = self._where.is_running
        self._unused = [one for one in self._unused if running(one.module)]
        self._followed = {
            key: entry for key, entry in self._followed.items() if running(entry[1].module)
        }

    def _record(self, weights: Normalised, made: Product) -> None:
        module = self._where.module
        if module is None:
            return
        leading = made.output.shape[:-2]
        value = made.right.expand(*leading, *made.right.shape[-2:]).flatten(0, -3)
        arguments = explained(weights, made) | {"value": value.detach().clone()}
        mixed = made.output.detach().clone()
        call = Call(
            self._where.name_of(module),
            module,
            arguments,
            mixed.flatten(0, -3),
            len(self._calls),
            Through.FOLLOWED,
        )
        self._calls.append(call)
        tell_heads(self._where, call, mixed)
