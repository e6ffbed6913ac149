"""Calls of token mixers as steps of a recorded run.

``MixerCall`` is one call whose inspected layer is known while the module runs, ``InnerMixer`` that
of a layer which is a part of its module, ``SeveralMixers`` that of a module with several layers,
and ``OpenCall`` one whose layer is rebuilt after the run.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dsf.attribution.affine_steps import Step
from dsf.attribution.linear_parts import tensors_in, unless_zero
from dsf.attribution.stream_follower import Follower, Frozen, step_of
from dsf.inspection.errors import InspectionError, ReconstructionError
from dsf.inspection.results.layers import InspectedLayer
from dsf.inspection.whole.affine_layer import AffineLayer

LEAST = 1e-10
"""The largest relative difference allowed between two runs of one model in float64."""
Layers = tuple[InspectedLayer, ...]


@dataclass(frozen=True, eq=False)
class MixerStep:
    """One call of a token mixer as a step of the run.

    Attributes:
        name: the name of the layer in its inspection.
        layer: the layer.
        whole: the layer as an affine function of its input.
        step: the step whose result is what the layer puts out, without a stream that it adds.
        source: the step whose result it takes.
        shown: the tokens that have keys, ``sample time 1``; None for all. What the layer puts out
            for the others is a constant.
    """

    name: str
    layer: InspectedLayer
    whole: AffineLayer
    step: Step
    source: Step
    shown: Bool[Tensor, "sample time 1"] | None = None


class MixerCall:
    """One call of a token mixer, while its module runs.

    Attributes:
        is_known: whether what the module puts out is a step of the whole layer alone. Else the
            operations inside the module are followed like all others.
    """

    is_known = True

    def __init__(self, layer: InspectedLayer, whole: AffineLayer, given: Tensor, arguments: Any):
        self._layer, self._whole, self._given = layer, whole, given
        self._streams = _numbers_in(arguments)
        self._limit = _limit(layer)

    def record(self, follower: Follower, output: Any) -> list[MixerStep]:
        """Record the output of the module, which has returned, as a step; none without a stream.

        Raises:
            ReconstructionError: if the output differs from that of the inspected layer.
        """
        put_out = next(tensors_in(output))
        taken = _taken(follower, self._given, put_out)
        if taken is None:
            return []
        added = self._added(put_out)
        own = put_out if added is None else put_out - added
        made = _as_step(follower, self._layer, self._whole, taken, own)
        step = made.step
        if added is not None:
            beside = follower.find(added)
            if beside is None:
                follower.add(put_out, (step,), lambda x: x, added)
            else:
                follower.add(put_out, (step, step_of(beside, added)), lambda x, stream: x + stream)
        return [made]

    def _added(self, put_out: Tensor) -> Tensor | None:
        """The residual stream, if the module itself adds it to the output of its mixer."""
        mixed, masked = result_of(self._whole), _fully_masked(self._layer)
        shown = slice(None) if masked is None else ~masked
        if self._near(mixed, put_out, shown):
            return None
        for part in self._streams:
            if part.shape == put_out.shape and self._near(mixed + part, put_out, shown):
                return part
        raise _differs(self._layer.name)

    def _near(self, one: Tensor, other: Tensor, shown: Any = slice(None)) -> bool:
        return _near(one, other, self._limit, shown)


class InnerMixer:
    """One call of a token mixer that is only a part of its module, while the module runs.

    Its values come from inside, such as a latent vector of every token, or the module goes on with
    what it put out, such as a norm. Both ends are told by their numbers, at the calls of the
    modules inside, and the operations around them are followed like all others.
    """

    is_known = False

    def __init__(self, layer: InspectedLayer, whole: AffineLayer):
        self._layer, self._whole = layer, whole
        self._limit = _limit(layer)
        self._source: Step | None = None
        self._made: list[MixerStep] = []

    def given(self, follower: Follower, arguments: Any) -> None:
        """Note from which step the mixer is made, if a module inside is given its input."""
        if self._source is not None:
            return
        wanted = self._whole.given
        for part in _numbers_in(arguments):
            if part.shape[-1:] != wanted.shape[-1:] or part.numel() != wanted.numel():
                continue
            laid_out = part.reshape(wanted.shape)
            if _near(laid_out, wanted, self._limit):
                self._source = _laid_out(follower, part, laid_out)
                return

    def put_out(self, follower: Follower, output: Any) -> list[MixerStep]:
        """Record what a module has put out as a step, if it is what the mixer does."""
        part = next(tensors_in(output), None)
        if part is None or self._source is None or self._made:
            return []
        masked = _fully_masked(self._layer)
        shown = slice(None) if masked is None else ~masked
        if not _near(result_of(self._whole), part, self._limit, shown):
            return []
        self._made = [_as_step(follower, self._layer, self._whole, self._source, part)]
        return self._made


def _laid_out(follower: Follower, part: Tensor, laid_out: Tensor) -> Step | None:
    """The step of ``laid_out``, which has the numbers of ``part``; None where that is no stream."""
    what = follower.find(part)
    if what is None or (isinstance(what, Frozen) and what.as_step is None):
        return None
    step = step_of(what, part)
    if part.shape == laid_out.shape:
        return step
    axes, shape = part.ndim, laid_out.shape

    def lay_out(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[: x.ndim - axes], *shape)

    return follower.add(laid_out, (step,), lay_out)


class FollowedCall:
    """One call of a token mixer whose whole layer is not known: its operations are followed."""

    is_known = False


def _as_step(
    follower: Follower, layer: InspectedLayer, whole: AffineLayer, source: Step, own: Tensor
) -> MixerStep:
    """A whole layer as the step from ``source`` to what it put out."""
    masked = _fully_masked(layer)
    shown = None if masked is None else ~masked.unsqueeze(-1)
    step = follower.add(own, (source,), *_affine(whole, own, shown))
    return MixerStep(layer.name, layer, whole, step, source, shown)


def _numbers_in(arguments: Any) -> list[Tensor]:
    return [part for part in tensors_in(arguments) if part.is_floating_point()]


def _limit(layer: InspectedLayer) -> float:
    return max(LEAST, 10 * layer.tolerance)


def _taken(follower: Follower, given: Tensor, put_out: Tensor) -> Step | None:
    """The step of what a module was given; None where that is no stream, frozen or not."""
    source = follower.find(given)
    if source is None:
        return None
    if isinstance(source, Frozen) and source.as_step is None:
        follower.follow(put_out, source)
        return None
    return step_of(source, given)


def _near(one: Tensor, other: Tensor, limit: float, shown: Any = slice(None)) -> bool:
    if one.shape != other.shape:
        return False
    if one.data_ptr() == other.data_ptr() and one.stride() == other.stride():
        return True
    one, other = one[shown], other[shown]
    return bool((one - other).abs().max() <= limit * other.abs().max())


class SeveralMixers:
    """One call of a module with several mixers: layers on one another, directions side by side.

    Mixers with the same input are side by side, and what they put out, joined, is the input of the
    next. Which ones these are is told by their numbers.

    Attributes:
        is_known: whether all of them are known whole, with one of the module's arguments as the
            input of the first.
    """

    def __init__(self, layers: Sequence[InspectedLayer], arguments: Any):
        self._limit = max(LEAST, *(10 * layer.tolerance for layer in layers))
        found = [(layer, whole) for layer in layers if (whole := _whole(layer)) is not None]
        self._mixers = found
        streams = [part for part in tensors_in(arguments) if part.is_floating_point()]
        given = [part for part in streams if found and self._near(part, found[0][1].given)]
        self.is_known = len(found) == len(layers) and bool(given)
        if self.is_known:
            self._given = given[0]

    def record(self, follower: Follower, output: Any) -> list[MixerStep]:
        """Record the output of the module, which has returned, as steps; none without a stream.

        Raises:
            ReconstructionError: if the output differs from that of the inspected layers.
        """
        put_out = next(tensors_in(output))
        step = _taken(follower, self._given, put_out)
        if step is None:
            return []
        made: list[MixerStep] = []
        joined = self._given
        while len(made) < len(self._mixers):
            waiting = self._mixers[len(made) :]
            beside = self._side_by_side(waiting, joined)
            results = [result_of(whole) for _, whole in beside]
            for (layer, whole), result in zip(beside, results, strict=True):
                own = follower.add(result, (step,), *_affine(whole, result, None))
                made.append(MixerStep(layer.name, layer, whole, own, step))
            ends = [mixer.step for mixer in made[-len(beside) :]]
            joined = torch.cat(results, dim=-1)
            step = follower.add(joined, ends, lambda *parts: torch.cat(parts, dim=-1))
        if not self._near(joined, put_out):
            raise _differs(self._mixers[-1][0].name)
        follower.add(put_out, (step,), lambda x: x)
        return made

    def _side_by_side(
        self, waiting: Sequence[tuple[InspectedLayer, AffineLayer]], given: Tensor
    ) -> list[tuple[InspectedLayer, AffineLayer]]:
        """The next mixers that are given this."""
        found = list(takewhile(lambda each: self._near(given, each[1].given), waiting))
        if not found:
            raise _differs(waiting[0][0].name)
        return found

    def _near(self, one: Tensor, other: Tensor) -> bool:
        return _near(one, other, self._limit)


def _differs(name: str) -> ReconstructionError:
    return ReconstructionError(
        f"stack: the output of {name} differs from that when it was inspected. Does the model draw "
        "random numbers, keep a state between runs, or have hooks that change what its layers put "
        "out?"
    )


Mixers: TypeAlias = MixerCall | InnerMixer | FollowedCall | SeveralMixers


def mixer_call(layers: Layers, arguments: Any) -> Mixers:
    """One call of a module in which these layers ran."""
    if len(layers) > 1:
        return SeveralMixers(layers, arguments)
    (layer,) = layers
    whole = _whole(layer)
    if whole is None:
        return FollowedCall()
    parts = (part for part in _numbers_in(arguments) if _near(part, whole.given, _limit(layer)))
    given = next(parts, None)
    if given is None or not whole.is_all:
        return InnerMixer(layer, whole)
    return MixerCall(layer, whole, given, arguments)


@dataclass(eq=False)
class OpenCall:
    """One call of a token mixer whose layer is rebuilt after the run.

    Attributes:
        given: the argument of the module that follows the stream.
        output: what the module put out.
        source: the step of ``given``.
        step: the step of ``output``, whose function is not known yet.
    """

    given: Tensor
    output: Tensor
    source: Step
    step: Step

    def settle(self, layer: InspectedLayer) -> MixerStep | None:
        """Fill the step in; None if the layer is not what this call shows of it."""
        limit, whole = max(LEAST, 10 * layer.tolerance), _whole(layer)
        if whole is None or not _near(self.given, whole.given, limit):
            return None
        masked = _fully_masked(layer)
        among = slice(None) if masked is None else ~masked
        if not _near(result_of(whole), self.output, limit, among):
            return None
        shown = None if masked is None else ~masked.unsqueeze(-1)
        self.step.linear, self.step.rest = _affine(whole, self.output, shown)
        return MixerStep(layer.name, layer, whole, self.step, self.source, shown)


def settled(found: tuple[OpenCall, Layers]) -> MixerStep | None:
    """An open call with the layers that ran in it, filled in; None where they do not fit."""
    call, layers = found
    return call.settle(layers[0]) if len(layers) == 1 else None


@dataclass(frozen=True, eq=False)
class Mixing:
    """A whole layer without its constants, for the tokens that have keys."""

    whole: AffineLayer
    shown: Bool[Tensor, "sample time 1"] | None

    def __call__(self, x: Tensor) -> Tensor:
        mixed = self.whole.linear(x)
        return mixed if self.shown is None else mixed * self.shown

    def adjoint(self, cotangent: Tensor) -> tuple[Tensor]:
        given = cotangent if self.shown is None else cotangent * self.shown
        return (self.whole.adjoint(given),)


def _affine(
    whole: AffineLayer, own: Tensor, shown: Bool[Tensor, "sample time 1"] | None
) -> tuple[Mixing, Tensor | None]:
    """The layer as linear part and constant; the output of padding tokens is a constant.

    Padding tokens are those whose keys are all masked.
    """
    if shown is not None:
        return Mixing(whole, shown), torch.where(shown, whole.remainder, own)
    return Mixing(whole, None), None if whole.is_linear else unless_zero(whole.remainder)


def result_of(whole: AffineLayer) -> Tensor:
    """What the layer put out in the run that it was rebuilt from."""
    return whole(whole.given) if whole.output is None else whole.output


def _whole(layer: InspectedLayer) -> AffineLayer | None:
    try:
        return layer.with_stages
    except ReconstructionError:
        raise
    except InspectionError:
        return None


def _fully_masked(layer: InspectedLayer) -> Bool[Tensor, "sample time"] | None:
    """Tokens whose keys are all masked in some head; None if there are none."""
    bias: Float[Tensor, "sample head time read"] | None = getattr(layer.mixer, "bias", None)
    if bias is None or bias.ndim != 4:
        return None
    masked = (bias == -torch.inf).all(dim=-1).any(dim=1)
    return masked if bool(masked.any()) else None


def calls_by_module(layers: Sequence[InspectedLayer]) -> dict[str, Iterator[Layers]]:
    """The layers that ran in each module, by the module's path: those of every call, in order."""
    found: dict[str, list[Layers]] = {}
    for (path, _), several in groupby(layers, key=_call_of):
        found.setdefault(path, []).append(tuple(several))
    return {path: iter(several) for path, several in found.items()}


def _call_of(layer: InspectedLayer) -> tuple[str, str]:
    """The path of a layer's module, and which of its calls it is."""
    path, _, rest = layer.name.partition(" (call ")
    return path.partition("[")[0], rest.partition(")")[0]
