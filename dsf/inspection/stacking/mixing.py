"""Token mixers as steps: the whole layer, from what its module was given to what it put out."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dsf.inspection.affine_layer import AffineLayer
from dsf.inspection.errors import InspectionError, ReconstructionError
from dsf.inspection.result import InspectedLayer
from dsf.inspection.stacking.affine import tensors_in
from dsf.inspection.stacking.following import Follower, Held, step_of

LEAST = 1e-10
"""How far, relative, two runs of one model in float64 may be apart."""


class MixerCall:
    """One call of a module that mixes tokens, while it runs.

    Attributes:
        is_known: whether the layer is known as a whole, from one of the module's arguments on.
            Otherwise what happens in the module has to be followed like everything else.
    """

    def __init__(self, layer: InspectedLayer, arguments: Any):
        self._layer = layer
        self._streams = [part for part in tensors_in(arguments) if part.is_floating_point()]
        self._limit = max(LEAST, 10 * layer.tolerance)
        whole = _whole(layer)
        given = None if whole is None else self._first(whole.given, self._streams)
        self.is_known = given is not None
        if whole is not None and given is not None:
            self._whole: AffineLayer = whole
            self._given: Tensor = given

    def written_down(self, follower: Follower, output: Any) -> None:
        """The module is through: its output as a step.

        Raises:
            ReconstructionError: if the output is not what the layer makes of the module's input.
        """
        put_out, source = next(tensors_in(output)), follower.find(self._given)
        if source is None:
            return
        if isinstance(source, Held) and source.as_step is None:
            follower.follow(put_out, source)
            return
        added = self._added(put_out)
        beside = follower.find(added)
        streams = [] if beside is None else [step_of(beside)]
        own = put_out if added is None else put_out - added
        linear, rest = self._affine(own)
        if added is not None and not streams:
            rest = rest + added
        follower.add(
            put_out, [step_of(source), *streams], lambda x, *more: sum(more, linear(x)), rest
        )

    def _affine(self, own: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """Tokens that see no key are padding: there the module's output is held."""
        whole, blind = self._whole, _blind(self._layer)
        if blind is None:
            return whole.linear, whole.remainder
        shown = ~blind.unsqueeze(-1)
        return lambda x: whole.linear(x) * shown, torch.where(shown, whole.remainder, own)

    def _added(self, put_out: Tensor) -> Tensor | None:
        """The residual stream that the module itself adds behind its mixer, if it does."""
        mixed, blind = self._whole(self._whole.given), _blind(self._layer)
        shown = slice(None) if blind is None else ~blind
        if self._near(mixed, put_out, shown):
            return None
        for part in self._streams:
            if part.shape == put_out.shape and self._near(mixed + part, put_out, shown):
                return part
        raise ReconstructionError(
            f"stack: {self._layer.name} put out something else than it did when it was inspected. "
            "Does the model draw random numbers, or keep a state from run to run?"
        )

    def _first(self, wanted: Tensor, among: Sequence[Tensor]) -> Tensor | None:
        return next((part for part in among if self._near(part, wanted)), None)

    def _near(self, one: Tensor, other: Tensor, shown: Any = slice(None)) -> bool:
        if one.shape != other.shape:
            return False
        one, other = one[shown], other[shown]
        return bool((one - other).abs().max() <= self._limit * other.abs().max())


def _whole(layer: InspectedLayer) -> AffineLayer | None:
    try:
        return layer.whole
    except ReconstructionError:
        raise
    except InspectionError:
        return None


def _blind(layer: InspectedLayer) -> Bool[Tensor, "sample time"] | None:
    bias: Float[Tensor, "sample head time read"] | None = getattr(layer.mixer, "bias", None)
    if bias is None or bias.ndim != 4:
        return None
    blind = (bias == -torch.inf).all(dim=-1).any(dim=1)
    return blind if bool(blind.any()) else None


def calls_by_module(layers: Sequence[InspectedLayer]) -> dict[str, Iterator[InspectedLayer]]:
    """The layers that ran in each module, by the module's path, in the order of its calls."""
    found: dict[str, list[InspectedLayer]] = {}
    for layer in layers:
        path = layer.name.partition(" (call ")[0].partition("[")[0]
        found.setdefault(path, []).append(layer)
    return {path: iter(several) for path, several in found.items()}
