"""Records one run of a model as affine steps, from the first block to the output of the model.

``Trace`` hooks all modules: the call of a token mixer is one step, that of its whole layer; another
module that cannot be followed but treats every token by itself is frozen (``closed``).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, takewhile
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from dsf.attribution.affine_steps import Follower, Step, smallest, unless_zero
from dsf.attribution.targets import put_out
from dsf.attribution.two_runs import Node, Walk
from dsf.inspection.capture.calls import copied, first_numbers
from dsf.inspection.capture.containers import tensors_in
from dsf.inspection.errors import InspectionError, ReconstructionError, UnreadableError
from dsf.inspection.results.layers import InspectedLayer
from dsf.inspection.whole.stages import AffineLayer

Layers = tuple[InspectedLayer, ...]
Mixer = tuple[InspectedLayer, AffineLayer]

SAME_TOL = 1e-10
"""Maximum relative difference of what is the same in two runs in float64."""
TIME_FIRST = ("gru", "lstm", "rnn_tanh", "rnn_relu", "multi_head_attention_forward")
"""Functions of torch's layers, which are followed where the first axis counts samples."""


def closed(
    follower: Follower, name: str, module: nn.Module, arguments: Any, output: Any
) -> Callable[[], None] | None:
    """Freeze a module, for each token, as the smallest matrix from its one stream to its output.

    Returned is a check that no token's output depends on another; None where it is not frozen.
    """
    put_out, given = next(iter(tensors_in(output)), None), tensors_in(arguments)
    what = follower.find(put_out)
    if put_out is None or not isinstance(what, str) or len(given) != 1 or given[0].ndim != 3:
        return None
    source = follower.find(given[0])
    if not isinstance(source, Step) or source.is_gate or given[0].shape != put_out.shape:
        return None
    kept, before = copied(arguments), copied(put_out)
    follower.add(put_out, (source,), *smallest(before, copied(given[0])))

    def check() -> None:
        # Of any two tokens some run keeps the one and changes the other: they differ in some digit.
        places = torch.arange(before.shape[1], device=before.device)
        digits = range((len(places) - 1).bit_length())
        for same in ((places >> digit) % 2 == side for digit in digits for side in (0, 1)):
            changed = partial(
                lambda same, part: torch.where(same, part, 0.9 * part.flip(1)), same[:, None]
            )
            args, named = tree_map_only(Tensor, changed, kept)
            again, now = tensors_in(module(*args, **named))[0][:, same], before[:, same]
            if not (again - now).abs().max() <= SAME_TOL * now.abs().max():
                raise UnreadableError(
                    f"stack: {name} mixes tokens, but no adapter read it as a token mixer. Write "
                    "an adapter for it, and pass it as stack(model, ..., adapters=(MINE,))."
                )

    return check


@dataclass(frozen=True, eq=False)
class MixerStep:
    """One call of a token mixer as a step, whose result is its output without a stream it adds."""

    name: str
    layer: InspectedLayer
    whole: AffineLayer
    step: Step
    source: Step

    @classmethod
    def of(cls, follower: Follower, mixer: Mixer, source: Step, own: Tensor) -> "MixerStep":
        """Record a whole layer as the step from ``source`` to its output ``own``."""
        layer, whole = mixer
        rest, shown = whole.remainder, tokens_with_keys(layer)
        if shown is not None:  # rows without keys are zero; what the module has there is a constant
            rest = torch.where(shown, rest, own - whole.linear(whole.given))
        linear: Any = partial(whole.linear)
        linear.adjoint = whole.adjoint
        step = follower.add(own, (source,), linear, unless_zero(rest))
        return cls(layer.name, layer, whole, step, source)


class MixerCall:
    """One call of a module in which whole layers run, while it runs.

    Where the module takes their input, it is a step by itself. Several are layers on one another,
    or directions side by side, which have the same input. Else the only layer is a part of its
    module: its values come from inside, or the module uses its output. Both ends are found by their
    numbers, at the calls of the modules inside, and the operations around them are followed.
    """

    def __init__(self, mixers: Sequence[Mixer], arguments: Any):
        self._mixers, self._streams = mixers, _numbers_in(arguments)
        self._limit = max(_tolerance(layer) for layer, _ in mixers)
        self._layer, self._whole = mixers[0]
        given = self._whole.given
        taken = (part for part in self._streams if _near(part, given, self._limit))
        self._given = next(taken, None) if len(mixers) > 1 or self._whole.is_all else None
        self.is_step = self._given is not None
        self._source: Step | None = None
        self._is_recorded = False

    def record(self, follower: Follower, output: Any) -> list[MixerStep]:
        """Record the output of the module, which has returned, as steps; none without a stream."""
        put_out = tensors_in(output)[0]
        step = follower.find(self._given)
        if isinstance(step, str):
            follower.follow(put_out, step)
        if not isinstance(step, Step):
            return []
        if len(self._mixers) == 1:
            return [self._alone(follower, step, put_out)]
        made: list[MixerStep] = []
        joined: Any = self._given
        while len(made) < len(self._mixers):
            waiting = self._mixers[len(made) :]
            takes = lambda mixer, given=joined: _near(given, mixer[1].given, self._limit)  # noqa: E731
            parallel = [
                MixerStep.of(follower, mixer, step, result_of(mixer[1]))
                for mixer in takewhile(takes, waiting)
            ]
            if not parallel:
                raise _differs(waiting[0][0].name)
            made += parallel
            joined = torch.cat([result_of(mixer.whole) for mixer in parallel], dim=-1)
            ends = [mixer.step for mixer in parallel]
            step = follower.add(joined, ends, lambda *parts: torch.cat(parts, dim=-1))
        if not _near(joined, put_out, self._limit):
            raise _differs(self._mixers[-1][0].name)
        follower.add(put_out, (step,), lambda x: x)
        return made

    def _alone(self, follower: Follower, source: Step, put_out: Tensor) -> MixerStep:
        """The step of the only mixer, to whose output the module itself may add a stream."""
        layer, mixed = self._layer, result_of(self._whole)
        if is_output(layer, mixed, put_out):
            return MixerStep.of(follower, self._mixers[0], source, put_out)
        shaped = (part for part in self._streams if part.shape == put_out.shape)
        added = next((part for part in shaped if is_output(layer, mixed + part, put_out)), None)
        if added is None:
            raise _differs(layer.name)
        own = put_out - added
        made = MixerStep.of(follower, self._mixers[0], source, own)
        with follower.set(resting=False):
            follower.follow(put_out, follower.find(own + added))
        return made

    def enter(self, follower: Follower, arguments: Any) -> None:
        """Note from which step the mixer is made, if a module inside is given its input."""
        if self._source is not None:
            return
        wanted = self._whole.given
        for part in _numbers_in(arguments):
            if part.shape[-1:] != wanted.shape[-1:] or part.numel() != wanted.numel():
                continue
            with follower.set(resting=False):
                laid_out = part.reshape(wanted.shape)
            if _near(laid_out, wanted, self._limit):
                source = follower.find(laid_out)
                self._source = source if isinstance(source, Step) else None
                return

    def leave(self, follower: Follower, output: Any) -> list[MixerStep]:
        """Record the output of a module as a step, if it is that of the mixer."""
        part = next(iter(tensors_in(output)), None)
        if part is None or self._source is None or self._is_recorded:
            return []
        if not is_output(self._layer, result_of(self._whole), part):
            return []
        self._is_recorded = True
        return [MixerStep.of(follower, self._mixers[0], self._source, part)]


def mixer_call(layers: Layers, arguments: Any) -> MixerCall | None:
    """One call of a module in which these layers ran; None if a whole layer is not known."""
    try:
        call = MixerCall([(layer, layer.with_stages) for layer in layers], arguments)
    except ReconstructionError:
        raise
    except InspectionError:
        return None
    return call if call.is_step or len(layers) == 1 else None


def calls_by_module(layers: Sequence[InspectedLayer]) -> dict[str, Iterator[Layers]]:
    """Return the layers that ran in each module, by its path: those of every call, in order."""
    found: dict[str, list[Layers]] = {}
    for (path, _), several in groupby(layers, key=call_of):
        found.setdefault(path, []).append(tuple(several))
    return {path: iter(several) for path, several in found.items()}


def call_of(layer: InspectedLayer) -> tuple[str, str]:
    path, _, rest = layer.name.partition(" (call ")
    return path.partition("[")[0], rest.partition(")")[0]


def result_of(whole: AffineLayer) -> Tensor:
    """Return the output of the layer in the run that it was rebuilt from."""
    return whole(whole.given) if whole.output is None else whole.output


def is_output(layer: InspectedLayer, result: Tensor, put_out: Tensor) -> bool:
    """Whether a tensor is the output of a layer, at the tokens that have keys."""
    shown = tokens_with_keys(layer)
    some = slice(None) if shown is None else shown.squeeze(-1)
    return _near(result, put_out, _tolerance(layer), some)


def tokens_with_keys(layer: InspectedLayer) -> Bool[Tensor, "sample time 1"] | None:
    """Return the tokens with a key in every head; None where these are all."""
    bias: Float[Tensor, "sample head time read"] | None = getattr(layer.mixer, "bias", None)
    if bias is None or bias.ndim != 4:
        return None
    masked = (bias == -torch.inf).all(dim=-1).any(dim=1)
    return ~masked.unsqueeze(-1) if bool(masked.any()) else None


def _numbers_in(arguments: Any) -> list[Tensor]:
    return [part for part in tensors_in(arguments) if part.is_floating_point()]


def _tolerance(layer: InspectedLayer) -> float:
    return max(SAME_TOL, 10 * layer.tolerance)


def _near(one: Tensor, other: Tensor, limit: float, some: Any = slice(None)) -> bool:
    if one.shape != other.shape:
        return False
    if one.data_ptr() == other.data_ptr() and one.stride() == other.stride():
        return True
    one, other = one[some], other[some]
    return bool((one - other).abs().max() <= limit * other.abs().max())


def _differs(name: str) -> ReconstructionError:
    return ReconstructionError(
        f"stack: the output of {name} differs from that when it was inspected. Does the model draw "
        "random numbers, keep a state between runs, or have hooks that change what its layers put "
        "out?"
    )


@dataclass(eq=False)
class Trace:
    """A run recorded as steps, which can be made again with other outputs of its mixers.

    Attributes:
        states, streams: the input of every block and the output of the last, as steps and values.
        closed: checks of the modules that are frozen as one matrix for every token, by path.
        output: the step whose result the logits are; None if they are not linear in the streams.
        places: by the name of a mixer, the module whose output is its own, and in which call.
        names: of steps that are the output of a module, its path.
    """

    _model: nn.Module
    _run: Callable[[], Any]
    blocks: Sequence[str]
    _mixers: Mapping[str, Iterator[Layers]]
    states: list[Step] = field(default_factory=list)
    streams: list[Tensor] = field(default_factory=list)
    closed: list[tuple[str, Callable[[], None]]] = field(default_factory=list)
    mixed: list[MixerStep] = field(default_factory=list)
    logits: Tensor | None = None
    has_head: bool = True
    output: Step | None = None
    places: dict[str, tuple[str, int]] = field(default_factory=dict)
    names: dict[Step, str] = field(default_factory=dict)
    _follower: Follower = field(default_factory=Follower)
    _running: list[tuple[str, MixerCall | None]] = field(default_factory=list)  # and its own call
    _calls: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        with ExitStack() as hooks:
            for name, module in self._model.named_modules():
                if isinstance(module, torch.jit.ScriptModule):
                    continue
                before, after = partial(self._before, name), partial(self._after, name)
                hooks.enter_context(module.register_forward_pre_hook(before, with_kwargs=True))
                hooks.enter_context(module.register_forward_hook(after, with_kwargs=True))
            hooks.enter_context(self._follower)
            hooks.callback(self._follower.forget)
            yield

    @property
    def is_complete(self) -> bool:
        return len(self.states) > len(self.blocks)

    def _before(self, name: str, _: nn.Module, args: Any, named: Any) -> None:
        self._calls[name] += 1
        if self._follower.resting:
            return
        call = None
        with self._follower.set(resting=True):
            if name in self.blocks and not self.is_complete:
                self._add_stream(f"before {name}", (args, named))
            if self.states:
                for around in self._inner():
                    around.enter(self._follower, (args, named))
                if layers := next(self._mixers.get(name, iter(())), ()):
                    call = mixer_call(layers, (args, named))
        self._running.append((name, call))
        self._follower.resting = call is not None and call.is_step

    def _after(self, name: str, module: nn.Module, args: Any, named: Any, output: Any) -> None:
        if self._running and self._running[-1][0] == name:
            with self._follower.set(resting=True):
                self._record(module, (args, named), output)
            self._follower.resting = False

    def _record(self, module: nn.Module, given: Any, output: Any) -> None:
        made = [one for around in self._inner() for one in around.leave(self._follower, output)]
        name, call = self._running.pop()
        front = f"{name}." if name else ""
        if call is not None and call.is_step:
            made += call.record(self._follower, output)
        self.mixed += made
        if len(made) == 1:
            self.places[made[0].name] = name, self._calls[name]
        elif not made and not any(path == name or path.startswith(front) for path in self._mixers):
            found = closed(self._follower, name, module, given, output)
            self.closed += [] if found is None else [(name, found)]
        if not isinstance(module, nn.Dropout | nn.Identity):
            for part in tensors_in(output):
                step = self._follower.find(part)
                if isinstance(step, Step):
                    self.names[step] = name
        if name == self.blocks[-1] and not self.is_complete:
            self._add_stream(f"after {name}", output)
        if not name:
            self.logits = put_out(output)
            self.has_head = not isinstance(output, Mapping) or output.get("logits") is not None
            output = self._follower.find(self.logits)
            self.output = output if isinstance(output, Step) else None

    def _inner(self) -> Iterator[MixerCall]:
        """The mixers that are parts of modules which run now."""
        return (call for _, call in self._running if call is not None and not call.is_step)

    def _add_stream(self, where: str, given: Any) -> None:
        """Add the residual stream at this place, which must be a step."""
        stream = first_numbers(given)
        if stream is None or stream.ndim < 3:
            shape = "no tensor" if stream is None else f"a tensor of shape {tuple(stream.shape)}"
            raise UnreadableError(
                f"stack: {where} the residual stream must have the axes 'sample time width', but "
                f"there is {shape}. Call the model with a batch of sequences."
            )
        if not self.states:
            self._follower.add(stream)
        step = self._follower.find(stream)
        if not isinstance(step, Step):
            why = "" if step is None else step
            reason = f"because of '{why}'" if why else "at all"
            if why in TIME_FIRST:
                reason += ", which has tokens on its first axis unless it is built batch_first=True"
            raise UnreadableError(
                f"stack: {where} the residual stream does not depend linearly on the one before it "
                f"{reason}, so the operations between the mixers cannot be followed. Single layers "
                "can be read: dsf.inspect(...)[k].whole."
            )
        self.states.append(step)
        self.streams.append(stream.detach().clone())

    def result(self, added: Mapping[str, Tensor], stream: int | None = None) -> Tensor:
        """Run again with tensors added to outputs of mixers; return the logits, or a stream."""
        wanted = {(*self.places[name], "out"): part for name, part in added.items()}
        ports = [(block, 1, "in") for block in self.blocks] + [(self.blocks[-1], 1, "out")]
        streams: list[Tensor] = []

        def meet(node: Node, value: Tensor) -> Tensor | None:
            port = node.path, node.call + 1, node.port.partition(" ")[0]
            part = wanted.pop(port, None)  # of its first tensor
            changed = value if part is None else value + part
            if stream is not None and port == ports[stream]:
                streams.append(changed)
            return None if part is None else changed

        with Walk(self._model, (), meet).watching():
            result = put_out(self._run())
        found = result if stream is None else streams[0]
        assert found is not None  # noqa: S101  # the run that was recorded had it
        return found
