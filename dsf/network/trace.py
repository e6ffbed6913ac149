"""Records one run of a model as affine steps, from the first block to what the model puts out.

``Trace`` hooks all modules and follows the residual stream between the mixers. ``MixerCall`` adds a
call of a mixer as one step, that of its inspected whole layer. ``Closed`` is a module whose inside
cannot be followed but which treats every token by itself; it is frozen as one matrix per token.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dsf.inspection.capture.calls import copied
from dsf.inspection.errors import InspectionError, ReconstructionError, UnreadableError
from dsf.inspection.results.layers import InspectedLayer
from dsf.inspection.whole.affine_layer import AffineLayer
from dsf.network.affine_steps import Step
from dsf.network.linear_parts import smallest, tensors_in, unless_zero
from dsf.network.stream_follower import Follower, Frozen, step_of

LEAST = 1e-10
"""The largest relative difference allowed between two runs of one model in float64."""


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
        is_known: whether the whole layer is known, with one of the module's arguments as its input.
            If not, the operations inside the module are followed like all others.
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

    def record(self, follower: Follower, output: Any) -> MixerStep | None:
        """Record the output of the module, which has returned, as a step; None without a stream.

        Raises:
            ReconstructionError: if the output differs from that of the inspected layer.
        """
        put_out, source = next(tensors_in(output)), follower.find(self._given)
        if source is None:
            return None
        if isinstance(source, Frozen) and source.as_step is None:
            follower.follow(put_out, source)
            return None
        added, taken = self._added(put_out), step_of(source)
        own = put_out if added is None else put_out - added
        masked = _fully_masked(self._layer)
        shown = None if masked is None else ~masked.unsqueeze(-1)
        step = follower.add(own, (taken,), *self._affine(own, shown))
        if added is not None:
            beside = follower.find(added)
            if beside is None:
                follower.add(put_out, (step,), lambda x: x, added)
            else:
                follower.add(put_out, (step, step_of(beside)), lambda x, stream: x + stream)
        return MixerStep(self._layer.name, self._layer, self._whole, step, taken, shown)

    def _affine(
        self, own: Tensor, shown: Bool[Tensor, "sample time 1"] | None
    ) -> tuple[Callable[[Tensor], Tensor], Tensor | None]:
        """The layer as linear part and constant; the output of padding tokens is a constant.

        Padding tokens are those whose keys are all masked.
        """
        whole = self._whole
        if shown is None:
            return whole.linear, unless_zero(whole.remainder)
        return lambda x: whole.linear(x) * shown, torch.where(shown, whole.remainder, own)

    def _added(self, put_out: Tensor) -> Tensor | None:
        """The residual stream, if the module itself adds it to the output of its mixer."""
        mixed, masked = self._whole(self._whole.given), _fully_masked(self._layer)
        shown = slice(None) if masked is None else ~masked
        if self._near(mixed, put_out, shown):
            return None
        for part in self._streams:
            if part.shape == put_out.shape and self._near(mixed + part, put_out, shown):
                return part
        raise ReconstructionError(
            f"stack: the output of {self._layer.name} differs from that when it was inspected. "
            "Does the model draw random numbers, or keep a state between runs?"
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


def _fully_masked(layer: InspectedLayer) -> Bool[Tensor, "sample time"] | None:
    """Tokens whose keys are all masked in some head; None if there are none."""
    bias: Float[Tensor, "sample head time read"] | None = getattr(layer.mixer, "bias", None)
    if bias is None or bias.ndim != 4:
        return None
    masked = (bias == -torch.inf).all(dim=-1).any(dim=1)
    return masked if bool(masked.any()) else None


def calls_by_module(layers: Sequence[InspectedLayer]) -> dict[str, Iterator[InspectedLayer]]:
    """The layers that ran in each module, by the module's path, in the order of its calls."""
    found: dict[str, list[InspectedLayer]] = {}
    for layer in layers:
        path = layer.name.partition(" (call ")[0].partition("[")[0]
        found.setdefault(path, []).append(layer)
    return {path: iter(several) for path, several in found.items()}


SAME_TOKEN = 1e-10
"""The largest relative change of a token's output when other tokens are changed."""


@dataclass(frozen=True, eq=False)
class Closed:
    """A module that is frozen, for each token, as the smallest matrix from input to output.

    Attributes:
        args, named: the arguments of the call: one stream, and values that are not tensors.
        output: the output of the call.
    """

    name: str
    module: nn.Module
    args: tuple[Any, ...]
    named: dict[str, Any]
    output: Tensor

    def check(self) -> None:
        """Check, by changing tokens, that no token's output depends on another token.

        For any two tokens some run keeps the one and changes the other, because their positions
        differ in some binary digit.

        Raises:
            UnreadableError: if one depends on another.
        """
        places = torch.arange(self.output.shape[1], device=self.output.device)
        for digit in range(len(places).bit_length()):
            for kept_one in ((places >> digit) % 2 == 0, (places >> digit) % 2 == 1):
                self._check(kept_one)

    def _check(self, unchanged: Bool[Tensor, " time"]) -> None:
        def changed(part: Any) -> Any:
            if not isinstance(part, Tensor):
                return part
            return torch.where(unchanged.unsqueeze(-1), part, 0.9 * part.flip(1))

        args = tuple(changed(part) for part in self.args)
        named = {name: changed(part) for name, part in self.named.items()}
        again = next(tensors_in(self.module(*args, **named)))[:, unchanged]
        before = self.output[:, unchanged]
        if before.numel() and not (again - before).abs().max() <= SAME_TOKEN * before.abs().max():
            raise UnreadableError(
                f"stack: {self.name} mixes tokens, but no adapter read it as a token mixer. Write "
                "an adapter for it, and pass it as stack(model, ..., adapters=(MINE,))."
            )


def closed(
    follower: Follower, name: str, module: nn.Module, arguments: Any, output: Any
) -> Closed | None:
    """The module as ``Closed``, if its one stream is a step and its output cannot be followed."""
    put_out, given = next(tensors_in(output), None), list(tensors_in(arguments))
    what = follower.find(put_out)
    lost = isinstance(what, Frozen) and what.as_step is None
    if put_out is None or not lost or len(given) != 1 or given[0].ndim != 3:
        return None
    source = follower.find(given[0])
    if not isinstance(source, Step) or given[0].shape != put_out.shape:
        return None
    args, named = arguments
    kept_output = copied(put_out)
    follower.add(put_out, (source,), *smallest(kept_output, copied(given[0])))
    return Closed(name, module, copied(args), copied(named), kept_output)


class Trace:
    """A run recorded as steps.

    Attributes:
        states: the steps that give the input of every block and the output of the last.
        streams: their values.
        closed: modules that are frozen as one matrix for every token.
        mixed: the calls of token mixers that are known as whole layers.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Mapping[str, nn.Module],
        mixers: Mapping[str, Iterator[InspectedLayer]],
    ):
        self.states: list[Step] = []
        self.streams: list[Tensor] = []
        self.closed: list[Closed] = []
        self.mixed: list[MixerStep] = []
        self._model, self._blocks, self._mixers = model, list(blocks), mixers
        self._follower = Follower()
        self._running: list[tuple[str, MixerCall]] = []

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record what the model computes inside the ``with`` block."""
        with ExitStack() as hooks:
            for name, module in self._model.named_modules():
                if isinstance(module, torch.jit.ScriptModule):
                    continue
                before = module.register_forward_pre_hook(self._before(name), with_kwargs=True)
                after = module.register_forward_hook(self._after(name), with_kwargs=True)
                hooks.callback(before.remove)
                hooks.callback(after.remove)
            hooks.enter_context(self._follower)
            hooks.callback(self._follower.forget)
            yield

    @property
    def is_complete(self) -> bool:
        """Whether the last block has returned."""
        return len(self.states) > len(self._blocks)

    def _before(self, name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            if self._follower.resting:
                return
            with self._follower.paused():
                if name in self._blocks and not self.is_complete:
                    self._add_stream(f"before {name}", (args, named))
                layer = next(self._mixers.get(name, iter(())), None) if self.states else None
                call = None if layer is None else MixerCall(layer, (args, named))
            if call is not None:
                self._running.append((name, call))
                self._follower.resting = call.is_known

        return hook

    def _after(self, name: str) -> Any:
        def hook(
            module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any
        ) -> None:
            call = None
            if self._running and self._running[-1][0] == name:
                _, call = self._running.pop()
                self._follower.resting = False
            if self._follower.resting:
                return
            with self._follower.paused():
                if call is not None and call.is_known:
                    mixed = call.record(self._follower, output)
                    self.mixed += [] if mixed is None else [mixed]
                elif not self._holds_a_mixer(name):
                    found = closed(self._follower, name, module, (args, named), output)
                    self.closed += [] if found is None else [found]
                if not isinstance(module, nn.Dropout | nn.Identity):
                    for part in tensors_in(output):
                        self._follower.name(part, name)
                if name == self._blocks[-1] and not self.is_complete:
                    self._add_stream(f"after {name}", output)

        return hook

    @property
    def names(self) -> dict[Step, str]:
        """For steps whose result is the output of a module, its path."""
        return self._follower.names

    def step_at(self, tensor: Tensor) -> Step | None:
        """The step that gives ``tensor``; None if it does not depend linearly on the streams."""
        what = self._follower.find(tensor)
        if what is None or (isinstance(what, Frozen) and what.as_step is None):
            return None
        return step_of(what)

    def _holds_a_mixer(self, name: str) -> bool:
        return any(path == name or path.startswith(f"{name}.") for path in self._mixers)

    def _add_stream(self, where: str, given: Any) -> None:
        """Add the residual stream at this place, which must be a step."""
        stream = next((part for part in tensors_in(given) if part.is_floating_point()), None)
        if stream is None or stream.ndim < 3:
            shape = "no tensor" if stream is None else f"a tensor of shape {tuple(stream.shape)}"
            raise UnreadableError(
                f"stack: {where} the residual stream must have the axes 'sample time width', but "
                f"there is {shape}. Call the model with a batch of sequences."
            )
        what = self._follower.find(stream) if self.states else self._follower.add(stream)
        if what is None or (isinstance(what, Frozen) and what.as_step is None):
            reason = f"because of '{what.why}'" if isinstance(what, Frozen) else "at all"
            raise UnreadableError(
                f"stack: {where} the residual stream does not depend linearly on the one before it "
                f"{reason}, so the operations between the mixers cannot be followed. Single layers "
                "can be read: dsf.inspect(...)[k].whole."
            )
        self.states.append(step_of(what))
        self.streams.append(stream.detach().clone())
