"""``Done``: an operation of torch that ran."""

from collections.abc import Hashable
from functools import cached_property
from typing import Any

from torch import Tensor

from dsf.inspection.causal import operations as ops
from dsf.inspection.causal.coordinates import Coordinates


class Done:
    """An operation that ran: its function, arguments and outputs.

    Attributes:
        given, outs: the tensors of the arguments, and those of ``out``.
        made_of: the coordinates of the tensors in ``given``, once they are looked up.
        first: the coordinates of its first argument.
    """

    def __init__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        self.func, self.args, self.kwargs, self.out = func, args, kwargs, out
        self.given = ops.tensors_in((*args, *kwargs.values()) if kwargs else args)
        self.outs: list[Tensor] = []
        if isinstance(out, Tensor):
            self.outs = [out]
        elif isinstance(out, tuple | list):
            self.outs = ops.tensors_in(out)
        self.made_of: tuple[Coordinates | None, ...] = ()
        self.first: Coordinates | None = None

    @cached_property
    def kind(self) -> Hashable:
        """What it does, but for numbers: its function, shapes of tensors and other arguments."""
        args, kwargs = self.args, self.kwargs
        return self.func, *map(ops.plain, args), *map(ops.plain, kwargs.items())

    @property
    def name(self) -> str:
        """The name of the operation in torch."""
        return ops.name_of(self.func)

    @property
    def plain(self) -> str:
        """The same for its form that writes in place."""
        return self.name.rstrip("_")

    @property
    def has_numbers_alone(self) -> bool:
        """Whether no tensor of it holds truth values or whole numbers, such as an index."""
        return all(one.is_floating_point() or one.is_complex() for one in (*self.given, *self.outs))
