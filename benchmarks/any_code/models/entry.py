"""``Model``: one model of a public package, and where its tokens are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

TOKENS, SAMPLES, WORDS = 24, 2, 50


@dataclass(frozen=True)
class Model:
    """One model with an input.

    Attributes:
        package: its distribution in the package index.
        name: what it is called in the table.
        build: makes the model in a small configuration.
        inputs: makes what it is called with, arguments and keywords.
        source: the path of the module whose output are the first tokens; None where these are an
            argument of the model.
        argument: which of the tensors that the model is called with holds the tokens.
        axes: the axes of the source along which its tokens lie.
        sample: the axis of its samples; None if there is none.
        ends: patterns of paths of the modules at which tokens end: pooling, merging, heads.
        further: paths of the modules that make fewer tokens of these, in running order, as between
            the stages of a pyramid, each with its axes. They are sources of their own, and the
            tokens of one source end at the next.
        sorts: patterns of paths of modules that sort their tokens by what these are, such as by
            expert: only what they return is looked at.
    """

    package: str
    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]
    source: str | None = None
    argument: int = 0
    axes: tuple[int, ...] = (1,)
    sample: int | None = 0
    ends: Sequence[str] = field(default=())
    sorts: Sequence[str] = field(default=("*.experts",))
    further: Sequence[tuple[str, tuple[int, ...]]] = field(default=())

    @property
    def key(self) -> str:
        """What names the model in the record."""
        return f"{self.package}: {self.name}"

    def stages(self) -> "list[Model]":
        """This model once for every source, with the ends of the tokens of that source."""
        sources = ((self.source, self.axes), *self.further)
        nexts = (*((path,) for path, _ in self.further), ())
        return [
            replace(self, source=source, axes=axes, ends=(*self.ends, *after), further=())
            for (source, axes), after in zip(sources, nexts, strict=True)
        ]


def get(where: str) -> Any:
    """The object at ``module:name``."""
    module, _, name = where.partition(":")
    return getattr(import_module(module), name)


def given(*args: Any, **kwargs: Any) -> Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]:
    """What a model is called with."""
    return lambda: (args, kwargs)


def ids(tokens: int = TOKENS, samples: int = SAMPLES, words: int = WORDS) -> Tensor:
    """Whole numbers, ``sample token``."""
    rng = torch.Generator().manual_seed(1)
    return torch.randint(2, words - 1, (samples, tokens), generator=rng)


def numbers(*shape: int) -> Tensor:
    """Ordinary numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def built(where: str, *args: Any, **settings: Any) -> Callable[[], nn.Module]:
    """A function that makes the module at ``module:name``, imported only when it is called."""
    return lambda: get(where)(*args, **settings)
