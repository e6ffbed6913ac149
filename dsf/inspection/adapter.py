"""``Adapter``: the functions by which the modules of one family are read from a captured call.

``Structure``: the parameters by which a module is tried as one of a family, whatever its name. They
tell only that it may be one: the engine reads it as that and compares with the module in float64.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from math import prod
from typing import Any, TypeVar

from torch import Size, Tensor, nn
from torch.nn.parameter import is_lazy

from dsf.certificates import StoredLayer
from dsf.inspection.capture.calls import Call, Captured
from dsf.inspection.capture.weights import is_within
from dsf.inspection.whole.stages import AffineLayer, Chain, as_tokens
from dsf.mixers import Mixer

Parts = Iterable[Captured]


def one_layer(layer: Captured) -> Parts:
    return (layer,)


def _none(_: Captured) -> Tensor | None:
    return None


def alone(calls: Sequence[Call]) -> Sequence[Call]:
    """Calls that are layers on their own."""
    return calls


@dataclass(frozen=True)
class Adapter:
    """How the modules of one class, or of a few closely related classes, are read.

    Write one for modules of your own: pass it as ``dsf.inspect(model, ..., adapters=(MINE,))``, or
    name it under the entry point group ``dsf.adapters`` of your package.
    ``dsf.testing.check_adapter`` checks whether it is right.

    Attributes:
        families: the family name of every class path, such as
            ``transformers.models.mamba.modeling_mamba.MambaMixer``. Subclasses are read in the
            same way.
        read: the mixer that a module applied, recomputed from its parameters and its arguments.
        leave: the stages from the mixer's response to the module's output (output gate, norm,
            output projection). It is given the response as ``sample time width``.
        enter: the stages from the module's input to the mixer's values (projection, short
            convolution, activation). With it the whole layer is known, from input to output.
        takes: the name of the argument that ``enter`` starts from.
        finish: instead of ``leave``, a function from the mixer's response, in the mixer's axes, to
            the captured output. For modules where that is not a chain of stages, or where the
            captured output is not the module's output.
        whole: instead of ``enter`` and ``leave``, a function from the mixer to the whole layer.
        overlooked: the padding tokens whose output the module computes in another way than the
            mixer, as a boolean mask ``sample time``; None if there are none.
        idle: the rows of the captured output whose keys are all masked, as a boolean mask of its
            axes but the last; None if there are none. What is there is not a number of the layer,
            so that it is not rounding either.
        axes: what the batch axes of the mixer's system count.
        split: for a module that holds several mixers (the layers and directions of an LSTM): one
            captured call for each of them.
        join: for a module that is called once for every token (an LSTM cell): its calls, where
            consecutive calls of one sequence are merged into one.
        repeat: for such a module: its output where a copy of it in float64 goes through the joined
            call again, given that copy and the call's arguments.
        renew: where the module keeps buffers that it computed from others when it was built:
            computes them anew in its copy in float64, given that copy.
        rewrites_weights: whether the model writes into its weights when it runs, so that a copy of
            them must be taken for the run.
        stored: the weights behind the map of one head or channel, given the module, the arguments
            of its call and the number of the head; None if ``StoredLayer`` has no such kind.
        tolerance: the largest relative error allowed when the model runs in float64 throughout.
    """

    families: Mapping[str, str]
    read: Callable[[Captured], Mixer]
    leave: Callable[[Captured, Tensor], Chain] | None = None
    enter: Callable[[Captured], Chain] | None = None
    takes: str = "hidden_states"
    finish: Callable[[Captured, Tensor], Tensor] | None = None
    whole: Callable[[Any], AffineLayer] | None = None
    overlooked: Callable[[Captured], Tensor | None] = _none
    idle: Callable[[Captured], Tensor | None] = _none
    axes: tuple[str, ...] = ("sample", "head")
    split: Callable[[Captured], Parts] = one_layer
    join: Callable[[Sequence[Call]], Sequence[Call]] = alone
    repeat: Callable[[Any, Mapping[str, Any]], Any] | None = None
    renew: Callable[[Any], None] | None = None
    rewrites_weights: bool = False
    stored: Callable[[Any, Mapping[str, Any], int], StoredLayer] | None = None
    tolerance: float = 1e-12

    def finished(self, layer: Captured, mixer: Any, mixed: Tensor) -> Tensor:
        """The module's output, from the response of its mixer."""
        if self.finish is not None:
            return self.finish(layer, mixed)
        if self.leave is None:
            raise TypeError(
                "Adapter: one of 'leave' and 'finish' must be given, since they compute the "
                "module's output from the mixer's response, but both are None."
            )
        response = as_tokens(mixed, mixer.value)
        return self.leave(layer, response)(response)


Part = TypeVar("Part")
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


Shapes = Mapping[str, Size]


def shapes_of(module: nn.Module) -> Shapes:
    """The shapes of a module's parameters and buffers; a lazy one has none before it runs."""
    named = (*module.named_parameters(), *module.named_buffers())
    return {name: part.shape for name, part in named if not is_lazy(part)}


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
            them such as ``rank+2*state``. A last axis that may be missing ends in ``?``.
        called: other names of parameters, or modules that hold some: ``"key": ("k_proj",)``.
        settings: attributes that the adapter looks up in a module of the family, computed from a
            module and the sizes of its axes; of several the first that fits.
    """

    title: str
    family: str
    adapter: Adapter
    parameters: Mapping[str, str]
    settings: Callable[[nn.Module, Sizes], Iterable[Settings]] = AS_THEY_ARE
    called: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def sizes(self, held: Shapes) -> Sizes | None:
        """The sizes of the axes in a module; None where it is not made like this."""
        shapes: list[tuple[str, int]] = []
        renamed = self._renamed(held)
        for name, axes in self.parameters.items():
            words, shape = axes.split(), renamed.get(name)
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

    def _renamed(self, parts: Mapping[str, Part]) -> Mapping[str, Part]:
        """What belongs to parameters, under the names that the adapter looks up, too."""
        named = {
            path + name.removeprefix(other): parts[name]
            for path, others in self.called.items()
            for other in reversed(others)
            for name in parts
            if is_within(other, name)
        }
        return {**named, **parts} if named else parts

    def readings(self, module: nn.Module) -> Iterator[Adapter]:
        """The adapters by which a module is tried, the likeliest first."""
        sizes = self.sizes(shapes_of(module))
        for settings in () if sizes is None else self.settings(module, sizes):
            yield replace(self.adapter, split=partial(self._as_one_of, settings))

    def _as_one_of(self, settings: Settings, layer: Captured) -> Parts:
        """The call with the names of its input, settings and weights that the adapter knows."""
        module = copy.copy(layer.module)
        module.__dict__ = {**vars(layer.module), **settings}
        takes, arguments = self.adapter.takes, dict(layer.arguments)
        if takes not in arguments:
            for name, part in layer.arguments.items():
                if isinstance(part, Tensor) and part.ndim == TOKENS and part.is_floating_point():
                    arguments = {takes: arguments.pop(name), **arguments}
                    break
        weights, ran = self._renamed(layer.weights), self._renamed(layer.ran)
        return (replace(layer, module=module, arguments=arguments, weights=weights, ran=ran),)


def _evaluated(word: str, known: Sizes) -> int:
    terms = (term.split("*") for term in word.split("+"))
    return sum(prod(int(x) if x.isdecimal() else known[x] for x in term) for term in terms)


def groups_of(
    module: nn.Module, names: Iterable[str], heads: int, width: int, *, likely: int
) -> list[int]:
    """In how many groups heads and a width may fall: as settings say first, then the likely one."""
    named = (getattr(module, name, None) for name in names)
    found = [*(each for each in named if isinstance(each, int)), likely, *range(1, heads + 1)]
    return [each for each in dict.fromkeys(found) if each > 0 and heads % each == 0 == width % each]
