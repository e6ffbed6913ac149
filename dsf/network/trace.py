"""One run of a model, written down from the first block to behind the last."""

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
from dsf.network.linear_parts import smallest, tensors_in
from dsf.network.stream_follower import Follower, Frozen, step_of

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
        if isinstance(source, Frozen) and source.as_step is None:
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


SAME_TOKEN = 1e-10


@dataclass(frozen=True, eq=False)
class Closed:
    """A module as the smallest matrix that does to each token what it did.

    Attributes:
        args, named: what it was called with: one stream, and things that are no tensors.
        output: what it put out.
    """

    name: str
    module: nn.Module
    args: tuple[Any, ...]
    named: dict[str, Any]
    output: Tensor

    def check(self) -> None:
        """No token's output may depend on another token.

        Of any two tokens some run keeps one and changes the other: they differ in a digit of their
        places.

        Raises:
            UnreadableError: if one does.
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
                f"stack: {self.name} mixes tokens, and it is no mixer that was read. Write an "
                "adapter for it, and pass it to stack as adapters=(MINE,)."
            )


def closed(
    follower: Follower, name: str, module: nn.Module, arguments: Any, output: Any
) -> Closed | None:
    """The module closed, if its output has no step though it had one stream to start from."""
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
    """The run as steps.

    Attributes:
        states: the stream in front of every block, and behind the last.
        streams: what they were.
        closed: modules that went in as the smallest map that does what they did.
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
        self._model, self._blocks, self._mixers = model, list(blocks), mixers
        self._follower = Follower()
        self._running: list[tuple[str, MixerCall]] = []

    @contextmanager
    def following(self) -> Iterator[None]:
        """Write down what the model does while the block runs."""
        with ExitStack() as hooks:
            for name, module in self._model.named_modules():
                if isinstance(module, torch.jit.ScriptModule):
                    continue
                before = module.register_forward_pre_hook(self._before(name), with_kwargs=True)
                after = module.register_forward_hook(self._after(name), with_kwargs=True)
                hooks.callback(before.remove)
                hooks.callback(after.remove)
            hooks.enter_context(self._follower)
            yield

    @property
    def is_complete(self) -> bool:
        """Whether the last block is through."""
        return len(self.states) > len(self._blocks)

    def _before(self, name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            if self._follower.resting:
                return
            with self._follower.paused():
                if name in self._blocks:
                    self._at_border(f"in front of {name}", (args, named))
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
                    call.written_down(self._follower, output)
                elif not self._holds_a_mixer(name):
                    found = closed(self._follower, name, module, (args, named), output)
                    self.closed += [] if found is None else [found]
                if name == self._blocks[-1]:
                    self._at_border(f"behind {name}", output)
            self._follower.resting = self.is_complete

        return hook

    def _holds_a_mixer(self, name: str) -> bool:
        return any(path == name or path.startswith(f"{name}.") for path in self._mixers)

    def _at_border(self, where: str, given: Any) -> None:
        """The stream there, which has to be a step."""
        stream = next((part for part in tensors_in(given) if part.is_floating_point()), None)
        if stream is None or stream.ndim < 3:
            shape = "nothing" if stream is None else f"the shape {tuple(stream.shape)}"
            raise UnreadableError(
                f"stack: {where} the stream must be 'sample time width', but there is {shape}. "
                "Give the model a batch of sequences."
            )
        what = self._follower.find(stream) if self.states else self._follower.add(stream)
        if what is None or (isinstance(what, Frozen) and what.as_step is None):
            reason = f"because of '{what.why}'" if isinstance(what, Frozen) else "at all"
            raise UnreadableError(
                f"stack: {where} the stream is not linear in the one before {reason}; what stands "
                "between the mixers is not understood. Single layers can be read: layer.whole."
            )
        self.states.append(step_of(what))
        self.streams.append(stream.detach().clone())
