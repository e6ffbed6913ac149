"""``Structure``: the parameters by which a module is tried as one of a family, whatever its name.

Names and axes of parameters tell only that a module may be one. The engine reads it as that and
compares with the module itself in float64: what fits is read, what does not fit is listed.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dsf.inspection.adapter import Adapter, Parts
from dsf.inspection.capture.calls import Captured

Sizes = Mapping[str, int]
Settings = Mapping[str, Any]
TOKENS = 3
"""The axes of an input that holds tokens: sample, time, width."""


def combinations(**choices: Iterable[Any]) -> Callable[[nn.Module, Sizes], Iterator[Settings]]:
    """A function that returns the settings with every combination of some choices."""

    def settings(_module: nn.Module, _sizes: Sizes) -> Iterator[Settings]:
        for values in product(*choices.values()):
            yield dict(zip(choices, values, strict=True))

    return settings


class StructureWeights:
    """The shapes of a module's parameters and buffers, by name; modules alike hold the same.

    Those that have none before a lazy module runs are left out.
    """

    def __init__(self, module: nn.Module):
        named = (*module.named_parameters(), *module.named_buffers())
        self.shapes = {name: part.shape for name, part in named if not is_lazy(part)}
        self.paths = {
            name[:end]
            for name in self.shapes
            for end in (*(at for at, each in enumerate(name) if each == "."), len(name))
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StructureWeights) and self.shapes == other.shapes

    def __hash__(self) -> int:
        return hash(frozenset(self.shapes.items()))


AS_THEY_ARE = combinations()


@dataclass(frozen=True)
class Structure:
    """What a family's modules are made of, wherever they were written.

    Attributes:
        title: what the family is called in words.
        family: the family whose reading is tried.
        adapter: the adapter that reads it.
        parameters: by name the axes of every parameter that is needed, such as
            ``"dt_proj.weight": "inner rank"``. An axis is a name, a number, or a sum of products of
            them such as ``rank+2*state``; every name stands alone somewhere. A last axis that may
            be missing ends in ``?``.
        called: by name the other names under which a parameter, or the module that holds some, is
            known elsewhere, such as ``"key": ("k_proj",)``.
        settings: attributes that the adapter looks up in a module of the family, computed from a
            module and the sizes of its axes; of several the first that fits.
    """

    title: str
    family: str
    adapter: Adapter
    parameters: Mapping[str, str]
    settings: Callable[[nn.Module, Sizes], Iterable[Settings]] = AS_THEY_ARE
    called: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def sizes(self, held: StructureWeights) -> Sizes | None:
        """The sizes of the axes in a module; None where it is not made like this."""
        names = self._names(held)
        shapes: list[tuple[str, int]] = []
        for canonical, axes in self.parameters.items():
            words, shape = axes.split(), held.shapes.get(_renamed(canonical, names))
            least = len(words) - axes.endswith("?")
            if shape is None or not least <= len(shape) <= len(words):
                return None
            shapes += zip((word.rstrip("?") for word in words), shape, strict=False)
        known: dict[str, int] = {}
        for word, size in shapes:
            if word.isidentifier() and known.setdefault(word, size) != size:
                return None
        for word, size in shapes:  # a name that only stands doubled, such as inner+inner
            halves = set(word.split("+"))
            if len(halves) == 1 and halves.isdisjoint(known) and word not in known:
                known[halves.pop()] = size // (word.count("+") + 1)
        fits = all(_evaluated(word, known) == size for word, size in shapes)
        return known if fits else None

    def _names(self, held: StructureWeights) -> Mapping[str, str]:
        """By the name that the adapter knows the one that some parameters have here."""
        return {
            path: next((each for each in (path, *others) if each in held.paths), path)
            for path, others in self.called.items()
        }

    def readings(self, module: nn.Module) -> Iterator[Adapter]:
        """The adapters by which a module is tried, the likeliest first."""
        held = StructureWeights(module)
        sizes = self.sizes(held)
        if sizes is None:
            return
        names = {path: here for path, here in self._names(held).items() if path != here}
        for settings in self.settings(module, sizes):
            split = partial(_as_one_of, takes=self.adapter.takes, settings=settings, names=names)
            yield replace(self.adapter, split=split)


def _evaluated(word: str, known: Sizes) -> int:
    terms = (term.split("*") for term in word.split("+"))
    return sum(prod(int(x) if x.isdecimal() else known[x] for x in term) for term in terms)


def _renamed(name: str, names: Mapping[str, str]) -> str:
    for path, here in names.items():
        if name == path or name.startswith(f"{path}."):
            return here + name.removeprefix(path)
    return name


def _as_one_of(
    layer: Captured, *, takes: str, settings: Settings, names: Mapping[str, str]
) -> Parts:
    """The call as the adapter of the family knows it: its names of the input and of settings."""
    module = copy.copy(layer.module)
    module.__dict__ = {**vars(layer.module), **settings}
    arguments = dict(layer.arguments)
    if takes not in arguments:
        for name, part in layer.arguments.items():
            if isinstance(part, Tensor) and part.ndim == TOKENS and part.is_floating_point():
                arguments = {takes: arguments.pop(name), **arguments}
                break
    weights = layer.weights
    if names:  # the weights under the names that the adapter looks up
        back = {here: path for path, here in names.items()}
        weights = {_renamed(name, back): part for name, part in weights.items()}
    return (layer.replaced(module=module, arguments=arguments, weights=weights),)


def key_heads(module: nn.Module, heads: int, keys: int) -> list[int]:
    """How many heads of keys a delta rule may have: as a setting says, else every number."""
    named = [getattr(module, name, None) for name in ("num_k_heads", "num_heads", "n_heads")]
    said = [each for each in named if isinstance(each, int)]
    found = [*said, heads, *range(1, heads)]
    return [each for each in dict.fromkeys(found) if each > 0 and heads % each == 0 == keys % each]
