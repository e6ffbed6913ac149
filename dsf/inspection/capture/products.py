"""Remembers products with the weights of one module, which its run and its adapter both need.

A product with the same weight and the same numbers is the same product, bit for bit, so it is
computed once.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from dsf.inspection.capture.integrity import times_written


class Product(NamedTuple):
    """One product, and how often its input and its result had been written into then."""

    name: str
    given: Tensor
    result: Tensor
    versions: tuple[int, int]


class Products:
    """The products with projections of one module, by the names of these."""

    def __init__(self) -> None:
        self._known: list[Product] = []
        self._closed = False

    def add(self, name: str, given: Tensor, result: Tensor) -> None:
        """Remember ``result``, of the projection ``name``, until ``close``."""
        if self._closed:
            return
        versions = times_written(given), times_written(result)
        self._known.append(Product(name, given.detach(), result.detach(), versions))

    def find(self, name: str, given: Tensor) -> Tensor | None:
        """The product of the projection ``name`` with the same numbers, if there was one."""
        for known in self._known:
            unchanged = known.versions == (times_written(known.given), times_written(known.result))
            if known.name == name and unchanged and _same(known.given, given):
                return known.result
        return None

    def close(self) -> None:
        """Let go of all of them, and take no more."""
        self._known.clear()
        self._closed = True


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)


class RememberedProducts(TorchFunctionMode):
    """While active, products with the projections of ``module`` are added to ``products``."""

    def __init__(self, module: nn.Module, products: Products) -> None:
        super().__init__()
        self._products = products
        self._name_of = {id(part): name for name, part in module.named_parameters()}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is linear and not kwargs and len(args) > 1:
            given, weight, bias = (*args, None)[:3]
            name, _, kind = self._name_of.get(id(weight), "").rpartition(".")
            wanted = f"{name}.bias" if f"{name}.bias" in self._name_of.values() else None
            if kind == "weight" and self._name_of.get(id(bias)) == wanted:
                self._products.add(name, given, result)
        return result
