"""Records one run of a model as affine steps, from the first block to the output of the model.

``Follower`` follows the residual stream one torch function at a time. ``Trace`` hooks all modules:
the call of a token mixer is one step, that of its inspected whole layer; a module that cannot be
followed but treats every token by itself is frozen (``ClosedModule``).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count, groupby, takewhile
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from dsf.attribution.affine_steps import (
    ACTIVATIONS,
    ADDING,
    BLANK,
    DIVIDING,
    LAYOUT,
    MIXING,
    MULTIPLYING,
    NORMS,
    OF_THE_FIRST,
    SAME,
    SYNONYMS,
    Addition,
    Linear,
    Step,
    name_of,
    pieces,
    replayed,
    secant,
    smallest,
    tensors_in,
    unless_zero,
    writing,
)
from dsf.attribution.targets import put_out
from dsf.inspection.capture.calls import copied
from dsf.inspection.capture.containers import times_written
from dsf.inspection.errors import InspectionError, ReconstructionError, UnreadableError
from dsf.inspection.results.layers import InspectedLayer
from dsf.inspection.whole.affine_layer import AffineLayer

Function = Callable[..., Any]
Layers = tuple[InspectedLayer, ...]

SAME_TOKEN_TOL = 1e-10
"""Maximum relative change of a token's output when other tokens are changed."""
SAME_RUN_TOL = 1e-10
"""Maximum relative difference between two runs of one model in float64."""
TIME_FIRST = ("gru", "lstm", "rnn_tanh", "rnn_relu", "multi_head_attention_forward")
"""Functions of torch's layers, which are followed where the first axis counts samples."""


@dataclass(frozen=True, eq=False)
class Frozen:
    """A value that depends on the stream nonlinearly and is frozen at its value on this run.

    Attributes:
        why: the function that is not linear.
    """

    why: str


FollowedTensor = tuple[Tensor, Step | Frozen]


class Follower(TorchFunctionMode):
    """Records the torch functions that are applied to the tensors it follows.

    Attributes:
        resting: while True, nothing is recorded.
        names: for steps whose result is the output of a module, its path.
    """

    def __init__(self) -> None:
        super().__init__()
        self.resting = False
        self._numbers = count()
        # Weak, so that what the model throws away does not stay in memory.
        self._followed: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self.names: dict[Step, str] = {}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not record what is computed inside the ``with`` block."""
        before, self.resting = self.resting, True
        try:
            yield
        finally:
            self.resting = before

    def add(
        self,
        output: Tensor,
        sources: Sequence[Step] = (),
        linear: Callable[..., Tensor] | None = None,
        rest: Tensor | None = None,
        *,
        is_gate: bool = False,
    ) -> Step:
        """Follow ``output`` as ``linear(*sources) + rest``; without sources as the first stream."""
        step = Step(next(self._numbers), output.shape, tuple(sources), linear, rest, is_gate)
        self.follow(output, step)
        return step

    def follow(self, tensor: Tensor, what: Step | Frozen) -> None:
        """From now on follow ``tensor`` as ``what``."""
        self._followed[tensor] = what

    def forget(self) -> None:
        """Follow nothing any more: frozen values keep their tensors and this follower alive."""
        self._followed.clear()

    def find(self, part: Any) -> Step | Frozen | None:
        """What ``part`` is followed as; None if it does not depend on the stream."""
        found: Step | Frozen | None = self._followed.get(part) if isinstance(part, Tensor) else None
        return found

    def __torch_function__(
        self,
        func: Function,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        found: dict[int, FollowedTensor] = {}
        if not self.resting and self._followed:
            for part in tensors_in((args, kwargs)):
                if (what := self.find(part)) is not None:
                    found[id(part)] = part, what
        into = args[0] if found and args and isinstance(args[0], Tensor) else None
        before = None if into is None else times_written(into)
        output = func(*args, **kwargs)
        if found:
            self._record(func, args, kwargs, output, list(found.values()))
            if into is not None and times_written(into) != before:
                self._written_through(into, name_of(func))
        return output

    def _record(
        self,
        func: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
        found: list[FollowedTensor],
    ) -> None:
        name = SYNONYMS.get(name_of(func), name_of(func))
        if name in BLANK:
            return
        if name in OF_THE_FIRST and args:  # of others it takes the shape or the number type
            found = [known for known in found if known[0] is args[0]]
        if not found:
            return
        given, first = found[0]
        leads = bool(args) and args[0] is given
        if (out := kwargs.get("out")) is not None:
            for each in tensors_in(out):
                self.follow(each, Frozen(name))
                self._written_through(each, name)
        elif name == "setitem":
            self._write(*args)
        elif name in SAME and leads and isinstance(output, Tensor):
            self.follow(output, first)
        elif _is_activation(name, args) and leads and isinstance(first, Step):
            self.add(output, (first,), secant(output, given), is_gate=True)
        elif name in NORMS and leads and len(found) == 1 and isinstance(first, Step):
            self.add(output, (first,), *NORMS[name](*args, **kwargs))
        elif (streams := _streams(name, args, found, leads=leads)) is not None:
            sources = [step for _, step in streams]
            tensors = [part for part, _ in streams]
            self._add_all(pieces(replayed(name, func), args, kwargs, output, tensors), sources)
        else:
            reasons = [what.why for _, what in found if isinstance(what, Frozen)]
            for each in tensors_in(output):
                self.follow(each, Frozen(reasons[0] if reasons else name))

    def _add_all(
        self, pieces: Iterable[tuple[Tensor, Linear, Tensor | None]], sources: Sequence[Step]
    ) -> None:
        """Follow tensors that are affine in the same steps, which may all be gates."""
        is_gate = all(step.is_gate for step in sources)
        for output, linear, rest in pieces:
            self.add(output, sources, linear, rest, is_gate=is_gate)

    def _written_through(self, view: Tensor, name: str) -> None:
        """What a view was made of holds from now on what was written into the view."""
        if view._base is not None:
            self.follow(view._base, Frozen(name))

    def _write(self, whole: Tensor, index: Any, value: Any) -> None:
        """Follow a tensor into which ``value`` has just been written."""
        followed = [self.find(part) for part in (whole, value)]
        known = all(part is None or isinstance(part, Step) for part in followed)
        by_stream = any(self.find(part) is not None for part in tensors_in(index))
        into, of = (part is not None for part in followed)
        written = writing(whole, index, value, (into, of)) if known and not by_stream else None
        if written is None:
            self.follow(whole, Frozen("setitem"))
            return
        sources = [part for part in followed if isinstance(part, Step)]
        self._add_all([(whole, *written)], sources)


def _is_activation(name: str, args: tuple[Any, ...]) -> bool:
    """Whether ``name`` is elementwise and zero at zero, as powers with exponents from 1 are."""
    power = args[1] if name == "pow" and len(args) == 2 else None
    return name in ACTIVATIONS or (isinstance(power, int | float) and power >= 1)


def _streams(
    name: str, args: tuple[Any, ...], found: list[FollowedTensor], *, leads: bool
) -> list[tuple[Tensor, Step]] | None:
    """The tensors in which the function ``name`` is linear; None if it is not.

    A product is linear in one of its factors while the other, such as a gate, is frozen.
    """
    steps = [(part, what) for part, what in found if isinstance(what, Step)]
    if name in ADDING:
        return steps if len(steps) == len(found) else None
    if name in LAYOUT:
        return steps if leads and len(steps) == len(found) == 1 else None
    if name in MIXING:
        return [known for known in steps if len(args) > 2 and known[0] is args[2]] or None
    if name in DIVIDING and not leads:
        return None
    if name in MULTIPLYING or name in DIVIDING:
        chosen = [(part, step) for part, step in steps if not step.is_gate] or steps
        leading = name not in DIVIDING or (bool(chosen) and chosen[0][0] is args[0])
        return chosen if len(chosen) == 1 and leading else None
    return None


@dataclass(frozen=True, eq=False)
class ClosedModule:
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
        if (
            before.numel()
            and not (again - before).abs().max() <= SAME_TOKEN_TOL * before.abs().max()
        ):
            raise UnreadableError(
                f"stack: {self.name} mixes tokens, but no adapter read it as a token mixer. Write "
                "an adapter for it, and pass it as stack(model, ..., adapters=(MINE,))."
            )


def closed(
    follower: Follower, name: str, module: nn.Module, arguments: Any, output: Any
) -> ClosedModule | None:
    """Freeze a module if its one stream is a step and its output cannot be followed."""
    put_out, given = next(tensors_in(output), None), list(tensors_in(arguments))
    what = follower.find(put_out)
    if put_out is None or not isinstance(what, Frozen) or len(given) != 1 or given[0].ndim != 3:
        return None
    source = follower.find(given[0])
    if not isinstance(source, Step) or source.is_gate or given[0].shape != put_out.shape:
        return None
    args, named = arguments
    kept_output = copied(put_out)
    follower.add(put_out, (source,), *smallest(kept_output, copied(given[0])))
    return ClosedModule(name, module, copied(args), copied(named), kept_output)


@dataclass(frozen=True, eq=False)
class MixerStep:
    """One call of a token mixer as a step of the run.

    Attributes:
        name: the name of the layer in its inspection.
        layer: the layer.
        whole: the layer as an affine function of its input.
        step: the step whose result is the output of the layer, without a stream that it adds.
        source: the step whose result it takes.
        shown: the tokens that have keys, ``sample time 1``; None for all. The output of the layer
            at the others is a constant.
    """

    name: str
    layer: InspectedLayer
    whole: AffineLayer
    step: Step
    source: Step
    shown: Bool[Tensor, "sample time 1"] | None = None

    @classmethod
    def of(
        cls,
        follower: Follower,
        layer: InspectedLayer,
        whole: AffineLayer,
        source: Step,
        own: Tensor,
    ) -> "MixerStep":
        """Record a whole layer as the step from ``source`` to its output ``own``."""
        shown = tokens_with_keys(layer)
        if shown is None:
            rest = None if whole.is_linear else unless_zero(whole.remainder)
        else:
            rest = torch.where(shown, whole.remainder, own)
        step = follower.add(own, (source,), Mixing(whole, shown), rest)
        return cls(layer.name, layer, whole, step, source, shown)


@dataclass(frozen=True, eq=False)
class Mixing:
    """A whole layer without its constants, for the tokens that have keys."""

    whole: AffineLayer
    shown: Bool[Tensor, "sample time 1"] | None

    def __call__(self, x: Tensor) -> Tensor:
        mixed = self.whole.linear(x)
        return mixed if self.shown is None else mixed * self.shown

    def adjoint(self, cotangent: Tensor) -> Tensor:
        return self.whole.adjoint(cotangent if self.shown is None else cotangent * self.shown)


class MixerCall:
    """One call of a module whose output is that of whole layers, while it runs.

    Several are layers on one another, or directions side by side: those with the same input are
    side by side, and their outputs, joined, are the input of the next. Which ones these are is
    found by their numbers.
    """

    def __init__(
        self, mixers: Sequence[tuple[InspectedLayer, AffineLayer]], given: Tensor, arguments: Any
    ):
        self._mixers, self._given = mixers, given
        self._streams = _numbers_in(arguments)
        self._limit = max(_tolerance(layer) for layer, _ in mixers)

    def record(self, follower: Follower, output: Any) -> list[MixerStep]:
        """Record the output of the module, which has returned, as steps; none without a stream.

        Raises:
            ReconstructionError: if the output differs from that of the inspected layers.
        """
        put_out = next(tensors_in(output))
        step = follower.find(self._given)
        if isinstance(step, Frozen):
            follower.follow(put_out, step)
        if not isinstance(step, Step):
            return []
        if len(self._mixers) == 1:
            return [self._alone(follower, step, put_out)]
        made: list[MixerStep] = []
        joined = self._given
        while len(made) < len(self._mixers):
            waiting = self._mixers[len(made) :]
            same = takewhile(partial(self._takes, joined), waiting)
            parallel = [
                MixerStep.of(follower, layer, whole, step, result_of(whole))
                for layer, whole in same
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

    def _takes(self, given: Tensor, mixer: tuple[InspectedLayer, AffineLayer]) -> bool:
        return _near(given, mixer[1].given, self._limit)

    def _alone(self, follower: Follower, source: Step, put_out: Tensor) -> MixerStep:
        """The step of the only mixer, to whose output the module itself may add a stream."""
        ((layer, whole),) = self._mixers
        mixed = result_of(whole)
        if is_output(layer, mixed, put_out):
            return MixerStep.of(follower, layer, whole, source, put_out)
        shaped = (part for part in self._streams if part.shape == put_out.shape)
        added = next((part for part in shaped if is_output(layer, mixed + part, put_out)), None)
        if added is None:
            raise _differs(layer.name)
        made = MixerStep.of(follower, layer, whole, source, put_out - added)
        stream = follower.find(added)
        if stream is None:
            follower.add(put_out, (made.step,), lambda x: x, added)
        elif isinstance(stream, Step):
            follower.add(put_out, (made.step, stream), Addition())
        else:
            follower.follow(put_out, stream)
        return made


class InnerMixer:
    """One call of a token mixer that is only a part of its module, while the module runs.

    Its values come from inside, such as a latent vector of every token, or the module uses
    its output, such as a norm. Both ends are found by their numbers, at the calls of the modules
    inside, and the operations around them are followed like all others.
    """

    def __init__(self, layer: InspectedLayer, whole: AffineLayer):
        self._layer, self._whole = layer, whole
        self._source: Step | None = None
        self._is_recorded = False

    def given(self, follower: Follower, arguments: Any) -> None:
        """Note from which step the mixer is made, if a module inside is given its input."""
        if self._source is not None:
            return
        wanted = self._whole.given
        for part in _numbers_in(arguments):
            if part.shape[-1:] != wanted.shape[-1:] or part.numel() != wanted.numel():
                continue
            laid_out = part.reshape(wanted.shape)
            if not _near(laid_out, wanted, _tolerance(self._layer)):
                continue
            source = follower.find(part)
            if not isinstance(source, Step):
                return
            self._source = source
            if part.shape != wanted.shape:
                lay_out = partial(_laid_out, part.ndim, wanted.shape)
                self._source = follower.add(laid_out, (source,), lay_out)
            return

    def put_out(self, follower: Follower, output: Any) -> list[MixerStep]:
        """Record the output of a module as a step, if it is that of the mixer."""
        part = next(tensors_in(output), None)
        if part is None or self._source is None or self._is_recorded:
            return []
        self._is_recorded = is_output(self._layer, result_of(self._whole), part)
        if not self._is_recorded:
            return []
        return [MixerStep.of(follower, self._layer, self._whole, self._source, part)]


def _laid_out(axes: int, shape: torch.Size, x: Tensor) -> Tensor:
    return x.reshape(*x.shape[: x.ndim - axes], *shape)


def mixer_call(layers: Layers, arguments: Any) -> MixerCall | InnerMixer | None:
    """Return one call of a module in which these layers ran.

    None if a whole layer is not known: the operations inside the module are then followed.
    """
    found = []
    for layer in layers:
        try:
            found.append((layer, layer.with_stages))
        except ReconstructionError:
            raise
        except InspectionError:
            return None
    layer, whole = found[0]
    limit = max(_tolerance(each) for each in layers)
    parts = (part for part in _numbers_in(arguments) if _near(part, whole.given, limit))
    given = next(parts, None)
    if given is not None and (len(found) > 1 or whole.is_all):
        return MixerCall(found, given, arguments)
    return InnerMixer(layer, whole) if len(found) == 1 else None


def calls_by_module(layers: Sequence[InspectedLayer]) -> dict[str, Iterator[Layers]]:
    """Return the layers that ran in each module, by its path: those of every call, in order."""
    found: dict[str, list[Layers]] = {}
    for (path, _), several in groupby(layers, key=call_of):
        found.setdefault(path, []).append(tuple(several))
    return {path: iter(several) for path, several in found.items()}


def call_of(layer: InspectedLayer) -> tuple[str, str]:
    """Return the path of a layer's module, and which of its calls it is."""
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
    return max(SAME_RUN_TOL, 10 * layer.tolerance)


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


class Trace:
    """A run recorded as steps.

    Args:
        blocks: the paths of the blocks, in order.
        layers: the inspected layers of the model on the same input.

    Attributes:
        states: the steps that give the input of every block and the output of the last.
        streams: their values.
        closed: modules that are frozen as one matrix for every token.
        mixed: the calls of token mixers that are known as whole layers.
        logits: the output of the model: its logits, or the first tensor.
        output: the step whose result these are; None if they do not depend linearly on the streams.
        places: by the name of a mixer, the module whose output is its own, and in which call.
        results: of steps that are the output of a module, with the shape of the streams.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[str], layers: Sequence[InspectedLayer]):
        self.states: list[Step] = []
        self.streams: list[Tensor] = []
        self.closed: list[ClosedModule] = []
        self.mixed: list[MixerStep] = []
        self.logits: Tensor | None = None
        self.has_head = True
        self.output: Step | None = None
        self.places: dict[str, tuple[str, int]] = {}
        self.results: dict[Step, Tensor] = {}
        self.blocks = list(blocks)
        self._model, self._mixers = model, calls_by_module(layers)
        self._follower = Follower()
        self._running: list[tuple[str, MixerCall | InnerMixer | None]] = []  # and its own call
        self._calls: Counter[str] = Counter()

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
        for mixed in self.mixed:  # their layers have the same numbers, which are not held twice
            self.results |= {mixed.source: mixed.whole.given, mixed.step: result_of(mixed.whole)}

    @property
    def is_complete(self) -> bool:
        """Whether the last block has returned."""
        return len(self.states) > len(self.blocks)

    @property
    def names(self) -> dict[Step, str]:
        """For steps whose result is the output of a module, its path."""
        return self._follower.names

    def _before(self, name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            self._calls[name] += 1
            if self._follower.resting:
                return
            call = None
            with self._follower.paused():
                if name in self.blocks and not self.is_complete:
                    self._add_stream(f"before {name}", (args, named))
                if self.states:
                    for around in self._inner():
                        around.given(self._follower, (args, named))
                    if layers := next(self._mixers.get(name, iter(())), ()):
                        call = mixer_call(layers, (args, named))
            self._running.append((name, call))
            self._follower.resting = isinstance(call, MixerCall)  # which is a step by itself

        return hook

    def _after(self, name: str) -> Any:
        def hook(
            module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any
        ) -> None:
            if not self._running or self._running[-1][0] != name:
                return
            self._follower.resting = False
            with self._follower.paused():
                self._record(module, (args, named), output)

        return hook

    def _record(self, module: nn.Module, given: Any, output: Any) -> None:
        """Record the output of the innermost module that runs."""
        made = [one for around in self._inner() for one in around.put_out(self._follower, output)]
        name, call = self._running.pop()
        front = f"{name}." if name else ""
        if isinstance(call, MixerCall):
            made += call.record(self._follower, output)
        self.mixed += made
        if len(made) == 1:
            self.places[made[0].name] = name, self._calls[name]
        elif not made and not any(path == name or path.startswith(front) for path in self._mixers):
            found = closed(self._follower, name, module, given, output)
            self.closed += [] if found is None else [found]
        if not isinstance(module, nn.Dropout | nn.Identity):
            for part in tensors_in(output):
                step = self._follower.find(part)
                if not isinstance(step, Step):
                    continue
                self._follower.names[step] = name
                is_kept = step in self.results or step.is_gate or not self.streams
                if not is_kept and part.shape == self.streams[0].shape:
                    self.results[step] = part.detach().clone()
        if name == self.blocks[-1] and not self.is_complete:
            self._add_stream(f"after {name}", output)
        if not name:
            self.logits = put_out(output)
            self.has_head = not isinstance(output, Mapping) or output.get("logits") is not None
            output = self._follower.find(self.logits)
            self.output = output if isinstance(output, Step) else None

    def _inner(self) -> Iterator[InnerMixer]:
        """The mixers that are parts of modules which run now."""
        return (call for _, call in self._running if isinstance(call, InnerMixer))

    def _add_stream(self, where: str, given: Any) -> None:
        """Add the residual stream at this place, which must be a step."""
        stream = next((part for part in tensors_in(given) if part.is_floating_point()), None)
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
            why = "" if step is None else step.why
            reason = f"because of '{why}'" if why else "at all"
            if why in TIME_FIRST:
                reason += ", which has tokens on its first axis unless it is built batch_first=True"
            raise UnreadableError(
                f"stack: {where} the residual stream does not depend linearly on the one before it "
                f"{reason}, so the operations between the mixers cannot be followed. Single layers "
                "can be read: dsf.inspect(...)[k].whole."
            )
        self.states.append(step)
        kept = self.results[step] if step in self.results else stream.detach().clone()
        self.streams.append(kept)


@dataclass(frozen=True, eq=False)
class LiveRun:
    """The model of a trace, which can be run again with changes to the outputs of its mixers.

    Attributes:
        run: runs the model on its input; gradients go through where they are enabled.
        model: the model.
        blocks: the paths of its blocks, in order.
        places: by the name of a mixer, the module whose output is its own, and in which call.
    """

    run: Callable[[], Any]
    model: nn.Module
    blocks: tuple[str, ...]
    places: Mapping[str, tuple[str, int]]

    def result(self, added: Mapping[str, Tensor], stream: int | None = None) -> Tensor:
        """Return the logits, or one residual stream.

        Args:
            added: by the names of mixers, what is added to their outputs.
            stream: stream ``k`` is the input of block ``k``, the last the output of the last block.
        """
        wanted = {self.places[name]: part for name, part in added.items()}
        calls: Counter[str] = Counter()
        streams: list[Tensor] = []

        def changed(path: str, output: Any) -> Any:
            calls[path] += 1
            part, own = wanted.get((path, calls[path])), next(tensors_in(output))
            if part is None:
                return None
            return tree_map(lambda leaf: own + part if leaf is own else leaf, output)

        def seen(given: Any) -> None:
            streams.append(next(part for part in tensors_in(given) if part.is_floating_point()))

        with ExitStack() as hooks:
            for path in {path for path, _ in wanted}:
                hook = self.model.get_submodule(path).register_forward_hook(
                    lambda _, __, output, path=path: changed(path, output)
                )
                hooks.callback(hook.remove)
            if stream == len(self.blocks):
                last = self.model.get_submodule(self.blocks[-1])
                hook = last.register_forward_hook(lambda _, __, output: seen(output))
                hooks.callback(hook.remove)
            elif stream is not None:
                hook = self.model.get_submodule(self.blocks[stream]).register_forward_pre_hook(
                    lambda _, args, named: seen((args, named)), with_kwargs=True
                )
                hooks.callback(hook.remove)
            result = put_out(self.run())
        found = result if stream is None else streams[0]
        assert found is not None  # noqa: S101  # the run that was recorded had it
        return found
