"""The paper's rules for the conditions of a linear mixer, applied to what a perturbation finds.

The rules themselves are an assumption here. C0: its state is bounded. C1: it can drop what it
holds, by a decay that follows the input, or need not, since its memory grows. C2: it can reproduce
softmax maps, by queries and either a decay that follows the input or keys without any decay. C3: it
does so with the fewest things computed, two.
"""

from collections.abc import Callable, Collection
from copy import deepcopy
from dataclasses import dataclass

import torch

from dsf.claims.meta_linear.perturbing import changes, order_matters, token_fields
from dsf.layers import Layer
from dsf.mixers import Mixer
from dsf.systems.system import System

STEPS, AT, MODEL = 24, 12, 8
FEWEST = 2
Draw = Callable[[int], Mixer]
"""From a number of tokens to a mixer."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What the perturbation of a mixer found.

    Attributes:
        query, key, decay: whether what a token computes acts as one.
        elsewhere: whether it also moves weights between two later tokens: then the mixer is more
            than the unified form, and the three words fit it badly.
        bounded: the state does not grow with the length.
        ordered: exchanging two tokens does more than exchange their columns: there is a decay.
        computed: fields that follow the input, without the value.
    """

    query: bool
    key: bool
    decay: bool
    elsewhere: bool
    bounded: bool
    ordered: bool
    computed: tuple[str, ...]

    @property
    def dynamic_memory(self) -> bool:
        """C1."""
        return self.decay or not self.bounded

    @property
    def static_approximation(self) -> bool:
        """C2."""
        return self.query and (self.decay or (self.key and not self.ordered))

    @property
    def fewest(self) -> bool:
        """C3, given the others."""
        met = self.bounded and self.dynamic_memory and self.static_approximation
        return met and len(self.computed) == FEWEST

    @property
    def letters(self) -> str:
        """C0 to C3 as y or n, such as ``yyyn``."""
        met = (self.bounded, self.dynamic_memory, self.static_approximation, self.fewest)
        return "".join("y" if each else "n" for each in met)


def classify(draw: Draw, computed: Collection[str]) -> Conditions:
    """Give one token another one's coefficients, one field after the other, and read the map.

    Args:
        computed: the fields of the mixer that follow the input.
    """
    mixer = draw(STEPS)
    moved = [changes(mixer, name, at=AT) for name in computed]
    sizes = {_states(draw(steps)) for steps in (STEPS, 2 * STEPS)}
    return Conditions(
        query=any(each.query for each in moved),
        key=any(each.key for each in moved),
        decay=any(each.decay for each in moved),
        elsewhere=any(each.elsewhere for each in moved),
        bounded=len(sizes) == 1,
        ordered=order_matters(mixer, computed, at=AT),
        computed=tuple(computed),
    )


def drawn(mixer: type[Mixer]) -> Draw:
    """The library's random instance of ``mixer``."""
    return lambda steps: mixer.draw(torch.Generator().manual_seed(0), steps=steps)


def through(layer: Layer) -> Draw:
    """What ``layer`` makes of random tokens, with random weights."""
    alive = _random_weights(layer)
    return lambda steps: alive.mixer(_tokens(steps))


def follows_input(layer: Layer) -> tuple[str, ...]:
    """The fields of a layer's mixer that change when one input token does."""
    alive, x = _random_weights(layer), _tokens(STEPS)
    other = x.clone()
    other[:, AT] = x[:, 0]
    before, after = alive.mixer(x), alive.mixer(other)
    return tuple(
        name
        for name in token_fields(before)
        if not torch.equal(getattr(before, name), getattr(after, name))
    )


def _random_weights(layer: Layer) -> Layer:
    """A copy in float64 with random weights."""
    rng = torch.Generator().manual_seed(0)
    alive = deepcopy(layer).double().requires_grad_(False)
    for weight in alive.parameters():
        weight.copy_(torch.randn(weight.shape, generator=rng, dtype=weight.dtype) / 2)
    return alive


def _tokens(steps: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(1, steps, MODEL, generator=rng, dtype=torch.float64)


def _states(mixer: Mixer) -> int | None:
    system = mixer.system()
    return system.state_size if isinstance(system, System) else None
