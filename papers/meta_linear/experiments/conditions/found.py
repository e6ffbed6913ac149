"""Every mixer of the library, through its layer where there is one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dsf import layers, mixers
from dsf.mixers import Mixer
from papers.meta_linear.experiments.conditions.perturbing import (
    MODEL,
    STEPS,
    Conditions,
    Draw,
    classify,
    drawn,
    follows_input,
    through,
    token_fields,
)


@dataclass(frozen=True)
class Source:
    """Where a mixer's coefficients come from.

    Attributes:
        layer: the name of the layer; None where every field with a token axis counts as computed.
        computed: the fields that follow the input.
    """

    layer: str | None
    draw: Draw
    computed: tuple[str, ...]


def sources(
    kinds: Sequence[Callable[[int], layers.Layer]] = layers.ALL,
) -> Iterator[tuple[type[Mixer], Source]]:
    """One for every mixer. Of two layers around one mixer the first in the list counts."""
    by_mixer: dict[type[Mixer], Source] = {}
    for kind in kinds:
        layer = kind(MODEL)
        draw = through(layer)
        source = Source(type(layer).__name__, draw, follows_input(layer))
        by_mixer.setdefault(type(draw(STEPS)), source)
    for mixer in mixers.ALL:
        draw = drawn(mixer)
        yield mixer, by_mixer.get(mixer) or Source(None, draw, token_fields(draw(STEPS)))


def everything() -> dict[str, dict[str, Any]]:
    """What the perturbations found, by mixer, as JSON can hold it."""
    found = {}
    for mixer, source in sources():
        conditions = classify(source.draw, source.computed)
        found[mixer.__name__] = {
            "layer": source.layer,
            **asdict(conditions),
            "computed": list(conditions.computed),
            "groups": groups(conditions),
            "letters": conditions.letters,
        }
    return found


def groups(conditions: Conditions) -> str:
    """Which of Q, K and Λ_t follow the input."""
    moved = {"Q": conditions.query, "K": conditions.key, "Λ_t": conditions.decay}
    return " ".join(name for name, follows in moved.items() if follows)
