"""Records one run of a model as affine steps, from the first block to what the model puts out.

``Trace`` hooks all modules and follows the residual stream between the mixers. ``MixerCall`` adds a
call of a mixer as one step, that of its inspected whole layer. ``Closed`` is a module whose inside
cannot be followed but which treats every token by itself; it is frozen as one matrix per token.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dsf.inspection.capture.calls import Call, copied
from dsf.inspection.capture.integrity import times_written
from dsf.inspection.errors import InspectionError, ReconstructionError, UnreadableError
from dsf.inspection.results.layers import InspectedLayer
from dsf.inspection.whole.affine_layer import AffineLayer
from dsf.network.affine_steps import Step
from dsf.network.linear_parts import smallest, tensors_in, unless_zero
from dsf.network.stream_follower import Follower, Frozen, step_of
from dsf.network.targets import put_out
from dsf.threads import each_in_parallel

LEAST = 1e-10
"""The largest relative difference allowed between two runs of one model in float64."""
TIME_FIRST = ("gru", "lstm", "rnn_tanh", "rnn_relu", "multi_head_attention_forward")
"""Functions of torch's layers, which are followed where the first axis counts samples."""
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
        masked = _fully_masked(self._layer)
        shown = None if masked is None else ~masked.unsqueeze(-1)
        linear, rest = _affine(self._whole, own, shown)
        step = follower.add(own, (taken,), linear, rest)
        if added is not None:
            beside = follower.find(added)
            if beside is None:
                follower.add(put_out, (step,), lambda x: x, added)
            else:
                follower.add(put_out, (step, step_of(beside, added)), lambda x, stream: x + stream)
        return [MixerStep(self._layer.name, self._layer, self._whole, step, taken, shown)]

    def _added(self, put_out: Tensor) -> Tensor | None:
        """The residual stream, if the module itself adds it to the output of its mixer."""
        mixed, masked = _put_out(self._whole), _fully_masked(self._layer)
        shown = slice(None) if masked is None else ~masked
        if self._near(mixed, put_out, shown):
            return None
        for part in self._streams:
            if part.shape == put_out.shape and self._near(mixed + part, put_out, shown):
                return part
        raise _differs(self._layer.name)

    def _first(self, wanted: Tensor, among: Sequence[Tensor]) -> Tensor | None:
        return next((part for part in among if self._near(part, wanted)), None)

    def _near(self, one: Tensor, other: Tensor, shown: Any = slice(None)) -> bool:
        return _near(one, other, self._limit, shown)


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
            results = [_put_out(whole) for _, whole in beside]
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


def _call(layers: Layers, arguments: Any) -> MixerCall | SeveralMixers:
    """One call of a module in which these layers ran."""
    if len(layers) == 1:
        return MixerCall(layers[0], arguments)
    return SeveralMixers(layers, arguments)


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
        if not _near(_put_out(whole), self.output, limit, among):
            return None
        shown = None if masked is None else ~masked.unsqueeze(-1)
        self.step.linear, self.step.rest = _affine(whole, self.output, shown)
        return MixerStep(layer.name, layer, whole, self.step, self.source, shown)


def _settled(found: "tuple[OpenCall, Layers]") -> MixerStep | None:
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


def _put_out(whole: AffineLayer) -> Tensor:
    """What the layer put out in the run that it was rebuilt from."""
    return whole(whole.given) if whole.output is None else whole.output


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


@dataclass(eq=False)
class _Running:
    """A module that runs: how many calls and results there were before it, and its own call."""

    name: str
    began: int
    results: int
    call: MixerCall | SeveralMixers | None = None


class Trace:
    """A run recorded as steps.

    Without ``mixers`` the layers are not rebuilt yet while the model runs: calls of token mixers
    are left open, and ``settle`` fills them in. What such a trace stumbles over is no error but
    its ``failure``: with the layers known, the run can be recorded once more.

    Args:
        blocks: the paths of the blocks, in order.
        mixers: the layers that run in each module, by its path; None while they are not known.
        known: the paths of modules that will be layers, with whether these are known whole.
        calls: the calls of token mixers that have been recorded so far, in order.

    Attributes:
        states: the steps that give the input of every block and the output of the last.
        streams: their values.
        closed: modules that are frozen as one matrix for every token.
        mixed: the calls of token mixers that are known as whole layers.
        logits: what the model puts out: its logits, or the first tensor of its output.
        output: the step whose result these are; None if they do not depend linearly on the streams.
        results: of steps that a module put out, with the shape of the streams.
        failure: what went wrong while no layers were known.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[str],
        mixers: Mapping[str, Iterator[Layers]] | None,
        known: Mapping[str, bool] | None = None,
        calls: Sequence[Call] = (),
    ):
        self.states: list[Step] = []
        self.streams: list[Tensor] = []
        self.closed: list[Closed] = []
        self.mixed: list[MixerStep] = []
        self.logits: Tensor | None = None
        self.output: Step | None = None
        self.results: dict[Step, Tensor] = {}
        self.failure: str | None = None
        self.blocks = list(blocks)
        self._model, self._mixers = model, mixers
        self._known, self._calls = known or {}, calls
        self._open: dict[str, list[OpenCall | None]] = {}
        self._follower = Follower(self._failed if mixers is None else None)
        self._lent: list[tuple[Tensor, int | None]] = []
        self._running: list[_Running] = []
        self._writes = self._times_written()

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
        self._follower.failed = None  # no circle, so that a stack is freed once it is not used

    @property
    def is_complete(self) -> bool:
        """Whether the last block has returned."""
        return len(self.states) > len(self.blocks)

    def settle(self, layers: Sequence[InspectedLayer]) -> bool:
        """Fill in the calls that were left open; whether all layers and calls belong together.

        They do not where the model wrote into weights, which were restored after its run, or into
        results that were to be kept.
        """
        lent = any(times_written(part) != before for part, before in self._lent)
        written = lent or self._writes != self._times_written()
        if self.failure is not None or not self.is_complete or written:
            return False
        mixers = {path: list(several) for path, several in calls_by_module(layers).items()}
        if {path: len(several) for path, several in mixers.items()} != {
            path: len(several) for path, several in self._open.items()
        }:
            return False
        calls = [
            (call, those)
            for path, several in mixers.items()
            for call, those in zip(self._open[path], several, strict=True)
            if call is not None
        ]
        done = each_in_parallel(_settled, calls)
        for (call, _), mixed in zip(calls, done, strict=True):
            if mixed is None:
                return False
            self.mixed.append(mixed)
            # The layer has the same numbers, which need not be held twice.
            self.results |= {call.source: mixed.whole.given, call.step: _put_out(mixed.whole)}
        self.mixed.sort(key=lambda mixer: mixer.step.number)
        return True

    def _times_written(self) -> list[int]:
        parts = (*self._model.parameters(), *self._model.buffers())
        return [times_written(part) for part in parts]

    def _failed(self, error: Exception) -> None:
        """Record nothing more: the run is not what was expected of it."""
        self.failure = repr(error)  # the error itself holds everything that ran
        self._follower.resting = True

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        """Record nothing of what happens inside the ``with`` block, and note what goes wrong."""
        with self._follower.paused():
            try:
                yield
            except Exception as error:  # of any kind: the model itself is to run on
                if self._mixers is not None:
                    raise
                self.failure = repr(error)
        if self.failure is not None:
            self._follower.resting = True

    def _before(self, name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            if self._follower.resting:
                return
            running = _Running(name, len(self._calls), len(self.results))
            with self._hooked():
                if name in self.blocks and not self.is_complete:
                    self._add_stream(f"before {name}", (args, named))
                if self._mixers is not None and self.states:
                    layers = next(self._mixers.get(name, iter(())), ())
                    if layers:
                        running.call = _call(layers, (args, named))
            self._running.append(running)
            known = running.call.is_known if running.call is not None else self._known.get(name)
            self._follower.resting = self._follower.resting or bool(known and self.states)

        return hook

    def _after(self, name: str) -> Any:
        def hook(
            module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any
        ) -> None:
            if self.failure is not None or not self._running or self._running[-1].name != name:
                return
            running = self._running.pop()
            self._follower.resting = False
            with self._hooked():
                self._record(running, module, (args, named), output)

        return hook

    def _record(self, running: "_Running", module: nn.Module, given: Any, output: Any) -> None:
        """Record what a module has put out."""
        name, call = running.name, running.call
        if call is not None and call.is_known:
            self.mixed += call.record(self._follower, output)
        elif self._mixers is None and self._is_mixer(running):
            self._leave_open(running, given, output)
        elif not self._holds_a_mixer(name):
            found = closed(self._follower, name, module, given, output)
            self.closed += [] if found is None else [found]
        if not isinstance(module, nn.Dropout | nn.Identity):
            for part in tensors_in(output):
                self._follower.name(part, name)
                self._keep(part)
        if name == self.blocks[-1] and not self.is_complete:
            self._add_stream(f"after {name}", output)
        if not name:
            self.logits = put_out(output)
            self.output = None if self.logits is None else self._step_at(self.logits)

    def _is_mixer(self, running: "_Running") -> bool:
        """Whether a module is known to be a layer, or an attention was recorded in it."""
        if running.name in self._known:
            return True
        return any(call.name == running.name for call in self._calls[running.began :])

    def _leave_open(self, running: "_Running", given: Any, output: Any) -> None:
        """Follow what a mixer has put out as a step that is filled in later."""
        name = running.name
        calls = self._open.setdefault(name, [])
        parts = [part for part in tensors_in(given) if part.is_floating_point()]
        followed = [part for part in parts if self._step_at(part) is not None]
        found = list({id(part): part for part in followed}.values())
        if not self.states or not found:
            calls.append(None)
            return
        if len(found) > 1:
            raise UnreadableError(f"{name} is given {len(found)} streams")
        made, source = next(tensors_in(output)), self._step_at(found[0])
        assert source is not None  # noqa: S101  # that is how it was found
        step = self._follower.add(made, (source,))
        self._follower.forget_names_in(name)
        for inside in list(self.results)[running.results :]:
            del self.results[inside]
        calls.append(OpenCall(self._kept(found[0]), self._kept(made), source, step))

    def _keep(self, part: Tensor) -> None:
        step = self._follower.find(part)
        if not isinstance(step, Step) or step in self.results or not self.streams:
            return
        if part.shape == self.streams[0].shape:
            self.results[step] = self._kept(part)

    def _kept(self, part: Tensor) -> Tensor:
        """``part`` as it is now. No copy where the run can be repeated if it is written into."""
        if self._mixers is not None:
            return part.detach().clone()
        lent = part.detach()
        self._lent.append((lent, times_written(lent)))
        return lent

    @property
    def names(self) -> dict[Step, str]:
        """For steps whose result is the output of a module, its path."""
        return self._follower.names

    def _step_at(self, tensor: Tensor) -> Step | None:
        """The step that gives ``tensor``; None if it does not depend linearly on the streams."""
        what = self._follower.find(tensor)
        if what is None or (isinstance(what, Frozen) and what.as_step is None):
            return None
        return step_of(what, tensor)

    def _holds_a_mixer(self, name: str) -> bool:
        paths = [*self._mixers] if self._mixers is not None else self._paths_so_far
        front = f"{name}." if name else ""
        return any(path == name or path.startswith(front) for path in paths)

    @property
    def _paths_so_far(self) -> list[str]:
        return [*self._known, *(call.name for call in self._calls)]

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
            why = what.why if isinstance(what, Frozen) else ""
            reason = f"because of '{why}'" if why else "at all"
            if why in TIME_FIRST:
                reason += ", which has tokens on its first axis unless it is built batch_first=True"
            raise UnreadableError(
                f"stack: {where} the residual stream does not depend linearly on the one before it "
                f"{reason}, so the operations between the mixers cannot be followed. Single layers "
                "can be read: dsf.inspect(...)[k].whole."
            )
        step = step_of(what, stream)
        self.states.append(step)
        self.streams.append(self.results[step] if step in self.results else self._kept(stream))
